//! TLS towards an upstream: SNI, the names that its certificate must have, and the roots that vouch for it.
//!
//! The roots are those of the secret that the document names, which comes by SDS, else the CA bundle of the server. An IP address is verified as an address, and SNI does not carry it.
//! Envoy takes the names from each endpoint where endpoints are host names and the document gives none.

use std::net::IpAddr;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};

use crate::document::Rejection;
use crate::document::cluster::{Protocol, ServerName, Tls, TlsVersion};

use crate::resource::secrets;

use super::transport::socket;

/// The host whose certificate is expected.
#[derive(Debug, Clone, Copy)]
pub(super) enum Server<'a> {
    /// One name or IP address for all endpoints.
    One(&'a str),
    /// The host name of each endpoint.
    EachEndpoint,
}

/// TLS of a URL: verified by the CA bundle.
///
/// # Errors
/// No CA bundle.
pub(super) fn of_url(
    host: &str,
    protocol: Option<Protocol>,
    bundle: Option<&Bytes>,
) -> Result<TransportSocket, Rejection> {
    if bundle.is_none() {
        return Err(Rejection::new(
            "",
            "found an https upstream, but the server has no CA bundle to verify it by (--ca-bundle)",
        ));
    }
    of_document(&Tls::default(), Server::One(host), protocol, bundle)
}

/// TLS of a document.
///
/// # Errors
/// No CA.
pub(super) fn of_document(
    tls: &Tls,
    server: Server<'_>,
    protocol: Option<Protocol>,
    bundle: Option<&Bytes>,
) -> Result<TransportSocket, Rejection> {
    let names = match server {
        Server::One(host) if tls.names.is_empty() => &[server_name(host)][..],
        _ => &tls.names,
    };
    let (validation, named) = match tls.verify {
        true => (Some(validation(tls, names, bundle)?), !names.is_empty()),
        false => (None, false),
    };
    let minimum = match tls.min_version {
        // Envoy's own.
        TlsVersion::V1_2 => TlsProtocol::TlsAuto,
        TlsVersion::V1_3 => TlsProtocol::TlSv13,
    };
    let (sni, each) = match server {
        Server::One(host) if host.parse::<IpAddr>().is_ok() => (String::new(), false),
        Server::One(host) => (host.to_owned(), false),
        Server::EachEndpoint => (String::new(), true),
    };

    let context = UpstreamTlsContext {
        sni,
        auto_host_sni: each,
        // Without names, Envoy compares the certificate with the host of each endpoint.
        auto_sni_san_validation: each && tls.verify && !named,
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: minimum as i32,
                // Without this, Envoy's clients speak TLS 1.2 at most.
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..TlsParameters::default()
            }),
            alpn_protocols: alpn(protocol).iter().map(|&name| name.to_owned()).collect(),
            tls_certificate_sds_secret_configs: tls.client_certificate.iter().map(|name| secrets::sds(name)).collect(),
            validation_context_type: validation,
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    Ok(socket("envoy.transport_sockets.tls", &context))
}

/// The check of a certificate: one of the names, vouched for by the CA of the document or the bundle.
fn validation(tls: &Tls, names: &[ServerName], bundle: Option<&Bytes>) -> Result<ValidationContextType, Rejection> {
    let mut context = CertificateValidationContext {
        match_typed_subject_alt_names: names.iter().map(matcher).collect(),
        ..CertificateValidationContext::default()
    };
    if let Some(ca) = &tls.ca {
        return Ok(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(secrets::sds(ca)),
                ..CombinedCertificateValidationContext::default()
            },
        ));
    }

    let bundle = bundle.ok_or_else(|| {
        Rejection::new(
            "tls",
            "found no CA to verify the upstream by, expected \"ca\" (the server has no CA bundle, --ca-bundle)",
        )
    })?;
    context.trusted_ca = Some(DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(bundle.to_vec())),
        ..DataSource::default()
    });
    Ok(ValidationContextType::ValidationContext(context))
}

fn server_name(host: &str) -> ServerName {
    host.parse::<IpAddr>()
        .map_or_else(|_| ServerName::Dns(host.to_owned()), ServerName::Ip)
}

/// The protocols to offer. Of `like_client`, Envoy offers the one of each request.
fn alpn(protocol: Option<Protocol>) -> &'static [&'static str] {
    match protocol.unwrap_or(Protocol::Http1) {
        Protocol::Http1 => &["http/1.1"],
        Protocol::Http2 => &["h2"],
        Protocol::Auto => &["h2", "http/1.1"],
        Protocol::LikeClient => &[],
    }
}

fn matcher(name: &ServerName) -> SubjectAltNameMatcher {
    let (san_type, exact) = match name {
        ServerName::Dns(name) => (SanType::Dns, name.clone()),
        ServerName::Ip(ip) => (SanType::IpAddress, ip.to_string()),
        ServerName::Uri(uri) => (SanType::Uri, uri.clone()),
    };
    SubjectAltNameMatcher {
        san_type: san_type as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact(exact)),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}
