//! The shared memory in the store, beside the documents.
//!
//! A record is a JSON value at `<state-prefix>FOLDER/<key>`, the folder being `last-good`, `held` or `quarantine`;
//! [`memory`](crate::reconcile::memory) gives its meaning. Each write expects the record that it replaces. If no record
//! names the last good text, the history of the key is searched, from `mod_revision − 1` back.
//!
//! The text of a secret is sealed in its record if the server has keys. Without keys the store has it in the clear
//! anyway, at the document's key.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::unsaved::{Place, Unsaved};
use crate::backend::{Backend, Entry, Expect, ReadError, Write, WriteError};
use crate::document::secret::{AtRest, Vault};
use crate::document::{self, Limits, key::DocumentKey};
use crate::reconcile::hold::KEPT_FOR;
use crate::reconcile::memory::{Content, Folder, Known, MemoryWrite, Quarantine, Record, SharedHold};
use crate::reconcile::text::Text;
use crate::resource::refused::RefusedResource;
use crate::resource::{ResourceType, ResourceVersion};

/// How many earlier texts of one key are read.
const HISTORY_STEPS: usize = 32;
/// How many of them that parse are enough: the latest may be in the way of another document.
const HISTORY_TEXTS: usize = 3;
/// Records written in one transaction: a hold of a thousand documents is no thousand transactions.
const BATCH: usize = 64;
/// Bytes of them: etcd takes 1.5 MiB.
const BATCH_BYTES: usize = 512 * 1024;
/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// A record's shape in the store. Versions before had the first three fields alone.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    #[serde(default)]
    mod_revision: i64,
    #[serde(default)]
    create_revision: i64,
    value: Option<String>,
    #[serde(default)]
    leased: bool,
    about: Option<i64>,
    /// Milliseconds since 1970.
    #[serde(default)]
    since: u64,
    #[serde(default)]
    released: bool,
    #[serde(default)]
    is_lost_instance: bool,
    /// Milliseconds for which a lost instance is kept. Versions before kept each for a minute.
    kept_for: Option<u64>,
    hold: Option<SharedHold>,
    quarantine: Option<SavedQuarantine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedQuarantine {
    reason: String,
    resources: Vec<SavedResource>,
    is_sole_suspect: bool,
    is_accepted: bool,
}

/// A refused resource: its type by its name in the API, its version as on the wire.
#[derive(Debug, Serialize, Deserialize)]
struct SavedResource {
    group: String,
    r#type: String,
    name: String,
    version: String,
    part: Option<i64>,
}

/// The shared memory in the store. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    backend: Arc<dyn Backend>,
    state_prefix: Arc<str>,
    unsaved: Unsaved,
    vault: Vault,
}

impl Shared {
    /// Below `state_prefix` of this backend. Failed writes are reported to `unsaved`; `vault` seals secrets.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, state_prefix: &str, unsaved: Unsaved, vault: Vault) -> Self {
        Self {
            backend,
            state_prefix: state_prefix.into(),
            unsaved,
            vault,
        }
    }

    /// The prefix of a folder's records.
    #[must_use]
    pub fn prefix_of(&self, folder: Folder) -> String {
        format!("{}{}", self.state_prefix, folder.as_str())
    }

    /// A record from the store: the full key of its document, and its content; `None` if it cannot be read.
    #[must_use]
    pub fn read(&self, folder: Folder, entry: &Entry) -> Option<(Arc<str>, Known)> {
        let full_key = self.full_key(folder, &entry.key)?;
        match decode(&entry.value, |text| self.vault.text_of(&full_key, text)) {
            Ok(record) => {
                let known = Known::new(record, self.backend.etag(entry));
                Some((full_key, known))
            }
            Err(reason) => {
                warn!(
                    document.key = &*full_key,
                    reason, "Record below the state prefix cannot be read and is ignored"
                );
                None
            }
        }
    }

    /// The full key of a record's document.
    #[must_use]
    pub fn full_key(&self, folder: Folder, key: &[u8]) -> Option<Arc<str>> {
        let below = key.strip_prefix(self.prefix_of(folder).as_bytes())?;
        std::str::from_utf8(below).ok().map(Arc::from)
    }

    /// The latest texts before the one of `bad_revision`, back to the key's creation, that parse; oldest first.
    ///
    /// If the store is away, a patient search waits until the store answers again. Another one ends with the texts that
    /// it has.
    pub async fn search(
        &self,
        key: &DocumentKey,
        full_key: &str,
        bad_revision: i64,
        limits: &Limits,
        is_patient: bool,
    ) -> Vec<Arc<Text>> {
        let mut texts = Vec::new();
        let mut revision = bad_revision - 1;
        let mut steps = 0;
        while steps < HISTORY_STEPS {
            match self.backend.get_at(full_key.as_bytes(), revision).await {
                Ok(Some(entry)) => {
                    revision = entry.mod_revision - 1;
                    steps += 1;
                    if document::parse_with(key, &entry.value, limits, &self.vault).is_ok() {
                        texts.push(Arc::new(text_of(&entry)));
                    }
                }
                Ok(None) | Err(ReadError::NoHistory(_)) => break,
                Err(_) if is_patient => tokio::time::sleep(RETRY).await,
                Err(error) => {
                    warn!(
                        document.key = full_key,
                        revision, %error, "Earlier text of a document could not be read from the store"
                    );
                    break;
                }
            }
            if texts.len() == HISTORY_TEXTS {
                break;
            }
        }
        texts.reverse();
        texts
    }

    /// Carry out writes as they come, each until it succeeds, until `token` is cancelled.
    pub async fn run(self, writes: &DueWrites, token: CancellationToken) {
        loop {
            tokio::select! {
                () = writes.came.notified() => {}
                () = tokio::time::sleep(RETRY), if !writes.queue.lock().is_empty() => {}
                () = token.cancelled() => return,
            }
            // A store that does not answer must not hold up the end of the process.
            let written = tokio::select! {
                written = self.carry_out(writes) => written,
                () = token.cancelled() => return,
            };
            match written {
                Ok(()) => self.unsaved.saved(Place::Prefix),
                Err(error) => self.unsaved.failed(Place::Prefix, error.to_string()),
            }
        }
    }

    async fn carry_out(&self, writes: &DueWrites) -> Result<(), WriteError> {
        while let Some(numbered) = writes.batch() {
            let (numbers, batch): (Vec<u64>, Vec<MemoryWrite>) = numbered.into_iter().unzip();
            match self.write(&batch).await {
                Ok(()) => {}
                // Another replica was first with one of them: its record comes by the watch.
                Err(WriteError::Conflict { .. }) => self.write_each(&batch).await?,
                Err(WriteError::TooLarge(reason)) if batch.len() == 1 => {
                    let full_key = &*batch[0].full_key;
                    warn!(
                        document.key = full_key,
                        reason, "Record is too large for the store; replicas that start later do not have it"
                    );
                }
                Err(error) => return Err(error),
            }
            writes.queue.lock().done(&numbers);
        }
        Ok(())
    }

    /// Each record in a transaction of its own, all at once: the end of a hold does not wait behind the records of its
    /// begin that another replica wrote.
    async fn write_each(&self, batch: &[MemoryWrite]) -> Result<(), WriteError> {
        let writes = batch.iter().map(|write| self.write(std::slice::from_ref(write)));
        for written in join_all(writes).await {
            match written {
                Ok(()) | Err(WriteError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Seal the text of each record that another than the first key seals. Gives their number.
    ///
    /// # Errors
    /// A sentence why a record cannot be read or written. The records before it are written.
    pub async fn rotate(&self) -> Result<usize, String> {
        let mut rotated = 0;
        for folder in Folder::ALL {
            let listed = self.backend.list(&self.prefix_of(folder)).await;
            let (_, entries) = listed.map_err(|error| error.to_string())?;
            for entry in entries {
                let Some(anew) = self.sealed_anew(folder, &entry)? else {
                    continue;
                };
                let write = Write {
                    expect: Expect::Etag(self.backend.etag(&entry)),
                    key: entry.key,
                    value: Some(anew.into()),
                };
                self.backend
                    .write(vec![write])
                    .await
                    .map_err(|error| error.to_string())?;
                rotated += 1;
            }
        }
        Ok(rotated)
    }

    /// A record with its text sealed anew; `None`: it needs no seal, or is no record.
    fn sealed_anew(&self, folder: Folder, entry: &Entry) -> Result<Option<Vec<u8>>, String> {
        let saved = serde_json::from_slice::<Saved>(&entry.value).ok();
        let (Some(full_key), Some(mut saved)) = (self.full_key(folder, &entry.key), saved) else {
            return Ok(None);
        };
        let anew = match &saved.value {
            Some(text) => self.vault.sealed_anew(&full_key, text.as_bytes()),
            None => return Ok(None),
        };
        let Some(anew) = anew.map_err(|reason| format!("{full_key}: {reason}"))? else {
            return Ok(None);
        };
        saved.value = Some(anew);
        serde_json::to_vec(&saved).map(Some).map_err(|error| error.to_string())
    }

    /// The form of a text in a record.
    fn form_of(&self, full_key: &str, text: &[u8]) -> String {
        match self.vault.at_rest(full_key, text) {
            Ok(AtRest::Sealed(sealed)) => sealed,
            // A text that serves is UTF-8.
            _ => String::from_utf8_lossy(text).into_owned(),
        }
    }

    async fn write(&self, batch: &[MemoryWrite]) -> Result<(), WriteError> {
        let write = |write: &MemoryWrite| Write {
            key: format!("{}{}", self.prefix_of(write.folder), write.full_key).into(),
            value: (write.record.as_ref()).map(|record| encode(record, |text| self.form_of(&write.full_key, text))),
            expect: match &write.replaces {
                Some(etag) => Expect::Etag(etag.to_string()),
                None => Expect::Absent,
            },
        };
        self.backend.write(batch.iter().map(write).collect()).await.map(|_| ())
    }
}

/// Records that wait to be written. A later write of a record replaces an earlier one, so the queue never has more
/// entries than there are records. The loop adds to it without a wait.
#[derive(Debug, Default)]
pub struct DueWrites {
    queue: Mutex<Queue>,
    came: Notify,
}

impl DueWrites {
    /// Add writes.
    pub fn add(&self, writes: Vec<MemoryWrite>) {
        self.queue.lock().push(writes);
        self.came.notify_one();
    }

    fn batch(&self) -> Option<Vec<(u64, MemoryWrite)>> {
        self.queue.lock().batch()
    }
}

/// Writes in the order in which they came, one a record.
#[derive(Debug, Default)]
struct Queue {
    writes: BTreeMap<u64, MemoryWrite>,
    places: HashMap<(Folder, Arc<str>), u64>,
    next: u64,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn push(&mut self, writes: Vec<MemoryWrite>) {
        for write in writes {
            let place = (write.folder, Arc::clone(&write.full_key));
            if let Some(earlier) = self.places.insert(place, self.next) {
                self.writes.remove(&earlier);
            }
            self.writes.insert(self.next, write);
            self.next += 1;
        }
    }

    /// The first writes that fit in one transaction, each with its number.
    fn batch(&self) -> Option<Vec<(u64, MemoryWrite)>> {
        let mut bytes = 0;
        let fits = |(_, write): &(&u64, &MemoryWrite)| {
            let text = write.record.as_ref().and_then(Record::text);
            bytes += text.map_or(0, |text| text.value.len()) + write.full_key.len();
            bytes <= BATCH_BYTES
        };
        let numbered = |(number, write): (&u64, &MemoryWrite)| (*number, write.clone());
        let mut batch: Vec<_> = (self.writes.iter().take(BATCH).take_while(fits).map(numbered)).collect();
        if batch.is_empty() {
            batch.extend(self.writes.first_key_value().map(numbered));
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// These are written. A write that came meanwhile in the place of one of them stays.
    fn done(&mut self, numbers: &[u64]) {
        for number in numbers {
            if let Some(write) = self.writes.remove(number) {
                self.places.remove(&(write.folder, write.full_key));
            }
        }
    }
}

fn text_of(entry: &Entry) -> Text {
    Text {
        value: entry.value.clone(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        leased: entry.leased,
    }
}

/// A record from its JSON. `open` gives the text for its form in the record.
///
/// # Errors
/// Why the record cannot be read.
pub(super) fn decode(value: &[u8], open: impl FnOnce(String) -> Result<Vec<u8>, String>) -> Result<Record, String> {
    let mut saved: Saved = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let text = saved.value.take().map(open).transpose()?;
    Ok(from_saved(saved, text))
}

/// A record as JSON. `form` gives the form of its text in the record.
pub(super) fn encode(record: &Record, form: impl FnOnce(&[u8]) -> String) -> Bytes {
    let text = record.text();
    let age = record.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (hold, is_released) = match record.content {
        Content::Hold { hold, is_released } => (Some(hold), is_released),
        Content::LetGo(_) => (None, true),
        Content::Serves(_) | Content::LostInstance(..) | Content::Refused(..) => (None, false),
    };
    let quarantine = match &record.content {
        Content::Refused(_, quarantine) => Some(to_saved(quarantine)),
        _ => None,
    };
    let kept_for = match &record.content {
        Content::LostInstance(_, kept_for) => u64::try_from(kept_for.as_millis()).ok(),
        _ => None,
    };
    let saved = Saved {
        mod_revision: text.map_or(0, |text| text.mod_revision),
        create_revision: text.map_or(0, |text| text.create_revision),
        value: text.map(|text| form(&text.value)),
        leased: text.is_some_and(|text| text.leased),
        about: Some(record.about),
        since: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        released: is_released,
        is_lost_instance: matches!(record.content, Content::LostInstance(..)),
        kept_for,
        hold,
        quarantine,
    };
    serde_json::to_vec(&saved).map_or_else(|_| Bytes::new(), Bytes::from)
}

fn to_saved(quarantine: &Quarantine) -> SavedQuarantine {
    let resources = quarantine.resources.iter().map(|resource| SavedResource {
        group: resource.group.to_string(),
        r#type: resource.resource_type.to_string(),
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        part: resource.part,
    });
    SavedQuarantine {
        reason: quarantine.reason.to_string(),
        resources: resources.collect(),
        is_sole_suspect: quarantine.is_sole_suspect,
        is_accepted: quarantine.is_accepted,
    }
}

/// Resources of types that this version does not know are left out.
fn from_saved_quarantine(saved: SavedQuarantine) -> Quarantine {
    let resource = |saved: SavedResource| {
        Some(RefusedResource {
            group: saved.group.into(),
            resource_type: ResourceType::from_word(&saved.r#type)?,
            name: saved.name.into(),
            version: ResourceVersion(u128::from_str_radix(&saved.version, 16).ok()?),
            part: saved.part,
        })
    };
    Quarantine {
        resources: saved.resources.into_iter().filter_map(resource).collect(),
        reason: saved.reason.into(),
        is_sole_suspect: saved.is_sole_suspect,
        is_accepted: saved.is_accepted,
    }
}

fn from_saved(saved: Saved, text: Option<Vec<u8>>) -> Record {
    let text = text.map(|value| {
        Arc::new(Text {
            value: value.into(),
            create_revision: saved.create_revision,
            mod_revision: saved.mod_revision,
            leased: saved.leased,
        })
    });
    let content = match (saved.hold, text) {
        (None, text) if let Some(quarantine) = saved.quarantine => {
            Content::Refused(text, Arc::new(from_saved_quarantine(quarantine)))
        }
        (Some(hold), _) => Content::Hold {
            hold,
            is_released: saved.released,
        },
        (None, Some(text)) if saved.is_lost_instance => {
            let kept_for = saved.kept_for.map_or(KEPT_FOR, Duration::from_millis);
            Content::LostInstance(text, kept_for)
        }
        (None, Some(text)) if saved.released => Content::LetGo(text),
        (None, text) => Content::Serves(text),
    };
    Record {
        about: saved.about.unwrap_or(saved.mod_revision),
        since: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(saved.since))
            .unwrap_or(SystemTime::UNIX_EPOCH),
        content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::Memory;
    use crate::document::secret::sealed::Keys;

    const OLD: &str = "old AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
    const NEW: &str = "new AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";
    const SECRETS: [&str; 2] = ["/gateway/secrets/a", "/gateway/xds/secrets/b"];
    const ROUTE: &str = "/gateway/routes/a";

    fn shared(backend: &Arc<Memory>, keys: Option<&str>) -> Shared {
        let keys = keys.map(|keys| Keys::read(keys).unwrap());
        let vault = Vault::new("/gateway/", keys, false, None);
        let backend = Arc::clone(backend) as Arc<dyn Backend>;
        Shared::new(backend, "/chancery/", Unsaved::default(), vault)
    }

    fn record() -> Record {
        let text = Text {
            value: r#"{"generic": "hunter2"}"#.into(),
            create_revision: 1,
            mod_revision: 2,
            leased: false,
        };
        Record {
            about: 3,
            since: SystemTime::UNIX_EPOCH,
            content: Content::Serves(Some(Arc::new(text))),
        }
    }

    async fn write(shared: &Shared) {
        for full_key in SECRETS.into_iter().chain([ROUTE]) {
            let write = MemoryWrite::over(None, Folder::LastGood, full_key.into(), Some(record()));
            shared.write(&[write]).await.unwrap();
        }
    }

    /// The records as they lie in the store, and as they are read.
    async fn found(shared: &Shared) -> BTreeMap<String, (String, Option<Record>)> {
        let (_, entries) = shared.backend.list("/chancery/").await.unwrap();
        let read = |entry: &Entry| shared.read(Folder::LastGood, entry).map(|(_, known)| known.record);
        entries
            .iter()
            .map(|entry| {
                let key = String::from_utf8(entry.key.to_vec()).unwrap();
                let value = String::from_utf8(entry.value.to_vec()).unwrap();
                (key.replace("/chancery/last-good/", ""), (value, read(entry)))
            })
            .collect()
    }

    #[tokio::test]
    async fn the_text_of_a_secret_is_sealed_and_read_as_it_was() {
        let backend = Arc::new(Memory::new());
        let with_keys = shared(&backend, Some(OLD));
        write(&with_keys).await;
        let records = found(&with_keys).await;
        for (full_key, (value, read)) in &records {
            assert_eq!(value.contains("hunter2"), full_key == ROUTE, "{value}");
            assert_eq!(read.as_ref(), Some(&record()), "{full_key}");
        }
        assert_eq!(records.len(), 3);

        // A replica that has not this key takes no notice of them.
        let read = found(&shared(&backend, Some(NEW))).await;
        let unread: Vec<_> = read.into_iter().filter(|(_, (_, read))| read.is_none()).collect();
        assert_eq!(unread.len(), 2);
    }

    #[test]
    fn a_lost_instance_is_kept_as_long_as_its_record_says() {
        let Content::Serves(Some(text)) = record().content else {
            panic!("a text")
        };
        let lost = Record {
            content: Content::LostInstance(text, Duration::from_secs(20)),
            ..record()
        };
        let plain = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let saved = encode(&lost, plain);
        assert_eq!(decode(&saved, |text| Ok(text.into())).unwrap(), lost);
        // A record of a version before has no time.
        let before = String::from_utf8(saved.to_vec()).unwrap();
        let before = before.replace(r#""kept_for":20000"#, r#""kept_for":null"#);
        let read = decode(before.as_bytes(), |text| Ok(text.into())).unwrap();
        assert!(matches!(read.content, Content::LostInstance(_, KEPT_FOR)));
    }

    #[tokio::test]
    async fn without_keys_the_records_are_as_the_documents() {
        let backend = Arc::new(Memory::new());
        let without_keys = shared(&backend, None);
        write(&without_keys).await;
        for (value, read) in found(&without_keys).await.into_values() {
            assert!(value.contains("hunter2"));
            assert_eq!(read, Some(record()));
        }
        assert_eq!(without_keys.rotate().await, Ok(0));
    }

    #[tokio::test]
    async fn a_rotation_seals_with_the_first_key() {
        let backend = Arc::new(Memory::new());
        write(&shared(&backend, Some(OLD))).await;
        let both = shared(&backend, Some(&format!("{NEW}{OLD}")));
        assert_eq!(both.rotate().await, Ok(2));
        assert_eq!(both.rotate().await, Ok(0));
        for (_, read) in found(&shared(&backend, Some(NEW))).await.into_values() {
            assert_eq!(read, Some(record()));
        }

        let reason = shared(&backend, Some(OLD)).rotate().await.unwrap_err();
        assert_eq!(
            reason,
            "/gateway/secrets/a: found a document sealed with the key \"new\", expected one of --secret-keys-file"
        );
    }
}
