//! `/healthz`, `/readyz`, `/metrics`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use humantime::format_rfc3339_millis;
use serde_json::json;

use super::json::Json;
use super::{Admin, refused};
use crate::fleet::Variant;
use crate::telemetry::metrics::{Derived, Format};

pub(super) async fn healthz() -> impl IntoResponse {
    Json(json!({ "status": "ok" }))
}

pub(super) async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let report = admin.readiness.report();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let stale_since = report.stale_since.map(|since| format_rfc3339_millis(since).to_string());
    (
        status,
        Json(json!({ "ready": report.ready, "pending": report.pending, "stale_since": stale_since })),
    )
}

pub(super) async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let ranges: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::accepted(&ranges.join(","));
    (
        [(header::CONTENT_TYPE, format.content_type())],
        admin.metrics.encode(&derived(&admin), format),
    )
}

/// The derived gauges, from the current state of other stages.
fn derived(admin: &Admin) -> Derived {
    let world = admin.world.load();
    let refused = refused::documents(admin);
    let mut documents = BTreeMap::new();
    for status in world.documents().chain(world.problems()) {
        let state = refused::state(&refused, status);
        *documents.entry((status.key.kind.as_str(), state.as_str())).or_insert(0) += 1;
    }
    let clients = [Variant::Sotw, Variant::Delta]
        .map(|variant| (variant.as_str(), admin.fleet.connected(variant)))
        .to_vec();
    Derived {
        clients,
        documents,
        empty_clusters: world.empty().count(),
        snapshot_revision: admin.snapshots.current().revision,
    }
}
