//! `oidc`: one filter of every listener, which a route enables with its whole configuration.
//!
//! Envoy takes the host of a request into the URL to which the provider sends the browser back. So a route always names
//! the hosts that may stand there: those of the policy, or its own.

use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::cookie_config::SameSite as WireSameSite;
use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::o_auth2_credentials::{CookieNames, TokenFormation};
use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::{
    CookieConfig, CookieConfigs, OAuth2, OAuth2Config, OAuth2Credentials, OAuth2PerRoute, OAuth2TokenForwarding,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};
use envoy_types::pb::google::protobuf::Any;
use xxhash_rust::xxh3::xxh3_64;

use super::conditions;
use super::service::http;
use crate::document::policy::oidc::{Oidc, SameSite, TOKEN_TIMEOUT};
use crate::document::route::HostPattern;
use crate::proto::message::{any, boolean};
use crate::resource::routes::matching::string;
use crate::resource::secrets::sds;

/// The name of the filter.
pub(super) const NAME: &str = "chancery.oidc";
/// Scheme and host of a request as the browser sent it.
const ORIGIN: &str = "%REQ(x-forwarded-proto)%://%REQ(:authority)%";
/// A host that no request has: without any host Envoy would accept all.
const NO_HOST: &str = "none.invalid";

/// The filter in a listener. Routes enable it.
pub(super) fn filter() -> HttpFilter {
    HttpFilter {
        name: NAME.to_owned(),
        disabled: true,
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&OAuth2::default()))),
        ..HttpFilter::default()
    }
}

/// The message with which a route of these hosts enables the filter. `name` is the policy's.
pub(super) fn for_route(oidc: &Oidc, name: &str, hosts: &[HostPattern]) -> Any {
    let credentials = OAuth2Credentials {
        client_id: oidc.client_id.clone(),
        token_secret: Some(sds(&oidc.client_secret.name)),
        token_formation: Some(TokenFormation::HmacSecret(sds(&oidc.cookie_secret.name))),
        cookie_names: Some(cookie_names(name)),
        cookie_domain: oidc.cookie_domain.clone().unwrap_or_default(),
    };
    let conditions = |conditions: &[(String, _)]| {
        let matchers = conditions.iter();
        matchers
            .map(|(name, condition)| conditions::header(name, condition))
            .collect()
    };
    let config = OAuth2Config {
        token_endpoint: Some(http(&oidc.token_server, Some(&oidc.token_endpoint), TOKEN_TIMEOUT)),
        authorization_endpoint: oidc.authorization_endpoint.clone(),
        end_session_endpoint: oidc.end_session_endpoint.clone().unwrap_or_default(),
        credentials: Some(credentials),
        redirect_uri: format!("{ORIGIN}{}", oidc.callback_path),
        original_request_uri: ORIGIN.to_owned(),
        redirect_path_matcher: Some(exact(&oidc.callback_path)),
        signout_path: Some(exact(&oidc.logout_path)),
        forward_bearer_token: oidc.forwards_access_token,
        forward_id_token: oidc
            .forward_id_token
            .clone()
            .map(|header| OAuth2TokenForwarding { header }),
        pass_through_matcher: conditions(&oidc.pass),
        deny_redirect_matcher: conditions(&oidc.no_redirect),
        auth_scopes: oidc.scopes.clone(),
        use_refresh_token: Some(boolean(oidc.refreshes)),
        cookie_configs: Some(cookie_configs(oidc.same_site)),
        allowed_redirect_domains: domains(oidc.redirect_hosts.as_deref().unwrap_or(hosts)),
        ..OAuth2Config::default()
    };
    any(&OAuth2PerRoute { config: Some(config) })
}

fn exact(path: &str) -> PathMatcher {
    PathMatcher {
        rule: Some(path_matcher::Rule::Path(string(MatchPattern::Exact(path.to_owned())))),
    }
}

/// The hosts as Envoy compares them: IPv6 addresses without brackets.
fn domains(hosts: &[HostPattern]) -> Vec<String> {
    let named = hosts.iter().filter_map(|host| match host {
        HostPattern::Exact(host) => Some(host.trim_matches(['[', ']']).to_owned()),
        HostPattern::Wildcard(pattern) => Some(pattern.to_string()),
        HostPattern::Any => None,
    });
    let named: Vec<String> = named.collect();
    match named.is_empty() {
        true => vec![NO_HOST.to_owned()],
        false => named,
    }
}

/// Names that end in the policy's, so that the cookies of two policies on a host are apart.
fn cookie_names(policy: &str) -> CookieNames {
    let own = policy.strip_prefix("policies/").unwrap_or(policy);
    let is_token = own
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let suffix = match is_token {
        true => own.to_owned(),
        false => format!("{:016x}", xxh3_64(policy.as_bytes())),
    };
    let name = |kind: &str| format!("{kind}-{suffix}");
    CookieNames {
        bearer_token: name("BearerToken"),
        oauth_hmac: name("OauthHMAC"),
        oauth_expires: name("OauthExpires"),
        id_token: name("IdToken"),
        refresh_token: name("RefreshToken"),
        oauth_nonce: name("OauthNonce"),
        code_verifier: name("CodeVerifier"),
    }
}

/// The browser comes back from the provider, another site: the cookies of a login under way are never strict.
fn cookie_configs(same_site: SameSite) -> CookieConfigs {
    let config = |same_site: SameSite| {
        let same_site = match same_site {
            SameSite::Lax => WireSameSite::Lax,
            SameSite::Strict => WireSameSite::Strict,
            SameSite::None => WireSameSite::None,
        };
        Some(CookieConfig {
            same_site: same_site as i32,
            ..CookieConfig::default()
        })
    };
    let under_way = match same_site {
        SameSite::Strict => SameSite::Lax,
        other => other,
    };
    CookieConfigs {
        bearer_token_cookie_config: config(same_site),
        oauth_hmac_cookie_config: config(same_site),
        oauth_expires_cookie_config: config(same_site),
        id_token_cookie_config: config(same_site),
        refresh_token_cookie_config: config(same_site),
        oauth_nonce_cookie_config: config(under_way),
        code_verifier_cookie_config: config(under_way),
    }
}
