//! A request as Envoy sees it: the path normalised, Host without its port and final dot.

use std::borrow::Cow;

use crate::document::route::path::seen_by_envoy;

/// A request as sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`
    pub method: &'a str,
    /// The Host header, with or without a port.
    pub host: &'a str,
    /// The target: a path, with or without a query.
    pub target: &'a str,
    /// The other headers in their order, names in lower case; a name may occur several times.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A request after Envoy has normalised it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET`
    pub method: String,
    /// Host as domains are compared with it: in lower case, without port and final dot.
    pub host: String,
    /// Host as it goes on: as sent, without its final dot.
    pub authority: String,
    /// The path and the query.
    pub target: String,
    /// Headers without white space around their values, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The length of the path in `target`.
    path: usize,
}

impl Seen {
    /// `None`: Envoy answers 400.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Option<Self> {
        let (path, query) = seen_by_envoy(request.target)?;
        let value = |value: &str| value.trim_matches([' ', '\t']).to_owned();
        let headers = request.headers.iter();
        Some(Self {
            method: request.method.to_owned(),
            host: without_port(&without_dot(request.host)).to_ascii_lowercase(),
            authority: without_dot(request.host).into_owned(),
            target: format!("{path}{query}"),
            headers: headers.map(|(name, text)| ((*name).to_owned(), value(text))).collect(),
            path: path.len(),
        })
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.target[..self.path]
    }

    /// The query with its question mark; empty without one.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.target[self.path..]
    }

    /// The first value of a query parameter, as sent.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let parameters = self.query().strip_prefix('?').unwrap_or_default().split('&');
        let mut pairs = parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
        pairs.find_map(|(own, value)| (own == name).then_some(value))
    }
}

/// The domains of virtual hosts that take a host, the narrowest first.
pub fn domains(host: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let dots = host
        .char_indices()
        .filter(|(index, letter)| *index > 0 && *letter == '.');
    let wildcards = dots.map(|(index, _)| Cow::Owned(format!("*{}", &host[index..])));
    [Cow::Borrowed(host)]
        .into_iter()
        .chain(wildcards)
        .chain([Cow::Borrowed("*")])
}

/// `a.example.com:80` of `a.example.com.:80`.
fn without_dot(host: &str) -> Cow<'_, str> {
    let (name, port) = host.split_at(port_start(host).unwrap_or(host.len()));
    match name.strip_suffix('.') {
        Some(name) => Cow::Owned(format!("{name}{port}")),
        None => Cow::Borrowed(host),
    }
}

/// `a.example.com` of `a.example.com:80`.
pub(in crate::resource) fn without_port(host: &str) -> &str {
    &host[..port_start(host).unwrap_or(host.len())]
}

/// The place of the colon before the port.
pub(super) fn port_start(host: &str) -> Option<usize> {
    let colon = host.rfind(':')?;
    (!host[colon..].ends_with(']')).then_some(colon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_port_and_final_dot() {
        let host = |host: &str| without_port(&without_dot(host)).to_owned();
        for sent in [
            "a.example.com",
            "a.example.com.",
            "a.example.com:80",
            "a.example.com.:80",
        ] {
            assert_eq!(host(sent), "a.example.com");
        }
        assert_eq!(host("[2001:db8::3]"), "[2001:db8::3]");
        assert_eq!(host("[2001:db8::3]:80"), "[2001:db8::3]");
        assert_eq!(without_dot("a.example.com.:80"), "a.example.com:80");
    }

    #[test]
    fn domains_are_asked_from_the_narrowest() {
        let asked: Vec<_> = domains("a.b.com").collect();
        assert_eq!(asked, ["a.b.com", "*.b.com", "*.com", "*"]);
    }

    #[test]
    fn the_first_of_repeated_parameters_counts() {
        let request = Request {
            method: "GET",
            host: "a",
            target: "/?v=2&v=1&w&=3",
            headers: &[],
        };
        let seen = Seen::of(&request).unwrap();
        let values = ["v", "w", "", "x"].map(|name| seen.parameter(name));
        assert_eq!(values, [Some("2"), Some(""), Some("3"), None]);
        assert_eq!((seen.path(), seen.query()), ("/", "?v=2&v=1&w&=3"));
    }
}
