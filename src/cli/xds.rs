//! `chancery xds`: the resources that proxies get, as Envoy's own JSON.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};

use super::remote::{Failure, Part, Session, Shown, arguments, encoded, run as run_remote, short};
use super::show::table::{Column, Table};
use crate::document::xds::TYPES;

pub(super) const NAME: &str = "xds";

const AFTER_HELP: &str = "Examples:
  chancery xds
  chancery xds clusters
  chancery xds clusters orders
  chancery xds routes edge --proxy edge-7 -o yaml";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Show the resources that proxies get, with the documents they are made of")
        .after_help(AFTER_HELP)
        .arg(
            Arg::new("type")
                .value_name("TYPE")
                .value_parser(TYPES)
                .help("A type of resources"),
        )
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .help("One resource, as Envoy's own JSON"),
        )
        .arg(
            Arg::new("group")
                .long("group")
                .value_name("GROUP")
                .help("Group of proxies [default: default]"),
        )
        .arg(
            Arg::new("proxy")
                .long("proxy")
                .value_name("NODE")
                .conflicts_with("group")
                .help("The group of this proxy"),
        )
        .args(arguments())
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let text = |name: &str| matches.get_one::<String>(name);
        let group = match text("proxy") {
            Some(node) => Some(group_of(&session, node).await?),
            None => text("group").cloned(),
        };
        let query = group
            .map(|group| format!("?group={}", encoded(&group)))
            .unwrap_or_default();
        let shown = match (text("type"), text("name")) {
            (None, _) => overview(session.get("/api/v1/snapshot").await?.body),
            (Some(kind), None) => {
                let path = format!("/api/v1/snapshot/{kind}{query}");
                all(session.pages(&path, "resources").await?.body)
            }
            (Some(kind), Some(name)) => {
                let path = format!("/api/v1/snapshot/{kind}/{}{query}", encoded(name));
                one(session.get(path).await?.body)
            }
        };
        session.show(&shown)
    })
}

async fn group_of(session: &Session, node: &str) -> Result<String, Failure> {
    let answer = session.get(format!("/api/v1/clients/{}", encoded(node))).await?;
    let clients = answer.body["clients"].as_array();
    let newest = clients.and_then(|clients| clients.last());
    let group = newest.and_then(|client| client["group"].as_str());
    let missing = || {
        Failure::Failed(
            format!("no proxy with the node id {node} is connected"),
            Some("chancery ps".to_owned()),
        )
    };
    group.map(str::to_owned).ok_or_else(missing)
}

fn overview(body: Value) -> Shown {
    let mut table = Table::new([
        Column::name("GROUP"),
        Column::number("REV"),
        Column::whole("SOURCE"),
        Column::whole("TYPE"),
        Column::number("COUNT"),
        Column::name("VERSION"),
    ]);
    for (name, group) in body["groups"].as_object().into_iter().flatten() {
        for (kind, figures) in group["types"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, figures)| figures["count"] != 0)
        {
            table.row([
                name.clone(),
                group["revision"].to_string(),
                group["source"].as_str().unwrap_or_default().to_owned(),
                kind.clone(),
                figures["count"].to_string(),
                figures["version"].as_str().unwrap_or_default().to_owned(),
            ]);
        }
    }
    let names = body["groups"]
        .as_object()
        .map(|groups| groups.keys().cloned().collect());
    Shown::table(body, table, names.unwrap_or_default())
}

fn documents(resource: &Value) -> String {
    let keys = resource["documents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(short);
    let keys: Vec<String> = keys.collect();
    match keys.len() {
        0..=3 => keys.join(" "),
        count => format!("{} and {} more", keys[..2].join(" "), count - 2),
    }
}

fn all(body: Value) -> Shown {
    let mut table = Table::new([
        Column::name("NAME"),
        Column::whole("VERSION"),
        Column::name("DOCUMENTS"),
    ]);
    let mut names = Vec::new();
    for resource in body["resources"].as_array().into_iter().flatten() {
        let name = resource["name"].as_str().unwrap_or_default().to_owned();
        let version: String = resource["version"]
            .as_str()
            .unwrap_or_default()
            .chars()
            .take(12)
            .collect();
        names.push(name.clone());
        table.row([name, version, documents(resource)]);
    }
    match names.is_empty() {
        true => Shown::sentence(body, "no resource of this type"),
        false => Shown::table(body, table, names),
    }
}

fn one(body: Value) -> Shown {
    let resource = body["resource"].clone();
    let head = format!("# made of {}", documents(&body));
    let names = vec![body["name"].as_str().unwrap_or_default().to_owned()];
    let shown = json!(resource);
    Shown {
        value: body,
        parts: vec![Part::Text(head), Part::Text(format!("{shown:#}"))],
        names,
    }
}
