//! The clusters that a resource sends requests to.
//!
//! A name too many is better than one too few: a deleted cluster with users is kept, and a new reference waits until
//! its cluster is warm. Names in a header of the request (`cluster_header`) are not known here.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use super::walk;
use crate::resource::place::Place;

/// Fields that name a cluster, in any message.
const FIELDS: [&str; 3] = ["cluster", "cluster_name", "collector_cluster"];
/// Messages in which such a field has the name of the message itself.
const THEMSELVES: [&str; 2] = [
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.extensions.clusters.dynamic_modules.v3.ClusterConfig",
];
/// Messages that name clusters in fields of other names.
const OTHERS: [(&str, &str); 4] = [
    ("envoy.config.core.v3.ApiConfigSource", "cluster_names"),
    ("envoy.config.route.v3.WeightedCluster.ClusterWeight", "name"),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
        "name",
    ),
    ("envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters"),
];

/// The names, sorted, without that of the resource itself.
pub(super) fn clusters(own_name: &str, message: &DynamicMessage, at: &Place) -> Arc<[Arc<str>]> {
    let mut found: BTreeSet<Arc<str>> = BTreeSet::new();
    walk::each(message, at, &mut |message, _, _| {
        let descriptor = message.descriptor();
        let name = descriptor.full_name();
        let other = OTHERS.iter().find(|(of, _)| *of == name).map(|(_, field)| *field);
        let fields = FIELDS.into_iter().filter(|_| !THEMSELVES.contains(&name)).chain(other);
        for value in fields.filter_map(|field| message.get_field_by_name(field)) {
            match &*value {
                Value::String(name) => drop(found.insert(name.as_str().into())),
                Value::List(names) => found.extend(names.iter().filter_map(Value::as_str).map(Arc::from)),
                _ => {}
            }
        }
    });

    found
        .into_iter()
        .filter(|name| !name.is_empty() && **name != *own_name)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::document::Limits;
    use crate::proto::json::pool;

    fn named(message: &str, json: &Json) -> Vec<String> {
        let message = DynamicMessage::deserialize(pool().get_message_by_name(message).unwrap(), json).unwrap();
        let at = Place {
            path: String::new(),
            hidden: false,
            limits: Limits::default(),
        };
        clusters("own", &message, &at).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn clusters_are_found_wherever_a_resource_names_one() {
        let authorization = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "grpcService": { "envoyGrpc": { "clusterName": "e" } },
        });
        let weighted = json!({ "clusters": [{ "name": "c", "weight": 1 }, { "name": "d" }] });
        let routes = json!([
            { "match": { "prefix": "/" }, "route": { "cluster": "b" } },
            { "match": { "prefix": "/" }, "route": { "weightedClusters": weighted } },
            { "match": { "prefix": "/" }, "redirect": {}, "typedPerFilterConfig": { "x": authorization } },
        ]);
        let routes = json!({
            "name": "edge",
            "requestMirrorPolicies": [{ "cluster": "a" }],
            "virtualHosts": [{ "name": "h", "domains": ["*"], "routes": routes }],
        });
        assert_eq!(
            named("envoy.config.route.v3.RouteConfiguration", &routes),
            ["a", "b", "c", "d", "e"]
        );
        let tcp = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "statPrefix": "s", "weightedClusters": { "clusters": [{ "name": "f", "weight": 1 }] },
        });
        let listener = json!({ "name": "own", "filterChains": [{ "filters": [{ "name": "f", "typedConfig": tcp }] }] });
        assert_eq!(named("envoy.config.listener.v3.Listener", &listener), ["f"]);
        let aggregate = json!({
            "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": ["g", "own"],
        });
        let cluster = json!({
            "name": "own", "clusterType": { "name": "x", "typedConfig": aggregate }, "loadAssignment": { "clusterName": "z" },
        });
        assert_eq!(named("envoy.config.cluster.v3.Cluster", &cluster), ["g"]);
    }
}
