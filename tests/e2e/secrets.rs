//! The certificate of a listener comes over SDS and is replaced under load: new connections get the new one, and no
//! connection fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::calls::{Answer, Calls, Tally};
use crate::listeners::connect_tls;
use crate::services::secure_listener;
use crate::support::authority::Authority;
use crate::support::envoy::{Bootstrap, own_address};
use crate::support::eventually::eventually;
use crate::world::{LIMIT, World, shared};

with_both_bootstraps!(a_certificate_is_replaced_under_load);

const SECRET: &str = "/gateway/secrets/edge";
/// How often it is replaced.
const TIMES: usize = 3;
/// Pause of the clients between requests.
const PAUSE: Duration = Duration::from_millis(10);

async fn a_certificate_is_replaced_under_load(bootstrap: Bootstrap) {
    let _shared = shared().await;
    let (world, authority) = (World::start(bootstrap).await, Arc::new(Authority::new()));
    let publish = async || {
        world.put(SECRET, secret(&authority).to_string()).await;
    };
    replace_under_load(&world, &authority, publish).await;
    println!("{bootstrap:?}: by documents");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_files_is_replaced_under_load() {
    let _shared = shared().await;
    let authority = Arc::new(Authority::new());
    let folder = authority.path("").display().to_string();
    let world = World::start_with(Bootstrap::Delta, &["--secret-dir", &folder]).await;
    let path = |name: &str| authority.path(name).display().to_string();
    let files = json!({ "files": { "certificate": path("server.pem"), "private_key": path("server.key") } });
    world.put(SECRET, files.to_string()).await;
    // The server follows the files by itself.
    replace_under_load(&world, &authority, async || {}).await;
    println!("by files");
}

/// Replace the certificate of the secret under load; `publish` tells the server of the files of the authority.
async fn replace_under_load(world: &World, authority: &Arc<Authority>, publish: impl AsyncFn()) {
    let site = Site {
        authority: Arc::clone(authority),
        address: own_address(),
        name: "chancery.internal",
    };
    publish().await;
    world
        .put(
            "/gateway/xds/listeners/secure",
            secure_listener(site.address).to_string(),
        )
        .await;
    let mut certificates = vec![current(authority, "server")];
    let seen = || async { fresh(&site).await.ok() };
    eventually(LIMIT, seen, Some(certificates[0].clone())).await;

    let (new, lasting) = (Calls::new(), Calls::new());
    let mut clients = JoinSet::new();
    clients.spawn(connect_anew(site.clone(), new.clone()));
    clients.spawn(keep_alive(site.clone(), lasting.clone()));
    for _ in 0..TIMES {
        new.more(10).await;
        authority.renew("server");
        certificates.push(current(authority, "server"));
        publish().await;
        eventually(LIMIT, seen, certificates.last().cloned()).await;
        // A request from before the change may end only now.
        new.more(1).await;
        let count = new.count();
        new.more(10).await;
        let after = new.since(count);
        assert_eq!(
            after.answered_by(),
            certificates.last().map(|last| vec![last.as_str()]),
            "{after:?}"
        );
    }
    lasting.more(10).await;
    clients.shutdown().await;
    let Tally { by, failures } = new.since(0);
    assert_eq!(failures, Vec::<String>::new(), "new connections");
    certificates.sort();
    assert_eq!(by.keys().cloned().collect::<Vec<_>>(), certificates);
    assert_eq!(
        lasting.since(0).failures,
        Vec::<String>::new(),
        "a connection from before"
    );
    world.nothing_was_refused().await;
    let shown = world.server.get("/api/v1/documents/secrets/edge").await;
    assert_eq!(shown["state"], "accepted");
    assert!(!shown.to_string().contains("PRIVATE KEY"), "{shown}");
    println!(
        "{TIMES} certificates replaced, {} new connections, {} requests over one",
        new.count(),
        lasting.count()
    );
}

/// The secrets document of the certificate that is in the files now.
fn secret(authority: &Authority) -> Value {
    json!({ "certificate": authority.read("server.pem"), "private_key": authority.read("server.key") })
}

/// Clients of a listener with TLS.
#[derive(Clone)]
pub(crate) struct Site {
    /// The authority of its certificate.
    pub(crate) authority: Arc<Authority>,
    pub(crate) address: SocketAddr,
    pub(crate) name: &'static str,
}

/// The certificate that is in the pair of files of this name now.
pub(crate) fn current(authority: &Authority, pair: &str) -> String {
    let certificate = CertificateDer::from_pem_file(authority.path(&format!("{pair}.pem"))).expect("a certificate");
    format!("{:02x?}", &certificate[certificate.len() - 8..])
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A new connection: the certificate that it meets.
async fn open(site: &Site) -> Result<(String, SendRequest<Empty<Bytes>>), Failure> {
    let connected = connect_tls(site.address, site.name, &site.authority, None);
    let stream = timeout(LIMIT, connected).await??;
    let met = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or("no certificate")?;
    let met = format!("{:02x?}", &met[met.len() - 8..]);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok((met, sender))
}

async fn ask(site: &Site, sender: &mut SendRequest<Empty<Bytes>>) -> Result<(), Failure> {
    let request = Request::builder()
        .uri("/")
        .header("host", site.name)
        .body(Empty::new())?;
    sender.ready().await?;
    let answer = timeout(LIMIT, sender.send_request(request)).await??;
    let status = answer.status();
    answer.into_body().collect().await?;
    if status.is_success() {
        Ok(())
    } else {
        Err(status.to_string().into())
    }
}

/// One request over a new connection.
pub(crate) async fn fresh(site: &Site) -> Answer {
    let answer = async {
        let (met, mut sender) = open(site).await?;
        ask(site, &mut sender).await?;
        Ok::<_, Failure>(met)
    };
    answer.await.map_err(|failure| failure.to_string())
}

pub(crate) async fn connect_anew(site: Site, calls: Calls) {
    loop {
        calls.record(fresh(&site).await);
        sleep(PAUSE).await;
    }
}

/// Requests over one connection.
pub(crate) async fn keep_alive(site: Site, calls: Calls) {
    let (met, mut sender) = open(&site).await.expect("it was there a moment ago");
    loop {
        let answer = ask(&site, &mut sender).await;
        calls.record(answer.map(|()| met.clone()).map_err(|failure| failure.to_string()));
        sleep(PAUSE).await;
    }
}
