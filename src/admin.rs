//! The admin HTTP API: writes documents, and shows the state of every stage.
//!
//! In: requests on `--admin-listen` (docs/api.md is the contract). Out: JSON, `application/problem+json` for every
//! error, Prometheus text for `/metrics`.
//!
//! The API reads the world, the snapshot and the fleet in place and changes none of them. A write goes to the backend
//! and returns as an event of the store, like the write of any other client. A release is a command to the reconcile
//! loop. [`crate::reconcile::plan`] checks a write first, the same function that decides later.
//!
//! Promises:
//!
//! - No response has a secret or a password.
//! - The sizes of bodies and headers, the time of a response, and the memory of large answers are bounded.
//! - A web page of another site causes nothing and reads nothing: no CORS, POST requires the content type JSON, and a
//!   foreign `Host` or `Origin` is refused.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::mpsc;

use crate::backend::Backend;
use crate::document::MAX_BYTES;
use crate::fleet::Fleet;
use crate::fleet::replicas::Replicas;
use crate::journal::Journal;
use crate::reconcile::run::{Arrivals, Command};
use crate::reconcile::world::World;
use crate::snapshot::store::Store;
use crate::telemetry::metrics::Metrics;

mod activity;
mod answer;
mod apply;
mod author;
pub mod blame;
mod browser;
mod change;
mod clients;
pub mod confirm;
mod diff;
mod documents;
mod earlier;
mod entry;
mod events;
mod explain;
mod freeze;
mod freezes;
mod frozen;
mod json;
mod limits;
pub mod pending;
mod plan;
mod probes;
mod problem;
mod query;
pub mod readiness;
mod refused;
mod release;
mod revisions;
pub mod rollout;
mod server;
mod snapshots;
mod status;
mod undo;
mod write;

use pending::PendingWrites;
use problem::{Code, Problem};
use readiness::Readiness;

pub use answer::Answers;
pub use earlier::Earlier;
pub use events::Events;
pub use freezes::Freezes;
pub use server::{Listener, serve};

const INDEX: &str = "Chancery, a management server for Envoy

GET    /healthz                          200 while the process is alive
GET    /readyz                           200 when ready; the pending steps
GET    /metrics                          Prometheus text, OpenMetrics by Accept
GET    /api/v1/documents                 every document and its state; ?state=rejected&kind=routes&q=TEXT
GET    /api/v1/documents/KIND/NAME       one document, with its text
PUT    /api/v1/documents/KIND/NAME       write it; If-Match, If-None-Match: *, ?force=true
DELETE /api/v1/documents/KIND/NAME       delete it; If-Match, ?force=true
POST   /api/v1/apply                     write and delete several documents at once; ?force=true, ?dry_run=true
POST   /api/v1/release                   release held changes: {\"keys\": [KEY]} or {\"all\": true}
GET    /api/v1/revisions                 changes of documents, newest first; ?before=R&key=KEY&actor=A&since=TIME&limit=50
GET    /api/v1/revisions/R               one change, with both texts of each document
POST   /api/v1/revisions/R/undo          take a change back: {\"through\": R, \"only\": [KEY], \"message\": TEXT}; ?force=true
POST   /api/v1/revisions/R/confirm       keep a change that was written with confirm_within
POST   /api/v1/revisions/R/restore       make all documents what they were at R: {\"secrets\": true, \"message\": TEXT}
POST   /api/v1/freezes                   freeze documents: {\"key\": KEY or PREFIX*, \"for\": \"30m\", \"why\": TEXT}
GET    /api/v1/freezes                   the freezes
DELETE /api/v1/freezes/ID                end a freeze
GET    /api/v1/diff                      difference of two revisions; ?from=R&to=R&view=documents|xds&group=default
POST   /api/v1/explain                   where a request goes, and why: {\"request\": \"GET https://HOST/PATH\"}
GET    /api/v1/snapshot                  versions and counts of the resources served
GET    /api/v1/snapshot/TYPE             the resources of a type; ?group=default
GET    /api/v1/snapshot/TYPE/NAME        one resource; a slash in NAME is written %2F
GET    /api/v1/status                    the newest change, which proxies have it, and what waits for you
GET    /api/v1/events                    what changes, as server-sent events; Last-Event-ID
GET    /api/v1/rollout/REVISION          which proxies have a change; latest; ?wait=30s&for=live|answered&group=NAME
GET    /api/v1/clients                   connected proxies, and their ACKs and NACKs; ?state=&names=true
GET    /api/v1/clients/NODE              the streams of one node id
";

/// Longest time from a request's headers to its answer.
const ANSWER_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// The same for an answer that may wait for 60 s.
const WAITED_FOR_WITHIN: std::time::Duration = std::time::Duration::from_secs(65);

/// The header with the id of a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that a client may choose.
const MAX_REQUEST_ID: usize = 128;

/// The stages that the API reads and writes to.
#[derive(Clone)]
pub struct Admin {
    /// Every document with its state.
    pub world: Arc<ArcSwap<World>>,
    /// The current snapshot.
    pub snapshots: Arc<Store>,
    /// The state of every proxy.
    pub fleet: Fleet,
    /// The other replicas, and the id of this one.
    pub replicas: Replicas,
    /// `--advertise-admin`.
    pub advertised: Option<Arc<str>>,
    /// The store of the documents.
    pub backend: Arc<dyn Backend>,
    /// Commands to the reconcile loop. If the channel is full, the request waits until its timeout.
    pub commands: mpsc::Sender<Command>,
    /// Writes that the world has not reached yet.
    pub pending: PendingWrites,
    /// Waits for the world.
    pub arrivals: Arrivals,
    /// The answer of `/readyz`.
    pub readiness: Readiness,
    /// Names of this server in `Host`, beside `localhost`.
    pub hosts: Arc<[String]>,
    /// Makes large answers.
    pub answers: Answers,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// The counters of `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The changes of documents.
    pub journal: Journal,
    /// Compiles earlier revisions.
    pub earlier: Earlier,
    /// The changes that wait for a confirmation.
    pub confirms: confirm::Waiting,
    /// The freezes that this server knows.
    pub freezes: Freezes,
    /// The events of this server.
    pub events: Events,
}

impl Admin {
    /// Every endpoint.
    pub fn router(self) -> Router {
        let document = get(documents::one).put(write::put).delete(write::delete);
        Router::new()
            .route("/", get(|| async { INDEX }))
            .route("/healthz", get(probes::healthz))
            .route("/readyz", get(probes::readyz))
            .route("/metrics", get(probes::metrics))
            .route("/api/v1/documents", get(documents::all))
            .route("/api/v1/documents/{kind}", document.clone())
            .route("/api/v1/documents/{kind}/{*name}", document)
            .route(
                "/api/v1/apply",
                post(apply::apply).layer(DefaultBodyLimit::max(apply::MOST_BYTES)),
            )
            .route("/api/v1/release", post(release::release))
            .route("/api/v1/freezes", get(freeze::all).post(freeze::begin))
            .route("/api/v1/freezes/{id}", axum::routing::delete(freeze::end))
            .route("/api/v1/diff", get(diff::diff))
            .route("/api/v1/revisions", get(revisions::all))
            .route("/api/v1/revisions/{revision}", get(revisions::one))
            .route("/api/v1/revisions/{revision}/undo", post(undo::undo))
            .route("/api/v1/revisions/{revision}/confirm", post(confirm::confirm))
            .route("/api/v1/revisions/{revision}/restore", post(undo::restore))
            .route("/api/v1/explain", post(explain::explain))
            .route("/api/v1/snapshot", get(snapshots::overview))
            .route("/api/v1/snapshot/{type}", get(snapshots::all))
            .route("/api/v1/snapshot/{type}/{name}", get(snapshots::one))
            .route("/api/v1/status", get(status::status))
            .route("/api/v1/events", get(events::stream))
            .route("/api/v1/rollout/{revision}", get(rollout::of_revision))
            .route("/api/v1/clients", get(clients::all))
            .route("/api/v1/clients/{node}", get(clients::of_node))
            .fallback(no_endpoint)
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::max(MAX_BYTES))
            .layer(from_fn_with_state(Arc::clone(&self.hosts), browser::check))
            .layer(from_fn_with_state(self.answers.clone(), bounded))
            .with_state(self)
    }
}

async fn no_endpoint(uri: Uri) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("there is no endpoint {}; GET / lists them", uri.path()),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!("{method} is not supported on {}", uri.path()),
    )
}

/// Bounds the time and the size of a response, and sets its headers against caches and content sniffing. The response
/// has the id of the request.
async fn bounded(State(answers): State<Answers>, mut request: Request, next: Next) -> Response {
    let (request_id, is_chosen) = request_id(request.headers());
    request.extensions_mut().insert(RequestId {
        text: request_id.to_str().unwrap_or_default().into(),
        is_chosen,
    });
    // A rollout may be waited for: its handler bounds the wait.
    let is_wait = request.uri().path().starts_with("/api/v1/rollout/");
    let within = if is_wait { WAITED_FOR_WITHIN } else { ANSWER_WITHIN };
    let respond = async { answers.bounded(next.run(request).await).await };
    let mut response = match tokio::time::timeout(within, respond).await {
        Ok(response) => response.unwrap_or_else(Problem::into_response),
        Err(_) => Problem::new(Code::Timeout, format!("no answer within {} s", within.as_secs())).into_response(),
    };
    Problem::write_body(&mut response, request_id.to_str().unwrap_or_default());

    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The id of a request.
#[derive(Debug, Clone)]
struct RequestId {
    text: Arc<str>,
    /// By the client.
    is_chosen: bool,
}

/// The id that the client chose, if every character of it is visible; else a new one. With whether the client chose it.
fn request_id(headers: &HeaderMap) -> (HeaderValue, bool) {
    let is_valid =
        |id: &&HeaderValue| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let chosen = headers.get(REQUEST_ID).filter(is_valid).cloned();
    let new =
        || HeaderValue::try_from(format!("{:032x}", rand::random::<u128>())).expect("hex digits are a header value");
    match chosen {
        Some(chosen) => (chosen, true),
        None => (new(), false),
    }
}
