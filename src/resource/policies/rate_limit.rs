//! `rate_limit`: the rules of every policy in one filter, because buckets live as long as their filter.
//!
//! A route has the name of its policy as metadata. A rule is an action that makes a descriptor of that name, the rule's
//! shape and its value of `by`; a bucket belongs to a descriptor. Rules of one shape share an action, whatever policy
//! they belong to. A rule by the client is one by a header: which, stands in the metadata of the route. If the value of `by` is absent, the descriptor is made without it, and has a bucket of its own: a
//! client that leaves the value out frees itself from nothing.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::RateLimit as Actions;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::meta_data::Source;
use envoy_types::pb::envoy::config::route::v3::rate_limit::{Action, XRateLimitOption, action};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::r#type::metadata::v3::MetadataKey;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket, fractional_percent::DenominatorType};

use super::conditions;
use super::jwt::CLAIMS;
use super::route::{CLIENT_KEY, METADATA, POLICY_KEY, ROUTE_KEY};
use crate::document::policy::rate_limit::{By, LimitRule, RateLimit, When};
use crate::proto::message::{boolean, duration, uint32};
use crate::resource::routes::matching::{methods, regex, string};

/// Keys of the entries of a descriptor.
const POLICY: &str = "policy";
const RULE: &str = "rule";
const BY: &str = "by";
const CLIENT: &str = "client";
const WHEN: &str = "when";
const MET: &str = "met";
/// The key that Envoy gives to the address of a client.
const ADDRESS: &str = "masked_remote_address";
/// The bits of an IPv6 address that name a client.
const V6_BITS: u32 = 64;

/// Whether the policy has rules that need an identity, or that need none.
pub(super) fn has_rules(limit: &RateLimit, identity: bool) -> bool {
    let is_identity = |rule: &LimitRule| rule.by.as_ref().is_some_and(By::is_identity);
    limit.rules.iter().any(|rule| is_identity(rule) == identity)
}

/// The form of a rule. Rules of one shape share an action.
#[derive(Debug, Clone, PartialEq)]
struct RuleShape<'a> {
    index: usize,
    by: Option<By>,
    /// The header with the client of the route, for a rule by it.
    client: Option<&'a str>,
    when: &'a When,
    headers: bool,
}

/// The shapes of a rule: of a rule by the client one for each header that a route may have it in.
fn shapes_of<'a>(index: usize, rule: &'a LimitRule, headers: bool, clients: &BTreeSet<&'a str>) -> Vec<RuleShape<'a>> {
    let shape = |by: Option<By>, client| RuleShape {
        index,
        by,
        client,
        when: &rule.when,
        headers,
    };
    match &rule.by {
        Some(By::Client) => clients
            .iter()
            .map(|header| shape(Some(By::Header((*header).to_owned())), Some(*header)))
            .collect(),
        by => vec![shape(by.clone(), None)],
    }
}

/// The rules of these policies, by name, that a filter has: those by an identity, or the others. `clients` are the
/// headers in which policies of the group write the client that they found.
pub(super) fn filter(
    policies: &BTreeMap<String, &RateLimit>,
    identity: bool,
    clients: &BTreeSet<&str>,
    prefix: &str,
) -> LocalRateLimit {
    let mut shapes: Vec<RuleShape<'_>> = Vec::new();
    let mut actions = Vec::new();
    let mut descriptors = Vec::new();
    let mut max_keys = 1;
    for (name, limit) in policies {
        for (index, rule) in limit.rules.iter().enumerate() {
            if rule.by.as_ref().is_some_and(By::is_identity) != identity {
                continue;
            }
            for shape in shapes_of(index, rule, limit.headers, clients) {
                let known = shapes.iter().position(|other| *other == shape);
                let number = known.unwrap_or(shapes.len()).to_string();
                descriptors.extend(buckets(name, &number, rule, shape.client));
                if known.is_none() {
                    actions.push(shape_actions(&shape, &number));
                    shapes.push(shape);
                }
            }
            max_keys = max_keys.max(limit.max_keys);
        }
    }

    let always = || {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred as i32,
            }),
            ..RuntimeFractionalPercent::default()
        })
    };
    LocalRateLimit {
        stat_prefix: prefix.to_owned(),
        filter_enabled: always(),
        filter_enforced: always(),
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        always_consume_default_token_bucket: Some(boolean(false)),
        max_dynamic_descriptors: Some(uint32(max_keys)),
        rate_limits: actions,
        descriptors,
        ..LocalRateLimit::default()
    }
}

fn shape_actions(shape: &RuleShape<'_>, number: &str) -> Actions {
    let mut actions = vec![
        of(metadata(POLICY, METADATA, &[POLICY_KEY], Source::RouteEntry, false)),
        of(action::ActionSpecifier::GenericKey(action::GenericKey {
            descriptor_key: RULE.to_owned(),
            descriptor_value: number.to_owned(),
            ..action::GenericKey::default()
        })),
    ];
    if shape.client.is_some() {
        // The descriptor has a bucket only if the route has the client in the header of the shape.
        actions.push(of(metadata(CLIENT, METADATA, &[CLIENT_KEY], Source::RouteEntry, false)));
    }
    actions.extend(condition(shape.when).map(of));
    actions.extend(shape.by.as_ref().map(|by| of(by_action(by, BY, true))));
    Actions {
        actions,
        x_ratelimit_option: match shape.headers {
            true => XRateLimitOption::DraftVersion03 as i32,
            false => XRateLimitOption::Off as i32,
        },
        ..Actions::default()
    }
}

fn of(specifier: action::ActionSpecifier) -> Action {
    Action {
        action_specifier: Some(specifier),
    }
}

/// A descriptor is made only if the conditions hold.
fn condition(when: &When) -> Option<action::ActionSpecifier> {
    let mut headers: Vec<HeaderMatcher> = methods(&when.methods).into_iter().flatten().collect();
    headers.extend(
        when.headers
            .iter()
            .map(|(name, condition)| conditions::header(name, condition)),
    );
    headers.extend(when.path.as_ref().map(|pattern| HeaderMatcher {
        name: ":path".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string(regex(pattern.clone())))),
        ..HeaderMatcher::default()
    }));
    (!headers.is_empty()).then(|| {
        action::ActionSpecifier::HeaderValueMatch(action::HeaderValueMatch {
            descriptor_key: WHEN.to_owned(),
            descriptor_value: MET.to_owned(),
            headers,
            ..action::HeaderValueMatch::default()
        })
    })
}

/// The entry with a value of the request. `is_optional`: without the value the entry is left out, else the descriptor.
pub(super) fn by_action(by: &By, key: &str, is_optional: bool) -> action::ActionSpecifier {
    match by {
        By::ClientIp => action::ActionSpecifier::MaskedRemoteAddress(action::MaskedRemoteAddress {
            v6_prefix_mask_len: Some(uint32(V6_BITS)),
            ..action::MaskedRemoteAddress::default()
        }),
        By::Route => metadata(key, METADATA, &[ROUTE_KEY], Source::RouteEntry, is_optional),
        By::Header(name) => action::ActionSpecifier::RequestHeaders(action::RequestHeaders {
            header_name: name.clone(),
            descriptor_key: key.to_owned(),
            skip_if_absent: is_optional,
        }),
        By::Query(name) => action::ActionSpecifier::QueryParameters(action::QueryParameters {
            query_parameter_name: name.clone(),
            descriptor_key: key.to_owned(),
            skip_if_absent: is_optional,
        }),
        // A rule of this sort has become one by a header.
        By::Client => metadata(key, METADATA, &[CLIENT_KEY], Source::RouteEntry, is_optional),
        By::Claim(segments) => {
            let (root, part) = CLAIMS;
            let path: Vec<&str> = std::iter::once(part)
                .chain(segments.iter().map(String::as_str))
                .collect();
            metadata(key, root, &path, Source::Dynamic, is_optional)
        }
    }
}

fn metadata(key: &str, root: &str, path: &[&str], source: Source, is_optional: bool) -> action::ActionSpecifier {
    let segment = |segment: &&str| PathSegment {
        segment: Some(path_segment::Segment::Key((*segment).to_owned())),
    };
    action::ActionSpecifier::Metadata(action::MetaData {
        descriptor_key: key.to_owned(),
        metadata_key: Some(MetadataKey {
            key: root.to_owned(),
            path: path.iter().map(segment).collect(),
        }),
        source: source as i32,
        skip_if_absent: is_optional,
        ..action::MetaData::default()
    })
}

/// The bucket of a rule; with `by` one for each value, and one for requests without the value.
fn buckets(policy: &str, number: &str, rule: &LimitRule, client: Option<&str>) -> Vec<LocalRateLimitDescriptor> {
    let entry = |key: &str, value: &str| Entry {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let mut entries = vec![entry(POLICY, policy), entry(RULE, number)];
    entries.extend(client.map(|header| entry(CLIENT, header)));
    if rule.when != When::default() {
        entries.push(entry(WHEN, MET));
    }
    let bucket = |entries: Vec<Entry>| LocalRateLimitDescriptor {
        entries,
        token_bucket: Some(TokenBucket {
            max_tokens: rule.burst,
            tokens_per_fill: Some(uint32(rule.requests)),
            fill_interval: Some(duration(rule.per)),
        }),
        shadow_mode: rule.dry_run,
    };
    let key = match &rule.by {
        None => return vec![bucket(entries)],
        Some(By::ClientIp) => ADDRESS,
        Some(_) => BY,
    };
    let by_value = entries.iter().cloned().chain([entry(key, "")]).collect();
    vec![bucket(by_value), bucket(entries)]
}
