//! `chancery history` and `chancery diff`: the changes of documents with time, author and reason, and their texts.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::Value;

use super::remote::{Failure, Part, Session, Shown, arguments, encoded, run as run_remote, short_key, text};
use super::show::table::{Column, Table};
use super::wait::seconds;

pub(super) const HISTORY: &str = "history";
pub(super) const DIFF: &str = "diff";

pub(super) fn commands() -> [Command; 2] {
    [
        Command::new(HISTORY)
            .about("List the changes of documents, newest first")
            .after_help("Examples:\n  chancery history\n  chancery history routes/orders\n  chancery history --since 1h --by alice")
            .arg(Arg::new("document").value_name("KIND/NAME").help("Changes of this document only"))
            .arg(Arg::new("since").long("since").value_name("TIME").help("Not older than a duration such as 1h, or after a time"))
            .arg(Arg::new("by").long("by").value_name("ACTOR").help("Changes of this author only"))
            .arg(
                Arg::new("limit")
                    .long("limit")
                    .value_name("N")
                    .value_parser(value_parser!(u32).range(1..=1000))
                    .default_value("50")
                    .help("Most changes"),
            ),
        Command::new(DIFF)
            .about("Show what a change altered, or the difference of two revisions")
            .after_help("Examples:\n  chancery diff\n  chancery diff 1842\n  chancery diff 1840..1842 --xds --group edge")
            .arg(range("R[..R2]: one change, or the difference of two revisions [default: the newest change]"))
            .arg(Arg::new("xds").long("xds").action(clap::ArgAction::SetTrue).help("The resources that proxies get, instead of texts"))
            .arg(Arg::new("group").long("group").value_name("GROUP").requires("xds").help("Group of proxies [default: default]")),
    ]
    .map(|command| command.args(arguments()))
}

/// The argument `R[..R2]`.
pub(super) fn range(help: &'static str) -> Arg {
    Arg::new("range")
        .value_name("R[..R2]")
        .value_parser(parse_range)
        .help(help)
}

/// Revisions of `R` or `R..R2`.
fn parse_range(text: &str) -> Result<(i64, Option<i64>), String> {
    let revision = |word: &str| match word.parse::<i64>() {
        Ok(revision) if revision > 0 => Ok(revision),
        _ => Err(format!("found {word:?}, expected a revision such as 1842")),
    };
    match text.split_once("..") {
        None => Ok((revision(text)?, None)),
        Some((first, last)) => match (revision(first)?, revision(last)?) {
            (first, last) if first <= last => Ok((first, Some(last))),
            (first, last) => Err(format!("found {last} after {first}, expected the later revision last")),
        },
    }
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let mut query = Vec::new();
        if let Some(key) = matches.get_one::<String>("document") {
            query.push(format!("key={}", encoded(&full_key(&session, key).await?)));
        }
        for (flag, name) in [("since", "since"), ("by", "actor")] {
            let value = matches.get_one::<String>(flag);
            query.extend(value.map(|value| format!("{name}={}", encoded(value))));
        }
        // The list has the newest change once its entry is there, for which this read waits.
        if let Ok(Some(newest)) = newest(&session).await {
            drop(session.get(format!("/api/v1/revisions/{newest}")).await);
        }
        let limit = matches.get_one::<u32>("limit").copied().unwrap_or_default();
        query.push(format!("limit={limit}"));
        let answer = session.get(format!("/api/v1/revisions?{}", query.join("&"))).await?;
        let now = answer.now();
        let facts = match session.is_for_people() {
            true => Facts::ask(&session).await,
            false => Facts::default(),
        };
        session.show(&list(answer.body, &facts, now))
    })
}

/// The full key of a document that may be gone: the prefix is that of the documents.
async fn full_key(session: &Session, key: &str) -> Result<String, Failure> {
    if key.starts_with('/') {
        return Ok(key.to_owned());
    }
    match session.get(super::remote::document_path(key)).await {
        Ok(answer) => Ok(answer.body["key"].as_str().unwrap_or(key).to_owned()),
        Err(Failure::Refused(problem)) if problem.code == "not_found" => {
            Ok(problem.key.unwrap_or_else(|| format!("/gateway/{key}")))
        }
        Err(failure) => Err(failure),
    }
}

/// What the list of changes does not say itself: asked for people only.
#[derive(Default)]
struct Facts {
    /// `etcd` or `directory`.
    store: Option<String>,
    /// The proxies that refuse a change now, by its revision.
    refusing: BTreeMap<i64, Vec<String>>,
}

impl Facts {
    /// Without an answer, the list is shown without them.
    async fn ask(session: &Session) -> Self {
        let Ok(status) = session.get("/api/v1/status").await else {
            return Self::default();
        };
        let mut facts = Self {
            store: status.body["store"]["kind"].as_str().map(str::to_owned),
            ..Self::default()
        };
        for refused in status.body["refused"].as_array().into_iter().flatten() {
            let revision = refused["revision"].as_i64().unwrap_or_default();
            let nodes = facts.refusing.entry(revision).or_default();
            let node = text(refused, "node").to_owned();
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        facts
    }
}

fn list(body: Value, facts: &Facts, now: SystemTime) -> Shown {
    let mut table = Table::new([
        Column::number("REV"),
        Column::whole("WHEN"),
        Column::name("WHO"),
        Column::sentence("WHAT"),
        Column::number("PROXIES"),
        Column::sentence("LIVE IN"),
        Column::sentence("WHY"),
    ]);
    let mut names = Vec::new();
    for change in body["revisions"].as_array().into_iter().flatten() {
        let rollout = &change["rollout"];
        let proxies = match (
            rollout["proxies"]["live"].as_u64(),
            rollout["proxies"]["total"].as_u64(),
        ) {
            (Some(live), Some(total)) => format!("{live}/{total}"),
            _ => "-".to_owned(),
        };
        names.push(change["revision"].to_string());
        table.row([
            change["revision"].to_string(),
            when(&change["at"], now),
            author(change, facts.store.as_deref()),
            documents(change),
            proxies,
            live_in(change, facts),
            why(change),
        ]);
    }
    match names.is_empty() {
        true => Shown::sentence(body, "no change"),
        false => Shown::table(body, table, names),
    }
}

/// The time until every proxy had a change, or the proxies that refuse it.
fn live_in(change: &Value, facts: &Facts) -> String {
    const NAMED: usize = 2;
    let refusing = change["revision"]
        .as_i64()
        .and_then(|revision| facts.refusing.get(&revision));
    if let Some(nodes) = refusing {
        let more = nodes.len().saturating_sub(NAMED);
        let named = nodes.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        return match more {
            0 => format!("refused by {named}"),
            more => format!("refused by {named} and {more} more"),
        };
    }
    let rollout = &change["rollout"];
    let longest = rollout["live_after_ms"]["max"]
        .as_f64()
        .filter(|_| rollout["state"] == "live");
    longest.map_or_else(|| "-".to_owned(), seconds)
}

/// `02:29:08` of a time of the API on the day of `now`, else `11-30 02:29`.
fn when(at: &Value, now: SystemTime) -> String {
    let at = at.as_str().unwrap_or_default();
    let today = humantime::format_rfc3339_seconds(now).to_string();
    match (at.get(..10), at.get(5..10)) {
        (Some(day), _) if today.starts_with(day) => at.get(11..19).unwrap_or_default().to_owned(),
        (_, Some(day)) => format!("{day} {}", at.get(11..16).unwrap_or_default()),
        _ => "-".to_owned(),
    }
}

/// The author of a change; of a write straight to the store, which has none, the store.
pub(super) fn author(change: &Value, store: Option<&str>) -> String {
    match (change["actor"].as_str(), change["via"].as_str()) {
        (Some(actor), _) => actor.to_owned(),
        (None, Some("direct")) => match store {
            Some(store) => format!("{store} (direct)"),
            None => "(direct)".to_owned(),
        },
        (None, Some(via)) => via.to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// `~ routes/orders + clusters/new` of a change.
pub(super) fn documents(change: &Value) -> String {
    const SHOWN: usize = 3;
    let all: Vec<&Value> = change["documents"].as_array().into_iter().flatten().collect();
    let mut words: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|document| {
            let sign = match document["action"].as_str() {
                Some("added") => "+",
                Some("removed") => "-",
                _ => "~",
            };
            format!("{sign} {}", short_key(document))
        })
        .collect();
    if all.len() > SHOWN {
        words.push(format!("and {} more", all.len() - SHOWN));
    }
    words.join(" ")
}

fn why(change: &Value) -> String {
    let mut words: Vec<String> = change["message"].as_str().map(str::to_owned).into_iter().collect();
    if let Some(revision) = change["undoes"].as_i64() {
        words.push(format!("undoes {revision}"));
    }
    let undone: Vec<String> = change["undone_by"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Value::to_string)
        .collect();
    if !undone.is_empty() {
        words.push(format!("undone by {}", undone.join(", ")));
    }
    if let Some(why) = change["gap"]["why"].as_str() {
        let (from, to) = (&change["gap"]["from"], &change["gap"]["to"]);
        words.push(format!(
            "gap: the changes after {from} up to {to} are not known ({why})"
        ));
    }
    words.join("; ")
}

pub(super) fn diff(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let range = matches.get_one::<(i64, Option<i64>)>("range").copied();
        let (from, to) = match range {
            Some((from, Some(to))) => (from, to),
            Some((revision, None)) => of_change(&session, &revision.to_string()).await?,
            None => match newest(&session).await? {
                Some(revision) => of_change(&session, &revision.to_string()).await?,
                None => return session.show(&Shown::sentence(Value::Null, "no change")),
            },
        };
        let mut path = format!("/api/v1/diff?from={from}&to={to}");
        if matches.get_flag("xds") {
            path.push_str("&view=xds");
            let group = matches.get_one::<String>("group");
            path.extend(group.map(|group| format!("&group={}", encoded(group))));
        }
        let answer = session.get(path).await?;
        session.show(&difference(answer.body))
    })
}

/// The revision of the newest change, which may have no entry yet: a list of entries would name the change before.
pub(super) async fn newest(session: &Session) -> Result<Option<i64>, Failure> {
    let answer = session.get("/api/v1/rollout/latest").await?;
    Ok(answer.body["revision"].as_i64().filter(|revision| *revision > 0))
}

/// The revisions before and at a change.
async fn of_change(session: &Session, revision: &str) -> Result<(i64, i64), Failure> {
    let answer = session.get(format!("/api/v1/revisions/{revision}")).await?;
    let revision = answer.body["revision"].as_i64().unwrap_or_default();
    Ok((revision - 1, revision))
}

fn difference(body: Value) -> Shown {
    let mut lines = Vec::new();
    let mut names = Vec::new();
    for document in body["documents"].as_array().into_iter().flatten() {
        let key = short_key(document);
        match document["diff"].as_str() {
            Some(diff) => lines.push(diff.trim_end().to_owned()),
            None => lines.push(format!(
                "{key}: {} (a secret, its texts are not shown)",
                document["action"].as_str().unwrap_or("changed")
            )),
        }
        names.push(key);
    }
    for (kind, types) in body["types"].as_object().into_iter().flatten() {
        for (field, sign) in [("added", "+"), ("removed", "-")] {
            for name in types[field].as_array().into_iter().flatten().filter_map(Value::as_str) {
                lines.push(format!("{sign} {kind}/{name}"));
                names.push(format!("{kind}/{name}"));
            }
        }
        for resource in types["changed"].as_array().into_iter().flatten() {
            let name = format!("{kind}/{}", resource["name"].as_str().unwrap_or_default());
            lines.push(format!("~ {name}"));
            for change in resource["changes"].as_array().into_iter().flatten() {
                let pointer = change["pointer"].as_str().unwrap_or_default();
                lines.push(format!("    {pointer}: {} -> {}", change["before"], change["after"]));
            }
            names.push(name);
        }
    }
    if lines.is_empty() {
        return Shown::sentence(body, "no difference");
    }
    Shown {
        parts: lines.into_iter().map(Part::Text).collect(),
        names,
        value: body,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_range_has_its_later_revision_last() {
        assert_eq!(parse_range("7"), Ok((7, None)));
        assert_eq!(parse_range("7..9"), Ok((7, Some(9))));
        assert!(parse_range("9..7").is_err_and(|reason| reason.contains("expected the later revision last")));
        assert!(parse_range("x").is_err_and(|reason| reason.contains("expected a revision")));
        assert!(parse_range("0").is_err());
    }

    #[test]
    fn a_change_tells_its_documents_and_its_reason() {
        let change = json!({
            "revision": 9, "at": "2026-11-30T02:29:08.108Z", "via": "direct", "actor": null, "message": "release 77",
            "documents": [
                { "kind": "routes", "name": "orders", "action": "changed" },
                { "kind": "clusters", "name": "new", "action": "added" },
                { "kind": "defaults", "name": "", "action": "removed" },
                { "kind": "routes", "name": "x", "action": "added" },
            ],
            "undoes": 7, "undone_by": [11], "gap": null,
        });
        assert_eq!(
            documents(&change),
            "~ routes/orders + clusters/new - defaults and 1 more"
        );
        assert_eq!(why(&change), "release 77; undoes 7; undone by 11");
        assert_eq!(author(&change, Some("etcd")), "etcd (direct)");
        let at = |time: &str| humantime::parse_rfc3339(time).unwrap();
        assert_eq!(when(&change["at"], at("2026-11-30T23:59:59Z")), "02:29:08");
        assert_eq!(when(&change["at"], at("2026-12-01T00:00:00Z")), "11-30 02:29");
    }
}
