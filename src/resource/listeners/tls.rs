//! TLS of a listener: every certificate by SDS, so that a new content changes no Listener.

use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, SetCurrentClientCertDetails,
};
use envoy_types::pb::envoy::extensions::transport_sockets::quic::v3::QuicDownstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher, TlsParameters,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use crate::document::listener::{Client, Forward, NameKind, Tls, TlsVersion};
use crate::document::route::StringMatch;
use crate::proto::message::{any, boolean};
use crate::resource::secrets::sds;

/// The protocols of a listener for HTTP.
const HTTP: [&str; 2] = ["h2", "http/1.1"];

/// TLS over TCP. `is_http`: without `alpn`, clients may choose the protocols of HTTP.
pub(super) fn socket(tls: &Tls, is_http: bool) -> TransportSocket {
    let alpn = match (&tls.alpn, is_http) {
        (Some(alpn), _) => alpn.clone(),
        (None, true) => HTTP.map(str::to_owned).to_vec(),
        (None, false) => Vec::new(),
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&context(tls, alpn)))),
    }
}

/// TLS within QUIC, without 0-RTT: early data can be replayed.
pub(super) fn quic_socket(tls: &Tls) -> TransportSocket {
    let transport = QuicDownstreamTransport {
        downstream_tls_context: Some(context(tls, Vec::new())),
        enable_early_data: Some(boolean(false)),
        ..QuicDownstreamTransport::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.quic".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&transport))),
    }
}

fn context(tls: &Tls, alpn_protocols: Vec<String>) -> DownstreamTlsContext {
    let version = |version| match version {
        TlsVersion::V12 => TlsProtocol::TlSv12,
        TlsVersion::V13 => TlsProtocol::TlSv13,
    };
    let common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: version(tls.min_version) as i32,
            tls_maximum_protocol_version: version(tls.max_version) as i32,
            ..TlsParameters::default()
        }),
        alpn_protocols,
        tls_certificate_sds_secret_configs: tls.certificates.iter().map(|name| sds(name)).collect(),
        validation_context_type: tls.client.as_ref().map(validation),
        ..CommonTlsContext::default()
    };
    DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: tls.client.as_ref().map(|client| boolean(client.is_required)),
        session_ticket_keys_type: tls
            .session_tickets
            .as_ref()
            .map(|name| SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(sds(name))),
        ..DownstreamTlsContext::default()
    }
}

fn validation(client: &Client) -> ValidationContextType {
    let authorities = sds(&client.ca);
    if client.names.is_empty() {
        return ValidationContextType::ValidationContextSdsSecretConfig(authorities);
    }
    let names = client.names.iter().map(|(kind, condition)| name(*kind, condition));
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: names.collect(),
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(authorities),
        ..CombinedCertificateValidationContext::default()
    })
}

/// A condition on a name in a certificate.
pub(in crate::resource) fn name(kind: NameKind, condition: &StringMatch) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: match kind {
            NameKind::Uri => SanType::Uri,
            NameKind::Dns => SanType::Dns,
        } as i32,
        matcher: Some(matcher(condition)),
        ..SubjectAltNameMatcher::default()
    }
}

fn matcher(condition: &StringMatch) -> StringMatcher {
    let pattern = match condition {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Suffix(text) => MatchPattern::Suffix(text.clone()),
        StringMatch::Contains(text) => MatchPattern::Contains(text.clone()),
        StringMatch::Regex(regex) => MatchPattern::SafeRegex(RegexMatcher {
            regex: regex.clone(),
            ..RegexMatcher::default()
        }),
        // Reading a document refuses these two: a matcher has no word for them, and this one matches no name.
        StringMatch::Present(_) | StringMatch::Not(_) => MatchPattern::Exact(String::new()),
    };
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

/// The connection manager with `x-forwarded-client-cert` as the document wants it.
pub(super) fn forwarding(manager: HttpConnectionManager, forward: Forward) -> HttpConnectionManager {
    let details = match forward {
        Forward::None => ForwardClientCertDetails::Sanitize,
        Forward::Set => ForwardClientCertDetails::SanitizeSet,
        Forward::Append => ForwardClientCertDetails::AppendForward,
        Forward::Forward => ForwardClientCertDetails::AlwaysForwardOnly,
    };
    let tells = matches!(forward, Forward::Set | Forward::Append);
    HttpConnectionManager {
        forward_client_cert_details: details as i32,
        set_current_client_cert_details: tells.then(|| SetCurrentClientCertDetails {
            subject: Some(boolean(true)),
            dns: true,
            uri: true,
            ..SetCurrentClientCertDetails::default()
        }),
        ..manager
    }
}
