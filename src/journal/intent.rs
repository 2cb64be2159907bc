//! The intent of a write: who writes which documents, and why.
//!
//! The key `<state-prefix>writes/<request_id>` holds the intent, put in the transaction of the documents, so that no
//! replica sees one without the other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The folder of the intents below the state prefix.
pub const FOLDER: &str = "writes/";
/// The format of [`Intent`] that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// What a write through the API says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// A reader refuses a format that it does not know.
    pub format: u32,
    /// The authenticated subject; `None`: anonymous.
    pub actor: Option<String>,
    /// The reason that the author gave.
    pub message: Option<String>,
    /// How the write came.
    pub via: Via,
    /// Of a write by the server: the subject whose change it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The revision that the write undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<i64>,
    /// In milliseconds: the write is undone after this time, unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<u64>,
    /// By full key: every document of the request, also one that had the text already. A repeat of the request is
    /// answered with these.
    pub documents: BTreeMap<String, Action>,
    /// The part of a request that was written in several transactions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// How a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// Through the API.
    Api,
    /// Straight to the store.
    Direct,
    /// By the server: the time for a confirmation is over.
    Timer,
}

/// What a change does to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The document is new.
    Added,
    /// The document has another text.
    Changed,
    /// The document is gone.
    Removed,
    /// The document had this text, or was absent, already.
    Unchanged,
}

/// One of the transactions of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// The id of the request: the key of the part has this id and the number.
    pub request_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_is_read_as_it_was_written() {
        let intent = Intent {
            format: FORMAT,
            actor: Some("alice".to_owned()),
            message: None,
            via: Via::Api,
            of: None,
            undoes: None,
            confirm_within: Some(300_000),
            documents: [("/gateway/routes/a".to_owned(), Action::Added)].into(),
            part: None,
        };
        let text = serde_json::to_string(&intent).unwrap();
        assert_eq!(
            text,
            r#"{"format":1,"actor":"alice","message":null,"via":"api","confirm_within":300000,"documents":{"/gateway/routes/a":"added"}}"#
        );
        assert_eq!(serde_json::from_str::<Intent>(&text).unwrap(), intent);
    }
}
