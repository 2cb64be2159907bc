//! Verbs that ask a server: their common flags, the forms of their results, and the end of a verb that fails.
//!
//! The form of a result never depends on whether stdout is a terminal: in a pipe the same table comes without colour and
//! without cuts. A failure is the sentence of the API on stderr, and the next command.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::Value;
use tokio::runtime::Builder;

use super::show::table::{Table, paragraph};
use super::{FAILED, TIMED_OUT, UNREACHABLE, WRONG_USAGE, complain, print};
use crate::client::contexts::{Contexts, split};
use crate::client::{Answer, Call, Client, Error, Options, Problem};
use crate::config::{CLIENT_SERVER, process_variable};

/// Heading of the flags that all these verbs have.
const HEADING: &str = "The server and the form of the result";
/// The width of a terminal that does not say its own.
const WIDTH: usize = 100;
/// Least width that a table is cut to.
const LEAST_WIDTH: usize = 40;

/// The flags of each verb that asks a server.
pub(super) fn arguments() -> Vec<Arg> {
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    let all = [
        Arg::new("server").long("server").value_name("URL[,URL]").help(
            "Servers, asked in this order: URLs or unix:PATH [env: CHANCERY_SERVER] [default: http://127.0.0.1:18001]",
        ),
        Arg::new("context")
            .long("context")
            .value_name("NAME")
            .help("A context of ~/.config/chancery/contexts.toml: its server, token and certificates"),
        path(
            "token-file",
            "A file with a bearer token; sent to https, loopback and Unix sockets only",
        ),
        path("ca", "CAs of the server's certificate, in PEM"),
        path("cert", "Client certificate, in PEM"),
        path("key", "Key of the client certificate, in PEM"),
        Arg::new("output")
            .short('o')
            .long("output")
            .value_name("FORM")
            .value_parser(["table", "wide", "json", "yaml", "name"])
            .default_value("table")
            .help("Form of the result"),
        Arg::new("quiet")
            .short('q')
            .long("quiet")
            .action(ArgAction::SetTrue)
            .help("Print no result; the exit code says it"),
        Arg::new("width")
            .long("width")
            .value_name("COLUMNS")
            .value_parser(value_parser!(u16).range(20..))
            .help("Cut tables to this width [default: that of the terminal; in a pipe tables are not cut]"),
    ];
    all.into_iter().map(|arg| arg.help_heading(HEADING)).collect()
}

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// A verb's connection to the servers, and the form of its result.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) form: Form,
    quiet: bool,
    width: Option<usize>,
}

/// The end of a verb that fails.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line cannot be used.
    Usage(String),
    /// No server was reached.
    Unreachable(String),
    /// A server refused.
    Refused(Box<Problem>),
    /// Something else failed, with the next command.
    Failed(String, Option<String>),
    /// The time for waiting is over.
    TimedOut(String),
    /// The result, which is shown already, says why.
    Shown,
}

impl Failure {
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into(), None)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(reason) => Self::Usage(reason),
            Error::Unreachable(reason) => Self::Unreachable(reason),
            Error::Refused(problem) => Self::Refused(problem),
        }
    }
}

/// The result of a verb in its forms.
pub(super) struct Shown {
    /// For `json` and `yaml`.
    pub(super) value: Value,
    /// For `table` and `wide`: lines, tables and lines again.
    pub(super) parts: Vec<Part>,
    /// For `name`.
    pub(super) names: Vec<String>,
}

/// A part of a result for people.
pub(super) enum Part {
    Text(String),
    /// A line that is wrapped at the width of tables.
    Sentence(String),
    Table(Table),
}

impl Shown {
    /// A result that is a sentence.
    pub(super) fn sentence(value: Value, sentence: impl Into<String>) -> Self {
        Self {
            value,
            parts: vec![Part::Text(sentence.into())],
            names: Vec::new(),
        }
    }

    /// A result that is a table.
    pub(super) fn table(value: Value, table: Table, names: Vec<String>) -> Self {
        Self {
            value,
            parts: vec![Part::Table(table)],
            names,
        }
    }
}

impl Session {
    fn new(matches: &ArgMatches) -> Result<Self, Failure> {
        let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
        let context = matches.get_one::<String>("context").map(String::as_str);
        let flags = Options {
            servers: match (matches.get_one::<String>("server"), context) {
                (Some(servers), _) => split(servers),
                // A context on the command line stands before a variable.
                (None, Some(_)) => Vec::new(),
                (None, None) => process_variable(CLIENT_SERVER)
                    .map(|servers| split(&servers))
                    .unwrap_or_default(),
            },
            token_file: file("token-file"),
            ca: file("ca"),
            cert: file("cert"),
            key: file("key"),
        };
        let options = contexts()?.complete(flags, context).map_err(Failure::Usage)?;
        let form = match matches.get_one::<String>("output").map(String::as_str) {
            Some("wide") => Form::Wide,
            Some("json") => Form::Json,
            Some("yaml") => Form::Yaml,
            Some("name") => Form::Name,
            _ => Form::Table,
        };
        let width = matches.get_one::<u16>("width").map(|width| usize::from(*width));
        Ok(Self {
            client: Client::new(&options)?,
            form,
            quiet: matches.get_flag("quiet"),
            width: width.or_else(terminal_width),
        })
    }

    pub(super) async fn call(&self, call: Call) -> Result<Answer, Failure> {
        Ok(self.client.call(call).await?)
    }

    pub(super) async fn get(&self, path: impl Into<String>) -> Result<Answer, Failure> {
        self.call(Call::get(path)).await
    }

    /// All pages of a list; the answer has the whole list.
    pub(super) async fn pages(&self, path: &str, list: &str) -> Result<Answer, Failure> {
        let mut whole = self.get(path).await?;
        while let Some(next) = whole.body["next"].as_str().map(str::to_owned) {
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut page = self.get(format!("{path}{separator}after={}", encoded(&next))).await?;
            let items = page.body[list].take();
            whole.body["next"] = page.body["next"].take();
            if let (Value::Array(all), Value::Array(items)) = (&mut whole.body[list], items) {
                all.extend(items);
            }
        }
        if let Value::Object(fields) = &mut whole.body {
            fields.remove("next");
        }
        Ok(whole)
    }

    pub(super) fn is_wide(&self) -> bool {
        self.form == Form::Wide
    }

    /// Whether the result is for people, and printed.
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self.form, Form::Table | Form::Wide) && !self.quiet
    }

    /// The width that tables are cut to.
    pub(super) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Print the result of a verb.
    pub(super) fn show(&self, shown: &Shown) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        match self.form {
            Form::Json => print(without_controls(&shown.value)),
            Form::Yaml => {
                let yaml = serde_saphyr::to_string(&shown.value).map_err(|error| Failure::failed(error.to_string()))?;
                print(yaml.trim_end());
            }
            Form::Name => shown
                .names
                .iter()
                .for_each(|name| print(crate::telemetry::escaped(name))),
            Form::Table | Form::Wide => {
                for part in &shown.parts {
                    match part {
                        Part::Text(text) => print(escaped_lines(text)),
                        Part::Sentence(text) => print(paragraph(&crate::telemetry::escaped(text), self.width)),
                        Part::Table(table) if table.is_empty() => {}
                        Part::Table(table) => print(table.render(self.width)),
                    }
                }
            }
        }
        Ok(())
    }

    /// The session with another client.
    pub(super) fn with(&self, client: Client) -> Self {
        Self { client, ..*self }
    }
}

/// JSON without control characters.
fn without_controls(value: &Value) -> String {
    let text = format!("{value:#}");
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() && letter != '\n' {
            true => shown.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => shown.push(letter),
        }
    }
    shown
}

fn escaped_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(crate::telemetry::escaped).collect();
    lines.join("\n")
}

/// The width of the terminal; `None`: stdout is none.
fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
    Some(width.max(LEAST_WIDTH))
}

fn contexts() -> Result<Contexts, Failure> {
    let variable = |name: &str| process_variable(name).map(PathBuf::from);
    let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let Some(path) = folder.map(|folder| folder.join("chancery/contexts.toml")) else {
        return Ok(Contexts::default());
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Contexts::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
        Err(error) => Err(Failure::Usage(format!("read {}: {error}", path.display()))),
    }
}

/// A name as a segment of a path or as a value of a query.
pub(super) fn encoded(text: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    percent_encoding::utf8_percent_encode(text, PLAIN).to_string()
}

/// The path of a document's endpoint: slashes of the name as they are.
pub(super) fn document_path(key: &str) -> String {
    let segments: Vec<String> = key.split('/').map(encoded).collect();
    format!("/api/v1/documents/{}", segments.join("/"))
}

/// The cause in a message of Envoy: without the words that name the resource, which a document stands for.
pub(super) fn cause(message: &str) -> &str {
    let named = message.strip_prefix("Error adding/updating ");
    let cause = named.and_then(|named| named.split_once(": "));
    cause.map_or(message, |(_, cause)| cause)
}

/// The text of a field; empty if there is none.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// KIND/NAME of a full key, or of KIND/NAME itself.
pub(super) fn short_key(entry: &Value) -> String {
    let (kind, name) = (entry["kind"].as_str(), entry["name"].as_str());
    match (kind, name) {
        (Some(kind), Some("")) => kind.to_owned(),
        (Some(kind), Some(name)) => format!("{kind}/{name}"),
        _ => short(entry["key"].as_str().unwrap_or_default()),
    }
}

/// KIND/NAME of a full key below any prefix.
pub(super) fn short(full_key: &str) -> String {
    let parts: Vec<&str> = full_key.split('/').collect();
    let is_kind = |part: &&str| crate::document::key::Kind::from_word(part).is_some();
    let start = parts.iter().position(is_kind).unwrap_or(0);
    parts[start..].join("/")
}

/// Run a verb.
pub(super) fn run<F>(matches: &ArgMatches, verb: impl FnOnce(Session) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Failure>>,
{
    let ended = Session::new(matches).and_then(|session| {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(error.to_string()))?;
        let ended = runtime.block_on(verb(session));
        runtime.shutdown_timeout(Duration::ZERO);
        ended
    });
    end(ended)
}

/// The exit code of a verb; its failure goes to stderr.
pub(super) fn end(ended: Result<(), Failure>) -> ExitCode {
    let (code, reason, next) = match ended {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(reason)) => (WRONG_USAGE, reason, None),
        Err(Failure::Unreachable(reason)) => {
            let next = "chancery --help (--server, CHANCERY_SERVER, --context)".to_owned();
            (UNREACHABLE, reason, Some(next))
        }
        Err(Failure::Failed(reason, next)) => (FAILED, reason, next),
        Err(Failure::TimedOut(reason)) => (TIMED_OUT, reason, Some("chancery ps --state '!live'".to_owned())),
        Err(Failure::Shown) => return ExitCode::from(FAILED),
        Err(Failure::Refused(problem)) => {
            let next = next_command(&problem);
            (FAILED, sentences(&problem), next)
        }
    };
    complain(reason);
    if let Some(next) = next {
        super::hint(next);
    }
    ExitCode::from(code)
}

/// The sentence of a problem; of several documents, one a line.
fn sentences(problem: &Problem) -> String {
    match problem.errors.as_slice() {
        [] | [_] => problem.detail.clone(),
        several => {
            let lines = several.iter().map(|(detail, ..)| format!("  {detail}"));
            let head = format!("{} mistakes:", several.len());
            std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
        }
    }
}

/// The command that leads on from an error.
fn next_command(problem: &Problem) -> Option<String> {
    let key = problem.key.as_deref().map(short);
    let of_key = |command: &str| key.as_ref().map(|key| format!("{command} {key}"));
    match problem.code.as_str() {
        "not_found" => Some("chancery get".to_owned()),
        "precondition_failed" => of_key("chancery get"),
        "same_match" | "name_taken" => of_key("chancery get"),
        "in_use" => of_key("chancery delete --force"),
        "changed_since" => Some("chancery history KIND/NAME, then --only others, R..R2 or --force".to_owned()),
        "breaks_test" => Some("the same command with --force".to_owned()),
        "frozen" => Some("chancery freezes".to_owned()),
        "several_listeners" => Some("the same command with --listener NAME".to_owned()),
        "not_in_journal" | "unknown_revision" => Some("chancery history".to_owned()),
        "base_moved" => Some("chancery history, then the same command with a newer --if-base".to_owned()),
        "unknown_field" | "invalid_document" => {
            let kind = key.as_deref().and_then(|key| key.split('/').next())?;
            Some(format!("chancery schema -o table {kind}"))
        }
        _ if problem.is_retryable => Some("the same command again".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_key_has_no_prefix() {
        assert_eq!(short("/gateway/routes/orders/list"), "routes/orders/list");
        assert_eq!(short("/services/orders/a"), "services/orders/a");
        assert_eq!(short("/gateway/defaults"), "defaults");
        assert_eq!(short("/held/list/"), "/held/list/");
    }

    #[test]
    fn a_path_keeps_the_slashes_of_a_name() {
        assert_eq!(document_path("routes/a/b c%"), "/api/v1/documents/routes/a/b%20c%25");
    }

    #[test]
    fn the_cause_is_told_without_the_name_of_the_resource() {
        let message = "Error adding/updating listener(s) edge: cannot bind '0.0.0.0:443': Address already in use";
        assert_eq!(cause(message), "cannot bind '0.0.0.0:443': Address already in use");
        assert_eq!(cause("no such cluster: x"), "no such cluster: x");
    }

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let value = serde_json::json!({ "a": "\u{1b}[2J\u{9b}" });
        assert_eq!(without_controls(&value), "{\n  \"a\": \"\\u001b[2J\\u009b\"\n}");
        assert!(!escaped_lines("a\u{1b}[2J\nb").contains('\u{1b}'));
    }
}
