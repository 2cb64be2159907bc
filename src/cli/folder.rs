//! `chancery export` and `chancery import`: all documents as a folder that mirrors the keys, as for `--dir`.
//!
//! Secrets are not exported, because no API shows them, and registrations are not, because their services write them.
//! Both are counted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::remote::{Failure, Part, Session, Shown, arguments, document_path, run as run_remote, short_key};
use super::write::REDACTED;

pub(super) const EXPORT: &str = "export";

pub(super) fn command() -> Command {
    Command::new(EXPORT)
        .about("Write all documents into a folder, as for --dir; secrets are listed")
        .after_help("Examples:\n  chancery export ./gateway\n  chancery export ./backup && chancery check ./backup")
        .arg(
            Arg::new("folder")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("A folder that is new or empty"),
        )
        .args(arguments())
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let Some(folder) = matches.get_one::<PathBuf>("folder") else {
            return Err(Failure::Usage("found no DIR".to_owned()));
        };
        export(&session, folder).await
    })
}

async fn export(session: &Session, folder: &Path) -> Result<(), Failure> {
    let is_used = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if is_used {
        let reason = format!(
            "{} is not empty, expected a new folder: an export never overwrites a file",
            folder.display()
        );
        return Err(Failure::failed(reason));
    }
    let list = session.pages("/api/v1/documents", "documents").await?;
    let (mut written, mut secrets, mut registrations) = (Vec::new(), Vec::new(), 0);
    for document in list.body["documents"].as_array().into_iter().flatten() {
        let key = short_key(document);
        match document["kind"].as_str() {
            Some("services") => registrations += 1,
            // The server only reads what other registries have.
            Some("registries") if key.contains('@') => registrations += 1,
            Some("secrets") => secrets.push(key),
            _ => {
                let answer = session.get(document_path(&key)).await?;
                match file(&key, &answer.body["value"]) {
                    Some((path, text)) => {
                        write(&folder.join(&path), &text)?;
                        written.push(path);
                    }
                    None => secrets.push(key),
                }
            }
        }
    }
    let mut parts = vec![Part::Text(format!(
        "{} documents in {}",
        written.len(),
        folder.display()
    ))];
    if registrations > 0 {
        parts.push(Part::Text(format!(
            "not exported: {registrations} registrations, which services write themselves"
        )));
    }
    if !secrets.is_empty() {
        parts.push(Part::Text("not exported, because they have secrets:".to_owned()));
        parts.extend(secrets.iter().map(|key| Part::Text(format!("  {key}"))));
    }
    session.show(&Shown {
        value: json!({ "written": written, "secrets": secrets, "registrations": registrations }),
        names: written,
        parts,
    })
}

/// The file of a document; `None`: its text has secrets.
fn file(key: &str, value: &Value) -> Option<(String, String)> {
    match value {
        Value::Null => None,
        Value::String(text) if text.contains(REDACTED) => None,
        Value::String(text) => Some((format!("{key}.yaml"), text.clone())),
        value => {
            let text = format!("{value:#}\n");
            (!text.contains(REDACTED)).then(|| (format!("{key}.json"), text))
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(path);
    let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
    made.map_err(|error| Failure::failed(format!("write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_with_secrets_has_no_file() {
        assert_eq!(
            file("routes/a", &json!("match: /a\n")),
            Some(("routes/a.yaml".to_owned(), "match: /a\n".to_owned()))
        );
        let expected = (
            "routes/a".to_owned() + ".json",
            "{\n  \"match\": \"/a\"\n}\n".to_owned(),
        );
        assert_eq!(file("routes/a", &json!({ "match": "/a" })), Some(expected));
        assert_eq!(
            file("policies/a", &json!({ "api_key": { "keys": ["[redacted]"] } })),
            None
        );
        assert_eq!(file("secrets/a", &Value::Null), None);
    }
}
