//! `api_key`: a key in a header, a query parameter or a cookie.

use std::sync::Arc;

use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{HEADER as HEADER_NAME, TEXT};
use super::super::name::NAME;
use super::super::secret::Shape as SecretShape;
use super::super::{Rejection, sentence};
use super::app::read_cookie_name;
use super::service::{SecretName, read_header_name};

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "keys",
        Shape::List {
            of: &NAME,
            least: 1,
            most: MAX_SECRETS,
            once: true,
        },
        "Secrets with API keys",
    )
    .required(),
    Field::new(
        "from",
        Shape::entries(&Shape::Object(&SOURCE_FIELDS), MAX_SOURCES),
        "The first place with a key decides",
    )
    .or("`[{\"header\": \"x-api-key\"}]`"),
    Field::new(
        "clients",
        Shape::List {
            of: &TEXT,
            least: 1,
            most: MAX_CLIENTS,
            once: true,
        },
        "Clients that pass",
    )
    .or("every client of the secrets"),
    Field::new(
        "client_header",
        HEADER_NAME,
        "The upstream gets the name of the client in it",
    )
    .or("none"),
    Field::new("hide_credentials", Shape::Flag, "The upstream does not get the key").or("`true`"),
]);
const SOURCE_FIELDS: Fields = Fields::of(&[
    Field::new("header", HEADER_NAME, "A header; `Bearer ` before the key is dropped"),
    Field::new("query", TEXT, "A query parameter"),
    Field::new("cookie", TEXT, "A cookie"),
])
.filled();
const HEADER: &str = "x-api-key";
/// Most secrets, sources and clients of a policy.
const MAX_SECRETS: usize = 20;
const MAX_SOURCES: usize = 10;
const MAX_CLIENTS: usize = 1000;
/// Longest name of a parameter or a client, in bytes.
const MAX_NAME: usize = 256;

/// `api_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The secrets with clients and their keys; at least one.
    pub keys: Vec<SecretName>,
    /// Where a request carries its key; the first place with one decides.
    pub from: Vec<KeySource>,
    /// The clients that pass; `None`: every client of the secrets.
    pub clients: Option<Vec<Arc<str>>>,
    /// The header in which the upstream gets the name of the client.
    pub client_header: Option<String>,
    /// Whether the key goes no further.
    pub hides_credentials: bool,
}

/// A place of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A header; `Bearer ` before the key is dropped.
    Header(String),
    /// A query parameter.
    Query(String),
    /// A cookie.
    Cookie(String),
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<ApiKey, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let keys = object.require("keys", "a list of names of secrets documents with API keys")?;
    let entries = bounded(keys.entries()?, &keys, MAX_SECRETS)?;
    let mut secrets: Vec<SecretName> = Vec::new();
    for entry in &entries {
        let secret = SecretName::read(entry, "api_key", &[SecretShape::ApiKeys])?;
        if secrets.iter().any(|other| other.name == secret.name) {
            return Err(entry.reject("found a secret a second time, expected each once"));
        }
        secrets.push(secret);
    }

    let from = object.read("from", |field| {
        bounded(field.entries()?, &field, MAX_SOURCES)?
            .iter()
            .map(read_source)
            .collect()
    })?;
    Ok(ApiKey {
        keys: secrets,
        from: from.unwrap_or_else(|| vec![KeySource::Header(HEADER.to_owned())]),
        clients: object.read("clients", |field| read_clients(&field))?,
        client_header: object.read("client_header", |field| read_header_name(&field))?,
        hides_credentials: object.read("hide_credentials", |field| field.bool())?.unwrap_or(true),
    })
}

fn bounded<'a>(entries: Vec<Cursor<'a>>, list: &Cursor<'_>, most: usize) -> Result<Vec<Cursor<'a>>, Rejection> {
    match entries.len() {
        count if count > most => Err(list.reject(format!("found {count} entries, expected at most {most}"))),
        _ => Ok(entries),
    }
}

fn read_source(cursor: &Cursor<'_>) -> Result<KeySource, Rejection> {
    let object = cursor.object(&SOURCE_FIELDS)?;
    match (object.get("header"), object.get("query"), object.get("cookie")) {
        (Some(field), None, None) => read_header_name(&field).map(KeySource::Header),
        (None, Some(field), None) => match field.text()? {
            name if name.len() <= MAX_NAME && !name.contains(char::is_control) => Ok(KeySource::Query(name.to_owned())),
            _ => Err(field.expected("the name of a query parameter")),
        },
        (None, None, Some(field)) => read_cookie_name(&field).map(KeySource::Cookie),
        _ => Err(cursor.expected("one of \"header\", \"query\" and \"cookie\"")),
    }
}

fn read_clients(cursor: &Cursor<'_>) -> Result<Vec<Arc<str>>, Rejection> {
    let mut clients: Vec<Arc<str>> = Vec::new();
    for entry in bounded(cursor.entries()?, cursor, MAX_CLIENTS)? {
        let name = entry.text()?;
        if name.len() > MAX_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(entry.expected("the name of a client"));
        }
        if clients.iter().any(|other| **other == *name) {
            return Err(entry.reject(format!(
                "found {} a second time, expected it once",
                sentence::quote(name)
            )));
        }
        clients.push(name.into());
    }
    Ok(clients)
}
