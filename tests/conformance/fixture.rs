//! Resources for a server under test, written as proto-JSON, and fixture F1 of the checklist.
//!
//! `content` is a number: another number makes another version of the same resource.

use std::fmt;

use chancery::proto::json::pool;
use chancery::resource::ResourceType;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};

/// A resource type.
pub(crate) type Type = ResourceType;

pub(crate) const RTDS: Type = Type::Runtime;
pub(crate) const CDS: Type = Type::Cluster;
pub(crate) const EDS: Type = Type::Endpoint;
pub(crate) const SDS: Type = Type::Secret;
pub(crate) const ECDS: Type = Type::ExtensionConfig;
pub(crate) const LDS: Type = Type::Listener;
pub(crate) const SRDS: Type = Type::ScopedRoute;
pub(crate) const RDS: Type = Type::Route;
pub(crate) const VHDS: Type = Type::VirtualHost;

/// A group without nodes of the suite: its resources exist in the server, but not for the client.
pub(crate) const ELSEWHERE: &str = "elsewhere";

/// A resource to be served.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) resource_type: Type,
    pub(crate) name: String,
    /// Its proto-JSON, with `@type`.
    pub(crate) json: Value,
    /// The groups that get it; `None`: all.
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) aliases: Vec<String>,
    /// A duration such as `2s`.
    pub(crate) ttl: Option<String>,
    /// True for a cluster that is sent only if it is subscribed by name. The server makes its content.
    pub(crate) on_demand: bool,
}

impl Resource {
    /// A resource of these fields; the name is put in by the type's own field.
    pub(crate) fn new(resource_type: Type, name: &str, fields: Value) -> Self {
        let field = if resource_type == EDS { "cluster_name" } else { "name" };
        let mut json = json!({ "@type": resource_type.type_url(), field: name });
        let Value::Object(fields) = fields else {
            panic!("the fields of {name} are not an object: {fields}")
        };
        json.as_object_mut().expect("an object").extend(fields);
        Self {
            resource_type,
            name: name.to_owned(),
            json,
            groups: None,
            aliases: Vec::new(),
            ttl: None,
            on_demand: false,
        }
    }

    /// Only for this group.
    pub(crate) fn for_group(mut self, group: &str) -> Self {
        self.groups = Some(vec![group.to_owned()]);
        self
    }

    /// With an alias.
    pub(crate) fn alias(mut self, alias: &str) -> Self {
        self.aliases.push(alias.to_owned());
        self
    }

    /// With a time to live.
    pub(crate) fn ttl(mut self, ttl: &str) -> Self {
        self.ttl = Some(ttl.to_owned());
        self
    }

    /// The resource on the wire.
    pub(crate) fn any(&self) -> Any {
        let type_url = self.resource_type.type_url();
        let name = type_url.rsplit('/').next().expect("a type URL has a name");
        let descriptor = pool().get_message_by_name(name).expect("a known type");
        let mut fields = self.json.clone();
        fields.as_object_mut().expect("an object").remove("@type");
        let message = DynamicMessage::deserialize(descriptor, fields);
        let message = message.unwrap_or_else(|error| panic!("{type_url} {}: {error}", self.name));
        Any {
            type_url: type_url.to_owned(),
            value: message.encode_to_vec(),
        }
    }
}

/// A change of the served resources.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Add it, or put it in the place of the one of that name.
    Put(Resource),
    /// Remove a resource.
    Delete(Type, String),
}

/// Shorthand of [`Change::Put`].
pub(crate) fn put(resource: Resource) -> Change {
    Change::Put(resource)
}

/// Shorthand of [`Change::Delete`].
pub(crate) fn delete(resource_type: Type, name: &str) -> Change {
    Change::Delete(resource_type, name.to_owned())
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(resource) => write!(formatter, "put {} {}", resource.resource_type, resource.name),
            Self::Delete(resource_type, name) => write!(formatter, "delete {resource_type} {name}"),
        }
    }
}

/// A cluster whose endpoints come over ADS.
pub(crate) fn cluster(name: &str, content: u32) -> Resource {
    let eds = json!({ "eds_config": { "ads": {}, "resource_api_version": "V3" } });
    let fields = json!({ "type": "EDS", "eds_cluster_config": eds, "connect_timeout": format!("{content}s") });
    Resource::new(CDS, name, fields)
}

/// A cluster with endpoints of its own.
pub(crate) fn static_cluster(name: &str, content: u32) -> Resource {
    let assignment = json!({ "cluster_name": name, "endpoints": [locality(9)] });
    let fields = json!({ "type": "STATIC", "load_assignment": assignment, "connect_timeout": format!("{content}s") });
    Resource::new(CDS, name, fields)
}

/// A cluster that is sent only if it is subscribed by name.
pub(crate) fn on_demand_cluster(name: &str) -> Resource {
    Resource {
        on_demand: true,
        ..static_cluster(name, 1)
    }
}

/// The endpoints of a cluster: one, whose port is `content`.
pub(crate) fn endpoints(name: &str, content: u32) -> Resource {
    Resource::new(EDS, name, json!({ "endpoints": [locality(content)] }))
}

/// Endpoints of almost a megabyte, the limit of a document; the port is `content`.
pub(crate) fn heavy_endpoints(name: &str, content: u32) -> Resource {
    let mut locality = locality(content);
    locality["locality"] = json!({ "sub_zone": "z".repeat(900_000) });
    Resource::new(EDS, name, json!({ "endpoints": [locality] }))
}

fn locality(port: u32) -> Value {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    json!({ "locality": {}, "load_balancing_weight": 1, "lb_endpoints": [{ "endpoint": { "address": address } }] })
}

/// A listener with the route configuration `route` over ADS. Its port is computed from its name and `content`, because
/// two listeners of a proxy cannot share a port.
pub(crate) fn listener(name: &str, route: &str, content: u32) -> Resource {
    listener_from(name, route, content, json!({ "ads": {}, "resource_api_version": "V3" }))
}

/// The same with a config source of the caller's.
pub(crate) fn listener_from(name: &str, route: &str, content: u32, config_source: Value) -> Resource {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "rds": { "route_config_name": route, "config_source": config_source },
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": { "@type": router } }],
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager });
    let port = 10_000 + 50 * name.bytes().map(u32::from).sum::<u32>() % 50_000 + content;
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    Resource::new(
        LDS,
        name,
        json!({ "address": address, "filter_chains": [{ "filters": [filter] }] }),
    )
}

/// A route configuration that sends everything to `cluster`.
pub(crate) fn route(name: &str, cluster: &str, content: u32) -> Resource {
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    let host = json!({ "name": "all", "domains": ["*"], "routes": [route] });
    let fields = json!({ "virtual_hosts": [host], "max_direct_response_body_size_bytes": content });
    Resource::new(RDS, name, fields)
}

/// A scope of route configurations.
pub(crate) fn scope(name: &str, route: &str, key: &str) -> Resource {
    let key = json!({ "fragments": [{ "string_key": key }] });
    Resource::new(SRDS, name, json!({ "route_configuration_name": route, "key": key }))
}

/// A secret; nothing in the suite uses it.
pub(crate) fn secret(name: &str, content: u32) -> Resource {
    let text = format!("secret {content}");
    Resource::new(
        SDS,
        name,
        json!({ "generic_secret": { "secret": { "inline_string": text } } }),
    )
}

/// A runtime layer.
pub(crate) fn runtime(name: &str, content: u32) -> Resource {
    Resource::new(RTDS, name, json!({ "layer": { "a.key": content } }))
}

/// The configuration of a filter.
pub(crate) fn extension(name: &str, content: u32) -> Resource {
    let buffer = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";
    let fields = json!({ "typed_config": { "@type": buffer, "max_request_bytes": content } });
    Resource::new(ECDS, name, fields)
}

/// Some resource of this type, with this name.
pub(crate) fn any_of(resource_type: Type, name: &str, content: u32) -> Resource {
    match resource_type {
        Type::Cluster => cluster(name, content),
        Type::Endpoint => endpoints(name, content),
        Type::Listener => listener(name, "r1", content),
        Type::Route => route(name, "A", content),
        Type::ScopedRoute => scope(name, "r1", &format!("{name} {content}")),
        Type::Secret => secret(name, content),
        Type::Runtime => runtime(name, content),
        Type::ExtensionConfig => extension(name, content),
        Type::VirtualHost => {
            let domain = format!("{content}.{}", name.rsplit('/').next().expect("a name"));
            Resource::new(VHDS, name, json!({ "domains": [domain] }))
        }
    }
}

/// Clusters A and B with endpoints and S without, listener L that takes route configuration r1, which uses A.
pub(crate) fn f1() -> Vec<Resource> {
    vec![
        cluster("A", 1),
        cluster("B", 1),
        static_cluster("S", 1),
        endpoints("A", 1),
        endpoints("B", 1),
        listener("L", "r1", 1),
        route("r1", "A", 1),
    ]
}
