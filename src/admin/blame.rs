//! The field of a document that the words of a NACK are about.
//!
//! In: a document that may be the cause, and Envoy's message. Out: the path of the field, as a rejection of the server
//! would name it; none where the words do not tell it. Envoy names no index that is the document's, so a path ends before
//! the first list. The server rejects most of these contents itself (docs/refused-by-envoy.md, which the table is tested
//! against); another version of Envoy, a flag or the host may refuse them nevertheless.

use std::borrow::Cow;

use crate::document::key::{DocumentKey, Kind};

/// Documents in Chancery's form: kind, words of Envoy, field.
const FIELDS: [(Kind, &str, &str); 22] = [
    (Kind::Listeners, "cannot bind", "address"),
    (Kind::Listeners, "Cannot assign requested address", "address"),
    (Kind::Listeners, "has duplicate address", "address"),
    (Kind::Listeners, "malformed IP address", "address"),
    (Kind::Listeners, "unable to open file", "http.access_log"),
    (Kind::Listeners, "Failed to load", "tls"),
    (Kind::Listeners, "certificate", "tls"),
    (Kind::Listeners, "private key", "tls"),
    (Kind::Clusters, "health check", "health_check"),
    (Kind::Clusters, "maglev", "lb"),
    (Kind::Clusters, "ring hash", "lb"),
    (Kind::Clusters, "max_ejection_time", "outlier_detection"),
    (Kind::Clusters, "Failed to load", "tls"),
    (Kind::Clusters, "certificate", "tls"),
    (Kind::Clusters, "private key", "tls"),
    (Kind::Clusters, "malformed IP address", "endpoints"),
    (Kind::Clusters, "IP resolver can't handle", "endpoints"),
    (Kind::Routes, "regex", "match"),
    (Kind::Routes, "RE2 program size", "match"),
    (Kind::Secrets, "private key", "private_key"),
    (Kind::Secrets, "trusted CA", "ca"),
    (Kind::Secrets, "certificate", "certificate"),
];

/// Documents in Envoy's form: type of resource, words of Envoy, field. The first row that fits counts.
const RESOURCE_FIELDS: [(&str, &str, &str); 51] = [
    ("clusters", "EDS cluster without an EDS config", "eds_cluster_config"),
    (
        "clusters",
        "eds_cluster_config set in a non-EDS cluster",
        "eds_cluster_config",
    ),
    (
        "clusters",
        "must have a statically defined non-EDS cluster",
        "eds_cluster_config.eds_config",
    ),
    (
        "clusters",
        "dns_failure_refresh_rate must have max_interval",
        "dns_failure_refresh_rate.max_interval",
    ),
    (
        "clusters",
        "cannot be combined with lb_subset_config",
        "lb_subset_config",
    ),
    ("clusters", "cluster provided LB", "lb_policy"),
    (
        "clusters",
        "field load_balancing_policy need to be set",
        "load_balancing_policy",
    ),
    (
        "clusters",
        "registered load balancer factory implementation",
        "load_balancing_policy.policies",
    ),
    (
        "clusters",
        "Cannot use hostname for consistent hashing",
        "common_lb_config.consistent_hashing_lb_config",
    ),
    ("clusters", "fallback_keys_subset cannot be empty", "lb_subset_config"),
    ("clusters", "must be a subset of selector keys", "lb_subset_config"),
    (
        "clusters",
        "fallback_keys_subset can be set only for",
        "lb_subset_config",
    ),
    (
        "clusters",
        "a locality_weighted_lb_config be set",
        "lb_subset_config.locality_weight_aware",
    ),
    (
        "clusters",
        "Unsupported field in per_host_thresholds",
        "circuit_breakers.per_host_thresholds",
    ),
    ("clusters", "Both HTTP1 and HTTP2 options", "http2_protocol_options"),
    ("clusters", "all health checks must have a name", "health_checks"),
    ("clusters", "all health check names must be unique", "health_checks"),
    ("clusters", "Invalid http expected status range", "health_checks"),
    (
        "clusters",
        "must support HTTP/2 for gRPC healthchecking",
        "health_checks",
    ),
    ("clusters", "invalid hex string", "health_checks"),
    ("clusters", "max_ejection_time cannot be smaller", "outlier_detection"),
    (
        "clusters",
        "peer certificates without trusted CA",
        "transport_socket.typed_config.common_tls_context",
    ),
    (
        "clusters",
        "Failed to load",
        "transport_socket.typed_config.common_tls_context",
    ),
    (
        "clusters",
        "Failed to initialize",
        "transport_socket.typed_config.common_tls_context.tls_params",
    ),
    (
        "clusters",
        "Unknown compliance policy",
        "transport_socket.typed_config.common_tls_context.tls_params",
    ),
    ("clusters", "registered cluster factory implementation", "cluster_type"),
    ("clusters", "The sum of weights of all", "load_assignment.endpoints"),
    (
        "clusters",
        "LEDS is only supported when EDS is used",
        "load_assignment.endpoints",
    ),
    ("clusters", "Address must be set", "load_assignment.endpoints"),
    (
        "clusters",
        "must NOT have a custom resolver name set",
        "load_assignment.endpoints",
    ),
    ("endpoints", "malformed IP address", "endpoints"),
    ("endpoints", "IP resolver can't handle", "endpoints"),
    ("endpoints", "Unknown address resolver", "endpoints"),
    ("endpoints", "Address must be set", "endpoints"),
    ("endpoints", "maximum UNIX domain socket path size", "endpoints"),
    ("endpoints", "drop_overloads config is invalid", "policy.drop_overloads"),
    ("endpoints", "The sum of weights of all", "endpoints"),
    ("endpoints", "hosts cannot specify network namespaces", "endpoints"),
    ("listeners", "cannot bind", "address"),
    ("listeners", "address is necessary", "address"),
    ("listeners", "has duplicate address", "address"),
    ("listeners", "no filter chains specified", "filter_chains"),
    ("listeners", "has the same matching rules defined as", "filter_chains"),
    ("listeners", "partial wildcards are not supported", "filter_chains"),
    ("listeners", "must be the last filter in a", "filter_chains"),
    ("listeners", "has different socket type", "additional_addresses"),
    ("listeners", "can set ipv4_compat", "address.socket_address.ipv4_compat"),
    ("listeners", "enable_mptcp can only be used with", "enable_mptcp"),
    ("listeners", "FCDS requires a filter chain matcher", "fcds_config"),
    ("routes", "Only a single wildcard domain is permitted", "virtual_hosts"),
    (
        "scoped_routes",
        "route_configuration_name is empty",
        "route_configuration_name",
    ),
];

/// The messages of constraints begin with these words, then the message type of the resource.
const CONSTRAINT: &str = "Proto constraint validation failed (";
/// The types of resources whose fields a failed constraint may name.
const MESSAGES: [(&str, &str); 5] = [
    ("clusters", "Cluster"),
    ("endpoints", "ClusterLoadAssignment"),
    ("listeners", "Listener"),
    ("routes", "RouteConfiguration"),
    ("secrets", "Secret"),
];

/// The field of a document that a message of Envoy is about.
#[must_use]
pub fn field(key: &DocumentKey, message: &str) -> Option<Cow<'static, str>> {
    if key.kind != Kind::Xds {
        let row = FIELDS
            .iter()
            .find(|(of, words, _)| *of == key.kind && message.contains(words));
        return row.map(|(_, _, field)| Cow::Borrowed(*field));
    }
    let (resource_type, _) = key.name.split_once('/')?;
    let of_table = || {
        let row = RESOURCE_FIELDS
            .iter()
            .find(|(of, words, _)| *of == resource_type && message.contains(words));
        row.map(|(_, _, field)| (*field).to_owned())
    };
    let path = constrained(resource_type, message).or_else(of_table)?;
    Some(Cow::Owned(format!("resource.{path}")))
}

/// The words of the table, each with its type of resource and the path that they lead to.
pub fn resource_words() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    RESOURCE_FIELDS.into_iter()
}

/// The path in a sentence about a constraint, such as `(ClusterValidationError.LoadAssignment: embedded message failed
/// validation | caused by ClusterLoadAssignmentValidationError.ClusterName: …)`.
fn constrained(resource_type: &str, message: &str) -> Option<String> {
    let (_, name) = MESSAGES.into_iter().find(|(of, _)| *of == resource_type)?;
    let (_, sentence) = message.split_once(CONSTRAINT)?;
    let steps = sentence.split("| caused by ").map_while(|step| {
        let (of, rest) = step.trim().split_once("ValidationError.")?;
        let (field, _) = rest.split_once(':')?;
        Some((of.to_owned(), snake(field)))
    });
    let steps: Vec<(String, String)> = steps.collect();
    let (first, _) = steps.first()?;
    let fields: Vec<&str> = steps.iter().map(|(_, field)| field.as_str()).collect();
    (first == name).then(|| fields.join("."))
}

/// A field in the form of JSON: `VirtualHosts[0]` is `virtual_hosts[0]`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind, name: &str, message: &str) -> Option<String> {
        field(&DocumentKey::new(kind, name), message).map(Cow::into_owned)
    }

    #[test]
    fn the_field_is_told_where_words_are_about_one() {
        let message = "Error adding/updating listener(s) edge: cannot bind '127.0.0.1:80': Address already in use";
        assert_eq!(of(Kind::Listeners, "edge", message).as_deref(), Some("address"));
        assert_eq!(
            of(Kind::Xds, "listeners/edge", message).as_deref(),
            Some("resource.address")
        );
        assert_eq!(of(Kind::Routes, "edge", message), None);
    }

    #[test]
    fn a_failed_constraint_names_its_field() {
        let cluster = "Proto constraint validation failed (ClusterValidationError.ConnectTimeout: value must be greater \
                       than 0s): name: \"a\"";
        assert_eq!(
            of(Kind::Xds, "clusters/a", cluster).as_deref(),
            Some("resource.connect_timeout")
        );
        assert_eq!(of(Kind::Xds, "listeners/a", cluster), None, "of another resource");
        let nested = "Proto constraint validation failed (RouteConfigurationValidationError.VirtualHosts[0]: embedded \
                      message failed validation | caused by VirtualHostValidationError.Name: value length must be at \
                      least 1 characters)";
        assert_eq!(
            of(Kind::Xds, "routes/a", nested).as_deref(),
            Some("resource.virtual_hosts[0].name")
        );
    }
}
