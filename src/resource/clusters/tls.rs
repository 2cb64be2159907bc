//! TLS towards an upstream: SNI, the names that its certificate must have, and the roots that vouch for it.
//!
//! The roots are the CA bundle of the server. An IP address is verified as an address, and SNI does not carry it.
//! Envoy takes the names from each endpoint where endpoints are host names and the document gives none.

use std::net::IpAddr;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};

use crate::document::Rejection;
use crate::document::cluster::{Protocol, ServerName, Tls, TlsVersion};

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
    let bundle = bundle.ok_or_else(|| {
        Rejection::new(
            "",
            "found an https upstream, but the server has no CA bundle to verify it by (--ca-bundle)",
        )
    })?;
    let validation = validation(bundle, &[server_name(host)]);
    Ok(transport(
        Server::One(host),
        protocol,
        TlsVersion::V1_2,
        Some(validation),
    ))
}

/// TLS of a document.
///
/// # Errors
/// No CA bundle.
pub(super) fn of_document(
    tls: &Tls,
    server: Server<'_>,
    protocol: Option<Protocol>,
    bundle: Option<&Bytes>,
) -> Result<TransportSocket, Rejection> {
    let validation = match tls.verify {
        true => Some(validation_of(tls, server, bundle)?),
        false => None,
    };
    Ok(transport(server, protocol, tls.min_version, validation))
}

/// The check of a certificate; without names, Envoy compares it with the host of each endpoint.
fn validation_of(
    tls: &Tls,
    server: Server<'_>,
    bundle: Option<&Bytes>,
) -> Result<CertificateValidationContext, Rejection> {
    let bundle = bundle.ok_or_else(|| {
        Rejection::new(
            "tls",
            "found no CA to verify the upstream by: the server has no CA bundle (--ca-bundle)",
        )
    })?;
    Ok(match server {
        Server::One(host) if tls.names.is_empty() => validation(bundle, &[server_name(host)]),
        _ => validation(bundle, &tls.names),
    })
}

fn server_name(host: &str) -> ServerName {
    host.parse::<IpAddr>()
        .map_or_else(|_| ServerName::Dns(host.to_owned()), ServerName::Ip)
}

fn transport(
    server: Server<'_>,
    protocol: Option<Protocol>,
    min_version: TlsVersion,
    validation: Option<CertificateValidationContext>,
) -> TransportSocket {
    let minimum = match min_version {
        // Envoy's own.
        TlsVersion::V1_2 => TlsProtocol::TlsAuto,
        TlsVersion::V1_3 => TlsProtocol::TlSv13,
    };
    let (sni, each) = match server {
        Server::One(host) if host.parse::<IpAddr>().is_ok() => (String::new(), false),
        Server::One(host) => (host.to_owned(), false),
        Server::EachEndpoint => (String::new(), true),
    };
    let named = |validation: &CertificateValidationContext| !validation.match_typed_subject_alt_names.is_empty();
    let context = UpstreamTlsContext {
        sni,
        auto_host_sni: each,
        auto_sni_san_validation: each && validation.as_ref().is_some_and(|validation| !named(validation)),
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: minimum as i32,
                // Without this, Envoy's clients speak TLS 1.2 at most.
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..TlsParameters::default()
            }),
            alpn_protocols: alpn(protocol).iter().map(|&name| name.to_owned()).collect(),
            validation_context_type: validation.map(ValidationContextType::ValidationContext),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", &context)
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

fn validation(bundle: &Bytes, names: &[ServerName]) -> CertificateValidationContext {
    CertificateValidationContext {
        trusted_ca: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineBytes(bundle.to_vec())),
            ..DataSource::default()
        }),
        match_typed_subject_alt_names: names.iter().map(matcher).collect(),
        ..CertificateValidationContext::default()
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
