//! The services that policies ask.

use super::jwt::Jwks;
use super::{Item, Policy, PolicyRule};
use crate::document::route::Upstream;

impl Policy {
    /// The services that the policy asks.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        let one = match &self.rule {
            PolicyRule::ExtAuthz(authz) => Some(&authz.service),
            PolicyRule::GlobalRateLimit(limit) => Some(&limit.service),
            PolicyRule::ExtProc(processor) => Some(&processor.service),
            PolicyRule::Oidc(oidc) => Some(&oidc.token_server),
            _ => None,
        };
        let providers = match &self.rule {
            PolicyRule::Jwt(jwt) => jwt.providers.as_slice(),
            _ => &[],
        };
        let servers = providers.iter().filter_map(|provider| match &provider.jwks {
            Jwks::Remote { server, .. } => Some(server),
            Jwks::Inline(_) | Jwks::Secret(_) => None,
        });
        one.into_iter().chain(servers)
    }

    /// The services that the policies of a list ask, those of named documents aside.
    pub fn upstreams_of(items: &[Item]) -> impl Iterator<Item = &Upstream> {
        items
            .iter()
            .filter_map(Item::inline)
            .flat_map(|policy| policy.upstreams())
    }
}
