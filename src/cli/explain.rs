//! `chancery explain`: where a request goes, and why.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::remote::{Failure, Part, Session, Shown, arguments, run as run_remote, short, text};
use super::show::table::{Column, Table};
use crate::client::Call;

mod facts;
mod request;

use facts::Facts;

pub(super) const NAME: &str = "explain";

const LONG_ABOUT: &str =
    "Show where a request goes and why: listener, route, cluster, endpoints, rewrites, policies, and \
the routes that lose, each with its reason. Nothing is sent to a proxy.

REQUEST is a curl line, a URL, METHOD URL, or a line of an access log in JSON.";

const AFTER_HELP: &str = "Examples:
  chancery explain https://api.example.com/v1/orders/7
  chancery explain 'curl -X POST https://api.example.com/v1/orders/7 -H \"x-env-tag: canary\"'
  chancery explain --group edge --listener public 'DELETE api.example.com/v1/orders/7'
  chancery explain --revision 1841 api.example.com/v1/orders/7
  tail -n 1 access.log | chancery explain -";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Show where a request goes, and why")
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .arg(
            Arg::new("request")
                .value_name("REQUEST")
                .required(true)
                .num_args(1..)
                .allow_hyphen_values(true)
                .trailing_var_arg(true)
                .help("The request; - reads a line of stdin"),
        )
        .arg(
            Arg::new("group")
                .long("group")
                .value_name("GROUP")
                .help("Group of the proxy [default: default]"),
        )
        .arg(
            Arg::new("listener")
                .long("listener")
                .value_name("NAME")
                .help("The listener, if several take the request"),
        )
        .arg(
            Arg::new("revision")
                .long("revision")
                .value_name("R")
                .value_parser(clap::value_parser!(i64).range(1..))
                .help("By the documents of this revision [default: those that serve]"),
        )
        .args(arguments())
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        let words: Vec<&String> = matches.get_many("request").into_iter().flatten().collect();
        let text = match words.as_slice() {
            [only] if *only == "-" => {
                let mut line = String::new();
                let read = std::io::stdin().read_line(&mut line);
                read.map_err(|error| Failure::failed(format!("read stdin: {error}")))?;
                line
            }
            [only] => (*only).clone(),
            several => several
                .iter()
                .map(|word| request::quoted(word))
                .collect::<Vec<_>>()
                .join(" "),
        };
        let request = request::read(text.trim()).map_err(Failure::Usage)?;
        let mut headers: Map<String, Value> = Map::new();
        for (name, value) in request.headers {
            let values = headers.entry(name).or_insert_with(|| json!([]));
            if let Value::Array(values) = values {
                values.push(json!(value));
            }
        }
        let body = json!({
            "request": format!("{} {}", request.method, request.url),
            "headers": headers,
            "group": matches.get_one::<String>("group"),
            "listener": matches.get_one::<String>("listener"),
            "revision": matches.get_one::<i64>("revision"),
        });
        let answer = session.call(Call::post("/api/v1/explain", &body)).await?;
        // The documents of now say nothing about an earlier revision.
        let is_now = matches.get_one::<i64>("revision").is_none();
        let facts = match is_now && session.is_for_people() {
            true => Facts::ask(&session, &answer.body, answer.now()).await,
            false => Facts::default(),
        };
        session.show(&shown(&session, answer.body, &facts))
    })
}

fn shown(session: &Session, body: Value, facts: &Facts) -> Shown {
    let mut ladder = Table::new([Column::whole(""), Column::name(""), Column::sentence("")]);
    let mut row = |head: &str, what: String, why: String| ladder.row([format!("  {head}"), what, why]);
    let listener = &body["listener"];
    if body["virtual_host"].is_string() {
        let host = text(&body, "virtual_host");
        row("host", host.to_owned(), kind_of_host(host).to_owned());
    }
    let route = &body["route"];
    if route.is_object() {
        let rule = facts.rule.clone().unwrap_or_else(|| place(route));
        let words = [Some(rule), facts.changed.clone()];
        let words: Vec<String> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
        row("route", short(text(route, "key")), words.join("  "));
    }
    for cluster in list(&body["destination"]["clusters"]) {
        let of_weight = list(&body["destination"]["clusters"]).count() > 1;
        let share = if of_weight {
            format!(" (weight {})", cluster["weight"])
        } else {
            String::new()
        };
        let to = format!("{}{share} -> {}", text(cluster, "name"), text(&body["request"], "path"));
        let why = facts.empty.get(text(cluster, "key")).map(|why| format!(": {why}"));
        row("to", to, endpoints(cluster) + &why.unwrap_or_default());
        let listed = list(&cluster["endpoints"]).take(if session.is_wide() { usize::MAX } else { 3 });
        for endpoint in listed {
            let zone = endpoint["zone"].as_str().map(|zone| format!("zone {zone}"));
            let health = text(endpoint, "health");
            let facts: Vec<String> = zone
                .into_iter()
                .chain((health != "unknown").then(|| health.to_owned()))
                .chain((endpoint["priority"] != 0).then(|| format!("priority {}", endpoint["priority"])))
                .collect();
            row("", format!("  {}", text(endpoint, "address")), facts.join(", "));
        }
    }
    if let Some(location) = body["location"].as_str() {
        row("to", location.to_owned(), String::new());
    }
    for policy in list(&body["policies"]) {
        let place = policy["path"]
            .as_str()
            .map(|path| format!("#{path}"))
            .unwrap_or_default();
        let from = format!("{} {}{place}", text(policy, "kind"), short(text(policy, "key")));
        row("policy", from, text(policy, "does").to_owned());
    }
    if body["timeouts"].is_object() {
        let limit = body["timeouts"]["response"].as_str().unwrap_or("15s");
        let mut retries = String::new();
        if body["retry"].is_object() {
            let on: Vec<&str> = list(&body["retry"]["on"]).filter_map(Value::as_str).collect();
            retries = format!("{} retries on {}", body["retry"]["attempts"], on.join(", "));
        }
        row("time", format!("response {limit}"), retries);
    }
    let is_found = route.is_object();
    for (index, loser) in list(&body["losers"]).enumerate() {
        let head = match (index, is_found) {
            (0, true) => "lost",
            (0, false) => "near",
            _ => "",
        };
        let place = place(loser);
        let name = short(text(loser, "key"));
        let name = match place.as_str() {
            // The route without its overrides.
            "" if loser["key"] == route["key"] => format!("{name}#default"),
            "" => name,
            place => format!("{name}#{place}"),
        };
        row(head, name, text(loser, "why").to_owned());
    }

    let mut head = headline(&body);
    if listener.is_object() {
        let address = list(&listener["addresses"])
            .next()
            .and_then(Value::as_str)
            .unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default();
        let place = format!(
            "group {}, revision {}, listener {} :{port}",
            text(&body, "group"),
            body["revision"],
            text(listener, "name")
        );
        let used = head.chars().count() + place.chars().count();
        head = match session.width() {
            None => format!("{head}   {place}"),
            Some(width) if used + 3 <= width => format!("{head}{}{place}", " ".repeat(width - used)),
            Some(_) => format!("{head}\n{place}"),
        };
    }
    let names = route["key"].as_str().map(short).into_iter().collect();
    Shown {
        value: body,
        parts: vec![Part::Text(head), Part::Table(ladder)],
        names,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `overrides[0]` or `match[1]`; nothing for the only entry of a document.
fn place(rule: &Value) -> String {
    match (rule["override"].as_u64(), text(rule, "entry")) {
        (Some(index), _) => format!("overrides[{index}]"),
        (None, "match") => String::new(),
        (None, entry) => entry.to_owned(),
    }
}

/// How the domain of a virtual host is compared.
fn kind_of_host(domain: &str) -> &'static str {
    match domain {
        "*" => "any host",
        domain if domain.starts_with('*') => "suffix",
        domain if domain.ends_with('*') => "prefix",
        _ => "exact",
    }
}

fn endpoints(cluster: &Value) -> String {
    if cluster["exists"] == false {
        return "the group has no such cluster".to_owned();
    }
    match (cluster["total"].as_u64(), cluster["usable"].as_u64()) {
        (Some(0), _) => "0 endpoints".to_owned(),
        (Some(total), Some(usable)) if usable < total => format!("{usable} of {total} endpoints are usable"),
        (Some(1), _) => "1 endpoint".to_owned(),
        (Some(total), _) => format!("{total} endpoints"),
        _ => String::new(),
    }
}

/// What the client gets.
fn headline(body: &Value) -> String {
    let clusters: Vec<&Value> = list(&body["destination"]["clusters"]).collect();
    let is_empty = |cluster: &&Value| cluster["total"] == 0;
    let status = body["status"].as_u64();
    let why = body["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    match text(body, "outcome") {
        "forward" if clusters.iter().all(|cluster| cluster["exists"] == false) => "503 no_cluster (NC)".to_owned(),
        "forward" if clusters.iter().all(is_empty) => "503 no_healthy_upstream (UH)".to_owned(),
        "forward" if clusters.iter().any(is_empty) => "forwarded, or 503 where a cluster has no endpoint".to_owned(),
        "forward" => "forwarded".to_owned(),
        "redirect" => format!("{} redirect", status.unwrap_or_default()),
        "respond" => format!("{} Envoy answers itself{why}", status.unwrap_or_default()),
        "not_found" => "404 no route".to_owned(),
        _ => format!("no listener takes the request{why}"),
    }
}
