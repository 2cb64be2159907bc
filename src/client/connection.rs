//! One request over a connection of its own: HTTP/1.1 over TCP, TLS or a Unix socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Host;

use super::{Options, Target};

/// Longest time until a connection stands.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The settings of TLS; `None`: no server speaks it.
#[derive(Debug, Clone)]
pub(super) struct Tls(Option<Arc<ClientConfig>>);

impl Tls {
    pub(super) fn new(options: &Options, is_used: bool) -> Result<Self, String> {
        if !is_used {
            return Ok(Self(None));
        }
        let roots = match &options.ca {
            Some(path) => roots_of(path)?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match (&options.cert, &options.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, "--cert")?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("--key: read {}: {error}", key.display()))?;
                let with_client = builder.with_client_auth_cert(chain, key);
                with_client.map_err(|error| format!("--cert: {error}"))?
            }
            (Some(_), None) => return Err("--cert: needs --key".to_owned()),
            (None, Some(_)) => return Err("--key: needs --cert".to_owned()),
        };
        Ok(Self(Some(Arc::new(config))))
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "--ca")? {
        roots
            .add(certificate)
            .map_err(|error| format!("--ca: {}: {error}", path.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let fails = |error| format!("{flag}: read {}: {error}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(fails)?;
    let certificates: Vec<_> = read.collect::<Result<_, _>>().map_err(fails)?;
    match certificates.is_empty() {
        true => Err(format!("{flag}: {} has no certificate", path.display())),
        false => Ok(certificates),
    }
}

/// Connect, and send a request.
pub(super) async fn send(
    target: &Target,
    tls: &Tls,
    request: http::Request<Bytes>,
) -> Result<http::Response<Incoming>, String> {
    let request = request.map(Full::new);
    let late = |_| format!("no connection within {} s", CONNECT_WITHIN.as_secs());
    match target {
        Target::Unix(path) => {
            let stream = timeout(CONNECT_WITHIN, UnixStream::connect(path)).await.map_err(late)?;
            over(stream.map_err(|error| error.to_string())?, request).await
        }
        Target::Url(url) => {
            let host = url.host().ok_or("the URL has no host")?;
            let port = url.port_or_known_default().unwrap_or(80);
            let name = match &host {
                Host::Domain(name) => (*name).to_owned(),
                Host::Ipv4(address) => address.to_string(),
                Host::Ipv6(address) => address.to_string(),
            };
            let connect = async {
                let stream = TcpStream::connect((&*name, port)).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(stream)
            };
            let stream = timeout(CONNECT_WITHIN, connect).await.map_err(late)?;
            let stream = stream.map_err(|error| error.to_string())?;
            match &tls.0 {
                Some(config) if target.is_tls() => {
                    let server = ServerName::try_from(name).map_err(|error| error.to_string())?;
                    let connector = TlsConnector::from(Arc::clone(config));
                    let stream = timeout(CONNECT_WITHIN, connector.connect(server, stream))
                        .await
                        .map_err(late)?;
                    over(stream.map_err(|error| error.to_string())?, request).await
                }
                _ => over(stream, request).await,
            }
        }
    }
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // The connection ends with its request; the request has the error.
    tokio::spawn(async move { drop(connection.await) });
    sender.send_request(request).await.map_err(|error| error.to_string())
}
