//! A certificate authority for one test, with PEM files in a folder of its own.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
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

    /// A certificate of these names, for both sides, and its key.
    pub fn issue_for(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let common_name = names.last().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (
            params.signed_by(&key, &self.issuer).expect("a signature").pem(),
            key.serialize_pem(),
        )
    }
}
