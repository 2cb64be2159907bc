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
use super::problem::{Code, Problem};
use super::query::{Page, Pairs, parse_flag, reject_unknown_params, values};
use super::rollout::{self, Shown};
use crate::fleet::{ClientView, Exchange, Identity, Nack, Subscribed, TypeView, warnings};
use crate::resource::ResourceType;

/// The states of a client.
const STATES: [&str; 7] = ["live", "rolling", "behind", "refused", "stalled", "pending", "gone"];
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
    replica: &'a str,
    revision: Option<i64>,
    state: &'static str,
    state_since: String,
    stream: u64,
}

#[derive(Serialize)]
struct Node<'a> {
    id: &'a str,
    cluster: &'a str,
    user_agent: &'a str,
    version: Option<String>,
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
    reject_unknown_params(&query, &["state", "group", "q", "names", "limit", "after"])?;
    let state = values(&query, "state").last().map(ToOwned::to_owned);
    if let Some(other) = state.as_ref().filter(|state| !STATES.contains(&state.as_str())) {
        let detail = format!(
            "query parameter `state`: found `{other}`, expected one of {}",
            STATES.join(", ")
        );
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let text = values(&query, "q").last().unwrap_or_default();
    let group = values(&query, "group").last().map(ToOwned::to_owned);

    let wanted = |identity: &Identity| identity.node_id.contains(text) || identity.node_cluster.contains(text);
    let is_shown = move |client: &ClientView, shown: &Shown| {
        group.as_ref().is_none_or(|group| *client.group == **group)
            && state.as_ref().is_none_or(|state| shown.state == state)
    };
    answer(&admin, &query, &wanted, is_shown).await
}

pub(super) async fn of_node(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Pairs,
) -> Result<Response, Problem> {
    reject_unknown_params(&query, &["names", "limit", "after"])?;
    let Path(node) = path?;
    answer(&admin, &query, &|identity| *identity.node_id == *node, |_, _| true).await
}

async fn answer(
    admin: &Admin,
    query: &[(String, String)],
    wanted: &(dyn Fn(&Identity) -> bool + Sync),
    is_shown: impl Fn(&ClientView, &Shown) -> bool + Send + 'static,
) -> Result<Response, Problem> {
    let with_names = parse_flag(query, "names")?;
    let page = Page::of(query)?;
    let after = page.after(|place| place.parse().ok())?.unwrap_or_default();

    let with_policies = admin.world.load().compiled().groups_with_policies();
    let (snapshot, now) = (admin.snapshots.current(), SystemTime::now());
    let clients = admin.fleet.clients_after(after, wanted).filter_map(move |mut client| {
        let shown = rollout::shown(client.place.as_ref(), client.gone_at, &snapshot, now);
        if client.lacks_slots && with_policies.contains(&client.group) {
            client.warnings.push(warnings::ENVOY_TOO_OLD);
        }
        is_shown(&client, &shown).then_some((client, shown))
    });
    let replica = admin.replicas.own();
    let pieces = list(
        "{\"clients\":[".to_owned(),
        &page,
        clients,
        |(client, _)| client.stream.to_string(),
        move |(client, shown)| show(&client, &shown, &replica, with_names),
    );
    admin.answers.json(pieces).await
}

fn time(time: SystemTime) -> String {
    format_rfc3339_millis(time).to_string()
}

/// An entry of the list.
fn show(view: &ClientView, shown: &Shown, replica: &str, with_names: bool) -> Pieces {
    let head = open_object(&Client {
        address: view.address.map(|address| address.to_string()),
        connected_at: time(view.connected_at),
        gone_at: view.gone_at.map(time),
        group: &view.group,
        node: Node {
            id: &view.node_id,
            cluster: &view.node_cluster,
            user_agent: &view.user_agent,
            version: view
                .version
                .map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")),
        },
        replica,
        revision: shown.revision,
        state: shown.state,
        state_since: time(shown.since),
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
