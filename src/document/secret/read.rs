//! From the fields of a secrets document to a [`Secret`].

use std::sync::Arc;

use super::{Content, MAX_BYTES, Secret, Shape, pem, values};
use crate::document::decode::{Cursor, Object};
use crate::document::key::{DocumentKey, Kind};
use crate::document::sentence::{one_of, quote};
use crate::document::{Rejection, groups};

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

/// Reads a secrets document. Also returns warnings about it.
pub(in crate::document) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<(Secret, Vec<String>), Rejection> {
    let fields: Vec<&'static str> = SHAPES
        .iter()
        .flat_map(|(_, fields)| *fields)
        .chain(&AROUND)
        .copied()
        .collect();
    let object = root.confidential_object(&fields)?;
    if let Some(name) = object.get("name").filter(|name| name.value() != &*key.name) {
        return Err(name.confidential(&format!("{}, the name in its key, or none", quote(&key.name))));
    }
    let mut warnings = Vec::new();
    Ok((
        Secret {
            content: content(&object, &mut warnings)?,
            groups: groups::read(&object)?,
            used_by: object.read("used_by", |field| patterns(&field))?,
        },
        warnings,
    ))
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
