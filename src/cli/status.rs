//! `chancery status`: the newest change, the proxies that have or refuse it, and the items that wait for an operator.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::history::{author, documents};
use super::remote::{Failure, Part, Shown, arguments, run as run_remote, short, text};
use super::show::age;
use super::show::table::{Column, Table};

pub(super) const NAME: &str = "status";

/// How long a proxy may be behind before `--check` fails, in seconds.
const BEHIND: u64 = 60;
/// Kinds of attention with which `--check` fails.
const FAILING: [&str; 2] = ["rejected", "held"];

const AFTER_HELP: &str = "Examples:
  chancery status
  chancery status --check     # exit code 1 if something is refused, rejected, held, or behind for more than 60 s
  chancery status --alive     # exit code 0 if the server answers: a health check";

pub(super) fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new(NAME)
        .about("Show the newest change, which proxies have it, and what waits for an operator")
        .after_help(AFTER_HELP)
        .arg(flag("check", "Exit code 1 if an operator must act").conflicts_with("alive"))
        .arg(flag("alive", "Only whether the server answers"))
        .args(arguments())
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        if matches.get_flag("alive") {
            session.get("/healthz").await?;
            return session.show(&Shown::sentence(json!({ "alive": true }), "alive"));
        }
        let answer = session.get("/api/v1/status").await?;
        let now = answer.now();
        let must_act = must_act(&answer.body, now);
        session.show(&shown(answer.body, now))?;
        match matches.get_flag("check") && must_act {
            true => Err(Failure::Shown),
            false => Ok(()),
        }
    })
}

fn list<'a>(body: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    body[field].as_array().into_iter().flatten()
}

/// Whether something waits for an operator.
fn must_act(body: &Value, now: SystemTime) -> bool {
    let is_old = |proxy: &Value| age::since(&proxy["since"], now).is_some_and(|age| age.as_secs() > BEHIND);
    list(body, "refused").next().is_some()
        || list(body, "behind").any(is_old)
        || list(body, "attention").any(|item| item["kind"].as_str().is_some_and(|kind| FAILING.contains(&kind)))
}

fn shown(body: Value, now: SystemTime) -> Shown {
    let mut parts = vec![Part::Text(head(&body))];
    if !body["changed"].as_array().is_none_or(Vec::is_empty) {
        parts.push(Part::Text("\nLAST CHANGE".to_owned()));
        parts.push(Part::Text(last_change(&body, now)));
    }
    let mut lack = Table::new([
        Column::whole("WHO LACKS IT"),
        Column::name(""),
        Column::whole(""),
        Column::name(""),
    ]);
    for refused in list(&body, "refused") {
        let documents = list(refused, "documents").map(|document| match document["path"].as_str() {
            Some(path) => format!("{}: {path}", short(text(document, "key"))),
            None => short(text(document, "key")),
        });
        let documents: Vec<String> = documents.collect();
        lack.row([
            "  refused".to_owned(),
            text(refused, "node").to_owned(),
            age::short_since(&refused["at"], now),
            format!("{}: {}", documents.join(", "), text(refused, "message")),
        ]);
    }
    for behind in list(&body, "behind") {
        lack.row([
            format!("  {}", text(behind, "state")),
            text(behind, "node").to_owned(),
            age::short_since(&behind["since"], now),
            text(behind, "why").to_owned(),
        ]);
    }
    if !lack.is_empty() {
        parts.push(Part::Text(String::new()));
        parts.push(Part::Table(lack));
    }
    let mut waits = Table::new([
        Column::whole("WAITS FOR YOU"),
        Column::name(""),
        Column::whole(""),
        Column::name(""),
    ]);
    for item in list(&body, "attention") {
        waits.row([
            format!("  {}", text(item, "kind")),
            short(text(item, "key")),
            age::short_since(&item["since"], now),
            text(item, "reason").to_owned(),
        ]);
    }
    if !waits.is_empty() {
        parts.push(Part::Text(String::new()));
        parts.push(Part::Table(waits));
    }
    if let Some(revision) = body["revision"].as_i64() {
        parts.push(Part::Text(format!(
            "\nchancery diff {revision}   chancery undo {revision}   chancery ps --state '!live'"
        )));
    }
    let names = body["revision"].as_i64().map(|revision| revision.to_string());
    Shown {
        parts,
        names: names.into_iter().collect(),
        value: body,
    }
}

/// The revision and its proxies in one line.
fn head(body: &Value) -> String {
    let count = |name: &str| body["proxies"][name].as_u64().unwrap_or_default();
    let mut sentence = match body["revision"].as_i64() {
        Some(revision) => format!("Revision {revision}: "),
        None => "No change yet: ".to_owned(),
    };
    match count("total") {
        0 => sentence.push_str("no proxy is connected"),
        total => sentence.push_str(&format!("acknowledged by {} of {total} proxies", count("live"))),
    }
    for (name, words) in [
        ("refused", "refused by"),
        ("behind", "unanswered by"),
        ("rolling", "on its way to"),
        ("stalled", "not read by"),
        ("gone", "gone without it:"),
    ] {
        if count(name) > 0 {
            sentence.push_str(&format!(", {words} {}", count(name)));
        }
    }
    let replicas = list(body, "replicas").count();
    let store = match body["store"]["ok"].as_bool() {
        Some(false) => format!("{} does not answer", text(&body["store"], "kind")),
        _ => format!("{} ok", text(&body["store"], "kind")),
    };
    let word = if replicas == 1 { "replica" } else { "replicas" };
    sentence.push_str(&format!(".  {replicas} {word}, {store}"));
    if body["complete"] == false {
        sentence.push_str("; a replica is away, so the numbers are not complete");
    }
    sentence
}

fn last_change(body: &Value, now: SystemTime) -> String {
    let change = json!({
        "actor": body["actor"],
        "via": body["via"],
        "documents": body["changed"].as_array().into_iter().flatten().map(|changed| json!({
            "key": changed["key"], "action": changed["action"],
        })).collect::<Vec<_>>(),
    });
    let mut words = vec![
        format!("  {}", body["revision"]),
        format!("{} ago", age::short_since(&body["at"], now)),
        author(&change),
    ];
    words.extend(body["message"].as_str().map(|message| format!("\"{message}\"")));
    words.push(documents(&change));
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_check_fails_if_an_operator_must_act() {
        let since = "2026-11-30T02:00:00Z";
        let at = |seconds| age::time(&json!(since)).unwrap() + Duration::from_secs(seconds);
        let calm = json!({ "refused": [], "behind": [], "attention": [{ "kind": "expiring" }] });
        assert!(!must_act(&calm, at(0)));
        let behind = json!({ "behind": [{ "since": since }] });
        assert!(!must_act(&behind, at(60)));
        assert!(must_act(&behind, at(61)));
        assert!(must_act(&json!({ "refused": [{}] }), at(0)));
        assert!(must_act(&json!({ "attention": [{ "kind": "held" }] }), at(0)));
    }

    #[test]
    fn the_head_counts_proxies() {
        let body = json!({
            "revision": 1842, "proxies": { "total": 41, "live": 38, "refused": 1, "behind": 2 },
            "replicas": [{}, {}], "store": { "kind": "etcd", "ok": true }, "complete": true,
        });
        assert_eq!(
            head(&body),
            "Revision 1842: acknowledged by 38 of 41 proxies, refused by 1, unanswered by 2.  2 replicas, etcd ok"
        );
    }
}
