//! Listeners: from listeners documents to Listeners, and the default listener.
//!
//! A Listener is one TCP address, one filter chain, one HTTP connection manager. Its RouteConfiguration has the
//! listener's name and comes by RDS. Every connection manager cleans requests in the same way before they are matched:
//!
//! - The client's address is that of the connection (`use_remote_address`), except behind `trusted_hops` proxies.
//! - Paths are normalised, runs of slashes merged, escaped slashes refused.
//! - A final dot of Host is removed.
//!
//! Everything else is Envoy's own default: HTTP/1.1 or HTTP/2 as the client speaks, 5 minutes until an idle stream
//! ends, one socket per worker (`SO_REUSEPORT`).
//!
//! If virtual hosts are on demand, a filter before the router subscribes to the one that a request needs (VHDS).
//!
//! An API listener has no address but an `api_listener`. Its connection manager names the RouteConfiguration and the
//! router and has no other field: gRPC refuses trusted hops and filters that it does not know (docs/xds-rules.md PX-05,
//! PX-06). Envoy takes API listeners from its bootstrap alone, so they are sent by name only.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog as WireAccessLog, access_log};
use envoy_types::pb::envoy::config::listener::v3::{
    ApiListener, Filter, FilterChain, Listener as WireListener, filter,
};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::envoy::extensions::filters::http::on_demand::v3::OnDemand;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::google::protobuf;
use prost::{Message, Name};
use serde_json::{Value as Json, json};

use crate::document::Rejection;
use crate::document::key::DocumentKey;
use crate::document::listener::{AccessLog, DEFAULT_ADDRESS, DEFAULT_NAME, Http, Listener, Settings, VirtualHosts};
use crate::proto::message::{ads, any, append, boolean};
use crate::proto::structs::Struct;

use super::compile::context::Context;
use super::endpoints::socket_address;
use super::verbatim::claims::tcp;
use super::{Reference, Resource, ResourceType, Source};

/// The fields of a line of the JSON access log.
const JSON_FIELDS: [(&str, &str); 18] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration_ms", "%DURATION%"),
    ("listener", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
];

/// The Listener of a listeners document, with the same name.
///
/// # Errors
/// None yet: reading a listeners document checks everything that it has today.
pub fn from_document(key: &DocumentKey, listener: &Listener, context: &Context) -> Result<Resource, Rejection> {
    let message = match listener.address {
        Some(address) => message(
            &key.name,
            address,
            &http_of(&listener.settings, &context.defaults.listener),
        ),
        None => api_listener(&key.name),
    };
    let resource = resource(&key.name, &message, vec![key.clone()]);
    Ok(Resource {
        claims: listener.address.map(claims),
        on_demand: listener.address.is_none(),
        ..resource
    })
}

/// The default listener, which exists while no document describes one: `default`, on 0.0.0.0:10000.
#[must_use]
pub fn default_listener(context: &Context) -> Resource {
    let http = http_of(&Settings::default(), &context.defaults.listener);
    let message = message(DEFAULT_NAME, DEFAULT_ADDRESS, &http);
    Resource {
        claims: Some(claims(DEFAULT_ADDRESS)),
        ..resource(DEFAULT_NAME, &message, Vec::new())
    }
}

fn claims(address: SocketAddr) -> Arc<[Arc<str>]> {
    Arc::new([tcp(address).into()])
}

fn resource(name: &str, message: &WireListener, documents: Vec<DocumentKey>) -> Resource {
    let routes = Reference {
        resource_type: ResourceType::Route,
        name: name.into(),
        source: Source::Common,
    };
    Resource {
        refers: Some(Arc::new([routes])),
        ..Resource::new(name, message.encode_to_vec(), documents)
    }
}

/// The delivery of the virtual hosts of a listener; `None`: of the default listener. gRPC clients, which use API
/// listeners, know only the one inside the RouteConfiguration.
#[must_use]
pub fn virtual_hosts(listener: Option<&Listener>, context: &Context) -> VirtualHosts {
    match listener {
        Some(listener) if listener.address.is_none() => VirtualHosts::All,
        Some(listener) => http_of(&listener.settings, &context.defaults.listener).virtual_hosts,
        None => http_of(&Settings::default(), &context.defaults.listener).virtual_hosts,
    }
}

fn http_of(own: &Settings, defaults: &Settings) -> Http {
    own.http.clone().or_else(|| defaults.http.clone()).unwrap_or_default()
}

fn message(name: &str, address: SocketAddr, http: &Http) -> WireListener {
    let manager = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(&connection_manager(name, http)))),
    };
    WireListener {
        name: name.to_owned(),
        address: Some(socket_address(address.ip().to_string(), address.port())),
        filter_chains: vec![FilterChain {
            filters: vec![manager],
            ..FilterChain::default()
        }],
        ..WireListener::default()
    }
}

fn api_listener(name: &str) -> WireListener {
    WireListener {
        name: name.to_owned(),
        api_listener: Some(ApiListener {
            api_listener: Some(any(&routed(name))),
        }),
        ..WireListener::default()
    }
}

fn connection_manager(name: &str, http: &Http) -> HttpConnectionManager {
    let filters = match http.virtual_hosts {
        VirtualHosts::All => vec![router()],
        VirtualHosts::OnDemand => vec![on_demand(), router()],
    };
    HttpConnectionManager {
        http_filters: filters,
        codec_type: CodecType::Auto as i32,
        use_remote_address: Some(boolean(true)),
        xff_num_trusted_hops: http.trusted_hops,
        normalize_path: Some(boolean(true)),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest as i32,
        strip_trailing_host_dot: true,
        access_log: http.access_log.iter().map(|format| access_log(*format)).collect(),
        ..routed(name)
    }
}

/// The fields of every connection manager: the RouteConfiguration with the name of the listener, and the router.
fn routed(name: &str) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: name.to_owned(),
        })),
        http_filters: vec![router()],
        ..HttpConnectionManager::default()
    }
}

fn router() -> HttpFilter {
    http_filter("envoy.filters.http.router", &Router::default())
}

/// The filter that subscribes to the virtual host of a request without a route.
fn on_demand() -> HttpFilter {
    http_filter("envoy.filters.http.on_demand", &OnDemand::default())
}

fn http_filter(name: &str, config: &impl Name) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..HttpFilter::default()
    }
}

fn access_log(format: AccessLog) -> WireAccessLog {
    let config = match format {
        AccessLog::Text => any(&StdoutAccessLog::default()),
        AccessLog::Json => protobuf::Any {
            type_url: StdoutAccessLog::type_url(),
            value: json_log(),
        },
    };
    WireAccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..WireAccessLog::default()
    }
}

/// An encoded `StdoutAccessLog` with [`JSON_FIELDS`], sorted.
fn json_log() -> Vec<u8> {
    let fields: Vec<(String, Json)> = JSON_FIELDS
        .iter()
        .map(|(name, command)| ((*name).to_owned(), json!(command)))
        .collect();
    let json_format: Struct = fields.iter().map(|(name, value)| (name, value)).collect();
    let mut log_format = Vec::new();
    append(&mut log_format, 2, &json_format.encode_to_vec());
    let mut log = Vec::new();
    append(&mut log, 1, &log_format);
    log
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use crate::document::key::Kind;
    use crate::proto::json::to_json;

    use super::*;

    fn shown(resource: &Resource) -> Json {
        to_json(&WireListener::type_url(), &resource.body.to_bytes()).unwrap()
    }

    fn manager(resource: &Resource) -> Json {
        shown(resource)["filter_chains"][0]["filters"][0]["typed_config"].clone()
    }

    fn expected(name: &str, address: &str, port: u16) -> Json {
        json!({
            "@type": WireListener::type_url(),
            "name": name,
            "address": { "socket_address": { "address": address, "port_value": port } },
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": HttpConnectionManager::type_url(),
                    "stat_prefix": name,
                    "rds": {
                        "config_source": { "ads": {}, "resource_api_version": "V3" },
                        "route_config_name": name,
                    },
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": { "@type": Router::type_url() },
                    }],
                    "use_remote_address": true,
                    "normalize_path": true,
                    "merge_slashes": true,
                    "path_with_escaped_slashes_action": "REJECT_REQUEST",
                    "strip_trailing_host_dot": true,
                },
            }] }],
        })
    }

    #[test]
    fn without_documents_there_is_a_plain_listener() {
        let resource = default_listener(&Context::default());
        assert_eq!(shown(&resource), expected("default", "0.0.0.0", 10000));
        assert_eq!((&*resource.name, resource.documents), ("default", vec![]));
    }

    #[test]
    fn a_document_gives_address_hops_and_log() {
        let key = DocumentKey::new(Kind::Listeners, "edge");
        let http = Http {
            trusted_hops: 2,
            access_log: Some(AccessLog::Text),
            ..Http::default()
        };
        let settings = Settings { http: Some(http) };
        let listener = Listener {
            address: Some("[::1]:8443".parse().unwrap()),
            settings,
            groups: None,
        };
        let resource = from_document(&key, &listener, &Context::default()).unwrap();
        let mut whole = expected("edge", "::1", 8443);
        let config = &mut whole["filter_chains"][0]["filters"][0]["typed_config"];
        config["xff_num_trusted_hops"] = json!(2);
        config["access_log"] = json!([{
            "name": "envoy.access_loggers.stdout",
            "typed_config": { "@type": StdoutAccessLog::type_url() },
        }]);
        assert_eq!(shown(&resource), whole);
        assert_eq!(resource.documents, [key]);
    }

    #[test]
    fn defaults_fill_in_http_as_a_whole() {
        let mut context = Context::default();
        context.defaults.listener.http = Some(Http {
            trusted_hops: 3,
            access_log: Some(AccessLog::Json),
            ..Http::default()
        });
        let filled = manager(&default_listener(&context));
        assert_eq!(filled["xff_num_trusted_hops"], json!(3));
        let own = Settings {
            http: Some(Http::default()),
        };
        let listener = Listener {
            address: Some((Ipv4Addr::LOCALHOST, 80).into()),
            settings: own,
            groups: None,
        };
        let key = DocumentKey::new(Kind::Listeners, "edge");
        let kept = manager(&from_document(&key, &listener, &context).unwrap());
        assert_eq!(
            (&kept["xff_num_trusted_hops"], &kept["access_log"]),
            (&Json::Null, &Json::Null)
        );
    }

    #[test]
    fn an_api_listener_names_its_routes_and_nothing_of_envoys_own() {
        let mut context = Context::default();
        context.defaults.listener.http = Some(Http {
            trusted_hops: 3,
            access_log: Some(AccessLog::Json),
            ..Http::default()
        });
        let listener = Listener {
            address: None,
            settings: Settings::default(),
            groups: None,
        };
        let resource = from_document(&DocumentKey::new(Kind::Listeners, "echo"), &listener, &context).unwrap();
        let expected = json!({
            "@type": WireListener::type_url(),
            "name": "echo",
            "api_listener": { "api_listener": {
                "@type": HttpConnectionManager::type_url(),
                "stat_prefix": "echo",
                "rds": { "config_source": { "ads": {}, "resource_api_version": "V3" }, "route_config_name": "echo" },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": Router::type_url() },
                }],
            } },
        });
        assert_eq!(shown(&resource), expected);
        assert!(
            resource.on_demand,
            "Envoy's wildcard would get what means nothing to it"
        );
    }

    #[test]
    fn the_json_log_has_sorted_fields_and_always_the_same_bytes() {
        let mut context = Context::default();
        context.defaults.listener.http = Some(Http {
            access_log: Some(AccessLog::Json),
            ..Http::default()
        });
        let resource = default_listener(&context);
        let format = &manager(&resource)["access_log"][0]["typed_config"]["log_format"]["json_format"];
        let expected: serde_json::Map<_, _> = JSON_FIELDS
            .iter()
            .map(|(name, command)| ((*name).to_owned(), json!(command)))
            .collect();
        assert_eq!(format, &Json::Object(expected));
        for _ in 0..50 {
            assert_eq!(default_listener(&context).body, resource.body);
        }
    }
}
