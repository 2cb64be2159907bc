//! Rules of single filters (docs/refused-by-envoy.md NL-31, NL-39 to NL-41). Scripts and Wasm modules are not checked: only Envoy can.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::{AsyncDataSource, DataSource, async_data_source, data_source};
use envoy_types::pb::envoy::extensions::filters::http::basic_auth::v3::BasicAuth;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtProvider, JwtRequirement, jwt_provider, jwt_requirement, requirement_rule,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3 as http;
use envoy_types::pb::envoy::extensions::filters::listener::local_ratelimit::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3 as network;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, UpstreamConnectMode};
use envoy_types::pb::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use envoy_types::pb::envoy::extensions::wasm::v3::{PluginConfig, plugin_config};
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use serde_json::Value as Json;

use crate::document::Rejection;
use crate::document::sentence::quote;
use crate::resource::place::Place;

/// The length of a SHA-1 in base64.
const SHA1_IN_BASE64: usize = 28;

/// The shortest interval for filling a bucket, in nanoseconds.
const LEAST_FILL: i128 = 50_000_000;

/// NL-40: data that arrives before the upstream connection has a bound.
pub(super) fn tcp_proxy(proxy: &TcpProxy, at: &Place) -> Result<(), Rejection> {
    let waits = proxy.upstream_connect_mode() != UpstreamConnectMode::Immediate;
    match waits && proxy.max_early_data_bytes.is_none() {
        true => Err(at.field("max_early_data_bytes").reject(
            "missing, expected a number of bytes beside an upstream_connect_mode other than IMMEDIATE".to_owned(),
        )),
        false => Ok(()),
    }
}

/// NL-39: without a source, Envoy 1.40 ends by a memory fault if its bootstrap has no such secret.
pub(super) fn injected_credential(generic: &Generic, at: &Place) -> Result<(), Rejection> {
    match generic
        .credential
        .as_ref()
        .is_some_and(|secret| secret.sds_config.is_none())
    {
        true => Err(at
            .field("credential")
            .field("sds_config")
            .reject("missing, expected the source of the secret, such as { \"ads\": {} }".to_owned())),
        false => Ok(()),
    }
}

/// NL-41: users as Envoy reads them. A rejection shows none of them.
pub(super) fn basic_auth(filter: &BasicAuth, at: &Place) -> Result<(), Rejection> {
    let text = match filter.users.as_ref().and_then(|users| users.specifier.as_ref()) {
        Some(data_source::Specifier::InlineString(text)) => text.as_bytes(),
        Some(data_source::Specifier::InlineBytes(bytes)) => bytes,
        _ => return Ok(()),
    };
    let at = at.field("users");
    let mut names: BTreeSet<&[u8]> = BTreeSet::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0);
        let user = colon.map(|colon| (&line[..colon], &line[colon + 1..]));
        let expected = match user.and_then(|(name, hash)| Some((name, hash.strip_prefix(b"{SHA}")?))) {
            Some((_, hash)) if hash.len() != SHA1_IN_BASE64 => "a hash of 28 characters",
            Some((name, _)) if !names.insert(name) => "each user once",
            Some(_) => continue,
            None => "NAME:{SHA}HASH",
        };
        return Err(at.reject(format!("found another line {}, expected {expected}", index + 1)));
    }
    Ok(())
}

/// A plugin needs code.
pub(super) fn wasm(plugin: &PluginConfig, at: &Place) -> Result<(), Rejection> {
    let at = at.field("vm_config");
    let Some(plugin_config::Vm::VmConfig(config)) = &plugin.vm else {
        return Err(at.reject("missing, expected the virtual machine and its code".to_owned()));
    };
    match &config.code {
        Some(AsyncDataSource {
            specifier: Some(async_data_source::Specifier::Local(code)),
        }) if is_empty(code) => Err(at
            .field("code")
            .field("local")
            .reject("empty, expected the code".to_owned())),
        Some(_) => Ok(()),
        None => Err(at.field("code").reject("missing, expected the code".to_owned())),
    }
}

fn is_empty(source: &DataSource) -> bool {
    match &source.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => bytes.is_empty(),
        Some(data_source::Specifier::InlineString(text)) => text.is_empty(),
        _ => false,
    }
}

/// For requests, with its descriptors.
pub(super) fn http_limit(limit: &http::LocalRateLimit, at: &Place) -> Result<(), Rejection> {
    bucket(limit.token_bucket.as_ref(), at)?;
    let at = at.field("descriptors");
    let mut descriptors = limit.descriptors.iter().enumerate();
    descriptors.try_for_each(|(index, descriptor)| bucket(descriptor.token_bucket.as_ref(), &at.index(index)))
}

/// For connections of a filter chain.
pub(super) fn network_limit(limit: &network::LocalRateLimit, at: &Place) -> Result<(), Rejection> {
    bucket(limit.token_bucket.as_ref(), at)
}

/// For connections of a listener.
pub(super) fn listener_limit(limit: &listener::LocalRateLimit, at: &Place) -> Result<(), Rejection> {
    bucket(limit.token_bucket.as_ref(), at)
}

fn bucket(bucket: Option<&TokenBucket>, at: &Place) -> Result<(), Rejection> {
    let Some(interval) = bucket.and_then(|bucket| bucket.fill_interval) else {
        return Ok(());
    };
    if i128::from(interval.seconds) * 1_000_000_000 + i128::from(interval.nanos) >= LEAST_FILL {
        return Ok(());
    }
    let at = at.field("token_bucket").field("fill_interval");
    Err(at.reject("found less than 50 ms, expected at least that".to_owned()))
}

/// Every named provider and requirement is one of this filter.
pub(super) fn jwt(filter: &JwtAuthentication, at: &Place) -> Result<(), Rejection> {
    let providers: BTreeMap<&String, &JwtProvider> = filter.providers.iter().collect();
    for (name, provider) in &providers {
        keys(provider, &at.field("providers").field(name))?;
    }
    let names = providers.keys().map(|name| name.as_str()).collect();
    for (index, rule) in filter.rules.iter().enumerate() {
        let at = at.field("rules").index(index);
        match &rule.requirement_type {
            Some(requirement_rule::RequirementType::Requires(requirement)) => {
                required(requirement, &names, &at.field("requires"))?;
            }
            Some(requirement_rule::RequirementType::RequirementName(name))
                if !filter.requirement_map.contains_key(name) =>
            {
                let reason = format!("found {}, expected a key of requirement_map", quote(name));
                return Err(at.field("requirement_name").reject(reason));
            }
            _ => {}
        }
    }

    let by_name: BTreeMap<&String, &JwtRequirement> = filter.requirement_map.iter().collect();
    for (name, requirement) in by_name {
        required(requirement, &names, &at.field("requirement_map").field(name))?;
    }
    let by_state = filter
        .filter_state_rules
        .as_ref()
        .map(|rules| rules.requires.iter().collect());
    let by_state: BTreeMap<&String, &JwtRequirement> = by_state.unwrap_or_default();
    by_state.into_iter().try_for_each(|(name, requirement)| {
        required(
            requirement,
            &names,
            &at.field("filter_state_rules").field("requires").field(name),
        )
    })
}

/// Inline keys are a set of JSON web keys.
fn keys(provider: &JwtProvider, at: &Place) -> Result<(), Rejection> {
    let Some(jwt_provider::JwksSourceSpecifier::LocalJwks(source)) = &provider.jwks_source_specifier else {
        return Ok(());
    };
    let text = match &source.specifier {
        Some(data_source::Specifier::InlineString(text)) => text.as_bytes(),
        Some(data_source::Specifier::InlineBytes(bytes)) => bytes,
        _ => return Ok(()),
    };
    let set: Option<Json> = serde_json::from_slice(text).ok();
    match set.as_ref().and_then(|set| set.get("keys")).and_then(Json::as_array) {
        Some(keys) if !keys.is_empty() => Ok(()),
        _ => Err(at
            .field("local_jwks")
            .reject("found no JSON with \"keys\", expected a set with one at least".to_owned())),
    }
}

/// Documents are at most 64 levels deep, so recursion is bounded.
fn required(requirement: &JwtRequirement, providers: &BTreeSet<&str>, at: &Place) -> Result<(), Rejection> {
    use jwt_requirement::RequiresType;
    let known = |name: &String, at: Place| match providers.contains(name.as_str()) {
        true => Ok(()),
        false => Err(at.reject(format!("found {}, expected a key of providers", quote(name)))),
    };
    let each = |requirements: &[JwtRequirement], at: &Place| {
        let at = at.field("requirements");
        requirements
            .iter()
            .enumerate()
            .try_for_each(|(index, inner)| required(inner, providers, &at.index(index)))
    };

    match &requirement.requires_type {
        Some(RequiresType::ProviderName(name)) => known(name, at.field("provider_name")),
        Some(RequiresType::ProviderAndAudiences(both)) => known(
            &both.provider_name,
            at.field("provider_and_audiences").field("provider_name"),
        ),
        Some(RequiresType::RequiresAny(any)) => each(&any.requirements, &at.field("requires_any")),
        Some(RequiresType::RequiresAll(all)) => each(&all.requirements, &at.field("requires_all")),
        _ => Ok(()),
    }
}
