//! The quarantine of a store that no other replica shares (a directory): `quarantine.json` in the state directory.
//!
//! A directory has no place for records beside its documents, and gives other revisions to its files after a restart.
//! So a record names the refused text by its digest, and holds for a document that has this text when it is listed. The
//! file is written anew at each change, atomically; each record has a checksum.
//!
//! Of a secret, record and digest are sealed: the digest of a short text gives the text away. Without keys, nothing is
//! written of it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::warn;
use xxhash_rust::xxh3::xxh3_128;

use super::{Checksum, SavedFrom};
use crate::backend::Entry;
use crate::document::secret::Vault;
use crate::reconcile::memory::{Content, Record};
use crate::reconcile::persist::shared;
use crate::reconcile::text::Text;
use crate::reconcile::world::World;

const FILE: &str = "quarantine.json";

#[derive(Debug, Serialize, Deserialize)]
struct File {
    source: SavedFrom,
    records: Vec<Saved>,
}

/// A record of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    key: String,
    /// Digest of the refused text, in hex digits.
    refused: String,
    /// The record, as below the state prefix of etcd.
    record: String,
    /// Checksum of the other fields.
    sum: u32,
    /// A text of the record may be a secret.
    #[serde(skip)]
    is_secret: bool,
}

impl Saved {
    fn checksum(&self) -> u32 {
        let mut sum = Checksum::default();
        [&self.key, &self.refused, &self.record]
            .into_iter()
            .for_each(|text| sum.text(text));
        sum.end()
    }

    /// With its checksum.
    fn summed(self) -> Self {
        let sum = self.checksum();
        Self { sum, ..self }
    }

    /// The record as it is written; `None`: a secret that cannot be sealed.
    fn at_rest(&self, vault: &Vault) -> Option<Self> {
        if !self.is_secret {
            return Some(self.clone().summed());
        }
        let seal = |text: &str| vault.seal_text(&self.key, text);
        let (refused, record) = (seal(&self.refused)?, seal(&self.record)?);
        Some(
            Self {
                refused,
                record,
                ..self.clone()
            }
            .summed(),
        )
    }
}

/// A record of an earlier run, until its document is listed.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The document's full key.
    pub(in crate::reconcile) full_key: Arc<str>,
    refused: String,
    record: Record,
}

impl Kept {
    /// The record as it is about this entry; `None`: the document has another text now.
    pub(in crate::reconcile) fn about(&self, entry: &Entry) -> Option<Record> {
        let is_same = *entry.key == *self.full_key.as_bytes() && digest(&entry.value) == self.refused;
        is_same.then(|| {
            let mut record = self.record.clone();
            record.about = entry.mod_revision;
            // The counter of revisions may have begun anew.
            if let Content::Refused(Some(text), _) = &mut record.content {
                let mod_revision = text.mod_revision.min(entry.mod_revision - 1);
                *text = Arc::new(Text {
                    mod_revision,
                    ..(**text).clone()
                });
            }
            record
        })
    }
}

/// The records of a world, for the file.
pub(super) fn records(world: &World, vault: &Vault) -> Vec<Saved> {
    let saved = world.refused_texts().map(|(full_key, record, text)| {
        let texts = record.text().into_iter().chain([text]);
        let is_secret = texts
            .into_iter()
            .any(|text| vault.is_sealed_at_rest(full_key, &text.value));
        let record = shared::encode(record, |text| String::from_utf8_lossy(text).into_owned());
        Saved {
            key: full_key.to_string(),
            refused: digest(&text.value),
            record: String::from_utf8_lossy(&record).into_owned(),
            sum: 0,
            is_secret,
        }
    });
    saved.collect()
}

/// Write the file anew.
pub(super) fn write(folder: &Path, source: &SavedFrom, records: &[Saved], vault: &Vault) -> io::Result<()> {
    let file = File {
        source: source.clone(),
        records: records.iter().filter_map(|saved| saved.at_rest(vault)).collect(),
    };
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(&serde_json::to_vec(&file)?)?;
    temporary.as_file().sync_all()?;
    temporary.persist(folder.join(FILE))?;
    fs::File::open(folder)?.sync_all()
}

/// The records of an earlier run.
pub(super) fn read(folder: &Path, source: &SavedFrom, vault: &Vault) -> Vec<Kept> {
    let path = folder.join(FILE);
    let file = match fs::read(&path) {
        Ok(content) => serde_json::from_slice::<File>(&content).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => Err(error.to_string()),
    };
    let refused = |reason: String| {
        warn!(
            path = %path.display(),
            reason,
            "Saved quarantine is not used; documents that proxies refuse serve until the next NACK"
        );
        Vec::new()
    };
    match file {
        Err(reason) => refused(reason),
        Ok(file) if file.source != *source => refused(format!("found records of {}, expected {source}", file.source)),
        Ok(file) => {
            let all = file.records.len();
            let kept: Vec<Kept> = file
                .records
                .into_iter()
                .filter_map(|saved| kept(saved, vault))
                .collect();
            if kept.len() < all {
                warn!(
                    path = %path.display(),
                    records = all - kept.len(),
                    "Saved quarantine is damaged: these records are left out, the rest is used"
                );
            }
            kept
        }
    }
}

fn kept(saved: Saved, vault: &Vault) -> Option<Kept> {
    if saved.sum != saved.checksum() {
        return None;
    }
    let open = |text: String| String::from_utf8(vault.text_of(&saved.key, text).ok()?).ok();
    let (refused, record) = (open(saved.refused)?, open(saved.record)?);
    let record = shared::decode(record.as_bytes(), |text| Ok(text.into_bytes())).ok()?;
    Some(Kept {
        full_key: saved.key.into(),
        refused,
        record,
    })
}

fn digest(value: &[u8]) -> String {
    format!("{:032x}", xxh3_128(value))
}
