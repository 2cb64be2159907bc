//! Certificates, keys and secrets (docs/refused-by-envoy.md NS-05, NS-07, NC-44, NC-45, NC-46 to NC-48, NL-22). No
//! secret value is quoted.

#![allow(deprecated, reason = "operators may write the older fields")]

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::CompliancePolicy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, Secret, TlsCertificate, TlsParameters,
    TlsSessionTicketKeys, UpstreamTlsContext,
};
use rustls::InconsistentKeys;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::document::Rejection;
use crate::document::sentence::{did_you_mean, quote};
use crate::resource::place::Place;

/// The ciphers that a list may name.
const CIPHERS: [&str; 72] = [
    "3DES",
    "AES",
    "AES128",
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "AES256",
    "AES256-GCM-SHA384",
    "AES256-SHA",
    "AESGCM",
    "ALL",
    "CHACHA20",
    "DEFAULT",
    "DES-CBC3-SHA",
    "ECDH",
    "ECDHE",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDSA",
    "EECDH",
    "FIPS",
    "HIGH",
    "PSK",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
    "RSA",
    "SHA",
    "SHA1",
    "SSLv3",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_PSK_WITH_AES_128_CBC_SHA",
    "TLS_PSK_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLSv1",
    "TLSv1.2",
    "aECDSA",
    "aPSK",
    "aRSA",
    "kECDHE",
    "kEECDH",
    "kPSK",
    "kRSA",
];
/// An entry that sorts the list of ciphers so far.
const BY_STRENGTH: &str = "@STRENGTH";
/// Bytes of a key of session tickets: its name, the key of the HMAC, the key of AES.
const TICKET_KEY: usize = 16 + 32 + 32;
/// Algorithms whose keys Envoy reads and `ring` reads in part only, as they stand in DER: `rsaEncryption` (`ring` takes
/// 2048 to 4096 bits), and the curve `secp521r1`.
const READ_IN_PART: [&[u8]; 2] = [
    &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01],
    &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
];
/// Bytes of a SHA-256.
const HASH: usize = 32;
/// Length of a SHA-256 in hexadecimal digits with colons.
const HASH_WITH_COLONS: usize = 95;
/// Groups for a key exchange.
const CURVES: [&[&str]; 10] = [
    &["MLKEM1024"],
    &["P-256"],
    &["P-384"],
    &["P-521"],
    &["X25519"],
    &["X25519MLKEM768"],
    &["prime256v1"],
    &["secp384r1"],
    &["secp521r1"],
    &["x25519"],
];
/// Signature algorithms: the names of each.
const SIGNATURES: [&[&str]; 14] = [
    &["rsa_pkcs1_sha1", "RSA+SHA1"],
    &["rsa_pkcs1_sha256", "RSA+SHA256"],
    &["rsa_pkcs1_sha384", "RSA+SHA384"],
    &["rsa_pkcs1_sha512", "RSA+SHA512"],
    &["rsa_pkcs1_sha256_legacy"],
    &["rsa_pss_rsae_sha256", "PSS+SHA256", "RSA-PSS+SHA256"],
    &["rsa_pss_rsae_sha384", "PSS+SHA384", "RSA-PSS+SHA384"],
    &["rsa_pss_rsae_sha512", "PSS+SHA512", "RSA-PSS+SHA512"],
    &["ecdsa_sha1", "ECDSA+SHA1"],
    &["ecdsa_secp256r1_sha256", "ECDSA+SHA256"],
    &["ecdsa_secp384r1_sha384", "ECDSA+SHA384"],
    &["ecdsa_secp521r1_sha512", "ECDSA+SHA512"],
    &["ed25519"],
    &["mldsa44"],
];

/// A secret has exactly one kind.
pub(super) fn secret(secret: &Secret, at: &Place) -> Result<(), Rejection> {
    if secret.r#type.is_some() {
        return Ok(());
    }
    let kinds = "\"tls_certificate\", \"validation_context\", \"session_ticket_keys\" or \"generic_secret\"";
    Err(at.reject(format!("found an empty secret, expected {kinds}")))
}

/// NS-07: inline keys of session tickets have the length that Envoy takes.
pub(super) fn ticket_keys(ticket_keys: &TlsSessionTicketKeys, at: &Place) -> Result<(), Rejection> {
    let keys = at.field("keys");
    let mut written = ticket_keys.keys.iter().map(inline).enumerate();
    match written.find_map(|(index, key)| Some((index, key?.len())).filter(|(_, len)| *len != TICKET_KEY)) {
        Some((index, len)) => Err(keys
            .index(index)
            .reject(format!("found a key of {len} bytes, expected {TICKET_KEY} bytes"))),
        None => Ok(()),
    }
}

/// An inline certificate is valid, and so is its key.
pub(super) fn certificate(certificate: &TlsCertificate, at: &Place) -> Result<(), Rejection> {
    let chain = at.field("certificate_chain");
    let written = match certificate.certificate_chain.as_ref() {
        Some(source) => certificates(source, &chain)?,
        None if certificate.pkcs12.is_none() => {
            return Err(chain.reject("missing, expected certificates in PEM, or pkcs12".to_owned()));
        }
        None => return Ok(()),
    };

    let key = at.field("private_key");
    let Some(source) = certificate.private_key.as_ref() else {
        return match certificate.private_key_provider {
            Some(_) => Ok(()),
            None => Err(key.reject("missing, expected the private key in PEM, or private_key_provider".to_owned())),
        };
    };

    match inline(source) {
        // A key with a password is not checked.
        Some(pem) if certificate.password.is_none() => {
            private_key(pem, written).map_err(|reason| key.reject(reason.to_owned()))
        }
        _ => Ok(()),
    }
}

/// A private key that can be read, and that belongs to the first of these certificates if there is one.
fn private_key(pem: &[u8], chain: Vec<CertificateDer<'static>>) -> Result<(), &'static str> {
    let Ok(key) = PrivateKeyDer::from_pem_slice(pem) else {
        return Err("found no private key in PEM, expected one");
    };
    let signing_key = match any_supported_type(&key) {
        Ok(signing_key) => signing_key,
        Err(_) if is_read_in_part(&key) => return Ok(()),
        Err(_) => return Err("found a private key that cannot be read, expected one of RSA or ECDSA"),
    };

    if chain.is_empty() {
        return Ok(());
    }
    match CertifiedKey::new(chain, signing_key).keys_match() {
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("found the private key of another certificate, expected that of certificate_chain")
        }
        // A certificate that webpki does not read (of version 1) may be right.
        _ => Ok(()),
    }
}

/// Whether a key is one sequence of DER, of an algorithm of [`READ_IN_PART`].
fn is_read_in_part(key: &PrivateKeyDer<'_>) -> bool {
    let der = key.secret_der();
    let is_whole = match der {
        [0x30, 0x82, high, low, rest @ ..] => usize::from(u16::from_be_bytes([*high, *low])) == rest.len(),
        [0x30, 0x81, len, rest @ ..] => usize::from(*len) == rest.len(),
        [0x30, len @ ..=0x7f, rest @ ..] => usize::from(*len) == rest.len(),
        _ => false,
    };
    // PKCS #1 names no algorithm.
    let is_rsa = matches!(key, PrivateKeyDer::Pkcs1(_));
    let names = |algorithm: &&[u8]| der.windows(algorithm.len()).any(|window| window == *algorithm);
    is_whole && (is_rsa || READ_IN_PART.iter().any(names))
}

/// Inline authorities are certificates, and hashes are hashes (NC-47).
pub(super) fn validation(context: &CertificateValidationContext, at: &Place) -> Result<(), Rejection> {
    let hashes = at.field("verify_certificate_hash");
    if let Some(index) = context.verify_certificate_hash.iter().position(|hash| !is_hash(hash)) {
        let found = quote(&context.verify_certificate_hash[index]);
        let reason =
            format!("found {found}, expected a SHA-256 in 64 hexadecimal digits, optionally with \":\" between pairs");
        return Err(hashes.index(index).reject(reason));
    }
    let keys = at.field("verify_certificate_spki");
    if let Some(index) = context.verify_certificate_spki.iter().position(|key| !is_key_hash(key)) {
        let found = quote(&context.verify_certificate_spki[index]);
        let reason = format!("found {found}, expected a SHA-256 in base64");
        return Err(keys.index(index).reject(reason));
    }
    context
        .trusted_ca
        .as_ref()
        .map_or(Ok(()), |source| certificates(source, &at.field("trusted_ca")).map(drop))
}

fn is_hash(text: &str) -> bool {
    let digits = match text.len() {
        HASH_WITH_COLONS => text.replace(':', ""),
        _ => text.to_owned(),
    };
    digits.len() == 2 * HASH && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_key_hash(text: &str) -> bool {
    BASE64.decode(text).is_ok_and(|bytes| bytes.len() == HASH)
}

/// A context with names to verify needs an authority. Not checked for a default that SDS completes.
pub(super) fn common(context: &CommonTlsContext, at: &Place) -> Result<(), Rejection> {
    let Some(ValidationContextType::ValidationContext(validation)) = &context.validation_context_type else {
        return Ok(());
    };
    let names = validation.match_typed_subject_alt_names.len() + validation.match_subject_alt_names.len();
    let authority = validation.trusted_ca.is_some()
        || validation.ca_certificate_provider_instance.is_some()
        || validation.system_root_certs.is_some()
        || validation.custom_validator_config.is_some();
    if names == 0 || authority {
        return Ok(());
    }
    let reason = "missing, expected the authority by which the names in the certificate are verified";
    Err(at
        .field("validation_context")
        .field("trusted_ca")
        .reject(reason.to_owned()))
}

/// The context of a client.
pub(super) fn upstream(context: &UpstreamTlsContext, at: &Place) -> Result<(), Rejection> {
    if context.sni.contains('\0') {
        let reason = "found a server name with NUL, expected one without";
        return Err(at.field("sni").reject(reason.to_owned()));
    }
    let Some(common) = &context.common_tls_context else {
        return Ok(());
    };
    let count = common.tls_certificates.len() + common.tls_certificate_sds_secret_configs.len();
    if count > 1 {
        return Err(at
            .field("common_tls_context")
            .reject(format!("found {count} certificates, expected one")));
    }
    Ok(())
}

/// The context of a server.
pub(super) fn downstream(context: &DownstreamTlsContext, at: &Place) -> Result<(), Rejection> {
    let at = at.field("common_tls_context");
    let Some(common) = &context.common_tls_context else {
        return Err(at.reject("missing, expected the certificate of the server".to_owned()));
    };
    let (written, by_sds) = (
        common.tls_certificates.len(),
        common.tls_certificate_sds_secret_configs.len(),
    );
    if written > 0 && by_sds > 0 {
        return Err(at.reject("found certificates both written down and by SDS, expected one of the two".to_owned()));
    }
    let elsewhere = common.tls_certificate_provider_instance.is_some()
        || common.tls_certificate_certificate_provider.is_some()
        || common.tls_certificate_certificate_provider_instance.is_some()
        || common.custom_tls_certificate_selector.is_some();
    if common.custom_tls_certificate_selector.is_some() && !without_resumption(context) {
        let reason = "found sessions that clients may resume, expected \"disable_stateless_session_resumption\": true \
                      and \"disable_stateful_session_resumption\": true";
        return Err(at.field("custom_tls_certificate_selector").reject(reason.to_owned()));
    }
    if written + by_sds == 0 && !elsewhere {
        return Err(at
            .field("tls_certificates")
            .reject("missing or empty, expected the server's certificate".to_owned()));
    }

    Ok(())
}

/// Envoy does not resume sessions whose certificate is selected on demand.
fn without_resumption(context: &DownstreamTlsContext) -> bool {
    let stateless = matches!(
        context.session_ticket_keys_type,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true))
    );
    stateless && context.disable_stateful_session_resumption
}

/// The inline certificates; none if they are on the host of Envoy.
fn certificates(source: &DataSource, at: &Place) -> Result<Vec<CertificateDer<'static>>, Rejection> {
    let Some(pem) = inline(source) else {
        return Ok(Vec::new());
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(at.reject("found no valid PEM certificates, expected at least one, and none broken".to_owned())),
    }
}

/// The value in the document, if it is there. Files and variables are on Envoy's host.
fn inline(source: &DataSource) -> Option<&[u8]> {
    match &source.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => Some(bytes),
        Some(data_source::Specifier::InlineString(text)) => Some(text.as_bytes()),
        _ => None,
    }
}

/// NC-46: ciphers, curves and signature algorithms are known to `BoringSSL`, and have its syntax.
pub(super) fn parameters(parameters: &TlsParameters, at: &Place) -> Result<(), Rejection> {
    let suites = at.field("cipher_suites");
    for (index, suite) in parameters.cipher_suites.iter().enumerate() {
        if !has_closed_groups(suite) {
            let reason = format!(
                "found {}, expected groups such as \"[AES128-SHA|AES256-SHA]\"",
                quote(suite)
            );
            return Err(suites.index(index).reject(reason));
        }
        let parts = suite
            .split([':', '[', ']', '|', '+'])
            .map(|part| part.trim_start_matches(['!', '-']));
        if let Some(unknown) = parts
            .filter(|part| !part.is_empty() && *part != BY_STRENGTH)
            .find(|part| !CIPHERS.contains(part))
        {
            let reason = format!(
                "found {}, expected a cipher that BoringSSL knows{}",
                quote(unknown),
                did_you_mean(unknown, CIPHERS)
            );
            return Err(suites.index(index).reject(reason));
        }
    }

    if leaves_none(&parameters.cipher_suites.join(":")) {
        return Err(suites.reject("found a list that leaves no cipher, expected at least one".to_owned()));
    }
    for (index, policy) in parameters.compliance_policies.iter().enumerate() {
        if CompliancePolicy::try_from(*policy).is_err() {
            let at = at.field("compliance_policies").index(index);
            return Err(at.reject(format!("found the number {policy}, expected a compliance policy")));
        }
    }
    each_known_once(&parameters.ecdh_curves, "a curve", &CURVES, &at.field("ecdh_curves"))?;
    each_known_once(
        &parameters.signature_algorithms,
        "a signature algorithm",
        &SIGNATURES,
        &at.field("signature_algorithms"),
    )
}

/// Whether each entry of a list, and each part between colons in it, is one of `known`, where one thing may have several
/// names, and none is there twice.
fn each_known_once(entries: &[String], kind: &str, known: &[&[&str]], at: &Place) -> Result<(), Rejection> {
    if entries.iter().all(String::is_empty) {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        for name in entry.split(':') {
            let Some(one) = known.iter().position(|names| names.contains(&name)) else {
                let names = known.iter().copied().flatten().copied();
                let reason = format!(
                    "found {}, expected {kind} that BoringSSL knows{}",
                    quote(name),
                    did_you_mean(name, names)
                );
                return Err(at.index(index).reject(reason));
            };
            if !seen.insert(one) {
                let reason = format!("found {} a second time, expected each once", quote(name));
                return Err(at.index(index).reject(reason));
            }
        }
    }
    Ok(())
}

/// Whether each bracket of a list of ciphers is closed around something, none in another.
fn has_closed_groups(suite: &str) -> bool {
    let mut parts = suite.split('[');
    let outside = parts.next().unwrap_or_default();
    let closed = |part: &str| {
        part.split_once(']')
            .is_some_and(|(inside, after)| !inside.is_empty() && !after.contains(']'))
    };
    !outside.contains(']') && parts.all(closed)
}

/// Whether a list of ciphers removes all ciphers that it adds.
fn leaves_none(list: &str) -> bool {
    let (mut none, mut never) = (true, false);
    for entry in list.split(':').filter(|entry| !entry.is_empty()) {
        match entry {
            "!ALL" => (none, never) = (true, true),
            "-ALL" => none = true,
            entry if entry == BY_STRENGTH || entry.starts_with(['!', '-', '+']) => {}
            _ => none = never,
        }
    }
    none && !list.is_empty()
}
