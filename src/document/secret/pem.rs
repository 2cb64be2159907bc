//! PEM: certificates, private keys and revocation lists, read to DER, checked, and written anew.
//!
//! The checks are those of Envoy (docs/refused-by-envoy.md NS-05) and those that an operator misses: a chain in another
//! order, a key of another certificate, a key with a password. `ring` reads only some of the keys that Envoy reads, so
//! the public part of a key is compared as it stands in DER.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::ring::sign::any_supported_type;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Confidential;

/// Smallest RSA key that Envoy takes for a certificate of its own, in bits.
const MIN_RSA_BITS: usize = 2048;
/// Largest RSA key that `ring` signs with, in bits.
const RING_RSA_BITS: usize = 4096;
/// Length of a line of PEM.
const LINE: usize = 64;
/// `rsaEncryption`, as it stands in DER.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `ecPublicKey`, as it stands in DER.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

const A_KEY: &str = "expected RSA of at least 2048 bits, or ECDSA on P-256, P-384 or P-521";

/// What may be shown of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `CN=edge.example.com, O=Example`.
    pub subject: String,
    /// The DNS names, URIs, addresses and mail addresses that it is for.
    pub names: Vec<String>,
    /// In hexadecimal digits with colons.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// SHA-256 of the DER in hexadecimal digits.
    pub fingerprint: String,
}

/// Certificates: their PEM, written anew, and what may be shown of each.
pub(super) struct Certificates {
    pub(super) pem: Arc<str>,
    pub(super) shown: Vec<Certificate>,
    der: Vec<Vec<u8>>,
}

/// Revocation lists: their PEM, written anew, and when the first is out of date.
pub(super) struct RevocationLists {
    pub(super) pem: Arc<str>,
    pub(super) ends: Option<i64>,
    /// The issuers, in DER.
    issuers: Vec<Vec<u8>>,
}

/// The certificates of a text, at least one.
pub(super) fn certificates(text: &str) -> Result<Certificates, String> {
    let der = sections(text, SectionKind::Certificate, "a certificate")?;
    let mut shown = Vec::with_capacity(der.len());
    for (index, der) in der.iter().enumerate() {
        let parsed = parse(der).ok_or_else(|| {
            format!(
                "found a certificate that cannot be read in place {}, expected an X.509 certificate",
                index + 1
            )
        })?;
        shown.push(facts(&parsed, der));
    }
    Ok(Certificates {
        pem: written("CERTIFICATE", &der),
        shown,
        der,
    })
}

/// The revocation lists of a text, at least one.
pub(super) fn revocation_lists(text: &str) -> Result<RevocationLists, String> {
    let der = sections(text, SectionKind::Crl, "a revocation list")?;
    let (mut issuers, mut ends): (Vec<Vec<u8>>, Option<i64>) = (Vec::new(), None);
    for (index, der) in der.iter().enumerate() {
        let (_, list) = CertificateRevocationList::from_der(der)
            .ok()
            .filter(|(rest, _)| rest.is_empty())
            .ok_or_else(|| format!("found a revocation list that cannot be read in place {}", index + 1))?;
        issuers.push(list.issuer().as_raw().to_vec());
        let next = list.next_update().map(|time| time.timestamp());
        ends = ends.into_iter().chain(next).min();
    }
    Ok(RevocationLists {
        pem: written("X509 CRL", &der),
        ends,
        issuers,
    })
}

/// The first authority without a revocation list although others have one: Envoy then refuses whatever it signed.
pub(super) fn without_list<'a>(authorities: &'a Certificates, lists: &RevocationLists) -> Option<&'a str> {
    let has_list = |der: &[u8]| {
        parse(der).is_none_or(|parsed| lists.issuers.iter().any(|issuer| issuer == parsed.subject().as_raw()))
    };
    let lacking = authorities.der.iter().position(|der| !has_list(der))?;
    Some(&authorities.shown.get(lacking)?.subject)
}

/// The private key of a text, which belongs to the first certificate of the chain.
pub(super) fn private_key(text: &str, chain: &Certificates) -> Result<Confidential, String> {
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err("found a private key with a password, expected one without".to_owned());
    }
    let read: Result<Vec<PrivateKeyDer<'static>>, _> = PrivateKeyDer::pem_slice_iter(text.as_bytes()).collect();
    let mut keys = read.unwrap_or_default();
    let (Some(key), true) = (keys.pop(), keys.is_empty()) else {
        let found = if keys.is_empty() {
            "no private key in PEM"
        } else {
            "several private keys"
        };
        return Err(format!("found {found}, expected one"));
    };

    let public = public_part(&key)?;
    let fits = |der: &Vec<u8>| parse(der).is_some_and(|parsed| public.is_of(parsed.public_key()));
    match chain.der.iter().position(fits) {
        Some(0) => {}
        Some(place) => {
            return Err(format!(
                "found the key of the certificate in place {}, expected that certificate to be the first",
                place + 1
            ));
        }
        None => {
            return Err("found the private key of another certificate, expected that of \"certificate\"".to_owned());
        }
    }
    if public.is_read_by_ring() && any_supported_type(&key).is_err() {
        return Err(format!("found a private key that cannot be used, {A_KEY}"));
    }

    let label = match &key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    Ok(Confidential::from(written(label, &[key.secret_der().to_vec()])))
}

/// Checks that Envoy takes a certificate with such a key as its own.
pub(super) fn check_own_key(chain: &Certificates) -> Result<(), String> {
    let Some(parsed) = chain.der.first().and_then(|der| parse(der)) else {
        return Ok(());
    };
    let info = parsed.public_key();
    let found = match info.parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() >= MIN_RSA_BITS => return Ok(()),
        Ok(PublicKey::RSA(key)) => format!("an RSA key of {} bits", key.key_size()),
        Ok(PublicKey::EC(_)) if is_known_curve(info) => return Ok(()),
        Ok(PublicKey::EC(_)) => "a key on another curve".to_owned(),
        _ => "a key that is neither RSA nor ECDSA".to_owned(),
    };
    Err(format!("found {found} in the first certificate, {A_KEY}"))
}

fn is_known_curve(info: &SubjectPublicKeyInfo<'_>) -> bool {
    let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521].contains(&curve))
}

/// The DER of each section, all of one kind.
fn sections(text: &str, kind: SectionKind, what: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let Ok((section, der)) = section else {
            return Err(format!(
                "found {what} with broken PEM, expected base64 between BEGIN and END"
            ));
        };
        if section != kind {
            return Err(format!(
                "found {} beside {what}, expected a field of its own for it",
                name_of(section)
            ));
        }
        found.push(der);
    }
    if found.is_empty() {
        return Err(format!("found no PEM of {what}, expected at least one"));
    }
    Ok(found)
}

fn name_of(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::Crl => "a revocation list",
        SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => "a private key",
        _ => "something else",
    }
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(parsed)
}

fn facts(parsed: &X509Certificate<'_>, der: &[u8]) -> Certificate {
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| names.value.general_names.iter());
    Certificate {
        subject: parsed.subject().to_string(),
        names: names.filter_map(general_name).collect(),
        serial: parsed.raw_serial_as_string(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        fingerprint: hex(ring::digest::digest(&ring::digest::SHA256, der).as_ref()),
    }
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|bytes| Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|bytes| Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// PEM with lines of 64 characters, as OpenSSL writes it.
fn written(label: &str, sections: &[Vec<u8>]) -> Arc<str> {
    let mut text = String::new();
    for der in sections {
        text += &format!("-----BEGIN {label}-----\n");
        let encoded = BASE64.encode(der);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            text += line;
            text.push('\n');
            rest = after;
        }
        text += &format!("-----END {label}-----\n");
    }
    text.into()
}

/// The public part of a private key.
enum PublicPart {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ec { point: Vec<u8> },
}

impl PublicPart {
    fn is_of(&self, info: &SubjectPublicKeyInfo<'_>) -> bool {
        match (self, info.parsed()) {
            (Self::Rsa { modulus, exponent }, Ok(PublicKey::RSA(key))) => {
                significant(key.modulus) == modulus && significant(key.exponent) == exponent
            }
            (Self::Ec { point }, Ok(PublicKey::EC(key))) => key.data() == point,
            _ => false,
        }
    }

    /// Whether `ring` can check that the private part belongs to the public one: not P-521, nor the largest RSA keys.
    fn is_read_by_ring(&self) -> bool {
        match self {
            Self::Rsa { modulus, .. } => modulus.len() * 8 <= RING_RSA_BITS,
            // A point is a byte and two coordinates.
            Self::Ec { point } => point.len() <= 1 + 2 * 48,
        }
    }
}

fn public_part(key: &PrivateKeyDer<'_>) -> Result<PublicPart, String> {
    let part = match key {
        PrivateKeyDer::Pkcs1(key) => rsa_part(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => ec_part(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8_part(key.secret_pkcs8_der()),
        _ => None,
    };
    part.ok_or_else(|| format!("found a private key that cannot be read with its public part, {A_KEY}"))
}

/// PKCS #8: version, algorithm, the key in an octet string.
fn pkcs8_part(der: &[u8]) -> Option<PublicPart> {
    let (version_on, _) = content(der, SEQUENCE)?;
    let (_, rest) = content(version_on, INTEGER)?;
    let (algorithm, rest) = content(rest, SEQUENCE)?;
    let (inner, _) = content(rest, OCTETS)?;
    match content(algorithm, OBJECT)?.0 {
        RSA => rsa_part(inner),
        EC => ec_part(inner),
        _ => None,
    }
}

/// PKCS #1: version, modulus, public exponent, and more.
fn rsa_part(der: &[u8]) -> Option<PublicPart> {
    let (fields, _) = content(der, SEQUENCE)?;
    let (_, rest) = content(fields, INTEGER)?;
    let (modulus, rest) = content(rest, INTEGER)?;
    let (exponent, _) = content(rest, INTEGER)?;
    Some(PublicPart::Rsa {
        modulus: significant(modulus).to_vec(),
        exponent: significant(exponent).to_vec(),
    })
}

/// SEC 1: version, the private part, the curve if it is written, the public part.
fn ec_part(der: &[u8]) -> Option<PublicPart> {
    let (fields, _) = content(der, SEQUENCE)?;
    let (_, rest) = content(fields, INTEGER)?;
    let (_, rest) = content(rest, OCTETS)?;
    let rest = content(rest, CURVE).map_or(rest, |(_, rest)| rest);
    let (public, _) = content(rest, PUBLIC)?;
    let (bits, _) = content(public, BITS)?;
    // The first byte counts unused bits.
    let point = bits.strip_prefix(&[0])?.to_vec();
    Some(PublicPart::Ec { point })
}

/// The bytes of a number from the first that counts.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// Of SEC 1: `[0]`, the curve, and `[1]`, the public part.
const CURVE: u8 = 0xa0;
const PUBLIC: u8 = 0xa1;

/// The content of the DER value with this tag that `der` begins with, and the rest.
fn content(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (length, rest) = match rest {
        [short @ ..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, byte, rest @ ..] => (usize::from(*byte), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}
