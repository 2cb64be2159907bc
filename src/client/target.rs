//! The address of a server.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

/// A server of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    Url(Url),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl Target {
    /// From a URL, `HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// A sentence about another text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(path.into()));
        }
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let expected = "expected a URL such as http://127.0.0.1:18001, or unix:PATH";
        let url =
            Url::parse(&with_scheme).map_err(|error| format!("--server: found {text:?} ({error}), {expected}"))?;
        let is_plain =
            url.path() == "/" && url.query().is_none() && url.username().is_empty() && url.password().is_none();
        match url.scheme() {
            "http" | "https" if url.has_host() && is_plain => Ok(Self::Url(url)),
            _ => Err(format!("--server: found {text:?}, {expected}")),
        }
    }

    /// Whether the server speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Url(url) if url.scheme() == "https")
    }

    /// Whether nobody between here and the server reads what is sent.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let Self::Url(url) = self else { return true };
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
            None => false,
        };
        self.is_tls() || is_loopback
    }

    /// The Host header.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Url(url) => match (url.host_str(), url.port()) {
                (Some(host), Some(port)) => format!("{host}:{port}"),
                (host, _) => host.unwrap_or_default().to_owned(),
            },
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => formatter.write_str(url.as_str().trim_end_matches('/')),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_or_a_socket() {
        let shown = |text: &str| Target::parse(text).map(|target| (target.to_string(), target.host()));
        let of = |text: &str, host: &str| Ok((text.to_owned(), host.to_owned()));
        assert_eq!(shown("http://a.b:18001/"), of("http://a.b:18001", "a.b:18001"));
        assert_eq!(shown("[::1]:80"), of("http://[::1]", "[::1]"));
        assert_eq!(shown("unix:/run/c.sock"), of("unix:/run/c.sock", "localhost"));
        for bad in ["", "ftp://a", "http://a/b", "http://u:p@a", "http://"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_go_to_tls_and_this_machine_only() {
        let is_private = |text: &str| Target::parse(text).unwrap().is_private();
        for private in [
            "https://a.b",
            "http://127.0.0.1:1",
            "http://[::1]",
            "localhost:1",
            "unix:x",
        ] {
            assert!(is_private(private), "{private}");
        }
        for open in [
            "http://a.b",
            "http://10.0.0.1:1",
            "http://127.0.0.1.a.b",
            "http://localhost.a",
        ] {
            assert!(!is_private(open), "{open}");
        }
    }
}
