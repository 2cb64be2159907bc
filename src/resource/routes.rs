//! Routes: from rules to Route messages, and from encoded Routes to `VirtualHosts` and `RouteConfigurations`.
//!
//! A rule usually becomes one Route. It becomes several neighbouring Routes with the same action ([`action`]) if one
//! Envoy matcher cannot express it:
//!
//! - The matched prefix is replaced by `/` ([`paths`]).
//! - The names of many methods do not fit one regex.
//! - "Not like this, or missing" needs two conditions ([`matching`]).
//!
//! Each entry is encoded once. A `VirtualHost` has its own routes and those of wider patterns, so the same bytes are
//! part of many: `VirtualHost` and RouteConfiguration are written by joining encoded members. [`super::table`] decides
//! which entries are in which `VirtualHost`, and their order.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, RouteMatch, Vhds, VirtualHost};
use prost::Message;

use crate::document::Rejection;
use crate::document::defaults::LegacyPath;
use crate::document::key::DocumentKey;
use crate::document::listener::HttpsRedirect;
use crate::document::route::{Action, HeaderEdits, HostPattern, Rule, Settings};
use crate::proto::message::{ads, append};

mod action;
pub(super) mod matching;
pub(super) mod order;
mod paths;

/// How long a client may use HTTP/3 before it hears of it again: a day.
const ALT_SVC_SECONDS: u32 = 86_400;
/// The name of the generated Route that redirects to https.
const HTTPS_REDIRECT: &str = "chancery/redirect-to-https";

/// The encoded `envoy.config.route.v3.Route` messages of one rule, in their order; usually one.
///
/// `settings` are those of the rule with the defaults filled in. A Route has the name of its document.
///
/// # Errors
/// A rule that Envoy would refuse or cannot express.
pub fn entries(
    key: &DocumentKey,
    rule: &Rule,
    settings: &Settings,
    legacy_path: LegacyPath,
) -> Result<Vec<Bytes>, Rejection> {
    let name = key.to_string();
    let alternatives = matching::alternatives(rule)?;
    let mut entries = Vec::new();
    for path in paths::variants(&rule.matches.path, legacy_path, replacement(rule)) {
        for method in matching::methods(&rule.matches.methods) {
            for conditions in &alternatives {
                let route = Route {
                    name: name.clone(),
                    r#match: Some(conditions.with(path.specifier.clone(), method.clone())),
                    action: Some(action::of(rule, settings, &path.replacement)?),
                    ..with_header_edits(rule, settings)
                };
                entries.push(route.encode_to_vec().into());
            }
        }
    }

    Ok(entries)
}

/// The encoded Route that sends any request to the same URL by https.
#[must_use]
pub fn https_redirect(redirect: HttpsRedirect) -> Bytes {
    let matches = RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    };
    let route = Route {
        name: HTTPS_REDIRECT.to_owned(),
        r#match: Some(matches),
        action: Some(action::https(redirect)),
        ..Route::default()
    };
    route.encode_to_vec().into()
}

/// The replacement of the matched part of the path, if the rule has one.
fn replacement(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Action::Forward(_) => rule.rewrite.prefix.as_deref(),
        Action::Redirect(redirect) => redirect.prefix.as_deref(),
        Action::Respond(_) => None,
    }
}

/// A Route with nothing but its edits of headers; the headers of a fixed response come first.
fn with_header_edits(rule: &Rule, settings: &Settings) -> Route {
    let mut route = Route::default();
    if let Action::Respond(respond) = &rule.action {
        route.response_headers_to_add = respond.headers.iter().map(overwritten).collect();
    }
    if let Some(edits) = &settings.request_headers {
        route.request_headers_to_add = added(edits);
        route.request_headers_to_remove.clone_from(&edits.remove);
    }
    if let Some(edits) = &settings.response_headers {
        route.response_headers_to_add.extend(added(edits));
        route.response_headers_to_remove.clone_from(&edits.remove);
    }
    route
}

pub(super) fn added(edits: &HeaderEdits) -> Vec<HeaderValueOption> {
    let appended = edits
        .add
        .iter()
        .map(|header| header_option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    edits.set.iter().map(overwritten).chain(appended).collect()
}

fn overwritten(header: (&String, &String)) -> HeaderValueOption {
    header_option(header, HeaderAppendAction::OverwriteIfExistsOrAdd)
}

pub(super) fn header_option((key, value): (&String, &String), action: HeaderAppendAction) -> HeaderValueOption {
    let header = HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..HeaderValue::default()
    };
    HeaderValueOption {
        header: Some(header),
        append_action: action as i32,
        ..HeaderValueOption::default()
    }
}

/// The encoded `VirtualHost` of one host pattern, whose name it has, from encoded routes in their order. The routes
/// begin at the end of [`virtual_host_head`].
#[must_use]
pub fn virtual_host(host: &HostPattern, routes: &[Bytes]) -> Bytes {
    let mut bytes = virtual_host_head(text(host), host);
    routes.iter().for_each(|route| append(&mut bytes, 3, route));
    bytes.into()
}

/// The encoded `VirtualHost` of one host pattern up to its routes.
#[must_use]
pub fn virtual_host_head(name: &str, host: &HostPattern) -> Vec<u8> {
    let head = VirtualHost {
        name: name.to_owned(),
        domains: vec![text(host).to_owned()],
        ..VirtualHost::default()
    };
    head.encode_to_vec()
}

fn text(host: &HostPattern) -> &str {
    match host {
        HostPattern::Exact(pattern) | HostPattern::Wildcard(pattern) => pattern,
        HostPattern::Any => "*",
    }
}

/// The encoded RouteConfiguration of the listener `name` up to its virtual hosts ([`member`]).
#[must_use]
pub fn configuration(name: &str, http3_port: Option<u16>) -> Bytes {
    head(name, http3_port).encode_to_vec().into()
}

/// The encoded RouteConfiguration of the listener `name` whose virtual hosts are resources of their own.
#[must_use]
pub fn on_demand_configuration(name: &str, http3_port: Option<u16>) -> Bytes {
    let vhds = Some(Vhds {
        config_source: Some(ads()),
    });
    RouteConfiguration {
        vhds,
        ..head(name, http3_port)
    }
    .encode_to_vec()
    .into()
}

/// `http3_port`: the port of HTTP/3, of which every answer tells.
fn head(name: &str, http3_port: Option<u16>) -> RouteConfiguration {
    let alt_svc = http3_port.map(|port| format!("h3=\":{port}\"; ma={ALT_SVC_SECONDS}"));
    RouteConfiguration {
        name: name.to_owned(),
        response_headers_to_add: alt_svc
            .iter()
            .map(|value| overwritten((&"alt-svc".to_owned(), value)))
            .collect(),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

/// Append an encoded virtual host to a RouteConfiguration.
pub fn member(configuration: &mut Vec<u8>, virtual_host: &[u8]) {
    append(configuration, 2, virtual_host);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use prost::Name;
    use serde_json::{Value as Json, json};

    use crate::document::key::Kind;
    use crate::document::route::{
        BackOff, HostRewrite, Limit, Match, PathMatch, Redirect, Respond, Retry, Rewrite, Target, Upstream, UpstreamUrl,
    };
    use crate::proto::json::to_json;

    use super::*;

    fn cluster(name: &str, weight: u32) -> Target {
        Target {
            upstream: Upstream::Cluster(name.into()),
            weight,
        }
    }

    fn rule(path: PathMatch, action: Action) -> Rule {
        let matches = Match {
            hosts: vec![HostPattern::Any],
            path,
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        };
        let (rewrite, settings) = (Rewrite::default(), Settings::default());
        Rule {
            place: "match".into(),
            matches,
            action,
            rewrite,
            mirrors: Vec::new(),
            settings,
            policies: crate::document::policy::Items::default(),
            enabled: true,
        }
    }

    fn forward(path: PathMatch) -> Rule {
        rule(path, Action::Forward(vec![cluster("orders", 1)]))
    }

    fn compiled(rule: &Rule) -> Vec<Bytes> {
        let key = DocumentKey::new(Kind::Routes, "orders/list");
        entries(&key, rule, &rule.settings, LegacyPath::Exact).unwrap()
    }

    fn shown(rule: &Rule) -> Vec<Json> {
        compiled(rule)
            .iter()
            .map(|route| to_json(&Route::type_url(), route).unwrap())
            .collect()
    }

    fn strings(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_shortest_rule_forwards_within_15_seconds() {
        let url = UpstreamUrl {
            http2: false,
            https: false,
            host: "10.0.1.5".into(),
            port: 8080,
        };
        let target = Target {
            upstream: Upstream::Url(url),
            weight: 1,
        };
        let mut rule = rule(PathMatch::Exact("/v1/users".into()), Action::Forward(vec![target]));
        rule.matches.methods = vec!["POST".into()];
        let expected = json!({
            "@type": Route::type_url(),
            "name": "routes/orders/list",
            "match": { "path": "/v1/users", "headers": [{ "name": ":method", "string_match": { "exact": "POST" } }] },
            "route": { "cluster": "http://10.0.1.5:8080", "timeout": "15s" },
        });
        assert_eq!(shown(&rule), [expected]);
    }

    #[test]
    fn a_full_rule_has_weights_rewrites_limits_retries_and_header_edits() {
        let targets = vec![
            cluster("orders-v1", 95),
            cluster("orders-v2", 5),
            cluster("orders-v3", 0),
        ];
        let mut rule = rule(PathMatch::Prefix("/v1/orders".into()), Action::Forward(targets));
        rule.rewrite = Rewrite {
            prefix: Some("/orders/".into()),
            host: Some(HostRewrite::Auto),
            ..Rewrite::default()
        };
        let edits = HeaderEdits {
            set: strings(&[("x-from", "edge")]),
            add: strings(&[("via", "%PROTOCOL%")]),
            remove: vec!["x-debug".into(), "a".into()],
        };
        rule.settings = Settings {
            timeout: Some(Limit::After(Duration::from_secs(3))),
            idle_timeout: Some(Limit::None),
            retry: Some(Retry {
                attempts: 2,
                on: vec!["connect-failure".into(), "503".into(), "5xx".into()],
                per_try_timeout: Some(Duration::from_secs(1)),
                back_off: Some(BackOff {
                    base: Duration::from_millis(25),
                    max: Some(Duration::from_millis(250)),
                }),
                another_endpoint: true,
            }),
            request_headers: Some(edits.clone()),
            response_headers: Some(edits),
            ..Settings::default()
        };
        let edited = json!([
            { "header": { "key": "x-from", "value": "edge" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" },
            { "header": { "key": "via", "value": "%PROTOCOL%" } },
        ]);
        let expected = json!({
            "@type": Route::type_url(),
            "name": "routes/orders/list",
            "match": { "path_separated_prefix": "/v1/orders" },
            "route": {
                "weighted_clusters": { "clusters": [
                    { "name": "orders-v1", "weight": 95 },
                    { "name": "orders-v2", "weight": 5 },
                    { "name": "orders-v3", "weight": 0 },
                ] },
                "prefix_rewrite": "/orders",
                "auto_host_rewrite": true,
                "timeout": "3s",
                "idle_timeout": "0s",
                "retry_policy": {
                    "retry_on": "connect-failure,5xx,retriable-status-codes",
                    "num_retries": 2,
                    "per_try_timeout": "1s",
                    "retriable_status_codes": [503],
                    "retry_back_off": { "base_interval": "0.025s", "max_interval": "0.250s" },
                    "retry_host_predicate": [{
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                        },
                    }],
                    "host_selection_retry_max_attempts": "3",
                },
            },
            "request_headers_to_add": edited,
            "request_headers_to_remove": ["x-debug", "a"],
            "response_headers_to_add": edited,
            "response_headers_to_remove": ["x-debug", "a"],
        });
        assert_eq!(shown(&rule), [expected]);
    }

    #[test]
    fn a_grpc_match_has_no_timeout_unless_one_is_given() {
        let mut rule = forward(PathMatch::Exact("/pkg.Service/Method".into()));
        rule.matches.grpc = true;
        assert_eq!(shown(&rule)[0]["route"]["timeout"], json!("0s"));
        rule.settings.timeout = Some(Limit::After(Duration::from_millis(1500)));
        assert_eq!(shown(&rule)[0]["route"]["timeout"], json!("1.500s"));
    }

    #[test]
    fn a_prefix_replaced_by_a_slash_is_two_routes_that_differ_in_the_match_alone() {
        let mut rule = forward(PathMatch::Prefix("/v1/orders".into()));
        rule.rewrite = Rewrite {
            prefix: Some("/".into()),
            host: Some(HostRewrite::Name("orders.internal".into())),
            ..Rewrite::default()
        };
        let action = json!({
            "cluster": "orders",
            "prefix_rewrite": "/",
            "host_rewrite_literal": "orders.internal",
            "timeout": "15s",
        });
        let name = "routes/orders/list";
        let route =
            |matches: Json| json!({ "@type": Route::type_url(), "name": name, "match": matches, "route": action });
        let expected = [
            route(json!({ "path": "/v1/orders" })),
            route(json!({ "prefix": "/v1/orders/" })),
        ];
        assert_eq!(shown(&rule), expected);
    }

    #[test]
    fn a_template_is_replaced_as_a_whole_because_envoy_refuses_its_prefix() {
        let mut rule = forward(PathMatch::Template("/a/{id}".into()));
        rule.rewrite.prefix = Some("/b%20".into());
        let route = &shown(&rule)[0];
        assert_eq!(
            route["route"],
            json!({ "cluster": "orders", "path_rewrite": "/b%%20", "timeout": "15s" })
        );
        let policy = json!({
            "name": "envoy.path.match.uri_template.uri_template_matcher",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": "/a/{id}",
            },
        });
        assert_eq!(route["match"], json!({ "path_match_policy": policy }));
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let redirect = Redirect {
            scheme: Some("https".into()),
            host: Some("new.example.com".into()),
            port: Some(8443),
            prefix: Some("/new".into()),
            code: 308,
            ..Redirect::default()
        };
        let moved = rule(PathMatch::Prefix("/old".into()), Action::Redirect(redirect.clone()));
        let expected = json!({
            "scheme_redirect": "https",
            "host_redirect": "new.example.com",
            "port_redirect": 8443,
            "prefix_rewrite": "/new",
            "response_code": "PERMANENT_REDIRECT",
        });
        assert_eq!(shown(&moved)[0]["redirect"], expected);
        let path = Redirect {
            path: Some("/only".into()),
            code: 301,
            ..Redirect::default()
        };
        let plain = rule(PathMatch::Exact("/old".into()), Action::Redirect(path));
        assert_eq!(shown(&plain)[0]["redirect"], json!({ "path_redirect": "/only" }));
        let rooted = Redirect {
            prefix: Some("/".into()),
            ..redirect
        };
        assert_eq!(
            shown(&rule(PathMatch::Prefix("/old".into()), Action::Redirect(rooted))).len(),
            2
        );
    }

    #[test]
    fn a_fixed_response_has_its_headers_before_other_edits() {
        let respond = Respond {
            status: 503,
            body: Some("{}".into()),
            headers: strings(&[("content-type", "application/json")]),
        };
        let mut rule = rule(PathMatch::Prefix(String::new()), Action::Respond(respond));
        let edits = HeaderEdits {
            set: strings(&[("x-from", "edge")]),
            ..HeaderEdits::default()
        };
        rule.settings.response_headers = Some(edits);
        let expected = json!({
            "@type": Route::type_url(),
            "name": "routes/orders/list",
            "match": { "prefix": "/" },
            "direct_response": { "status": 503, "body": { "inline_string": "{}" } },
            "response_headers_to_add": [
                { "header": { "key": "content-type", "value": "application/json" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" },
                { "header": { "key": "x-from", "value": "edge" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" },
            ],
        });
        assert_eq!(shown(&rule), [expected]);
    }

    #[test]
    fn written_hosts_and_configurations_equal_encoded_ones() {
        let mut second = forward(PathMatch::Prefix("/b".into()));
        second.rewrite.prefix = Some("/".into());
        let routes = [compiled(&forward(PathMatch::Exact("/a".into()))), compiled(&second)].concat();
        let decoded: Vec<Route> = routes
            .iter()
            .map(|route| Route::decode(route.clone()).unwrap())
            .collect();
        let host = |name: &str, routes: &[Route]| VirtualHost {
            name: name.into(),
            domains: vec![name.into()],
            routes: routes.to_vec(),
            ..VirtualHost::default()
        };
        let expected = [
            host("api.example.com", &decoded),
            host("*.example.com", &decoded[1..]),
            host("*", &[]),
        ];
        let written = [
            virtual_host(&HostPattern::Exact("api.example.com".into()), &routes),
            virtual_host(&HostPattern::Wildcard("*.example.com".into()), &routes[1..]),
            virtual_host(&HostPattern::Any, &[]),
        ];
        for (written, expected) in written.iter().zip(&expected) {
            assert_eq!(*written, expected.encode_to_vec());
        }
        let whole = RouteConfiguration {
            name: "edge".into(),
            virtual_hosts: expected.to_vec(),
            ignore_port_in_host_matching: true,
            ..RouteConfiguration::default()
        };
        let mut configured = configuration("edge", None).to_vec();
        assert_eq!(
            configured,
            RouteConfiguration {
                virtual_hosts: vec![],
                ..whole.clone()
            }
            .encode_to_vec()
        );
        written.iter().for_each(|host| member(&mut configured, host));
        assert_eq!(RouteConfiguration::decode(&*configured).unwrap(), whole);
    }
}
