//! `jwt`: the providers of every policy in one filter, because fetched keys live as long as their filter.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_claim_to_header::PathSegment;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::{
    JwksSourceSpecifier, NormalizePayload,
};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementOrList, PerRouteConfig,
    RemoteJwks, per_route_config,
};
use envoy_types::pb::google::protobuf::{Any, Empty};
use prost::Name;

use super::service::http;
use super::{Secrets, entry};
use crate::document::policy::jwt::{Jwks, Jwt, Provider};
use crate::document::secret::Content;
use crate::proto::message::{any, append, duration};

/// The part of the metadata with the claims of a token, and the filter that writes it.
pub(super) const CLAIMS: (&str, &str) = ("envoy.filters.http.jwt_authn", "jwt");

/// The numbers of `JwtAuthentication.providers` and `requirement_map`.
const PROVIDERS: u32 = 1;
const REQUIREMENTS: u32 = 5;
/// The part of the metadata with the claims.
const PAYLOAD: &str = "jwt";
/// Claims that are lists of words, in one text.
const LISTS: [&str; 2] = ["scope", "scp"];
/// How long a fetch of keys may take.
const FETCH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The message that lets a route choose a policy.
pub(super) fn for_route(name: &str) -> Any {
    any(&PerRouteConfig {
        requirement_specifier: Some(per_route_config::RequirementSpecifier::RequirementName(name.to_owned())),
    })
}

/// The filter with these policies, by name. The maps of the generated type have no order, so the message is put together
/// here. If a secret of a policy is not there, the policy is left out: Envoy answers 403 on its routes.
pub(super) fn filter(policies: &BTreeMap<String, &Jwt>, secrets: &Secrets<'_>) -> Any {
    let mut value = Vec::new();
    let mut requirements = Vec::new();
    for (name, jwt) in policies {
        let providers = jwt.providers.iter().map(|provider| provider_message(provider, secrets));
        let Some(providers) = providers.collect::<Option<Vec<_>>>() else {
            continue;
        };
        for (index, provider) in providers.iter().enumerate() {
            append(&mut value, PROVIDERS, &entry(&provider_name(name, index), provider));
        }
        append(&mut requirements, REQUIREMENTS, &entry(name, &requirement(name, jwt)));
    }
    value.extend(requirements);
    Any {
        type_url: JwtAuthentication::type_url(),
        value,
    }
}

fn provider_name(policy: &str, index: usize) -> String {
    format!("{policy}#{index}")
}

/// Any provider may pass.
fn requirement(name: &str, jwt: &Jwt) -> JwtRequirement {
    let of = |requires_type| JwtRequirement {
        requires_type: Some(requires_type),
    };
    let mut requirements: Vec<JwtRequirement> = (0..jwt.providers.len())
        .map(|index| of(RequiresType::ProviderName(provider_name(name, index))))
        .collect();
    if jwt.optional {
        requirements.push(of(RequiresType::AllowMissing(Empty {})));
    }
    match requirements.len() {
        1 => requirements.remove(0),
        _ => of(RequiresType::RequiresAny(JwtRequirementOrList { requirements })),
    }
}

/// The provider; `None`: its secret is not there.
fn provider_message(provider: &Provider, secrets: &Secrets<'_>) -> Option<JwtProvider> {
    let local = |keys: &str| {
        JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(data_source::Specifier::InlineString(keys.to_owned())),
            ..DataSource::default()
        })
    };
    let jwks = match &provider.jwks {
        Jwks::Remote { server, uri, cache } => JwksSourceSpecifier::RemoteJwks(RemoteJwks {
            http_uri: Some(http(server, Some(uri), FETCH_TIMEOUT)),
            cache_duration: Some(duration(*cache)),
            ..RemoteJwks::default()
        }),
        Jwks::Inline(keys) => local(keys.expose()),
        Jwks::Secret(secret) => match &secrets(&secret.name)?.content {
            Content::Jwks(keys) => local(keys.expose()),
            _ => return None,
        },
    };
    let header = |(name, prefix): &(String, String)| JwtHeader {
        name: name.clone(),
        value_prefix: prefix.clone(),
    };
    let claim = |(name, segments): &(String, Vec<String>)| JwtClaimToHeader {
        header_name: name.clone(),
        claim_path: segments.iter().cloned().map(|key| PathSegment { key }).collect(),
        ..JwtClaimToHeader::default()
    };
    Some(JwtProvider {
        issuer: provider.issuer.clone().unwrap_or_default(),
        audiences: provider.audiences.clone(),
        require_expiration: provider.require_expiration,
        max_lifetime: provider.max_lifetime.map(duration),
        jwks_source_specifier: Some(jwks),
        forward: provider.forward,
        from_headers: provider.from_headers.iter().map(header).collect(),
        from_params: provider.from_params.clone(),
        from_cookies: provider.from_cookies.clone(),
        forward_payload_header: provider.payload_header.clone().unwrap_or_default(),
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: LISTS.map(str::to_owned).to_vec(),
        }),
        clock_skew_seconds: u32::try_from(provider.clock_skew.as_secs()).unwrap_or(u32::MAX),
        claim_to_headers: provider.claim_to_headers.iter().map(claim).collect(),
        ..JwtProvider::default()
    })
}
