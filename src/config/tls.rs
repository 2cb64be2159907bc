//! The certificates of the xDS server: PEM files → a rustls configuration, loaded again when the files change.
//!
//! In: [`TlsFiles`]. Out: a [`rustls::ServerConfig`] that offers HTTP/2 and, with a client CA, verifies every client;
//! [`Certificates`] has the latest one. New connections use a new certificate; open connections keep the old one. If
//! changed files cannot be used, the certificates in use stay.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::TlsFiles;

/// Time between two comparisons of the files with the loaded ones. The files are read instead of watched, because
/// volumes swap symlinks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Failure to make a server from the files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or is not the expected PEM.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// `certificates`, `a private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key do not belong together, or one is of a kind that is not supported.
    #[error("the certificate {} and its key cannot be used", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The client CA cannot be used.
    #[error("the client CA {} cannot be used: {reason}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The configuration of an HTTP/2 server over TLS 1.2 or 1.3 with these files.
///
/// # Errors
/// Names the file that cannot be used.
pub fn load_server_config(files: &TlsFiles) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| Error::Read {
        what: "a private key",
        path: files.key.clone(),
        source,
    })?;

    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider's cipher suites cover the default protocol versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |reason: String| Error::ClientCa {
                path: path.clone(),
                reason,
            };
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| unusable(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };

    let mut config = builder.with_single_cert(chain, key).map_err(|source| Error::Unusable {
        path: files.certificate.clone(),
        source,
    })?;

    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |source| Error::Read {
        what: "certificates",
        path: path.to_owned(),
        source,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if chain.is_empty() {
        Err(Error::Empty { path: path.to_owned() })
    } else {
        Ok(chain)
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| Error::ClientCa {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// The certificates in use, read again when their files change.
#[derive(Debug)]
pub struct Certificates {
    files: TlsFiles,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Certificates {
    /// Load the files for the first time.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub fn load(files: TlsFiles) -> Result<Self, Error> {
        let current = watch::Sender::new(Arc::new(load_server_config(&files)?));
        Ok(Self { files, current })
    }

    /// The latest configuration; each new connection uses the current one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Follow the files until `token` is cancelled. After a SIGHUP (`reloads`) the files are compared at once.
    ///
    /// # Errors
    /// Never: a failed load is logged, and tried again.
    pub async fn run(self, mut reloads: watch::Receiver<u64>, token: CancellationToken) -> Result<(), Infallible> {
        let mut loaded = self.contents();
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Ok(()) = reloads.changed() => {}
            }
            let contents = self.contents();
            if contents != loaded {
                self.reload();
                loaded = contents;
            }
        }
    }

    fn reload(&self) {
        let certificate = self.files.certificate.display();
        match load_server_config(&self.files) {
            Ok(config) => {
                self.current.send_replace(Arc::new(config));
                info!(%certificate, "New xDS certificates are loaded; new connections use them");
            }
            Err(error) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%certificate, %error, reason, "New xDS certificates cannot be used; new connections still get \
                    the previous ones");
            }
        }
    }

    /// The contents of the files. The times are not compared: a swapped volume may keep them.
    fn contents(&self) -> Vec<Option<Vec<u8>>> {
        [
            Some(&self.files.certificate),
            Some(&self.files.key),
            self.files.client_ca.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|path| std::fs::read(path).ok())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, Issuer, KeyPair};
    use rustls::ClientConfig;
    use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
    use tempfile::TempDir;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A folder of PEM files, and the authority for clients.
    struct Fixture {
        folder: TempDir,
        issuer: Issuer<'static, KeyPair>,
        authority: CertificateDer<'static>,
    }

    impl Fixture {
        /// With `server.pem`, `server.key` and `ca.pem`.
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = params.self_signed(&key).unwrap();
            let fixture = Self {
                folder: TempDir::new().unwrap(),
                issuer: Issuer::new(params, key),
                authority: authority.der().clone(),
            };
            fixture.write("ca.pem", &authority.pem());
            fixture.renew();
            fixture
        }

        /// A new certificate and key for the server.
        fn renew(&self) {
            let CertifiedKey { cert, signing_key } = self.issue("xds.internal");
            self.write("server.pem", &cert.pem());
            self.write("server.key", &signing_key.serialize_pem());
        }

        fn issue(&self, name: &str) -> CertifiedKey<KeyPair> {
            let signing_key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let cert = params.signed_by(&signing_key, &self.issuer).unwrap();
            CertifiedKey { cert, signing_key }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).unwrap();
        }

        fn files(&self, client_ca: bool) -> TlsFiles {
            TlsFiles {
                certificate: self.path("server.pem"),
                key: self.path("server.key"),
                client_ca: client_ca.then(|| self.path("ca.pem")),
            }
        }

        /// A client that trusts the authority and shows this certificate.
        fn client(&self, certificate: Option<CertifiedKey<KeyPair>>) -> ClientConfig {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let mut client = if let Some(CertifiedKey { cert, signing_key }) = certificate {
                let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
                builder
                    .with_client_auth_cert(vec![cert.der().clone()], key.into())
                    .unwrap()
            } else {
                builder.with_no_client_auth()
            };
            client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            client
        }
    }

    /// The negotiated protocol, or the server's error.
    async fn handshake(server: ServerConfig, client: ClientConfig) -> Result<Vec<u8>, String> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("xds.internal").unwrap();
        let (server, _client) = tokio::join!(
            TlsAcceptor::from(Arc::new(server)).accept(near),
            TlsConnector::from(Arc::new(client)).connect(name, far)
        );
        let stream = server.map_err(|error| error.to_string())?;
        Ok(stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec())
    }

    #[tokio::test]
    async fn it_offers_http2_to_whoever_trusts_its_authority() {
        let fixture = Fixture::new();
        let server = load_server_config(&fixture.files(false)).unwrap();
        assert_eq!(handshake(server, fixture.client(None)).await, Ok(b"h2".to_vec()));
    }

    #[tokio::test]
    async fn with_a_client_ca_every_client_is_verified() {
        let fixture = Fixture::new();
        let server = || load_server_config(&fixture.files(true)).unwrap();
        let known = fixture.client(Some(fixture.issue("edge-1")));
        assert_eq!(handshake(server(), known).await, Ok(b"h2".to_vec()));
        let nobody = fixture.client(None);
        assert_eq!(
            handshake(server(), nobody).await,
            Err("peer sent no certificates".to_owned())
        );
        let stranger = fixture.client(Some(Fixture::new().issue("edge-1")));
        let refused = handshake(server(), stranger).await.unwrap_err();
        assert!(refused.starts_with("invalid peer certificate"), "{refused}");
    }

    #[test]
    fn the_file_that_cannot_be_used_is_named() {
        let fixture = Fixture::new();
        let sentence = |files: &TlsFiles| load_server_config(files).unwrap_err().to_string();
        let folder = fixture.folder.path().display();
        let files = fixture.files(false);

        let missing = TlsFiles {
            key: fixture.path("none.key"),
            ..files.clone()
        };
        assert_eq!(
            sentence(&missing),
            format!("cannot read a private key from {folder}/none.key")
        );

        fixture.write("empty.pem", "");
        let empty = TlsFiles {
            certificate: fixture.path("empty.pem"),
            ..files.clone()
        };
        assert_eq!(sentence(&empty), format!("{folder}/empty.pem holds no certificate"));

        fixture.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
        let other = TlsFiles {
            key: fixture.path("other.key"),
            ..files
        };
        assert_eq!(
            sentence(&other),
            format!("the certificate {folder}/server.pem and its key cannot be used")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn new_certificates_are_taken_and_bad_ones_are_not() {
        let fixture = Fixture::new();
        let certificates = Certificates::load(fixture.files(false)).unwrap();
        let mut current = certificates.subscribe();
        let reloads = watch::Sender::new(0);
        let token = CancellationToken::new();
        let running = tokio::spawn(certificates.run(reloads.subscribe(), token.clone()));
        tokio::task::yield_now().await;

        fixture.write("server.pem", "half a file");
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert!(!current.has_changed().unwrap());

        fixture.renew();
        current.changed().await.unwrap();
        // After a SIGHUP the files are compared at once.
        fixture.renew();
        let before = tokio::time::Instant::now();
        reloads.send_replace(1);
        current.changed().await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);

        token.cancel();
        running.await.unwrap().unwrap();
    }
}
