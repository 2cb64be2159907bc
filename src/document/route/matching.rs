//! `match`: the requests that a route takes, as a string, an object or a list of objects.

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::STRING;
use super::super::host::{Host, in_host_header, parse_host};
use super::super::sentence::quote;
use super::{HostPattern, Match, PathMatch};
use super::{condition, path};

/// `match`, as a shape.
pub(super) const SHAPE: Shape = Shape::AnyOf(&[ONE[0], ONE[1], Shape::entries(&Shape::AnyOf(ONE), usize::MAX)]);
const ONE: &[Shape] = &[
    Shape::Text("`[METHOD\\|METHOD ][HOST]/PATH`", Some("[/~]")),
    Shape::Object(&FIELDS),
];
const FIELDS: Fields = Fields::of(&[
    Field::new(
        "hosts",
        Shape::entries(&Shape::Text("host", None), usize::MAX),
        "Hosts, exact or `*.example.com`",
    )
    .or("any"),
    Field::new("path", STRING, "Path. See [Paths](routes.md#paths)").or("any"),
    Field::new(
        "grpc",
        STRING,
        "`pkg.Service/Method`, `pkg.Service/*` or `pkg.Service`, in place of `path`; the route has no timeout by default",
    ),
    Field::new(
        "methods",
        Shape::entries(
            &Shape::Text("method in capitals", Some("^[A-Z][A-Z0-9_-]{0,31}$")),
            usize::MAX,
        ),
        "Methods, at most 16; `GET` does not include `HEAD`; `CONNECT` is not supported yet",
    )
    .or("any"),
    Field::new(
        "headers",
        condition::HEADERS,
        "Conditions by header name; all must hold",
    ),
    Field::new("query", condition::QUERY, "Conditions by parameter name; all must hold"),
])
.filled();
/// Most methods of a match, and their longest name: far more than HTTP has.
const MAX_METHODS: usize = 16;
const MAX_METHOD_LENGTH: usize = 32;
const A_METHOD: &str = r#"a method in capitals such as "GET""#;

/// The matches of a document, each with its field path.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Vec<(String, Match)>, Rejection> {
    if cursor.value().is_array() {
        return cursor
            .entries()?
            .iter()
            .map(|entry| Ok((entry.path().to_owned(), read_one(entry)?)))
            .collect();
    }
    Ok(vec![(cursor.path().to_owned(), read_one(cursor)?)])
}

fn read_one(cursor: &Cursor<'_>) -> Result<Match, Rejection> {
    if let Some(text) = cursor.value().as_str() {
        return read_shorthand(cursor, text);
    }
    if !cursor.value().is_object() {
        return Err(
            cursor.expected(r#"a match such as "GET api.example.com/v1/users", an object or a list of objects"#)
        );
    }
    let object = cursor.object(&FIELDS)?;
    if object.present_of(&FIELDS).is_empty() {
        return Err(cursor.expected(r#"at least one condition ("path": "/*" takes everything)"#));
    }
    let (path, grpc) = read_path(&object)?;
    Ok(Match {
        hosts: object
            .read("hosts", |field| read_hosts(&field))?
            .unwrap_or_else(|| vec![HostPattern::Any]),
        path,
        methods: object
            .read("methods", |field| read_methods(&field))?
            .unwrap_or_default(),
        headers: object
            .read("headers", |field| condition::read_headers(&field))?
            .unwrap_or_default(),
        query: object
            .read("query", |field| condition::read_query(&field))?
            .unwrap_or_default(),
        grpc,
    })
}

fn read_path(object: &Object<'_>) -> Result<(PathMatch, bool), Rejection> {
    match (object.get("path"), object.get("grpc")) {
        (Some(_), Some(grpc)) => Err(grpc.reject("found beside \"path\", expected one of the two")),
        (Some(field), None) => Ok((path::parse(&field, field.string()?)?, false)),
        (None, Some(field)) => Ok((path::parse_grpc(&field)?, true)),
        (None, None) => Ok((PathMatch::Prefix(String::new()), false)),
    }
}

/// `[METHOD|METHOD ][host]/path`
fn read_shorthand(cursor: &Cursor<'_>, text: &str) -> Result<Match, Rejection> {
    let (methods, rest) = match text.split_once(' ') {
        Some((methods, rest)) if !methods.contains(['/', '~']) => (Some(methods), rest),
        _ => (None, text),
    };
    let methods = methods.map(|methods| methods.split('|').map(|method| parse_method(cursor, method)).collect());
    let start = rest
        .find(['/', '~'])
        .ok_or_else(|| cursor.expected(r#""[METHOD|METHOD ][host]/path""#))?;
    let (host, path) = rest.split_at(start);
    let host = match host {
        "" => HostPattern::Any,
        host => parse_host_pattern(host).map_err(|reason| cursor.reject(reason))?,
    };
    Ok(Match {
        hosts: vec![host],
        path: path::parse(cursor, path)?,
        methods: sorted(methods.unwrap_or_else(|| Ok(Vec::new()))?),
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    })
}

fn read_hosts(cursor: &Cursor<'_>) -> Result<Vec<HostPattern>, Rejection> {
    let read = |entry: &Cursor<'_>| parse_host_pattern(entry.string()?).map_err(|reason| entry.reject(reason));
    let mut hosts = cursor.entries()?.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    hosts.sort();
    hosts.dedup();
    Ok(hosts)
}

/// A host pattern in lower case, or the reason against it.
pub(crate) fn parse_host_pattern(text: &str) -> Result<HostPattern, String> {
    let expected = |what: &str| format!("found the host {}, expected {what}", quote(text));
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    let after_literal = text.rsplit(']').next().unwrap_or_default();
    if after_literal.contains(':') && (text.starts_with('[') || text.matches(':').count() == 1) {
        return Err(expected("no port: the port that a client sends in Host is ignored"));
    }
    // Envoy takes the final dot off a request's Host (`strip_trailing_host_dot`).
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if let Some(rest) = lower.strip_prefix("*.") {
        return match parse_host(rest) {
            Ok(Host::Name(_)) => Ok(HostPattern::Wildcard(lower.into())),
            _ => Err(expected(r#"a wildcard such as "*.example.com""#)),
        };
    }
    if lower.contains('*') {
        return Err(expected(
            r#""*" alone or as the whole first label, as in "*.example.com""#,
        ));
    }
    match parse_host(&lower) {
        Ok(host) => Ok(HostPattern::Exact(in_host_header(&host).into())),
        Err(what) => Err(expected(what)),
    }
}

pub(in crate::document) fn read_methods(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let methods = cursor
        .entries()?
        .iter()
        .map(|entry| parse_method(entry, entry.string()?))
        .collect::<Result<_, _>>()?;
    let methods = sorted(methods);
    if methods.len() > MAX_METHODS {
        return Err(cursor.reject(format!(
            "found {} methods, expected at most {MAX_METHODS}",
            methods.len()
        )));
    }
    Ok(methods)
}

fn sorted(mut methods: Vec<String>) -> Vec<String> {
    methods.sort();
    methods.dedup();
    methods
}

pub(in crate::document) fn parse_method(cursor: &Cursor<'_>, method: &str) -> Result<String, Rejection> {
    let found = |what: &str| cursor.reject(format!("found the method {}, expected {what}", quote(method)));
    if method == "CONNECT" {
        return Err(found("another: CONNECT is not supported yet"));
    }
    if !is_method(method) {
        return Err(found(A_METHOD));
    }
    Ok(method.to_owned())
}

/// Whether a text can be a method: capitals, digits, `-` and `_`, first a capital.
pub(crate) fn is_method(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    text.len() <= MAX_METHOD_LENGTH
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.bytes().all(letter)
}
