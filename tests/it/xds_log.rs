//! Log lines that clients cause: few, short, and without control characters.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::ads_client::{ADS_SOTW, SotwStream, connect, node, refusal, sotw, sotw_ack, types};
use crate::support::eventually::eventually;
use crate::support::server::Server;

const LIMIT: Duration = Duration::from_secs(10);
/// NACKs, foreign connections and wrong streams, so many of each.
const EVENTS: usize = 200;

/// The lines of the log that have a field `peer`.
fn about_clients(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is an object"));
    lines.filter(|line| line["peer"].is_string()).collect()
}

fn assert_short(value: &Value) {
    match value {
        Value::String(text) => {
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(text.len() <= 256, "{text:?}");
        }
        Value::Array(list) => list.iter().for_each(assert_short),
        Value::Object(fields) => fields.values().for_each(assert_short),
        _ => {}
    }
}

#[tokio::test]
async fn whatever_a_client_does_its_lines_are_few_and_short() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = folder.path().join("gateway/clusters/users.json");
    std::fs::create_dir_all(cluster.parent().unwrap()).unwrap();
    std::fs::write(&cluster, r#"{"endpoints": [{"address": "10.0.0.1:8080"}]}"#).unwrap();
    let mut server = Server::start_in(folder, &["--dir", "gateway"]).await;
    server.ready().await;
    let channel = connect(server.xds()).await;

    // A loop of NACKs with long words that try to forge lines.
    let evil = format!("no\n{{\"level\":\"ERROR\"}}\u{1b}[2J{}", "x".repeat(100_000));
    for _ in 0..EVENTS {
        let mut stream = SotwStream::open(&channel, ADS_SOTW).await.unwrap();
        let mut request = sotw(types::CLUSTER, &[]);
        request.node = node(&format!("a\n\u{1b}{}", "n".repeat(900)));
        stream.send(request);
        let mut nack = sotw_ack(&stream.receive().await, &[]);
        nack.node = None;
        nack.version_info = String::new();
        nack.error_detail = refusal(&evil);
        stream.send(nack);
        stream.half_close();
        stream.ended().await;
    }

    // Connections that speak no HTTP/2, and streams without a node.
    for _ in 0..EVENTS {
        let mut client = TcpStream::connect(server.xds()).await.unwrap();
        client
            .write_all(b"\x1b[2J\nnothing that anybody speaks\n\n")
            .await
            .unwrap();
        client.read_to_end(&mut Vec::new()).await.ok();
        let mut wrong = SotwStream::open(&channel, ADS_SOTW).await.unwrap();
        let mut request = sotw(types::CLUSTER, &[]);
        request.node = None;
        wrong.send(request);
        wrong.ended().await;
    }

    let messages = || async {
        let mut messages: Vec<String> = about_clients(&server)
            .iter()
            .map(|line| line["message"].as_str().unwrap().to_owned())
            .collect();
        messages.sort();
        messages
    };
    let expected = [
        "A proxy NACKed a response",
        "Ended a connection that speaks neither HTTP nor TLS, expected gRPC over HTTP/2",
        "Ended a stream that breaks the protocol",
    ];
    eventually(LIMIT, messages, expected.map(str::to_owned).to_vec()).await;
    about_clients(&server).iter().for_each(assert_short);

    // The end of the process counts the lines that were left out.
    drop(channel);
    server.terminate();
    assert!(server.ended(LIMIT).await.success());
    let log = server.log();
    let left_out = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let left_out: u64 = left_out
        .filter(|line| line["kind"].is_string())
        .filter_map(|line| line["lines"].as_u64())
        .sum();
    assert_eq!(left_out, 3 * (EVENTS as u64 - 1), "{log}");
}
