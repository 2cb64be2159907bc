//! `chancery freeze`, `freezes` and `unfreeze`: documents that nobody writes through the API for a while.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Arg, ArgMatches, Command};
use http::Method;
use serde_json::{Value, json};

use super::remote::{Failure, Session, Shown, arguments, encoded, run as run_remote, text};
use super::show::age;
use super::show::table::{Column, Table};
use super::write::argument;
use crate::client::Call;

pub(super) const FREEZE: &str = "freeze";
pub(super) const FREEZES: &str = "freezes";
pub(super) const UNFREEZE: &str = "unfreeze";

pub(super) fn commands() -> [Command; 3] {
    let required = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).value_name(value).required(true).help(help)
    };
    [
        Command::new(FREEZE)
            .about("Refuse writes of documents through the API for a while")
            .after_help("Example:\n  chancery freeze '/gateway/routes/*' --for 30m -m 'sale'")
            .arg(required("frozen", "KEY", "A full key, or a prefix that ends in *"))
            .arg(required("for", "TIME", "How long, such as 30m; at most 30d").long("for"))
            .arg(
                required(
                    "message",
                    "WHY",
                    "The reason, shown to everybody whose write is refused",
                )
                .short('m')
                .long("message"),
            ),
        Command::new(FREEZES)
            .about("List the freezes, the one that ends first at the top")
            .after_help("Example:\n  chancery freezes"),
        Command::new(UNFREEZE)
            .about("End a freeze")
            .after_help("Example:\n  chancery unfreeze 1f0c3a5b7d9e")
            .arg(required("id", "ID", "The id of the freeze")),
    ]
    .map(|command| command.args(arguments()))
}

pub(super) fn run(name: &str, matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        match name {
            FREEZE => begin(&session, matches).await,
            FREEZES => list(&session).await,
            _ => end(&session, matches).await,
        }
    })
}

async fn begin(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    let body = json!({
        "key": argument(matches, "frozen"),
        "for": argument(matches, "for"),
        "why": argument(matches, "message"),
    });
    let freeze = session.call(Call::post("/api/v1/freezes", &body)).await?.body;
    let id = text(&freeze, "id").to_owned();
    let sentence = format!(
        "{} is frozen until {}; chancery unfreeze {id} ends it",
        text(&freeze, "key"),
        text(&freeze, "until")
    );
    session.show(&Shown {
        names: vec![id],
        ..Shown::sentence(freeze, sentence)
    })
}

async fn list(session: &Session) -> Result<(), Failure> {
    let answer = session.get("/api/v1/freezes").await?;
    let mut table = Table::new([
        Column::whole("ID"),
        Column::name("KEY"),
        Column::whole("ENDS IN"),
        Column::name("WHO"),
        Column::name("WHY"),
    ]);
    let now = answer.now();
    let mut names = Vec::new();
    for freeze in answer.body["freezes"].as_array().into_iter().flatten() {
        names.push(text(freeze, "id").to_owned());
        table.row([
            text(freeze, "id").to_owned(),
            text(freeze, "key").to_owned(),
            left(&freeze["until"], now),
            freeze["by"].as_str().unwrap_or("-").to_owned(),
            text(freeze, "why").to_owned(),
        ]);
    }
    let shown = match names.is_empty() {
        true => Shown::sentence(answer.body, "no freeze"),
        false => Shown::table(answer.body, table, names),
    };
    session.show(&shown)
}

async fn end(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    let id = argument(matches, "id");
    let path = format!("/api/v1/freezes/{}", encoded(id));
    session.call(Call::new(Method::DELETE, path)).await?;
    session.show(&Shown {
        names: vec![id.to_owned()],
        ..Shown::sentence(
            json!({ "id": id, "action": "removed" }),
            format!("freeze {id} is ended"),
        )
    })
}

fn left(until: &Value, now: SystemTime) -> String {
    let left = age::time(until).and_then(|until| until.duration_since(now).ok());
    age::short(left.unwrap_or_default())
}
