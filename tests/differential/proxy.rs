//! One real Envoy that gets the resources of set after set.

use std::collections::{BTreeMap, BTreeSet};

use chancery::resource::ResourceType;
use envoy_types::pb::envoy::config::core::v3::{Address, TypedExtensionConfig, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::runtime::v3::Runtime;
use prost::Message;
use serde_json::{Value, json};

use super::ads::{Ads, Named};
use super::set::{Set, extensions};
use crate::support::envoy::Envoy;

/// The resource of every type that the bootstrap subscribes to by name.
const PROBE: &str = "probe";
/// The same for a certificate.
const CERTIFICATE: &str = "probe-certificate";
/// Envoy's host, and not the resource, is the reason of these errors.
const OF_THE_HOST: [&str; 8] = [
    "cannot bind",
    "Address already in use",
    "errno",
    "open netns file",
    "failed to set netns",
    "Environment variable doesn't exist",
    "InternalListener bootstrap extension is mandatory",
    "must refer to an existing path in the system",
];

/// The Envoy, and the server that it is connected to.
pub(crate) struct Proxy {
    _envoy: Envoy,
    ads: Ads,
    /// Names that Envoy has of the types that it takes whole.
    present: BTreeMap<ResourceType, BTreeSet<String>>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("a certificate");
        let inline = |text: String| json!({ "inline_string": text });
        let certificate = json!({
            "name": CERTIFICATE,
            "tls_certificate": { "certificate_chain": inline(made.cert.pem()), "private_key": inline(made.signing_key.serialize_pem()) },
        });
        let authority = json!({ "name": PROBE, "validation_context": {} });
        let first = [
            (ResourceType::Cluster, vec![]),
            (ResourceType::Listener, vec![]),
            (ResourceType::Endpoint, vec![(PROBE, json!({ "cluster_name": PROBE }))]),
            (ResourceType::Route, vec![(PROBE, json!({ "name": PROBE }))]),
            (ResourceType::Runtime, vec![(PROBE, json!({ "name": PROBE }))]),
            (
                ResourceType::Secret,
                vec![(PROBE, authority), (CERTIFICATE, certificate)],
            ),
        ];
        let first = first.into_iter().map(|(resource_type, resources)| {
            let resources = resources.into_iter();
            let encoded = resources.map(|(name, json)| (name.to_owned(), encoded(resource_type, &json)));
            (resource_type.type_url(), encoded.collect())
        });
        let mut first: BTreeMap<_, _> = first.collect();
        first.insert(ResourceType::ExtensionConfig.type_url(), extensions());
        let (ads, address) = Ads::start(first).await;
        let envoy = Envoy::start_with(&bootstrap(address.port()).to_string(), "differential").await;
        ads.subscribed().await;
        envoy.ready().await;
        Self {
            _envoy: envoy,
            ads,
            present: BTreeMap::new(),
        }
    }

    /// Whether Envoy has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ads.has_ended()
    }

    /// Whether Envoy waits and takes no further set.
    pub(crate) fn is_stuck(&self) -> bool {
        self.ads.is_stuck()
    }

    /// Send the resources of a set. Out: the nonces of the responses.
    pub(crate) fn push(&mut self, set: &Set) -> Vec<String> {
        for ((resource_type, name), bytes) in &set.resources {
            if matches!(resource_type, ResourceType::Secret | ResourceType::ExtensionConfig) {
                self.ads.offer(resource_type.type_url(), (name.clone(), bytes.clone()));
            }
        }
        let mut nonces = Vec::new();
        for resource_type in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener] {
            let of_type = set.resources.iter().filter(|((one, _), _)| *one == resource_type);
            let of_type: Vec<Named> = of_type
                .filter_map(|((_, name), bytes)| named(resource_type, name, bytes))
                .collect();
            match resource_type {
                ResourceType::Endpoint => {
                    for one in of_type {
                        nonces.push(self.ads.send(resource_type.type_url(), vec![one], Vec::new()));
                    }
                }
                _ => {
                    let names: BTreeSet<String> = of_type.iter().map(|(name, _)| name.clone()).collect();
                    let before = self.present.insert(resource_type, names.clone()).unwrap_or_default();
                    let removed: Vec<String> = before.difference(&names).cloned().collect();
                    if !(of_type.is_empty() && removed.is_empty()) {
                        nonces.push(self.ads.send(resource_type.type_url(), of_type, removed));
                    }
                }
            }
        }
        for ((resource_type, name), bytes) in &set.resources {
            if matches!(
                resource_type,
                ResourceType::Route | ResourceType::Secret | ResourceType::Runtime | ResourceType::ExtensionConfig
            ) && let Some(one) = named(*resource_type, name, bytes)
            {
                nonces.push(self.ads.send(resource_type.type_url(), vec![one], Vec::new()));
            }
        }
        nonces
    }

    /// Envoy's error for one of some responses; `None`: all are ACKed, or only the host is at fault.
    pub(crate) async fn refusal(&self, nonces: &[String]) -> Option<String> {
        let mut refusal = None;
        for nonce in nonces {
            let verdict = self.ads.verdict(nonce).await;
            let verdict = verdict.filter(|words| !is_of_the_host(words));
            refusal = refusal.or(verdict);
        }
        refusal
    }
}

/// Whether a file, a port or a right that the host lacks is the reason.
fn is_of_the_host(words: &str) -> bool {
    let is_missing_file = words.starts_with("file ") && words.ends_with(" does not exist");
    is_missing_file || OF_THE_HOST.iter().any(|part| words.contains(part))
}

/// A resource under the name that Envoy subscribes to; `None`: Envoy does not take the resource.
fn named(resource_type: ResourceType, name: &str, bytes: &[u8]) -> Option<Named> {
    let mut wanted = PROBE.to_owned();
    let bytes = match resource_type {
        ResourceType::Endpoint => {
            let mut assignment = ClusterLoadAssignment::decode(bytes).ok()?;
            assignment.cluster_name = PROBE.to_owned();
            assignment.encode_to_vec()
        }
        ResourceType::Route => {
            let mut configuration = RouteConfiguration::decode(bytes).ok()?;
            configuration.name = PROBE.to_owned();
            configuration.encode_to_vec()
        }
        ResourceType::Runtime => {
            let mut runtime = Runtime::decode(bytes).ok()?;
            runtime.name = PROBE.to_owned();
            runtime.encode_to_vec()
        }
        ResourceType::Secret => {
            let mut secret = Secret::decode(bytes).ok()?;
            wanted = match &secret.r#type {
                Some(secret::Type::TlsCertificate(_)) => CERTIFICATE.to_owned(),
                Some(secret::Type::ValidationContext(_)) => PROBE.to_owned(),
                _ => return None,
            };
            secret.name.clone_from(&wanted);
            secret.encode_to_vec()
        }
        ResourceType::Listener => {
            wanted = name.to_owned();
            any_port(bytes)?
        }
        _ => {
            wanted = name.to_owned();
            bytes.to_vec()
        }
    };
    Some((wanted, bytes))
}

/// A listener on a free port. `None`: a listener for gRPC clients.
fn any_port(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut listener = Listener::decode(bytes).ok()?;
    let is_for_grpc = listener.api_listener.is_some();
    let additional = listener.additional_addresses.iter_mut();
    let addresses = additional.filter_map(|more| more.address.as_mut());
    addresses.chain(listener.address.as_mut()).for_each(free);
    (!is_for_grpc).then(|| listener.encode_to_vec())
}

fn free(address: &mut Address) {
    if let Some(address::Address::SocketAddress(socket)) = &mut address.address
        && let Some(socket_address::PortSpecifier::PortValue(port @ 1..=65535)) = &mut socket.port_specifier
    {
        *port = 0;
    }
}

fn encoded(resource_type: ResourceType, json: &Value) -> Vec<u8> {
    let name = resource_type.type_url().rsplit('/').next().expect("a name");
    let descriptor = chancery::proto::json::pool()
        .get_message_by_name(name)
        .expect("a known type");
    let message = prost_reflect::DynamicMessage::deserialize(descriptor, json).expect("a message");
    message.encode_to_vec()
}

fn bootstrap(port: u16) -> Value {
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let http2 = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    let address = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let server = json!({
        "name": "ads", "type": "STATIC",
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 },
        "load_assignment": { "cluster_name": "ads", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(port) } }] }] },
    });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{ "name": CERTIFICATE, "sds_config": ads }],
            "validation_context_sds_secret_config": { "name": PROBE, "sds_config": ads },
        },
    });
    let discovered = extensions().into_iter().map(|(name, bytes)| {
        let config = TypedExtensionConfig::decode(bytes.as_slice()).expect("an extension");
        let type_url = config.typed_config.expect("its filter").type_url;
        json!({ "name": name, "config_discovery": { "config_source": ads, "type_urls": [type_url] } })
    });
    let router = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" });
    let mut filters: Vec<Value> = discovered.collect();
    filters.push(json!({ "name": "router", "typed_config": router }));
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "p", "rds": { "route_config_name": PROBE, "config_source": ads },
        "http_filters": filters,
    });
    json!({
        "node": { "cluster": "differential" },
        "admin": { "address": address(0) },
        "dynamic_resources": {
            "ads_config": { "api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": "ads" } }] },
            "cds_config": ads, "lds_config": ads,
        },
        "layered_runtime": { "layers": [
            { "name": PROBE, "rtds_layer": { "name": PROBE, "rtds_config": ads } },
            { "name": "admin", "admin_layer": {} },
        ] },
        "static_resources": {
            "clusters": [
                server,
                { "name": "endpoints", "type": "EDS", "eds_cluster_config": { "service_name": PROBE, "eds_config": ads } },
            ],
            "listeners": [{
                "name": "routes", "address": address(0),
                "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": manager }], "transport_socket": { "name": "tls", "typed_config": tls } }],
            }],
        },
    })
}
