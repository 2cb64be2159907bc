//! `defaults`: values for fields that a document does not have.
//!
//! In: the fields of the defaults document. Out: [`Defaults`]. A field of a route, cluster or listener that belongs to
//! one document alone (its target, its endpoints, its address) is refused by name.

use super::decode::{Cursor, Fields};
use super::{Rejection, cluster, listener, route};

const FIELDS: Fields = Fields {
    known: &["route", "cluster", "listener", "legacy_path"],
    later: &["policies"],
};
const ROUTE_FIELDS: Fields = Fields {
    known: &route::settings::FIELDS,
    later: route::read::LATER,
};
const CLUSTER_FIELDS: Fields = Fields {
    known: &cluster::read::SETTINGS,
    later: cluster::read::LATER,
};
const LISTENER_FIELDS: Fields = Fields {
    known: listener::SETTINGS,
    later: listener::LATER,
};
/// Fields that one document alone can have.
const ROUTE_OWN: [&str; 11] = [
    "name",
    "match",
    "to",
    "overrides",
    "rewrite",
    "mirror",
    "listeners",
    "groups",
    "priority",
    "enabled",
    "tests",
];
const CLUSTER_OWN: [&str; 8] = [
    "name",
    "endpoints",
    "dns",
    "tls",
    "credential",
    "failover",
    "on_demand",
    "groups",
];
const LISTENER_OWN: [&str; 7] = ["name", "address", "addresses", "tcp", "tls", "groups", "api"];
/// Fields of `http` that not every listener can have: HTTP/3 needs TLS, and a redirect to https is for one without it.
const HTTP_OWN: [&str; 2] = ["http3", "redirect_to_https"];

/// The defaults document; [`Defaults::default`] without one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Defaults {
    /// For routes.
    pub route: route::Settings,
    /// For clusters, inline ones too.
    pub cluster: cluster::Settings,
    /// For listeners.
    pub listener: listener::Settings,
    /// The meaning of the older forms' `path`.
    pub legacy_path: LegacyPath,
}

/// `legacy_path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LegacyPath {
    /// The whole path.
    #[default]
    Exact,
    /// The path and everything below it, by segments.
    Prefix,
}

/// Reads the defaults document.
pub(super) fn read(root: &Cursor<'_>) -> Result<Defaults, Rejection> {
    let object = root.object(&FIELDS)?;
    let words = [("exact", LegacyPath::Exact), ("prefix", LegacyPath::Prefix)];
    Ok(Defaults {
        route: object
            .read("route", |field| {
                refuse(&field, &ROUTE_OWN)?;
                route::settings::read(&field.object(&ROUTE_FIELDS)?)
            })?
            .unwrap_or_default(),
        cluster: object
            .read("cluster", |field| {
                refuse(&field, &CLUSTER_OWN)?;
                cluster::read::read_settings(&field.object(&CLUSTER_FIELDS)?)
            })?
            .unwrap_or_default(),
        listener: object
            .read("listener", |field| {
                refuse(&field, &LISTENER_OWN)?;
                if let Some(http) = field.get("http") {
                    refuse(&http, &HTTP_OWN)?;
                }
                listener::read_settings(&field.object(&LISTENER_FIELDS)?)
            })?
            .unwrap_or_default(),
        legacy_path: object
            .read("legacy_path", |field| field.word(&words))?
            .unwrap_or_default(),
    })
}

fn refuse(cursor: &Cursor<'_>, own: &[&str]) -> Result<(), Rejection> {
    match own.iter().find_map(|name| cursor.get(name)) {
        Some(field) => Err(field.reject("cannot have a default")),
        None => Ok(()),
    }
}
