//! Routes of RDS, VHDS, a connection manager or a scope (docs/refused-by-envoy.md, Routes).

#![allow(deprecated, reason = "operators may write the older fields")]

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValueOption, data_source, header_value_option};
use envoy_types::pb::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    InternalRedirectPolicy, RedirectAction, Route, RouteAction, RouteConfiguration, VirtualCluster, VirtualHost,
    WeightedCluster, retry_policy, route, route_match,
};
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use prost::Message;

use super::{extensions, formats, templates};
use crate::document::Rejection;
use crate::document::sentence::quote;
use crate::resource::place::Place;

/// The longest body of a direct response, unless the RouteConfiguration sets another.
const MAX_BODY: u32 = 4096;
const TEMPLATE_REWRITE: &str = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";
const TEMPLATE_MATCH: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

/// NR-02, NR-03, NR-32, NR-43, header edits and filter settings.
pub(super) fn configuration(configuration: &RouteConfiguration, at: &Place) -> Result<(), Rejection> {
    headers(
        &configuration.request_headers_to_add,
        &configuration.request_headers_to_remove,
        "request",
        at,
    )?;

    headers(
        &configuration.response_headers_to_add,
        &configuration.response_headers_to_remove,
        "response",
        at,
    )?;

    if configuration.vhost_header.contains(['\0', '\r', '\n']) {
        let reason = "found NUL, CR or LF, expected the name of a header";
        return Err(at.field("vhost_header").reject(reason.to_owned()));
    }
    extensions::per_filter(&configuration.typed_per_filter_config, at)?;
    let hosts = at.field("virtual_hosts");
    let mut domains = BTreeSet::new();
    for (index, host) in configuration.virtual_hosts.iter().enumerate() {
        unique_domains(host, &mut domains, &hosts.index(index))?;
    }
    let plugins = configuration
        .cluster_specifier_plugins
        .iter()
        .filter_map(|plugin| plugin.extension.as_ref());
    let plugins: BTreeSet<&str> = plugins.map(|extension| extension.name.as_str()).collect();
    let longest = configuration
        .max_direct_response_body_size_bytes
        .as_ref()
        .map_or(MAX_BODY, |size| size.value);
    for (host_index, host) in configuration.virtual_hosts.iter().enumerate() {
        for (index, route) in host.routes.iter().enumerate() {
            let at = hosts.index(host_index).field("routes").index(index);
            within(route, &plugins, longest, &at)?;
        }
    }

    Ok(())
}

/// The rules of a route that depend on its RouteConfiguration.
fn within(route: &Route, plugins: &BTreeSet<&str>, longest: u32, at: &Place) -> Result<(), Rejection> {
    match &route.action {
        Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::ClusterSpecifierPlugin(name)),
            ..
        })) if !plugins.contains(name.as_str()) => {
            let reason = format!(
                "found {}, expected the name of one of cluster_specifier_plugins",
                quote(name)
            );
            Err(at.field("route").field("cluster_specifier_plugin").reject(reason))
        }
        Some(route::Action::DirectResponse(response)) => {
            let found = response.body.as_ref().map_or(0, inline_length);
            if found <= longest as usize {
                return Ok(());
            }
            let reason =
                format!("found {found} bytes, expected at most {longest} (max_direct_response_body_size_bytes)");
            Err(at.field("direct_response").field("body").reject(reason))
        }
        _ => Ok(()),
    }
}

fn inline_length(source: &DataSource) -> usize {
    match &source.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => bytes.len(),
        Some(data_source::Specifier::InlineString(text)) => text.len(),
        _ => 0,
    }
}

fn unique_domains(host: &VirtualHost, seen: &mut BTreeSet<String>, at: &Place) -> Result<(), Rejection> {
    for (index, domain) in host.domains.iter().enumerate() {
        if !seen.insert(domain.to_ascii_lowercase()) {
            let reason = format!("found the domain {} a second time, expected each once", quote(domain));
            return Err(at.field("domains").index(index).reject(reason));
        }
    }
    Ok(())
}

/// NR-02 within one host, NR-44, header edits and filter settings.
pub(super) fn virtual_host(host: &VirtualHost, at: &Place) -> Result<(), Rejection> {
    headers(
        &host.request_headers_to_add,
        &host.request_headers_to_remove,
        "request",
        at,
    )?;

    headers(
        &host.response_headers_to_add,
        &host.response_headers_to_remove,
        "response",
        at,
    )?;

    extensions::per_filter(&host.typed_per_filter_config, at)?;
    if host.matcher.is_some() && !host.routes.is_empty() {
        return Err(at
            .field("routes")
            .reject("found routes beside a matcher, expected one of the two".to_owned()));
    }

    unique_domains(host, &mut BTreeSet::new(), at)
}

/// NR-23, NR-50, header edits and filter settings.
pub(super) fn route(route: &Route, at: &Place) -> Result<(), Rejection> {
    headers(
        &route.request_headers_to_add,
        &route.request_headers_to_remove,
        "request",
        at,
    )?;

    headers(
        &route.response_headers_to_add,
        &route.response_headers_to_remove,
        "response",
        at,
    )?;

    extensions::per_filter(&route.typed_per_filter_config, at)?;
    let Some(route::Action::Route(action)) = &route.action else {
        return Ok(());
    };
    let policy = action.path_rewrite_policy.as_ref();
    let rewrite = policy.and_then(|policy| policy.typed_config.as_ref());
    let Some(rewrite) = rewrite.filter(|config| config.type_url.ends_with(TEMPLATE_REWRITE)) else {
        return Ok(());
    };
    let at = at.field("route").field("path_rewrite_policy");
    let matched = route.r#match.as_ref();
    let path = match matched.and_then(|matched| matched.path_specifier.as_ref()) {
        Some(route_match::PathSpecifier::PathMatchPolicy(policy)) => policy.typed_config.as_ref(),
        _ => None,
    };
    let Some(path) = path.filter(|config| config.type_url.ends_with(TEMPLATE_MATCH)) else {
        let reason = "found a template to rewrite by without one to match by, expected match.path_match_policy";
        return Err(at.reject(reason.to_owned()));
    };
    let templates = (
        UriTemplateRewriteConfig::decode(&*rewrite.value),
        UriTemplateMatchConfig::decode(&*path.value),
    );
    let (Ok(rewrite), Ok(matched)) = templates else {
        return Ok(());
    };
    match templates::missing_variable(&rewrite.path_template_rewrite, &matched.path_template) {
        Some(name) => {
            let reason = format!(
                "found the variable {}, expected one of the template {} to match by",
                quote(name),
                quote(&matched.path_template)
            );
            let at = at.field("typed_config").field("path_template_rewrite");
            Err(at.reject(reason))
        }
        None => Ok(()),
    }
}

/// NR-22, NR-29, NR-30, NR-51.
pub(super) fn action(action: &RouteAction, at: &Place) -> Result<(), Rejection> {
    formats::plain(&action.path_rewrite, &at.field("path_rewrite"))?;
    if let Some(HostRewriteSpecifier::HostRewrite(host)) = &action.host_rewrite_specifier {
        formats::plain(host, &at.field("host_rewrite"))?;
    }
    let rewrites = [
        ("prefix_rewrite", !action.prefix_rewrite.is_empty()),
        ("regex_rewrite", action.regex_rewrite.is_some()),
        ("path_rewrite_policy", action.path_rewrite_policy.is_some()),
        ("path_rewrite", !action.path_rewrite.is_empty()),
    ];

    let mut rewrites = rewrites
        .into_iter()
        .filter_map(|(name, is_there)| is_there.then_some(name));
    if let (Some(first), Some(second)) = (rewrites.next(), rewrites.next()) {
        return Err(at
            .field(second)
            .reject(format!("found together with {first}, expected one of the two")));
    }

    let mut seen = BTreeSet::new();
    for (index, upgrade) in action.upgrade_configs.iter().enumerate() {
        let at = at.field("upgrade_configs").index(index);
        if !seen.insert(upgrade.upgrade_type.to_ascii_lowercase()) {
            let reason = format!(
                "found {} a second time, expected each once",
                quote(&upgrade.upgrade_type)
            );
            return Err(at.field("upgrade_type").reject(reason));
        }
        if upgrade.connect_config.is_some() && !upgrade.upgrade_type.eq_ignore_ascii_case("CONNECT") {
            let reason = format!(
                "found it for the upgrade {}, expected CONNECT alone",
                quote(&upgrade.upgrade_type)
            );
            return Err(at.field("connect_config").reject(reason));
        }
    }

    Ok(())
}

/// NR-51.
pub(super) fn redirect(redirect: &RedirectAction, at: &Place) -> Result<(), Rejection> {
    match &redirect.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRewrite(path)) => formats::plain(path, &at.field("path_rewrite")),
        _ => Ok(()),
    }
}

/// NR-17.
pub(super) fn mirror(policy: &RequestMirrorPolicy, at: &Place) -> Result<(), Rejection> {
    match (policy.cluster.is_empty(), policy.cluster_header.is_empty()) {
        (true, true) => Err(at.reject("found neither cluster nor cluster_header, expected one of them".to_owned())),
        (false, false) => Err(at.reject("found both cluster and cluster_header, expected one of them".to_owned())),
        _ => Ok(()),
    }
}

/// NR-18, NR-19, NR-20.
pub(super) fn weighted(weighted: &WeightedCluster, at: &Place) -> Result<(), Rejection> {
    let at = at.field("clusters");
    let mut sum = 0_u64;
    for (index, cluster) in weighted.clusters.iter().enumerate() {
        match &cluster.weight {
            Some(weight) => sum += u64::from(weight.value),
            None => {
                return Err(at
                    .index(index)
                    .field("weight")
                    .reject("missing, expected a number".to_owned()));
            }
        }
    }

    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(at.reject(format!(
            "found weights whose sum is {sum}, expected one from 1 to {}",
            u32::MAX
        )));
    }

    Ok(())
}

/// NR-21, header edits and filter settings.
pub(super) fn weight(cluster: &ClusterWeight, at: &Place) -> Result<(), Rejection> {
    headers(
        &cluster.request_headers_to_add,
        &cluster.request_headers_to_remove,
        "request",
        at,
    )?;

    headers(
        &cluster.response_headers_to_add,
        &cluster.response_headers_to_remove,
        "response",
        at,
    )?;

    extensions::per_filter(&cluster.typed_per_filter_config, at)?;
    match (cluster.name.is_empty(), cluster.cluster_header.is_empty()) {
        (true, true) => Err(at.reject("found neither name nor cluster_header, expected one of them".to_owned())),
        (false, false) => Err(at.reject("found both name and cluster_header, expected one of them".to_owned())),
        _ => Ok(()),
    }
}

/// NR-25.
pub(super) fn back_off(back_off: &retry_policy::RetryBackOff, at: &Place) -> Result<(), Rejection> {
    let (Some(base), Some(most)) = (&back_off.base_interval, &back_off.max_interval) else {
        return Ok(());
    };
    if (most.seconds, most.nanos) < (base.seconds, base.nanos) {
        return Err(at
            .field("max_interval")
            .reject("found less than base_interval, expected at least that".to_owned()));
    }
    Ok(())
}

/// NR-36.
pub(super) fn internal_redirect(policy: &InternalRedirectPolicy, at: &Place) -> Result<(), Rejection> {
    let at = at.field("response_headers_to_copy");
    match policy.response_headers_to_copy.iter().position(|name| is_fixed(name)) {
        Some(index) => Err(fixed(&policy.response_headers_to_copy[index], &at.index(index))),
        None => Ok(()),
    }
}

/// NR-45.
pub(super) fn virtual_cluster(cluster: &VirtualCluster, at: &Place) -> Result<(), Rejection> {
    if cluster.headers.is_empty() {
        return Err(at
            .field("headers")
            .reject("missing or empty, expected at least one".to_owned()));
    }
    Ok(())
}

/// NR-34, NR-35, NR-40.
fn headers(add: &[HeaderValueOption], remove: &[String], which: &str, at: &Place) -> Result<(), Rejection> {
    let added = at.field(&format!("{which}_headers_to_add"));
    for (index, option) in add.iter().enumerate() {
        let at = added.index(index);
        let append_if_there = header_value_option::HeaderAppendAction::AppendIfExistsOrAdd as i32;
        if option.append.is_some() && option.append_action != append_if_there {
            return Err(at
                .field("append")
                .reject("found together with append_action, expected one of the two".to_owned()));
        }
        let Some(header) = &option.header else { continue };
        let at = at.field("header");
        if is_fixed(&header.key) {
            return Err(fixed(&header.key, &at.field("key")));
        }
    }

    let removed = at.field(&format!("{which}_headers_to_remove"));
    match remove.iter().position(|name| is_fixed(name)) {
        Some(index) => Err(fixed(&remove[index], &removed.index(index))),
        None => Ok(()),
    }
}

/// Headers that routes can neither change, remove nor copy.
fn is_fixed(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn fixed(name: &str, at: &Place) -> Rejection {
    at.reject(format!(
        "found {}, expected another header than host and those with a colon first",
        quote(name)
    ))
}
