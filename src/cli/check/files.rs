//! The documents of folders, files and stdin, by the keys that they stand for.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::backend::directory::{self, Folder};
use crate::backend::{Entry, Problem};
use crate::document::key::{Kind, Layout, Root};

/// Documents and their files.
pub(super) struct Files {
    layout: Layout,
    /// By full key; no path: from stdin.
    documents: BTreeMap<Bytes, (Entry, Option<PathBuf>)>,
    problems: Vec<Problem>,
}

/// The body of `POST /api/v1/apply`, as far as documents are concerned.
#[derive(Deserialize)]
struct Body {
    documents: Vec<Put>,
}

/// One document of it; without a value, a deletion.
#[derive(Deserialize)]
struct Put {
    kind: String,
    name: Option<String>,
    value: Option<Value>,
}

impl Files {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            layout: layout.clone(),
            documents: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Take a folder, or one file of a folder.
    pub(super) fn take(&mut self, path: &Path) -> anyhow::Result<()> {
        let metadata = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        if metadata.is_dir() {
            let folder = self.read(path)?;
            folder
                .files
                .into_iter()
                .for_each(|(entry, file)| self.add(entry, path.join(file)));
            let located = folder.problems.into_iter().map(|problem| Problem {
                place: path.join(&problem.place).to_string_lossy().into_owned(),
                ..problem
            });
            self.problems.extend(located);
            return Ok(());
        }

        let Some((folder, file)) = split_at_kind(path) else {
            bail!(
                "{} is below no folder with the name of a kind, expected one such as routes/ or clusters/",
                path.display()
            );
        };
        let found = self.read(&folder)?.files.into_iter().find(|(_, found)| *found == file);
        let Some((entry, _)) = found else {
            bail!(
                "{} is no document: expected a .json, .yaml or .yml file",
                path.display()
            );
        };
        self.add(entry, path.to_owned());
        Ok(())
    }

    /// Take the documents of a body of `POST /api/v1/apply`.
    pub(super) fn take_body(&mut self, body: &str) -> anyhow::Result<()> {
        let body: Body = serde_json::from_str(body).context(
            "stdin is not {\"documents\": [{\"kind\", \"name\", \"value\"}]}, the body of POST /api/v1/apply",
        )?;
        for Put { kind, name, value } in body.documents {
            let Some(value) = value else { continue };
            let below = match (Kind::from_word(&kind), name) {
                (Some(Kind::Services), Some(name)) => format!("{}{name}", self.layout.registry_prefix),
                (_, Some(name)) => format!("{}{kind}/{name}", self.layout.prefix),
                (_, None) => format!("{}{kind}", self.layout.prefix),
            };
            // The plain form of a registration is no JSON.
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.documents
                .insert(below.clone().into(), (entry(below.into(), text.into()), None));
        }
        Ok(())
    }

    fn read(&self, folder: &Path) -> anyhow::Result<Folder> {
        directory::read(folder, &self.layout.prefix, &self.layout.registry_prefix)
            .with_context(|| format!("read {}", folder.display()))
    }

    fn add(&mut self, entry: Entry, path: PathBuf) {
        if let Some((_, first)) = self.documents.get(&entry.key) {
            let first = first.as_deref().unwrap_or_else(|| Path::new("-"));
            let reason = format!("is a second file for the same key, {} serves", first.display());
            self.problems.push(Problem {
                key: entry.key,
                place: path.to_string_lossy().into_owned(),
                reason,
            });
            return;
        }
        self.documents.insert(entry.key.clone(), (entry, Some(path)));
    }

    /// The documents of a root, sorted by key.
    pub(super) fn entries(&self, root: &Root) -> Vec<Entry> {
        let prefix = self.layout.prefix_of(root).as_bytes();
        let of_root = self
            .documents
            .values()
            .filter(|(entry, _)| entry.key.starts_with(prefix));
        of_root.map(|(entry, _)| entry.clone()).collect()
    }

    pub(super) fn path_of(&self, full_key: &str) -> Option<&Path> {
        self.documents.get(full_key.as_bytes())?.1.as_deref()
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The key of a problem's document, below its prefix.
    pub(super) fn key_of(&self, problem: &Problem) -> String {
        let is_registration = problem.key.starts_with(self.layout.registry_prefix.as_bytes());
        let root = if is_registration {
            Root::Registrations
        } else {
            Root::Documents
        };
        self.layout.locate(&root, &problem.key).to_string()
    }
}

/// The folder that mirrors the keys, and the path of the file in it.
fn split_at_kind(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let components: Vec<Component<'_>> = path.components().collect();
    let is_kind = |component: &Component<'_>| {
        let name = Path::new(component).with_extension("");
        name.to_str().and_then(Kind::from_word).is_some()
    };
    let at = components.iter().rposition(is_kind)?;
    let (folder, file) = components.split_at_checked(at)?;
    let folder: PathBuf = folder.iter().collect();
    let folder = if folder.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        folder
    };
    Some((folder, file.iter().collect()))
}

fn entry(key: Bytes, value: Bytes) -> Entry {
    Entry {
        key,
        value,
        create_revision: 0,
        mod_revision: 1,
        leased: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_its_folder() {
        let split = |path: &str| split_at_kind(Path::new(path));
        let parts = |folder: &str, file: &str| Some((PathBuf::from(folder), PathBuf::from(file)));
        assert_eq!(
            split("a/gateway/routes/orders/list.yaml"),
            parts("a/gateway", "routes/orders/list.yaml")
        );
        assert_eq!(split("defaults.json"), parts(".", "defaults.json"));
        assert_eq!(split("a/b.json"), None);
    }
}
