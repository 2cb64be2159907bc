//! The documents of folders, files and stdin, by the keys that they stand for, and the world that a server makes of
//! them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Arg, ArgMatches, value_parser};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::backend::directory::{self, Folder};
use crate::backend::{Entry, Event, ListReason, Problem};
use crate::config::setting::Setting;
use crate::config::{self, Config, Flags};
use crate::document::key::{DocumentKey, Kind, Layout, Root};
use crate::reconcile::plan::{self, Input, Moment};
use crate::reconcile::world::{Options, World};

/// The settings of `chancery serve` that a judgement depends on.
const JUDGED_BY: [&str; 4] = ["re2-max-program-size", "ca-bundle", "secret-dir", "secret-keys-file"];

/// The argument PATH, once or more.
pub(super) fn paths() -> Arg {
    Arg::new("path")
        .value_name("PATH")
        .required(true)
        .num_args(1..)
        .value_parser(value_parser!(PathBuf))
}

/// The settings of `chancery serve` that a judgement depends on.
pub(super) fn settings() -> impl Iterator<Item = &'static Setting> {
    JUDGED_BY.iter().filter_map(|name| Setting::named(name))
}

/// The configuration of a server with the flags of these settings, and their variables.
pub(super) fn config(matches: &ArgMatches) -> Result<Config, config::Error> {
    let variables: Vec<String> = settings().map(Setting::variable).collect();
    let environment = config::process_environment().into_iter();
    let environment = environment.filter(|(name, _)| variables.contains(name) || name == config::SECRET_KEYS);
    Config::load(&Flags::from_matches(matches), &environment.collect(), |path| {
        std::fs::read_to_string(path)
    })
}

/// Documents and their files.
pub(super) struct Files {
    layout: Layout,
    /// By full key; no path: from stdin.
    documents: BTreeMap<Bytes, (Entry, Option<PathBuf>)>,
    /// The documents that stdin deletes.
    deleted: Vec<DocumentKey>,
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
    /// Read folders, single files of folders, and for `-` the body of `POST /api/v1/apply` on stdin.
    pub(super) fn read(layout: &Layout, paths: &[&PathBuf]) -> anyhow::Result<Self> {
        let mut files = Self {
            layout: layout.clone(),
            documents: BTreeMap::new(),
            deleted: Vec::new(),
            problems: Vec::new(),
        };
        for path in paths {
            match path.as_os_str() == "-" {
                true => {
                    let mut body = String::new();
                    io::stdin().read_to_string(&mut body)?;
                    files.take_body(&body)?;
                }
                false => files.take(path)?,
            }
        }
        Ok(files)
    }

    /// The world of a server that has these documents as its first list, and no others.
    pub(super) fn planned(&self, options: Options) -> World {
        let listed = |root: Root| Input::Event {
            event: Event::Listed {
                revision: 1,
                reason: ListReason::Start,
                entries: self.entries(&root),
            },
            root,
        };
        let inputs = options.layout.roots().into_iter().map(listed).collect();
        let moment = Moment {
            instant: Instant::now().into_std(),
            wall: SystemTime::now(),
        };
        plan::plan(&World::new(options), inputs, moment).world
    }

    /// Take a folder, or one file of a folder.
    fn take(&mut self, path: &Path) -> anyhow::Result<()> {
        let metadata = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        if metadata.is_dir() {
            let folder = self.scan(path)?;
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
        let found = self.scan(&folder)?.files.into_iter().find(|(_, found)| *found == file);
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
    fn take_body(&mut self, body: &str) -> anyhow::Result<()> {
        let body: Body = serde_json::from_str(body).context(
            "stdin is not {\"documents\": [{\"kind\", \"name\", \"value\"}]}, the body of POST /api/v1/apply",
        )?;
        for Put { kind, name, value } in body.documents {
            let kind = Kind::from_word(&kind).with_context(|| format!("stdin: {kind:?} is no kind of documents"))?;
            let key = DocumentKey::new(kind, name.unwrap_or_default());
            match value {
                Some(value) => self.put(&key, &value),
                None => self.deleted.push(key),
            }
        }
        Ok(())
    }

    fn scan(&self, folder: &Path) -> anyhow::Result<Folder> {
        directory::read(folder, &self.layout.prefix, &self.layout.registry_prefix)
            .with_context(|| format!("read {}", folder.display()))
    }

    fn add(&mut self, entry: Entry, path: PathBuf) {
        if let Some((_, first)) = self.documents.get(&entry.key) {
            let first = first.as_deref().unwrap_or_else(|| Path::new("-"));
            let shown = path.display();
            let reason = format!("{shown} is a second file for the same key, {} serves", first.display());
            self.problems.push(Problem {
                key: entry.key,
                place: path.to_string_lossy().into_owned(),
                reason,
            });
            return;
        }
        self.documents.insert(entry.key.clone(), (entry, Some(path)));
    }

    /// Put a document that has no file.
    pub(super) fn put(&mut self, key: &DocumentKey, value: &Value) {
        let key = Bytes::from(self.layout.full_key(key));
        // The plain form of a registration is no JSON.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.documents.insert(key.clone(), (entry(key, text.into()), None));
    }

    /// Every document, sorted by key: its text, or none if stdin deletes the document.
    pub(super) fn all(&self) -> impl Iterator<Item = (DocumentKey, Option<&[u8]>)> {
        let written = self
            .documents
            .values()
            .map(|(entry, _)| (self.locate(&entry.key), Some(&*entry.value)));
        let deleted = self.deleted.iter().map(|key| (key.clone(), None));
        written.chain(deleted)
    }

    /// The file and the text of a document by KIND/NAME.
    pub(super) fn find(&self, key: &str) -> Option<(Option<&Path>, &[u8])> {
        let mut documents = self.documents.values();
        let (entry, path) = documents.find(|(entry, _)| self.locate(&entry.key).to_string() == key)?;
        Some((path.as_deref(), &*entry.value))
    }

    fn locate(&self, full_key: &[u8]) -> DocumentKey {
        let root = match full_key.starts_with(self.layout.registry_prefix.as_bytes()) {
            true => Root::Registrations,
            false => Root::Documents,
        };
        self.layout.locate(&root, full_key)
    }

    pub(super) fn remove(&mut self, key: &DocumentKey) {
        self.documents.remove(self.layout.full_key(key).as_bytes());
    }

    /// The documents of a root, sorted by key.
    fn entries(&self, root: &Root) -> Vec<Entry> {
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
        self.locate(&problem.key).to_string()
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
