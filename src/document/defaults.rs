//! `defaults`: values for fields that a document does not have.
//!
//! In: the fields of the defaults document. Out: [`Defaults`]. A field of a route, cluster or listener that belongs to
//! one document alone (its target, its endpoints, its address) is refused by name.

use super::decode::{Cursor, Field, Fields, Shape};
use super::field::words;
use super::policy::{self, Items};
use super::{Rejection, cluster, listener, route};

/// The fields of the defaults.
pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "route",
        Shape::Object(&ROUTE_FIELDS),
        "For [routes](routes.md), and their overrides",
    ),
    Field::new(
        "cluster",
        Shape::Object(&CLUSTER_FIELDS),
        "For [clusters](clusters.md), and for those made of URLs",
    ),
    Field::new(
        "listener",
        Shape::Object(&LISTENER_FIELDS),
        "For [listeners](listeners.md), and for the listener `default` that exists without documents",
    ),
    Field::new(
        "policies",
        policy::LIST,
        "For everything on every listener. See [policies.md](policies.md)",
    ),
    Field::new(
        "legacy_path",
        Shape::Words(&words(&PATHS)),
        "Meaning of `path` in the [older forms](older-routes.md): the whole path, or the path and everything below it",
    )
    .or("`\"exact\"`"),
]);
const ROUTE_FIELDS: Fields = Fields::joined(&[route::settings::FORWARDING, route::settings::HEADERS]);
const CLUSTER_FIELDS: Fields = Fields::of(cluster::read::SETTINGS);
const LISTENER_FIELDS: Fields = Fields::joined(&[HTTP, listener::SETTINGS]);
const HTTP: &[Field] = &[Field::new(
    "http",
    Shape::Object(&HTTP_FIELDS),
    "As `http` of a listener, without `http3` and `redirect_to_https`: HTTP/3 needs TLS, and a redirect to https is for \
     a listener without TLS",
)];
const HTTP_FIELDS: Fields = Fields::of(listener::HTTP_SETTINGS);
const PATHS: [(&str, LegacyPath); 2] = [("exact", LegacyPath::Exact), ("prefix", LegacyPath::Prefix)];

/// The defaults document; [`Defaults::default`] without one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Defaults {
    /// For routes.
    pub route: route::Settings,
    /// For clusters, inline ones too.
    pub cluster: cluster::Settings,
    /// For listeners.
    pub listener: listener::Settings,
    /// For everything.
    pub policies: Items,
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
    Ok(Defaults {
        route: object
            .read("route", |field| {
                refuse(&field, &route::read::FIELDS, &ROUTE_FIELDS)?;
                route::settings::read(&field.object(&ROUTE_FIELDS)?)
            })?
            .unwrap_or_default(),
        cluster: object
            .read("cluster", |field| {
                refuse(&field, &cluster::read::FIELDS, &CLUSTER_FIELDS)?;
                cluster::read::read_settings(&field.object(&CLUSTER_FIELDS)?)
            })?
            .unwrap_or_default(),
        listener: object
            .read("listener", |field| {
                refuse(&field, &listener::FIELDS, &LISTENER_FIELDS)?;
                if let Some(http) = field.get("http") {
                    refuse(&http, &listener::HTTP_FIELDS, &HTTP_FIELDS)?;
                }
                listener::read_settings(&field.object(&LISTENER_FIELDS)?)
            })?
            .unwrap_or_default(),
        policies: object
            .read("policies", |field| policy::read_list(&field))?
            .unwrap_or_default(),
        legacy_path: object
            .read("legacy_path", |field| field.word(&PATHS))?
            .unwrap_or_default(),
    })
}

/// Refuses a field that one document alone can have.
fn refuse(cursor: &Cursor<'_>, document: &Fields, defaults: &Fields) -> Result<(), Rejection> {
    let own = document.names().filter(|name| !defaults.contains(name));
    match own.into_iter().find_map(|name| cursor.get(name)) {
        Some(field) => Err(field.reject("cannot have a default")),
        None => Ok(()),
    }
}
