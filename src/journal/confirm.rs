//! Pure: the record of a change that is undone unless it is confirmed.
//!
//! The record lies at `<state-prefix>confirm/<revision>`. The writer of the journal puts it in front of the entry of the
//! change, so a change with an entry has its record. A confirmation, or the undo, deletes the record.

use serde::{Deserialize, Serialize};

/// The folder of the records below the state prefix.
pub const FOLDER: &str = "confirm/";
/// The format of records that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// A change that waits for a confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// A reader leaves a format that it does not know alone.
    pub format: u32,
    /// The revision of the change.
    pub revision: i64,
    /// The subject that made the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The time that the author gave, in milliseconds.
    pub within: u64,
    /// The end of this time, in milliseconds since 1970.
    pub until: u64,
    /// Why the change is not undone, although nobody has confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_undone: Option<String>,
}

impl Record {
    /// The key of the record of a revision below the state prefix.
    #[must_use]
    pub fn key(revision: i64) -> String {
        format!("{FOLDER}{revision}")
    }
}
