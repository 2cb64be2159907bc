//! Writes of one document: `chancery edit`, `delete`, `release`, `drain`, `undrain` and `weight`.
//!
//! A write that depends on the text before has its `ETag` in If-Match, so it never undoes the change of somebody else.

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use serde_json::{Map, Value, json};

use super::remote::{Failure, Session, Shown, arguments, document_path, run as run_remote, short};
use super::show::changes::percent;
use super::wait;
use crate::client::{Answer, Call};
use crate::config::process_variable;

pub(super) const EDIT: &str = "edit";
pub(super) const DELETE: &str = "delete";
pub(super) const RELEASE: &str = "release";
pub(super) const DRAIN: &str = "drain";
pub(super) const UNDRAIN: &str = "undrain";
pub(super) const WEIGHT: &str = "weight";

/// The text in the place of a secret.
pub(super) const REDACTED: &str = "\"[redacted]\"";

pub(super) fn commands() -> [Command; 6] {
    let key = || {
        Arg::new("document")
            .value_name("KIND/NAME")
            .required(true)
            .help("The document")
    };
    let instance = || {
        let help = "A cluster and the name of a registered instance, or the address of a listed endpoint";
        Arg::new("instance")
            .value_name("CLUSTER/INSTANCE")
            .required(true)
            .help(help)
    };
    [
        Command::new(EDIT)
            .about("Edit a document in $VISUAL or $EDITOR")
            .after_help("Examples:\n  chancery edit routes/orders\n  EDITOR='code --wait' chancery edit clusters/orders -m 'longer timeout'")
            .arg(key())
            .arg(message()),
        Command::new(DELETE)
            .about("Delete documents")
            .after_help("Examples:\n  chancery delete routes/orders\n  chancery delete clusters/orders --force -m 'service is gone'")
            .arg(key().num_args(1..).help("The documents"))
            .arg(force("Delete though documents name the cluster, or a test of another document fails"))
            .arg(message()),
        Command::new(RELEASE)
            .about("Let held changes act now, and try refused texts again")
            .after_help("Examples:\n  chancery release routes/orders\n  chancery release --all")
            .arg(Arg::new("document").value_name("KEY").num_args(0..).help("Documents, or prefixes of held lists"))
            .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).conflicts_with("document").help("All of them")),
        Command::new(DRAIN)
            .about("Send no new requests to an instance; its lease stays")
            .after_help("Examples:\n  chancery drain orders/a\n  chancery drain orders/10.0.0.7:8080 -m 'new disk'")
            .arg(instance())
            .arg(message()),
        Command::new(UNDRAIN)
            .about("Send requests to a drained instance again")
            .after_help("Example:\n  chancery undrain orders/a")
            .arg(instance())
            .arg(message()),
        Command::new(WEIGHT)
            .about("Set the shares of a route's clusters")
            .after_help(
                "Examples:\n  chancery weight orders orders-v1=95 orders-v2=5\n  chancery weight orders orders-v2=100 -m 'finish canary' --wait 30s",
            )
            .arg(Arg::new("route").value_name("ROUTE").required(true).help("The name of the routes document"))
            .arg(
                Arg::new("share")
                    .value_name("CLUSTER=N")
                    .required(true)
                    .num_args(1..)
                    .help("Shares; a cluster that is not named keeps its own, or gets none if the sum is 100"),
            )
            .arg(wait::flag())
            .arg(message()),
    ]
    .map(|command| command.args(arguments()))
}

/// `-m WHY`
pub(super) fn message() -> Arg {
    Arg::new("message")
        .short('m')
        .long("message")
        .value_name("WHY")
        .help("The reason, for the history")
}

pub(super) fn force(help: &'static str) -> Arg {
    Arg::new("force").long("force").action(ArgAction::SetTrue).help(help)
}

pub(super) fn run(name: &str, matches: &ArgMatches) -> ExitCode {
    run_remote(matches, |session| async move {
        match name {
            EDIT => edit(&session, matches).await,
            DELETE => delete(&session, matches).await,
            RELEASE => release(&session, matches).await,
            DRAIN => drain(&session, matches, true).await,
            UNDRAIN => drain(&session, matches, false).await,
            _ => weight(&session, matches).await,
        }
    })
}

pub(super) fn argument<'m>(matches: &'m ArgMatches, name: &str) -> &'m str {
    matches.get_one::<String>(name).map(String::as_str).unwrap_or_default()
}

/// The call with the message of a change.
pub(super) fn with_message(call: Call, matches: &ArgMatches) -> Call {
    match matches.get_one::<String>("message") {
        Some(message) => call.header("x-chancery-message", &super::remote::encoded(message)),
        None => call,
    }
}

/// The document that an answer shows, as JSON; a text in YAML is read.
fn value_of(read: &Answer) -> Value {
    let value = &read.body["value"];
    let yaml = value.as_str().and_then(|text| serde_saphyr::from_str(text).ok());
    yaml.unwrap_or_else(|| value.clone())
}

/// Write a text where the document is still the one that was read.
async fn put(
    session: &Session,
    matches: &ArgMatches,
    key: &str,
    read: &Answer,
    text: String,
) -> Result<Answer, Failure> {
    let mut call = with_message(Call::new(Method::PUT, document_path(key)).json(text), matches);
    if let Some(etag) = read.etag() {
        call = call.header("if-match", etag);
    }
    session.call(call).await
}

/// The result of a write of one document.
fn written(key: &str, did: &str, answer: &Answer) -> Shown {
    let warnings = answer.body["warnings"].as_array().into_iter().flatten();
    let warnings: Vec<String> = warnings
        .filter_map(Value::as_str)
        .map(|warning| format!("\nwarning: {warning}"))
        .collect();
    let revision = answer.body["revision"]
        .as_i64()
        .map(|revision| format!(", revision {revision}"));
    let sentence = format!("{key}: {did}{}{}", revision.unwrap_or_default(), warnings.concat());
    Shown {
        names: vec![key.to_owned()],
        ..Shown::sentence(answer.body.clone(), sentence)
    }
}

async fn edit(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    let key = argument(matches, "document");
    let read = session.get(document_path(key)).await?;
    let value = &read.body["value"];
    let text = match value {
        Value::String(text) => text.clone(),
        value => format!("{value:#}\n"),
    };
    if value.is_null() || text.contains(REDACTED) {
        let reason = format!("{key}: its text has secrets, which no API shows, so it cannot be edited");
        return Err(Failure::Failed(
            reason,
            Some(format!("chancery apply FILE (write {key} anew)")),
        ));
    }

    let suffix = if value.is_string() { ".yaml" } else { ".json" };
    let file = tempfile::Builder::new().prefix("chancery-").suffix(suffix).tempfile();
    let file = file.and_then(|file| std::fs::write(file.path(), &text).map(|()| file));
    let file = file.map_err(|error| Failure::failed(format!("write a temporary file: {error}")))?;
    open_editor(file.path())?;
    let edited = std::fs::read_to_string(file.path())
        .map_err(|error| Failure::failed(format!("read {}: {error}", file.path().display())))?;
    if edited == text {
        return session.show(&Shown::sentence(read.body, format!("{key}: not changed")));
    }
    match put(session, matches, key, &read, edited).await {
        Ok(answer) => session.show(&written(key, "written", &answer)),
        Err(failure) => {
            // What was typed is worth more than a clean folder.
            if let Ok((_, path)) = file.keep() {
                super::complain(format_args!("the text is kept in {}", path.display()));
            }
            Err(failure)
        }
    }
}

fn open_editor(path: &Path) -> Result<(), Failure> {
    let editor = process_variable("VISUAL")
        .or_else(|| process_variable("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program).args(words).arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::failed(format!("{editor}: {status}; nothing is written"))),
        Err(error) => Err(Failure::Failed(
            format!("{editor} cannot be started: {error}"),
            Some("EDITOR=PROGRAM chancery edit …".to_owned()),
        )),
    }
}

async fn delete(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    for key in matches.get_many::<String>("document").into_iter().flatten() {
        let query = if matches.get_flag("force") { "?force=true" } else { "" };
        let call = Call::new(Method::DELETE, format!("{}{query}", document_path(key)));
        session.call(with_message(call, matches)).await?;
        let shown = Shown {
            names: vec![key.clone()],
            ..Shown::sentence(json!({ "key": key, "action": "removed" }), format!("{key}: deleted"))
        };
        session.show(&shown)?;
    }
    Ok(())
}

async fn release(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    let keys: Vec<&String> = matches.get_many("document").into_iter().flatten().collect();
    if keys.is_empty() && !matches.get_flag("all") {
        return Err(Failure::Usage("found no KEY, expected one or --all".to_owned()));
    }
    let mut full = Vec::new();
    for key in &keys {
        full.push(full_key(session, key).await?);
    }
    let body = if keys.is_empty() {
        json!({ "all": true })
    } else {
        json!({ "keys": full })
    };
    session.call(Call::post("/api/v1/release", &body)).await?;
    let what = if keys.is_empty() {
        "everything that was held".to_owned()
    } else {
        full.iter().map(|key| short(key)).collect::<Vec<_>>().join(", ")
    };
    let shown = Shown {
        names: full.clone(),
        ..Shown::sentence(body, format!("released: {what}"))
    };
    session.show(&shown)
}

/// The full key of KIND/NAME; a key that begins with a slash is one.
async fn full_key(session: &Session, key: &str) -> Result<String, Failure> {
    if key.starts_with('/') {
        return Ok(key.to_owned());
    }
    let answer = session.get(document_path(key)).await?;
    Ok(answer.body["key"].as_str().unwrap_or(key).to_owned())
}

async fn drain(session: &Session, matches: &ArgMatches, drains: bool) -> Result<(), Failure> {
    let name = argument(matches, "instance");
    let Some((cluster, instance)) = name.split_once('/') else {
        return Err(Failure::Usage(format!("found {name:?}, expected CLUSTER/INSTANCE")));
    };
    let registered = format!("services/{cluster}/{instance}");
    let (key, read) = match session.get(document_path(&registered)).await {
        Ok(read) => (registered, read),
        Err(Failure::Refused(problem)) if problem.code == "not_found" => {
            let key = format!("clusters/{cluster}");
            let read = session.get(document_path(&key)).await?;
            (key, read)
        }
        Err(failure) => return Err(failure),
    };
    let mut value = value_of(&read);
    let is_found = if key.starts_with("services/") {
        value = with_state(value, drains);
        true
    } else {
        set_listed(&mut value, instance, drains)
    };
    if !is_found {
        let reason = format!("{key} has no endpoint {instance}, and there is no instance services/{name}");
        return Err(Failure::Failed(reason, Some(format!("chancery get {key}"))));
    }
    let answer = put(session, matches, &key, &read, value.to_string()).await?;
    let did = if drains { "drains" } else { "is up again" };
    session.show(&written(name, did, &answer))
}

/// The endpoint with `state`, in whichever form it is written.
fn with_state(value: Value, drains: bool) -> Value {
    let mut fields = match value {
        Value::Object(fields) => fields,
        // The plain form of a registration is its address.
        address => Map::from_iter([("address".to_owned(), address)]),
    };
    match drains {
        true => fields.insert("state".to_owned(), json!("drain")),
        false => fields.remove("state"),
    };
    Value::Object(fields)
}

/// Set `state` of a listed endpoint; false if there is none of the address.
fn set_listed(value: &mut Value, address: &str, drains: bool) -> bool {
    let endpoints = value.get_mut("endpoints").and_then(Value::as_array_mut);
    let mut is_found = false;
    for endpoint in endpoints.into_iter().flatten() {
        let own = endpoint.as_str().or_else(|| endpoint["address"].as_str());
        let is_it = own.is_some_and(|own| match endpoint["port"].as_u64() {
            Some(port) => format!("{own}:{port}") == address || own == address,
            None => own == address,
        });
        if is_it {
            *endpoint = with_state(endpoint.take(), drains);
            is_found = true;
        }
    }
    is_found
}

async fn weight(session: &Session, matches: &ArgMatches) -> Result<(), Failure> {
    let route = argument(matches, "route");
    let key = format!("routes/{}", route.strip_prefix("routes/").unwrap_or(route));
    let mut shares: Vec<(String, u32)> = Vec::new();
    for share in matches.get_many::<String>("share").into_iter().flatten() {
        let parsed = share
            .rsplit_once('=')
            .and_then(|(name, weight)| Some((name.to_owned(), weight.parse().ok()?)));
        let wrong = || Failure::Usage(format!("found {share:?}, expected CLUSTER=N"));
        shares.push(parsed.ok_or_else(wrong)?);
    }

    let read = session.get(document_path(&key)).await?;
    let mut value = value_of(&read);
    let Some(fields) = value.as_object_mut() else {
        let next = Some(format!("chancery edit {key}"));
        return Err(Failure::Failed(
            format!("{key} is not written as one JSON object, so its shares cannot be set"),
            next,
        ));
    };
    let before = targets(fields, &key);
    let after = with_shares(before.clone(), &shares)
        .map_err(|reason| Failure::Failed(format!("{key}: {reason}"), Some(format!("chancery get {key}"))))?;
    fields.insert("to".to_owned(), Value::Array(after.clone()));
    let answer = put(session, matches, &key, &read, value.to_string()).await?;
    let sums = [sum(&before), sum(&after)];
    let line = |target: &Value| {
        let name = target["cluster"].as_str().unwrap_or_default();
        let share_of = |targets: &[Value], sum: u64| {
            let own = targets.iter().find(|other| other["cluster"].as_str() == Some(name));
            format!("{} %", percent(own.map_or(0, weight_of), sum))
        };
        format!(
            "\n  {name} {} -> {}",
            share_of(&before, sums[0]),
            share_of(&after, sums[1])
        )
    };
    let shown = written(&key, "written", &answer);
    let lines: String = after.iter().map(line).collect();
    let shown = match shown.parts.first() {
        Some(super::remote::Part::Text(text)) => Shown {
            names: vec![key.clone()],
            ..Shown::sentence(answer.body, format!("{text}{lines}"))
        },
        _ => shown,
    };
    let revision = shown.value["revision"].as_i64();
    wait::after(session, shown, revision, matches.get_one("wait").copied()).await
}

/// The targets of a route as a list of objects.
fn targets(fields: &Map<String, Value>, key: &str) -> Vec<Value> {
    match fields.get("to") {
        Some(Value::Array(targets)) => targets.clone(),
        Some(Value::Object(target)) => vec![Value::Object(target.clone())],
        Some(Value::String(name)) => vec![json!({ "cluster": name, "weight": 1 })],
        _ => {
            let own = key.trim_start_matches("routes/").split('/').next().unwrap_or_default();
            vec![json!({ "cluster": own, "weight": 1 })]
        }
    }
}

/// The targets with other shares; a cluster that is new is appended. If the named shares make 100, all others get 0.
fn with_shares(mut targets: Vec<Value>, shares: &[(String, u32)]) -> Result<Vec<Value>, String> {
    if targets.iter().any(|target| !target["cluster"].is_string()) {
        return Err("its requests are not forwarded to clusters, so there are no shares".to_owned());
    }
    let is_whole = shares.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>() == 100;
    for target in &mut targets {
        let named = shares.iter().find(|(name, _)| target["cluster"].as_str() == Some(name));
        match named {
            Some((_, weight)) => target["weight"] = json!(weight),
            None if is_whole => target["weight"] = json!(0),
            None => {}
        }
    }
    for (name, weight) in shares {
        if !targets.iter().any(|target| target["cluster"].as_str() == Some(name)) {
            targets.push(json!({ "cluster": name, "weight": weight }));
        }
    }
    match sum(&targets) {
        0 => Err("the sum of the shares is 0".to_owned()),
        _ => Ok(targets),
    }
}

fn weight_of(target: &Value) -> u64 {
    target["weight"].as_u64().unwrap_or(1)
}

fn sum(targets: &[Value]) -> u64 {
    targets.iter().map(weight_of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_make_a_hundred_leave_none_to_others() {
        let before = vec![
            json!({ "cluster": "a", "weight": 95 }),
            json!({ "cluster": "b", "weight": 5 }),
        ];
        let shares = |list: &[(&str, u32)]| -> Vec<(String, u32)> {
            list.iter()
                .map(|(name, weight)| ((*name).to_owned(), *weight))
                .collect()
        };
        let set = |list| with_shares(before.clone(), &shares(list)).map(Value::Array);
        let expected = json!([{ "cluster": "a", "weight": 0 }, { "cluster": "b", "weight": 100 }]);
        assert_eq!(set(&[("b", 100)]), Ok(expected));
        let expected = json!([{ "cluster": "a", "weight": 95 }, { "cluster": "b", "weight": 10 }]);
        assert_eq!(set(&[("b", 10)]), Ok(expected));
        let appended = set(&[("c", 1)]).unwrap();
        assert_eq!(appended[2], json!({ "cluster": "c", "weight": 1 }));
        assert!(set(&[("a", 0), ("b", 0)]).is_err());
        assert!(with_shares(vec![json!({ "respond": {} })], &shares(&[("a", 1)])).is_err());
        let one = targets(&Map::from_iter([("to".to_owned(), json!("x"))]), "routes/r");
        assert_eq!(one, [json!({ "cluster": "x", "weight": 1 })]);
        assert_eq!(targets(&Map::new(), "routes/users/list")[0]["cluster"], "users");
    }

    #[test]
    fn an_endpoint_drains_in_each_of_its_forms() {
        assert_eq!(
            with_state(json!("10.0.0.1:80"), true),
            json!({ "address": "10.0.0.1:80", "state": "drain" })
        );
        let drained = json!({ "address": "10.0.0.1:80", "state": "drain", "weight": 2 });
        assert_eq!(
            with_state(drained, false),
            json!({ "address": "10.0.0.1:80", "weight": 2 })
        );
        let mut listed = json!({ "endpoints": ["10.0.0.1:80", { "address": "10.0.0.2:80" }] });
        assert!(set_listed(&mut listed, "10.0.0.2:80", true) && !set_listed(&mut listed, "10.0.0.3:80", true));
        assert_eq!(
            listed["endpoints"],
            json!(["10.0.0.1:80", { "address": "10.0.0.2:80", "state": "drain" }])
        );
    }
}
