//! `GET /api/v1/clients` and `GET /api/v1/clients/NODE`.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use humantime::format_rfc3339_millis;
use serde::Serialize;

use super::Admin;
use super::answer::{Pieces, list, open_object, text};
use super::problem::Problem;
use super::query::{Page, Pairs, parse_flag, reject_unknown_params, values};
use crate::fleet::{ClientView, Exchange, Identity, Nack, Subscribed, TypeView, warnings};
use crate::resource::ResourceType;

/// Names of a subscription that are written at a time.
const NAMES_AT_A_TIME: usize = 1000;

/// The fields of an entry before its types.
#[derive(Serialize)]
struct Client<'a> {
    address: Option<String>,
    connected_at: String,
    gone_at: Option<String>,
    group: &'a str,
    node: Node<'a>,
    stream: u64,
}

#[derive(Serialize)]
struct Node<'a> {
    id: &'a str,
    cluster: &'a str,
}

/// The fields of a type before its subscription.
#[derive(Serialize)]
struct Type {
    acknowledged: Option<Sent>,
    refused: Option<NackView>,
    sent: Option<Sent>,
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
    let group = values(&query, "group").last().map(ToOwned::to_owned);

    let wanted = |identity: &Identity| identity.node_id.contains(text) || identity.node_cluster.contains(text);
    let shown = move |client: &ClientView| group.as_ref().is_none_or(|group| *client.group == **group);
    answer(&admin, &query, &wanted, shown).await
}

pub(super) async fn of_node(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["names", "limit", "after"])?;
    let Path(node) = path?;
    answer(&admin, &query, &|identity| *identity.node_id == *node, |_| true).await
}

async fn answer(
    admin: &Admin,
    query: &[(String, String)],
    wanted: &(dyn Fn(&Identity) -> bool + Sync),
    shown: impl Fn(&ClientView) -> bool + Send + 'static,
) -> Result<Response, Problem> {
    let with_names = parse_flag(query, "names")?;
    let page = Page::of(query)?;
    let after = page.after(|place| place.parse().ok())?.unwrap_or_default();

    let with_policies = admin.world.load().compiled().groups_with_policies();
    let clients = admin.fleet.clients_after(after, wanted).filter(shown);
    let clients = clients.map(move |mut client| {
        if client.lacks_slots && with_policies.contains(&client.group) {
            client.warnings.push(warnings::ENVOY_TOO_OLD);
        }
        client
    });
    let pieces = list(
        "{\"clients\":[".to_owned(),
        &page,
        clients,
        |client| client.stream.to_string(),
        move |client| show(&client, with_names),
    );
    admin.answers.json(pieces).await
}

fn time(time: SystemTime) -> String {
    format_rfc3339_millis(time).to_string()
}

/// An entry of the list.
fn show(view: &ClientView, with_names: bool) -> Pieces {
    let head = open_object(&Client {
        address: view.address.map(|address| address.to_string()),
        connected_at: time(view.connected_at),
        gone_at: view.gone_at.map(time),
        group: &view.group,
        node: Node {
            id: &view.node_id,
            cluster: &view.node_cluster,
        },
        stream: view.stream,
    });

    let head = head.map(|head| format!("{head},\"types\":{{").into());
    let words = text(&view.warnings);
    let variant = view.variant.as_str();
    let tail = words.map(|words| format!("}},\"variant\":\"{variant}\",\"warnings\":{words}}}").into());
    let types = view.types.iter().enumerate();
    let types: Vec<Pieces> = types
        .map(|(index, (resource_type, view))| show_type(index, *resource_type, view, with_names))
        .collect();
    Box::new(
        std::iter::once(head)
            .chain(types.into_iter().flatten())
            .chain(std::iter::once(tail)),
    )
}

/// One type of an entry. Its names, of which a client may subscribe to millions, are pieces of their own.
fn show_type(index: usize, resource_type: ResourceType, view: &TypeView, with_names: bool) -> Pieces {
    let before = open_object(&Type {
        acknowledged: view.acknowledged.as_ref().map(Sent::from),
        refused: view.nack.as_ref().map(NackView::from),
        sent: view.sent.as_ref().map(Sent::from),
    });

    let comma = if index > 0 { "," } else { "" };
    let before = before.map(|before| format!("{comma}\"{resource_type}\":{before},\"subscribed\":").into());
    let before = std::iter::once(before);
    match &view.subscribed {
        Subscribed::Wildcard => Box::new(before.chain([Ok(Bytes::from_static(b"\"*\"}"))])),
        Subscribed::Names(names) if !with_names => Box::new(before.chain([Ok(format!("{}}}", names.len()).into())])),
        Subscribed::Names(names) => {
            let names = Arc::clone(names);
            let parts = (0..names.len()).step_by(NAMES_AT_A_TIME).map(move |start| {
                let end = names.len().min(start + NAMES_AT_A_TIME);
                let part: Vec<&str> = names[start..end].iter().map(|name| &**name).collect();
                let part = text(&part)?;
                // Without the brackets of this part.
                let comma = if start > 0 { "," } else { "" };
                Ok(format!("{comma}{}", &part[1..part.len() - 1]).into())
            });
            let (open, close) = (Ok(Bytes::from_static(b"[")), Ok(Bytes::from_static(b"]}")));
            Box::new(before.chain([open]).chain(parts).chain([close]))
        }
    }
}

impl From<&Exchange> for Sent {
    fn from(exchange: &Exchange) -> Self {
        Self {
            version: exchange.version.clone(),
            nonce: exchange.nonce.clone(),
            at: time(exchange.at),
        }
    }
}

impl From<&Nack> for NackView {
    fn from(nack: &Nack) -> Self {
        Self {
            sent: (&nack.exchange).into(),
            code: nack.code,
            message: nack.message.trim_end().to_owned(),
        }
    }
}
