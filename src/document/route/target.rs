//! `to`, `mirror` and `rewrite`: the action of a route.

use url::Url;

use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{AMOUNT, NOT_EMPTY, PORT, STRING, words};
use super::super::host::{Host, in_host_header, parse_address, parse_host, parse_port};
use super::super::{Rejection, name, regex};
use super::header::{self, read_values};
use super::path::{check_characters, parse_replacement};
use super::{Action, HostRewrite, Mirror, Redirect, RegexRewrite, Respond, Rewrite, Target, Upstream, UpstreamUrl};

/// `to`, as a shape.
pub(super) const SHAPE: Shape = Shape::AnyOf(&[UPSTREAM, WEIGHTED, Shape::Object(&ACTION_FIELDS)]);
/// A cluster's name or a URL, as a shape.
pub(in crate::document) const UPSTREAM: Shape = Shape::Text(
    "name of a cluster, or URL without a path",
    Some("^([a-z0-9][a-z0-9._-]{0,62}|[Hh][Tt][Tt][Pp][Ss]?://[^@?#]+)$"),
);
/// The target of a service that is no route's, as a shape.
pub(in crate::document) const TARGET: Shape = Shape::Text(
    "name of a cluster, or URL (`http`, `https`, `grpc`, `grpcs`) without a path",
    Some("^([a-z0-9][a-z0-9._-]{0,62}|[A-Za-z]+://[^@?#]+)$"),
);
/// Weighted clusters, as a shape.
pub(in crate::document) const WEIGHTED: Shape = Shape::entries(&Shape::Object(&TARGET_FIELDS), usize::MAX);

const ACTION_FIELDS: Fields = Fields::of(&[
    Field::new(
        "redirect",
        Shape::Object(&REDIRECT_FIELDS),
        "Envoy answers with a redirect",
    ),
    Field::new(
        "respond",
        Shape::Object(&RESPOND_FIELDS),
        "Envoy answers with a fixed response",
    ),
])
.filled();
const TARGET_FIELDS: Fields = Fields::of(&[
    Field::new("cluster", UPSTREAM, "Gets a share of the requests").required(),
    Field::new("weight", AMOUNT, "Share; the weights sum to 1 to 4294967295").required(),
]);
const REDIRECT_FIELDS: Fields = Fields::of(&[
    Field::new("scheme", Shape::Words(&words(&SCHEMES)), "New scheme").or("the request's"),
    Field::new("host", Shape::Text("host without a port", None), "New host").or("the request's"),
    Field::new("port", PORT, "New port").or("the request's"),
    Field::new(
        "path",
        Shape::Text("path, perhaps with a query", Some("^/")),
        "New path, whole; not beside `prefix`",
    )
    .or("the request's"),
    Field::new(
        "prefix",
        Shape::Text("path", Some("^/")),
        "Replaces the part of the path that the match took, as `rewrite.prefix` does",
    )
    .or("the request's"),
    Field::new("code", CODE, "Status").or("`301`"),
])
.filled();
/// The status of a redirect, as a shape.
pub(in crate::document) const CODE: Shape = Shape::Numbers(&[301, 302, 303, 307, 308]);
const SCHEMES: [(&str, &str); 2] = [("http", "http"), ("https", "https")];
const RESPOND_FIELDS: Fields = Fields::of(&[
    Field::new("status", Shape::Whole(200, 599), "Status").required(),
    Field::new(
        "body",
        Shape::Text("string, 4,096 bytes at most", None),
        "Body; 204 and 304 have none",
    )
    .or("empty"),
    Field::new("headers", header::VALUES, "Response headers, at most 100").or("none"),
]);
/// The fields of `rewrite`.
pub(super) const REWRITE_FIELDS: Fields = Fields::of(&[
    Field::new(
        "prefix",
        Shape::Text("path without `*`", Some("^/")),
        "Replaces the part of the path that the match took",
    ),
    Field::new(
        "regex",
        Shape::Object(&REGEX_FIELDS),
        "Each part of the path that the pattern matches is replaced",
    ),
    Field::new(
        "path",
        Shape::Text("path without `*`", Some("^/")),
        "Replaces the whole path",
    ),
    Field::new(
        "host",
        Shape::Text("host, or `\"auto\"`", None),
        "New Host header; `\"auto\"`: the upstream's name",
    )
    .or("Host stays"),
]);
const REGEX_FIELDS: Fields = Fields::of(&[
    Field::new("pattern", Shape::Text("RE2 regex", NOT_EMPTY), "The replaced parts of the path").required(),
    Field::new(
        "with",
        STRING,
        "The replacement, without `?`, `#` and spaces. `\\1` to `\\9` are the groups of the pattern, `\\0` is the match, \
         `\\\\` a backslash",
    )
    .required(),
]);
/// The fields of an entry of `mirror`.
pub(super) const MIRROR_FIELDS: Fields = Fields::of(&[
    Field::new("cluster", UPSTREAM, "Gets a copy of the requests").required(),
    Field::new(
        "percent",
        Shape::Percent,
        "Share of the requests, at most four decimals",
    )
    .or("`100`"),
]);
/// Millionths in a percent.
const MILLIONTHS: f64 = 10_000.0;
/// Longest body of a fixed response, in bytes: Envoy's.
const MAX_BODY: usize = 4096;
const A_TARGET: &str = r#"a cluster's name, a URL, a list of {"cluster", "weight"}, {"redirect": …} or {"respond": …}"#;

/// `to`
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Action, Rejection> {
    if cursor.value().is_string() {
        return Ok(Action::Forward(vec![Target {
            upstream: read_upstream(cursor)?,
            weight: 1,
        }]));
    }

    if cursor.value().is_array() {
        return read_weighted(cursor).map(Action::Forward);
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(A_TARGET));
    }
    let object = cursor.object(&ACTION_FIELDS)?;
    match (object.get("redirect"), object.get("respond")) {
        (Some(redirect), None) => read_redirect(&redirect).map(Action::Redirect),
        (None, Some(respond)) => read_respond(&respond).map(Action::Respond),
        _ => Err(cursor.reject("expected one of \"redirect\" and \"respond\"")),
    }
}

pub(in crate::document) fn read_weighted(cursor: &Cursor<'_>) -> Result<Vec<Target>, Rejection> {
    let mut targets = Vec::new();
    for entry in cursor.entries()? {
        let object = entry.object(&TARGET_FIELDS)?;
        let upstream = read_upstream(&object.require("cluster", "a cluster's name or a URL")?)?;
        let weight = object
            .require("weight", "its share, a whole number")?
            .integer(0..=u32::MAX)?;
        targets.push(Target { upstream, weight });
    }
    let sum: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
    match u32::try_from(sum) {
        Ok(1..) => Ok(targets),
        _ => Err(cursor.reject(format!("found weights that sum to {sum}, expected 1 to {}", u32::MAX))),
    }
}

/// A cluster's name or a URL.
pub(crate) fn read_upstream(cursor: &Cursor<'_>) -> Result<Upstream, Rejection> {
    read_upstream_text(cursor, cursor.string()?)
}

fn read_upstream_text(cursor: &Cursor<'_>, text: &str) -> Result<Upstream, Rejection> {
    if text.contains("://") {
        return read_url_text(cursor, text).map(Upstream::Url);
    }
    if name::is_name(text) {
        return Ok(Upstream::Cluster(text.into()));
    }
    if parse_address(text).is_ok() {
        return Err(cursor.expected("a cluster's name or a URL with its scheme, http:// or https://"));
    }
    Err(cursor.expected(&format!("a URL or a cluster's name ({})", name::A_NAME)))
}

/// The target of a service that is no route's: a cluster's name or a URL, also `grpc://` and `grpcs://`.
pub(crate) fn read_target(cursor: &Cursor<'_>, text: &str) -> Result<Upstream, Rejection> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let plain = match scheme {
        "grpc" => format!("http://{rest}"),
        "grpcs" => format!("https://{rest}"),
        _ => return read_upstream_text(cursor, text),
    };
    // The port of gRPC is none of a scheme's: it is always written.
    let port = rest.trim_end_matches('/').rsplit(':').next().unwrap_or_default();
    if parse_port(port).is_none() {
        return Err(cursor.expected("a URL with a host and a port from 1 to 65535"));
    }
    let url = read_url_text(cursor, &plain)?;
    Ok(Upstream::Url(UpstreamUrl { http2: true, ..url }))
}

/// `http://10.0.1.5:8080`
pub(crate) fn read_url(cursor: &Cursor<'_>) -> Result<UpstreamUrl, Rejection> {
    read_url_text(cursor, cursor.string()?)
}

pub(in crate::document) fn read_url_text(cursor: &Cursor<'_>, text: &str) -> Result<UpstreamUrl, Rejection> {
    let scheme = text.split("://").next().unwrap_or_default().to_ascii_lowercase();
    let https = match scheme.as_str() {
        _ if !text.contains("://") => return Err(cursor.expected("a URL such as \"http://10.0.1.5:8080\"")),
        "http" => false,
        "https" => true,
        _ => return Err(cursor.confidential("a URL whose scheme is http or https")),
    };

    let authority_end = |rest: &str| rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let rest = text.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    let (authority, after) = rest.split_at(authority_end(rest));
    // Checked first and on the text: the part before the `@` is never quoted.
    if authority.contains('@') {
        return Err(cursor.reject("found a URL with a user or password in it, expected none"));
    }
    if after.contains(['?', '#']) {
        return Err(cursor.expected("a URL without a query and fragment"));
    }
    if !matches!(after, "" | "/") {
        return Err(cursor.expected("a URL without a path (\"rewrite\" changes paths)"));
    }
    let port_is_bare = authority.ends_with(':');
    let url = Url::parse(text).ok().filter(|_| !port_is_bare);
    let port = url
        .as_ref()
        .and_then(Url::port_or_known_default)
        .filter(|port| *port > 0);
    let Some(port) = port else {
        return Err(cursor.expected("a URL with a host and a port from 1 to 65535"));
    };
    let host = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') => host,
        _ => authority,
    };
    let host = match parse_host(host).map_err(|what| cursor.expected(&format!("a URL with {what}")))? {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name,
    };
    Ok(UpstreamUrl {
        https,
        http2: false,
        host,
        port,
    })
}

fn read_redirect(cursor: &Cursor<'_>) -> Result<Redirect, Rejection> {
    let object = cursor.object(&REDIRECT_FIELDS)?;
    let places = object.present(&["scheme", "host", "port", "path", "prefix"]);
    if places.is_empty() {
        return Err(cursor.expected("at least one of \"scheme\", \"host\", \"port\", \"path\" and \"prefix\""));
    }
    if let (Some(_), Some(prefix)) = (object.get("path"), object.get("prefix")) {
        return Err(prefix.reject("found beside \"path\", expected one of the two"));
    }
    Ok(Redirect {
        scheme: object.read("scheme", |field| field.word(&SCHEMES))?.map(str::to_owned),
        host: object.read("host", |field| read_host(&field))?,
        port: object.read("port", |field| field.integer(1..=u16::MAX))?,
        path: object.read("path", |field| read_redirect_path(&field))?,
        prefix: object.read("prefix", |field| parse_replacement(&field))?,
        code: object.read("code", |field| read_code(&field))?.unwrap_or(301),
    })
}

/// A redirect's path may have a query.
fn read_redirect_path(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if !path.starts_with('/') {
        return Err(cursor.expected("a path that starts with a slash"));
    }
    check_characters(path).map_err(|what| cursor.expected(what))?;
    if !query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(cursor.expected("a query in printable ASCII without spaces"));
    }
    Ok(text.to_owned())
}

pub(in crate::document) fn read_code(cursor: &Cursor<'_>) -> Result<u16, Rejection> {
    match cursor.value().as_u64() {
        Some(code @ (301 | 302 | 303 | 307 | 308)) => Ok(u16::try_from(code).expect("one of the five")),
        _ => Err(cursor.expected("301, 302, 303, 307 or 308")),
    }
}

fn read_respond(cursor: &Cursor<'_>) -> Result<Respond, Rejection> {
    let object = cursor.object(&RESPOND_FIELDS)?;
    let body = object.read("body", |field| {
        let text = field.value().as_str().ok_or_else(|| field.confidential("a string"))?;
        if text.len() > MAX_BODY {
            return Err(field.reject(format!("found {} bytes, expected at most {MAX_BODY}", text.len())));
        }
        Ok(text.to_owned())
    })?;

    let headers = object.read("headers", |field| {
        let values = read_values(&field)?;
        if values.len() > header::MAX_RESPOND {
            let count = values.len();
            return Err(field.reject(format!(
                "found {count} headers, expected at most {}",
                header::MAX_RESPOND
            )));
        }
        Ok(values)
    })?;

    let status = object
        .require("status", "a status from 200 to 599")?
        .integer(200..=599)?;
    if let (204 | 304, Some(field)) = (status, object.get("body"))
        && body.as_ref().is_some_and(|body| !body.is_empty())
    {
        return Err(field.reject(format!("found a body, expected none beside the status {status}")));
    }
    Ok(Respond {
        status,
        body,
        headers: headers.unwrap_or_default(),
    })
}

/// `rewrite`
pub(super) fn read_rewrite(cursor: &Cursor<'_>) -> Result<Rewrite, Rejection> {
    let object = cursor.object(&REWRITE_FIELDS)?;
    if let [first, second, ..] = object.present(&["prefix", "regex", "path"])[..] {
        let second = object.require(second, "a rewrite of the path")?;
        return Err(second.reject(format!("found beside {first:?}, expected one of the two")));
    }
    Ok(Rewrite {
        prefix: object.read("prefix", |field| parse_replacement(&field))?,
        regex: object.read("regex", |field| read_regex_rewrite(&field))?,
        path: object.read("path", |field| parse_replacement(&field))?,
        host: object.read("host", |field| match field.value().as_str() {
            Some("auto") => Ok(HostRewrite::Auto),
            _ => read_host(&field).map(HostRewrite::Name),
        })?,
    })
}

fn read_regex_rewrite(cursor: &Cursor<'_>) -> Result<RegexRewrite, Rejection> {
    let object = cursor.object(&REGEX_FIELDS)?;
    let field = object.require("pattern", "an RE2 regex")?;
    let pattern = field.text()?;
    regex::check(pattern, field.limits()).map_err(|reason| field.reject(reason))?;

    let with = object.require("with", "the text that takes the place of a match")?;
    check_substitution(&with, regex::groups(pattern))?;
    Ok(RegexRewrite {
        pattern: pattern.to_owned(),
        with: with.string()?.to_owned(),
    })
}

/// The substitution of a regex with so many groups: `\1` is a group, `\0` the whole match, `\\` a backslash.
fn check_substitution(cursor: &Cursor<'_>, groups: usize) -> Result<(), Rejection> {
    let text = cursor.string()?;
    check_characters(text).map_err(|what| cursor.expected(what))?;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            continue;
        }
        let group = letters.next();
        let known = group
            .and_then(|digit| digit.to_digit(10))
            .is_some_and(|digit| digit as usize <= groups);
        if !known && group != Some('\\') {
            return Err(cursor.expected(&format!(
                r#"a backslash only before "\" or the number of a group, at most {groups} here"#
            )));
        }
    }
    Ok(())
}

/// `mirror`
pub(super) fn read_mirrors(cursor: &Cursor<'_>) -> Result<Vec<Mirror>, Rejection> {
    cursor.entries()?.iter().map(read_mirror).collect()
}

fn read_mirror(cursor: &Cursor<'_>) -> Result<Mirror, Rejection> {
    let object = cursor.object(&MIRROR_FIELDS)?;
    let upstream = read_upstream(&object.require("cluster", "a cluster's name or a URL")?)?;
    let millionths = object.read("percent", |field| {
        let millionths = field.percent()? * MILLIONTHS;
        let rounded = millionths.round();
        if (millionths - rounded).abs() > 1e-6 {
            return Err(field.expected("at most four decimals"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million")]
        Ok(rounded as u32)
    })?;
    Ok(Mirror {
        upstream,
        millionths: millionths.unwrap_or(1_000_000),
    })
}

/// A host as it stands in a Host header: a name or an IP literal, without a port and final dot.
fn read_host(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    match parse_host(text.strip_suffix('.').unwrap_or(text)) {
        Ok(host) => Ok(in_host_header(&host)),
        Err(_) if parse_address(text).is_ok() => Err(cursor.expected("a host without a port")),
        Err(what) => Err(cursor.expected(what)),
    }
}
