//! `chancery convert`: route documents of the two older forms, in the full form.
//!
//! In: folders and files as for `chancery check`. Out: the body of `POST /api/v1/apply` that replaces the older
//! documents, or the files rewritten in place. Before anything is written, both sets are compiled, and their resources
//! are compared: the routes' names aside, they must be equal.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use prost::Message;
use serde_json::{Value, json};

use super::files::{self, Files};
use super::{FAILED, WRONG_USAGE, complain, print};
use crate::app;
use crate::document;
use crate::document::key::{DocumentKey, Kind};
use crate::reconcile::world::{State, World};
use crate::resource::{Resource, ResourceType};

mod full;

pub(super) const NAME: &str = "convert";

const LONG_ABOUT: &str = "Write route documents of the two older forms in the full form.

PATH is as for chancery check. The result is the body of POST /api/v1/apply, or with --write the files themselves. A \
list of several routes becomes several documents, routes/NAME/1 and so on, unless its entries differ in their matches \
alone. The resources that proxies get are compared: but for the names of routes they stay equal, or nothing is written.

Exit code 1: a document cannot be converted, or the resources would differ.";

const AFTER_HELP: &str = "Examples:
  chancery convert ./gateway
  chancery convert --write ./gateway
  chancery convert ./gateway | curl -X POST -d @- localhost:18001/api/v1/apply";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Write older route documents in the full form")
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .arg(files::paths().help("Folders or files of documents"))
        .arg(
            Arg::new("write")
                .long("write")
                .action(ArgAction::SetTrue)
                .help("Rewrite the files instead of printing"),
        )
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let paths: Vec<&PathBuf> = matches.get_many("path").into_iter().flatten().collect();
    let converted = convert(matches, &paths).and_then(|replaced| match matches.get_flag("write") {
        true => replaced.iter().try_for_each(Replaced::write),
        false => {
            print(body(&replaced));
            Ok(())
        }
    });
    match converted {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<crate::config::Error>() => {
            complain(error);
            ExitCode::from(WRONG_USAGE)
        }
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

/// A document of an older form, and the documents in its place.
struct Replaced {
    key: DocumentKey,
    file: PathBuf,
    /// By name below `routes/`.
    by: Vec<(String, Value)>,
}

/// Convert every older document of the paths, and prove that the resources stay equal.
fn convert(matches: &ArgMatches, paths: &[&PathBuf]) -> anyhow::Result<Vec<Replaced>> {
    let options = app::options(&files::config(matches)?)?;
    let older = Files::read(&options.layout, paths)?;
    let before = older.planned(options.clone());
    let replaced = replacements(&before, &older)?;

    let mut newer = older;
    for Replaced { key, by, .. } in &replaced {
        newer.remove(key);
        for (name, value) in by {
            newer.put(&DocumentKey::new(Kind::Routes, name.as_str()), value);
        }
    }
    let after = newer.planned(options);
    match first_difference(&before, &after) {
        Some(resource) => bail!("{resource} would change; nothing is converted"),
        None => Ok(replaced),
    }
}

fn replacements(world: &World, files: &Files) -> anyhow::Result<Vec<Replaced>> {
    let mut replaced = Vec::new();
    let routes = world.documents().filter(|status| status.key.kind == Kind::Routes);
    for status in routes {
        let Some(text) = &status.latest else { continue };
        let Ok(value) = document::value(&text.value) else {
            continue;
        };
        if !document::is_older_form(&value) {
            continue;
        }
        let key = &status.key;
        if status.state == State::Rejected {
            bail!("{}", status.reason.as_deref().unwrap_or("rejected"));
        }
        let by = full::documents(key, &value, world.compiled().defaults().legacy_path)
            .map_err(anyhow::Error::msg)
            .with_context(|| key.to_string())?;
        let file = files.path_of(&status.full_key).map(Path::to_owned);
        replaced.push(Replaced {
            key: key.clone(),
            file: file.with_context(|| format!("{key} has no file"))?,
            by,
        });
    }
    Ok(replaced)
}

/// The body of `POST /api/v1/apply` that writes the new documents, and deletes a list that became several.
fn body(replaced: &[Replaced]) -> Value {
    let mut documents = Vec::new();
    for Replaced { key, by, .. } in replaced {
        if by.iter().all(|(name, _)| **name != *key.name) {
            documents.push(json!({ "kind": "routes", "name": &*key.name, "value": null }));
        }
        let puts = by.iter();
        documents.extend(puts.map(|(name, value)| json!({ "kind": "routes", "name": name, "value": value })));
    }
    json!({ "documents": documents })
}

impl Replaced {
    /// Write the new files and remove the old one.
    fn write(&self) -> anyhow::Result<()> {
        let extension = self.file.extension().unwrap_or_default();
        let mut is_kept = false;
        for (name, value) in &self.by {
            let path = match name.strip_prefix(&*self.key.name) {
                Some("") => self.file.clone(),
                below => {
                    let below = below.unwrap_or(name).trim_start_matches('/');
                    self.file.with_extension("").join(below).with_extension(extension)
                }
            };
            is_kept |= path == self.file;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            }
            let text = text(value, extension == "json")?;
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        if !is_kept {
            fs::remove_file(&self.file).with_context(|| format!("remove {}", self.file.display()))?;
        }
        Ok(())
    }
}

fn text(value: &Value, is_json: bool) -> anyhow::Result<String> {
    match is_json {
        true => Ok(format!("{value:#}\n")),
        false => Ok(serde_saphyr::to_string(value)?),
    }
}

/// The first resource that differs, as `TYPE NAME of group GROUP`. The names of routes do not count.
fn first_difference(before: &World, after: &World) -> Option<String> {
    let (before, after) = (contents(before), contents(after));
    let keys = before.keys().chain(after.keys());
    let different = keys.filter(|key| before.get(key) != after.get(key)).min()?;
    let (group, resource_type, name) = different;
    Some(format!("{resource_type} {name} of group {group}"))
}

type Contents = BTreeMap<(Arc<str>, ResourceType, Arc<str>), Vec<u8>>;

fn contents(world: &World) -> Contents {
    let resources = world.compiled().resources();
    resources
        .map(|(group, resource_type, resource)| {
            let key = (Arc::clone(group), resource_type, Arc::clone(&resource.name));
            (key, content(resource_type, resource))
        })
        .collect()
}

/// The bytes of a resource, without the names of routes.
fn content(resource_type: ResourceType, resource: &Resource) -> Vec<u8> {
    let bytes = resource.body.to_bytes();
    let routes = match resource_type {
        ResourceType::Route => RouteConfiguration::decode(&bytes[..]).ok(),
        _ => None,
    };
    let Some(mut routes) = routes else {
        return bytes.to_vec();
    };
    let of_hosts = routes.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes);
    of_hosts.for_each(|route| route.name.clear());
    routes.encode_to_vec()
}
