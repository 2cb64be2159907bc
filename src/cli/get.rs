//! `chancery get`: documents and their states.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::remote::{Part, Session, Shown, arguments, document_path, encoded, run as run_remote, short_key};
use super::show::table::{Column, Table};

pub(super) const NAME: &str = "get";

const AFTER_HELP: &str = "Examples:
  chancery get
  chancery get routes --state rejected
  chancery get routes/orders -o yaml
  chancery get clusters -o name | xargs -n 1 chancery get";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .visible_alias("describe")
        .about("Show documents and their states")
        .after_help(AFTER_HELP)
        .arg(
            Arg::new("what")
                .value_name("KIND[/NAME]")
                .help("A kind of documents, or one document"),
        )
        .arg(
            Arg::new("state")
                .long("state")
                .value_name("STATE")
                .help("Only documents in this state"),
        )
        .arg(
            Arg::new("text")
                .long("match")
                .value_name("TEXT")
                .help("Only documents with this text in their key"),
        )
        .arg(
            Arg::new("effective")
                .long("effective")
                .action(clap::ArgAction::SetTrue)
                .help("With the policies that hold for the document"),
        )
        .args(arguments())
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let what = matches.get_one::<String>("what").map(|what| what.trim_matches('/'));
        let is_one = what.is_some_and(|what| what.contains('/') || what == "defaults" || what == "rollout");
        let shown = match what {
            Some(key) if is_one => {
                let query = if matches.get_flag("effective") {
                    "?effective=true"
                } else {
                    ""
                };
                let answer = session.get(format!("{}{query}", document_path(key))).await?;
                one(&session, answer.body)
            }
            kind => {
                let mut query = Vec::new();
                query.extend(kind.map(|kind| format!("kind={}", encoded(kind))));
                for (flag, name) in [("state", "state"), ("text", "q")] {
                    let value = matches.get_one::<String>(flag);
                    query.extend(value.map(|value| format!("{name}={}", encoded(value))));
                }
                let path = format!("/api/v1/documents?{}", query.join("&"));
                let answer = session.pages(path.trim_end_matches('?'), "documents").await?;
                many(&session, answer.body)
            }
        };
        session.show(&shown)
    })
}

const COLUMNS: [Column; 4] = [
    Column::name("DOCUMENT"),
    Column::whole("STATE"),
    Column::number("REV"),
    Column::whole("SERVES"),
];

fn table(session: &Session, documents: &[&Value]) -> Table {
    let mut columns = COLUMNS.to_vec();
    columns.push(Column::sentence("REASON"));
    if session.is_wide() {
        columns.push(Column::sentence("WARNINGS"));
    }
    let mut table = Table::new(columns);
    for document in documents {
        let number = |field: &str| {
            document[field]
                .as_i64()
                .map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
        let mut cells = vec![
            short_key(document),
            text("state"),
            number("revision"),
            number("serving_revision"),
            text("reason"),
        ];
        if session.is_wide() {
            let warnings = document["warnings"].as_array().into_iter().flatten();
            let warnings: Vec<&str> = warnings.filter_map(Value::as_str).collect();
            cells.push(warnings.join("; "));
        }
        table.row(cells);
    }
    table
}

fn many(session: &Session, body: Value) -> Shown {
    let documents: Vec<&Value> = body["documents"].as_array().into_iter().flatten().collect();
    let names = documents.iter().map(|document| short_key(document)).collect();
    let table = table(session, &documents);
    match documents.is_empty() {
        true => Shown::sentence(body, "no document"),
        false => Shown::table(body, table, names),
    }
}

/// One document: its state, its warnings and its text.
fn one(session: &Session, body: Value) -> Shown {
    let mut parts = vec![Part::Table(table(session, &[&body]))];
    let warnings = body["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.filter_map(Value::as_str);
    parts.extend(warnings.map(|warning| Part::Text(format!("warning: {warning}"))));
    for field in ["value", "secret", "effective"] {
        match &body[field] {
            Value::Null => {}
            Value::String(text) => parts.push(Part::Text(format!("\n{text}"))),
            value if field == "value" => parts.push(Part::Text(format!("\n{value:#}"))),
            value => parts.push(Part::Text(format!("\n{field}: {value:#}"))),
        }
    }
    Shown {
        names: vec![short_key(&body)],
        parts,
        value: body,
    }
}
