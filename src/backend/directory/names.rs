//! Keys and file names, both ways; pure.
//!
//! `routes/orders/list.yaml` is the key `{prefix}routes/orders/list`, `services/a/1.json` is `{registry prefix}a/1`.
//! Bytes that a file name cannot have, or that would hide the file, are percent-encoded in the name and decoded by the
//! scan. A key whose path stands for another key is rejected. No path has an empty, `.` or `..` segment, so none leaves
//! the folder.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use percent_encoding::percent_decode;

/// Extensions of documents; a new file gets the first.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// The folder of the registry root.
const SERVICES: &[u8] = b"services";
/// The limit of file systems for one name, in bytes.
const LONGEST_NAME: usize = 255;

/// The key prefixes that the folder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) prefix: String,
    pub(super) registry_prefix: String,
}

impl Names {
    /// The key of a file, by its path below the folder; `None` if the file is no document.
    pub(super) fn key_of(&self, path: &Path) -> Option<Bytes> {
        if !is_document(path.file_name()?) {
            return None;
        }
        Some(self.key_of_segments(&path.with_extension("")))
    }

    /// The key of the file or folder at this path, for every extension.
    pub(super) fn key_of_segments(&self, path: &Path) -> Bytes {
        let mut segments = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(percent_decode(name.as_bytes()).collect::<Vec<u8>>()),
            _ => None,
        });
        let first = segments.next().unwrap_or_default();
        let rest = segments.collect::<Vec<_>>();
        let key = match rest.is_empty() {
            true => [self.prefix.as_bytes(), &first].concat(),
            false if first == SERVICES => [self.registry_prefix.as_bytes(), &rest.join(&b'/')].concat(),
            false => [self.prefix.as_bytes(), &first, b"/", &rest.join(&b'/')].concat(),
        };
        Bytes::from(key)
    }

    /// The path below the folder of a new file for this key.
    pub(super) fn path_of(&self, key: &[u8]) -> Result<PathBuf, String> {
        let shown = String::from_utf8_lossy(key);
        let mut path = PathBuf::new();

        let below = if let Some(below) = key.strip_prefix(self.registry_prefix.as_bytes()) {
            path.push(OsStr::from_bytes(SERVICES));
            below
        } else {
            let elsewhere = || format!("{shown} is not below {} or {}", self.prefix, self.registry_prefix);
            key.strip_prefix(self.prefix.as_bytes()).ok_or_else(elsewhere)?
        };

        for segment in below.split(|byte| *byte == b'/') {
            if segment.is_empty() || segment == b"." || segment == b".." {
                let segment = String::from_utf8_lossy(segment);
                return Err(format!(
                    "{shown} has the segment \"{segment}\", which cannot be a file name"
                ));
            }

            let name = encode(segment);
            if name.len() + ".json".len() > LONGEST_NAME {
                return Err(format!(
                    "{shown} has a segment of {} bytes, too long for a file name",
                    segment.len()
                ));
            }
            path.push(name);
        }

        path.as_mut_os_string().push(".json");
        match self.key_of(&path) {
            Some(read_back) if read_back == key => Ok(path),
            _ => Err(format!(
                "{shown} cannot be a file: {} stands for another key",
                path.display()
            )),
        }
    }
}

/// True for the names of hidden files and backups: `.NAME`, `NAME~`.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".") || name.ends_with(b"~")
}

/// True if a file of this name is a document. Swap files of editors (`.a.swp`, `4913`, `#a.json#`, `a.json~`) are not.
pub(super) fn is_document(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !is_hidden(name) && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// A segment of a key as a file name.
fn encode(segment: &[u8]) -> String {
    let (text, last) = (std::str::from_utf8(segment), segment.len() - 1);
    let encoded = |at: usize, byte: u8| match byte {
        b'%' | b'\\' | 0x00..=0x1f | 0x7f => true,
        b'.' => at == 0,
        b'~' => at == last,
        byte => !byte.is_ascii() && text.is_err(),
    };
    let mut name = Vec::with_capacity(segment.len());
    for (at, byte) in segment.iter().copied().enumerate() {
        if encoded(at, byte) {
            name.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            name.push(byte);
        }
    }
    String::from_utf8(name).expect("either the segment is UTF-8 or all its other bytes are encoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            prefix: "/gateway/".to_owned(),
            registry_prefix: "/services/".to_owned(),
        }
    }

    fn path_of(key: &[u8]) -> Result<String, String> {
        names().path_of(key).map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn files_and_keys_are_each_others_name() {
        let pairs: [(&[u8], &str); 8] = [
            (b"/gateway/defaults", "defaults.json"),
            (b"/gateway/routes/a", "routes/a.json"),
            (b"/gateway/routes/a.b/c.json", "routes/a.b/c.json.json"),
            (b"/services/orders/10.0.0.1:80", "services/orders/10.0.0.1:80.json"),
            (b"/services/orders/.hidden", "services/orders/%2Ehidden.json"),
            (b"/services/orders~/x", "services/orders%7E/x.json"),
            (b"/services/100%/\n\xff", "services/100%25/%0A%FF.json"),
            ("/services/größe/1".as_bytes(), "services/größe/1.json"),
        ];
        for (key, path) in pairs {
            assert_eq!(path_of(key).as_deref(), Ok(path));
            assert_eq!(names().key_of(Path::new(path)).as_deref(), Some(key), "{path}");
        }
    }

    #[test]
    fn the_extension_is_no_part_of_the_key() {
        for path in ["routes/a.json", "routes/a.yaml", "routes/a.yml"] {
            assert_eq!(names().key_of(Path::new(path)).unwrap(), "/gateway/routes/a");
        }
    }

    #[test]
    fn what_editors_leave_behind_is_no_document() {
        for name in [
            ".a.json",
            ".a.json.swp",
            "a.json~",
            "4913",
            "#a.json#",
            ".#a.json",
            "a.json.bak",
            "a",
            "README.md",
        ] {
            assert!(!is_document(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn no_key_leads_out_of_the_folder_or_to_another_key() {
        let keys = [
            "/gateway/../etc/passwd",
            "/gateway//etc/passwd",
            "/gateway/routes/..",
            "/gateway/routes/./a",
            "/gateway/routes/",
            "/gateway/",
            "/elsewhere/a",
            "/gateway/services/a/1",
        ];
        for key in keys {
            let refused = path_of(key.as_bytes());
            assert!(
                refused.as_ref().is_err_and(|sentence| sentence.contains(key)),
                "{key}: {refused:?}"
            );
        }
        let long = format!("/gateway/routes/{}", "x".repeat(251));
        assert!(path_of(long.as_bytes()).unwrap_err().contains("251 bytes"));
    }
}
