//! What a proxy waits for after a resource that an operator wrote.
//!
//! What enters: the message. What leaves: the resources that it refers to by a `ConfigSource` of its own. Envoy asks for
//! one only when it has not asked for that name before, yet waits when the source is another than it knows (conformance.md
//! F-06, AD-05): such resources follow this one. A source that is written as all compiled resources have it
//! (`{"ads": {}, "resource_api_version": "V3"}`) is one that Envoy knows, and nothing is awaited by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use crate::proto::json::pool;
use crate::resource::{Awaited, ResourceType};

/// What is awaited after a resource of that type.
pub(super) fn awaited(resource_type: ResourceType, message: &DynamicMessage) -> Option<Awaited> {
    let mut found = BTreeSet::new();
    match resource_type {
        ResourceType::Cluster | ResourceType::Listener => collect(message, &mut found),
        ResourceType::Route if message.has_field_by_name("vhds") => {
            found.extend(named(ResourceType::VirtualHost, message, "name"));
        }
        _ => {}
    }
    (!found.is_empty()).then(|| found.into_iter().collect())
}

type Found = BTreeSet<(ResourceType, Arc<str>)>;

fn collect(message: &DynamicMessage, found: &mut Found) {
    match message.descriptor().full_name() {
        "google.protobuf.Any" => {
            if let Some(inner) = unpack(message) {
                collect(&inner, found);
            }
        }
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds" if is_own(message, "config_source") => {
            found.extend(named(ResourceType::Route, message, "route_config_name"));
        }
        "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig" if is_own(message, "sds_config") => {
            found.extend(named(ResourceType::Secret, message, "name"));
        }
        _ if inner(message, "config_discovery").is_some_and(|discovery| is_own(&discovery, "config_source")) => {
            found.extend(named(ResourceType::ExtensionConfig, message, "name"));
        }
        _ => {}
    }
    for (_, value) in message.fields() {
        match value {
            Value::Message(inner) => collect(inner, found),
            Value::List(values) => values.iter().filter_map(Value::as_message).for_each(|inner| collect(inner, found)),
            Value::Map(entries) => {
                entries.values().filter_map(Value::as_message).for_each(|inner| collect(inner, found));
            }
            _ => {}
        }
    }
}

fn inner(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    let value = message.has_field_by_name(field).then(|| message.get_field_by_name(field)).flatten()?;
    value.as_message().cloned()
}

/// Whether the field is a `ConfigSource` that is not written as all others are.
fn is_own(message: &DynamicMessage, field: &str) -> bool {
    const V3: i32 = 2;
    let Some(source) = inner(message, field) else { return false };
    let version = source.get_field_by_name("resource_api_version").and_then(|version| version.as_enum_number());
    !(source.has_field_by_name("ads") && version == Some(V3) && source.fields().count() == 2)
}

fn named(resource_type: ResourceType, message: &DynamicMessage, field: &str) -> Option<(ResourceType, Arc<str>)> {
    let value = message.get_field_by_name(field)?;
    let name = value.as_str().filter(|name| !name.is_empty())?;
    Some((resource_type, name.into()))
}

fn unpack(any: &DynamicMessage) -> Option<DynamicMessage> {
    let (url, bytes) = (any.get_field_by_name("type_url")?, any.get_field_by_name("value")?);
    let descriptor = pool().get_message_by_name(url.as_str()?.rsplit('/').next()?)?;
    DynamicMessage::decode(descriptor, bytes.as_bytes()?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn awaits(resource_type: ResourceType, json: &Json) -> Vec<(ResourceType, String)> {
        let name = resource_type.type_url().rsplit('/').next().unwrap();
        let message = DynamicMessage::deserialize(pool().get_message_by_name(name).unwrap(), json).unwrap();
        let awaited = awaited(resource_type, &message);
        awaited.iter().flat_map(|awaited| awaited.iter()).map(|(of_type, name)| (*of_type, name.to_string())).collect()
    }

    fn listener_with(source: &Json) -> Vec<(ResourceType, String)> {
        let hcm = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "rds": { "configSource": source, "routeConfigName": "r1" },
            "httpFilters": [
                { "name": "ext", "configDiscovery": { "configSource": source, "typeUrls": ["x"] } },
                { "name": "plain" },
            ],
        });
        let tls = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "commonTlsContext": { "tlsCertificateSdsSecretConfigs": [
                { "name": "cert", "sdsConfig": source }, { "name": "static" },
            ] },
        });
        let listener = json!({ "name": "L", "filterChains": [{
            "filters": [{ "name": "hcm", "typedConfig": hcm }],
            "transportSocket": { "name": "tls", "typedConfig": tls },
        }] });
        awaits(ResourceType::Listener, &listener)
    }

    #[test]
    fn a_listener_awaits_its_routes_secrets_and_filters_by_a_source_of_its_own() {
        let expected = [
            (ResourceType::Secret, "cert".to_owned()),
            (ResourceType::ExtensionConfig, "ext".to_owned()),
            (ResourceType::Route, "r1".to_owned()),
        ];
        for source in [json!({ "ads": {} }), json!({ "self": {}, "resourceApiVersion": "V3" })] {
            assert_eq!(listener_with(&source), expected, "{source}");
        }
        assert_eq!(listener_with(&json!({ "ads": {}, "resourceApiVersion": "V3" })), []);
    }

    #[test]
    fn a_route_configuration_awaits_its_virtual_hosts_if_they_are_discovered() {
        let route = |vhds: Json| awaits(ResourceType::Route, &json!({ "name": "r1", "vhds": vhds }));
        assert_eq!(route(json!({ "configSource": { "ads": {} } })), [(ResourceType::VirtualHost, "r1".to_owned())]);
        assert_eq!(route(Json::Null), []);
    }
}
