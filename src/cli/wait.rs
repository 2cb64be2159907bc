//! `chancery wait`: until proxies have a revision.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;
use tokio::time::Instant;

use super::remote::{Failure, Part, Session, Shown, arguments, run as run_remote, short};
use crate::client::{Answer, Call};

pub(super) const NAME: &str = "wait";
/// How long a wait lasts if nothing else is said.
pub(super) const DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait of one request.
const STEP: Duration = Duration::from_secs(50);
/// Most proxies that are named.
const NAMED: usize = 5;

const AFTER_HELP: &str = "Exit codes: 0 reached; 1 refused, halted, paused or withdrawn; 3 timed out.

Examples:
  chancery wait
  chancery wait 1842 --for answered --timeout 2m";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Wait until every proxy has a revision")
        .after_help(AFTER_HELP)
        .arg(revision("A revision [default: the newest]"))
        .arg(
            Arg::new("for")
                .long("for")
                .value_name("STATE")
                .value_parser(["live", "answered"])
                .default_value("live")
                .help("live: every proxy has acknowledged; answered: acknowledged or refused"),
        )
        .arg(duration("timeout", "How long to wait").default_value("30s"))
        .args(arguments())
}

/// An argument R.
pub(super) fn revision(help: &'static str) -> Arg {
    Arg::new("revision")
        .value_name("R")
        .value_parser(clap::value_parser!(i64).range(1..))
        .help(help)
}

/// A flag with a duration.
pub(super) fn duration(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("TIME")
        .value_parser(|text: &str| humantime::parse_duration(text).map_err(|error| error.to_string()))
        .help(help)
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let revision = matches
            .get_one::<i64>("revision")
            .map_or_else(|| "latest".to_owned(), ToString::to_string);
        let until = matches.get_one::<String>("for").map_or("live", String::as_str);
        let within = matches.get_one::<Duration>("timeout").copied().unwrap_or(DEFAULT);
        wait(&session, &revision, until, within).await
    })
}

async fn wait(session: &Session, revision: &str, until: &str, within: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed());
        let step = left.min(STEP);
        let seconds = humantime::format_duration(Duration::from_secs(step.as_secs().max(1))).to_string();
        let path = format!("/api/v1/rollout/{revision}?wait={seconds}&for={until}");
        let call = Call::get(path).within(step + Duration::from_secs(15));
        let answer = match session.call(call).await {
            Ok(answer) => answer,
            Err(Failure::Refused(problem)) if problem.code == "unknown_revision" => {
                if start.elapsed() < within {
                    continue;
                }
                return Err(Failure::TimedOut(problem.detail));
            }
            Err(failure) => return Err(failure),
        };
        let is_over = answer.status != 202;
        if is_over || start.elapsed() >= within {
            return ended(session, &answer, until, is_over, within);
        }
    }
}

fn ended(session: &Session, answer: &Answer, until: &str, is_over: bool, within: Duration) -> Result<(), Failure> {
    let body = &answer.body;
    let state = body["state"].as_str().unwrap_or_default().to_owned();
    let shown = Shown {
        parts: lines(body).into_iter().map(Part::Text).collect(),
        names: vec![body["revision"].to_string()],
        value: body.clone(),
    };
    session.show(&shown)?;
    match state.as_str() {
        _ if !is_over => Err(Failure::TimedOut(format!(
            "revision {} is not {until} after {}: {state}",
            body["revision"],
            humantime::format_duration(within)
        ))),
        "refused" | "halted" | "paused" | "withdrawn" => Err(Failure::Shown),
        _ => Ok(()),
    }
}

/// The state of a rollout in a few lines.
pub(super) fn lines(body: &Value) -> Vec<String> {
    let proxies = &body["proxies"];
    let count = |name: &str| proxies[name].as_u64().unwrap_or_default();
    let mut first = format!(
        "{} acknowledged by {} of {} proxies",
        body["revision"],
        count("live"),
        count("total")
    );
    for (name, word) in [
        ("refused", "refused by"),
        ("behind", "behind"),
        ("rolling", "rolling"),
        ("stalled", "stalled"),
        ("gone", "gone"),
    ] {
        if count(name) > 0 {
            first.push_str(&format!(", {word} {}", count(name)));
        }
    }
    if let Some(max) = body["live_after_ms"]["max"]
        .as_f64()
        .filter(|_| count("live") == count("total") && count("total") > 0)
    {
        first.push_str(&format!(" in {}", seconds(max)));
    }
    if body["complete"] == false {
        first.push_str("; a replica is away, so the counts are not complete");
    }
    let mut lines = vec![first];
    let list = |name: &str| body[name].as_array().into_iter().flatten();
    for refused in list("refused").take(NAMED) {
        let documents = refused["documents"].as_array().into_iter().flatten();
        let documents: Vec<String> = documents
            .map(|document| short(document["key"].as_str().unwrap_or_default()))
            .collect();
        let message = refused["message"].as_str().unwrap_or_default();
        let node = refused["node"].as_str().unwrap_or_default();
        lines.push(format!("  refused  {node}  {}: {message}", documents.join(", ")));
    }
    for behind in list("behind").take(NAMED) {
        let word = behind["state"].as_str().unwrap_or("behind");
        let why = behind["why"].as_str().unwrap_or_default();
        lines.push(format!(
            "  {word}  {}  {why}",
            behind["node"].as_str().unwrap_or_default()
        ));
    }
    lines
}

/// `0.31 s` of milliseconds.
pub(super) fn seconds(milliseconds: f64) -> String {
    format!("{:.2} s", milliseconds / 1000.0)
}
