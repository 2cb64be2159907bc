//! Answers of the admin port that nobody reads, connections that say nothing, and answers made of hostile names.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::ads_client::{ADS_DELTA, delta, node, types};
use crate::trial::{MIB, Trial};
use crate::wire::{self, crowd};

/// What the attacks of this module may cost: JSON of large resources (docs/operating.md).
const BUDGET: u64 = 256 * MIB;

/// Routes whose answer has almost a megabyte, and takes many times that while it is made.
const ROUTES: usize = 500;

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// Ask, and read nothing.
async fn ask(connection: &mut TcpStream, path: &str) -> Result<(), wire::Failure> {
    Ok(connection.write_all(&get(path)).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads() {
    let route = |number: usize| {
        let document = format!(
            r#"{{"match": "/route/{number}", "to": "{}", "timeout": "7s", "response_headers": {{"set": {{"x-number": "{number}"}}}}}}"#,
            crate::fleet::CLUSTER
        );
        (format!("routes/route-{number}"), document)
    };
    let documents: Vec<_> = (0..ROUTES).map(route).collect();
    let trial = Trial::start(&documents, &[]).await;
    trial
        .withstands(
            "120 answers of /api/v1/snapshot/routes that nobody reads",
            BUDGET,
            |target| async move {
                crowd(120, move || async move {
                    let mut connection = wire::dial(target.admin).await?;
                    ask(&mut connection, "/api/v1/snapshot/routes").await?;
                    // Held open, until the server ends it.
                    let mut rest = [0];
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    connection.read_exact(&mut rest).await?;
                    Ok(())
                })
                .await;
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "600 silent connections to the admin port",
            BUDGET,
            |target| async move {
                crowd(600, move || async move {
                    let mut connection = wire::dial(target.admin).await?;
                    connection.read_to_end(&mut Vec::new()).await?;
                    Ok(())
                })
                .await;
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_with_hundreds_of_thousands_of_names() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "/api/v1/clients with 900,000 hostile names",
            BUDGET,
            |target| async move {
                let connection = wire::connect(target.xds).await.unwrap();
                for client in 0..3 {
                    let connection = connection.clone();
                    tokio::spawn(async move {
                        let (response, mut stream) = wire::open(&connection, ADS_DELTA).await?;
                        // A turn of a debug build with a million names, all that a stream may have, takes seconds.
                        let names = (0..299_990).map(|number| format!("\u{1b}{client}{number}"));
                        let request = DeltaDiscoveryRequest {
                            node: node(&format!("hostile-{client}")),
                            resource_names_subscribe: names.collect(),
                            ..delta(types::ENDPOINT, &[], &[])
                        };
                        wire::send(&mut stream, wire::message(&request.encode_to_vec())).await?;
                        wire::drain(response).await
                    });
                }
                crowd(4, move || async move {
                    let mut connection = wire::dial(target.admin).await?;
                    ask(&mut connection, "/api/v1/clients?names=true").await?;
                    connection.read_exact(&mut vec![0; 8 * 1024 * 1024]).await?;
                    Ok(())
                })
                .await;
            },
        )
        .await;
}
