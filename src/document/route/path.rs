//! Paths: exact, by segments, URI templates, regexes; and what replaces a path.

use super::super::decode::{Cursor, quote};
use super::super::{Rejection, regex};
use super::PathMatch;

/// Longest path, in bytes.
const MAX_PATH: usize = 4096;
/// Most variables of a template: Envoy's.
const MAX_VARIABLES: usize = 5;
/// Longest name of a variable: Envoy's.
const MAX_VARIABLE: usize = 16;
const A_PATH: &str = r#"a path such as "/a", "/a/*", "/a/{id}" or "~^/a\\d+$""#;

/// A path in the shorthand of `match`.
pub(super) fn parse(cursor: &Cursor<'_>, text: &str) -> Result<PathMatch, Rejection> {
    let reject = |what: &str| cursor.reject(format!("found the path {}, expected {what}", quote(text)));
    if let Some(pattern) = text.strip_prefix('~') {
        regex::check(pattern, cursor.limits()).map_err(|reason| cursor.reject(reason))?;
        return Ok(PathMatch::Regex(pattern.to_owned()));
    }
    if !text.starts_with('/') {
        return Err(reject(A_PATH));
    }
    check_characters(text).map_err(reject)?;
    if text.contains(['{', '}']) {
        return match check_template(text) {
            Ok(()) => Ok(PathMatch::Template(text.to_owned())),
            Err(what) => Err(reject(&what)),
        };
    }
    match text.strip_suffix("/*") {
        Some(prefix) if prefix.contains('*') => Err(reject(r#""*" only as the last segment"#)),
        Some(prefix) => Ok(PathMatch::Prefix(prefix.to_owned())),
        None if text.contains('*') => Err(reject(
            r#""*" only as the last segment ("/a/*"), a template or a regex"#,
        )),
        None => Ok(PathMatch::Exact(text.to_owned())),
    }
}

/// `pkg.Service/Method`, `pkg.Service/*` or `pkg.Service`.
pub(super) fn parse_grpc(cursor: &Cursor<'_>) -> Result<PathMatch, Rejection> {
    let text = cursor.string()?;
    let (service, method) = text.split_once('/').unwrap_or((text, "*"));
    let identifier = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !service.split('.').all(identifier) || !(method == "*" || identifier(method)) || text.len() > MAX_PATH {
        return Err(cursor.expected(r#"a gRPC method such as "pkg.Service/Method" or "pkg.Service/*""#));
    }
    Ok(match method {
        "*" => PathMatch::Prefix(format!("/{service}")),
        method => PathMatch::Exact(format!("/{service}/{method}")),
    })
}

/// What every path must be. The error says what is expected.
pub(crate) fn check_characters(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_PATH {
        return Err("at most 4096 bytes");
    }
    if text.contains(['?', '#']) {
        return Err("a path without query and fragment (conditions on the query go into \"query\")");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("printable ASCII without spaces, anything else percent-encoded");
    }
    if text.contains("//") {
        return Err("no empty segment: slashes are merged before a path is matched");
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(r#"no segment "." or "..": paths are normalised before they are matched"#);
    }
    Ok(())
}

/// The path or prefix that replaces another.
pub(super) fn parse_replacement(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    if !text.starts_with('/') {
        return Err(cursor.expected("a path that starts with a slash"));
    }
    if text.contains('*') {
        return Err(cursor.expected(r#"a path without "*": the rest of the path follows by itself"#));
    }
    check_characters(text).map_err(|what| cursor.expected(what))?;
    Ok(text.to_owned())
}

/// The URI templates that are taken: each segment a literal or a variable, `{name}`, `{name=*}` or, at the end,
/// `{name=**}`. Envoy knows more forms, none of them in the contract. The error says what is expected.
fn check_template(text: &str) -> Result<(), String> {
    let mut names: Vec<&str> = Vec::new();
    let mut segments = text.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let Some(inner) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            check_literal(segment, last)?;
            continue;
        };
        let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        check_variable(name, &names)?;
        match pattern {
            "*" => {}
            "**" if last => {}
            "**" => return Err("nothing after the variable that takes the rest (=**)".to_owned()),
            _ => return Err(format!("{{{name}}}, {{{name}=*}} or {{{name}=**}}")),
        }
        names.push(name);
    }
    Ok(())
}

fn check_literal(segment: &str, last: bool) -> Result<(), String> {
    if segment.contains(['{', '}']) {
        return Err(r#"a variable that is a whole segment, as in "/a/{id}""#.to_owned());
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=*".contains(&byte);
    if let Some(byte) = segment.bytes().find(|byte| !known(*byte)) {
        return Err(format!("no {:?} beside variables", char::from(byte)));
    }
    if segment.contains('*') {
        return Err(r#"no "*" beside variables ({rest=**} takes the rest)"#.to_owned());
    }
    if segment.is_empty() && !last {
        return Err("no empty segment".to_owned());
    }
    Ok(())
}

fn check_variable(name: &str, names: &[&str]) -> Result<(), String> {
    let letters = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !letters || name.len() > MAX_VARIABLE {
        return Err(format!(
            "a variable name of 1 to {MAX_VARIABLE} letters, digits and _, first a letter"
        ));
    }
    if names.contains(&name) {
        return Err(format!("the variable {name:?} only once"));
    }
    if names.len() == MAX_VARIABLES {
        return Err(format!("at most {MAX_VARIABLES} variables"));
    }
    Ok(())
}
