//! `tls` of a listener: its certificates, and what it asks of clients.

use std::sync::Arc;

use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{TEXT, words};
use super::super::route::StringMatch;
use super::super::route::condition;
use super::super::{Rejection, name};

/// The fields of `tls`.
pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "certificates",
        Shape::List {
            of: &name::NAME,
            least: 1,
            most: MAX,
            once: true,
        },
        "[Secrets](secrets.md). Each client gets the one for the name that it asks for (SNI): a name of the \
         certificate, a wildcard, else the first",
    )
    .required(),
    Field::new("min_version", Shape::Words(&words(&VERSIONS)), "Lowest version of TLS").or("`\"1.2\"`"),
    Field::new("max_version", Shape::Words(&words(&VERSIONS)), "Highest version of TLS").or("`\"1.3\"`"),
    Field::new(
        "alpn",
        Shape::List {
            of: &TEXT,
            least: 1,
            most: MAX,
            once: true,
        },
        "Protocols that a client may choose; of HTTP only these two",
    )
    .or("`[\"h2\", \"http/1.1\"]`; of `tcp` none"),
    Field::new(
        "client_ca",
        name::NAME,
        "A secret with `ca`: authorities of the certificates of clients, perhaps with a revocation list. Needs \
         `client_certificate`",
    ),
    Field::new(
        "client_certificate",
        Shape::Words(&words(&DEMANDS)),
        "Needed with `client_ca`. `\"optional\"`: a client without a certificate is served, too; a bad certificate is \
         refused",
    ),
    Field::new(
        "client_names",
        Shape::entries(&Shape::Object(&NAME_FIELDS), MAX),
        "The certificate has one of these names",
    )
    .or("any"),
    Field::new(
        "forward_client_certificate",
        Shape::Words(&words(&FORWARDS)),
        "The request header `x-forwarded-client-cert`: removed; subject, URI and DNS names of this client; those \
         appended to the client's header; the client's header, written by a trusted proxy in front",
    )
    .or("`\"none\"`"),
    Field::new(
        "session_tickets",
        name::NAME,
        "A secret with `session_tickets`: keys that all proxies share",
    )
    .or("Envoy's own keys"),
]);
/// The fields of a name in a client's certificate.
pub(in crate::document) const NAME_FIELDS: Fields = Fields::of(&[
    Field::new("uri", condition::PLAIN, "Condition on a URI"),
    Field::new("dns", condition::PLAIN, "Condition on a DNS name"),
])
.filled();
const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];
const DEMANDS: [(&str, bool); 2] = [("required", true), ("optional", false)];
const FORWARDS: [(&str, Forward); 4] = [
    ("none", Forward::None),
    ("set", Forward::Set),
    ("append", Forward::Append),
    ("forward", Forward::Forward),
];
/// Most certificates, and names of clients.
const MAX: usize = 100;
/// Longest name of a protocol in ALPN, in bytes.
const MAX_ALPN: usize = 255;

/// `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Secrets, at least one, each once; chosen by SNI.
    pub certificates: Vec<Arc<str>>,
    /// Default 1.2.
    pub min_version: TlsVersion,
    /// Default 1.3.
    pub max_version: TlsVersion,
    /// Protocols for ALPN; default: those of HTTP, or none for TCP.
    pub alpn: Option<Vec<String>>,
    /// `client_ca` and the fields that need it.
    pub client: Option<Client>,
    /// The header `x-forwarded-client-cert`; default: none.
    pub forward: Forward,
    /// The secret with keys of session tickets; default: Envoy's own keys.
    pub session_tickets: Option<Arc<str>>,
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// `"1.2"`
    V12,
    /// `"1.3"`
    V13,
}

/// What is asked of a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The secret with the authorities.
    pub ca: Arc<str>,
    /// `"required"`; else a client without a certificate is served, too.
    pub is_required: bool,
    /// One of these names is in the certificate; empty: any.
    pub names: Vec<(NameKind, StringMatch)>,
}

/// Kinds of names in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// `uri`
    Uri,
    /// `dns`
    Dns,
}

/// `forward_client_certificate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// A client's header is removed.
    None,
    /// The header tells of this connection's certificate.
    Set,
    /// This connection's certificate is appended to the client's header.
    Append,
    /// The client's header is kept: a trusted proxy in front wrote it.
    Forward,
}

/// Reads `tls`.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Tls, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let certificates = object.require("certificates", "a list of secrets")?;
    let names = name::read_list(certificates.clone())?;
    if names.len() > MAX {
        return Err(certificates.reject(format!("found {} certificates, expected at most {MAX}", names.len())));
    }

    let min_version = object
        .read("min_version", |field| field.word(&VERSIONS))?
        .unwrap_or(TlsVersion::V12);
    let max_version = object
        .read("max_version", |field| field.word(&VERSIONS))?
        .unwrap_or(TlsVersion::V13);
    if let Some(field) = object.get("max_version").filter(|_| max_version < min_version) {
        return Err(field.expected("a version not below \"min_version\""));
    }

    let ca = object.read("client_ca", |field| name::read(&field))?;
    let is_required = object.read("client_certificate", |field| field.word(&DEMANDS))?;
    let client_names = object.read("client_names", |field| read_names(&field))?;
    let client = match (ca, is_required) {
        (Some(ca), Some(is_required)) => Some(Client {
            ca,
            is_required,
            names: client_names.unwrap_or_default(),
        }),
        (None, None) if client_names.is_none() => None,
        (Some(_), None) => {
            let missing = object.require(
                "client_certificate",
                "\"required\" or \"optional\" beside \"client_ca\"",
            );
            return Err(missing.err().unwrap_or_else(|| object.reject("")));
        }
        // Without an authority Envoy takes every certificate.
        (None, _) => {
            let missing = object.require("client_ca", "the secret with the authorities of client certificates");
            return Err(missing.err().unwrap_or_else(|| object.reject("")));
        }
    };

    Ok(Tls {
        certificates: names,
        min_version,
        max_version,
        alpn: object.read("alpn", |field| read_alpn(&field))?,
        client,
        forward: object
            .read("forward_client_certificate", |field| field.word(&FORWARDS))?
            .unwrap_or(Forward::None),
        session_tickets: object.read("session_tickets", |field| name::read(&field))?,
    })
}

fn read_alpn(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let mut protocols = Vec::new();
    for entry in cursor.entries()? {
        let text = entry.text()?;
        if text.len() > MAX_ALPN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(entry.expected("the name of a protocol such as \"h2\""));
        }
        if protocols.iter().any(|other| other == text) {
            return Err(entry.expected("each protocol once"));
        }
        protocols.push(text.to_owned());
    }
    if protocols.len() > MAX {
        return Err(cursor.reject(format!("found {} protocols, expected at most {MAX}", protocols.len())));
    }
    Ok(protocols)
}

fn read_names(cursor: &Cursor<'_>) -> Result<Vec<(NameKind, StringMatch)>, Rejection> {
    let entries = cursor.entries()?;
    if entries.len() > MAX {
        return Err(cursor.reject(format!("found {} names, expected at most {MAX}", entries.len())));
    }
    entries.iter().map(read_name).collect()
}

/// A condition on a name in a client's certificate.
pub(in crate::document) fn read_name(cursor: &Cursor<'_>) -> Result<(NameKind, StringMatch), Rejection> {
    let object = cursor.object(&NAME_FIELDS)?;
    let [kind] = object.present_of(&NAME_FIELDS)[..] else {
        return Err(object.reject("expected one of \"uri\" and \"dns\""));
    };
    let field = object.require(kind, "a condition")?;
    let kind = if kind == "uri" { NameKind::Uri } else { NameKind::Dns };
    Ok((kind, condition::read_plain(&field)?))
}
