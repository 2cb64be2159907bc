//! `chancery undo` and `chancery restore`: put back earlier texts as a new change.
//!
//! Both show their plan, and ask first. Without a terminal they need `--yes`, and then a revision: the newest
//! change may be that of somebody else.

use std::io::{BufRead as _, IsTerminal as _};
use std::ops::RangeInclusive;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::history::{author, documents, newest, range};
use super::plan;
use super::remote::{Failure, Session, Shown, arguments, run as run_remote};
use super::wait::followed;
use super::write::{force, message};
use crate::client::Call;

pub(super) const UNDO: &str = "undo";
pub(super) const RESTORE: &str = "restore";

pub(super) fn commands() -> [Command; 2] {
    let dry_run = || {
        Arg::new("dry-run")
            .long("dry-run")
            .action(ArgAction::SetTrue)
            .help("Write nothing, and show the plan")
    };
    [
        Command::new(UNDO)
            .visible_alias("rollback")
            .about("Put back the texts before a change, as a new change")
            .after_help("Examples:\n  chancery undo\n  chancery undo 1842 --yes -m 'orders was wrong'\n  chancery undo 1842..1845 --only routes/orders")
            .arg(range("R[..R2]: the change, or all from R to R2 [default: the newest change]"))
            .arg(
                Arg::new("only")
                    .long("only")
                    .value_name("KIND/NAME")
                    .action(ArgAction::Append)
                    .help("Only this document of the change"),
            )
            .arg(force("Put back texts that were changed again since"))
            .arg(dry_run())
            .arg(yes("Do not ask; needs R"))
            .arg(message()),
        Command::new(RESTORE)
            .about("Make all documents what they were at a revision, as a new change")
            .after_help("Example:\n  chancery restore 1840 -m 'back to Friday'")
            .arg(
                Arg::new("revision")
                    .value_name("R")
                    .required(true)
                    .value_parser(clap::value_parser!(i64).range(1..))
                    .help("The revision"),
            )
            .arg(Arg::new("secrets").long("secrets").action(ArgAction::SetTrue).help("Secrets, too"))
            .arg(Arg::new("in-parts").long("in-parts").action(ArgAction::SetTrue).help("Write a change that is larger than a transaction in several"))
            .arg(dry_run())
            .arg(yes("Do not ask; needs R"))
            .arg(message()),
    ]
    .map(|command| command.args(arguments()))
}

/// The flag `--yes`.
pub(super) fn yes(help: &'static str) -> Arg {
    Arg::new("yes").long("yes").action(ArgAction::SetTrue).help(help)
}

pub(super) fn run(name: &str, matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        match name {
            UNDO => undo(&session, matches).await,
            _ => restore(&session, matches).await,
        }
    })
}

async fn undo(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    let range = matches.get_one::<(i64, Option<i64>)>("range").copied();
    if range.is_none() && matches.get_flag("yes") {
        let reason = "found --yes without R, expected the revision: the newest change may be that of somebody else";
        return Err(Failure::Usage(reason.to_owned()));
    }
    may_ask(matches)?;
    let (first, last) = match range {
        Some((first, last)) => (first, last),
        None => match newest(session).await? {
            Some(revision) => (revision, None),
            None => return Err(Failure::failed("there is no change")),
        },
    };
    let change = session.get(format!("/api/v1/revisions/{first}")).await?.body;
    let first = change["revision"].as_i64().unwrap_or(first);
    let only: Vec<&String> = matches.get_many("only").into_iter().flatten().collect();
    let body = json!({
        "through": last,
        "only": only,
        "message": matches.get_one::<String>("message"),
    });
    let is_forced = matches.get_flag("force");
    let asked = Asked {
        path: format!("/api/v1/revisions/{first}/undo"),
        body,
        is_forced,
        undone: first..=last.unwrap_or(first),
        since: if is_forced { "" } else { " Nobody changed it since." },
    };
    let what = match last {
        Some(last) => format!("Undoes {first} to {last}"),
        None => format!("Undoes {first}, by {}", author(&change, None)),
    };
    asked.put_back(session, matches, &what).await
}

async fn restore(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    may_ask(matches)?;
    let revision = matches.get_one::<i64>("revision").copied().unwrap_or_default();
    let body = json!({
        "secrets": matches.get_flag("secrets"),
        "in_parts": matches.get_flag("in-parts"),
        "message": matches.get_one::<String>("message"),
    });
    let asked = Asked {
        path: format!("/api/v1/revisions/{revision}/restore"),
        body,
        is_forced: false,
        undone: revision + 1..=i64::MAX,
        since: "",
    };
    let what = format!("Makes all documents what they were at revision {revision}");
    asked.put_back(session, matches, &what).await
}

/// A request that puts texts back.
struct Asked {
    path: String,
    body: Value,
    is_forced: bool,
    /// The revisions that are taken back.
    undone: RangeInclusive<i64>,
    /// The sentence of the plan about later changes.
    since: &'static str,
}

impl Asked {
    /// Show the plan and ask, then write.
    async fn put_back(&self, session: &Session, matches: &ArgMatches, what: &str) -> Result<(), Failure> {
        let flags: Vec<&str> = self.is_forced.then_some("force=true").into_iter().collect();
        let call = |flags: &[&str]| Call::post(format!("{}?{}", self.path, flags.join("&")), &self.body);
        if matches.get_flag("dry-run") || !matches.get_flag("yes") {
            let plan = session
                .call(call(&[&flags[..], &["dry_run=true"]].concat()))
                .await?
                .body;
            if matches.get_flag("dry-run") || (plan["ok"] != true && !self.is_forced) {
                return plan::show(session, plan);
            }
            ask(&format!(
                "{what}. Puts back, as a new revision:  {}\n{}{}",
                documents(&plan),
                plan::sentence(&plan),
                self.since
            ))?;
        }
        written(session, session.call(call(&flags)).await?.body, &self.undone).await
    }
}

/// A question needs somebody who answers.
pub(super) fn may_ask(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.get_flag("yes") || matches.get_flag("dry-run") || std::io::stdin().is_terminal() {
        true => Ok(()),
        false => Err(Failure::Usage(
            "stdin is no terminal, so nobody can answer the question; expected --yes".to_owned(),
        )),
    }
}

/// Ask whether the verb may go on.
pub(super) fn ask(what: &str) -> Result<(), Failure> {
    let lines: Vec<String> = what.lines().map(crate::telemetry::escaped).collect();
    super::to_stderr(format_args!("{}\nGo on? [y/N]", lines.join("\n")));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        true => Ok(()),
        false => Err(Failure::failed("nothing is written")),
    }
}

async fn written(session: &Session, body: Value, undone: &RangeInclusive<i64>) -> Result<(), Failure> {
    let sentence = match body["revision"].as_i64() {
        Some(revision) => format!("revision {revision}:  {}", documents(&body)),
        None => "nothing differs, so nothing is written".to_owned(),
    };
    let revision = body["revision"].as_i64();
    let shown = Shown {
        names: revision.map(|revision| revision.to_string()).into_iter().collect(),
        ..Shown::sentence(body, sentence)
    };
    followed(session, shown, revision, undone).await
}
