//! `chancery serve` without arguments in an empty folder: a sample that real Envoy serves, and edits that take effect
//! at once.

use std::fs;
use std::net::SocketAddr;

use serde_json::json;

use crate::support::envoy::{Bootstrap, Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::server::Server;
use crate::support::upstream::Upstream;
use crate::world::{Ask, LIMIT, ask, http_client, quiet, shared};

with_both_bootstraps!(the_sample_is_served_and_edits_act);

async fn the_sample_is_served_and_edits_act(bootstrap: Bootstrap) {
    // Alone: without listener documents there is a default listener, whose port the test cannot choose.
    let _quiet = quiet().await;
    let server = Server::start(&[]).await;
    server.ready().await;
    let documents = server.folder().join("gateway");
    assert!(documents.is_dir(), "created");
    let snapshot = server.get("/api/v1/snapshot").await;
    assert_eq!(snapshot["groups"]["default"]["source"], "directory");
    let envoy = Envoy::start(bootstrap, server.xds(), "try-1").await;
    envoy.ready().await;
    let http = http_client();
    let upstream = Upstream::start("mine").await;
    let status = async |address: SocketAddr, request: &str| {
        let answer = ask(&http, address, &Ask::from(request)).await;
        (answer.status, answer.upstream)
    };

    let default = SocketAddr::from(([127, 0, 0, 1], 10_000));
    fs::create_dir_all(documents.join("routes")).expect("make a folder");
    let route = json!({ "match": "/mine", "to": upstream.url() }).to_string();
    fs::write(documents.join("routes/mine.json"), route).expect("write a route");
    eventually(LIMIT, || status(default, "GET /mine"), (200, "mine".to_owned())).await;

    // As most editors save: a new file moved over the old one. As YAML, too.
    let moved = own_address();
    fs::create_dir_all(documents.join("listeners")).expect("make a folder");
    fs::write(documents.join(".edge.swp"), "address: \"").expect("write a swap file");
    fs::rename(documents.join(".edge.swp"), documents.join("listeners/.edge.yaml.swp")).expect("move it");
    fs::write(documents.join("edge.tmp"), format!("address: \"{moved}\"\n")).expect("write a listener");
    fs::rename(documents.join("edge.tmp"), documents.join("listeners/edge.yaml")).expect("move it");
    eventually(LIMIT, || status(moved, "GET /mine"), (200, "mine".to_owned())).await;
    fs::remove_file(documents.join("routes/mine.json")).expect("remove the route");
    eventually(LIMIT, || status(moved, "GET /mine"), (404, String::new())).await;
    assert_eq!(envoy.rejections().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_takes_its_routes_by_name() {
    let _shared = shared().await;
    let server = Server::start(&[]).await;
    server.ready().await;
    let address = own_address();
    let own = format!("address: {}, port_value: {}", address.ip(), address.port());
    let bootstrap = Bootstrap::Sidecar.text(server.xds());
    assert!(
        bootstrap.contains("address: 127.0.0.1, port_value: 15001"),
        "where its listener is"
    );
    let bootstrap = bootstrap.replace("address: 127.0.0.1, port_value: 15001", &own);
    let envoy = Envoy::start_with(&bootstrap, "sidecar-1").await;
    envoy.ready().await;
    let http = http_client();
    let hello = async || ask(&http, address, &Ask::from("GET /hello")).await.status;
    eventually(LIMIT, hello, 200).await;
    assert_eq!(envoy.rejections().await, 0);
}
