//! `ext_authz`.

use envoy_types::pb::envoy::config::core::v3::ApiVersion;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationResponse, BufferSettings, ExtAuthz as Message, ExtAuthzPerRoute, HttpService, ext_authz,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use super::service::{grpc, http, names, status};
use super::{Filter, Slot};
use crate::document::policy::ext_authz::{ExtAuthz, Protocol};
use crate::proto::message::{any, append};

/// The metadata with the claims of a token.
const CLAIMS: &str = "envoy.filters.http.jwt_authn";
/// Headers of a refusal that a client always gets.
const OF_REFUSALS: [&str; 2] = ["www-authenticate", "location"];
/// Largest body of the service's refusal, in bytes.
const MAX_REFUSAL: u32 = 64 * 1024;
/// The number of `ExtAuthzPerRoute.check_settings`.
const CHECK_SETTINGS: u32 = 2;
/// The number of `CheckSettings.context_extensions`.
const CONTEXT: u32 = 1;

pub(super) fn filter(authz: &ExtAuthz) -> Filter {
    let service = match &authz.protocol {
        Protocol::Grpc { .. } => ext_authz::Services::GrpcService(grpc(&authz.service, authz.timeout)),
        Protocol::Http {
            path_prefix,
            upstream_headers,
            client_headers,
        } => ext_authz::Services::HttpService(HttpService {
            server_uri: Some(http(&authz.service, None, authz.timeout)),
            path_prefix: path_prefix.clone(),
            authorization_response: Some(AuthorizationResponse {
                allowed_upstream_headers: names(upstream_headers.iter().map(String::as_str)),
                allowed_client_headers: names(client_headers.iter().map(String::as_str).chain(OF_REFUSALS)),
                ..AuthorizationResponse::default()
            }),
            ..HttpService::default()
        }),
    };
    let message = Message {
        services: Some(service),
        transport_api_version: ApiVersion::V3 as i32,
        failure_mode_allow: authz.allows_on_error,
        status_on_error: Some(status(authz.error_status)),
        validate_mutations: true,
        with_request_body: authz.body.map(|body| BufferSettings {
            max_request_bytes: body.max,
            allow_partial_message: body.partial,
            pack_as_bytes: matches!(authz.protocol, Protocol::Grpc { .. }),
        }),
        metadata_context_namespaces: vec![CLAIMS.to_owned()],
        allowed_headers: authz
            .request_headers
            .as_ref()
            .and_then(|headers| names(headers.iter().map(String::as_str))),
        disallowed_headers: names(authz.drop_headers.iter().map(String::as_str)),
        max_denied_response_body_bytes: MAX_REFUSAL,
        ..Message::default()
    };
    Filter {
        for_route: context(authz),
        ..Filter::new(Slot::Auth, "ext_authz", any(&message))
    }
}

/// The values that the service gets beside the request. The map of the generated type has no order, so the message is
/// put together here.
fn context(authz: &ExtAuthz) -> Option<Any> {
    let Protocol::Grpc { context } = &authz.protocol else {
        return None;
    };
    if context.is_empty() {
        return None;
    }
    let mut settings = Vec::new();
    for (name, value) in context {
        let mut entry = Vec::new();
        append(&mut entry, 1, name.as_bytes());
        append(&mut entry, 2, value.as_bytes());
        append(&mut settings, CONTEXT, &entry);
    }
    let mut value = Vec::new();
    append(&mut value, CHECK_SETTINGS, &settings);
    Some(Any {
        type_url: ExtAuthzPerRoute::type_url(),
        value,
    })
}
