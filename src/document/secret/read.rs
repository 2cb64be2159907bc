//! From the fields of a secrets document to a [`Secret`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::sealed::key_id;
use super::vault::{FILES, SEALED};
use super::{Content, MAX_BYTES, Secret, Shape, Vault, pem, values};
use crate::document::decode::{Cursor, Object};
use crate::document::key::{DocumentKey, Kind};
use crate::document::sentence::{one_of, quote};
use crate::document::{Rejection, groups, text};

/// The fields whose value is an object or a list, in a file too.
const STRUCTURED: [&str; 4] = ["users", "api_keys", "jwks", "session_tickets"];
/// The fields around the secret.
const AROUND: [&str; 3] = ["name", "groups", "used_by"];
/// The fields of each shape.
const SHAPES: [(Shape, &[&str]); 7] = [
    (Shape::Certificate, &["certificate", "private_key"]),
    (Shape::Ca, &["ca", "crl"]),
    (Shape::Generic, &["generic"]),
    (Shape::Users, &["users", "htpasswd"]),
    (Shape::ApiKeys, &["api_keys"]),
    (Shape::Jwks, &["jwks"]),
    (Shape::SessionTickets, &["session_tickets"]),
];

/// Checks the size of the text.
pub(in crate::document) fn check_size(value: &[u8]) -> Result<(), Rejection> {
    match value.len() {
        ..=MAX_BYTES => Ok(()),
        size => Err(Rejection::new(
            "",
            format!("found {size} bytes, expected at most {MAX_BYTES}"),
        )),
    }
}

/// Reads a secrets document, sealed or not. Also returns warnings about it.
pub(in crate::document) fn read(
    key: &DocumentKey,
    root: &Cursor<'_>,
    vault: &Vault,
) -> Result<(Secret, Vec<String>), Rejection> {
    let Some(field) = root.get(SEALED) else {
        let (secret, mut warnings) = read_open(key, root, vault)?;
        // The files are on the host of the server; their names are no secret.
        if secret.files.is_empty() {
            warnings.extend(vault.judge_plain().map_err(|reason| root.reject(reason))?);
        }
        return Ok((secret, warnings));
    };

    root.confidential_object(&[SEALED])?;
    let sealed = values::text(&field, "a sealed text, \"v1.KEYID.BASE64\"")?;
    let opened = vault.open(key, sealed).map_err(|reason| field.reject(reason))?;
    let value = text::confidential(&opened)?;
    let (secret, warnings) = read_open(key, &Cursor::root(&value, root.limits()), vault)?;
    let sealed_with = key_id(sealed).ok().map(Arc::from);
    Ok((Secret { sealed_with, ..secret }, warnings))
}

fn read_open(key: &DocumentKey, root: &Cursor<'_>, vault: &Vault) -> Result<(Secret, Vec<String>), Rejection> {
    let of_shapes = SHAPES.iter().flat_map(|(_, fields)| *fields).copied();
    let fields: Vec<&'static str> = of_shapes.clone().chain([FILES]).chain(AROUND).collect();
    let object = root.confidential_object(&fields)?;
    if let Some(name) = object.get("name").filter(|name| name.value() != &*key.name) {
        return Err(name.confidential(&format!("{}, the name in its key, or none", quote(&key.name))));
    }

    let mut warnings = Vec::new();
    let (content, files) = match object.get(FILES) {
        None => (content(&object, &mut warnings)?, BTreeMap::new()),
        Some(field) if object.present(&of_shapes.clone().collect::<Vec<_>>()).is_empty() => {
            let files = paths(&field, &of_shapes.collect::<Vec<_>>())?;
            let value = contents(key, &files, vault)?;
            warnings.extend(vault.warning(key).map(|warning| format!("{FILES}: {warning}")));
            let inner = Cursor::instead(FILES, &value, root.limits());
            let content = content(&inner.confidential_object(&fields)?, &mut warnings)?;
            (content, files)
        }
        Some(field) => return Err(field.reject("found beside a secret, expected one of the two")),
    };
    Ok((
        Secret {
            content,
            groups: groups::read(&object)?,
            used_by: object.read("used_by", |field| patterns(&field))?,
            files,
            sealed_with: None,
        },
        warnings,
    ))
}

/// The path of each field in `files`.
fn paths(field: &Cursor<'_>, known: &[&'static str]) -> Result<BTreeMap<Arc<str>, Arc<str>>, Rejection> {
    field.confidential_object(known)?;
    let mut files = BTreeMap::new();
    for (name, path) in field.map()? {
        files.insert(name.into(), values::text(&path, "the path of a file")?.into());
    }
    Ok(files)
}

/// The content of the files, as if it stood in the document.
fn contents(key: &DocumentKey, files: &BTreeMap<Arc<str>, Arc<str>>, vault: &Vault) -> Result<Value, Rejection> {
    let mut object = Map::new();
    for (name, path) in files {
        let at = format!("{FILES}.{name}");
        let content = vault
            .content(key, path)
            .map_err(|reason| Rejection::new(&*at, reason))?;
        let value = match STRUCTURED.contains(&&**name) {
            true => text::confidential(content.as_bytes()).map_err(|error| Rejection::new(at, error.reason))?,
            // Editors end a file with a newline.
            false => content.strip_suffix('\n').unwrap_or(&content).into(),
        };
        object.insert(name.to_string(), value);
    }
    Ok(Value::Object(object))
}

fn content(object: &Object<'_>, warnings: &mut Vec<String>) -> Result<Content, Rejection> {
    let present = SHAPES.iter().filter(|(_, fields)| !object.present(fields).is_empty());
    let shapes: Vec<Shape> = present.map(|(shape, _)| *shape).collect();
    let [shape] = shapes.as_slice() else {
        let words = |shapes: &[Shape]| one_of(&shapes.iter().map(|shape| format!("{shape:?}")).collect::<Vec<_>>());
        let found = match shapes.as_slice() {
            [] => "found no secret".to_owned(),
            [first, second, ..] => format!("found {first:?} and {second:?}"),
            [_] => String::new(),
        };
        let all: Vec<Shape> = SHAPES.iter().map(|(shape, _)| *shape).collect();
        return Err(object.reject(format!("{found}, expected one of {}", words(&all))));
    };

    match shape {
        Shape::Certificate => certificate(object),
        Shape::Ca => authorities(object, warnings),
        Shape::Generic => {
            let field = object.require("generic", "a text")?;
            Ok(Content::Generic(values::text(&field, "a text")?.into()))
        }
        Shape::Users => match (object.get("users"), object.get("htpasswd")) {
            (Some(_), Some(htpasswd)) => Err(htpasswd.reject("found beside \"users\", expected one of the two")),
            (Some(users), None) => Ok(Content::Users(values::users(&users)?)),
            (None, _) => Ok(Content::Users(values::htpasswd(
                &object.require("htpasswd", "a text")?,
            )?)),
        },
        Shape::ApiKeys => Ok(Content::ApiKeys(values::api_keys(
            &object.require("api_keys", "an object")?,
        )?)),
        Shape::Jwks => Ok(Content::Jwks(values::jwks(&object.require("jwks", "an object")?)?)),
        Shape::SessionTickets => {
            let field = object.require("session_tickets", "a list")?;
            Ok(Content::SessionTickets(values::session_tickets(&field)?))
        }
    }
}

fn certificate(object: &Object<'_>) -> Result<Content, Rejection> {
    let field = object.require("certificate", "the certificate of \"private_key\" in PEM")?;
    let chain =
        pem::certificates(values::text(&field, "certificates in PEM")?).map_err(|reason| field.reject(reason))?;
    pem::check_own_key(&chain).map_err(|reason| field.reject(reason))?;
    let field = object.require("private_key", "the private key of \"certificate\" in PEM")?;
    let text = values::text(&field, "a private key in PEM")?;
    let private_key = pem::private_key(text, &chain).map_err(|reason| field.reject(reason))?;
    Ok(Content::Certificate {
        chain: chain.pem,
        private_key,
        certificates: chain.shown,
    })
}

fn authorities(object: &Object<'_>, warnings: &mut Vec<String>) -> Result<Content, Rejection> {
    let field = object.require("ca", "the certificates of authorities in PEM")?;
    let text = values::text(&field, "certificates in PEM")?;
    let authorities = pem::certificates(text).map_err(|reason| field.reject(reason))?;
    let lists = object.read("crl", |field| {
        let text = values::text(&field, "revocation lists in PEM")?;
        pem::revocation_lists(text).map_err(|reason| field.reject(reason))
    })?;
    if let Some(authority) = lists.as_ref().and_then(|lists| pem::without_list(&authorities, lists)) {
        warnings.push(format!(
            "crl: no revocation list of {}; Envoy refuses every certificate that this authority signed",
            quote(authority)
        ));
    }
    Ok(Content::Ca {
        ca: authorities.pem,
        certificates: authorities.shown,
        crl_ends: lists.as_ref().and_then(|lists| lists.ends),
        crl: lists.map(|lists| lists.pem),
    })
}

/// `used_by`: patterns for the documents that may name the secret.
fn patterns(cursor: &Cursor<'_>) -> Result<Vec<Arc<str>>, Rejection> {
    const EXPECTED: &str = "patterns for kinds and names, such as \"clusters/pay*\"";
    let entries = cursor.value().as_array().ok_or_else(|| cursor.confidential(EXPECTED))?;
    let mut patterns: Vec<Arc<str>> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let is_known = |pattern: &&str| {
            let word = pattern.split('/').next().unwrap_or_default();
            word.contains('*') || Kind::from_word(word).is_some()
        };
        let Some(pattern) = entry.as_str().filter(is_known) else {
            let path = format!("{}[{index}]", cursor.path());
            return Err(Rejection::new(
                path,
                format!("found no kind of document, expected {EXPECTED}"),
            ));
        };
        patterns.push(pattern.into());
    }
    Ok(patterns)
}
