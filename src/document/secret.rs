//! `secrets/{name}`: a certificate with its key, authorities, or a value that Envoy or a policy needs.
//!
//! In: the fields of a secrets document. Out: a [`Secret`] of exactly one [`Shape`]. PEM is read to DER and written
//! anew, so that equal certificates are equal bytes, and Envoy reads no form that was not read here.
//!
//! | module | job |
//! |---|---|
//! | `read` | from fields to a secret |
//! | `pem` | certificates, private keys, revocation lists |
//! | `values` | users, API keys, keys for tokens, session tickets |
//! | `sealed` | sealed documents, and the keys that open them |
//! | `vault` | the things outside a document that it may need: keys and files |
//! | `validity` | when a secret expires, and the sentences about that |
//! | `confidential` | a text that no output shows |
//!
//! No value is quoted in a reason, nor the name of an unknown field or of an entry: a secret in a wrong place is one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::key::DocumentKey;
use super::{Groups, glob};

mod confidential;
mod pem;
pub(super) mod read;
pub mod sealed;
mod validity;
mod values;
mod vault;

pub use confidential::Confidential;
pub use pem::Certificate;
pub use validity::{Validity, moment};
pub(super) use values::jwks as read_jwks;
pub use vault::{AtRest, Files, Vault, key_id_in, sealed_in};

/// Largest secrets document, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// A secrets document.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// The secret itself.
    pub content: Content,
    /// The groups of proxies that have the secret; `None`: the groups that have a resource with a reference to it.
    pub groups: Groups,
    /// Patterns for `KIND/NAME` of the documents that may name it; `None`: any.
    pub used_by: Option<Vec<Arc<str>>>,
    /// The files that the content was read from, by field; none: the content stands in the document.
    pub files: BTreeMap<Arc<str>, Arc<str>>,
    /// The id of the key that the document is sealed with.
    pub sealed_with: Option<Arc<str>>,
}

/// The content of a secret.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// `certificate` and `private_key`.
    Certificate {
        /// The chain, the certificate of the key first; PEM.
        chain: Arc<str>,
        /// The key of the first certificate; PEM.
        private_key: Confidential,
        /// Each certificate of the chain.
        certificates: Vec<Certificate>,
    },
    /// `ca` and `crl`.
    Ca {
        /// The authorities; PEM.
        ca: Arc<str>,
        /// Revocation lists; PEM.
        crl: Option<Arc<str>>,
        /// Each authority.
        certificates: Vec<Certificate>,
        /// When the first revocation list is out of date, in seconds since 1970.
        crl_ends: Option<i64>,
    },
    /// `generic`.
    Generic(Confidential),
    /// `users` or `htpasswd`: the password of each user, `{SHA}` and the base64 of its SHA-1.
    Users(BTreeMap<Arc<str>, Confidential>),
    /// `api_keys`: the keys of each client.
    ApiKeys(BTreeMap<Arc<str>, Vec<Confidential>>),
    /// `jwks`: a JSON Web Key Set.
    Jwks(Confidential),
    /// `session_tickets`: keys of 80 bytes, in base64; the first seals.
    SessionTickets(Vec<Confidential>),
}

/// The shape of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `certificate` and `private_key`.
    Certificate,
    /// `ca`, with or without `crl`.
    Ca,
    /// `generic`.
    Generic,
    /// `users` or `htpasswd`.
    Users,
    /// `api_keys`.
    ApiKeys,
    /// `jwks`.
    Jwks,
    /// `session_tickets`.
    SessionTickets,
}

impl Shape {
    /// The word of reasons and of the API: the first field of the shape.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Ca => "ca",
            Self::Generic => "generic",
            Self::Users => "users",
            Self::ApiKeys => "api_keys",
            Self::Jwks => "jwks",
            Self::SessionTickets => "session_tickets",
        }
    }

    /// Whether Envoy has no SDS for the shape, so that the value stands in the resource of its user.
    #[must_use]
    pub fn is_by_value(self) -> bool {
        matches!(self, Self::Users | Self::ApiKeys | Self::Jwks)
    }
}

/// The word in quotes, as reasons have it.
impl fmt::Debug for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

impl Secret {
    /// The shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        match self.content {
            Content::Certificate { .. } => Shape::Certificate,
            Content::Ca { .. } => Shape::Ca,
            Content::Generic(_) => Shape::Generic,
            Content::Users(_) => Shape::Users,
            Content::ApiKeys(_) => Shape::ApiKeys,
            Content::Jwks(_) => Shape::Jwks,
            Content::SessionTickets(_) => Shape::SessionTickets,
        }
    }

    /// Whether a document may name the secret.
    #[must_use]
    pub fn admits(&self, user: &DocumentKey) -> bool {
        let user = user.to_string();
        self.used_by
            .as_ref()
            .is_none_or(|patterns| patterns.iter().any(|pattern| glob::matches(pattern, &user)))
    }

    /// The certificates of the secret.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        match &self.content {
            Content::Certificate { certificates, .. } | Content::Ca { certificates, .. } => certificates,
            _ => &[],
        }
    }

    /// When the secret can be used: of a chain, while every certificate is valid; of authorities, while any is and no
    /// revocation list is out of date.
    #[must_use]
    pub fn validity(&self) -> Validity {
        let certificates = self.certificates();
        let starts = certificates.iter().map(|certificate| certificate.not_before);
        let ends = certificates.iter().map(|certificate| certificate.not_after);
        match &self.content {
            Content::Ca { crl_ends, .. } => Validity {
                starts: starts.min(),
                ends: ends.max().into_iter().chain(*crl_ends).min(),
            },
            _ => Validity {
                starts: starts.max(),
                ends: ends.min(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
