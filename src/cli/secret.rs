//! `chancery secret`: seal a secrets document, open a sealed one, seal all documents of a store with the first key.

use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};
use tokio::runtime::Runtime;

use super::{FAILED, WRONG_USAGE, complain, print};
use crate::app;
use crate::backend::{Backend, Expect, Write};
use crate::config::setting::Setting;
use crate::config::{self, Config, Flags};
use crate::document::key::{DocumentKey, Kind, Root};
use crate::document::secret::{Vault, key_id_in, sealed_in};
use crate::document::{Limits, parse_with};
use crate::reconcile::persist::shared::Shared;
use crate::reconcile::persist::unsaved::Unsaved;
use crate::reconcile::world::Options;

pub(super) const NAME: &str = "secret";

/// The settings of `chancery serve` that these verbs read.
const SETTINGS: [&str; 10] = [
    "prefix",
    "secret-keys-file",
    "state-prefix",
    "etcd",
    "etcd-user",
    "etcd-password-file",
    "etcd-ca",
    "etcd-cert",
    "etcd-key",
    "dir",
];
/// The settings for one document.
const OF_ONE: usize = 2;

const LONG_ABOUT: &str = "Seal secrets documents with AES-256-GCM, and open them.

The keys are the lines \"id base64(32 bytes)\" of --secret-keys-file or of CHANCERY_SECRET_KEYS: the first seals, all \
open. A sealed document opens at its own key alone.";

const AFTER_HELP: &str = "Examples:
  echo \"k1 $(head -c 32 /dev/urandom | base64)\" > keys
  chancery secret seal --secret-keys-file keys secrets/partners < partners.json > sealed.json
  chancery secret open --secret-keys-file keys secrets/partners < sealed.json
  chancery secret rotate --secret-keys-file keys --etcd http://10.0.0.1:2379";

pub(super) fn command() -> Command {
    let key = Arg::new("document")
        .value_name("KEY")
        .required(true)
        .help("The key of the document, secrets/NAME");
    let settings = |count: usize| {
        SETTINGS
            .iter()
            .take(count)
            .filter_map(|name| Setting::named(name))
            .map(Setting::arg)
    };
    Command::new(NAME)
        .about("Seal and open secrets documents")
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("seal")
                .about("Print the sealed form of the document on stdin")
                .arg(key.clone())
                .args(settings(OF_ONE)),
        )
        .subcommand(
            Command::new("open")
                .about("Print the document whose sealed form is on stdin")
                .arg(key)
                .args(settings(OF_ONE)),
        )
        .subcommand(
            Command::new("rotate")
                .about("Seal each sealed document of a store with the first key")
                .args(settings(SETTINGS.len())),
        )
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let Some((verb, matches)) = matches.subcommand() else {
        return ExitCode::from(WRONG_USAGE);
    };
    let config = match config(matches) {
        Ok(config) => config,
        Err(error) => {
            complain(error);
            return ExitCode::from(WRONG_USAGE);
        }
    };
    let options = match app::options(&config) {
        Ok(options) => options,
        Err(error) => {
            complain(format_args!("{error:#}"));
            return ExitCode::from(FAILED);
        }
    };
    let Some(keys) = options.vault.keys() else {
        complain("no keys given, expected --secret-keys-file or CHANCERY_SECRET_KEYS");
        return ExitCode::from(WRONG_USAGE);
    };
    let done = match (verb, document_key(matches)) {
        ("rotate", _) => rotate(&config, &options, keys.first()),
        (_, Err(reason)) => {
            complain(reason);
            return ExitCode::from(WRONG_USAGE);
        }
        ("seal", Ok(key)) => seal(&options.vault, &key),
        (_, Ok(key)) => open(&options.vault, &key),
    };
    match done {
        Ok(printed) => {
            print(printed);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn config(matches: &ArgMatches) -> Result<Config, config::Error> {
    let variables: Vec<String> = SETTINGS
        .iter()
        .filter_map(|name| Setting::named(name))
        .map(Setting::variable)
        .collect();
    let environment = config::process_environment().into_iter();
    let is_read = |name: &String| variables.contains(name) || name == config::SECRET_KEYS;
    Config::load(
        &Flags::from_matches(matches),
        &environment.filter(|(name, _)| is_read(name)).collect(),
        |path| std::fs::read_to_string(path),
    )
}

fn document_key(matches: &ArgMatches) -> Result<DocumentKey, String> {
    let key = matches.try_get_one::<String>("document").ok().flatten();
    let key = key.map_or("", String::as_str);
    match key.strip_prefix("secrets/") {
        Some(name) if !name.is_empty() => Ok(DocumentKey::new(Kind::Secrets, name)),
        _ => Err(format!("found the key {key:?}, expected secrets/NAME")),
    }
}

fn stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("read the document from stdin")?;
    Ok(text)
}

fn seal(vault: &Vault, key: &DocumentKey) -> anyhow::Result<String> {
    let sealed = vault.seal(key, stdin()?.as_bytes()).map_err(anyhow::Error::msg)?;
    let sealed = sealed.context("no keys given")?;
    // The reason of a bad secret is given here, where its text is at hand.
    parse_with(key, sealed.as_bytes(), &Limits::default(), vault).with_context(|| key.to_string())?;
    Ok(sealed)
}

fn open(vault: &Vault, key: &DocumentKey) -> anyhow::Result<String> {
    let text = stdin()?;
    let sealed =
        sealed_in(text.as_bytes()).context("found no sealed document on stdin, expected {\"encrypted\": …}")?;
    let opened = vault.open(key, &sealed).map_err(anyhow::Error::msg);
    let opened = opened.with_context(|| key.to_string())?;
    String::from_utf8(opened).context("found a sealed text that is not UTF-8")
}

fn rotate(config: &Config, options: &Options, first: &str) -> anyhow::Result<String> {
    let backend = app::open_store(config);
    Runtime::new()?.block_on(async {
        let (rotated, before) = rotate_documents(&*backend, options).await?;
        let shared = Shared::new(
            Arc::clone(&backend),
            &config.state_prefix,
            Unsaved::default(),
            options.vault.clone(),
        );
        let records = match backend.is_shared() {
            true => {
                (shared.rotate().await.map_err(anyhow::Error::msg)).context("seal the records below --state-prefix")?
            }
            false => 0,
        };
        Ok(format!(
            "{rotated} documents and {records} records sealed with {first}; {before} documents were already"
        ))
    })
}

/// The number of documents that are sealed anew, and of those that the first key had sealed before.
async fn rotate_documents(backend: &dyn Backend, options: &Options) -> anyhow::Result<(usize, usize)> {
    let root = Root::Documents;
    let prefix = options.layout.prefix_of(&root);
    let (_, entries) = backend.list(prefix).await.context("list the documents")?;
    let (mut rotated, mut before) = (0, 0);
    for entry in entries {
        let full_key = String::from_utf8_lossy(&entry.key);
        let anew = options.vault.sealed_anew(&full_key, &entry.value);
        let key = options.layout.locate(&root, &entry.key);
        let Some(anew) = anew.map_err(anyhow::Error::msg).with_context(|| key.to_string())? else {
            let is_sealed = key.kind == Kind::Secrets && key_id_in(&entry.value).is_some();
            before += usize::from(is_sealed);
            continue;
        };

        let write = Write {
            expect: Expect::Etag(backend.etag(&entry)),
            key: entry.key,
            value: Some(anew.into()),
        };
        let written = backend.write(vec![write]).await;
        written.with_context(|| format!("write {key}"))?;
        rotated += 1;
    }
    Ok((rotated, before))
}
