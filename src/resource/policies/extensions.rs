//! Filters with a state, which Envoy gets by ECDS: one for each kind and group, under names that no operator may take.
//!
//! All of them always exist: if Envoy is told that one does not, it never makes the listener ready. Without one Envoy
//! has the default of the listener: no request with a token policy passes, nothing is limited, and no script runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{ExtensionConfigSource, TypedExtensionConfig};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{Secrets, jwt, lua, oidc, rate_limit};
use crate::document::policy::{Policy, PolicyRule};
use crate::document::route::HostPattern;
use crate::proto::message::{ads, any};
use crate::resource::compile::parts::Parts;
use crate::resource::{Reference, Resource, ResourceType, ResourceVersion, Source};

/// A filter of its own, between the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extension {
    /// Rate limits that need no identity.
    RateLimit,
    /// Tokens.
    Jwt,
    /// Rate limits by an identity.
    UserRateLimit,
    /// Scripts.
    Lua,
}

impl Extension {
    /// All, in the order of requests.
    pub const ALL: [Self; 4] = [Self::RateLimit, Self::Jwt, Self::UserRateLimit, Self::Lua];

    /// The name of the filter and of its resource.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimit => "chancery.rate_limit",
            Self::Jwt => "chancery.jwt",
            Self::UserRateLimit => "chancery.rate_limit.user",
            Self::Lua => "chancery.lua",
        }
    }

    /// Whether a policy stands in the filter.
    #[must_use]
    pub fn has(self, policy: &Policy) -> bool {
        match &policy.rule {
            PolicyRule::Jwt(_) => self == Self::Jwt,
            PolicyRule::RateLimit(_) => matches!(self, Self::RateLimit | Self::UserRateLimit),
            PolicyRule::Lua(_) => self == Self::Lua,
            // Rules by the client read their headers.
            PolicyRule::ApiKey(_) | PolicyRule::BasicAuth(_) => {
                self == Self::UserRateLimit && policy.client_header().is_some()
            }
            _ => false,
        }
    }

    /// The messages with which a route of these hosts runs the filters of a policy, each with the name of its filter.
    /// `name` is the policy's.
    #[must_use]
    pub fn enabled_by(policy: &Policy, name: &str, hosts: &[HostPattern]) -> Vec<(&'static str, Any)> {
        let enabling = || {
            any(&FilterConfig {
                config: Some(Any::default()),
                ..FilterConfig::default()
            })
        };
        match &policy.rule {
            PolicyRule::Oidc(oidc) => vec![(oidc::NAME, oidc::for_route(oidc, name, hosts))],
            PolicyRule::Jwt(_) => vec![(Self::Jwt.name(), jwt::for_route(name))],
            PolicyRule::Lua(lua) => vec![(Self::Lua.name(), lua::for_route(lua, name))],
            PolicyRule::RateLimit(limit) => {
                let filters = [(Self::RateLimit, false), (Self::UserRateLimit, true)].into_iter();
                let used = filters.filter(|(_, identity)| rate_limit::has_rules(limit, *identity));
                used.map(|(extension, _)| (extension.name(), enabling())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The filter in a listener. Routes enable it.
    pub(super) fn filter(self) -> HttpFilter {
        let default = self.config(&BTreeMap::new(), &|_| None);
        let source = ExtensionConfigSource {
            config_source: Some(ads()),
            type_urls: vec![default.type_url.clone()],
            default_config: Some(default),
            ..ExtensionConfigSource::default()
        };
        HttpFilter {
            name: self.name().to_owned(),
            disabled: true,
            config_type: Some(http_filter::ConfigType::ConfigDiscovery(source)),
            ..HttpFilter::default()
        }
    }

    /// The reference of a listener to the resource.
    #[must_use]
    pub fn reference(self) -> Reference {
        Reference {
            resource_type: ResourceType::ExtensionConfig,
            name: self.name().into(),
            source: Source::Common,
        }
    }

    /// The resource with these policies, by name.
    #[must_use]
    pub fn resource(self, policies: &BTreeMap<String, Arc<Policy>>, secrets: &Secrets<'_>, parts: Parts) -> Resource {
        let message = TypedExtensionConfig {
            name: self.name().to_owned(),
            typed_config: Some(self.config(policies, secrets)),
        };
        let bytes = message.encode_to_vec();
        let version = ResourceVersion::of(&bytes);
        Resource::put_together(self.name().into(), version, bytes.into(), parts)
    }

    fn config(self, policies: &BTreeMap<String, Arc<Policy>>, secrets: &Secrets<'_>) -> Any {
        let limits = || {
            let limits = policies.iter().filter_map(|(name, policy)| match &policy.rule {
                PolicyRule::RateLimit(limit) => Some((name.clone(), limit)),
                _ => None,
            });
            limits.collect()
        };
        let clients = policies.values().filter_map(|policy| policy.client_header()).collect();
        match self {
            Self::RateLimit => any(&rate_limit::filter(&limits(), false, &clients, "rate_limit")),
            Self::UserRateLimit => any(&rate_limit::filter(&limits(), true, &clients, "rate_limit_user")),
            Self::Jwt => {
                let tokens = policies.iter().filter_map(|(name, policy)| match &policy.rule {
                    PolicyRule::Jwt(jwt) => Some((name.clone(), jwt)),
                    _ => None,
                });
                jwt::filter(&tokens.collect(), secrets)
            }
            Self::Lua => {
                let scripts = policies.iter().filter_map(|(name, policy)| match &policy.rule {
                    PolicyRule::Lua(lua) => Some((name.clone(), lua)),
                    _ => None,
                });
                lua::filter(&scripts.collect())
            }
        }
    }
}
