//! `registries/{name}`: a place where services register themselves already, for clusters that name it in `registry`.
//!
//! | module | what it is |
//! |---|---|
//! | this file | the document |
//! | [`Format`] (`format`) | how a registry names services and instances in its keys |
//! | `values` | how a registry writes an instance: from a key and its value to [`Offer`](super::endpoint::Offer)s |
//! | [`normal`] | the one form in which instances of all registries become documents |
//!
//! The server only reads a registry.

use std::sync::Arc;

use url::Url;

use super::decode::{Cursor, Field, Fields, Object, Shape};
use super::field::{NOT_EMPTY, words};
use super::key::DocumentKey;
use super::reference::Reference;
use super::{Rejection, name, secret};

mod format;
pub mod normal;
pub(super) mod values;

pub use format::Format;

/// The fields of a registry.
pub(super) const FIELDS: Fields = Fields::of(&[
    name::FIELD,
    Field::new(
        "prefix",
        Shape::Text("text, 1,024 bytes at most", NOT_EMPTY),
        "Prefix of the keys; a slash at its end is added if it is missing",
    )
    .required(),
    Field::new(
        "format",
        Shape::Words(&words(&format::WORDS)),
        "Framework that writes the keys. See [Formats](registries.md#formats)",
    )
    .required(),
    Field::new(
        "etcd",
        Shape::List {
            of: &Shape::Text("URL of a member", Some("^https?://")),
            least: 1,
            most: MAX_MEMBERS,
            once: true,
        },
        "Members of another etcd than that of the documents. See [Another etcd](registries.md#another-etcd)",
    )
    .or("the etcd of the documents"),
    Field::new("tls", Shape::Object(&TLS_FIELDS), "TLS to `etcd`").or("the authorities of the system, for `https`"),
    Field::new("auth", Shape::Object(&AUTH_FIELDS), "User of `etcd`").or("none"),
]);
const TLS_FIELDS: Fields = Fields::of(&[
    Field::new(
        "ca",
        name::NAME,
        "Authorities of its certificate: a [secret](secrets.md) of the shape `ca`",
    )
    .or("the authorities of the system"),
    Field::new(
        "client_certificate",
        name::NAME,
        "Certificate that the server shows: a secret of the shape `certificate`",
    )
    .or("none"),
]);
const AUTH_FIELDS: Fields = Fields::of(&[
    Field::new(
        "user",
        Shape::Text("text, 256 bytes at most", NOT_EMPTY),
        "Name of the user",
    )
    .required(),
    Field::new("secret", name::NAME, "Password: a secret of the shape `generic`").required(),
]);
/// Most members of an etcd.
const MAX_MEMBERS: usize = 16;
/// Longest prefix, in bytes.
const MAX_PREFIX: usize = 1024;

/// A registries document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The prefix of the keys; ends with a slash.
    pub prefix: Arc<str>,
    /// The program that registers the services.
    pub format: Format,
    /// Its own etcd; `None`: the store of the documents.
    pub etcd: Option<Etcd>,
}

/// The etcd of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// `scheme://host:port` of each member.
    pub members: Vec<String>,
    /// The secret with the authorities of their certificates; `None`: those of the system.
    pub ca: Option<Arc<str>>,
    /// The secret with the certificate that the server shows.
    pub client_certificate: Option<Arc<str>>,
    /// The user, and the secret with the password.
    pub auth: Option<(String, Arc<str>)>,
}

impl Registry {
    /// The secrets that the document names: for the server, not for proxies.
    pub(super) fn references(&self) -> Vec<Reference> {
        let Some(etcd) = &self.etcd else {
            return Vec::new();
        };
        let ca = etcd
            .ca
            .iter()
            .map(|name| Reference::secret("tls.ca", name, &[secret::Shape::Ca]));
        let own = etcd.client_certificate.iter();
        let own = own.map(|name| Reference::secret("tls.client_certificate", name, &[secret::Shape::Certificate]));
        let password = etcd.auth.iter();
        let password = password.map(|(_, name)| Reference::secret("auth.secret", name, &[secret::Shape::Generic]));
        ca.chain(own).chain(password).collect()
    }
}

/// Reads a registries document.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Registry, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    Ok(Registry {
        prefix: read_prefix(&object.require("prefix", "the prefix of the keys, such as \"/microservices/\"")?)?,
        format: format::read(&object.require("format", &format::expected())?)?,
        etcd: read_etcd(&object)?,
    })
}

fn read_etcd(object: &Object<'_>) -> Result<Option<Etcd>, Rejection> {
    let Some(members) = object.get("etcd") else {
        return match ["tls", "auth"].into_iter().find_map(|name| object.get(name)) {
            Some(field) => Err(field.reject("found without \"etcd\", expected that beside it")),
            None => Ok(None),
        };
    };
    let tls = object.read("tls", |field| {
        let object = field.object(&TLS_FIELDS)?;
        let secret = |name| object.read(name, |field| name::read(&field));
        Ok((secret("ca")?, secret("client_certificate")?))
    })?;
    let mut urls = Vec::new();
    for entry in members.entries()? {
        let url = read_member(&entry, tls.is_some())?;
        if urls.contains(&url) {
            return Err(entry.confidential("each member once"));
        }
        urls.push(url);
    }
    if urls.len() > MAX_MEMBERS {
        let found = urls.len();
        return Err(members.reject(format!("found {found} members, expected at most {MAX_MEMBERS}")));
    }
    let (ca, client_certificate) = tls.unwrap_or_default();
    Ok(Some(Etcd {
        members: urls,
        ca,
        client_certificate,
        auth: object.read("auth", |field| read_auth(&field))?,
    }))
}

/// The URL of a member in its shortest form. The found text is not quoted: it may hold a password.
fn read_member(cursor: &Cursor<'_>, has_tls: bool) -> Result<String, Rejection> {
    const A_MEMBER: &str = "the URL of a member such as \"https://10.0.9.1:2379\", without user, password and path";
    let url = Url::parse(cursor.string()?).map_err(|_| cursor.confidential(A_MEMBER))?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let is_whole = is_plain && url.fragment().is_none() && url.path() == "/";
    match (url.scheme(), url.host_str(), url.port_or_known_default()) {
        ("http", Some(_), _) if has_tls => Err(cursor.confidential("https, because \"tls\" is beside it")),
        (scheme @ ("http" | "https"), Some(host), Some(port)) if is_whole => Ok(format!("{scheme}://{host}:{port}")),
        _ => Err(cursor.confidential(A_MEMBER)),
    }
}

fn read_auth(cursor: &Cursor<'_>) -> Result<(String, Arc<str>), Rejection> {
    let object = cursor.object(&AUTH_FIELDS)?;
    let user = object.require("user", "the name of a user")?;
    let name = user.text()?;
    if name.len() > 256 || name.contains(char::is_control) {
        return Err(user.expected("at most 256 bytes without control characters"));
    }
    let secret = object.require("secret", "the name of a secret")?;
    // A password that stands here by mistake is not quoted.
    let secret = name::read(&secret).map_err(|_| secret.confidential(name::A_NAME))?;
    Ok((name.to_owned(), secret))
}

/// A prefix without a slash at its end would take in the keys of other services that begin alike.
fn read_prefix(cursor: &Cursor<'_>) -> Result<Arc<str>, Rejection> {
    let text = cursor.string()?.trim_end_matches('/');
    if text.is_empty() || text.len() > MAX_PREFIX || text.contains(char::is_control) {
        return Err(cursor.expected("the prefix of the keys, 1 to 1024 bytes without control characters"));
    }
    Ok(format!("{text}/").into())
}
