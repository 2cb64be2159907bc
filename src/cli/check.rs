//! `chancery check`: documents in files, judged as the server judges them, without a server.
//!
//! In: folders and files that mirror the keys, or the body of `POST /api/v1/apply` on stdin. Out: one line for each
//! document that would be rejected or shadowed and for each warning, with file, line and column, and a count.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use serde::Serialize;

use super::files::{self, Files};
use super::{FAILED, WRONG_USAGE, complain, print};
use crate::app;
use crate::config::Config;
use crate::config::setting::Setting;
use crate::reconcile::world::{State, World};

pub(super) mod place;

use place::Place;

pub(super) const NAME: &str = "check";

const LONG_ABOUT: &str = "Judge documents as the server would, offline.

PATH is a folder that mirrors the keys (routes/orders.json, services/orders/a.yaml), as for --dir, or one file of such \
a folder, or - for the body of POST /api/v1/apply on stdin. The documents are judged together: references between them \
are checked, and two routes of one match are told.

Exit code 1: a document would be rejected or shadowed, or one of its tests fails.";

const AFTER_HELP: &str = "Examples:
  chancery check ./gateway
  chancery check ./gateway/routes/orders.yaml
  chancery check -o json ./gateway";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Judge documents in files, without a server")
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .arg(files::paths().help("Folders or files of documents; - reads stdin"))
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("table|json")
                .value_parser(["table", "json"])
                .default_value("table")
                .help("Lines for people, or one JSON object"),
        )
        .args(files::settings().map(Setting::arg))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let paths: Vec<&PathBuf> = matches.get_many("path").into_iter().flatten().collect();
    let is_json = matches
        .get_one::<String>("output")
        .is_some_and(|output| output == "json");
    let judged = files::config(matches)
        .map_err(|error| error.to_string())
        .and_then(|config| judge(&config, &paths).map_err(|error| format!("{error:#}")));
    let report = match judged {
        Ok(report) => report,
        Err(reason) => {
            complain(reason);
            return ExitCode::from(WRONG_USAGE);
        }
    };

    match is_json {
        true => print(serde_json::json!(report)),
        false => {
            report.lines().for_each(complain_of);
            print(report.summary());
        }
    }
    match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
}

/// Judge the documents of the paths.
fn judge(config: &Config, paths: &[&PathBuf]) -> anyhow::Result<Report> {
    let options = app::options(config)?;
    let files = Files::read(&options.layout, paths)?;
    let world = files.planned(options);
    Ok(report(&world, &files))
}

fn report(world: &World, files: &Files) -> Report {
    let mut documents: Vec<Judged> = world
        .documents()
        .map(|status| {
            let place = status.path.as_deref().and_then(|path| {
                let text = status.latest.as_ref()?;
                Place::of(path, &text.value)
            });
            Judged {
                key: status.key.to_string(),
                file: files.path_of(&status.full_key).map(Path::to_owned),
                place,
                state: status.state.as_str(),
                reason: status.reason.clone(),
                path: status.path.clone(),
                warnings: status.warnings.clone(),
                is_bad: matches!(status.state, State::Rejected | State::Shadowed)
                    || world.compiled().failing_tests(&status.key).next().is_some(),
            }
        })
        .collect();
    documents.extend(files.problems().iter().map(|problem| Judged {
        key: files.key_of(problem),
        file: Some(problem.place.clone().into()),
        place: None,
        state: State::Rejected.as_str(),
        reason: Some(problem.reason.clone()),
        path: None,
        warnings: Vec::new(),
        is_bad: true,
    }));
    Report { documents }
}

/// The judgement of all documents.
#[derive(Debug, Serialize)]
struct Report {
    documents: Vec<Judged>,
}

/// The judgement of one document.
#[derive(Debug, Serialize)]
struct Judged {
    key: String,
    /// `None`: the document came from stdin.
    file: Option<PathBuf>,
    /// The place of the bad field.
    #[serde(flatten)]
    place: Option<Place>,
    state: &'static str,
    reason: Option<String>,
    path: Option<String>,
    warnings: Vec<String>,
    #[serde(skip)]
    is_bad: bool,
}

impl Report {
    fn is_good(&self) -> bool {
        !self.documents.iter().any(|judged| judged.is_bad)
    }

    /// One line for each reason and each warning.
    fn lines(&self) -> impl Iterator<Item = String> {
        self.documents.iter().flat_map(Judged::lines)
    }

    fn summary(&self) -> String {
        let count = |state: State| {
            let of_state = |judged: &&Judged| judged.state == state.as_str();
            (self.documents.iter().filter(of_state).count(), state)
        };
        let warnings = self
            .documents
            .iter()
            .filter(|judged| !judged.warnings.is_empty())
            .count();
        let counts: Vec<String> = State::ALL
            .map(count)
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, state)| format!("{count} {}", state.as_str()))
            .chain((warnings > 0).then(|| format!("{warnings} with warnings")))
            .collect();
        let documents = match self.documents.len() {
            0 => return "0 documents".to_owned(),
            1 => "1 document".to_owned(),
            several => format!("{several} documents"),
        };
        format!("{documents}: {}", counts.join(", "))
    }
}

impl Judged {
    fn lines(&self) -> Vec<String> {
        let file = self
            .file
            .as_ref()
            .map_or_else(|| "-".into(), |file| file.to_string_lossy());
        let place = match self.place {
            Some(Place { line, column }) => format!("{file}:{line}:{column}"),
            None => file.to_string(),
        };
        let reason = self.reason.iter().map(|reason| match reason.starts_with(&self.key) {
            true => format!("{place}: {reason}"),
            false => format!("{place}: {}: {reason}", self.key),
        });
        let warnings = self.warnings.iter();
        reason
            .chain(warnings.map(|warning| format!("{file}: {}: warning: {warning}", self.key)))
            .collect()
    }
}

/// Print one line about a document to stderr.
#[expect(clippy::print_stderr, reason = "the lines of a verb for its user")]
fn complain_of(line: String) {
    eprintln!("{}", crate::telemetry::escaped(&line));
}
