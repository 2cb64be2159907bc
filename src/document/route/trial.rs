//! `tests` of a route: requests, and the expected answers.
//!
//! Only the form is checked here. [`crate::resource::compile`] asks the compiled table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{STRING, TEXT, words};
use super::super::host::{parse_host, parse_port};
use super::super::policy::PolicyKind;
use super::super::{Rejection, name};
use super::header::parse_name;
use super::matching::is_method;
use super::target::{UPSTREAM, read_upstream};

/// Most tests of one document.
const MAX_TESTS: usize = 100;
/// Longest request, in bytes.
const MAX_REQUEST: usize = 4096;
/// `tests`, as a shape.
pub(super) const SHAPE: Shape = Shape::List {
    of: &Shape::Object(&FIELDS),
    least: 0,
    most: MAX_TESTS,
    once: false,
};
const FIELDS: Fields = Fields::of(&[
    Field::new(
        "request",
        Shape::Text("`METHOD URL`", Some("^[A-Z][A-Z0-9_-]* https?://")),
        "The request. `https`: listeners with TLS, `http`: those without. A port is ignored",
    )
    .required(),
    Field::new("headers", Shape::Map(&STRING), "Headers of the request"),
    Field::new("listener", name::NAME, "The only listener that is asked").or("each listener of the route"),
    Field::new(
        "expect",
        Shape::Object(&EXPECT_FIELDS),
        "The expected answer, at least one field. All must hold, on each listener, in each group of the route",
    )
    .required(),
]);
const EXPECT_FIELDS: Fields = Fields::of(&[
    Field::new(
        "to",
        Shape::AnyOf(&[UPSTREAM, Shape::entries(&UPSTREAM, usize::MAX)]),
        "Exactly the clusters of a weight above 0",
    ),
    Field::new(
        "route",
        Shape::Text("key of a routes document", Some("^routes/")),
        "The document whose route takes the request",
    ),
    Field::new(
        "status",
        Shape::Whole(200, 599),
        "Status of a redirect or a fixed response; 404: no route takes the request; 400: Envoy refuses it (`%2F` in the \
         path)",
    ),
    Field::new("redirect", TEXT, "`location` of a redirect"),
    Field::new("host", TEXT, "Host as the upstream sees it; `\"auto\"`: the upstream's name"),
    Field::new("path", TEXT, "Path with query, as the upstream sees it"),
    Field::new(
        "policies",
        Shape::List {
            of: &Shape::Words(&words(&PolicyKind::WORDS)),
            least: 0,
            most: PolicyKind::ALL.len(),
            once: true,
        },
        "Exactly the kinds of policies that hold for the request, for each weighted target",
    ),
])
.filled();
const A_REQUEST: &str = r#"a method and a URL, such as "GET https://api.example.com/v1/orders/7""#;

/// One test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// As written: `GET https://api.example.com/v1/orders/7`.
    pub request: String,
    /// `GET`
    pub method: String,
    /// `https`: listeners with TLS; otherwise those without.
    pub https: bool,
    /// Host without its port.
    pub host: String,
    /// Path and query, as written.
    pub target: String,
    /// Headers; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The only listener; `None`: each listener of the route.
    pub listener: Option<Arc<str>>,
    /// The expected answer.
    pub expect: Expect,
}

/// The expected answer; at least one field is there, and all must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expect {
    /// Exactly these clusters of a weight above 0. Sorted, unique.
    pub to: Option<Vec<String>>,
    /// The key of the document whose route takes the request.
    pub route: Option<String>,
    /// The status of Envoy's own answer.
    pub status: Option<u16>,
    /// The `location` of a redirect.
    pub redirect: Option<String>,
    /// Host as the upstream sees it.
    pub host: Option<String>,
    /// Path and query as the upstream sees them.
    pub path: Option<String>,
    /// Exactly the kinds of policies that hold.
    pub policies: Option<BTreeSet<PolicyKind>>,
}

/// `tests`
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Vec<Trial>, Rejection> {
    let entries = cursor.list()?;
    if entries.len() > MAX_TESTS {
        let count = entries.len();
        return Err(cursor.reject(format!("found {count} tests, expected at most {MAX_TESTS}")));
    }
    entries.iter().map(read_one).collect()
}

fn read_one(cursor: &Cursor<'_>) -> Result<Trial, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let request = object.require("request", A_REQUEST)?;
    let text = request.string()?;
    let (method, https, host, target) = parse_request(text).ok_or_else(|| request.expected(A_REQUEST))?;
    let headers = object.read("headers", |field| read_headers(&field))?;
    Ok(Trial {
        request: text.to_owned(),
        method: method.to_owned(),
        https,
        host: host.to_owned(),
        target: target.to_owned(),
        headers: headers.unwrap_or_default(),
        listener: object.read("listener", |field| name::read(&field))?,
        expect: read_expect(&object.require("expect", r#"the answer, such as {"to": "orders"}"#)?)?,
    })
}

/// Method, whether the scheme is `https`, host and target of `METHOD URL`.
fn parse_request(text: &str) -> Option<(&str, bool, &str, &str)> {
    let is_short = text.len() <= MAX_REQUEST && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let (method, url) = text.split_once(' ').filter(|_| is_short)?;
    let (scheme, rest) = url.split_once("://").filter(|(_, rest)| !rest.contains(' '))?;
    let https = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => parse_port(port).map(|_| host)?,
        _ => authority,
    };
    let is_host = parse_host(host.strip_suffix('.').unwrap_or(host)).is_ok();
    let target = match target {
        "" => "/",
        target => target,
    };
    (is_method(method) && is_host && target.starts_with('/')).then_some((method, https, host, target))
}

fn read_headers(cursor: &Cursor<'_>) -> Result<BTreeMap<String, String>, Rejection> {
    let mut headers = BTreeMap::new();
    for (name, value) in cursor.map()? {
        let hint = "; host and path of a request are those of its URL";
        let name = parse_name(&value, name, hint)?;
        let text = value.string()?;
        if text.contains(char::is_control) {
            return Err(value.confidential("one without control characters"));
        }
        if headers.insert(name.clone(), text.to_owned()).is_some() {
            return Err(value.reject(format!("found the header {name:?} a second time, expected it once")));
        }
    }
    Ok(headers)
}

fn read_expect(cursor: &Cursor<'_>) -> Result<Expect, Rejection> {
    let object = cursor.object(&EXPECT_FIELDS)?;
    if object.present_of(&EXPECT_FIELDS).is_empty() {
        return Err(
            cursor.expected(r#"at least one of "to", "route", "status", "redirect", "host", "path" and "policies""#)
        );
    }
    Ok(Expect {
        to: object.read("to", |field| read_to(&field))?,
        route: object.read("route", |field| read_route(&field))?,
        status: object.read("status", |field| field.integer(200..=599))?,
        redirect: object.read("redirect", |field| read_text(&field))?,
        host: object.read("host", |field| read_text(&field))?,
        path: object.read("path", |field| read_text(&field))?,
        policies: object.read("policies", |field| read_kinds(&field))?,
    })
}

fn read_kinds(cursor: &Cursor<'_>) -> Result<BTreeSet<PolicyKind>, Rejection> {
    let mut kinds = BTreeSet::new();
    for entry in cursor.list()? {
        if !kinds.insert(entry.word(&PolicyKind::WORDS)?) {
            return Err(entry.reject("found a kind a second time, expected each once"));
        }
    }
    Ok(kinds)
}

/// A cluster's name or URL, or a list of them.
fn read_to(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let name = |entry: &Cursor<'_>| Ok(read_upstream(entry)?.cluster_name().to_string());
    if !cursor.value().is_array() {
        return Ok(vec![name(cursor)?]);
    }
    let mut names = cursor.entries()?.iter().map(name).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

fn read_route(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = read_text(cursor)?;
    match text.starts_with("routes/") {
        true => Ok(text),
        false => Err(cursor.expected(r#"the key of a routes document, such as "routes/orders""#)),
    }
}

fn read_text(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.text()?;
    match text.contains(char::is_control) || text.len() > MAX_REQUEST {
        true => Err(cursor.expected("a text of at most 4096 bytes without control characters")),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_method_and_a_url() {
        let expected = [
            ("GET http://a.b", Some(("GET", false, "a.b", "/"))),
            ("PUT https://A.b.:8443/x?y", Some(("PUT", true, "A.b.", "/x?y"))),
            ("GET http://[::1]:80/", Some(("GET", false, "[::1]", "/"))),
            ("GET http://[::1]//a%2F", Some(("GET", false, "[::1]", "//a%2F"))),
            ("GET a.b/", None),
            ("get http://a.b/", None),
            ("GET ftp://a.b/", None),
            ("GET http:///a", None),
            ("GET http://a.b:0/", None),
            ("GET http://a.b?x", None),
            ("GET http://*.b/", None),
            ("GET http://a.b/c d", None),
            ("GET http://ü.b/", None),
        ];
        for (text, parts) in expected {
            assert_eq!(parse_request(text), parts, "{text}");
        }
    }
}
