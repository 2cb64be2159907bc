//! The endpoints of etcd, and the credentials of this server.
//!
//! Options hold paths, not contents. Every new connection reads the password and the PEM files again, as does
//! [`Backend::reload`](crate::backend::Backend::reload), so a rotated certificate is used. No `Debug` output has a
//! secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use rustls::InconsistentKeys;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;
use xxhash_rust::xxh3::Xxh3;

use super::error::Failure;

/// Most operations in one transaction by etcd's default (its flag `--max-txn-ops`).
pub const DEFAULT_MAX_TXN_OPS: usize = 128;
/// Timeout of a connection; then the next endpoint is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the answer of one call. It does not bound an open watch.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// etcd ends connections that ping more often than every 5 s; without pings a frozen etcd is never noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(7);
/// Longest wait for the answer to a ping; then the connection ends.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The endpoints of etcd, and the credentials of this server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `http://host:port`, `https://host:port`, or without a scheme: then https when a TLS file is named.
    pub endpoints: Vec<String>,
    /// The user name; needs `password_file`.
    pub user: Option<String>,
    /// A file that holds the password; a newline at its end is not part of it.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that verify etcd; the system's roots if absent.
    pub ca: Option<PathBuf>,
    /// PEM file of our client certificate; needs `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of `cert`.
    pub key: Option<PathBuf>,
    /// Contents that stand in no file.
    pub texts: Texts,
    /// `--max-txn-ops`: most operations in one transaction; `None`: etcd's default.
    pub max_txn_ops: Option<usize>,
}

/// The contents that files would have.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// The password of the user.
    pub password: Option<String>,
    /// PEM text of the authorities that verify etcd.
    pub ca: Option<String>,
    /// PEM texts of our client certificate and its private key.
    pub identity: Option<(String, String)>,
}

/// Shows nothing of the contents.
impl fmt::Debug for Texts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Texts").finish_non_exhaustive()
    }
}

/// The content of the files of [`Options`].
#[derive(Clone)]
pub(super) struct Credentials {
    user: Option<(String, String)>,
    tls: Option<TlsOptions>,
    /// Digest of the content of all files.
    pub(super) digest: u128,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        formatter
            .debug_struct("Credentials")
            .field("user", &user)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Read the files.
    pub(super) async fn credentials(&self) -> Result<Credentials, Failure> {
        let mut hasher = Xxh3::new();
        Ok(Credentials {
            user: self.read_user(&mut hasher).await?,
            tls: self.read_tls(&mut hasher).await?,
            digest: hasher.digest128(),
        })
    }

    fn names_tls_files(&self) -> bool {
        let has_texts = self.texts.ca.is_some() || self.texts.identity.is_some();
        has_texts || self.ca.is_some() || self.cert.is_some() || self.key.is_some()
    }

    async fn read_user(&self, hasher: &mut Xxh3) -> Result<Option<(String, String)>, Failure> {
        if let (Some(user), Some(password)) = (&self.user, &self.texts.password) {
            return Ok(Some((user.clone(), password.clone())));
        }
        let (user, file) = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => (user, file),
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return Err(Failure::configuration(
                    "found --etcd-user without --etcd-password-file, expected both",
                ));
            }
            (None, Some(_)) => {
                return Err(Failure::configuration(
                    "found --etcd-password-file without --etcd-user, expected both",
                ));
            }
        };

        let content = read(file, hasher).await?;
        let password = String::from_utf8(content)
            .map_err(|_| Failure::configuration(format!("the password file {} is not UTF-8", file.display())))?;
        Ok(Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned())))
    }

    async fn read_tls(&self, hasher: &mut Xxh3) -> Result<Option<TlsOptions>, Failure> {
        let mut tls = TlsOptions::new();
        tls = match &self.ca {
            None if let Some(ca) = &self.texts.ca => tls.ca_certificate(Certificate::from_pem(ca)),
            Some(ca) => {
                let pem = read(ca, hasher).await?;
                if certificates(&pem).is_empty() {
                    let sentence = format!("the file {} holds no certificate in PEM", ca.display());
                    return Err(Failure::configuration(sentence));
                }
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => tls.with_enabled_roots(),
        };

        match (&self.cert, &self.key) {
            (None, None) if let Some((cert, key)) = &self.texts.identity => {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            (Some(cert), Some(key)) => {
                let (cert_pem, key_pem) = (read(cert, hasher).await?, read(key, hasher).await?);
                check_pair(&cert_pem, &key_pem).map_err(|reason| {
                    let (cert, key) = (cert.display(), key.display());
                    Failure::configuration(format!(
                        "the certificate {cert} and the key {key} cannot be used: {reason}"
                    ))
                })?;
                tls = tls.identity(Identity::from_pem(cert_pem, key_pem))
            }
            (None, None) => {}
            _ => {
                return Err(Failure::configuration(
                    "found only one of --etcd-cert and --etcd-key, expected both",
                ));
            }
        }

        let wanted = self.names_tls_files() || self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        Ok(wanted.then_some(tls))
    }

    /// The endpoint at `index`, with its scheme.
    pub(super) fn endpoint(&self, index: usize) -> Result<Endpoint, Failure> {
        let Some(written) = self.endpoints.get(index) else {
            return Err(Failure::configuration("no etcd endpoint is given"));
        };

        let default_scheme = if self.names_tls_files() { "https" } else { "http" };
        let text = if written.contains("://") {
            written.clone()
        } else {
            format!("{default_scheme}://{written}")
        };

        let url = Url::parse(&text).map_err(|error| {
            Failure::configuration(format!("the etcd endpoint number {} is not a URL: {error}", index + 1))
        })?;
        let (Some(host), "http" | "https") = (url.host_str(), url.scheme()) else {
            let sentence = format!(
                "the etcd endpoint number {} is not http://host:port or https://host:port",
                index + 1
            );
            return Err(Failure::configuration(sentence));
        };

        let shown = format!(
            "{}://{host}:{}",
            url.scheme(),
            url.port_or_known_default().unwrap_or_default()
        );

        if !url.username().is_empty() || url.password().is_some() {
            let sentence =
                format!("the endpoint {shown} contains credentials, expected --etcd-user and --etcd-password-file");
            return Err(Failure::configuration(sentence));
        }

        if url.scheme() == "http" && self.names_tls_files() {
            let sentence = format!("the endpoint {shown} is not https, expected https because TLS files are given");
            return Err(Failure::configuration(sentence));
        }

        Ok(Endpoint(shown))
    }
}

/// `scheme://host:port`, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint(String);

impl Endpoint {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Credentials {
    /// The name and the password.
    pub(super) fn user(&self) -> Option<(&str, &str)> {
        self.user
            .as_ref()
            .map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// The options of a connection to `endpoint`, with the user if `with_user` is set.
    pub(super) fn connect_options(&self, endpoint: &Endpoint, with_user: bool) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(CALL_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some((user, password)) = self.user().filter(|_| with_user) {
            options = options.with_user(user, password);
        }
        match &self.tls {
            Some(tls) if endpoint.as_str().starts_with("https://") => options.with_tls(tls.clone()),
            _ => options,
        }
    }
}

/// The certificates of a PEM text; none if one of them is broken.
fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .unwrap_or_default()
}

/// Whether a client can identify itself with this certificate and this key. Nothing of the key is quoted.
fn check_pair(cert: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = certificates(cert);
    if chain.is_empty() {
        return Err("found no certificate in PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "found no private key in PEM".to_owned())?;
    let key = any_supported_type(&key).map_err(|_| "found a private key that cannot be read".to_owned())?;
    match CertifiedKey::new(chain, key).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("the key belongs to another certificate".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn read(path: &Path, hasher: &mut Xxh3) -> Result<Vec<u8>, Failure> {
    let content = tokio::fs::read(path)
        .await
        .map_err(|error| Failure::configuration(format!("could not read {}: {error}", path.display())))?;
    hasher.update(&content.len().to_le_bytes());
    hasher.update(&content);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoint: &str) -> Options {
        Options {
            endpoints: vec![endpoint.to_owned()],
            ..Options::default()
        }
    }

    fn shown(options: &Options) -> Result<String, String> {
        options
            .endpoint(0)
            .map(|endpoint| endpoint.to_string())
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn an_endpoint_gets_the_scheme_that_the_files_suggest() {
        let mut plain = options("etcd-1:2379");
        assert_eq!(shown(&plain), Ok("http://etcd-1:2379".to_owned()));
        plain.ca = Some("/ca.pem".into());
        assert_eq!(shown(&plain), Ok("https://etcd-1:2379".to_owned()));
        assert_eq!(
            shown(&options("https://[::1]:2379/")),
            Ok("https://[::1]:2379".to_owned())
        );
    }

    #[test]
    fn an_endpoint_that_cannot_work_is_named_without_its_secrets() {
        let with_password = shown(&options("http://root:hunter2@etcd-1:2379")).unwrap_err();
        assert!(
            with_password.contains("http://etcd-1:2379") && !with_password.contains("hunter2"),
            "{with_password}"
        );
        assert!(shown(&options("ftp://etcd-1")).is_err());
        assert!(shown(&Options::default()).is_err());
        let mixed = Options {
            ca: Some("/ca.pem".into()),
            ..options("http://etcd-1:2379")
        };
        assert!(shown(&mixed).unwrap_err().contains("is not https"));
    }

    #[tokio::test]
    async fn a_password_is_read_without_its_newline_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "hunter2\n").unwrap();
        let options = Options {
            user: Some("gw".to_owned()),
            password_file: Some(file),
            ..options("etcd-1")
        };
        let credentials = options.credentials().await.unwrap();
        assert_eq!(credentials.user, Some(("gw".to_owned(), "hunter2".to_owned())));
        assert!(!format!("{credentials:?} {options:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn half_a_pair_is_a_configuration_error() {
        let alone = Options {
            user: Some("gw".to_owned()),
            ..options("etcd-1")
        };
        assert!(
            alone
                .credentials()
                .await
                .unwrap_err()
                .to_string()
                .contains("--etcd-password-file")
        );
        let missing = Options {
            ca: Some("/nowhere/ca.pem".into()),
            ..options("etcd-1")
        };
        assert!(
            missing
                .credentials()
                .await
                .unwrap_err()
                .to_string()
                .contains("/nowhere/ca.pem")
        );
    }
}
