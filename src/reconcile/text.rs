//! A text of a document: as written, with its key and revision, and as a parsed document.

use std::sync::Arc;

use bytes::Bytes;

use crate::document::Parsed;

/// A text as it stood at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// As written.
    pub value: Bytes,
    /// Of the key; 0 where the backend keeps none.
    pub create_revision: i64,
    /// Of this text.
    pub mod_revision: i64,
    /// Whether the key vanishes with a lease.
    pub leased: bool,
}

impl Text {
    /// Whether both texts stood at the key without a deletion between them, as far as the store says: a store without a
    /// history (a directory) has no `create_revision`.
    #[must_use]
    pub fn is_of_one_life(&self, other: &Self) -> bool {
        self.create_revision == other.create_revision || self.create_revision == 0 || other.create_revision == 0
    }
}

/// A text with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// The key in the store, lossily as text.
    pub(super) full_key: Arc<str>,
    /// The text.
    pub(super) text: Arc<Text>,
}

/// A text that parses, with its document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Good {
    pub(super) text: Arc<Text>,
    pub(super) parsed: Parsed,
}
