//! Values that are no PEM: users with passwords, API keys, keys for tokens, keys of session tickets.
//!
//! An entry is named by its place among the sorted names, not by its name: a key in the place of a name is a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::Confidential;
use crate::document::Rejection;
use crate::document::decode::Cursor;

/// The only hash of passwords that Envoy knows.
const SHA: &str = "{SHA}";
/// Bytes of a SHA-1.
const SHA_BYTES: usize = 20;
/// Fewest characters of an API key: Envoy's comparison is not constant-time.
const MIN_KEY: usize = 16;
/// Most API keys of a secret.
pub(super) const MAX_KEYS: usize = 1000;
/// Bytes of a key of session tickets: its name, the key of the HMAC, the key of AES.
const TICKET_KEY: usize = 16 + 32 + 32;

/// A text that is not empty.
pub(super) fn text<'a>(cursor: &Cursor<'a>, what: &str) -> Result<&'a str, Rejection> {
    let text = cursor.value().as_str().filter(|text| !text.is_empty());
    text.ok_or_else(|| match cursor.value().is_string() {
        true => cursor.reject(format!("found an empty string, expected {what}")),
        false => cursor.confidential(what),
    })
}

/// `users`: an object of names and hashes.
pub(super) fn users(cursor: &Cursor<'_>) -> Result<BTreeMap<Arc<str>, Confidential>, Rejection> {
    let object = cursor.value().as_object().filter(|object| !object.is_empty());
    let object = object.ok_or_else(|| cursor.confidential("an object of users with the hash of their passwords"))?;
    let sorted: BTreeMap<&String, &Value> = object.iter().collect();
    let mut users = BTreeMap::new();
    for (place, (name, hash)) in sorted.into_iter().enumerate() {
        let reject = |reason: String| cursor.reject(format!("{reason} (user {} by name)", place + 1));
        let hash = hash
            .as_str()
            .ok_or_else(|| reject("found no string, expected a hash".to_owned()))?;
        check_user(name, hash).map_err(reject)?;
        users.insert(name.as_str().into(), hash.into());
    }
    Ok(users)
}

/// `htpasswd`: a line for each user. Empty lines and lines that begin with `#` are left out.
pub(super) fn htpasswd(cursor: &Cursor<'_>) -> Result<BTreeMap<Arc<str>, Confidential>, Rejection> {
    let text = text(cursor, "lines of users and hashes, user:{SHA}…")?;
    let mut users = BTreeMap::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let reject = |reason: &str| cursor.reject(format!("{reason} (line {number})"));
        let (name, hash) = line
            .split_once(':')
            .ok_or_else(|| reject("found no colon, expected user:{SHA}…"))?;
        check_user(name, hash).map_err(|reason| reject(&reason))?;
        if users.insert(name.into(), hash.into()).is_some() {
            return Err(reject("found a user a second time, expected each once"));
        }
    }
    if users.is_empty() {
        return Err(cursor.reject("found no user, expected at least one"));
    }
    Ok(users)
}

fn check_user(name: &str, hash: &str) -> Result<(), String> {
    let is_plain = |character: char| !character.is_control() && character != ':';
    if name.is_empty() || name.trim() != name || !name.chars().all(is_plain) {
        let expected = "expected a name without a colon, control characters and blanks around it";
        return Err(format!("found a name that Envoy cannot tell from the hash, {expected}"));
    }
    let found = match hash.strip_prefix(SHA) {
        Some(encoded) if BASE64.decode(encoded).is_ok_and(|bytes| bytes.len() == SHA_BYTES) => return Ok(()),
        Some(_) => "a SHA-1 of a wrong length",
        None if hash.starts_with("$2") => "a bcrypt hash",
        None if hash.starts_with("$apr1$") || hash.starts_with("$1$") => "an MD5 hash",
        None if hash.starts_with("$5$") || hash.starts_with("$6$") => "a SHA-crypt hash",
        None if hash.starts_with("{SSHA}") => "a salted SHA-1",
        None => "no hash",
    };
    Err(format!(
        "found {found}, expected \"{SHA}\" and the base64 of the SHA-1, the only hash that Envoy knows"
    ))
}

/// `api_keys`: an object of clients, each with its key or a list of keys.
pub(super) fn api_keys(cursor: &Cursor<'_>) -> Result<BTreeMap<Arc<str>, Vec<Confidential>>, Rejection> {
    let object = cursor.value().as_object().filter(|object| !object.is_empty());
    let object = object.ok_or_else(|| cursor.confidential("an object of clients with their keys"))?;
    let sorted: BTreeMap<&String, &Value> = object.iter().collect();
    let (mut clients, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for (place, (name, keys)) in sorted.into_iter().enumerate() {
        let reject = |reason: &str| cursor.reject(format!("{reason} (client {} by name)", place + 1));
        if name.is_empty() || !name.chars().all(|character| character.is_ascii_graphic()) {
            return Err(reject(
                "found a name that no header can carry, expected visible ASCII characters",
            ));
        }
        let keys: Vec<&Value> = match keys {
            Value::Array(keys) => keys.iter().collect(),
            key => vec![key],
        };
        let mut own = Vec::with_capacity(keys.len());
        for key in keys {
            let key = key
                .as_str()
                .ok_or_else(|| reject("found no string, expected a key or a list of keys"))?;
            if key.len() < MIN_KEY || !key.chars().all(|character| character.is_ascii_graphic()) {
                return Err(reject(
                    "found a key that is too short or has other characters, expected at least 16 visible ASCII characters",
                ));
            }
            if !seen.insert(key) {
                return Err(reject("found a key a second time, expected each once"));
            }
            own.push(key.into());
        }
        if own.is_empty() {
            return Err(reject("found an empty list, expected at least one key"));
        }
        clients.insert(name.as_str().into(), own);
    }
    match seen.len() {
        ..=MAX_KEYS => Ok(clients),
        count => Err(cursor.reject(format!("found {count} keys, expected at most {MAX_KEYS}"))),
    }
}

/// `jwks`: a JSON Web Key Set with at least one key that Envoy can use.
pub(in crate::document) fn jwks(cursor: &Cursor<'_>) -> Result<Confidential, Rejection> {
    let expected = "a JSON Web Key Set, an object with \"keys\"";
    let keys = cursor.value().get("keys").and_then(Value::as_array);
    let keys = keys.ok_or_else(|| cursor.confidential(expected))?;
    let is_private = |key: &Value| key.get("kty").is_some_and(|kty| kty != "oct") && key.get("d").is_some();
    if let Some(index) = keys.iter().position(is_private) {
        return Err(cursor.reject(format!(
            "found the private part of a key (\"d\") in place {}, expected public keys",
            index + 1
        )));
    }
    if !keys.iter().any(is_usable) {
        let reason =
            "found no key that Envoy can use, expected one of RSA, EC (P-256, P-384, P-521), OKP (Ed25519) or oct";
        return Err(cursor.reject(reason));
    }
    Ok(cursor.value().to_string().into())
}

fn is_usable(key: &Value) -> bool {
    let bytes = |field: &str| {
        let text = key.get(field).and_then(Value::as_str).unwrap_or_default();
        URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .ok()
            .filter(|bytes| !bytes.is_empty())
    };
    let word = |field: &str| key.get(field).and_then(Value::as_str).unwrap_or_default();
    match word("kty") {
        "RSA" => bytes("n").is_some() && bytes("e").is_some(),
        "EC" => ["P-256", "P-384", "P-521"].contains(&word("crv")) && bytes("x").is_some() && bytes("y").is_some(),
        "OKP" => word("crv") == "Ed25519" && bytes("x").is_some_and(|bytes| bytes.len() == 32),
        "oct" => bytes("k").is_some(),
        _ => false,
    }
}

/// `session_tickets`: a list of keys.
pub(super) fn session_tickets(cursor: &Cursor<'_>) -> Result<Vec<Confidential>, Rejection> {
    let list = cursor.value().as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| cursor.confidential("a list of keys, each the base64 of 80 bytes"))?;
    let mut keys: Vec<Confidential> = Vec::with_capacity(list.len());
    for (index, key) in list.iter().enumerate() {
        let reject = |reason: String| Rejection::new(format!("{}[{index}]", cursor.path()), reason);
        let decoded = key.as_str().and_then(|key| BASE64.decode(key).ok());
        let decoded = decoded.ok_or_else(|| reject("found no base64, expected that of 80 bytes".to_owned()))?;
        if decoded.len() != TICKET_KEY {
            return Err(reject(format!(
                "found a key of {} bytes, expected {TICKET_KEY} bytes",
                decoded.len()
            )));
        }
        let key = Confidential::from(BASE64.encode(decoded));
        if keys.contains(&key) {
            return Err(reject("found a key a second time, expected each once".to_owned()));
        }
        keys.push(key);
    }
    Ok(keys)
}
