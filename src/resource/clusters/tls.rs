//! TLS towards an `https` upstream: SNI and the certificate's name from the URL, roots from the server's CA bundle.

use std::net::IpAddr;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};

use crate::document::Rejection;
use crate::document::cluster::Protocol;

use super::transport::socket;

/// Verified TLS to `host`. SNI carries names only; an IP address is verified as an address.
///
/// # Errors
/// No CA bundle.
pub(super) fn verified(
    host: &str,
    protocol: Option<Protocol>,
    ca_bundle: Option<&Bytes>,
) -> Result<TransportSocket, Rejection> {
    let bundle = ca_bundle.ok_or_else(|| {
        Rejection::new(
            "",
            "found an https upstream, but the server has no CA bundle to verify it by (--ca-bundle)",
        )
    })?;

    let address = host.parse::<IpAddr>().is_ok();
    let alpn = if protocol == Some(Protocol::Http2) {
        "h2"
    } else {
        "http/1.1"
    };

    let context = UpstreamTlsContext {
        sni: if address { String::new() } else { host.to_owned() },
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec![alpn.to_owned()],
            validation_context_type: Some(ValidationContextType::ValidationContext(validation_context(
                host, address, bundle,
            ))),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };

    Ok(socket("envoy.transport_sockets.tls", &context))
}

fn validation_context(host: &str, address: bool, bundle: &Bytes) -> CertificateValidationContext {
    let san_type = if address { SanType::IpAddress } else { SanType::Dns };
    let exact = string_matcher::MatchPattern::Exact(host.to_owned());
    CertificateValidationContext {
        trusted_ca: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineBytes(bundle.to_vec())),
            ..DataSource::default()
        }),
        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
            san_type: san_type as i32,
            matcher: Some(StringMatcher {
                match_pattern: Some(exact),
                ..StringMatcher::default()
            }),
            ..SubjectAltNameMatcher::default()
        }],
        ..CertificateValidationContext::default()
    }
}
