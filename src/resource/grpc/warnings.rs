//! Warnings about fields that proxyless gRPC clients refuse or cannot fulfil: one sentence each, with the field.
//!
//! The caller asks only about documents that an API listener reaches; `listeners` are the names of those listeners.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::document::cluster::{Cluster, LbPolicy, Settings, Source};
use crate::document::host::Host;
use crate::document::route::{Action, HashKey, PathMatch, Rewrite, Route, Rule, SplitBy, StringMatch, Upstream};
use crate::resource::clusters;
use crate::resource::compile::context::Context;

use super::METHOD;

/// The words of `retry.on` that gRPC knows (gRPC proposal A44).
const RETRY_WORDS: [&str; 5] = [
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// The warnings about a route; none if it is on no API listener.
#[must_use]
pub fn of_route(route: &Route, listeners: &[Arc<str>]) -> Vec<String> {
    if listeners.is_empty() {
        return Vec::new();
    }
    let clients = clients(listeners);
    let mut sentences = BTreeSet::new();
    for (_, rule) in route.enabled_rules() {
        sentences.extend(of_match(rule, &clients));
        sentences.extend(of_action(rule, &clients));
    }
    sentences.into_iter().collect()
}

/// The warnings about a cluster.
#[must_use]
pub fn of_cluster(cluster: &Cluster, context: &Context, listeners: &[Arc<str>]) -> Vec<String> {
    let clients = clients(listeners);
    let mut sentences = Vec::new();
    let settings = clusters::settings_of(cluster, context);
    let policy = settings.lb.as_ref().map_or(LbPolicy::RoundRobin, |lb| lb.policy);
    if !matches!(
        policy,
        LbPolicy::RoundRobin | LbPolicy::LeastRequest | LbPolicy::RingHash
    ) {
        sentences.push(format!(
            "lb.policy: {clients} refuse this cluster, they support round_robin, least_request and ring_hash"
        ));
    }

    let field = match &cluster.source {
        Source::Dns { .. } => Some("dns"),
        Source::Listed(list) => list
            .iter()
            .any(|one| matches!(one.host, Host::Name(_)))
            .then_some("endpoints"),
        Source::Registered | Source::Registry { .. } => None,
    };

    if let Some(field) = field {
        sentences.push(format!(
            "{field}: {clients} refuse this cluster, they need IP addresses"
        ));
    }

    if !cluster.failover.is_empty() {
        sentences.push(format!(
            "failover: {clients} refuse this cluster, they support no cluster with a balancer of its own"
        ));
    }
    if cluster.tls.is_some() {
        sentences.push(format!(
            "tls: {clients} refuse this cluster, they take certificates from their bootstrap only"
        ));
    }
    if settings.proxy_protocol.is_some() {
        sentences.push(format!(
            "proxy_protocol: {clients} refuse this cluster, they cannot send it"
        ));
    }
    if cluster.credential.is_some() {
        sentences.push(format!("credential: {clients} ignore it"));
    }
    sentences.extend(ignored_fields(&settings).map(|field| format!("{field}: {clients} ignore it")));
    sentences
}

/// The written fields of a cluster that gRPC clients ignore. docs/proxyless-grpc.md names fields that are ignored
/// without a warning.
fn ignored_fields(settings: &Settings) -> impl Iterator<Item = &'static str> {
    let lb = settings.lb.as_ref();
    let limits = settings.circuit_breaker.as_ref();
    let fields = [
        ("keepalive", settings.keepalive.is_some()),
        ("buffer", settings.buffer.is_some()),
        ("lb.hash_balance", lb.is_some_and(|lb| lb.hash_balance.is_some())),
        ("lb.panic_percent", lb.is_some_and(|lb| lb.panic_percent.is_some())),
        ("lb.min_zone_size", lb.is_some_and(|lb| lb.min_zone_size.is_some())),
        ("lb.subsets", lb.is_some_and(|lb| !lb.subsets.is_empty())),
        (
            "circuit_breaker.retries",
            limits.is_some_and(|limits| limits.retries.is_some()),
        ),
        (
            "circuit_breaker.per_endpoint_connections",
            limits.is_some_and(|limits| limits.per_endpoint_connections.is_some()),
        ),
    ];
    fields
        .into_iter()
        .filter(|(_, is_written)| *is_written)
        .map(|(field, _)| field)
}

fn clients(listeners: &[Arc<str>]) -> String {
    let names: Vec<String> = listeners.iter().map(|name| format!("listeners/{name}")).collect();
    format!("gRPC clients of {}", names.join(", "))
}

fn of_match(rule: &Rule, clients: &str) -> Vec<String> {
    let matches = &rule.matches;
    let mut sentences = Vec::new();
    if matches!(matches.path, PathMatch::Template(_)) {
        sentences.push(format!(
            "match.path: {clients} do not support URI templates and do not get this route"
        ));
    }

    if !matches.methods.is_empty() && !matches.methods.iter().any(|method| method == METHOD) {
        sentences.push(format!(
            "match.methods: {clients} call with {METHOD} only and do not get this route"
        ));
    }

    let never = |condition: &StringMatch| !matches!(condition, StringMatch::Not(_) | StringMatch::Present(false));
    if matches.query.iter().any(|(_, condition)| never(condition)) {
        sentences.push(format!(
            "match.query: {clients} send no query and do not get this route"
        ));
    }

    let inverted = matches
        .headers
        .iter()
        .filter(|(_, condition)| matches!(condition, StringMatch::Not(_)));
    sentences.extend(
        inverted
            .map(|(name, _)| format!("match.headers.{name}: with {clients} a missing header does not fulfil \"not\"")),
    );

    sentences
}

fn of_action(rule: &Rule, clients: &str) -> Vec<String> {
    let Action::Forward(targets) = &rule.action else {
        return vec![format!(
            "to: {clients} support neither redirects nor fixed responses and do not get this route"
        )];
    };

    let mut sentences = Vec::new();
    for target in targets {
        let Upstream::Url(url) = &target.upstream else { continue };
        let name = target.upstream.cluster_name();
        if url.https {
            sentences.push(format!(
                "to: {clients} refuse {name}, they take certificates from their bootstrap only"
            ));
        }
        if url.host.parse::<std::net::IpAddr>().is_err() {
            sentences.push(format!("to: {clients} refuse {name}, they need an IP address"));
        }
    }

    let (rewrite, settings) = (&rule.rewrite, &rule.settings);
    let ignored = [
        ("rewrite", *rewrite != Rewrite::default()),
        ("idle_timeout", settings.idle_timeout.is_some()),
        ("mirror", !rule.mirrors.is_empty()),
        ("split_by", settings.split_by == Some(SplitBy::HashOn)),
        ("websocket", settings.websocket == Some(true)),
        ("request_headers", settings.request_headers.is_some()),
        ("response_headers", settings.response_headers.is_some()),
    ];

    let parts = settings.hash_on.iter().flatten();
    let unknown = parts.filter_map(|part| match part.key {
        HashKey::Header(_) => None,
        HashKey::Cookie { .. } => Some("a cookie"),
        HashKey::Query(_) => Some("a query parameter"),
        HashKey::ClientIp => Some("client_ip"),
    });
    sentences.extend(unknown.map(|part| format!("hash_on: {clients} ignore {part}, they hash headers only")));

    let ignored = ignored.iter().filter(|(_, written)| *written);
    sentences.extend(ignored.map(|(field, _)| format!("{field}: {clients} ignore it")));
    if settings
        .retry
        .as_ref()
        .is_some_and(|retry| retry.on.iter().all(|word| !RETRY_WORDS.contains(&&**word)))
    {
        sentences.push(format!(
            "retry.on: {clients} do not retry on any of these, they know {}",
            RETRY_WORDS.join(", ")
        ));
    }

    sentences
}
