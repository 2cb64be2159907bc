//! `chancery wait`: until proxies have a revision.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;
use tokio::time::Instant;

use super::remote::{Failure, Part, Session, Shown, arguments, cause, run as run_remote, short, text};
use crate::client::{Answer, Call};

pub(super) const NAME: &str = "wait";
/// How long a wait lasts if nothing else is said.
const DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait of one request.
const STEP: Duration = Duration::from_secs(50);
/// How long a change that puts texts back is followed.
const FOLLOWED: Duration = Duration::from_secs(5);
/// Time after which a NACK is no remnant of what is taken back.
const SETTLED_AFTER: Duration = Duration::from_millis(500);
/// Time between two looks at a rollout.
const LOOK_EVERY: Duration = Duration::from_millis(100);
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
fn revision(help: &'static str) -> Arg {
    Arg::new("revision")
        .value_name("R")
        .value_parser(clap::value_parser!(i64).range(1..))
        .help(help)
}

/// A flag with a duration.
fn duration(name: &'static str, help: &'static str) -> Arg {
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
    let (answer, is_over) = reached(session, revision, until, within).await?;
    let body = &answer.body;
    let shown = Shown {
        parts: lines(body).into_iter().map(Part::Sentence).collect(),
        names: vec![body["revision"].to_string()],
        value: body.clone(),
    };
    session.show(&shown)?;
    verdict(body, until, is_over, within)
}

/// The flag `--wait`.
pub(super) fn flag() -> Arg {
    duration("wait", "Wait until every proxy has the change [default: 30s]")
        .num_args(0..=1)
        .default_missing_value("30s")
}

/// Print the result of a write. If `within` is given, wait for its revision first; the rollout is part of the result, and
/// decides about the exit code.
pub(super) async fn after(
    session: &Session,
    mut shown: Shown,
    revision: Option<i64>,
    within: Option<Duration>,
) -> Result<(), Failure> {
    let (Some(revision), Some(within)) = (revision, within) else {
        return session.show(&shown);
    };
    // If nobody knows the rollout, the write has been made all the same.
    let (answer, is_over) = match reached(session, &revision.to_string(), "live", within).await {
        Ok(reached) => reached,
        Err(failure) => {
            session.show(&shown)?;
            return Err(failure);
        }
    };
    shown.parts.extend(lines(&answer.body).into_iter().map(Part::Sentence));
    if let Value::Object(fields) = &mut shown.value {
        fields.insert("rollout".to_owned(), answer.body.clone());
    }
    session.show(&shown)?;
    verdict(&answer.body, "live", is_over, within)
}

/// Print the result of a change that puts texts back, and its rollout as far as it comes within [`FOLLOWED`]. The change
/// is made, so the exit code does not depend on the rollout. `undone`: the revisions that are taken back.
pub(super) async fn followed(
    session: &Session,
    mut shown: Shown,
    revision: Option<i64>,
    undone: &RangeInclusive<i64>,
) -> Result<(), Failure> {
    if let Some(revision) = revision
        && let Some(body) = settled(session, revision).await
    {
        shown.parts.push(Part::Sentence(outcome(&body, undone)));
        if let Value::Object(fields) = &mut shown.value {
            fields.insert("rollout".to_owned(), body);
        }
    }
    session.show(&shown)
}

/// The rollout of a revision, once proxies have answered. A proxy that refuses what is taken back stands as refusing
/// until its next ACK.
async fn settled(session: &Session, revision: i64) -> Option<Value> {
    let start = Instant::now();
    loop {
        let answer = session.get(format!("/api/v1/rollout/{revision}")).await;
        let body = answer.ok().map(|answer| answer.body);
        let count = |name: &str| {
            body.as_ref()
                .and_then(|body| body["proxies"][name].as_u64())
                .unwrap_or(1)
        };
        let is_answered = count("rolling") + count("behind") == 0;
        let is_settled = is_answered && (count("refused") == 0 || start.elapsed() >= SETTLED_AFTER);
        if is_settled || start.elapsed() >= FOLLOWED {
            return body;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `1843 acknowledged by 40 of 41 proxies in 0.40 s, refused by 1; edge-7 still refuses 1841: chancery undo 1841`
fn outcome(body: &Value, undone: &RangeInclusive<i64>) -> String {
    let mut sentence = counts(body);
    let refused = body["refused"].as_array().into_iter().flatten();
    for refused in refused.take(NAMED) {
        let (node, of) = (text(refused, "node"), &refused["revision"]);
        let still = if *of == body["revision"] { "" } else { "still " };
        sentence.push_str(&format!("; {node} {still}refuses {of}"));
        if !of.as_i64().is_some_and(|of| undone.contains(&of)) {
            sentence.push_str(&format!(": chancery undo {of}"));
        }
    }
    sentence
}

/// The rollout of a revision, and whether it has come to its end within the time.
async fn reached(session: &Session, revision: &str, until: &str, within: Duration) -> Result<(Answer, bool), Failure> {
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
            return Ok((answer, is_over));
        }
    }
}

/// The end of a verb that has waited.
fn verdict(body: &Value, until: &str, is_over: bool, within: Duration) -> Result<(), Failure> {
    let state = body["state"].as_str().unwrap_or_default();
    match state {
        _ if !is_over => Err(Failure::TimedOut(format!(
            "revision {} is not {until} after {}: {state}",
            body["revision"],
            humantime::format_duration(within)
        ))),
        "refused" | "halted" | "paused" | "withdrawn" => {
            let mut refused = body["refused"].as_array().into_iter().flatten();
            let is_own = refused.any(|refused| refused["revision"] == body["revision"]);
            match is_own {
                true => super::hint(format_args!("chancery undo {}", body["revision"])),
                false => super::hint("chancery status"),
            }
            Err(Failure::Shown)
        }
        _ => Ok(()),
    }
}

/// `1843 acknowledged by 40 of 41 proxies in 0.40 s, refused by 1`
fn counts(body: &Value) -> String {
    let proxies = &body["proxies"];
    let count = |name: &str| proxies[name].as_u64().unwrap_or_default();
    let mut first = match count("total") {
        0 => format!("{} serves; no proxy is connected", body["revision"]),
        total => format!(
            "{} acknowledged by {} of {total} proxies",
            body["revision"],
            count("live")
        ),
    };
    if let Some(max) = body["live_after_ms"]["max"]
        .as_f64()
        .filter(|_| count("live") > 0 && count("rolling") + count("behind") + count("stalled") == 0)
    {
        first.push_str(&format!(" in {}", seconds(max)));
    }
    for (name, word) in [
        ("refused", "refused by"),
        ("behind", "behind"),
        ("rolling", "rolling"),
        ("stalled", "stalled"),
        ("gone", "gone since"),
    ] {
        if count(name) > 0 {
            first.push_str(&format!(", {word} {}", count(name)));
        }
    }
    if body["complete"] == false {
        first.push_str("; a replica is away, so the counts are not complete");
    }
    first
}

/// The state of a rollout in a few lines.
fn lines(body: &Value) -> Vec<String> {
    let mut lines = vec![counts(body)];
    let list = |name: &str| body[name].as_array().into_iter().flatten();
    for refused in list("refused").take(NAMED) {
        let documents = refused["documents"].as_array().into_iter().flatten();
        let documents: Vec<String> = documents
            .map(|document| short(document["key"].as_str().unwrap_or_default()))
            .collect();
        let message = cause(text(refused, "message"));
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
