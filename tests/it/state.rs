//! State that outlives the process: one process a directory, and what is said if state cannot be saved.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::ads_client::{ADS_DELTA, DeltaStream, connect, delta, types};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::{Server, run_to_end};

const LIMIT: Duration = Duration::from_secs(10);
const CLUSTER: &str = r#"{"endpoints": [{"address": "10.0.0.1:8080"}]}"#;

/// A ready server on a folder with one cluster.
async fn on_folder(arguments: &[&str]) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = folder.path().join("gateway/clusters/users.json");
    std::fs::create_dir_all(cluster.parent().expect("a folder")).expect("make a folder");
    std::fs::write(&cluster, CLUSTER).expect("write the cluster");
    let server = Server::start_in(folder, &[&["--dir", "gateway"], arguments].concat()).await;
    server.ready().await;
    server
}

/// The saves that fail, of `/readyz`.
async fn unsaved(server: &Server) -> Vec<String> {
    let (status, report) = server.try_get("/readyz").await.expect("an answer");
    assert_eq!(status, 200, "{report}");
    let pending = report["pending"].as_array().expect("a list");
    pending
        .iter()
        .map(|step| step.as_str().expect("a sentence").to_owned())
        .collect()
}

#[tokio::test]
async fn without_the_right_to_write_below_the_state_prefix_the_server_says_so_once() {
    let etcd = Etcd::start().await;
    etcd.add_user("gw", "right", &["/gateway/", "/services/"]);
    etcd.etcdctl(&["role", "grant-permission", "gw", "--prefix=true", "read", "/chancery/"]);
    etcd.enable_auth("root-password");
    let mut client = etcd.client().await;
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, "right").expect("write the password");
    let password = password.display().to_string();
    let arguments = [
        "--etcd",
        &etcd.endpoint(),
        "--etcd-user",
        "gw",
        "--etcd-password-file",
        &password,
    ];
    client
        .put("/gateway/clusters/users", CLUSTER, None)
        .await
        .expect("write");
    let server = Server::start(&arguments).await;
    server.ready().await;
    assert_eq!(unsaved(&server).await, Vec::<String>::new());

    // The last good text of a bad document is shared with other replicas.
    client.put("/gateway/clusters/users", "{}{", None).await.expect("write");
    let refused = "save to --state-prefix (etcdserver: permission denied)".to_owned();
    eventually(LIMIT, || unsaved(&server), vec![refused]).await;
    let failures = r#"chancery_state_save_failures_total{place="prefix"}"#;
    let several = || async { server.metric(failures).await.is_some_and(|failures| failures > 1.0) };
    eventually(LIMIT, several, true).await;
    let said = |server: &Server, message: &str| {
        let log = server.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["message"].as_str().is_some_and(|said| said.starts_with(message)))
            .count()
    };
    assert_eq!(said(&server, "State cannot be saved"), 1);

    etcd.etcdctl(&[
        "role",
        "grant-permission",
        "gw",
        "--prefix=true",
        "readwrite",
        "/chancery/",
    ]);
    eventually(LIMIT, || unsaved(&server), Vec::new()).await;
    assert_eq!(said(&server, "State is saved again"), 1);
}

#[tokio::test]
async fn a_second_process_in_the_same_state_directory_does_not_start() {
    let server = on_folder(&[]).await;
    let arguments = [
        "serve",
        "--dir",
        "gateway",
        "--xds-listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let (code, said) = run_to_end(server.folder(), &arguments, LIMIT).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("another process uses the state directory ./state"),
        "{said}"
    );
}

#[tokio::test]
async fn a_stop_within_a_short_grace_is_clean_although_clients_do_nothing() {
    let mut server = on_folder(&["--grace", "3s"]).await;
    // A stream whose client reads nothing more, and an admin request that never ends.
    let channel = connect(server.xds()).await;
    let stream = DeltaStream::open(&channel, ADS_DELTA).await.expect("a stream");
    stream.send(delta(types::CLUSTER, &[], &[]));
    let mut silent = TcpStream::connect(server.xds()).await.expect("a connection");
    silent
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("a preface");
    let mut request = TcpStream::connect(server.admin()).await.expect("a connection");
    let head = "PUT /api/v1/documents/clusters/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{";
    request.write_all(head.as_bytes()).await.expect("half a request");
    let answered = || async { server.try_get("/healthz").await.is_ok() };
    eventually(LIMIT, answered, true).await;

    server.terminate();
    let status = server.ended(LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", json!(server.log()));
}
