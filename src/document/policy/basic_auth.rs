//! `basic_auth`: a user and a password in `authorization`.

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::HEADER as HEADER_NAME;
use super::super::name::NAME;
use super::super::secret::Shape as SecretShape;
use super::service::{SecretName, read_header_name};

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new("users", NAME, "Secret with users").required(),
    Field::new(
        "user_header",
        HEADER_NAME,
        "The upstream gets the name of the user in it",
    )
    .or("none"),
    Field::new(
        "hide_credentials",
        Shape::Flag,
        "The upstream does not get `authorization`",
    )
    .or("`true`"),
]);
/// The warning about every policy of the kind.
pub(super) const WARNING: &str = "Envoy knows one hash of passwords, SHA-1 without salt, and compares it in a time \
     that depends on it: take long random passwords, or another kind";

/// `basic_auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicAuth {
    /// The secret with users and hashes.
    pub users: SecretName,
    /// The header in which the upstream gets the name of the user.
    pub user_header: Option<String>,
    /// Whether `authorization` goes no further.
    pub hides_credentials: bool,
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<BasicAuth, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let users = object.require("users", "the name of a secrets document with users")?;
    Ok(BasicAuth {
        users: SecretName::read(&users, "basic_auth", &[SecretShape::Users])?,
        user_header: object.read("user_header", |field| read_header_name(&field))?,
        hides_credentials: object.read("hide_credentials", |field| field.bool())?.unwrap_or(true),
    })
}
