//! Each kind of policy as filters.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::{CidrRange, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::rbac::v3::{self as rbac, Permission, Principal, permission, principal};
use envoy_types::pb::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::compression::zstd::compressor::v3::Zstd;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{Compressor, compressor};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors as CorsFilter, CorsPolicy};
use envoy_types::pb::envoy::extensions::filters::http::csrf::v3::CsrfPolicy;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation as HeaderMutationFilter, Mutations,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::rbac::principals::mtls_authenticated::v3::Config as MtlsAuthenticated;
use envoy_types::pb::envoy::r#type::http::v3::Cookie;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, PathMatcher, StringMatcher, ValueMatcher, list_matcher, metadata_matcher,
    path_matcher, string_matcher, value_matcher,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{Any, UInt64Value};
use ipnet::IpNet;
use prost::Name;

use super::conditions::{self, all, any as any_of, not, of as id};
use super::service::refusing;
use super::{Filter, Secrets, Slot, api_key, basic_auth, ext_authz, ext_proc, global_rate_limit, grpc_json};
use crate::document::policy::PolicyRule;
use crate::document::policy::app::{Abort, AbortStatus, Delay, Fault, Sticky};
use crate::document::policy::auth::{Rbac, RbacRule};
use crate::document::policy::edge::{Algorithm, Compression, Cors, Csrf, Headers, IpAccess};
use crate::document::route::{HeaderEdits, PathMatch, StringMatch};
use crate::proto::message::{any, boolean, duration, extension, uint32};
use crate::resource::listeners::tls;
use crate::resource::routes::{added, matching};

/// The name under which Envoy finds the state of a session.
const COOKIE_STATE: &str = "envoy.http.stateful_session.cookie";
/// The name of the principal that looks at the client's certificate.
const MTLS_PRINCIPAL: &str = "envoy.rbac.principals.mtls_authenticated";
/// The name of the only policy in an RBAC filter.
const ONLY: &str = "policy";

/// The filters of a policy. `client` is the header with the client that another policy found.
pub(super) fn of(rule: &PolicyRule, secrets: &Secrets<'_>, client: Option<&str>) -> Vec<Filter> {
    let edge = |name, config| vec![Filter::new(Slot::Edge, name, config)];
    let auth = |name, config| vec![Filter::new(Slot::Auth, name, config)];
    let app = |name, config| vec![Filter::new(Slot::App, name, config)];
    match rule {
        PolicyRule::Compression(compression) => compressors(compression),
        PolicyRule::Headers(headers) => edge("headers", any(&header_mutation(headers))),
        PolicyRule::GrpcWeb => edge("grpc_web", any(&GrpcWeb {})),
        PolicyRule::Cors(cors) => vec![Filter {
            for_route: Some(any(&cors_policy(cors))),
            ..Filter::new(Slot::Edge, "cors", any(&CorsFilter {}))
        }],
        PolicyRule::IpAccess(access) => edge("ip_access", any(&ip_access(access))),
        PolicyRule::Csrf(csrf) => edge("csrf", any(&csrf_policy(csrf))),
        PolicyRule::BasicAuth(basic) => basic_auth::filters(basic, secrets),
        PolicyRule::ApiKey(keys) => api_key::filters(keys, secrets),
        PolicyRule::ExtAuthz(authz) => vec![ext_authz::filter(authz)],
        PolicyRule::Rbac(rbac) => auth("rbac", any(&rbac_filter(rbac, client))),
        PolicyRule::GlobalRateLimit(limit) => auth("global_rate_limit", any(&global_rate_limit::filter(limit, client))),
        PolicyRule::ExtProc(processor) => app("ext_proc", any(&ext_proc::filter(processor))),
        PolicyRule::BodyLimit(max) => app("body_limit", body_limit(*max)),
        PolicyRule::Buffer(max) => app(
            "buffer",
            any(&Buffer {
                max_request_bytes: Some(uint32(*max)),
            }),
        ),
        PolicyRule::Fault(fault) => app("fault", any(&http_fault(fault))),
        PolicyRule::GrpcJson(json) => app("grpc_json", any(&grpc_json::filter(json))),
        PolicyRule::Sticky(sticky) => app("sticky", any(&stateful_session(sticky))),
        // Filters of their own, or an action of routes.
        PolicyRule::Jwt(_)
        | PolicyRule::RateLimit(_)
        | PolicyRule::Oidc(_)
        | PolicyRule::Lua(_)
        | PolicyRule::Maintenance(_) => Vec::new(),
    }
}

/// The filters of a policy for a proxy that may not have its secrets: every request gets 403. `None`: the policy has no
/// secret that a RouteConfiguration would show or wait for.
pub(super) fn withheld(rule: &PolicyRule) -> Option<Filter> {
    match rule {
        PolicyRule::BasicAuth(_) => Some(refusing(Slot::Auth, "basic_auth")),
        PolicyRule::ApiKey(_) => Some(refusing(Slot::Auth, "api_key")),
        // In place of the login, so before the other filters of its slot.
        PolicyRule::Oidc(_) => Some(refusing(Slot::Edge, "oidc")),
        _ => None,
    }
}

/// The network filter of `ip_access`.
pub(super) fn network(rule: &PolicyRule) -> Option<(&'static str, Any)> {
    let PolicyRule::IpAccess(access) = rule else {
        return None;
    };
    let filter = NetworkRbac {
        rules: ip_access(access).rules,
        stat_prefix: "ip_access".to_owned(),
        ..NetworkRbac::default()
    };
    Some(("envoy.filters.network.rbac", any(&filter)))
}

/// One filter an algorithm. The first is chosen if the client likes several equally.
fn compressors(compression: &Compression) -> Vec<Filter> {
    let algorithms = compression.algorithms.iter().enumerate();
    algorithms
        .map(|(index, algorithm)| {
            let (name, library) = match algorithm {
                Algorithm::Brotli => ("br", extension("br", &Brotli::default())),
                Algorithm::Zstd => ("zstd", extension("zstd", &Zstd::default())),
                Algorithm::Gzip => ("gzip", extension("gzip", &Gzip::default())),
            };
            #[expect(
                deprecated,
                reason = "the field that replaces it, content_type_matcher, is newer than it"
            )]
            let common = compressor::CommonDirectionConfig {
                min_content_length: Some(uint32(compression.min_size)),
                content_type: compression.content_types.clone().unwrap_or_default(),
                ..compressor::CommonDirectionConfig::default()
            };
            let config = Compressor {
                compressor_library: Some(library),
                response_direction_config: Some(compressor::ResponseDirectionConfig {
                    common_config: Some(common),
                    disable_on_etag_header: compression.skip_etag,
                    weaken_etag_on_compress: !compression.skip_etag,
                    ..compressor::ResponseDirectionConfig::default()
                }),
                choose_first: index == 0,
                ..Compressor::default()
            };
            Filter::new(Slot::Edge, name, any(&config))
        })
        .collect()
}

fn header_mutation(headers: &Headers) -> HeaderMutationFilter {
    HeaderMutationFilter {
        mutations: Some(Mutations {
            request_mutations: mutations(&headers.request),
            response_mutations: mutations(&headers.response),
            ..Mutations::default()
        }),
        ..HeaderMutationFilter::default()
    }
}

fn mutations(edits: &HeaderEdits) -> Vec<HeaderMutation> {
    let removed = edits.remove.iter().cloned().map(header_mutation::Action::Remove);
    let added = added(edits).into_iter().map(header_mutation::Action::Append);
    removed
        .chain(added)
        .map(|action| HeaderMutation { action: Some(action) })
        .collect()
}

/// Every field is there: if a field were absent, Envoy would take it from a policy of the listener.
fn cors_policy(cors: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().filter_map(conditions::text).collect(),
        allow_methods: cors.allow_methods.join(", "),
        allow_headers: cors.allow_headers.join(", "),
        expose_headers: cors.expose_headers.join(", "),
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: Some(boolean(cors.allow_credentials)),
        allow_private_network_access: Some(boolean(cors.private_network)),
        forward_not_matching_preflights: Some(boolean(false)),
        ..CorsPolicy::default()
    }
}

fn ip_access(access: &IpAccess) -> RbacFilter {
    let within = |ranges: &[IpNet]| any_of(ranges.iter().map(|range| address(range, access.is_peer)).collect());
    let denied = (!access.deny.is_empty()).then(|| not(within(&access.deny)));
    let allowed = access.allow.as_deref().map(within);
    allow_only(vec![all(denied.into_iter().chain(allowed).collect())])
}

fn address(range: &IpNet, is_peer: bool) -> Principal {
    let range = CidrRange {
        address_prefix: range.addr().to_string(),
        prefix_len: Some(uint32(range.prefix_len().into())),
    };
    id(match is_peer {
        true => principal::Identifier::DirectRemoteIp(range),
        false => principal::Identifier::RemoteIp(range),
    })
}

/// A filter that lets a request pass if it is one of these; nobody, if there are none.
fn allow_only(principals: Vec<Principal>) -> RbacFilter {
    let policy = rbac::Policy {
        permissions: vec![Permission {
            rule: Some(permission::Rule::Any(true)),
        }],
        principals,
        ..rbac::Policy::default()
    };
    let policies = match policy.principals.is_empty() {
        true => HashMap::new(),
        false => HashMap::from([(ONLY.to_owned(), policy)]),
    };
    RbacFilter {
        rules: Some(rbac::Rbac {
            action: rbac::rbac::Action::Allow as i32,
            policies,
            ..rbac::Rbac::default()
        }),
        ..RbacFilter::default()
    }
}

fn csrf_policy(csrf: &Csrf) -> CsrfPolicy {
    CsrfPolicy {
        filter_enabled: Some(RuntimeFractionalPercent {
            default_value: Some(millionths(1_000_000)),
            ..RuntimeFractionalPercent::default()
        }),
        additional_origins: csrf.additional_origins.iter().filter_map(conditions::text).collect(),
        ..CsrfPolicy::default()
    }
}

fn millionths(numerator: u32) -> FractionalPercent {
    FractionalPercent {
        numerator,
        denominator: DenominatorType::Million as i32,
    }
}

/// The first rule that matches decides: a request passes if it matches a rule that allows and none before it that
/// denies.
fn rbac_filter(rbac: &Rbac, client: Option<&str>) -> RbacFilter {
    let mut denied: Vec<Principal> = Vec::new();
    let mut allowed = Vec::new();
    let and_not_denied = |own: Option<Principal>, denied: &[Principal]| {
        let before = (!denied.is_empty()).then(|| not(any_of(denied.to_vec())));
        all(own.into_iter().chain(before).collect())
    };
    for rule in &rbac.rules {
        let own = rbac_rule(rule, client);
        match rule.allows {
            true => allowed.push(and_not_denied(Some(own), &denied)),
            false => denied.push(own),
        }
    }
    if rbac.allows_by_default {
        allowed.push(and_not_denied(None, &denied));
    }
    allow_only(allowed)
}

fn rbac_rule(rule: &RbacRule, client: Option<&str>) -> Principal {
    let mut ids = Vec::new();
    let methods = matching::methods(&rule.methods).into_iter().flatten();
    let methods: Vec<Principal> = methods
        .map(|method| id(principal::Identifier::Header(method)))
        .collect();
    if !methods.is_empty() {
        ids.push(any_of(methods));
    }
    ids.extend(rule.path.as_ref().map(path));
    ids.extend(
        rule.headers
            .iter()
            .map(|(name, condition)| conditions::principal(name, condition)),
    );
    if !rule.client_ip.is_empty() {
        ids.push(any_of(
            rule.client_ip.iter().map(|range| address(range, false)).collect(),
        ));
    }
    ids.extend(rule.claims.iter().map(|(segments, text)| claim(segments, text)));
    if !rule.clients.is_empty() {
        ids.push(match client {
            Some(header) => {
                let is = |name: &String| conditions::principal(header, &StringMatch::Exact(name.clone()));
                any_of(rule.clients.iter().map(is).collect())
            }
            // Such a document is rejected. Without the check: a rule that allows takes no client, one that denies all.
            None if rule.allows => not(all(Vec::new())),
            None => all(Vec::new()),
        });
    }
    ids.extend(rule.peer.as_ref().map(|(kind, condition)| {
        let config = MtlsAuthenticated {
            san_matcher: Some(tls::name(*kind, condition)),
            ..MtlsAuthenticated::default()
        };
        id(principal::Identifier::Custom(extension(MTLS_PRINCIPAL, &config)))
    }));
    all(ids)
}

/// A claim that is the text, or a list with it.
fn claim(segments: &[String], text: &str) -> Principal {
    let is_text = || ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::StringMatch(matching::string(
            string_matcher::MatchPattern::Exact(text.to_owned()),
        ))),
    };
    let in_list = ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher {
            match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(is_text()))),
        }))),
    };
    let either = ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::OrMatch(OrMatcher {
            value_matchers: vec![is_text(), in_list],
        })),
    };
    let (filter, part) = super::jwt::CLAIMS;
    let path = std::iter::once(part).chain(segments.iter().map(String::as_str));
    let segment = |key: &str| metadata_matcher::PathSegment {
        segment: Some(metadata_matcher::path_segment::Segment::Key(key.to_owned())),
    };
    id(principal::Identifier::SourcedMetadata(rbac::SourcedMetadata {
        metadata_matcher: Some(MetadataMatcher {
            filter: filter.to_owned(),
            path: path.map(segment).collect(),
            value: Some(either),
            ..MetadataMatcher::default()
        }),
        metadata_source: rbac::MetadataSource::Dynamic as i32,
    }))
}

fn path(path: &PathMatch) -> Principal {
    let matched = |pattern: string_matcher::MatchPattern| {
        let matcher: StringMatcher = matching::string(pattern);
        id(principal::Identifier::UrlPath(PathMatcher {
            rule: Some(path_matcher::Rule::Path(matcher)),
        }))
    };
    match path {
        PathMatch::Exact(path) | PathMatch::Legacy(path) => matched(string_matcher::MatchPattern::Exact(path.clone())),
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            "" => id(principal::Identifier::Any(true)),
            prefix => any_of(vec![
                matched(string_matcher::MatchPattern::Exact(prefix.to_owned())),
                matched(string_matcher::MatchPattern::Prefix(format!("{prefix}/"))),
            ]),
        },
        PathMatch::Regex(pattern) | PathMatch::Template(pattern) => matched(matching::regex(pattern.clone())),
    }
}

/// `envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit`, which `envoy-types` describes and has no type for.
#[derive(Clone, PartialEq, prost::Message)]
struct BodySizeLimit {
    #[prost(message, optional, tag = "1")]
    max_request_bytes: Option<UInt64Value>,
}

impl Name for BodySizeLimit {
    const NAME: &'static str = "BodySizeLimit";
    const PACKAGE: &'static str = "envoy.extensions.filters.http.body_size_limit.v3";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

fn body_limit(max: u32) -> Any {
    any(&BodySizeLimit {
        max_request_bytes: Some(UInt64Value { value: max.into() }),
    })
}

fn http_fault(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.as_ref().map(fault_delay),
        abort: fault.abort.as_ref().map(fault_abort),
        headers: fault
            .headers
            .iter()
            .map(|(name, condition)| conditions::header(name, condition))
            .collect(),
        ..HttpFault::default()
    }
}

fn fault_delay(delay: &Delay) -> FaultDelay {
    FaultDelay {
        percentage: Some(millionths(delay.millionths)),
        fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(duration(delay.duration))),
    }
}

fn fault_abort(abort: &Abort) -> FaultAbort {
    FaultAbort {
        percentage: Some(millionths(abort.millionths)),
        response_body: abort.body.clone().unwrap_or_default(),
        error_type: Some(match abort.status {
            AbortStatus::Http(status) => fault_abort::ErrorType::HttpStatus(status),
            AbortStatus::Grpc(status) => fault_abort::ErrorType::GrpcStatus(status),
        }),
    }
}

fn stateful_session(sticky: &Sticky) -> StatefulSession {
    let cookie = Cookie {
        name: sticky.name.clone(),
        ttl: sticky.ttl.map(duration),
        path: sticky.path.clone(),
        ..Cookie::default()
    };
    StatefulSession {
        session_state: Some(extension(
            COOKIE_STATE,
            &CookieBasedSessionState { cookie: Some(cookie) },
        )),
        strict: sticky.strict,
        ..StatefulSession::default()
    }
}
