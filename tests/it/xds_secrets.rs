//! The connections that may carry secrets.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use chancery::config::TlsFiles;
use chancery::config::tls::Certificates;
use chancery::xds::options::{Listen, Options};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::support::ads_client::{
    ADS_DELTA, ADS_SOTW, DeltaStream, SotwStream, connect, contents, delta, delta_ack, sotw, types,
};
use crate::support::authority::Authority;
use crate::xds_fixture::{Xds, cluster, options, secret};

const QUIET: Duration = Duration::from_millis(300);
const WITHHELD: &[&str] = &["secrets_withheld"];

/// An address of this machine that others reach it by.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // No packet is sent: `connect` only selects the local address (the target is a network for documentation).
    socket
        .connect("192.0.2.1:9")
        .expect("this machine has an address beside its loopback");
    let address = socket.local_addr().unwrap().ip();
    assert!(
        !address.is_loopback(),
        "this machine has an address beside its loopback"
    );
    address
}

/// A server with a secret that listens on all addresses, and the one that is not loopback.
fn start(options: Options) -> (Xds, SocketAddr) {
    let xds = Xds::start_with(Options {
        listen: Listen::Tcp(([0, 0, 0, 0], 0).into()),
        ..options
    });
    xds.commit(vec![secret("s"), cluster("A", 1)]);
    let port = xds.address.port();
    (xds, SocketAddr::new(own_address(), port))
}

/// True if a delta client gets the secret, and the warnings of its stream.
async fn asked(xds: &Xds, channel: &Channel) -> (bool, Vec<&'static str>) {
    let mut stream = DeltaStream::open(channel, ADS_DELTA).await.unwrap();
    stream.send(delta(types::SECRET, &["s"], &[]));
    let response = stream.receive().await;
    let sent = match contents(&response) {
        (resources, removed) if resources == ["s"] && removed.is_empty() => true,
        (resources, removed) if resources.is_empty() && removed == ["s"] => false,
        other => panic!("{other:?}"),
    };
    (sent, xds.fleet.clients().last().unwrap().warnings.clone())
}

#[tokio::test]
async fn plaintext_from_another_machine_gets_none_and_all_else() {
    let (xds, outside) = start(options());
    assert_eq!(asked(&xds, &connect(outside).await).await, (false, WITHHELD.to_vec()));
    assert_eq!(
        asked(&xds, &connect(format!("127.0.0.1:{}", xds.address.port())).await).await,
        (true, vec![])
    );

    let channel = connect(outside).await;
    let mut stream = SotwStream::open(&channel, ADS_SOTW).await.unwrap();
    stream.send(sotw(types::SECRET, &["s"]));
    stream.quiet(QUIET).await;
    stream.send(sotw(types::CLUSTER, &[]));
    assert_eq!(stream.receive().await.type_url, types::CLUSTER);
    xds.commit(vec![secret("s"), secret("t")]);
    stream.quiet(QUIET).await;
}

#[tokio::test]
async fn a_stream_that_asks_for_no_secret_has_no_warning() {
    let (xds, outside) = start(options());
    let mut stream = DeltaStream::open(&connect(outside).await, ADS_DELTA).await.unwrap();
    stream.send(delta(types::CLUSTER, &[], &[]));
    let clusters = stream.receive().await;
    stream.send(delta_ack(&clusters));
    assert_eq!(xds.fleet.clients()[0].warnings, [""; 0]);
}

#[tokio::test]
async fn an_operator_may_allow_plaintext() {
    let (xds, outside) = start(Options {
        plaintext_secrets: true,
        ..options()
    });
    assert_eq!(asked(&xds, &connect(outside).await).await, (true, vec![]));
}

#[tokio::test]
async fn a_unix_socket_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("xds.sock");
    let xds = Xds::start_with(Options {
        listen: Listen::Unix(path.clone()),
        ..options()
    });
    xds.commit(vec![secret("s")]);
    let channel = Endpoint::from_shared(format!("unix:{}", path.display()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    assert_eq!(asked(&xds, &channel).await, (true, vec![]));
}

/// Options with the certificates of this authority.
fn with_tls(authority: &Authority, client_ca: bool) -> Options {
    let files = TlsFiles {
        certificate: authority.path("server.pem"),
        key: authority.path("server.key"),
        client_ca: client_ca.then(|| authority.path("ca.pem")),
    };
    Options {
        tls: Some(Certificates::load(files).unwrap().subscribe()),
        ..options()
    }
}

/// A connection of a client that trusts the authority and has its client certificate.
async fn connect_tls(address: SocketAddr, authority: &Authority, identity: Option<&Authority>) -> Option<Channel> {
    let mut tls = ClientTlsConfig::new()
        .domain_name("chancery.internal")
        .ca_certificate(Certificate::from_pem(authority.read("ca.pem")));
    if let Some(own) = identity {
        tls = tls.identity(Identity::from_pem(own.read("client.pem"), own.read("client.key")));
    }
    Endpoint::from_shared(format!("https://{address}"))
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect()
        .await
        .ok()
}

#[tokio::test]
async fn a_verified_client_certificate_gets_them_and_tls_alone_does_not() {
    let authority = Authority::new();
    let (mutual, outside) = start(with_tls(&authority, true));
    let known = connect_tls(outside, &authority, Some(&authority)).await.unwrap();
    assert_eq!(asked(&mutual, &known).await, (true, vec![]));
    // A client certificate has no value if the server does not verify it.
    let (one_sided, outside) = start(with_tls(&authority, false));
    let unverified = connect_tls(outside, &authority, Some(&authority)).await.unwrap();
    assert_eq!(asked(&one_sided, &unverified).await, (false, WITHHELD.to_vec()));
}
