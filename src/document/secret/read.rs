//! From the fields of a secrets document to a [`Secret`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::sealed::key_id;
use super::vault::{FILES, SEALED};
use super::{Content, MAX_BYTES, Secret, Shape, Vault, pem, values};
use crate::document::decode::{Cursor, Field, Fields, Object};
use crate::document::field::{self, TEXT};
use crate::document::key::{DocumentKey, Kind};
use crate::document::sentence::{one_of, quote};
use crate::document::{Rejection, groups, name, text};

/// A secret, as a shape.
pub(in crate::document) const SHAPE: field::Shape =
    field::Shape::AnyOf(&[field::Shape::Object(&FIELDS), field::Shape::Object(&SEALED_FIELDS)]);
const FIELDS: Fields = Fields::joined(&[
    CERTIFICATE,
    CA,
    GENERIC,
    USERS,
    API_KEYS,
    JWKS,
    SESSION_TICKETS,
    IN_FILES,
    AROUND,
]);
/// The fields of a sealed secret.
const SEALED_FIELDS: Fields = Fields::of(&[Field::new(
    SEALED,
    field::Shape::Text("`v1.KEYID.BASE64`", field::NOT_EMPTY),
    "The whole document, sealed. See [Sealed documents](secrets.md#sealed-documents)",
)
.required()]);
/// The fields whose value may stand in a file.
const CONTENT_FIELDS: Fields = Fields::joined(&[CERTIFICATE, CA, GENERIC, USERS, API_KEYS, JWKS, SESSION_TICKETS]);
/// The fields whose value is an object or a list, in a file too.
const STRUCTURED: [&str; 4] = ["users", "api_keys", "jwks", "session_tickets"];
/// The fields of each shape.
const SHAPES: [(Shape, Fields); 7] = [
    (Shape::Certificate, Fields::of(CERTIFICATE)),
    (Shape::Ca, Fields::of(CA)),
    (Shape::Generic, Fields::of(GENERIC)),
    (Shape::Users, Fields::of(USERS)),
    (Shape::ApiKeys, Fields::of(API_KEYS)),
    (Shape::Jwks, Fields::of(JWKS)),
    (Shape::SessionTickets, Fields::of(SESSION_TICKETS)),
];
const CERTIFICATE: &[Field] = &[
    Field::new(
        "certificate",
        TEXT,
        "The chain in PEM, the certificate of the key first",
    ),
    Field::new(
        "private_key",
        TEXT,
        "The key of the certificate in PEM, without a password",
    ),
];
const CA: &[Field] = &[
    Field::new("ca", TEXT, "Certificates of authorities in PEM"),
    Field::new("crl", TEXT, "Revocation lists of these authorities in PEM"),
];
const GENERIC: &[Field] = &[Field::new("generic", TEXT, "A text that is not empty")];
const USERS: &[Field] = &[
    Field::new(
        "users",
        field::Shape::FilledMap(&field::STRING),
        "Users with the hash of their passwords, `{SHA}` and the base64 of the SHA-1",
    ),
    Field::new("htpasswd", TEXT, "The same as lines, `user:{SHA}…`; not beside `users`"),
];
const API_KEYS: &[Field] = &[Field::new(
    "api_keys",
    field::Shape::FilledMap(&field::Shape::AnyOf(&[
        TEXT,
        field::Shape::entries(&TEXT, values::MAX_KEYS),
    ])),
    "Clients, each with a key or a list of keys",
)];
const JWKS: &[Field] = &[Field::new("jwks", field::Shape::Free, "A JSON Web Key Set")];
const SESSION_TICKETS: &[Field] = &[Field::new(
    "session_tickets",
    field::Shape::entries(&TEXT, usize::MAX),
    "Keys of 80 bytes in base64; the first seals, all open",
)];
const IN_FILES: &[Field] = &[Field::new(
    FILES,
    field::Shape::Each(
        &CONTENT_FIELDS,
        &field::Shape::Text("path of a file on the server's host", field::NOT_EMPTY),
    ),
    "The content of each field is that of the file. See [Files](secrets.md#files)",
)];
const AROUND: &[Field] = &[
    name::FIELD,
    Field::new(
        "groups",
        name::NAMES,
        "The [groups](groups.md) of proxies that have the secret",
    )
    .or("those that use it"),
    Field::new(
        "used_by",
        field::Shape::list(&TEXT),
        "Patterns such as `\"clusters/pay*\"`: the documents that may name the secret, as `KIND/NAME`; `*` stands for \
         any characters",
    )
    .or("any"),
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

    root.confidential_object(&SEALED_FIELDS)?;
    let sealed = values::text(&field, "a sealed text, \"v1.KEYID.BASE64\"")?;
    let opened = vault.open(key, sealed).map_err(|reason| field.reject(reason))?;
    let mut value = text::confidential(&opened)?;
    text::take_off_schema(&mut value)?;
    let (secret, warnings) = read_open(key, &Cursor::root(&value, root.limits()), vault)?;
    let sealed_with = key_id(sealed).ok().map(Arc::from);
    Ok((Secret { sealed_with, ..secret }, warnings))
}

fn read_open(key: &DocumentKey, root: &Cursor<'_>, vault: &Vault) -> Result<(Secret, Vec<String>), Rejection> {
    let object = root.confidential_object(&FIELDS)?;
    if let Some(name) = object.get("name").filter(|name| name.value() != &*key.name) {
        return Err(name.confidential(&format!("{}, the name in its key, or none", quote(&key.name))));
    }

    let mut warnings = Vec::new();
    let (content, files) = match object.get(FILES) {
        None => (content(&object, &mut warnings)?, BTreeMap::new()),
        Some(field) if object.present_of(&CONTENT_FIELDS).is_empty() => {
            let files = paths(&field)?;
            let value = contents(key, &files, vault)?;
            warnings.extend(vault.warning(key).map(|warning| format!("{FILES}: {warning}")));
            let inner = Cursor::instead(FILES, &value, root.limits());
            let content = content(&inner.confidential_object(&FIELDS)?, &mut warnings)?;
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
fn paths(field: &Cursor<'_>) -> Result<BTreeMap<Arc<str>, Arc<str>>, Rejection> {
    field.confidential_object(&CONTENT_FIELDS)?;
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
        let content = vault.secret(key, path).map_err(|reason| Rejection::new(&*at, reason))?;
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
    let present = SHAPES
        .iter()
        .filter(|(_, fields)| !object.present_of(fields).is_empty());
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
