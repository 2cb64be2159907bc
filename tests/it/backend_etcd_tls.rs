//! The etcd backend over TLS: verification of etcd, the client certificate, and files that change while the backend
//! runs.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use chancery::backend::etcd::{Etcd as Store, Options};
use chancery::backend::{Backend, Event, Expect, WatchControl, Write, WriteError};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::authority::Authority;
use crate::support::etcd::Etcd;

const LIMIT: Duration = Duration::from_secs(25);

/// An etcd that accepts only clients of this authority, and its address. Its default address has no TLS.
pub(crate) async fn start(authority: &Authority) -> (Etcd, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("https://127.0.0.1:{port}");
    let listen = format!("CLIENT_URL,{address}");
    let [certificate, key, ca] =
        ["server.pem", "server.key", "ca.pem"].map(|name| authority.path(name).display().to_string());
    let files = [
        "--cert-file",
        &certificate,
        "--key-file",
        &key,
        "--trusted-ca-file",
        &ca,
        "--client-cert-auth",
    ];
    let etcd = Etcd::start_with(&[["--listen-client-urls", &listen].as_slice(), &files].concat()).await;
    (etcd, address)
}

fn options(address: &str, trusts: &Authority, is: Option<&Authority>) -> Options {
    Options {
        endpoints: vec![address.to_owned()],
        ca: Some(trusts.path("ca.pem")),
        cert: is.map(|authority| authority.path("client.pem")),
        key: is.map(|authority| authority.path("client.key")),
        ..Options::default()
    }
}

/// A watch of `/gateway/`.
struct Watch {
    store: Arc<Store>,
    events: mpsc::Receiver<Event>,
}

impl Watch {
    fn start(options: Options) -> Self {
        let store = Arc::new(Store::new(options));
        let (sender, events) = mpsc::channel(4);
        let follower = Arc::clone(&store);
        // It ends with the receiver.
        tokio::spawn(async move {
            follower
                .watch("/gateway/", WatchControl::default(), sender, CancellationToken::new())
                .await
        });
        Self { store, events }
    }

    /// Write a key: the next event is the change, without a failure or a list before it.
    async fn sees_a_write(&mut self) {
        let put = Write {
            key: "/gateway/routes/a".into(),
            value: Some("1".into()),
            expect: Expect::Any,
        };
        self.store.write(vec![put]).await.unwrap();
        loop {
            match timeout(LIMIT, self.events.recv()).await.unwrap().unwrap() {
                Event::Alive => {}
                event => {
                    assert!(matches!(event, Event::Changed { .. }), "{event:?}");
                    return;
                }
            }
        }
    }

    /// True if the next event is a list, false if it is a failure.
    async fn is_listed(&mut self) -> bool {
        loop {
            match timeout(LIMIT, self.events.recv())
                .await
                .expect("an event in time")
                .expect("the watch goes on")
            {
                Event::Listed { .. } => return true,
                Event::Failed { reason } => {
                    assert!(!reason.contains("PRIVATE"), "{reason}");
                    return false;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn both_sides_are_verified() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let (_etcd, address) = start(&ours).await;
    assert!(Watch::start(options(&address, &ours, Some(&ours))).is_listed().await);
    assert!(
        !Watch::start(options(&address, &foreign, Some(&ours))).is_listed().await,
        "an etcd of another authority"
    );
    assert!(
        !Watch::start(options(&address, &ours, Some(&foreign))).is_listed().await,
        "a client of another authority"
    );
    assert!(
        !Watch::start(options(&address, &ours, None)).is_listed().await,
        "a client without a certificate"
    );
}

#[tokio::test]
async fn a_reload_uses_the_files_as_they_are_now() {
    let ours = Authority::new();
    let (_etcd, address) = start(&ours).await;
    let mut watch = Watch::start(options(&address, &ours, Some(&ours)));
    assert!(watch.is_listed().await);
    ours.renew("client");
    watch.store.reload().await.unwrap();
    let listed = async { while !watch.is_listed().await {} };
    timeout(LIMIT, listed)
        .await
        .expect("the certificate that is taken is in use");
    assert!(watch.store.list("/gateway/").await.is_ok(), "calls use it too");
    fs::remove_file(ours.path("client.key")).unwrap();
    assert!(watch.store.reload().await.unwrap_err().contains("client.key"));
    assert!(
        watch.store.list("/gateway/").await.is_ok(),
        "the connection in use stays"
    );
}

#[tokio::test]
async fn a_reload_of_files_that_cannot_be_used_keeps_the_connection_and_says_why() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let (_etcd, address) = start(&ours).await;
    let mut watch = Watch::start(options(&address, &ours, Some(&ours)));
    assert!(watch.is_listed().await);
    let (certificate, key) = (ours.read("client.pem"), ours.read("client.key"));
    let write = |name: &str, text: &str| fs::write(ours.path(name), text).unwrap();
    let restore = || {
        write("client.pem", &certificate);
        write("client.key", &key);
    };

    let mut reasons = Vec::new();
    for (name, text) in [
        ("client.pem", "rubbish"),
        ("client.key", "rubbish"),
        (
            "client.key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ),
        ("client.key", &foreign.read("client.key")),
    ] {
        write(name, text);
        let reason = watch.store.reload().await.expect_err("files that cannot be used");
        reasons.push(reason.rsplit(": ").next().unwrap().to_owned());
        restore();
    }
    assert_eq!(
        reasons,
        [
            "found no certificate in PEM",
            "found no private key in PEM",
            "found a private key that cannot be read",
            "the key belongs to another certificate",
        ]
    );
    ours.put("client", &foreign.issue());
    watch.store.reload().await.expect_err("etcd refuses the certificate");

    // The watch is the one of before: a change comes without a failure and without a list.
    restore();
    watch.sees_a_write().await;
}

#[tokio::test]
async fn a_new_connection_uses_the_credentials_before_while_the_files_cannot_be_used() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let (etcd, address) = start(&ours).await;
    let mut watch = Watch::start(options(&address, &ours, Some(&ours)));
    assert!(watch.is_listed().await);
    let key = ours.read("client.key");
    fs::write(ours.path("client.key"), "rubbish").unwrap();
    etcd.restart().await;
    let listed = async { while !watch.is_listed().await {} };
    timeout(LIMIT, listed).await.expect("a new connection");
    watch.sees_a_write().await;

    // Files that can be read, and that etcd refuses.
    fs::write(ours.path("client.key"), &key).unwrap();
    ours.put("client", &foreign.issue());
    etcd.restart().await;
    let listed = async { while !watch.is_listed().await {} };
    timeout(LIMIT, listed).await.expect("a new connection");
    let (_, entries) = watch.store.list("/gateway/").await.unwrap();
    assert_eq!(entries[0].value, "1");
}

/// The files of a client: this authority to trust, and a certificate that it has signed.
fn give_client_files(client: &Authority, authority: &Authority) {
    fs::write(client.path("ca.pem"), authority.read("ca.pem")).unwrap();
    client.put("client", &authority.issue());
}

#[tokio::test]
async fn after_a_rotation_of_the_authority_writes_go_on_without_a_signal() {
    let (server, client) = (Authority::new(), Authority::new());
    give_client_files(&client, &server);
    let (etcd, address) = start(&server).await;
    let store = Store::new(options(&address, &client, Some(&client)));
    let write = |value: &'static str| Write {
        key: "/gateway/routes/a".into(),
        value: Some(value.into()),
        expect: Expect::Any,
    };
    store.write(vec![write("1")]).await.unwrap();

    let next = Authority::new();
    fs::write(server.path("ca.pem"), next.read("ca.pem")).unwrap();
    server.put("server", &next.issue());
    etcd.restart().await;
    let refused = store.write(vec![write("2")]).await;
    assert!(
        matches!(&refused, Err(WriteError::Unavailable(reason)) if reason.contains("UnknownIssuer")),
        "the files of the client are the old ones: {refused:?}"
    );

    give_client_files(&client, &next);
    store
        .write(vec![write("2")])
        .await
        .expect("the files of the client are read again");
    let (_, entries) = store.list("/gateway/").await.unwrap();
    assert_eq!(entries[0].value, "2");
}

#[tokio::test]
async fn a_reload_with_equal_files_lists_nothing_again() {
    let ours = Authority::new();
    let (_etcd, address) = start(&ours).await;
    let mut watch = Watch::start(options(&address, &ours, Some(&ours)));
    assert!(watch.is_listed().await);
    watch.store.reload().await.unwrap();
    watch.sees_a_write().await;
}
