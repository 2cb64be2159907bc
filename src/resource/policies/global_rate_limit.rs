//! `global_rate_limit`.

use envoy_types::pb::envoy::config::core::v3::ApiVersion;
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3::RateLimit;
use envoy_types::pb::envoy::config::route::v3::rate_limit::{Action, action};
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit as Message;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;

use super::rate_limit::by_action;
use super::service::{grpc, status};
use crate::document::policy::global_rate_limit::{Entry, EntryValue, GlobalRateLimit};
use crate::document::policy::rate_limit::By;
use crate::proto::message::duration;

/// The answer if the service does not answer, and requests do not pass then.
const ON_ERROR: u16 = 503;
/// A header that no request has.
const NO_HEADER: &str = "x-chancery-none";

/// `client` is the header with the client that another policy found.
pub(super) fn filter(limit: &GlobalRateLimit, client: Option<&str>) -> Message {
    let descriptors = limit.descriptors.iter().map(|entries| RateLimit {
        actions: entries.iter().map(|of| entry(of, client)).collect(),
        ..RateLimit::default()
    });
    Message {
        domain: limit.domain.clone(),
        timeout: Some(duration(limit.timeout)),
        failure_mode_deny: !limit.allows_on_error,
        status_on_error: Some(status(ON_ERROR)),
        rate_limited_as_resource_exhausted: true,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(grpc(&limit.service, limit.timeout)),
            transport_api_version: ApiVersion::V3 as i32,
        }),
        enable_x_ratelimit_headers: match limit.headers {
            true => XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
            false => XRateLimitHeadersRfcVersion::Off as i32,
        },
        rate_limited_status: Some(status(limit.status)),
        enable_retry_after_header: true,
        rate_limits: descriptors.collect(),
        ..Message::default()
    }
}

/// An entry without its value drops the descriptor.
fn entry(entry: &Entry, client: Option<&str>) -> Action {
    let header = |name: &str| {
        action::ActionSpecifier::RequestHeaders(action::RequestHeaders {
            header_name: name.to_owned(),
            descriptor_key: entry.key.clone(),
            skip_if_absent: false,
        })
    };
    let specifier = match &entry.value {
        EntryValue::Fixed(value) => action::ActionSpecifier::GenericKey(action::GenericKey {
            descriptor_key: entry.key.clone(),
            descriptor_value: value.clone(),
            ..action::GenericKey::default()
        }),
        EntryValue::Method => header(":method"),
        EntryValue::Path => header(":path"),
        EntryValue::By(By::Client) => header(client.unwrap_or(NO_HEADER)),
        EntryValue::By(by) => by_action(by, &entry.key, false),
    };
    Action {
        action_specifier: Some(specifier),
    }
}
