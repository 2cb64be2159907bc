//! Connections and streams that take the places, the turns or the log.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

use crate::fleet::CLUSTER;
use crate::support::ads_client::{ADS_DELTA, ADS_SOTW, DeltaStream, Event, delta, delta_ack, node, refusal, types};
use crate::trial::{MIB, Target, Trial};
use crate::wire::{self, ATTACKER, crowd};

/// What the attacks of this module may cost.
const BUDGET: u64 = 256 * MIB;

/// A gRPC connection from the attacker's address.
async fn grpc(target: Target) -> Result<Channel, wire::Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{}", target.xds))?;
    Ok(endpoint.local_address(Some(ATTACKER.into())).connect().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_old_connection_that_asks_again_and_again() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "20,000 names, again and again on 32 streams of one connection",
            BUDGET,
            |target| async move {
                let channel = grpc(target).await.unwrap();
                let names: Vec<String> = (0..20_000).map(|number| format!("hostile-{number}")).collect();
                crowd(32, move || {
                    let (channel, names) = (channel.clone(), names.clone());
                    async move {
                        let mut stream = DeltaStream::open(&channel, ADS_DELTA).await?;
                        let mut request = delta(types::ENDPOINT, &[], &[]);
                        request.resource_names_subscribe = names;
                        request.node = node("hostile");
                        // Names that do not exist are said to be removed, each time that a client subscribes to them.
                        stream.send(request.clone());
                        while let Event::Response(response) = stream.event(Duration::from_secs(60)).await {
                            request.response_nonce = response.nonce;
                            stream.send(request.clone());
                        }
                        Ok(())
                    }
                })
                .await;
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_with_thousands_of_silent_streams() {
    // In reach of one connection.
    let trial = Trial::start(&[], &["--max-streams", "5000"]).await;
    trial
        .withstands(
            "silent streams on one connection, more than --max-streams",
            BUDGET,
            |target| async move {
                let connection = wire::connect(target.xds).await.unwrap();
                crowd(8, move || {
                    let connection = connection.clone();
                    async move {
                        let mut streams = Vec::new();
                        for _ in 0..2500 {
                            streams.push(wire::open(&connection, ADS_SOTW).await?);
                            tokio::task::yield_now().await;
                        }
                        std::future::pending::<()>().await;
                        drop(streams);
                        Ok(())
                    }
                })
                .await;
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nack_loop() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "NACKs of 16 KiB, each followed by a new subscription",
            BUDGET,
            |target| async move {
                let channel = grpc(target).await.unwrap();
                let number = AtomicUsize::new(0);
                let number: &'static AtomicUsize = Box::leak(Box::new(number));
                crowd(8, move || {
                    let channel = channel.clone();
                    async move {
                        let mut stream = DeltaStream::open(&channel, ADS_DELTA).await?;
                        let mut request = delta(types::CLUSTER, &[CLUSTER], &[]);
                        request.node = node("hostile");
                        stream.send(request);
                        while let Event::Response(response) = stream.event(Duration::from_secs(60)).await {
                            let number = number.fetch_add(1, Ordering::Relaxed);
                            let mut nack = delta_ack(&response);
                            nack.resource_names_subscribe = vec![CLUSTER.to_owned()];
                            nack.error_detail = refusal(&format!("{number}\n\u{1b}[31m{}", "no".repeat(8 * 1024)));
                            stream.send(nack);
                        }
                        Ok(())
                    }
                })
                .await;
            },
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cannot_be_read() {
    let trial = Trial::start(&[], &[]).await;
    trial
        .withstands(
            "streams of rubbish, and connections of rubbish",
            BUDGET,
            |target| async move {
                let one = wire::connect(target.xds).await.unwrap();
                let rubbish = |number: usize| match number % 3 {
                    0 => wire::message(&[0x0a, 0xff, 0xff]),
                    // Twice a node, with another id the second time.
                    1 => {
                        let request = |id: &str| DeltaDiscoveryRequest {
                            node: node(id),
                            ..delta(types::CLUSTER, &[], &[])
                        };
                        let both = ["one", "two\n\u{1b}[31m"].map(|id| wire::message(&request(id).encode_to_vec()));
                        both.concat().into()
                    }
                    _ => wire::message(&delta("type.googleapis.com/rubbish\n", &["\n"], &[]).encode_to_vec()),
                };
                for number in 0..12 {
                    let (one, rubbish) = (one.clone(), rubbish(number));
                    tokio::spawn(crowd(1, move || {
                        let (one, rubbish) = (one.clone(), rubbish.clone());
                        async move {
                            let (response, mut stream) = wire::open(&one, ADS_DELTA).await?;
                            wire::send(&mut stream, rubbish).await?;
                            stream.send_data(Bytes::new(), true)?;
                            wire::drain(response).await
                        }
                    }));
                }
                crowd(8, move || async move {
                    let mut connection = wire::dial(target.xds).await?;
                    connection.write_all(b"GET /\x1b[31m HTTP/1.1\r\n\r\n").await?;
                    connection.read_to_end(&mut Vec::new()).await?;
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
            "4,000 silent connections to the xDS port",
            BUDGET,
            |target| async move {
                let mut silent = Vec::new();
                for _ in 0..4000 {
                    match wire::dial(target.xds).await {
                        Ok(connection) => silent.push(connection),
                        Err(_) => sleep(Duration::from_millis(10)).await,
                    }
                }
                std::future::pending::<()>().await;
                drop(silent);
            },
        )
        .await;
}
