//! `api_key`. Envoy has no SDS for keys, so these stand in the filter.

use envoy_types::pb::envoy::extensions::filters::http::api_key_auth::v3::{
    ApiKeyAuth, ApiKeyAuthPerRoute, Credential, Forwarding, KeySource as Source,
};

use super::service::closed;
use super::{Filter, Secrets, Slot};
use crate::document::policy::api_key::{ApiKey, KeySource};
use crate::document::secret::Content;
use crate::proto::message::any;

pub(super) fn filters(policy: &ApiKey, secrets: &Secrets<'_>) -> Vec<Filter> {
    let mut credentials = Vec::new();
    for name in &policy.keys {
        let Some(Content::ApiKeys(clients)) = secrets(&name.name).map(|secret| &secret.content) else {
            return closed(["api_key.unavailable", "api_key"]);
        };
        for (client, keys) in clients {
            credentials.extend(keys.iter().map(|key| Credential {
                key: key.expose().to_owned(),
                client: client.to_string(),
            }));
        }
    }
    let source = |from: &KeySource| match from {
        KeySource::Header(header) => Source {
            header: header.clone(),
            ..Source::default()
        },
        KeySource::Query(query) => Source {
            query: query.clone(),
            ..Source::default()
        },
        KeySource::Cookie(cookie) => Source {
            cookie: cookie.clone(),
            ..Source::default()
        },
    };
    let forwarding = Forwarding {
        header: policy.client_header.clone().unwrap_or_default(),
        hide_credentials: policy.hides_credentials,
    };
    let message = ApiKeyAuth {
        credentials,
        key_sources: policy.from.iter().map(source).collect(),
        forwarding: Some(forwarding.clone()),
    };
    // Envoy knows the clients that pass as a setting of routes only, and takes the forwarding from there then.
    let for_route = policy.clients.as_ref().map(|clients| {
        any(&ApiKeyAuthPerRoute {
            allowed_clients: clients.iter().map(ToString::to_string).collect(),
            forwarding: Some(forwarding),
            ..ApiKeyAuthPerRoute::default()
        })
    });
    vec![Filter {
        for_route,
        ..Filter::new(Slot::Auth, "api_key", any(&message))
    }]
}
