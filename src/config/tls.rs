//! The certificates of the xDS server: from PEM files to a rustls configuration, and again when they change.
//!
//! What enters: [`TlsFiles`]. What leaves: a [`rustls::ServerConfig`] that offers HTTP/2 and, with a client CA, verifies
//! every client; [`Certificates`] keeps the latest. A new certificate is for new connections; open ones keep theirs. Files
//! that are bad when they are read again change nothing: the certificates in use stay.

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

/// How often the files are compared with what is in use. Reading beats watching here: volumes swap symlinks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why the files make no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or is not PEM of what is expected.
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

/// A server of HTTP/2 over TLS 1.2 or 1.3 with these files.
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
            let unusable = |reason: String| Error::ClientCa { path: path.clone(), reason };
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| unusable(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|source| Error::Unusable { path: files.certificate.clone(), source })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |source| Error::Read { what: "certificates", path: path.to_owned(), source };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if chain.is_empty() { Err(Error::Empty { path: path.to_owned() }) } else { Ok(chain) }
}

fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| Error::ClientCa { path: path.to_owned(), reason: error.to_string() })?;
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

    /// The latest, to take for each new connection.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Follow the files until `token` is cancelled; `reloads` (SIGHUP) makes it look at once.
    pub async fn run(self, mut reloads: watch::Receiver<u64>, token: CancellationToken) {
        let mut loaded = self.contents();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
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
                info!(%certificate, "Took new certificates for new connections");
            }
            Err(error) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%certificate, %error, reason, "Kept the certificates in use, the new ones are bad");
            }
        }
    }

    /// Small files, read whole: a swapped volume may keep their times.
    fn contents(&self) -> Vec<Option<Vec<u8>>> {
        [Some(&self.files.certificate), Some(&self.files.key), self.files.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| std::fs::read(path).ok())
            .collect()
    }
}
