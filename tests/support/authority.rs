//! A certificate authority for one test, with PEM files in a folder of its own.

use std::fs;
use std::path::PathBuf;

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// With `ca.pem`, and `server` and `client` as pairs of `.pem` and `.key`.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        let folder = tempfile::Builder::new()
            .prefix("chancery-ca-")
            .tempdir()
            .expect("make a folder");
        // A name of its own: issuer and subject must differ, and so must two authorities.
        params
            .distinguished_name
            .push(DnType::CommonName, folder.path().display().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate of its own");
        let authority = Self {
            folder,
            issuer: Issuer::new(params, key),
        };
        fs::write(authority.path("ca.pem"), certificate.pem()).expect("write the certificate");
        authority.renew("server");
        authority.renew("client");
        authority
    }

    /// A new certificate and key in the pair of files of this name.
    pub fn renew(&self, name: &str) {
        self.put(name, &self.issue());
    }

    /// This certificate and key in the pair of files of this name.
    pub fn put(&self, name: &str, (certificate, key): &(String, String)) {
        fs::write(self.path(&format!("{name}.pem")), certificate).expect("write a certificate");
        fs::write(self.path(&format!("{name}.key")), key).expect("write a key");
    }

    /// One of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The text of one of its files.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("read a file of PEM")
    }

    /// A certificate of 127.0.0.1 and chancery.internal, for both sides, and its key.
    pub fn issue(&self) -> (String, String) {
        self.issue_for(&["127.0.0.1", "chancery.internal"])
    }

    /// A certificate of these names (hosts, addresses and URIs), for both sides, and its key.
    pub fn issue_for(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let names = names.iter().map(|name| (*name).to_owned());
        let (uris, names): (Vec<String>, Vec<String>) = names.partition(|name| name.contains("://"));
        let common_name = names.last().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("parameters");
        let uris = uris.into_iter().map(|uri| SanType::URI(uri.try_into().expect("ASCII")));
        params.subject_alt_names.extend(uris);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (
            params.signed_by(&key, &self.issuer).expect("a signature").pem(),
            key.serialize_pem(),
        )
    }

    /// The list of certificates that are revoked, as PEM.
    pub fn revoke(&self, certificates: &[&(String, String)]) -> String {
        let revoked = certificates.iter().map(|(certificate, _)| {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
            let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(certificate.raw_serial()),
                revocation_time: date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2126, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a signature");
        list.pem().expect("PEM")
    }

    /// A server with the certificate in the pair of files of this name. `clients`: it asks for a certificate of theirs.
    pub fn server(&self, name: &str, clients: Option<&Self>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                let ca = CertificateDer::from_pem_slice(clients.read("ca.pem").as_bytes()).expect("a certificate");
                roots.add(ca).expect("a root");
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let certificate = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
        builder.with_single_cert(vec![certificate], key).expect("a pair").into()
    }
}
