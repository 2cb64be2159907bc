//! `chancery serve` as a process, with changes by a folder, a proxy and an operator from outside.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::support::ads_client::{ADS_DELTA, DeltaStream, connect, contents, delta, delta_ack, refusal, types};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::Server;
use crate::support::tools;

const LIMIT: Duration = Duration::from_secs(5);

/// A folder with these files below `gateway/`.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::Builder::new().prefix("chancery-serve-").tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join("gateway").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// A ready server on these files.
async fn serve(files: &[(&str, &str)], arguments: &[&str]) -> Server {
    let server = Server::start_in(folder(files), &[&["--dir", "gateway"], arguments].concat()).await;
    server.ready().await;
    server
}

/// Key, state and reason of every document.
async fn states(server: &Server) -> Vec<(String, String, Value)> {
    let answer = server.get("/api/v1/documents").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let documents = answer["documents"].as_array().unwrap().iter();
    documents
        .map(|document| {
            (
                text(&document["key"]),
                text(&document["state"]),
                document["reason"].clone(),
            )
        })
        .collect()
}

fn state(key: &str, state: &str, reason: Value) -> (String, String, Value) {
    (format!("/gateway/{key}"), state.to_owned(), reason)
}

const USERS: (&str, &str) = (
    "clusters/users.json",
    r#"{"endpoints": [{"address": "10.0.0.1:8080"}]}"#,
);
const ROUTE: (&str, &str) = ("routes/users.json", r#"{"match": "/v1/users", "to": "users"}"#);

#[tokio::test]
async fn a_second_file_for_a_key_is_rejected_until_it_is_gone() {
    let second = ("routes/users.yaml", "match: /v2\nto: users\n");
    let server = serve(&[USERS, ROUTE, second], &[]).await;
    let reason = "routes/users.yaml is a second file for the same key, routes/users.json serves";
    let expected = vec![
        state("routes/users", "accepted", Value::Null),
        state("routes/users", "rejected", json!(reason)),
        state("clusters/users", "accepted", Value::Null),
    ];
    eventually(LIMIT, || states(&server), expected.clone()).await;
    assert_eq!(
        server
            .metric("chancery_documents{kind=\"routes\",state=\"rejected\"}")
            .await,
        Some(1.0)
    );
    assert!(server.log().contains(reason), "{}", server.log());

    let url = format!("http://{}/api/v1/documents/routes/users", server.admin());
    let refused = reqwest::Client::new().delete(url).send().await.unwrap();
    assert_eq!(refused.status(), reqwest::StatusCode::CONFLICT);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(
        (&problem["code"], &problem["retryable"]),
        (&json!("second_file"), &json!(false))
    );

    fs::remove_file(server.folder().join("gateway/routes/users.yaml")).unwrap();
    let rest = [expected[0].clone(), expected[2].clone()].to_vec();
    eventually(LIMIT, || states(&server), rest).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_rejected_by_its_key() {
    let server = serve(&[USERS], &[]).await;
    fs::create_dir(server.folder().join("gateway/routes")).unwrap();
    std::os::unix::fs::symlink("nowhere", server.folder().join("gateway/routes/lost.json")).unwrap();
    let observe = || async { server.try_get("/api/v1/documents/routes/lost").await.unwrap().1["state"].clone() };
    eventually(LIMIT, observe, json!("rejected")).await;
    let shown = server.get("/api/v1/documents/routes/lost").await;
    assert!(
        shown["reason"].as_str().unwrap().contains("routes/lost.json"),
        "{shown}"
    );
    assert_eq!((&shown["revision"], shown.get("value")), (&Value::Null, None));
}

#[tokio::test]
async fn what_a_connected_proxy_refuses_shows_until_it_takes_a_later_text() {
    let server = serve(&[USERS, ROUTE], &[]).await;
    let channel = connect(server.xds()).await;
    let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    stream.send(delta(types::CLUSTER, &[], &[]));
    let clusters = stream.receive().await;
    assert_eq!(contents(&clusters).0, ["users"]);
    stream.send(delta_ack(&clusters));
    stream.send(delta(types::ROUTE, &["default"], &[]));
    let routes = stream.receive().await;
    let mut nack = delta_ack(&routes);
    nack.error_detail = refusal("no such filter");
    stream.send(nack);
    let reason = json!("refused by the proxy n1: no such filter");
    let all = |route| vec![route, state("clusters/users", "accepted", Value::Null)];
    eventually(
        LIMIT,
        || states(&server),
        all(state("routes/users", "refused", reason.clone())),
    )
    .await;
    assert_eq!(server.get("/api/v1/documents/routes/users").await["reason"], reason);

    fs::write(
        server.folder().join("gateway/routes/users.json"),
        r#"{"match": "/v3", "to": "users"}"#,
    )
    .unwrap();
    let mended = stream.receive().await;
    assert_eq!(contents(&mended).0, ["default"]);
    stream.send(delta_ack(&mended));
    eventually(
        LIMIT,
        || states(&server),
        all(state("routes/users", "accepted", Value::Null)),
    )
    .await;
}

#[tokio::test]
async fn older_routes_below_another_prefix_keep_their_keys() {
    let etcd = Etcd::start().await;
    let older = r#"{"path": "/v1/users", "service": "users"}"#;
    etcd.client()
        .await
        .put("/old/UserService/v1/GetUser", older, None)
        .await
        .unwrap();
    let server = Server::start(&["--etcd", &etcd.endpoint(), "--routes-prefix", "/old/"]).await;
    server.ready().await;
    let shown = server.get("/api/v1/documents/routes/UserService/v1/GetUser").await;
    assert_eq!(
        (&shown["key"], &shown["state"]),
        (&json!("/old/UserService/v1/GetUser"), &json!("accepted"))
    );
    let routes = server.get("/api/v1/snapshot/routes/default").await;
    assert!(routes.to_string().contains("routes/UserService/v1/GetUser"), "{routes}");
}

#[tokio::test]
async fn what_is_known_of_etcd_shows_as_metrics() {
    let etcd = Etcd::start().await;
    let server = Server::on_etcd(&etcd).await;
    server.ready().await;
    let text = server.get("/metrics").await.as_str().unwrap().to_owned();
    let page = include_str!("../../docs/api.md");
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let undocumented: Vec<&str> = names.filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(undocumented.is_empty(), "not in docs/api.md: {undocumented:?}");
    let endpoint = etcd.endpoint();
    for series in [
        &*format!("etcd_connected_endpoint{{prefix=\"/gateway/\",endpoint=\"{endpoint}\"}} 1"),
        "etcd_store_revision{prefix=\"/services/\"} 1",
        "etcd_lists_total{watch=\"documents\",reason=\"start\"} 1",
        "etcd_stream_errors_total{class=\"connection\"} 0",
        "etcd_token_refresh_total{result=\"failed\"} 0",
        "etcd_fragments_total 0",
        "etcd_events_dropped_old_total 0",
        "etcd_order_violations_total 0",
        "etcd_lists_total{watch=\"registrations\",reason=\"fork\"} 0",
        "etcd_events_total{watch=\"documents\",type=\"put\"} 0",
        "chancery_nacks_total{type=\"listeners\"} 0",
    ] {
        assert!(
            text.lines().any(|line| line == series),
            "{series} is missing in\n{text}"
        );
    }
}

/// The metrics in the format of this `Accept` header, and the `Content-Type`.
async fn metrics(server: &Server, accept: &str) -> (String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/metrics", server.admin());
    let answer = client.get(url).header("accept", accept).send().await.unwrap();
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (content_type, answer.text().await.unwrap())
}

/// Lines that are no comments, without their values: ages move between two scrapes.
fn series(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut series: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap().0).collect();
    series.sort_unstable();
    series
}

/// Run promtool with this on stdin.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new(tools::binary("promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "promtool {arguments:?}: {}\n{input}",
        String::from_utf8_lossy(&said)
    );
}

#[tokio::test]
async fn both_formats_of_metrics_are_as_prometheus_wants_them() {
    let etcd = Etcd::start().await;
    let server = Server::on_etcd(&etcd).await;
    server.ready().await;

    let (content_type, classic) = metrics(&server, "text/plain").await;
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    promtool(&["check", "metrics"], &classic);

    let (content_type, open_metrics) = metrics(&server, "application/openmetrics-text;version=1.0.0").await;
    assert_eq!(
        content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert_eq!(series(&classic), series(&open_metrics), "the same series in both");
    // `promtool check metrics` reads only classic text. The command that makes blocks reads OpenMetrics, with a time on
    // each sample.
    let timed: String = open_metrics
        .lines()
        .map(|line| match line.starts_with('#') {
            true => format!("{line}\n"),
            false => format!("{line} 1796021440\n"),
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (file, blocks) = (folder.path().join("metrics"), folder.path().join("blocks"));
    fs::write(&file, timed).unwrap();
    let output = Command::new(tools::binary("promtool"))
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&file, &blocks])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}\n{open_metrics}");
}

#[tokio::test]
async fn a_folder_has_no_metrics_of_etcd() {
    let server = serve(&[USERS], &[]).await;
    let (_, text) = metrics(&server, "*/*").await;
    assert!(text.contains("chancery_snapshot_publishes_total"), "{text}");
    assert!(!text.contains("etcd_"), "{text}");
}

#[tokio::test]
async fn a_name_that_no_file_can_have_is_told_as_a_mistake_of_the_request() {
    let server = serve(&[USERS], &[]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let put = async |path: &str, body: &'static str| {
        let url = format!("http://{}/api/v1/documents/{path}", server.admin());
        let answer = client.put(url).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, body) = put("routes/a//b", ROUTE.1).await;
    assert_eq!(status, 422, "{body}");
    for name in ["a//b".to_owned(), "x".repeat(300)] {
        let (status, body) = put(&format!("services/users/{name}"), "10.0.0.1:80").await;
        assert_eq!(status, 400, "{body}");
        assert!(
            body.contains("\"invalid_request\"") && body.contains("file name"),
            "{body}"
        );
    }
}

/// Write a new certificate of 127.0.0.1 and its key into a folder, and return the certificate.
fn new_certificate(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(folder.join("server.key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("server.pem"), made.cert.pem()).unwrap();
    made.cert.pem()
}

/// A connection by a client that trusts this certificate alone.
async fn connect_trusting(server: &Server, certificate: &str) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate));
    Endpoint::from_shared(format!("https://{}", server.xds()))
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect()
        .await
}

#[tokio::test]
async fn a_plaintext_client_of_the_tls_port_is_named_once() {
    let folder = folder(&[USERS]);
    new_certificate(folder.path());
    let tls = ["--xds-tls-cert", "server.pem", "--xds-tls-key", "server.key"];
    let server = Server::start_in(folder, &[&["--dir", "gateway"], tls.as_slice()].concat()).await;
    server.ready().await;
    for _ in 0..3 {
        let mut client = TcpStream::connect(server.xds()).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.read_to_end(&mut Vec::new()).await.ok();
    }
    let lines = || async { server.log().matches("speaks plain text to the TLS port").count() };
    eventually(LIMIT, lines, 1).await;
}

#[tokio::test]
async fn a_hangup_names_what_needs_a_restart_and_renews_the_certificate() {
    let folder = folder(&[USERS]);
    fs::write(folder.path().join("chancery.toml"), "grace = \"10s\"\n").unwrap();
    let first = new_certificate(folder.path());
    let tls = ["--xds-tls-cert", "server.pem", "--xds-tls-key", "server.key"];
    let arguments = [&["--dir", "gateway", "--config", "chancery.toml"], tls.as_slice()].concat();
    let server = Server::start_in(folder, &arguments).await;
    server.ready().await;
    let channel = connect_trusting(&server, &first).await.unwrap();
    let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    stream.send(delta(types::CLUSTER, &[], &[]));
    let clusters = stream.receive().await;
    stream.send(delta_ack(&clusters));

    let second = new_certificate(server.folder());
    fs::write(server.folder().join("chancery.toml"), "grace = \"20s\"\n").unwrap();
    server.hang_up();
    let said = || async { server.log().contains("take effect at the next start") && server.log().contains("--grace") };
    eventually(LIMIT, said, true).await;
    eventually(
        LIMIT,
        || async { connect_trusting(&server, &second).await.is_ok() },
        true,
    )
    .await;
    assert!(
        connect_trusting(&server, &first).await.is_err(),
        "the certificate in use is the new one alone"
    );

    fs::write(server.folder().join("gateway/clusters/orders.json"), USERS.1).unwrap();
    assert_eq!(contents(&stream.receive().await).0, ["orders"]);
}
