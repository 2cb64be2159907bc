//! `chancery apply` and `chancery import`: the documents of files, written in one change.
//!
//! In: folders and files that mirror the keys, or the body of `POST /api/v1/apply` on stdin. Out: the revision, and one
//! line for each document that changed. A mistake is told with file, line and column.
//!
//! `--prune` also deletes documents that have no file; a person is asked first.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::check::place::Place;
use super::files::{self, Files};
use super::remote::{Failure, Part, Session, Shown, arguments, run as run_remote, short, short_key};
use super::show::table::{Column, Table};
use super::undo::{ask, may_ask, yes};
use super::wait;
use super::write::{force, message};
use crate::client::{Call, Problem};
use crate::document::key::Layout;

mod prune;

pub(super) const APPLY: &str = "apply";
/// `apply --dry-run`.
pub(super) const PLAN: &str = "plan";
pub(super) const IMPORT: &str = "import";

/// The query of a plan.
const DRY_RUN: &str = "?dry_run=true";

pub(super) fn commands() -> [Command; 3] {
    [
        Command::new(APPLY)
            .about("Write the documents of files in one change")
            .after_help(
                "Examples:\n  chancery apply ./gateway -m 'release 77'\n  chancery apply routes/orders.yaml clusters/orders.json\n  chancery apply - < change.json\n  chancery apply ./gateway --prune 'routes/shop/*' --wait 30s",
            )
            .arg(files::paths().required(false).help("Folders or files of documents; - reads stdin"))
            .arg(file())
            .arg(if_base())
            .arg(in_parts())
            .arg(
                Arg::new("dry-run")
                    .long("dry-run")
                    .action(ArgAction::SetTrue)
                    .help("Write nothing, and show the plan"),
            )
            .arg(
                Arg::new("confirm")
                    .long("confirm")
                    .value_name("TIME")
                    .help("Undo the change after this time, such as 5m, unless `chancery confirm` comes before"),
            )
            .arg(prune::flag())
            .arg(yes("Do not ask before --prune deletes documents"))
            .arg(wait::flag())
            .arg(force("Write though a test of another document fails, or a cluster that is deleted is in use"))
            .arg(message())
            .args(arguments()),
        Command::new(PLAN)
            .about("Show what the documents of files would do; nothing is written")
            .after_help("Examples:\n  chancery plan ./gateway\n  chancery plan routes/orders.yaml -o json\n  chancery plan ./gateway --prune 'routes/shop/*'")
            .arg(files::paths().required(false).help("Folders or files of documents; - reads stdin"))
            .arg(file())
            .arg(if_base())
            .arg(in_parts())
            .arg(prune::flag())
            .args(arguments()),
        Command::new(IMPORT)
            .about("Write the documents of a folder that `chancery export` made")
            .after_help("Example:\n  chancery import ./backup -m 'from the old store'")
            .arg(
                Arg::new("path")
                    .value_name("DIR")
                    .required(true)
                    .value_parser(value_parser!(PathBuf))
                    .help("The folder"),
            )
            .arg(message())
            .args(arguments()),
    ]
}

fn file() -> Arg {
    Arg::new("file")
        .short('f')
        .value_name("PATH")
        .action(ArgAction::Append)
        .value_parser(value_parser!(PathBuf))
        .help("The same as PATH")
}

fn if_base() -> Arg {
    Arg::new("if-base")
        .long("if-base")
        .value_name("R")
        .value_parser(value_parser!(i64).range(1..))
        .help("Write nothing if a document has changed since this revision")
}

fn in_parts() -> Arg {
    Arg::new("in-parts")
        .long("in-parts")
        .action(ArgAction::SetTrue)
        .help("Write a change that is larger than a transaction in several")
}

pub(super) fn run(name: &str, matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let mut paths: Vec<&PathBuf> = matches.get_many("path").into_iter().flatten().collect();
        let is_import = name == IMPORT;
        if !is_import {
            paths.extend(matches.get_many::<PathBuf>("file").into_iter().flatten());
        }
        if paths.is_empty() {
            return Err(Failure::Usage(
                "found no PATH, expected files or folders of documents, or -".to_owned(),
            ));
        }
        let flag = |name: &str| {
            matches
                .try_get_one::<bool>(name)
                .ok()
                .flatten()
                .is_some_and(|flag| *flag)
        };
        let mut body = json!({ "in_parts": is_import || flag("in-parts") });
        if let Some(revision) = matches.try_get_one::<i64>("if-base").ok().flatten() {
            body["if_base"] = json!(revision);
        }
        for (name, field) in [("message", "message"), ("confirm", "confirm_within")] {
            if let Some(word) = matches.try_get_one::<String>(name).ok().flatten() {
                body[field] = json!(word);
            }
        }
        let query = match (name == PLAN || flag("dry-run"), flag("force")) {
            (true, _) => DRY_RUN,
            (false, true) => "?force=true",
            (false, false) => "",
        };
        let files = read(&Layout::default(), &paths)?;
        let mut documents = documents(&files)?;
        if let Some(pattern) = matches.try_get_one::<String>("prune").ok().flatten() {
            let is_asked = query != DRY_RUN && !flag("yes");
            if is_asked {
                may_ask(matches)?;
            }
            let deleted = prune::without_file(&session, pattern, &files).await?;
            if is_asked && !deleted.is_empty() {
                let names: Vec<String> = deleted.iter().map(short_key).collect();
                ask(&format!("Deletes, because no file is for them:  {}", names.join(" ")))?;
            }
            documents.extend(deleted);
        }
        body["documents"] = Value::Array(documents);
        let within = matches.try_get_one::<Duration>("wait").ok().flatten().copied();
        apply(&session, &files, body, query, within).await
    })
}

fn read(layout: &Layout, paths: &[&PathBuf]) -> Result<Files, Failure> {
    let files = Files::read(layout, paths).map_err(|error| Failure::failed(format!("{error:#}")))?;
    match files.problems().first() {
        Some(problem) => Err(Failure::failed(format!("{}: {}", problem.place, problem.reason))),
        None => Ok(files),
    }
}

/// The documents of the body.
fn documents(files: &Files) -> Result<Vec<Value>, Failure> {
    let documents: Vec<Value> = files
        .all()
        .map(|(key, text)| {
            let value =
                text.map(|text| serde_json::from_slice(text).unwrap_or_else(|_| json!(String::from_utf8_lossy(text))));
            json!({ "kind": key.kind.as_str(), "name": *key.name, "value": value })
        })
        .collect();
    match documents.is_empty() {
        true => Err(Failure::failed("found no document in these paths")),
        false => Ok(documents),
    }
}

async fn apply(
    session: &Session,
    files: &Files,
    body: Value,
    query: &str,
    within: Option<Duration>,
) -> Result<(), Failure> {
    let answer = session.call(Call::post(format!("/api/v1/apply{query}"), &body)).await;
    match answer {
        Ok(answer) if query == DRY_RUN => super::plan::show(session, answer.body),
        Ok(answer) => {
            let revision = answer.body["revision"].as_i64();
            let ended = wait::after(session, shown(answer.body), revision, within).await;
            if let (Some(revision), Some(within)) = (revision, body["confirm_within"].as_str()) {
                super::hint(format!(
                    "chancery confirm {revision}, or {revision} is undone after {within}"
                ));
            }
            ended
        }
        Err(Failure::Refused(problem)) => Err(Failure::Refused(Box::new(with_places(*problem, files)))),
        Err(failure) => Err(failure),
    }
}

fn shown(body: Value) -> Shown {
    let documents: Vec<&Value> = body["documents"].as_array().into_iter().flatten().collect();
    let changed: Vec<&&Value> = documents
        .iter()
        .filter(|document| document["action"] != "unchanged")
        .collect();
    let head = match body["revision"].as_i64() {
        Some(revision) => format!(
            "revision {revision}: {} of {} documents changed",
            changed.len(),
            documents.len()
        ),
        None => format!(
            "nothing changed: {} documents have these texts already",
            documents.len()
        ),
    };
    let mut table = Table::new([
        Column::whole("  ACTION"),
        Column::name("DOCUMENT"),
        Column::whole("STATE"),
        Column::sentence("WARNINGS"),
    ]);
    let mut names = Vec::new();
    for document in changed {
        let text = |field: &str| document[field].as_str().unwrap_or("-").to_owned();
        let warnings: Vec<&str> = document["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let key = short(document["key"].as_str().unwrap_or_default());
        table.row([
            format!("  {}", text("action")),
            key.clone(),
            text("state"),
            warnings.join("; "),
        ]);
        names.push(key);
    }
    Shown {
        parts: vec![Part::Text(head), Part::Table(table)],
        names,
        value: body,
    }
}

/// The problem with file, line and column before each sentence.
fn with_places(mut problem: Problem, files: &Files) -> Problem {
    let placed = |detail: &str, key: Option<&str>, path: Option<&str>| {
        let key = short(key?);
        let (file, text) = files.find(&key)?;
        let file = file?.display();
        Some(match Place::of(path.unwrap_or_default(), text) {
            Some(Place { line, column }) => format!("{file}:{line}:{column}: {detail}"),
            None => format!("{file}: {detail}"),
        })
    };
    if let Some(detail) = placed(&problem.detail, problem.key.as_deref(), problem.path.as_deref()) {
        problem.detail = detail;
    }
    for (detail, key, path) in &mut problem.errors {
        if let Some(with_place) = placed(detail, key.as_deref(), path.as_deref()) {
            *detail = with_place;
        }
    }
    problem
}
