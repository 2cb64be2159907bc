//! `chancery ps`: proxies, what each has, and since when.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::remote::{Failure, Part, Session, Shown, arguments, cause, encoded, run as run_remote, short, text};
use super::show::age;
use super::show::table::{Column, Table};

pub(super) const NAME: &str = "ps";

/// Rows of proxies that are live and nothing else, unless `--all` is given.
const LIVE_ROWS: usize = 20;
/// A response without an ACK for longer than this is late.
const LATE: Duration = Duration::from_secs(5);
/// The types of the columns.
const TYPES: [(&str, &str); 4] = [
    ("LDS", "listeners"),
    ("RDS", "routes"),
    ("CDS", "clusters"),
    ("EDS", "endpoints"),
];
/// States, the worst first.
const STATES: [&str; 7] = ["refused", "stalled", "behind", "rolling", "pending", "live", "gone"];

const AFTER_HELP: &str =
    "States: live (has everything), rolling (for less than 5 s), behind (longer), refused (sent a \
NACK), stalled (takes nothing), pending, gone (disconnected within 10 minutes).

Examples:
  chancery ps
  chancery ps edge-7
  chancery ps --state '!live'
  chancery ps --group edge --all -o name";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Show proxies, what each has, and since when")
        .after_help(AFTER_HELP)
        .arg(
            Arg::new("node")
                .value_name("NODE")
                .help("Everything about the proxy with this node id"),
        )
        .arg(
            Arg::new("state")
                .long("state")
                .value_name("STATE")
                .help("Only proxies in this state; !STATE: in any other"),
        )
        .arg(
            Arg::new("group")
                .long("group")
                .value_name("GROUP")
                .help("Only proxies of this group"),
        )
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .help("Show every row, and ask every server"),
        )
        .args(arguments())
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let node = matches.get_one::<String>("node");
        let group = matches.get_one::<String>("group");
        let path = match (node, group) {
            (Some(node), _) => format!("/api/v1/clients/{}?names=true", encoded(node)),
            (None, Some(group)) => format!("/api/v1/clients?group={}", encoded(group)),
            (None, None) => "/api/v1/clients".to_owned(),
        };
        let (mut clients, now) = clients(&session, &path, matches.get_flag("all")).await?;
        if let Some(group) = group {
            clients.retain(|client| client["group"].as_str() == Some(group));
        }
        if let Some(wanted) = matches.get_one::<String>("state") {
            let (is_other, word) = wanted
                .strip_prefix('!')
                .map_or((false, wanted.as_str()), |word| (true, word));
            if !STATES.contains(&word) {
                return Err(Failure::Usage(format!(
                    "--state: found {wanted:?}, expected one of {}",
                    STATES.join(", ")
                )));
            }
            clients.retain(|client| (state(client, now) == word) != is_other);
        }
        match node {
            Some(node) if clients.is_empty() => Err(Failure::Failed(
                format!("no proxy with the node id {node} is connected, and none was within 10 minutes"),
                Some("chancery ps".to_owned()),
            )),
            Some(node) => {
                let blamed = blamed(&session, node, &clients, now).await;
                session.show(&one(clients, &blamed, now))
            }
            None => session.show(&many(&session, clients, now, matches.get_flag("all"))),
        }
    })
}

/// The clients of one server, or of each: a server answers for its own streams.
async fn clients(session: &Session, path: &str, all: bool) -> Result<(Vec<Value>, SystemTime), Failure> {
    let mut list = Vec::new();
    let mut now = SystemTime::now();
    let servers = session.client.each();
    let asked = if all { servers.len() } else { 1 };
    for server in servers.into_iter().take(asked) {
        let name = server.name();
        // Of one server: whichever answers first.
        let server = match all {
            true => session.with(server),
            false => session.with(session.client.clone()),
        };
        let mut answer = server.pages(path, "clients").await?;
        now = answer.now();
        if let Value::Array(clients) = answer.body["clients"].take() {
            list.extend(clients.into_iter().map(|mut client| {
                if all && client["replica"].is_null() {
                    client["replica"] = json!(name);
                }
                client
            }));
        }
    }
    Ok((list, now))
}

/// The state that the server says, else the one that the exchanges of its types show.
fn state(client: &Value, now: SystemTime) -> &str {
    if !client["gone_at"].is_null() {
        return "gone";
    }
    if let Some(state) = client["state"].as_str() {
        return state;
    }
    let types = || {
        client["types"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, figures)| figures)
    };
    if types().any(is_refused) {
        return "refused";
    }
    let unanswered = types().filter(|figures| is_unanswered(figures));
    let ages = unanswered.filter_map(|figures| age::since(&figures["sent"]["at"], now));
    match ages.max() {
        None => "live",
        Some(age) if age < LATE => "rolling",
        Some(_) => "behind",
    }
}

/// Whether the last answer to a type is a NACK.
fn is_refused(figures: &Value) -> bool {
    let at = |field: &str| figures[field]["at"].as_str();
    at("refused").is_some_and(|refused| at("acknowledged").is_none_or(|acknowledged| acknowledged < refused))
}

fn is_unanswered(figures: &Value) -> bool {
    let nonce = |field: &str| figures[field]["nonce"].as_str();
    nonce("sent").is_some() && nonce("sent") != nonce("acknowledged") && nonce("sent") != nonce("refused")
}

fn cell(figures: &Value, now: SystemTime) -> String {
    match figures {
        Value::Null => "-".to_owned(),
        figures if is_refused(figures) => "REFUSED".to_owned(),
        figures if is_unanswered(figures) => age::short_since(&figures["sent"]["at"], now),
        _ => "ok".to_owned(),
    }
}

fn last_ack(client: &Value) -> Value {
    let types = client["types"].as_object().into_iter().flatten();
    let acks = types.filter_map(|(_, figures)| figures["acknowledged"]["at"].as_str());
    acks.max().map_or(Value::Null, |at| json!(at))
}

fn node(client: &Value) -> String {
    match client["node"]["id"].as_str().unwrap_or_default() {
        "" => format!("(stream {})", client["stream"]),
        id => id.to_owned(),
    }
}

/// The version of an Envoy; the name of any other client.
fn program(node: &Value) -> String {
    let words = [node["user_agent"].as_str(), node["version"].as_str()];
    match words {
        [Some("envoy"), Some(version)] => version.to_owned(),
        [Some(name), _] if !name.is_empty() => name.to_owned(),
        _ => "-".to_owned(),
    }
}

fn many(session: &Session, mut clients: Vec<Value>, now: SystemTime, all: bool) -> Shown {
    let rank = |client: &Value| {
        STATES
            .iter()
            .position(|word| *word == state(client, now))
            .unwrap_or_default()
    };
    clients.sort_by_key(|client| (rank(client), node(client)));

    let mut columns = vec![
        Column::name("PROXY"),
        Column::name("GROUP"),
        Column::whole("STATE"),
        Column::number("REV"),
        Column::number("SINCE"),
    ];
    columns.extend(TYPES.map(|(head, _)| Column::whole(head)));
    columns.extend([
        Column::spare("LAST ACK"),
        Column::whole("ENVOY"),
        Column::whole("REPLICA"),
    ]);
    if session.is_wide() {
        columns.extend([
            Column::whole("VARIANT"),
            Column::name("ADDRESS"),
            Column::name("CLUSTER"),
            Column::sentence("WARNINGS"),
        ]);
    }
    let mut table = Table::new(columns);
    let mut live = 0;
    for client in &clients {
        let word = state(client, now);
        live += usize::from(word == "live");
        if word == "live" && live > LIVE_ROWS && !all && session.is_for_people() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let since = if client["state_since"].is_null() {
            &client["connected_at"]
        } else {
            &client["state_since"]
        };
        let mut cells = vec![
            node(client),
            text(&client["group"]),
            word.to_owned(),
            client["revision"]
                .as_i64()
                .map_or_else(|| "-".to_owned(), |revision| revision.to_string()),
            age::short_since(since, now),
        ];
        cells.extend(TYPES.map(|(_, name)| cell(&client["types"][name], now)));
        cells.extend([
            age::short_since(&last_ack(client), now),
            program(&client["node"]),
            text(&client["replica"]),
        ]);
        if session.is_wide() {
            let warnings: Vec<&str> = client["warnings"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            cells.extend([
                text(&client["variant"]),
                text(&client["address"]),
                text(&client["node"]["cluster"]),
                warnings.join(", "),
            ]);
        }
        table.row(cells);
    }

    let names = clients.iter().map(node).collect();
    let mut parts = vec![Part::Table(table)];
    if clients.is_empty() {
        parts = vec![Part::Text(
            "no proxy is connected: `chancery bootstrap` prints a configuration for one".to_owned(),
        )];
    } else if live > LIVE_ROWS && !all {
        let more = live - LIVE_ROWS;
        parts.push(Part::Text(format!(
            "… {more} more live.  --all shows them, `ps NODE` tells all of one."
        )));
    }
    Shown {
        value: json!({ "clients": clients }),
        parts,
        names,
    }
}

/// The documents that may be the cause of the NACKs of a node, by type; the clients do not say them.
async fn blamed(session: &Session, id: &str, clients: &[Value], now: SystemTime) -> Vec<(String, String)> {
    if !session.is_for_people() || !clients.iter().any(|client| state(client, now) == "refused") {
        return Vec::new();
    }
    let Ok(rollout) = session.get("/api/v1/rollout/latest").await else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let of_node = rollout.body["refused"].as_array().into_iter().flatten();
    for refused in of_node.filter(|refused| refused["node"] == id) {
        for document in refused["documents"].as_array().into_iter().flatten() {
            let path = document["path"].as_str().map(|path| format!(": {path}"));
            let place = format!("{}{}", short(text(document, "key")), path.unwrap_or_default());
            let blame = (text(refused, "type").to_owned(), place);
            if !found.contains(&blame) {
                found.push(blame);
            }
        }
    }
    found
}

/// Everything about the streams of one node id.
fn one(clients: Vec<Value>, blamed: &[(String, String)], now: SystemTime) -> Shown {
    let mut parts = Vec::new();
    for client in &clients {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let gone = client["gone_at"]
            .as_str()
            .map(|_| format!(", gone for {}", age::short_since(&client["gone_at"], now)));
        parts.push(Part::Sentence(format!(
            "{}  {}  group {}, {} {} from {}, connected for {}{}",
            node(client),
            state(client, now),
            text(&client["group"]),
            client["node"]["user_agent"].as_str().unwrap_or("client"),
            match client["node"]["version"].as_str() {
                Some(version) => format!("{version} ({})", text(&client["variant"])),
                None => format!("({})", text(&client["variant"])),
            },
            text(&client["address"]),
            age::short_since(&client["connected_at"], now),
            gone.unwrap_or_default(),
        )));
        let warnings = client["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        parts.extend(warnings.map(|warning| Part::Text(format!("  warning: {warning}"))));
        let mut table = Table::new([
            Column::whole("  TYPE"),
            Column::whole("STATE"),
            Column::number("SUBSCRIBED"),
            Column::number("SENT"),
            Column::number("ACK"),
            Column::whole("VERSION"),
        ]);
        let mut nacks = Table::new([Column::whole(""), Column::sentence("")]);
        for (name, figures) in client["types"].as_object().into_iter().flatten() {
            let subscribed = match &figures["subscribed"] {
                Value::Array(names) => names.len().to_string(),
                Value::String(all) => all.clone(),
                count => count.to_string(),
            };
            let word = match cell(figures, now) {
                word if word == "ok" || word == "REFUSED" => word,
                _ => "unanswered".to_owned(),
            };
            let version: String = figures["acknowledged"]["version"]
                .as_str()
                .unwrap_or("-")
                .chars()
                .take(12)
                .collect();
            table.row([
                format!("  {name}"),
                word,
                subscribed,
                age::short_since(&figures["sent"]["at"], now),
                age::short_since(&figures["acknowledged"]["at"], now),
                version,
            ]);
            if is_refused(figures) {
                let message = figures["refused"]["message"].as_str().unwrap_or_default();
                let age = age::short_since(&figures["refused"]["at"], now);
                nacks.row([format!("  {name}"), format!("refused {age} ago: {}", cause(message))]);
                for (_, place) in blamed.iter().filter(|(of, _)| of == name) {
                    nacks.row(["  because of".to_owned(), place.clone()]);
                }
            }
        }
        parts.push(Part::Table(table));
        parts.push(Part::Table(nacks));
    }
    let names = clients.iter().map(node).collect();
    Shown {
        value: json!({ "clients": clients }),
        parts,
        names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(nonce: &str, at: &str) -> Value {
        json!({ "version": "1", "nonce": nonce, "at": format!("2026-11-30T03:00:{at}Z") })
    }

    fn client(sent: Value, acknowledged: Value, refused: Value) -> Value {
        let types = json!({ "routes": { "sent": sent, "acknowledged": acknowledged, "refused": refused } });
        json!({ "gone_at": null, "types": types })
    }

    #[test]
    fn the_state_of_a_proxy_is_read_from_its_exchanges() {
        let now = humantime::parse_rfc3339("2026-11-30T03:00:10Z").unwrap();
        let one = exchange("1", "01");
        let live = client(one.clone(), one.clone(), Value::Null);
        assert_eq!(state(&live, now), "live");
        assert_eq!(
            state(&client(exchange("2", "08"), one.clone(), Value::Null), now),
            "rolling"
        );
        assert_eq!(
            state(&client(exchange("2", "04"), one.clone(), Value::Null), now),
            "behind"
        );
        let two = exchange("2", "08");
        assert_eq!(state(&client(two.clone(), one.clone(), two.clone()), now), "refused");
        assert_eq!(state(&client(two.clone(), two, one), now), "live");
        let mut gone = live.clone();
        gone["gone_at"] = json!("2026-11-30T03:00:09Z");
        assert_eq!(state(&gone, now), "gone");
        let mut said = live;
        said["state"] = json!("stalled");
        assert_eq!(state(&said, now), "stalled");
    }
}
