//! Resources in Envoy's own form: from xds documents to resources of any type.
//!
//! In: an [`Xds`]. Out: its [`Resource`], canonical bytes of the message behind the proto-JSON; or a rejection with the
//! path of the field. The checks, in this order:
//!
//! 1. The `@type` is that of the resource type.
//! 2. Every field is known ([`read`]).
//! 3. The name inside is the name in the key.
//! 4. Every field obeys Envoy's own rules ([`validate`], [`check::messages`]).
//!
//! `compile` checks the rest among the documents of a group: things that only one resource can have ([`claims`]), other
//! resources that it needs ([`needs`]), and which of two resources of one name is served.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::Value as Json;

use super::clusters::no_wait;
use super::compile::parts;
use super::place::Place;
use super::{Resource, ResourceType, check};
use crate::document::Rejection;
use crate::document::key::DocumentKey;
use crate::document::sentence::{found, kind_of, quote};
use crate::document::xds::Xds;
use crate::proto::canonical;

pub mod claims;
pub mod needs;
mod read;
mod references;
mod targets;
mod validate;
mod walk;

use claims::Claim;
use needs::Need;

/// The path of the resource in its document.
const PLACE: &str = "resource";

/// The translation of an xds document.
#[derive(Debug, Clone)]
pub struct Written {
    /// The type.
    pub resource_type: ResourceType,
    /// The resource.
    pub resource: Arc<Resource>,
    /// Things that only one resource of a group can have.
    pub claims: Arc<[Claim]>,
    /// Needs towards other resources of its group.
    pub needs: Arc<[Need]>,
    /// The clusters that the resource sends requests to. Sorted.
    pub clusters: Arc<[Arc<str>]>,
}

/// The resource of an xds document.
///
/// # Errors
/// A value that Envoy would refuse, with its field path.
pub fn from_document(key: &DocumentKey, xds: &Xds) -> Result<Written, Rejection> {
    let resource_type = ResourceType::from_word(xds.resource_type).ok_or_else(|| {
        Rejection::new(
            "",
            format!("found the type {}, expected one of the API", xds.resource_type),
        )
    })?;

    check_type(resource_type, &xds.resource)?;
    // A mistake anywhere in a secret is reported without quoting the value.
    let hidden = resource_type == ResourceType::Secret;
    let place = Place {
        path: PLACE.to_owned(),
        hidden,
        limits: xds.limits,
    };

    let message = read::resource(resource_type.type_url(), &xds.resource, &place)?;
    check_name(resource_type, &xds.name, &message)?;
    validate::message(&message, &place)?;
    check::messages::resource(resource_type, &message, &place)?;
    let body = canonical::encode(&message);
    let warms = warms(resource_type, &body);
    let waits = Some(&body).filter(|_| resource_type == ResourceType::Cluster);
    let waits = waits.and_then(|body| no_wait::wait_of(body));
    let refers = references::references(resource_type, &message, &place);
    let resource = Resource::new(Arc::clone(&xds.name), body, vec![key.clone()]);
    let clusters = targets::clusters(&xds.name, &message, &place);
    let parts = Some(Arc::new(parts::verbatim(key, resource.version, Arc::clone(&clusters))));
    // Envoy takes API listeners from its bootstrap alone, so an API listener is sent by name only.
    let for_grpc = resource_type == ResourceType::Listener && message.has_field_by_name("api_listener");
    let on_demand = resource.on_demand || for_grpc;
    let claims: Arc<[Claim]> = claims::claims(resource_type, &message).into();
    let resource = Resource {
        warms,
        waits,
        claims: exclusive(resource_type, &claims),
        refers,
        parts,
        on_demand,
        ..resource
    };

    let resource = Arc::new(resource.wrapped(xds.aliases.clone(), xds.ttl));
    let needs = needs::needs(resource_type, &message, &place).into();
    Ok(Written {
        resource_type,
        resource,
        claims,
        needs,
        clusters,
    })
}

/// The claims of a resource that Envoy applies one by one, so that a claim may change hands within a response.
fn exclusive(resource_type: ResourceType, claims: &[Claim]) -> Option<Arc<[Arc<str>]>> {
    let one_by_one = matches!(resource_type, ResourceType::Listener | ResourceType::ScopedRoute);
    (one_by_one && !claims.is_empty()).then(|| claims.iter().map(|claim| claim.what.as_str().into()).collect())
}

fn check_type(resource_type: ResourceType, resource: &Json) -> Result<(), Rejection> {
    let expected = resource_type.type_url();
    let path = format!("{PLACE}[\"@type\"]");
    match resource.get("@type") {
        Some(Json::String(url)) if url == expected => Ok(()),
        Some(other) if resource_type == ResourceType::Secret => Err(Rejection::new(
            path,
            format!("found {}, expected {expected:?}", kind_of(other)),
        )),
        Some(other) => Err(Rejection::new(
            path,
            format!("found {}, expected {expected:?}", found(other)),
        )),
        None => Err(Rejection::new(path, format!("missing, expected {expected:?}"))),
    }
}

/// Checks that the name inside a resource is the one in its key: Envoy uses the name inside (docs/xds-rules.md F-29).
fn check_name(resource_type: ResourceType, name: &str, message: &DynamicMessage) -> Result<(), Rejection> {
    let field = name_field(resource_type);
    let inner = message.get_field_by_name(field);
    let inner = inner.as_deref().and_then(|value| value.as_str()).unwrap_or_default();
    let path = format!("{PLACE}.{field}");
    if inner != name {
        let reason = match inner {
            "" => format!("missing, expected {}, the name in its key", quote(name)),
            inner => format!(
                "found the string {}, expected {}, the name in its key",
                quote(inner),
                quote(name)
            ),
        };
        return Err(Rejection::new(path, reason));
    }

    let two_parts = |name: &str| {
        name.split_once('/')
            .is_some_and(|(table, host)| !table.is_empty() && !host.is_empty())
    };

    if resource_type == ResourceType::VirtualHost && !two_parts(name) {
        let expected = "the name of a RouteConfiguration, a slash and a host, as proxies subscribe to it";
        return Err(Rejection::new(
            path,
            format!("found the string {}, expected {expected}", quote(name)),
        ));
    }

    Ok(())
}

fn name_field(resource_type: ResourceType) -> &'static str {
    match resource_type {
        ResourceType::Endpoint => "cluster_name",
        _ => "name",
    }
}

/// The assignment that Envoy waits for after a change of an EDS cluster.
fn warms(resource_type: ResourceType, body: &[u8]) -> Option<Arc<str>> {
    if resource_type != ResourceType::Cluster {
        return None;
    }
    let message = Cluster::decode(body).ok()?;
    let eds = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32);
    if message.cluster_discovery_type != Some(eds) {
        return None;
    }
    let service_name = message
        .eds_cluster_config
        .map(|config| config.service_name)
        .filter(|name| !name.is_empty());
    Some(service_name.unwrap_or(message.name).into())
}

#[cfg(test)]
mod tests;
