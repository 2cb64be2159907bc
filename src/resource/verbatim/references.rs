//! References of a resource in Envoy's own form, each with its `ConfigSource`.
//!
//! In: the message. Out: the names that it refers to through a `ConfigSource` inside it. Envoy subscribes to such a
//! name only once, yet waits again if the source differs from the known one (docs/xds-rules.md F-06, AD-05). The
//! session sends the referenced resources after this one.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, ReflectMessage};

use super::walk;
use crate::resource::place::Place;
use crate::resource::{Reference, References, ResourceType, Source};

/// The references of a resource of that type.
pub(super) fn references(resource_type: ResourceType, message: &DynamicMessage, at: &Place) -> Option<References> {
    let mut found = BTreeSet::new();
    match resource_type {
        ResourceType::Cluster | ResourceType::Listener => {
            walk::each(message, at, &mut |message, _, _| collect(message, &mut found));
        }
        ResourceType::Route if message.has_field_by_name("vhds") => {
            // One reference for all virtual hosts: proxies never subscribe to one by this name.
            found.extend(named(ResourceType::VirtualHost, message, "name", Source::Own));
        }
        _ => {}
    }
    (!found.is_empty()).then(|| found.into_iter().collect())
}

type Found = BTreeSet<Reference>;

fn collect(message: &DynamicMessage, found: &mut Found) {
    match message.descriptor().full_name() {
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds" => {
            let source = source(message, "config_source");
            found.extend(source.and_then(|source| named(ResourceType::Route, message, "route_config_name", source)));
        }
        "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig" => {
            let source = source(message, "sds_config");
            found.extend(source.and_then(|source| named(ResourceType::Secret, message, "name", source)));
        }
        _ => {
            let discovery = inner(message, "config_discovery");
            let source = discovery.and_then(|discovery| source(&discovery, "config_source"));
            found.extend(source.and_then(|source| named(ResourceType::ExtensionConfig, message, "name", source)));
        }
    }
}

fn inner(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    let value = message
        .has_field_by_name(field)
        .then(|| message.get_field_by_name(field))
        .flatten()?;
    value.as_message().cloned()
}

/// The `ConfigSource` in a field; `None`: the field is absent.
fn source(message: &DynamicMessage, field: &str) -> Option<Source> {
    const V3: i32 = 2;
    let source = inner(message, field)?;
    let version = source
        .get_field_by_name("resource_api_version")
        .and_then(|version| version.as_enum_number());
    let is_common = source.has_field_by_name("ads") && version == Some(V3) && source.fields().count() == 2;
    Some(if is_common { Source::Common } else { Source::Own })
}

fn named(resource_type: ResourceType, message: &DynamicMessage, field: &str, source: Source) -> Option<Reference> {
    let value = message.get_field_by_name(field)?;
    let name = value.as_str().filter(|name| !name.is_empty())?;
    Some(Reference {
        resource_type,
        name: name.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::document::Limits;
    use crate::proto::json::pool;

    fn refers(resource_type: ResourceType, json: &Json) -> Vec<(ResourceType, String, Source)> {
        let name = resource_type.type_url().rsplit('/').next().unwrap();
        let message = DynamicMessage::deserialize(pool().get_message_by_name(name).unwrap(), json).unwrap();
        let at = Place {
            path: String::new(),
            hidden: false,
            limits: Limits::default(),
        };
        let found = references(resource_type, &message, &at);
        let found = found.iter().flat_map(|found| found.iter());
        found
            .map(|one| (one.resource_type, one.name.to_string(), one.source))
            .collect()
    }

    fn listener_with(source: &Json) -> Vec<(ResourceType, String, Source)> {
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
        refers(ResourceType::Listener, &listener)
    }

    #[test]
    fn a_listener_refers_to_its_routes_secrets_and_filters_by_the_common_source_or_its_own() {
        for (json, source) in [
            (json!({ "ads": {} }), Source::Own),
            (json!({ "self": {}, "resourceApiVersion": "V3" }), Source::Own),
            (json!({ "ads": {}, "resourceApiVersion": "V3" }), Source::Common),
        ] {
            let expected = [
                (ResourceType::Secret, "cert".to_owned(), source),
                (ResourceType::ExtensionConfig, "ext".to_owned(), source),
                (ResourceType::Route, "r1".to_owned(), source),
            ];
            assert_eq!(listener_with(&json), expected, "{json}");
        }
    }

    #[test]
    fn a_route_configuration_refers_to_its_virtual_hosts_if_they_are_discovered() {
        let route = |vhds: Json| refers(ResourceType::Route, &json!({ "name": "r1", "vhds": vhds }));
        let hosts = [(ResourceType::VirtualHost, "r1".to_owned(), Source::Own)];
        assert_eq!(route(json!({ "configSource": { "ads": {} } })), hosts);
        assert_eq!(route(Json::Null), []);
    }
}
