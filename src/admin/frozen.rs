//! The freezes in the store, and the refusal of writes of frozen documents.
//!
//! A freeze is a key `<state-prefix>freezes/ID`, so every replica refuses the same writes. Each change of documents reads
//! the freezes; an expired one does not count, and the next new freeze deletes it. Registrations are never frozen.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use humantime::format_rfc3339_seconds;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use super::problem::{Code, Problem};
use crate::backend::{Expect, Write};
use crate::document::key::{DocumentKey, Layout};

/// The folder below the state prefix.
pub(super) const FOLDER: &str = "freezes/";
/// The format that this version writes.
pub(super) const FORMAT: u32 = 1;

/// A freeze, as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Freeze {
    pub(super) format: u32,
    pub(super) id: String,
    /// A full key, or the begin of full keys with `*` at its end.
    pub(super) key: String,
    pub(super) why: String,
    pub(super) by: Option<String>,
    /// In milliseconds since 1970.
    pub(super) since: u64,
    pub(super) until: u64,
}

pub(super) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn shown_time(millis: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    format_rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

impl Freeze {
    /// Whether the freeze holds a document. A prefix holds secrets only if it names their folder.
    fn holds(&self, layout: &Layout, full_key: &str) -> bool {
        let Some(prefix) = self.key.strip_suffix('*') else {
            return self.key == full_key;
        };
        let names_secrets = |folder: &str| {
            let folder = format!("{}{folder}", layout.prefix);
            !full_key.starts_with(&folder) || prefix.starts_with(&folder)
        };
        full_key.starts_with(prefix) && names_secrets("secrets/") && names_secrets("xds/secrets/")
    }

    pub(super) fn shown(&self) -> serde_json::Value {
        json!({
            "id": self.id, "key": self.key, "why": self.why, "by": self.by,
            "since": shown_time(self.since), "until": shown_time(self.until),
        })
    }
}

/// The freezes, and those that are over.
pub(super) async fn read(admin: &Admin) -> Result<(Vec<Freeze>, Vec<String>), Problem> {
    let (_, entries) = admin.backend.list(&admin.journal.state_key(FOLDER)).await?;
    let now = millis(SystemTime::now());
    let freezes = entries
        .iter()
        .filter_map(|entry| serde_json::from_slice::<Freeze>(&entry.value).ok());
    let (mut current, over): (Vec<_>, Vec<_>) = freezes.partition(|freeze| freeze.until > now);
    current.sort_by(|one, other| (one.until, &one.id).cmp(&(other.until, &other.id)));
    Ok((current, over.into_iter().map(|freeze| freeze.id).collect()))
}

/// Refuse a change of frozen documents, each with its full key.
pub(super) async fn refuse_frozen<'a>(
    admin: &Admin,
    documents: impl Iterator<Item = (&'a DocumentKey, &'a str)>,
) -> Result<(), Problem> {
    let world = admin.world.load_full();
    let layout = &world.options().layout;
    let is_document = |(_, full_key): &(&DocumentKey, &str)| {
        let root = layout.root_of(full_key.as_bytes());
        root.is_none_or(|root| !root.is_registrations())
    };
    let documents: Vec<_> = documents.filter(is_document).collect();
    let Some((_, place)) = documents.first() else {
        return Ok(());
    };
    let (freezes, _) = read(admin).await.map_err(|problem| problem.of_key(*place))?;
    let frozen = documents.iter().filter_map(|(key, full_key)| {
        let freeze = freezes.iter().find(|freeze| freeze.holds(layout, full_key))?;
        let by = freeze.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let detail = format!(
            "{key} is frozen{by} until {}: {}; ?force=true makes the change nevertheless",
            shown_time(freeze.until),
            freeze.why
        );
        Some(Problem::new(Code::Frozen, detail).of_key(*full_key))
    });
    Problem::of_all(frozen)
}

pub(super) fn key_of(admin: &Admin, id: &str) -> Bytes {
    format!("{}{id}", admin.journal.state_key(FOLDER)).into()
}

pub(super) fn deletion(admin: &Admin, id: &str) -> Write {
    Write {
        key: key_of(admin, id),
        value: None,
        expect: Expect::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_secrets_only_if_it_names_them() {
        let holds = |key: &str, full_key: &str| {
            let freeze = Freeze {
                format: FORMAT,
                id: String::new(),
                key: key.to_owned(),
                why: String::new(),
                by: None,
                since: 0,
                until: 0,
            };
            freeze.holds(&Layout::default(), full_key)
        };
        assert!(holds("/gateway/routes/a", "/gateway/routes/a"));
        assert!(!holds("/gateway/routes/a", "/gateway/routes/ab"));
        assert!(holds("/gateway/*", "/gateway/routes/a"));
        assert!(!holds("/gateway/*", "/gateway/secrets/a"));
        assert!(!holds("/gateway/xds/*", "/gateway/xds/secrets/a"));
        assert!(holds("/gateway/secrets/*", "/gateway/secrets/a"));
        assert!(holds("/gateway/secrets/a", "/gateway/secrets/a"));
    }
}
