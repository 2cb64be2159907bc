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
use super::query::{Pairs, reject_unknown_params};
use crate::fleet::{ClientView, Exchange, Nack, Subscribed, TypeView};

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
    reject_unknown_params(&query, &[])?;
    Ok(answer(admin.fleet.clients()))
}

pub(super) async fn of_node(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let Path(node) = path?;
    Ok(answer(admin.fleet.clients_of(&node)))
}

fn answer(clients: Vec<ClientView>) -> Response {
    let clients: Vec<Client> = clients.into_iter().map(Client::from).collect();
    Json(json!({ "clients": clients })).into_response()
}

fn time(time: SystemTime) -> String {
    format_rfc3339_millis(time).to_string()
}

impl From<ClientView> for Client {
    fn from(view: ClientView) -> Self {
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
                .map(|(resource_type, view)| (resource_type.as_str(), view.into()))
                .collect(),
        }
    }
}

impl From<TypeView> for Type {
    fn from(view: TypeView) -> Self {
        let subscribed = match view.subscribed {
            Subscribed::Wildcard => json!("*"),
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
