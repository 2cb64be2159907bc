//! Clusters: clusters documents, inline URLs and names that nobody defines, to Clusters.
//!
//! IP literals and registered instances make an EDS cluster, whose endpoints come apart from it
//! ([`super::endpoints`]): an endpoint that comes or goes leaves the Cluster as it is. Names make a STRICT_DNS cluster,
//! endpoints inside, resolved by Envoy, IPv4 preferred. `warms` of an EDS cluster is its own name: Envoy waits for the
//! assignment after each change of the Cluster.
//!
//! Settings that a document does not give are `defaults.cluster`'s, each taken whole ([`settings`]).
//!
//! `https` of a URL is TLS with SNI, the certificate verified against the URL's host by the CA bundle of the server
//! ([`tls`]). The bundle stands in the Cluster, so a change of the bundle is a change of these clusters.

use envoy_types::pb::envoy::config::cluster::v3::{Cluster as WireCluster, cluster as wire};
use prost::Message;

use crate::document::Rejection;
use crate::document::cluster::{Cluster, Settings, Source};
use crate::document::endpoint::{Endpoint, Host};
use crate::document::key::DocumentKey;
use crate::document::route::UpstreamUrl;
use crate::proto::message::{ads, append};

use super::Resource;
use super::context::Context;
use super::endpoints;

mod settings;
mod tls;

/// The Cluster of a clusters document, named like it.
///
/// # Errors
/// What Envoy would refuse once the defaults are filled in; a list of both addresses and names.
pub fn from_document(key: &DocumentKey, cluster: &Cluster, context: &Context) -> Result<Resource, Rejection> {
    let settings = settings::merged(&cluster.settings, &context.defaults.cluster);
    let (discovery, host) = match &cluster.source {
        Source::Registered => (Discovery::Eds, None),
        Source::Listed(listed) => (Discovery::of_list(listed)?, None),
        Source::Dns { host, port } => (Discovery::Dns(vec![endpoints::plain(host, *port)]), Some(host.as_str())),
    };
    let message = settings::applied(base(&key.name, &settings), &settings, host)?;
    Ok(Resource { on_demand: cluster.on_demand, ..resource(message, &discovery, vec![key.clone()]) })
}

/// The inline Cluster of a URL, named [`UpstreamUrl::cluster_name`].
///
/// # Errors
/// `https` without a CA bundle; what Envoy would refuse once the defaults are filled in.
pub fn from_url(url: &UpstreamUrl, documents: Vec<DocumentKey>, context: &Context) -> Result<Resource, Rejection> {
    let settings = settings::merged(&Settings::default(), &context.defaults.cluster);
    let endpoint = endpoints::plain(&url.host, url.port);
    let discovery = match endpoint.host {
        Host::Ip(_) => Discovery::Eds,
        Host::Name(_) => Discovery::Dns(vec![endpoint]),
    };
    let mut message = settings::applied(base(&url.cluster_name(), &settings), &settings, Some(&url.host))?;
    if url.https {
        message.transport_socket = Some(tls::verified(&url.host, settings.protocol, context.ca_bundle.as_ref())?);
    }
    Ok(resource(message, &discovery, documents))
}

/// The endpoint of an inline cluster whose URL holds an IP literal, for its ClusterLoadAssignment; `None` for a name,
/// whose endpoint stands in the Cluster.
#[must_use]
pub fn url_endpoint(url: &UpstreamUrl) -> Option<Endpoint> {
    let endpoint = endpoints::plain(&url.host, url.port);
    matches!(endpoint.host, Host::Ip(_)).then_some(endpoint)
}

/// Whether the endpoints of a clusters document are sent by EDS, apart from the Cluster.
#[must_use]
pub fn uses_eds(cluster: &Cluster) -> bool {
    match &cluster.source {
        Source::Registered => true,
        Source::Listed(listed) => matches!(Discovery::of_list(listed), Ok(Discovery::Eds)),
        Source::Dns { .. } => false,
    }
}

/// The Cluster that stands for one that does not exist: STATIC, without endpoints, so that its routes answer 503.
#[must_use]
pub fn missing(name: &str, documents: Vec<DocumentKey>) -> Resource {
    resource(base(name, &Settings::default()), &Discovery::None, documents)
}

/// Where a Cluster's endpoints are.
enum Discovery {
    /// Nowhere.
    None,
    /// In a ClusterLoadAssignment of its own.
    Eds,
    /// In the Cluster, as names.
    Dns(Vec<Endpoint>),
}

impl Discovery {
    fn of_list(listed: &[Endpoint]) -> Result<Self, Rejection> {
        let names = listed.iter().filter(|endpoint| matches!(endpoint.host, Host::Name(_))).count();
        match names {
            0 => Ok(Self::Eds),
            all if all == listed.len() => Ok(Self::Dns(listed.to_vec())),
            _ => Err(Rejection::new("endpoints", "found both IP addresses and names, expected one of the two")),
        }
    }
}

fn base(name: &str, settings: &Settings) -> WireCluster {
    WireCluster {
        name: name.to_owned(),
        connect_timeout: Some(settings::connect_timeout(settings)),
        ignore_health_on_host_removal: true,
        ..WireCluster::default()
    }
}

fn resource(mut message: WireCluster, discovery: &Discovery, documents: Vec<DocumentKey>) -> Resource {
    let kind = match discovery {
        Discovery::None => wire::DiscoveryType::Static,
        Discovery::Eds => wire::DiscoveryType::Eds,
        Discovery::Dns(_) => wire::DiscoveryType::StrictDns,
    };
    message.cluster_discovery_type = Some(wire::ClusterDiscoveryType::Type(kind as i32));
    match discovery {
        Discovery::Eds => {
            message.eds_cluster_config = Some(wire::EdsClusterConfig { eds_config: Some(ads()), ..Default::default() });
        }
        Discovery::Dns(_) => message.dns_lookup_family = wire::DnsLookupFamily::V4Preferred as i32,
        Discovery::None => {}
    }
    let mut bytes = message.encode_to_vec();
    if let Discovery::Dns(endpoints) = discovery {
        let list: Vec<_> = endpoints.iter().collect();
        append(&mut bytes, 33, &endpoints::assignment(&message.name, &list));
    }
    let warms = matches!(discovery, Discovery::Eds).then(|| message.name.as_str().into());
    Resource { warms, ..Resource::new(message.name, bytes, documents) }
}
