//! `tcp` of a listener: connections that are passed on as they are, chosen by the name that a TLS client asks for (SNI).

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{NOT_EMPTY, words};
use super::super::host::is_host_name;
use super::super::route::Target;
use super::super::route::target::{TARGET, WEIGHTED, read_target, read_weighted};

/// `tcp`, as a shape.
pub(super) const SHAPE: Shape = Shape::AnyOf(&[ENTRY, Shape::entries(&ENTRY, MAX)]);
const ENTRY: Shape = Shape::Object(&FIELDS);
const FIELDS: Fields = Fields::of(&[
    Field::new(
        "sni",
        Shape::entries(&Shape::Text("name, `a.example.com` or `*.example.com`", NOT_EMPTY), MAX),
        "The names that a TLS client asks for (SNI). Each name once among all entries, whatever its case; at most one \
         entry has none",
    )
    .or("the rest"),
    Field::new(
        "to",
        Shape::AnyOf(&[TARGET, WEIGHTED]),
        "The target, as `to` of a [route](routes.md)",
    )
    .required(),
    Field::new(
        "idle_timeout",
        Shape::DurationOrNone,
        "Silence after which a connection is closed",
    )
    .or("`\"1h\"`"),
    Field::new(
        "hash_on",
        Shape::Words(&words(&HASHES)),
        "The client's address chooses the endpoint, if the cluster's policy hashes",
    ),
]);
const HASHES: [(&str, bool); 1] = [("client_ip", true)];
/// Most entries of a listener, and names of an entry.
const MAX: usize = 1000;
/// Silence of a connection in both directions if the document says nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// One entry: names, and the clusters of their connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpEntry {
    /// Lower-cased names, exact or `*.example.com`; empty: the connections of no other entry.
    pub sni: Vec<String>,
    /// At least one; weights sum to 1 or more.
    pub to: Vec<Target>,
    /// `None`: no limit.
    pub idle_timeout: Option<Duration>,
    /// Whether a client's address chooses the endpoint, where the cluster's policy hashes.
    pub hash_on_client_ip: bool,
}

/// A list, or one object.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Vec<TcpEntry>, Rejection> {
    if cursor.value().is_object() {
        return Ok(vec![read_entry(cursor, &mut Vec::new())?]);
    }
    if !cursor.value().is_array() {
        return Err(cursor.expected(r#"an object with "to" or a list of them"#));
    }
    let cursors = cursor.entries()?;
    if cursors.len() > MAX {
        return Err(cursor.reject(format!("found {} entries, expected at most {MAX}", cursors.len())));
    }
    let mut taken = Vec::new();
    let mut entries: Vec<TcpEntry> = Vec::new();
    for entry in &cursors {
        let read = read_entry(entry, &mut taken)?;
        if read.sni.is_empty() && entries.iter().any(|other| other.sni.is_empty()) {
            return Err(entry.reject("found a second entry without \"sni\", expected one at most"));
        }
        entries.push(read);
    }
    Ok(entries)
}

/// `taken`: the names of all entries so far.
fn read_entry(cursor: &Cursor<'_>, taken: &mut Vec<String>) -> Result<TcpEntry, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let mut sni = Vec::new();
    if let Some(field) = object.get("sni") {
        let names = field.entries()?;
        if names.len() > MAX {
            return Err(field.reject(format!("found {} names, expected at most {MAX}", names.len())));
        }
        for entry in names {
            let name = read_name(&entry)?;
            if taken.contains(&name) {
                return Err(entry.expected("each name once among all entries"));
            }
            taken.push(name.clone());
            sni.push(name);
        }
    }
    let to = object.require("to", r#"a cluster's name, a URL or a list of {"cluster", "weight"}"#)?;
    let to = if to.value().is_array() {
        read_weighted(&to)?
    } else {
        let upstream = read_target(&to, to.string()?)?;
        vec![Target { upstream, weight: 1 }]
    };
    Ok(TcpEntry {
        sni,
        to,
        idle_timeout: object
            .read("idle_timeout", |field| field.duration_or_none())?
            .unwrap_or(Some(IDLE_TIMEOUT)),
        hash_on_client_ip: object.read("hash_on", |field| field.word(&HASHES))?.unwrap_or(false),
    })
}

fn read_name(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let name = cursor.string()?.to_ascii_lowercase();
    let host = name.strip_prefix("*.").unwrap_or(&name);
    match is_host_name(host) {
        true => Ok(name),
        false => Err(cursor.expected("a name such as \"db.example.com\" or \"*.example.com\"")),
    }
}
