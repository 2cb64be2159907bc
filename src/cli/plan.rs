//! Plans of changes for people: `chancery plan`, `--dry-run`, and the question in front of `undo` and `restore`.
//!
//! Also `chancery confirm`: keep a change that was written with `apply --confirm`.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::remote::{Failure, Part, Session, Shown, arguments, run as run_remote, short, text};
use super::show::table::{Column, Table};
use crate::client::Call;

pub(super) const CONFIRM: &str = "confirm";

pub(super) fn confirm_command() -> Command {
    Command::new(CONFIRM)
        .about("Keep a change that was written with apply --confirm")
        .after_help("Example:\n  chancery apply ./gateway --confirm 5m\n  chancery confirm 1843")
        .arg(
            Arg::new("revision")
                .value_name("R")
                .required(true)
                .value_parser(value_parser!(i64).range(1..))
                .help("The revision of the change"),
        )
        .args(arguments())
}

pub(super) fn confirm(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let revision = matches.get_one::<i64>("revision").copied().unwrap_or_default();
        let path = format!("/api/v1/revisions/{revision}/confirm");
        let body = session.call(Call::post(path, &json!({}))).await?.body;
        let revision = body["revision"].as_i64().unwrap_or(revision);
        session.show(&Shown {
            names: vec![revision.to_string()],
            ..Shown::sentence(body, format!("{revision} stays"))
        })
    })
}

/// Show a plan.
///
/// # Errors
/// The write would be refused.
pub(super) fn show(session: &Session, plan: Value) -> Result<(), Failure> {
    let is_ok = plan["ok"] == true;
    session.show(&shown(plan))?;
    match is_ok {
        true => Ok(()),
        false => Err(Failure::Shown),
    }
}

/// `2 routes change owner; …  Risk: medium.`
pub(super) fn sentence(plan: &Value) -> String {
    let summary = text(plan, "summary");
    let mut letters = summary.chars();
    let summary: String = letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(letters)
        .collect();
    match plan["ok"] == true {
        true => format!("{summary} Risk: {}.", text(plan, "risk")),
        false => summary,
    }
}

fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value[field].as_array().into_iter().flatten()
}

fn shown(plan: Value) -> Shown {
    let mut documents = Table::new([
        Column::whole("  ACTION"),
        Column::name("DOCUMENT"),
        Column::whole("STATE"),
        Column::name("REASON"),
    ]);
    let mut names = Vec::new();
    for document in items(&plan, "documents").filter(|document| document["action"] != "unchanged") {
        let key = short(text(document, "key"));
        let warnings = items(document, "warnings").filter_map(Value::as_str);
        let reasons: Vec<&str> = document["reason"].as_str().into_iter().chain(warnings).collect();
        documents.row([
            format!("  {}", text(document, "action")),
            key.clone(),
            document["state"].as_str().unwrap_or("-").to_owned(),
            reasons.join("; "),
        ]);
        names.push(key);
    }
    let mut effects = Table::new([Column::whole("  EFFECT"), Column::name("WHERE"), Column::name("WHAT")]);
    for (effect, place, what) in effects_of(&plan) {
        effects.row([format!("  {effect}"), place, what]);
    }
    let mut parts = vec![Part::Text(sentence(&plan)), Part::Table(documents)];
    if !effects.is_empty() {
        parts.push(Part::Table(effects));
    }
    let reasons: Vec<&str> = items(&plan, "because").filter_map(Value::as_str).collect();
    if !reasons.is_empty() {
        parts.push(Part::Text(format!(
            "Risk {}: {}",
            text(&plan, "risk"),
            reasons.join("; ")
        )));
    }
    Shown {
        value: plan,
        parts,
        names,
    }
}

/// Drains, owners, tests and guards, each with its place.
fn effects_of(plan: &Value) -> Vec<(&'static str, String, String)> {
    let mut effects = Vec::new();
    for drain in items(plan, "drains") {
        let what = format!(
            "{}: the connections of {} proxies end",
            text(drain, "why"),
            drain["proxies"]
        );
        effects.push(("drains", format!("listeners/{}", text(drain, "listener")), what));
    }
    for owner in items(plan, "owners") {
        let of = |side: &str| owner[side].as_str().unwrap_or("no route").to_owned();
        let what = format!("{} -> {}", of("before"), of("after"));
        effects.push(("owner", text(owner, "request").to_owned(), what));
    }
    let more = plan["owners_total"].as_u64().unwrap_or_default() - items(plan, "owners").count() as u64;
    if more > 0 {
        effects.push(("owner", format!("and {more} more routes"), String::new()));
    }
    for test in items(plan, "tests") {
        let what = format!(
            "{}: expected {}, got {}",
            text(test, "request"),
            text(test, "expected"),
            text(test, "got")
        );
        effects.push(("test", text(test, "key").to_owned(), what));
    }
    for guard in items(plan, "guards") {
        effects.push(("held", short(text(guard, "key")), text(guard, "reason").to_owned()));
    }
    effects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_it_would_do_and_why_that_is_a_risk() {
        let plan = json!({
            "ok": true, "risk": "medium", "because": ["1 route changes owner"], "summary": "1 route changes owner; no proxy gets anything.",
            "documents": [{ "key": "/gateway/routes/all", "action": "added", "state": "accepted", "reason": null, "warnings": [] }],
            "drains": [{ "listener": "edge", "group": "default", "why": "address", "proxies": 3 }],
            "owners": [{ "request": "GET http://a/x", "group": "default", "before": "routes/a", "after": null }],
            "owners_total": 3, "tests": [], "guards": [],
        });
        assert_eq!(
            sentence(&plan),
            "1 route changes owner; no proxy gets anything. Risk: medium."
        );
        let expected = [
            (
                "drains",
                "listeners/edge".to_owned(),
                "address: the connections of 3 proxies end".to_owned(),
            ),
            ("owner", "GET http://a/x".to_owned(), "routes/a -> no route".to_owned()),
            ("owner", "and 2 more routes".to_owned(), String::new()),
        ];
        assert_eq!(effects_of(&plan), expected);
        let shown = shown(plan);
        assert_eq!((shown.parts.len(), shown.names), (4, vec!["routes/all".to_owned()]));
    }
}
