//! Keys below the state prefix, as files in the state directory.
//!
//! The folder of documents holds the documents alone. Entries of the journal, freezes, and authors of writes under way lie
//! here. A file is named by a hash of its key, below a folder named by the first segment of the key. Its first line is
//! JSON ([`Head`]), the rest is the value. A damaged file is left out with a warning, and costs no other. Blocks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tracing::warn;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::write::Step;
use crate::backend::Entry;

/// The folder in the state directory.
const FOLDER: &str = "keys";

/// The keys of one server.
#[derive(Debug)]
pub(super) struct Keys {
    folder: PathBuf,
    prefix: String,
}

/// The first line of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    key: String,
    /// The revision of the folder when the value was written.
    revision: i64,
    /// Checksum of the value. Older versions wrote none.
    sum: Option<u32>,
}

/// A checksum against damage of the disk.
fn checksum(value: &[u8]) -> u32 {
    let [a, b, c, d, ..] = xxh3_64(value).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl Keys {
    pub(super) fn new(state_dir: &Path, prefix: String) -> Self {
        Self {
            folder: state_dir.join(FOLDER),
            prefix,
        }
    }

    /// Whether a key, or every key below a prefix, lies in the state directory.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix.as_bytes())
    }

    /// One key.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>, String> {
        self.read(&self.path_of(key))
    }

    /// All keys below a prefix, sorted.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn list(&self, prefix: &[u8]) -> Result<Vec<Entry>, String> {
        let below = prefix.strip_prefix(self.prefix.as_bytes()).unwrap_or_default();
        let folders = match below.contains(&b'/') {
            true => vec![self.folder_of(prefix)],
            false => files(&self.folder).map_err(|error| unreadable(&self.folder, &error))?,
        };
        let mut entries = Vec::new();
        for folder in folders {
            for path in files(&folder).map_err(|error| unreadable(&folder, &error))? {
                entries.extend(self.read(&path)?.filter(|entry| entry.key.starts_with(prefix)));
            }
        }
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(entries)
    }

    /// The change of a file that puts a key at a revision, or removes it.
    pub(super) fn step(&self, key: &[u8], value: Option<&Bytes>, revision: i64) -> Step {
        let path = self.path_of(key);
        let Some(value) = value else {
            return Step::Remove(path);
        };
        let head = Head {
            key: String::from_utf8_lossy(key).into_owned(),
            revision,
            sum: Some(checksum(value)),
        };
        let mut content = serde_json::to_vec(&head).unwrap_or_default();
        content.push(b'\n');
        content.extend_from_slice(value);
        Step::PutPrivate(path, content.into())
    }

    fn folder_of(&self, key: &[u8]) -> PathBuf {
        let below = key.strip_prefix(self.prefix.as_bytes()).unwrap_or(key);
        let segment = below.split(|byte| *byte == b'/').next().unwrap_or_default();
        let name = utf8_percent_encode(&String::from_utf8_lossy(segment), NON_ALPHANUMERIC).to_string();
        self.folder.join(format!("_{name}"))
    }

    fn path_of(&self, key: &[u8]) -> PathBuf {
        self.folder_of(key).join(format!("{:032x}", xxh3_128(key)))
    }

    /// The entry of a file; `None` if there is no file, another key's, or a damaged one.
    fn read(&self, path: &Path) -> Result<Option<Entry>, String> {
        let content = match fs::read(path) {
            Ok(content) => Bytes::from(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(path, &error)),
        };
        let end = content.iter().position(|byte| *byte == b'\n').unwrap_or(content.len());
        let value = content.slice((end + 1).min(content.len())..);
        let head = serde_json::from_slice::<Head>(&content[..end]).ok();
        let Some(head) = head.filter(|head| head.sum.is_none_or(|sum| sum == checksum(&value))) else {
            warn!(path = %path.display(), "File in the state directory is damaged and left out");
            return Ok(None);
        };
        Ok(self.has(head.key.as_bytes()).then(|| Entry {
            key: head.key.into(),
            value,
            create_revision: 0,
            mod_revision: head.revision,
            leased: false,
        }))
    }
}

/// The files of a folder without the unfinished ones; none if there is no folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let is_whole = |path: &io::Result<PathBuf>| {
        let name = path.as_ref().ok().and_then(|path| path.file_name());
        name.is_none_or(|name| !name.to_string_lossy().starts_with('.'))
    };
    paths.filter(is_whole).collect()
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::backend::directory::write::carry_out;

    #[test]
    fn keys_are_written_read_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path(), "/chancery/".to_owned());
        assert!(keys.has(b"/chancery/writes/1") && !keys.has(b"/gateway/routes/a"));
        assert_eq!(keys.list(b"/chancery/writes/").unwrap(), []);
        let put = |key: &[u8], value: &'static str| keys.step(key, Some(&Bytes::from(value)), 7);
        carry_out(vec![
            put(b"/chancery/writes/b/../c", "two\nlines"),
            put(b"/chancery/writes/a", ""),
            put(b"/chancery/confirm/7", "x"),
        ])
        .unwrap();
        let listed = |prefix: &[u8]| {
            let entries = keys.list(prefix).unwrap().into_iter();
            let shown = entries.map(|entry| String::from_utf8(entry.key.to_vec()).unwrap());
            shown.collect::<Vec<_>>()
        };
        assert_eq!(
            listed(b"/chancery/writes/"),
            ["/chancery/writes/a", "/chancery/writes/b/../c"]
        );
        assert_eq!(listed(b"/chancery/").len(), 3);
        let entry = keys.get(b"/chancery/writes/b/../c").unwrap().unwrap();
        assert_eq!((&entry.value[..], entry.mod_revision), (&b"two\nlines"[..], 7));
        assert_eq!(mode_of(&keys.folder), 0o700);
        assert_eq!(mode_of(&keys.path_of(b"/chancery/writes/a")), 0o600);
        carry_out(vec![keys.step(b"/chancery/writes/a", None, 8)]).unwrap();
        assert_eq!(keys.get(b"/chancery/writes/a").unwrap(), None);
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_damaged_file_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path(), "/chancery/".to_owned());
        let names = [
            &b"/chancery/journal/1"[..],
            b"/chancery/journal/2",
            b"/chancery/journal/3",
        ];
        let put = |key: &&[u8]| keys.step(key, Some(&Bytes::from("a value")), 7);
        carry_out(names.iter().map(put).collect()).unwrap();
        let damage = |key: &[u8], from: &str, to: &str| {
            let path = keys.path_of(key);
            let content = fs::read_to_string(&path).unwrap();
            assert!(content.contains(from), "{content}");
            fs::write(path, content.replace(from, to)).unwrap();
        };
        damage(names[0], "a value", "a valve");
        damage(names[1], "{", "");
        let listed = keys.list(b"/chancery/journal/").unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0].key, names[2]);
        assert_eq!(keys.get(names[0]).unwrap(), None);

        // A file of an older version has no checksum.
        damage(names[2], "\"sum\"", "\"unknown\"");
        assert!(keys.get(names[2]).unwrap().is_some());
    }
}
