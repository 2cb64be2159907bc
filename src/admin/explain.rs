//! `POST /api/v1/explain`: where a request goes, and why. A read.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::text;
use super::problem::{Code, Problem};
use super::release::json_only;
use super::{Admin, earlier};
use crate::document::DEFAULT_GROUP;
use crate::document::key::DocumentKey;
use crate::reconcile::world::World;
use crate::resource::compile::Holding;
use crate::resource::compile::explain::destination::Destination;
use crate::resource::compile::explain::listener::Place;
use crate::resource::compile::explain::losers::Loser;
use crate::resource::compile::explain::{Explanation, HeaderEdit, Question, Retry, Taker, Unexplained, cluster_key};
use crate::resource::matcher::effect::AUTO;

/// Longest request line, in bytes.
const MAX_REQUEST: usize = 16 * 1024;
const A_REQUEST: &str = "expected a method and a URL, such as \"GET https://api.example.com/v1/orders/7\"";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    group: Option<String>,
    listener: Option<String>,
    /// An earlier revision, whose texts are to answer.
    revision: Option<i64>,
}

/// The value of a header, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Several(Vec<String>),
}

pub(super) async fn explain(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    json_only(&headers)?;
    let body: Body = serde_json::from_slice(&body?).map_err(|error| {
        let detail = format!("the body cannot be read, expected {{\"request\": \"METHOD URL\"}}: {error}");
        Problem::new(Code::InvalidRequest, detail)
    })?;
    let world = match body.revision {
        Some(revision) => Arc::clone(&earlier::at(&admin, revision).await?.world),
        None => admin.world.load_full(),
    };
    let question = question(body)?;

    // A listener may have 200,000 routes, so a thread that serves no streams looks at them.
    let answer = move || {
        let explanation = world
            .compiled()
            .explain(&question)
            .map_err(|why| problem(&world, &why))?;
        text(&show(&world, &question, &explanation)).map(Bytes::from)
    };
    admin.answers.json(Box::new(iter::once_with(answer))).await
}

fn question(body: Body) -> Result<Question, Problem> {
    let invalid = || {
        Problem::new(
            Code::InvalidRequest,
            format!("request: found {:?}, {A_REQUEST}", body.request),
        )
    };
    let request = body.request.trim();
    let is_visible = request.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if request.is_empty() || request.len() > MAX_REQUEST || !is_visible {
        return Err(invalid());
    }

    let (method, url) = request.split_once(' ').unwrap_or(("GET", request));
    let (is_tls, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Some(true), rest),
        Some(("http", rest)) => (Some(false), rest),
        Some((scheme, _)) if !scheme.contains(['/', '?']) => return Err(invalid()),
        _ => (None, url),
    };
    let (host, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if host.is_empty() || method.is_empty() || rest.contains(' ') {
        return Err(invalid());
    }
    let target = match target {
        query if query.is_empty() || query.starts_with('?') => format!("/{query}"),
        target => target.to_owned(),
    };

    let mut headers = Vec::new();
    for (name, values) in body.headers {
        let values = match values {
            Values::One(value) => vec![value],
            Values::Several(values) => values,
        };
        headers.extend(values.into_iter().map(|value| (name.to_ascii_lowercase(), value)));
    }
    Ok(Question {
        method: method.to_owned(),
        is_tls,
        host: host.to_owned(),
        target,
        headers,
        group: body.group.as_deref().unwrap_or(DEFAULT_GROUP).into(),
        listener: body.listener.map(Into::into),
    })
}

fn problem(world: &World, why: &Unexplained) -> Problem {
    let problem = |code| Problem::new(code, why.to_string());
    match why {
        Unexplained::NoGroup { .. } | Unexplained::NoListener { .. } => problem(Code::NotFound),
        Unexplained::SeveralListeners(_) => problem(Code::SeveralListeners),
        Unexplained::Verbatim(key) => problem(Code::NotExplained).of_key(full_key(world, key)),
    }
}

fn full_key(world: &World, key: &DocumentKey) -> String {
    match world.document(key) {
        Some(status) => status.full_key.to_string(),
        None => world.options().layout.full_key(key),
    }
}

fn show(world: &World, question: &Question, explanation: &Explanation) -> Value {
    let effect = &explanation.effect;
    let is_forward = !explanation.destinations.is_empty();
    json!({
        "group": *question.group,
        "revision": world.revision(),
        "outcome": explanation.outcome.as_str(),
        "why": explanation.why,
        "status": effect.status,
        "location": effect.redirect,
        "listener": explanation.listener.as_ref().map(|place| show_listener(world, place)),
        // A listener for HTTP has one filter chain; it has no name.
        "filter_chain": explanation.listener.as_ref().map(|_| 0),
        "virtual_host": explanation.virtual_host,
        "route": explanation.route.as_ref().map(|route| show_route(world, route)),
        "destination": is_forward.then(|| {
            let clusters = explanation.destinations.iter().map(|cluster| show_cluster(world, cluster));
            json!({ "clusters": clusters.collect::<Vec<_>>() })
        }),
        "request": is_forward.then(|| {
            json!({
                "method": explanation.method,
                "host": host(explanation),
                "path": effect.path,
                "headers": show_headers(&explanation.headers),
            })
        }),
        "timeouts": is_forward.then(|| {
            let time = |time: Option<std::time::Duration>| time.map(|time| match time.is_zero() {
                true => "none".to_owned(),
                false => humantime::format_duration(time).to_string(),
            });
            json!({ "response": time(explanation.timeout), "idle": time(explanation.idle_timeout) })
        }),
        "retry": explanation.retry.as_ref().map(show_retry),
        "policies": explanation.policies.iter().map(|(cluster, policy)| show_policy(world, cluster.as_deref(), policy))
            .collect::<Vec<_>>(),
        "losers": explanation.losers.iter().map(|loser| show_loser(world, loser)).collect::<Vec<_>>(),
    })
}

fn show_listener(world: &World, place: &Place) -> Value {
    json!({
        "name": *place.name,
        "key": place.document.as_ref().map(|key| full_key(world, key)),
        "addresses": place.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "tls": place.is_tls,
    })
}

fn show_route(world: &World, route: &Taker) -> Value {
    let (entry, override_index) = split_place(&route.place);
    json!({
        "key": full_key(world, &route.document),
        "kind": route.document.kind.as_str(),
        "name": *route.document.name,
        "entry": entry,
        "override": override_index,
    })
}

/// The place of a rule: without its override, and the index of the override.
fn split_place(place: &str) -> (&str, Option<usize>) {
    let Some(start) = place.find("overrides[") else {
        return (place, None);
    };
    let index = place[start..].trim_start_matches("overrides[");
    let index = index.split(']').next().and_then(|index| index.parse().ok());
    (place[..start].trim_end_matches('.'), index)
}

/// Host as the upstream sees it; if the endpoint decides, the name of the only endpoint.
fn host(explanation: &Explanation) -> Option<String> {
    let host = explanation.effect.host.clone()?;
    let mut endpoints = explanation.destinations.iter().flat_map(|cluster| &cluster.endpoints);
    match (&*host, endpoints.next(), endpoints.next()) {
        (AUTO, Some(only), None) => only.address.rsplit_once(':').map(|(name, _)| name.to_owned()),
        _ => Some(host),
    }
}

fn show_cluster(world: &World, cluster: &Destination) -> Value {
    let endpoints = cluster.endpoints.iter().map(|endpoint| {
        json!({
            "address": endpoint.address,
            "health": endpoint.health,
            "zone": endpoint.zone,
            "priority": endpoint.priority,
        })
    });
    json!({
        "name": *cluster.name,
        "key": Some(cluster_key(&cluster.name)).filter(|key| world.document(key).is_some()).map(|key| full_key(world, &key)),
        "weight": cluster.weight,
        "exists": cluster.exists,
        "total": cluster.total,
        "usable": cluster.endpoints.iter().filter(|endpoint| endpoint.is_usable()).count(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn show_headers(edits: &[HeaderEdit]) -> Value {
    let (mut set, mut add, mut remove) = (BTreeMap::new(), Vec::new(), Vec::new());
    for edit in edits {
        match edit {
            HeaderEdit::Set(name, value) => {
                set.insert(name, value);
            }
            HeaderEdit::Add(name, value) => add.push([name, value]),
            HeaderEdit::Remove(name) => remove.push(name),
        }
    }
    json!({ "set": set, "add": add, "remove": remove })
}

fn show_retry(retry: &Retry) -> Value {
    json!({
        "on": retry.on,
        "attempts": retry.attempts,
        "per_try_timeout": retry.per_try_timeout.map(|time| humantime::format_duration(time).to_string()),
    })
}

fn show_policy(world: &World, cluster: Option<&str>, policy: &Holding) -> Value {
    json!({
        "kind": policy.kind.as_str(),
        "key": full_key(world, &policy.document),
        "path": policy.place,
        "level": policy.level.kind.as_str(),
        "level_key": full_key(world, &policy.level),
        "cluster": cluster,
        "does": policy.kind.about(),
    })
}

fn show_loser(world: &World, loser: &Loser) -> Value {
    let (entry, override_index) = split_place(&loser.place);
    json!({
        "key": full_key(world, &loser.document),
        "entry": entry,
        "override": override_index,
        "matches": loser.matches,
        "why": loser.why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &str) -> Result<(String, Option<bool>, String, String), String> {
        let body: Body = serde_json::from_value(json!({ "request": request })).unwrap();
        let question = question(body).map_err(|problem| problem.detail().to_owned())?;
        Ok((question.method, question.is_tls, question.host, question.target))
    }

    #[test]
    fn method_scheme_and_path_of_a_request_may_be_left_out() {
        let cases = [
            ("GET https://a.b:8443/x?y", ("GET", Some(true), "a.b:8443", "/x?y")),
            ("POST http://a.b", ("POST", Some(false), "a.b", "/")),
            ("a.b//x%2F?u=http://c", ("GET", None, "a.b", "//x%2F?u=http://c")),
            ("a.b?q", ("GET", None, "a.b", "/?q")),
        ];
        for (request, (method, is_tls, host, target)) in cases {
            let expected = (method.to_owned(), is_tls, host.to_owned(), target.to_owned());
            assert_eq!(read(request), Ok(expected), "{request}");
        }
        for request in [
            "",
            "GET",
            "/x",
            "GET ftp://a/",
            "GET http://a/ b",
            "GET http://a/\u{e9}",
        ] {
            let is_host = request == "GET";
            assert_eq!(read(request).is_ok(), is_host, "{request}");
        }
    }

    #[test]
    fn an_override_stands_beside_its_entry() {
        assert_eq!(split_place("match[1]"), ("match[1]", None));
        assert_eq!(split_place("overrides[12]"), ("", Some(12)));
        assert_eq!(split_place("[3].overrides[0]"), ("[3]", Some(0)));
    }
}
