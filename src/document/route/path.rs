//! Paths: exact, by segments, URI templates, regexes; and the replacement of a path.
//!
//! Envoy normalises a request's path before a route sees the path: escaped unreserved characters are decoded, a few raw
//! characters are escaped, dot segments and repeated slashes vanish, and an escaped slash is refused. A document's path
//! is put into the same form ([`as_seen`]); a path without such a form is rejected, because no request could match it.

use std::borrow::Cow;
use std::fmt::Write;

use super::super::Rejection;
use super::super::decode::Cursor;
use super::super::regex::{self, Text};
use super::super::sentence::quote;
use super::super::uri::is_unreserved;
use super::PathMatch;

/// Longest path, in bytes.
const MAX_PATH: usize = 4096;
/// Most variables of a template: Envoy's.
const MAX_VARIABLES: usize = 5;
/// Longest name of a variable: Envoy's.
const MAX_VARIABLE: usize = 16;
/// Longest template, in bytes: Envoy's.
const MAX_TEMPLATE: usize = 256;
/// Length of `%7E`.
const ESCAPE: usize = 3;
const NO_SUCH_PATH: &str = "found a regex that no path can match, expected one for paths as Envoy sees them: they \
    start with \"/\", have neither \"//\" nor segments \".\" and \"..\", no %2F, %5C or %00, no escaped letter, digit, \
    \"-\", \".\", \"_\" or \"~\", and no raw space, letter beyond ASCII or one of \"<>\\^`{|}";
const A_PATH: &str = r#"a path such as "/a", "/a/*", "/a/{id}" or "~^/a\\d+$""#;

/// A path in the shorthand of `match`.
pub(in crate::document) fn parse(cursor: &Cursor<'_>, text: &str) -> Result<PathMatch, Rejection> {
    let reject = |what: &str| cursor.reject(format!("found the path {}, expected {what}", quote(text)));
    if let Some(pattern) = text.strip_prefix('~') {
        regex::check(pattern, cursor.limits()).map_err(|reason| cursor.reject(reason))?;
        if !regex::can_match(pattern, Text::Path) {
            return Err(cursor.reject(NO_SUCH_PATH));
        }
        return Ok(PathMatch::Regex(pattern.to_owned()));
    }
    if !text.starts_with('/') {
        return Err(reject(A_PATH));
    }
    check_characters(text).map_err(reject)?;
    if text.contains(['{', '}']) {
        return match normalise_template(text) {
            Ok(template) => Ok(PathMatch::Template(template)),
            Err(what) => Err(reject(&what)),
        };
    }
    let seen = as_seen(text).map_err(reject)?;
    match seen.strip_suffix("/*") {
        Some(prefix) if prefix.contains('*') => Err(reject(r#""*" only as the last segment"#)),
        Some(prefix) => Ok(PathMatch::Prefix(prefix.to_owned())),
        None if seen.contains('*') => Err(reject(
            r#""*" only as the last segment ("/a/*"), a template or a regex"#,
        )),
        None => Ok(PathMatch::Exact(seen)),
    }
}

/// A URI template as a regex. Envoy's variables match every character except brackets, and `**` matches slashes, too.
pub(crate) fn template_regex(template: &str) -> String {
    let segments = template.split('/').map(|segment| {
        if segment.ends_with("=**}") {
            Cow::Borrowed(r"[^\[\]]*")
        } else if segment.starts_with('{') {
            Cow::Borrowed(r"[^/\[\]]+")
        } else {
            Cow::Owned(regex_syntax::escape(segment))
        }
    });
    segments.collect::<Vec<_>>().join("/")
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

/// A path in the form in which Envoy matches paths. The error says what is expected.
pub(crate) fn as_seen(text: &str) -> Result<String, &'static str> {
    check_characters(text)?;
    if text.contains('\\') {
        return Err("no backslash: Envoy reads a raw one as a slash");
    }
    let seen = unescaped(text).ok_or("no escaped slash, backslash or NUL: Envoy refuses requests with one (400)")?;
    // Escaped dots may have become segments.
    check_characters(&seen)?;
    Ok(seen)
}

/// A request's path as Envoy matches it, and its query with the question mark; `None`: Envoy answers 400.
///
/// In Envoy's order: escapes and dot segments, then repeated slashes. A segment of dots goes on to a raw semicolon.
pub(crate) fn seen_by_envoy(target: &str) -> Option<(String, &str)> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let arrives = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !arrives || !path.starts_with('/') || has_escaped_slash(path) {
        return None;
    }

    let mut segments: Vec<String> = Vec::new();
    let mut raw = path[1..].split(['/', '\\']).peekable();
    while let Some(segment) = raw.next() {
        let last = raw.peek().is_none();
        let dots = dots(segment);
        if dots == 2 {
            segments.pop();
        }
        match dots {
            0 => segments.push(unescaped(segment)?),
            // A path that ends in dots ends in a slash.
            _ if last => segments.push(String::new()),
            _ => {}
        }
    }

    let normal = format!("/{}", segments.join("/"));
    if !normal.contains("//") {
        return Some((normal, query));
    }
    let merged = normal.split('/').filter(|segment| !segment.is_empty());
    let end = if normal.ends_with('/') { "/" } else { "" };
    Some((format!("/{}{end}", merged.collect::<Vec<_>>().join("/")), query))
}

/// Whether the path has an escaped slash or backslash anywhere, also in a segment that will be dropped.
fn has_escaped_slash(path: &str) -> bool {
    let escapes = path.match_indices('%').map(|(index, _)| escaped_byte(&path[index..]));
    escapes.flatten().any(|byte| matches!(byte, b'/' | b'\\'))
}

/// 1 for a segment that stays, 2 for one that goes up, 0 for any other.
fn dots(segment: &str) -> u8 {
    let mut rest = segment;
    let mut dots = 0;
    while let Some(after) = rest.strip_prefix('.').or_else(|| {
        let escaped = rest.get(..ESCAPE)?.eq_ignore_ascii_case("%2e");
        escaped.then(|| &rest[ESCAPE..])
    }) {
        dots += 1;
        rest = after;
    }
    let raw = segment.len() - rest.len() == usize::from(dots);
    let over = rest.is_empty() || (raw && rest.starts_with(';'));
    if over && dots <= 2 { dots } else { 0 }
}

/// A segment of a request's path with its escapes as Envoy keeps them; `None`: Envoy answers 400.
fn unescaped(segment: &str) -> Option<String> {
    let mut seen = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(letter) = rest.chars().next() {
        let taken = match escaped_byte(rest) {
            Some(b'/' | b'\\' | 0) => return None,
            Some(byte) if is_unreserved(byte) => {
                seen.push(char::from(byte));
                ESCAPE
            }
            Some(_) => {
                seen.push_str(&rest[..ESCAPE]);
                ESCAPE
            }
            None => {
                push_raw(&mut seen, letter);
                letter.len_utf8()
            }
        };
        rest = &rest[taken..];
    }

    Some(seen)
}

/// A raw character of a path, escaped where Envoy escapes it.
fn push_raw(seen: &mut String, letter: char) {
    match letter {
        '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' => {
            write!(seen, "%{:02X}", u32::from(letter)).expect("a String takes all");
        }
        _ => seen.push(letter),
    }
}

/// The byte that a text's first three characters escape, if they do.
fn escaped_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('%')?.get(..ESCAPE - 1)?;
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The rule for every path. The error says what is expected.
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
pub(in crate::document) fn parse_replacement(cursor: &Cursor<'_>) -> Result<String, Rejection> {
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

/// A URI template whose literal segments have the form in which Envoy matches them. Each segment of a template is a
/// literal or a variable, `{name}`, `{name=*}` or, at the end, `{name=**}`; other forms of Envoy are rejected. The
/// error says what is expected.
fn normalise_template(text: &str) -> Result<String, String> {
    let mut names: Vec<&str> = Vec::new();
    let mut template = String::with_capacity(text.len());
    let mut segments = text.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let Some(inner) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            if segment.contains(['{', '}']) {
                return Err(r#"a variable that is a whole segment, as in "/a/{id}""#.to_owned());
            }
            let seen = as_seen(segment)?;
            check_literal(&seen, last)?;
            template.push('/');
            template.push_str(&seen);
            continue;
        };
        let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        check_variable(name, &names)?;
        match pattern {
            "*" => {}
            "**" if last => {}
            "**" => return Err("nothing after the variable that matches the rest (=**)".to_owned()),
            _ => return Err(format!("{{{name}}}, {{{name}=*}} or {{{name}=**}}")),
        }
        names.push(name);
        template.push('/');
        template.push_str(segment);
    }
    if template.len() > MAX_TEMPLATE {
        return Err(format!("a template of at most {MAX_TEMPLATE} bytes"));
    }
    Ok(template)
}

fn check_literal(segment: &str, last: bool) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=*".contains(&byte);
    if let Some(byte) = segment.bytes().find(|byte| !known(*byte)) {
        return Err(format!("no {:?} beside variables", char::from(byte)));
    }
    if segment.contains('*') {
        return Err(r#"no "*" beside variables ({rest=**} matches the rest)"#.to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_documents_take_the_form_in_which_envoy_matches() {
        let same = [
            "/a",
            "/%20",
            "/caf%C3%A9",
            "/caf%c3%a9",
            "/a%",
            "/%zz",
            "/...",
            "/a;b=[1]",
        ];
        for path in same {
            assert_eq!(as_seen(path).as_deref(), Ok(path));
        }
        assert_eq!(as_seen("/%7Ejoe/%41%2d").as_deref(), Ok("/~joe/A-"));
        assert_eq!(as_seen("/\"<>^`{|}").as_deref(), Ok("/%22%3C%3E%5E%60%7B%7C%7D"));
        for never in [
            "/%2F",
            "/%5c",
            "/%00",
            "/a\\b",
            "//",
            "/a//b",
            "/..",
            "/%2e%2E/a",
            "/a/.",
            "/é",
            "/a b",
            "/a?b",
        ] {
            assert!(as_seen(never).is_err(), "{never}");
        }
    }

    #[test]
    fn a_template_has_at_most_256_bytes() {
        let of_length = |length: usize| normalise_template(&format!("/{{a}}/{}", "b".repeat(length - 5)));
        assert_eq!(of_length(MAX_TEMPLATE).map(|template| template.len()), Ok(256));
        assert_eq!(of_length(257), Err("a template of at most 256 bytes".to_owned()));
    }

    #[test]
    fn paths_of_requests_are_normalised_as_by_envoy() {
        let seen = |target| seen_by_envoy(target).map(|(path, query)| format!("{path}{query}"));
        let expected = [
            ("/a//b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b//../c", "/a/b/c"),
            ("/a/%2e/b", "/a/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("///", "//"),
            ("/..//", "//"),
            ("/////a/////", "/a/"),
            ("/a/.;x/b", "/a/b"),
            ("/a/..;x/b", "/b"),
            ("/a/%2e;/b", "/a/.;/b"),
            ("/a\\..\\b", "/b"),
            ("/%7Ejoe%7e?%7E//", "/~joe~?%7E//"),
            ("/a|b", "/a%7Cb"),
            ("/a/...", "/a/..."),
        ];
        for (target, path) in expected {
            assert_eq!(seen(target).as_deref(), Some(path), "{target}");
        }
        for refused in ["/a%2fb", "/%5C", "/%00", "/a#b", "a", "*"] {
            assert_eq!(seen(refused), None, "{refused}");
        }
    }
}
