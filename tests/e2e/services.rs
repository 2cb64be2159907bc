//! The services beside ADS with Envoy: mutual TLS on the xDS port with the bootstrap of `envoy-config/`, secrets, load
//! reports.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::authority::Authority;
use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::server::Server;
use crate::support::upstream::Upstream;
use crate::world::{LIMIT, ask, http_client, listener, shared};

/// Load is reported every ten seconds.
const REPORTED_WITHIN: Duration = Duration::from_secs(40);

/// A folder with these documents below `gateway/`.
fn folder(documents: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("chancery-services-")
        .tempdir()
        .expect("make a folder");
    for (key, document) in documents {
        write(folder.path(), key, document);
    }
    folder
}

fn write(folder: &Path, key: &str, document: &Value) {
    let path = folder.join("gateway").join(key).with_extension("json");
    fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
    fs::write(path, document.to_string()).expect("write a document");
}

/// An address of this machine that is not its loopback.
fn outside() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // No packet is sent: `connect` only selects the local address (the target is a network for documentation).
    socket
        .connect("192.0.2.1:9")
        .expect("this machine has an address beside its loopback");
    socket.local_addr().expect("an address").ip()
}

/// A secret with the pair of files of this name, as the document of an Envoy resource.
pub(crate) fn secret(authority: &Authority, pair: &str) -> Value {
    json!({ "resource": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "edge",
        "tls_certificate": {
            "certificate_chain": { "inline_string": authority.read(&format!("{pair}.pem")) },
            "private_key": { "inline_string": authority.read(&format!("{pair}.key")) },
        },
    } })
}

/// A listener whose certificate is the secret `edge` and which answers by itself.
pub(crate) fn secure_listener(address: SocketAddr) -> Value {
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let manager =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let route = json!({ "match": { "prefix": "/" }, "direct_response": { "status": 204 } });
    let host = json!({ "name": "all", "domains": ["*"], "routes": [route] });
    let manager = json!({
        "@type": manager, "stat_prefix": "secure",
        "route_config": { "name": "inline", "virtual_hosts": [host] },
        "http_filters": [{ "name": "router", "typed_config": { "@type": router } }],
    });
    let chain = json!({
        "filters": [{ "name": "http", "typed_config": manager }],
        "transport_socket": { "name": "tls", "typed_config": {
            "@type": tls,
            "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": "edge", "sds_config": ads }] },
        } },
    });
    let socket = json!({ "address": address.ip().to_string(), "port_value": address.port() });
    json!({ "resource": {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "secure", "address": { "socket_address": socket }, "filter_chains": [chain],
    } })
}

/// The arguments of a server with the certificates of this authority, on all addresses.
fn tls_arguments(authority: &Authority) -> Vec<String> {
    let path = |name: &str| authority.path(name).display().to_string();
    let arguments = [
        ["--xds-tls-cert".to_owned(), path("server.pem")],
        ["--xds-tls-key".to_owned(), path("server.key")],
        ["--xds-tls-client-ca".to_owned(), path("ca.pem")],
    ];
    arguments.concat()
}

/// The bootstrap `mtls.yaml` with the server's outside address. Envoy verifies the server with the authority `trusts`,
/// and has a client certificate of the authority `is`.
fn mtls(server: &Server, trusts: &Authority, is: &Authority) -> String {
    let path = |authority: &Authority, name: &str| authority.path(name).display().to_string();
    Bootstrap::Mtls
        .text(server.xds())
        .replace(
            "address: 127.0.0.1, port_value: ",
            &format!("address: {}, port_value: ", outside()),
        )
        .replace(
            &format!("address: {}, port_value: 9901", outside()),
            "address: 127.0.0.1, port_value: 9901",
        )
        .replace("/etc/envoy/tls/client.pem", &path(is, "client.pem"))
        .replace("/etc/envoy/tls/client.key", &path(is, "client.key"))
        .replace("/etc/envoy/tls/ca.pem", &path(trusts, "ca.pem"))
}

/// A TLS connection to the listener there, whose certificate must be of this authority.
async fn connect(authority: &Authority, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(authority.path("ca.pem")).expect("a certificate");
    roots.add(certificate).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = builder
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("chancery.internal").expect("a name");
    TlsConnector::from(Arc::new(client)).connect(name, stream).await
}

/// True if the TLS listener at `address` has a certificate of this authority.
async fn answers(authority: &Authority, address: SocketAddr) -> bool {
    connect(authority, address).await.is_ok()
}

async fn warnings_of(server: &Server, node: &str) -> Value {
    server.get(&format!("/api/v1/clients/{node}")).await["clients"][0]["warnings"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_with_a_certificate_gets_everything_and_the_secret_too() {
    let _shared = shared().await;
    let (ours, stranger, edge) = (Authority::new(), Authority::new(), Authority::new());
    let address = own_address();
    let folder = folder(&[
        (
            "routes/hello",
            json!({ "match": "/hello", "to": { "respond": { "status": 200, "body": "hello" } } }),
        ),
        (
            "listeners/plain",
            serde_json::from_str(&listener(own_address())).expect("a listener"),
        ),
        ("xds/listeners/secure", secure_listener(address)),
        ("xds/secrets/edge", secret(&edge, "server")),
    ]);
    let arguments = [["--dir", "gateway"].map(str::to_owned).to_vec(), tls_arguments(&ours)].concat();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start_on_all_addresses(folder, &arguments).await;
    server.ready().await;
    let envoy = Envoy::start_with(&mtls(&server, &ours, &ours), "edge-1").await;
    envoy.ready().await;
    eventually(LIMIT, || answers(&edge, address), true).await;
    assert_eq!(warnings_of(&server, "edge-1").await, json!([]));
    assert_eq!(envoy.rejections().await, 0, "{}", envoy.log());

    // A certificate of another authority, on either side, ends at the handshake.
    let wrong_client = Envoy::start_with(&mtls(&server, &ours, &stranger), "stranger-1").await;
    let wrong_server = Envoy::start_with(&mtls(&server, &stranger, &ours), "stranger-2").await;
    for refused in [&wrong_client, &wrong_server] {
        eventually(
            LIMIT,
            || async { refused.stat("cluster_manager.cds.update_failure").await > 0 },
            true,
        )
        .await;
        assert_eq!(refused.stat("cluster_manager.cds.update_success").await, 0);
    }
    drop((wrong_client, wrong_server));

    // New certificates and another client CA: the open stream stays open, new connections are verified with the new
    // ones.
    let connected_at = server.get("/api/v1/clients/edge-1").await["clients"][0]["connected_at"].clone();
    ours.put("server", &stranger.issue());
    fs::copy(stranger.path("ca.pem"), ours.path("ca.pem")).expect("another client CA");
    server.hang_up();
    let taken = || async {
        server
            .log()
            .contains("New xDS certificates are loaded; new connections use them")
    };
    eventually(LIMIT, taken, true).await;
    let of_the_new = Envoy::start_with(&mtls(&server, &stranger, &stranger), "edge-2").await;
    of_the_new.ready().await;
    let new_edge = Authority::new();
    write(server.folder(), "xds/secrets/edge", &secret(&new_edge, "server"));
    eventually(LIMIT, || answers(&new_edge, address), true).await;
    let clients = server.get("/api/v1/clients/edge-1").await;
    assert_eq!(
        clients["clients"][0]["connected_at"], connected_at,
        "it is the same stream"
    );
    assert_eq!(clients["clients"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_in_plaintext_from_outside_gets_everything_but_the_secret() {
    let _shared = shared().await;
    let edge = Authority::new();
    let (secure, plain) = (own_address(), own_address());
    let folder = folder(&[
        (
            "routes/hello",
            json!({ "match": "/hello", "to": { "respond": { "status": 200, "body": "hello" } } }),
        ),
        (
            "listeners/plain",
            serde_json::from_str(&listener(plain)).expect("a listener"),
        ),
        ("xds/listeners/secure", secure_listener(secure)),
        ("xds/secrets/edge", secret(&edge, "server")),
    ]);
    let server = Server::start_on_all_addresses(folder, &["--dir", "gateway"]).await;
    server.ready().await;
    let bootstrap = Bootstrap::Delta.text(SocketAddr::new(outside(), server.xds().port()));
    let bootstrap = bootstrap.replace(
        &format!("address: 127.0.0.1, port_value: {}", server.xds().port()),
        &format!("address: {}, port_value: {}", outside(), server.xds().port()),
    );
    let envoy = Envoy::start_with(&bootstrap, "edge-1").await;
    envoy.ready().await;
    let http = http_client();
    eventually(
        LIMIT,
        || async { ask(&http, plain, &"GET /hello".into()).await.status },
        200,
    )
    .await;
    eventually(LIMIT, || warnings_of(&server, "edge-1"), json!(["secrets_withheld"])).await;
    assert!(!answers(&edge, secure).await);
    assert!(server.log().contains("--plaintext-secrets"), "the log says what to do");
}

/// A bootstrap that also reports load, with the interval of the server.
fn reporting(xds: SocketAddr) -> String {
    let cluster_manager = "\ncluster_manager:\n  load_stats_config:\n    api_type: GRPC\n    transport_api_version: V3\n    \
                           grpc_services:\n      - envoy_grpc: { cluster_name: chancery }\n";
    Bootstrap::Delta.text(xds) + cluster_manager
}

// PX-14
#[tokio::test(flavor = "multi_thread")]
async fn load_that_envoy_reports_shows_in_the_metrics() {
    let _shared = shared().await;
    let upstream = Upstream::start("users").await;
    let address = own_address();
    let folder = folder(&[
        (
            "clusters/users",
            json!({ "endpoints": [{ "address": upstream.address().to_string() }] }),
        ),
        ("routes/users", json!({ "match": "/users", "to": "users" })),
        (
            "listeners/edge",
            serde_json::from_str(&listener(address)).expect("a listener"),
        ),
    ]);
    let server = Server::start_in(folder, &["--dir", "gateway"]).await;
    server.ready().await;
    let envoy = Envoy::start_with(&reporting(server.xds()), "edge-1").await;
    envoy.ready().await;
    let counted = |metric: &'static str| {
        let server = &server;
        async move {
            server
                .metric(&format!("chancery_load_requests_{metric}{{cluster=\"users\"}}"))
                .await
        }
    };
    // Envoy counts for a cluster from the first period that begins after the cluster is there.
    eventually(REPORTED_WITHIN, || counted("issued_total"), Some(0.0)).await;
    let http = http_client();
    eventually(
        LIMIT,
        || async { ask(&http, address, &"GET /users".into()).await.status },
        200,
    )
    .await;
    for _ in 0..20 {
        assert_eq!(ask(&http, address, &"GET /users".into()).await.status, 200);
    }
    let issued = Some(upstream.requests() as f64);
    eventually(REPORTED_WITHIN, || counted("issued_total"), issued).await;
    assert_eq!(
        (counted("successful_total").await, counted("error_total").await),
        (issued, Some(0.0))
    );
    assert_eq!(counted("in_progress").await, Some(0.0));
}
