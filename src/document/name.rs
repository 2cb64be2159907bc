//! Names: the rule for names of documents, and the form of keys.
//!
//! A name is 1 to 63 characters of `a-z 0-9 - . _`, the first a letter or digit. The same rule holds for the segments
//! of a key and for references to them. Only a route in an older form may have any key: it is older than the rule.

use std::sync::Arc;

use super::Rejection;
use super::decode::{Cursor, Field, Object, Shape};
use super::field::STRING;
use super::key::{DocumentKey, Kind};
use super::sentence::{did_you_mean, quote};

/// The rule in the words of a rejection.
pub(super) const A_NAME: &str = "a name: 1 to 63 characters of a-z 0-9 - . _, the first a letter or digit";

/// A name, as a shape.
pub(super) const NAME: Shape = Shape::Text("name", Some("^[a-z0-9][a-z0-9._-]{0,62}$"));
/// A list of names, as a shape.
pub(super) const NAMES: Shape = Shape::List {
    of: &NAME,
    least: 1,
    most: usize::MAX,
    once: true,
};
/// `name` of a document.
pub(super) const FIELD: Field = Field::new("name", STRING, "If present, equal to the name in the key");

/// Whether a text is a name.
pub(super) fn is_name(text: &str) -> bool {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| ordinary(byte) || b"-._".contains(&byte))
        && text.bytes().next().is_some_and(ordinary)
}

/// Reads a reference to another document.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Arc<str>, Rejection> {
    let text = cursor.string()?;
    if is_name(text) {
        Ok(text.into())
    } else {
        Err(cursor.expected(A_NAME))
    }
}

/// Reads a list of references, none twice, at least one.
pub(super) fn read_list(cursor: Cursor<'_>) -> Result<Vec<Arc<str>>, Rejection> {
    let mut names = Vec::new();
    for entry in cursor.entries()? {
        let name = read(&entry)?;
        if names.contains(&name) {
            return Err(entry.expected("each name once"));
        }
        names.push(name);
    }
    Ok(names)
}

/// The `name` inside a document must agree with its key.
pub(super) fn check_inner(object: &Object<'_>, key: &DocumentKey) -> Result<(), Rejection> {
    let Some(field) = object.get("name") else { return Ok(()) };
    if field.string()? == &*key.name {
        return Ok(());
    }
    Err(field.expected(&format!("{}, the name in its key, or none", quote(&key.name))))
}

/// Checks the key of a route in an older form: the key is a name on the wire and is part of log lines.
pub(super) fn check_older_key(key: &DocumentKey) -> Result<(), Rejection> {
    if key.name.is_empty() {
        return Err(Rejection::new(
            "",
            "found no name in the key after its prefix, expected one",
        ));
    }
    if key.name.chars().any(char::is_control) {
        let found = quote(&key.to_string());
        return Err(Rejection::new(
            "",
            format!("found the key {found}, expected one without control characters"),
        ));
    }
    Ok(())
}

/// The key of a kind whose documents have up to `most` names after the kind.
pub(super) fn check_segments(key: &DocumentKey, shape: &str, most: usize) -> Result<(), Rejection> {
    let found: Vec<&str> = key.name.split('/').collect();
    if found.len() > most {
        return Err(Rejection::new(
            "",
            format!("found the key {}, expected {shape}", quote(&key.to_string())),
        ));
    }
    match found.into_iter().find(|segment| !is_name(segment)) {
        Some(segment) => Err(Rejection::new(
            "",
            format!("found {} in the key, expected {A_NAME}", quote(segment)),
        )),
        None => Ok(()),
    }
}

/// The key of a registration: a cluster's name, and anything for the instance.
pub(super) fn check_registration(key: &DocumentKey) -> Result<(), Rejection> {
    let cluster = key.first_segment();
    if !is_name(cluster) {
        return Err(Rejection::new(
            "",
            format!("found the cluster {} in the key, expected {A_NAME}", quote(cluster)),
        ));
    }

    let instance = key
        .name
        .strip_prefix(cluster)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or_default();

    if instance.is_empty() {
        return Err(Rejection::new(
            "",
            "found no instance in the key, expected {cluster}/{instance}",
        ));
    }

    Ok(())
}

/// The rejection of a key of no kind.
pub(super) fn unknown_kind(key: &str) -> Rejection {
    let word = key.split('/').next().unwrap_or_default();
    if word == Kind::Services.as_str() && key.contains('@') {
        let cluster = key.split('/').nth(1).unwrap_or_default();
        let reason = format!("found the cluster {} in the key, expected {A_NAME}", quote(cluster));
        return Rejection::new("", reason);
    }
    if word == Kind::Services.as_str() {
        return Rejection::new(
            "",
            "registrations belong below the registry prefix, not below the documents' prefix",
        );
    }

    if key.contains(char::REPLACEMENT_CHARACTER) {
        return Rejection::new("", format!("found the key {}, expected UTF-8", quote(key)));
    }
    if let Some(kind) = Kind::from_word(word) {
        let shape = if kind == Kind::Defaults {
            "\"defaults\" alone"
        } else {
            "a name after it"
        };
        return Rejection::new("", format!("found the key {}, expected {shape}", quote(key)));
    }

    let words = Kind::ALL.into_iter().map(Kind::as_str);
    Rejection::new("", format!("unknown kind {}{}", quote(word), did_you_mean(word, words)))
}
