//! `contexts.toml`: named servers and credentials.
//!
//! ```toml
//! current = "prod"
//! [contexts.prod]
//! server = "https://chancery-1:18001,https://chancery-2:18001"
//! token_file = "/home/ana/.chancery-token"
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::Options;

/// The server of a command line that names none.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:18001";

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The context of a command line that names none.
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    server: String,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Contexts {
    /// From the text of the file.
    ///
    /// # Errors
    /// A sentence about the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// The options of a command line: its own flags, then those of the context. `name`: the context that the command
    /// line names.
    ///
    /// # Errors
    /// There is no context of the name.
    pub fn complete(&self, flags: Options, name: Option<&str>) -> Result<Options, String> {
        let name = match (name, flags.servers.is_empty()) {
            (Some(name), _) => Some(name),
            // A server on the command line is none of the current context: the token of that is not for it.
            (None, false) => None,
            (None, true) => self.current.as_deref(),
        };
        let context = name.map(|name| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            let missing = || format!("--context: found {name:?}, expected one of contexts.toml: {known}");
            self.contexts.get(name).cloned().ok_or_else(missing)
        });
        let context = context.transpose()?;
        let servers = match (flags.servers.is_empty(), &context) {
            (false, _) => flags.servers,
            (true, Some(context)) => split(&context.server),
            (true, None) => vec![DEFAULT_SERVER.to_owned()],
        };
        Ok(Options {
            servers,
            token_file: flags.token_file.or_else(|| context.as_ref()?.token_file.clone()),
            ca: flags.ca.or_else(|| context.as_ref()?.ca.clone()),
            cert: flags.cert.or_else(|| context.as_ref()?.cert.clone()),
            key: flags.key.or_else(|| context.as_ref()?.key.clone()),
        })
    }
}

/// The servers of a list.
#[must_use]
pub fn split(servers: &str) -> Vec<String> {
    let servers = servers.split(',').map(str::trim);
    servers.filter(|server| !server.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "current = \"prod\"\n[contexts.prod]\nserver = \"https://a,https://b\"\ntoken_file = \"t\"\n\
                        [contexts.dev]\nserver = \"unix:x\"\n";

    fn complete(servers: &[&str], context: Option<&str>) -> Result<(Vec<String>, bool), String> {
        let flags = Options {
            servers: servers.iter().map(ToString::to_string).collect(),
            ..Options::default()
        };
        let options = Contexts::parse(FILE)?.complete(flags, context)?;
        Ok((options.servers, options.token_file.is_some()))
    }

    #[test]
    fn flags_stand_before_the_context_and_the_context_before_the_default() {
        let of = |servers: &[&str], token| Ok((servers.iter().map(ToString::to_string).collect(), token));
        assert_eq!(complete(&[], None), of(&["https://a", "https://b"], true));
        assert_eq!(complete(&[], Some("dev")), of(&["unix:x"], false));
        assert_eq!(complete(&["http://c"], None), of(&["http://c"], false));
        assert_eq!(complete(&["http://c"], Some("prod")), of(&["http://c"], true));
        let reason = "--context: found \"test\", expected one of contexts.toml: dev, prod";
        assert_eq!(complete(&[], Some("test")), Err(reason.to_owned()));
        let none = Contexts::default().complete(Options::default(), None).unwrap();
        assert_eq!(none.servers, [DEFAULT_SERVER]);
    }
}
