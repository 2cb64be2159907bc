//! `hash_on`: the parts of a request whose hash chooses an endpoint.

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{HEADER, NOT_EMPTY, STRING};
use super::condition::parse_parameter_name;
use super::header::parse_name;
use super::path::check_characters;
use super::{HashKey, HashOn};

/// `hash_on`, as a shape.
pub(super) const SHAPE: Shape = Shape::entries(
    &Shape::AnyOf(&[Shape::Words(&["client_ip"]), Shape::Object(&FIELDS)]),
    usize::MAX,
);
const FIELDS: Fields = Fields::of(&[
    Field::new("header", HEADER, "The value of the header"),
    Field::new("cookie", Shape::Object(&COOKIE_FIELDS), "The value of the cookie"),
    Field::new(
        "query",
        Shape::Text("name of a parameter", NOT_EMPTY),
        "The first value of the parameter",
    ),
    Field::new("client_ip", Shape::On, "The address of the client"),
    Field::new(
        "terminal",
        Shape::Flag,
        "Later entries count only if this part is missing",
    )
    .or("`false`"),
])
.filled();
const KEYS: [&str; 4] = ["header", "cookie", "query", "client_ip"];
const COOKIE_FIELDS: Fields = Fields::of(&[
    Field::new(
        "name",
        Shape::Text("name of a cookie", Some("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")),
        "Name of the cookie",
    )
    .required(),
    Field::new(
        "ttl",
        Shape::AnyOf(&[Shape::Duration, Shape::Words(&["0s"])]),
        "If the cookie is missing, Envoy makes one that lives for so many seconds; `\"0s\"`: for the session; `null`: \
         Envoy makes none",
    )
    .or("`\"0s\"`"),
    Field::new("path", STRING, "Path of a cookie that Envoy makes").or("`\"/\"`"),
]);
/// Longest name of a cookie, in bytes.
const MAX_COOKIE_NAME: usize = 256;
const AN_ENTRY: &str = r#""client_ip" or an object with one of "header", "cookie", "query" and "client_ip""#;

pub(super) fn read(cursor: &Cursor<'_>) -> Result<Vec<HashOn>, Rejection> {
    cursor.entries()?.iter().map(read_entry).collect()
}

fn read_entry(cursor: &Cursor<'_>) -> Result<HashOn, Rejection> {
    if cursor.value().as_str() == Some("client_ip") {
        return Ok(HashOn {
            key: HashKey::ClientIp,
            terminal: false,
        });
    }
    if !cursor.value().is_object() {
        return Err(cursor.expected(AN_ENTRY));
    }

    let object = cursor.object(&FIELDS)?;
    let present = object.present(&KEYS);
    let [name] = present[..] else {
        let count = present.len();
        return Err(cursor.reject(format!(
            "found {count} parts of a request, expected one of \"header\", \"cookie\", \"query\" and \"client_ip\""
        )));
    };
    let field = object.require(name, "a part of a request")?;
    let key = match name {
        "header" => HashKey::Header(parse_name(&field, field.string()?, "")?),
        "cookie" => read_cookie(&field)?,
        "query" => HashKey::Query(parse_parameter_name(&field, field.string()?)?),
        _ if field.bool()? => HashKey::ClientIp,
        _ => return Err(field.expected("true")),
    };
    Ok(HashOn {
        key,
        terminal: object.read("terminal", |field| field.bool())?.unwrap_or(false),
    })
}

fn read_cookie(cursor: &Cursor<'_>) -> Result<HashKey, Rejection> {
    let object = cursor.object(&COOKIE_FIELDS)?;
    let name = object.require("name", "a cookie's name")?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let text = name.string()?;
    if text.is_empty() || text.len() > MAX_COOKIE_NAME || !text.bytes().all(token) {
        return Err(name.expected("a cookie's name: letters, digits and !#$%&'*+-.^_`|~"));
    }

    let never = cursor.value().get("ttl").is_some_and(serde_json::Value::is_null);
    let ttl = object.read("ttl", |field| match field.value().as_str() {
        Some("0s") => Ok(Duration::ZERO),
        _ => whole_seconds(&field),
    })?;
    Ok(HashKey::Cookie {
        name: text.to_owned(),
        ttl: if never { None } else { Some(ttl.unwrap_or_default()) },
        path: object
            .read("path", |field| read_cookie_path(&field))?
            .unwrap_or_else(|| "/".to_owned()),
    })
}

/// A cookie's `Max-Age` has no fractions.
fn whole_seconds(cursor: &Cursor<'_>) -> Result<Duration, Rejection> {
    let ttl = cursor.duration()?;
    match ttl.subsec_nanos() {
        0 => Ok(ttl),
        _ => Err(cursor.expected("a duration of whole seconds, \"0s\" for the session, or null for no new cookie")),
    }
}

fn read_cookie_path(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    if !text.starts_with('/') || text.contains(';') {
        return Err(cursor.expected("a path that starts with a slash, without a semicolon"));
    }
    check_characters(text).map_err(|what| cursor.expected(what))?;
    Ok(text.to_owned())
}
