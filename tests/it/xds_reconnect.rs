//! A proxy reconnects to another server with the same content: the server sends the missing resources, and little else.

use std::collections::HashMap;
use std::time::Duration;

use chancery::resource::ResourceType;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost::Message;

use crate::support::ads_client::{
    ADS_DELTA, ADS_SOTW, DeltaStream, SotwStream, connect, contents, delta, delta_ack, refusal, sotw, types,
};
use crate::support::eventually::eventually;
use crate::xds_fixture::{Xds, cluster, endpoints, gone};

const QUIET: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(5);
/// Number of names in the largest first request. The names are so long that 100,000 exceed gRPC's usual 4 MiB.
const NAMES: usize = 50_000;

async fn delta_stream(xds: &Xds) -> DeltaStream {
    DeltaStream::open(&connect(xds.address).await, ADS_DELTA).await.unwrap()
}

/// The first request of a type on a new stream, from a client that has the resources of earlier responses.
fn reconnecting(type_url: &str, names: &[&str], held: &HashMap<String, String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        initial_resource_versions: held.clone(),
        ..delta(type_url, names, &[])
    }
}

#[tokio::test]
async fn a_delta_client_with_everything_is_sent_endpoints_and_nothing_else() {
    let (one, other) = (Xds::start(), Xds::start());
    let mut stream = delta_stream(&one).await;
    let mut held: HashMap<&str, HashMap<String, String>> = HashMap::new();
    let asked: [(&str, &[&str]); 4] = [
        (types::CLUSTER, &[]),
        (types::ENDPOINT, &["A", "B"]),
        (types::LISTENER, &[]),
        (types::ROUTE, &["r1"]),
    ];
    for (type_url, names) in asked {
        stream.send(delta(type_url, names, &[]));
        let response = stream.receive().await;
        stream.send(delta_ack(&response));
        let versions = response
            .resources
            .into_iter()
            .map(|resource| (resource.name, resource.version));
        held.insert(type_url, versions.collect());
    }
    drop(stream);

    let mut again = delta_stream(&other).await;
    for (type_url, names) in asked {
        again.send(reconnecting(type_url, names, &held[type_url]));
    }
    let response = again.receive().await;
    assert_eq!(
        (&*response.type_url, contents(&response)),
        (types::ENDPOINT, (vec!["A", "B"], vec![]))
    );
    again.send(delta_ack(&response));
    again.quiet(Duration::from_millis(1500)).await;
    let view = other.fleet.clients_of("n1").remove(0);
    for resource_type in [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route] {
        let of_type = &view.types[&resource_type];
        assert!(
            of_type.sent.is_none() && of_type.acknowledged.is_some(),
            "{resource_type}: {of_type:?}"
        );
    }

    // Without endpoints to send, one empty response for clusters comes within a second, and removed resources are
    // named.
    let mut quiet = delta_stream(&other).await;
    quiet.send(reconnecting(types::CLUSTER, &[], &held[types::CLUSTER]));
    quiet.send(reconnecting(types::LISTENER, &[], &held[types::LISTENER]));
    let response = quiet.receive_within(Duration::from_millis(1500)).await;
    assert_eq!(
        (&*response.type_url, contents(&response)),
        (types::CLUSTER, (vec![], vec![]))
    );
    other.commit(vec![gone(ResourceType::Cluster, "S")]);
    let mut later = delta_stream(&other).await;
    later.send(reconnecting(types::CLUSTER, &[], &held[types::CLUSTER]));
    assert_eq!(contents(&later.receive().await), (vec![], vec!["S"]));
}

#[tokio::test]
async fn a_sotw_client_with_everything_is_sent_what_it_names_and_nothing_else() {
    let (one, other) = (Xds::start(), Xds::start());
    let mut stream = SotwStream::open(&connect(one.address).await, ADS_SOTW).await.unwrap();
    stream.send(sotw(types::CLUSTER, &[]));
    let clusters = stream.receive().await;
    stream.send(sotw(types::ENDPOINT, &["A"]));
    let endpoints = stream.receive().await;
    drop(stream);
    let mut again = SotwStream::open(&connect(other.address).await, ADS_SOTW).await.unwrap();
    let mut first = sotw(types::CLUSTER, &[]);
    first.version_info.clone_from(&clusters.version_info);
    again.send(first);
    again.quiet(QUIET).await;
    let mut first = sotw(types::ENDPOINT, &["A"]);
    first.version_info.clone_from(&endpoints.version_info);
    again.send(first);
    let response = again.receive().await;
    assert_eq!(
        (&response.type_url, &response.version_info),
        (&endpoints.type_url, &endpoints.version_info)
    );
    other.commit(vec![cluster("B", 2)]);
    assert_eq!(again.receive().await.resources.len(), 3);
}

// DX-21
#[tokio::test]
async fn what_was_refused_and_is_gone_is_removed_on_the_next_stream() {
    let xds = Xds::start();
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::CLUSTER, &[], &[]));
    let first = stream.receive().await;
    stream.send(delta_ack(&first));
    xds.commit(vec![cluster("good", 1), cluster("bad", 1)]);
    let response = stream.receive().await;
    stream.send(DeltaDiscoveryRequest {
        error_detail: refusal("bad"),
        ..delta_ack(&response)
    });
    let refused = || async {
        xds.fleet.clients_of("n1")[0].types[&ResourceType::Cluster]
            .nack
            .is_some()
    };
    eventually(PATIENCE, refused, true).await;
    drop(stream);
    let gone_at = || async { xds.fleet.clients_of("n1")[0].gone_at.is_some() };
    eventually(PATIENCE, gone_at, true).await;
    xds.commit(vec![
        gone(ResourceType::Cluster, "good"),
        gone(ResourceType::Cluster, "bad"),
    ]);
    let held: HashMap<_, _> = first
        .resources
        .into_iter()
        .map(|resource| (resource.name, resource.version))
        .collect();
    let mut next = delta_stream(&xds).await;
    next.send(reconnecting(types::CLUSTER, &[], &held));
    assert_eq!(contents(&next.receive().await), (vec![], vec!["bad", "good"]));
}

// GEN-19
#[tokio::test]
async fn a_first_request_larger_than_four_mebibytes_is_taken() {
    let xds = Xds::start();
    let names: Vec<String> = (0..NAMES).map(|number| format!("{number:0>90}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["A"]).collect();
    let held = names
        .iter()
        .map(|name| ((*name).to_owned(), "00112233445566778899aabbccddeeff".to_owned()))
        .collect();
    xds.commit(vec![endpoints(names[0], 1)]);

    let mut stream = delta_stream(&xds).await;
    let request = reconnecting(types::ENDPOINT, &names, &held);
    assert!(request.encoded_len() > 2 * 4 * 1024 * 1024);
    stream.send(request);
    let response = stream.receive_within(Duration::from_secs(20)).await;
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (2, NAMES - 1)
    );

    let mut stream = SotwStream::open(&connect(xds.address).await, ADS_SOTW).await.unwrap();
    let request = sotw(types::ENDPOINT, &names);
    assert!(request.encoded_len() > 4 * 1024 * 1024);
    stream.send(request);
    let response = stream.receive_within(Duration::from_secs(20)).await;
    assert_eq!(response.resources.len(), NAMES + 1, "those that do not exist are empty");
}
