//! `chancery status`: the newest change, the proxies that have or refuse it, and the items that wait for an operator.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::history::author;
use super::remote::{Failure, Part, Session, Shown, arguments, cause, document_path, run as run_remote, short, text};
use super::show::table::{Column, Table};
use super::show::{age, changes};

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
        let facts = match session.is_for_people() {
            true => Facts::ask(&session, &answer.body).await,
            false => Facts::default(),
        };
        session.show(&shown(&session, answer.body, &facts, now))?;
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

/// What the status does not say itself: asked for people only.
#[derive(Default)]
struct Facts {
    /// The entry of the newest change, which the status of the server may not have yet.
    change: Option<Value>,
    /// What the newest change altered, by full key.
    changes: BTreeMap<String, String>,
    /// The revision that serves instead of a rejected text, by full key.
    serving: BTreeMap<String, i64>,
}

impl Facts {
    /// A fact that the server does not know is left out.
    async fn ask(session: &Session, body: &Value) -> Self {
        let mut facts = Self::default();
        if let Ok(change) = session.get(format!("/api/v1/revisions/{}", body["revision"])).await {
            for document in list(&change.body, "documents") {
                let of = changes::of_texts(document["before"].as_str(), document["after"].as_str());
                facts.changes.insert(text(document, "key").to_owned(), of);
            }
            facts.change = Some(change.body);
        }
        for item in list(body, "attention").filter(|item| item["kind"] == "rejected") {
            let key = text(item, "key");
            if let Ok(document) = session.get(document_path(&short(key))).await
                && let Some(revision) = document.body["serving_revision"].as_i64()
            {
                facts.serving.insert(key.to_owned(), revision);
            }
        }
        facts
    }
}

fn shown(session: &Session, body: Value, facts: &Facts, now: SystemTime) -> Shown {
    let [counts, servers] = head(&body);
    let in_one = format!("{counts}.  {servers}");
    let fits = session.width().is_none_or(|width| in_one.chars().count() <= width);
    let mut parts = match fits {
        true => vec![Part::Text(in_one)],
        false => vec![Part::Sentence(counts), Part::Sentence(format!("  {servers}"))],
    };
    if body["proxies"]["total"] == 0 {
        parts.push(Part::Text(
            "`chancery bootstrap` prints a configuration for an Envoy.".to_owned(),
        ));
    }
    if let Some(change) = &facts.change {
        let store = body["store"]["kind"].as_str();
        parts.push(Part::Text(String::new()));
        parts.push(Part::Sentence(format!(
            "LAST CHANGE   {}",
            last_change(change, store, now)
        )));
        parts.push(Part::Table(altered(change, facts)));
    }
    for (title, table) in [
        ("WHO LACKS IT", lacking(&body, now)),
        ("WAITS FOR YOU", waiting(&body, facts, now)),
    ] {
        if !table.is_empty() {
            parts.push(Part::Text(title.to_owned()));
            parts.push(Part::Table(table));
        }
    }
    if let Some(revision) = facts.change.as_ref().and_then(|change| change["revision"].as_i64()) {
        let commands = [
            format!("chancery diff {revision}"),
            format!("chancery undo {revision}"),
            "chancery ps --state '!live'".to_owned(),
            "chancery explain 'GET …'".to_owned(),
        ];
        parts.push(Part::Text(format!("\n{}", in_lines(&commands, session.width()))));
    }
    Shown {
        parts,
        names: vec![body["revision"].to_string()],
        value: body,
    }
}

/// Commands beside each other, as far as the width allows.
fn in_lines(commands: &[String], width: Option<usize>) -> String {
    let mut lines: Vec<String> = Vec::new();
    for command in commands {
        match lines.last_mut() {
            Some(line) if width.is_none_or(|width| line.chars().count() + 3 + command.chars().count() <= width) => {
                line.push_str("   ");
                line.push_str(command);
            }
            _ => lines.push(command.clone()),
        }
    }
    lines.join("\n")
}

/// The documents of the newest change, and what it altered.
fn altered(change: &Value, facts: &Facts) -> Table {
    const SHOWN: usize = 5;
    let mut table = Table::new([Column::name(""), Column::sentence("")]);
    for document in list(change, "documents").take(SHOWN) {
        let key = text(document, "key");
        let of = facts.changes.get(key).filter(|of| !of.is_empty());
        table.row([
            format!("  {}", short(key)),
            of.cloned().unwrap_or_else(|| text(document, "action").to_owned()),
        ]);
    }
    let more = list(change, "documents").count().saturating_sub(SHOWN);
    if more > 0 {
        table.row(["  …".to_owned(), format!("{more} more")]);
    }
    table
}

/// A line for the items that the answer leaves out.
fn more(table: &mut Table, body: &Value, field: &str) {
    let total = body[&format!("{field}_total")].as_u64().unwrap_or_default();
    let more = total.saturating_sub(list(body, field).count() as u64);
    if more > 0 {
        table.row(["  …".to_owned(), format!("{more} more"), String::new()]);
    }
}

fn lacking(body: &Value, now: SystemTime) -> Table {
    let mut table = Table::new([Column::whole(""), Column::name(""), Column::sentence("")]);
    for refused in list(body, "refused") {
        let documents = list(refused, "documents").map(|document| match document["path"].as_str() {
            Some(path) => format!("{}: {path}", short(text(document, "key"))),
            None => short(text(document, "key")),
        });
        let documents: Vec<String> = documents.collect();
        let documents = match documents.is_empty() {
            true => text(refused, "type").to_owned(),
            false => documents.join(", "),
        };
        table.row([
            "  refused".to_owned(),
            text(refused, "node").to_owned(),
            format!(
                "{documents}: {}{}",
                words_of(refused),
                in_brackets(&refused["since"], now)
            ),
        ]);
    }
    more(&mut table, body, "refused");

    // Proxies that lack the change in the same way stand in one line.
    let mut alike: Vec<(String, String, Vec<&str>)> = Vec::new();
    for behind in list(body, "behind") {
        let age = age::long_since(&behind["since"], now).unwrap_or_default();
        let has = behind["revision"].as_i64().map(|revision| format!("; has {revision}"));
        let words = format!("{age}{}{}", has.unwrap_or_default(), reason(text(behind, "why")));
        let state = text(behind, "state").to_owned();
        let nodes = alike.iter_mut().find(|(of, with, _)| (of, with) == (&state, &words));
        match nodes {
            Some((_, _, nodes)) => nodes.push(text(behind, "node")),
            None => alike.push((state, words, vec![text(behind, "node")])),
        }
    }
    for (state, words, nodes) in alike {
        let words = match nodes.len() {
            1 => words,
            _ => words.replacen("; has ", "; have ", 1),
        };
        table.row([format!("  {state}"), nodes.join(", "), words]);
    }
    more(&mut table, body, "behind");
    table
}

/// The words of a NACK; the server ends them at 200 bytes.
fn words_of(refused: &Value) -> String {
    const CUT_AT: usize = 197;
    let message = text(refused, "message");
    let end = if message.len() >= CUT_AT { "…" } else { "" };
    format!("{}{end}", cause(message))
}

/// The reason why a proxy lacks a change, if it is another one than that the proxy has not answered.
fn reason(why: &str) -> &'static str {
    match why {
        "warming" => "; a resource waits for its clusters",
        "removals_held" => "; a removal waits for the resources that refer to it",
        "replica_behind" => "; its replica has not published the change",
        _ => "",
    }
}

fn waiting(body: &Value, facts: &Facts, now: SystemTime) -> Table {
    let mut table = Table::new([Column::whole(""), Column::name(""), Column::sentence("")]);
    for item in list(body, "attention") {
        let key = short(text(item, "key"));
        let reason = text(item, "reason");
        let reason = reason.strip_prefix(&format!("{key}: ")).unwrap_or(reason);
        let serves = facts
            .serving
            .get(text(item, "key"))
            .map(|revision| format!("; {revision} serves"));
        let shown = match key.ends_with('/') {
            true => format!("{key}*"),
            false => key,
        };
        table.row([
            format!("  {}", text(item, "kind")),
            shown,
            format!(
                "{reason}{}{}",
                serves.unwrap_or_default(),
                in_brackets(&item["since"], now)
            ),
        ]);
    }
    more(&mut table, body, "attention");
    table
}

/// ` (4 min)`
fn in_brackets(since: &Value, now: SystemTime) -> String {
    age::long_since(since, now).map_or_else(String::new, |age| format!(" ({age})"))
}

/// The revision with its proxies, and the servers with their store.
fn head(body: &Value) -> [String; 2] {
    let count = |name: &str| body["proxies"][name].as_u64().unwrap_or_default();
    let mut sentence = match body["revision"].as_i64() {
        Some(revision) if revision > 0 => format!("Revision {revision}: "),
        _ => "No change yet: ".to_owned(),
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
    ] {
        if count(name) > 0 {
            sentence.push_str(&format!(", {words} {}", count(name)));
        }
    }
    if count("gone") > 0 {
        sentence.push_str(&format!(", {} gone since", count("gone")));
    }
    let replicas = list(body, "replicas").count();
    let store = match body["store"]["ok"].as_bool() {
        Some(false) => format!(
            "{} does not answer since {}Z",
            text(&body["store"], "kind"),
            age::clock(&body["store"]["since"])
        ),
        _ => format!("{} ok", text(&body["store"], "kind")),
    };
    let word = if replicas == 1 { "replica" } else { "replicas" };
    let mut servers = format!("{replicas} {word}, {store}");
    if body["complete"] == false {
        servers.push_str("; a replica is away, so the numbers are not complete");
    }
    [sentence, servers]
}

/// `1842  4 min ago (03:02:11Z)  ana  "finish canary"`
fn last_change(change: &Value, store: Option<&str>, now: SystemTime) -> String {
    let mut words = vec![change["revision"].to_string()];
    if let Some(age) = age::long_since(&change["at"], now) {
        words.push(format!("{age} ago ({}Z)", age::clock(&change["at"])));
    }
    words.push(author(change, store));
    words.extend(change["message"].as_str().map(|message| format!("\"{message}\"")));
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
            [
                "Revision 1842: acknowledged by 38 of 41 proxies, refused by 1, unanswered by 2",
                "2 replicas, etcd ok"
            ]
        );
    }
}
