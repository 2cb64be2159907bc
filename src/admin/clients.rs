//! `GET /api/v1/clients` and `GET /api/v1/clients/NODE`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use humantime::format_rfc3339_millis;
use serde::Serialize;
use serde_json::{Value, json};

use super::Admin;
use super::problem::Problem;
use super::query::{Page, Pairs, parse_flag, reject_unknown_params, values};
use crate::fleet::{ClientView, Exchange, Identity, Nack, Subscribed, TypeView};

#[derive(Serialize)]
struct Client {
    stream: u64,
    node: Node,
    group: String,
    address: Option<String>,
    variant: &'static str,
    connected_at: String,
    gone_at: Option<String>,
    warnings: Vec<&'static str>,
    types: BTreeMap<&'static str, Type>,
}

#[derive(Serialize)]
struct Node {
    id: String,
    cluster: String,
}

#[derive(Serialize)]
struct Type {
    subscribed: Value,
    sent: Option<Sent>,
    acknowledged: Option<Sent>,
    refused: Option<NackView>,
}

#[derive(Serialize)]
struct Sent {
    version: String,
    nonce: String,
    at: String,
}

#[derive(Serialize)]
struct NackView {
    #[serde(flatten)]
    sent: Sent,
    code: i32,
    message: String,
}

pub(super) async fn all(State(admin): State<Admin>, query: Pairs) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["group", "q", "names", "limit", "after"])?;
    let text = values(&query, "q").last().unwrap_or_default();
    let group = values(&query, "group").last();

    let wanted = |identity: &Identity| identity.node_id.contains(text) || identity.node_cluster.contains(text);
    answer(&admin, &query, wanted, |client| {
        group.is_none_or(|group| *client.group == *group)
    })
}

pub(super) async fn of_node(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["names", "limit", "after"])?;
    let Path(node) = path?;
    answer(&admin, &query, |identity| *identity.node_id == *node, |_| true)
}

fn answer(
    admin: &Admin,
    query: &[(String, String)],
    wanted: impl Fn(&Identity) -> bool,
    shown: impl Fn(&ClientView) -> bool,
) -> Result<Response, Problem> {
    let with_names = parse_flag(query, "names")?;
    let page = Page::of(query)?;
    let after = page.after(|place| place.parse().ok())?.unwrap_or_default();

    let clients = admin.fleet.clients_after(after, wanted).filter(shown);
    let (clients, next) = page.cut(clients, |client| client.stream.to_string());
    let clients: Vec<Client> = clients.into_iter().map(|view| Client::of(view, with_names)).collect();
    Ok(Json(json!({ "clients": clients, "next": next })).into_response())
}

fn time(time: SystemTime) -> String {
    format_rfc3339_millis(time).to_string()
}

impl Client {
    fn of(view: ClientView, with_names: bool) -> Self {
        Self {
            stream: view.stream,
            node: Node {
                id: view.node_id.to_string(),
                cluster: view.node_cluster.to_string(),
            },
            group: view.group.to_string(),
            address: view.address.map(|address| address.to_string()),
            variant: view.variant.as_str(),
            connected_at: time(view.connected_at),
            gone_at: view.gone_at.map(time),
            warnings: view.warnings,
            types: view
                .types
                .into_iter()
                .map(|(resource_type, view)| (resource_type.as_str(), Type::of(view, with_names)))
                .collect(),
        }
    }
}

impl Type {
    fn of(view: TypeView, with_names: bool) -> Self {
        let subscribed = match view.subscribed {
            Subscribed::Wildcard => json!("*"),
            Subscribed::Names(names) if !with_names => json!(names.len()),
            Subscribed::Names(names) => names.iter().map(|name| Value::from(&**name)).collect(),
        };
        Self {
            subscribed,
            sent: view.sent.map(Sent::from),
            acknowledged: view.acknowledged.map(Sent::from),
            refused: view.nack.map(NackView::from),
        }
    }
}

impl From<Exchange> for Sent {
    fn from(exchange: Exchange) -> Self {
        Self {
            version: exchange.version,
            nonce: exchange.nonce,
            at: time(exchange.at),
        }
    }
}

impl From<Nack> for NackView {
    fn from(nack: Nack) -> Self {
        Self {
            sent: nack.exchange.into(),
            code: nack.code,
            message: nack.message.trim_end().to_owned(),
        }
    }
}
