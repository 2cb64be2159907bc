//! Routes.

use bytes::Bytes;

use crate::document::Rejection;
use crate::document::defaults::LegacyPath;
use crate::document::key::DocumentKey;
use crate::document::route::{HostPattern, Rule, Settings};

/// The encoded `envoy.config.route.v3.Route` messages of one rule, in the order in which they must stand; usually one.
///
/// `settings` are the rule's with the defaults filled in.
///
/// # Errors
/// What Envoy would refuse or cannot express.
pub fn entries(
    key: &DocumentKey,
    rule: &Rule,
    settings: &Settings,
    legacy_path: LegacyPath,
) -> Result<Vec<Bytes>, Rejection> {
    let _ = (key, rule, settings, legacy_path);
    Ok(Vec::new())
}

/// The encoded VirtualHost of one host pattern, from encoded routes in their order.
#[must_use]
pub fn virtual_host(host: &HostPattern, routes: &[Bytes]) -> Bytes {
    let _ = (host, routes);
    Bytes::new()
}

/// The encoded RouteConfiguration of the listener `name`, from encoded virtual hosts.
#[must_use]
pub fn configuration<'a>(name: &str, virtual_hosts: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let _ = (name, virtual_hosts);
    Bytes::new()
}
