//! Streams over a real socket: both variants, per-type services, how streams end.

use std::time::Duration;

use chancery::fleet::{Subscribed, Variant};
use chancery::resource::ResourceType;
use chancery::xds::options::Options;
use prost::Message;
use tokio::io::AsyncReadExt;

use crate::support::ads_client::{
    ADS_DELTA, ADS_SOTW, DeltaStream, SotwStream, connect, contents, delta, delta_ack, refusal, sotw, sotw_ack, types,
};
use crate::support::eventually::eventually;
use crate::xds_fixture::{Xds, cluster, endpoints, fixture, gone, options, route};

const QUIET: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(5);

async fn delta_stream(xds: &Xds) -> DeltaStream {
    DeltaStream::open(&connect(xds.address).await, ADS_DELTA).await.unwrap()
}

async fn sotw_stream(xds: &Xds) -> SotwStream {
    SotwStream::open(&connect(xds.address).await, ADS_SOTW).await.unwrap()
}

#[tokio::test]
async fn a_delta_stream_gets_what_changes() {
    let xds = Xds::start();
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::CLUSTER, &[], &[]));
    let first = stream.receive().await;
    assert_eq!(contents(&first), (vec!["A", "B", "S"], vec![]));
    assert_eq!(
        (&*first.type_url, &*first.control_plane.as_ref().unwrap().identifier),
        (types::CLUSTER, "test r1")
    );
    stream.send(delta_ack(&first));
    stream.quiet(QUIET).await;
    xds.commit(vec![cluster("B", 2)]);
    assert_eq!(contents(&stream.receive().await), (vec!["B"], vec![]));
}

#[tokio::test]
async fn a_sotw_stream_gets_the_whole_set() {
    let xds = Xds::start();
    let mut stream = sotw_stream(&xds).await;
    stream.send(sotw(types::CLUSTER, &[]));
    let first = stream.receive().await;
    assert_eq!(first.resources.len(), 3);
    assert!(first.resources.iter().all(|any| any.type_url == types::CLUSTER));
    stream.send(sotw_ack(&first, &[]));
    stream.quiet(QUIET).await;
    xds.commit(vec![cluster("B", 2)]);
    let second = stream.receive().await;
    assert_eq!(second.resources.len(), 3);
    assert_ne!(
        (&first.version_info, &first.nonce),
        (&second.version_info, &second.nonce)
    );
}

// AD-01, AD-03, AD-07
#[tokio::test]
async fn endpoints_follow_their_cluster_unasked() {
    let xds = Xds::start();
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::CLUSTER, &[], &[]));
    stream.receive().await;
    stream.send(delta(types::ENDPOINT, &["A", "B"], &[]));
    assert_eq!(contents(&stream.receive().await), (vec!["A", "B"], vec![]));
    xds.commit(vec![cluster("A", 2)]);
    let (changed, followed) = (stream.receive().await, stream.receive().await);
    assert_eq!((&*changed.type_url, contents(&changed).0), (types::CLUSTER, vec!["A"]));
    assert_eq!(
        (&*followed.type_url, contents(&followed).0),
        (types::ENDPOINT, vec!["A"])
    );
    stream.quiet(QUIET).await;
}

// AD-02
#[tokio::test]
async fn a_cluster_stays_until_the_routes_that_left_it_are_acknowledged() {
    let xds = Xds::start();
    let mut stream = sotw_stream(&xds).await;
    stream.send(sotw(types::CLUSTER, &[]));
    let clusters = stream.receive().await;
    stream.send(sotw_ack(&clusters, &[]));
    stream.send(sotw(types::ROUTE, &["r1"]));
    let routes = stream.receive().await;
    stream.send(sotw_ack(&routes, &["r1"]));
    xds.commit(vec![cluster("N", 1), gone(ResourceType::Cluster, "A"), route("r1", 2)]);
    let (both, routes) = (stream.receive().await, stream.receive().await);
    assert_eq!((&*both.type_url, both.resources.len()), (types::CLUSTER, 4));
    assert_eq!(&*routes.type_url, types::ROUTE);
    stream.send(sotw_ack(&both, &[]));
    stream.quiet(QUIET).await;
    stream.send(sotw_ack(&routes, &["r1"]));
    let without = stream.receive().await;
    assert_eq!((&*without.type_url, without.resources.len()), (types::CLUSTER, 3));
    stream.quiet(QUIET).await;
}

#[tokio::test]
async fn a_refused_route_keeps_the_old_cluster() {
    let xds = Xds::start();
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::CLUSTER, &[], &[]));
    let clusters = stream.receive().await;
    stream.send(delta_ack(&clusters));
    stream.send(delta(types::ROUTE, &["r1"], &[]));
    let routes = stream.receive().await;
    stream.send(delta_ack(&routes));
    xds.commit(vec![gone(ResourceType::Cluster, "A"), route("r1", 2)]);
    let routes = stream.receive().await;
    assert_eq!(contents(&routes), (vec!["r1"], vec![]));
    let mut nack = delta_ack(&routes);
    nack.error_detail = refusal("no");
    stream.send(nack);
    stream.quiet(QUIET).await;
    let client = &xds.fleet.clients()[0];
    assert_eq!(
        client.types[&ResourceType::Route]
            .nack
            .as_ref()
            .map(|refused| &*refused.message),
        Some("no")
    );
    xds.commit(vec![route("r1", 3)]);
    let routes = stream.receive().await;
    assert_eq!(contents(&routes), (vec!["r1"], vec![]));
    stream.send(delta_ack(&routes));
    assert_eq!(contents(&stream.receive().await), (vec![], vec!["A"]));
}

// GEN-04, GEN-06, GR-14
#[tokio::test]
async fn a_per_type_service_serves_its_type() {
    let xds = Xds::start();
    let channel = connect(xds.address).await;
    let path = "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints";
    let mut stream = SotwStream::open(&channel, path).await.unwrap();
    stream.send(sotw("", &["A"]));
    let response = stream.receive().await;
    assert_eq!((&*response.type_url, response.resources.len()), (types::ENDPOINT, 1));
    xds.commit(vec![endpoints("A", 2)]);
    assert_eq!(stream.receive().await.resources.len(), 1);
    stream.send(sotw(types::CLUSTER, &[]));
    assert_eq!(stream.ended().await.code(), tonic::Code::InvalidArgument);
    let path = "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes";
    let mut stream = DeltaStream::open(&channel, path).await.unwrap();
    stream.send(delta(types::ROUTE, &["r1"], &[]));
    assert_eq!(contents(&stream.receive().await), (vec!["r1"], vec![]));
    let path = "/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts";
    assert_eq!(
        SotwStream::open(&channel, path).await.unwrap_err().code(),
        tonic::Code::Unimplemented
    );
}

// GEN-02, GEN-03, GEN-04
#[tokio::test]
async fn a_request_that_breaks_the_protocol_ends_the_stream() {
    let xds = Xds::start();
    let channel = connect(xds.address).await;
    let no_node = {
        let mut request = sotw(types::CLUSTER, &[]);
        request.node = None;
        request
    };
    for request in [no_node, sotw("", &[])] {
        let mut stream = SotwStream::open(&channel, ADS_SOTW).await.unwrap();
        stream.send(request);
        assert_eq!(stream.ended().await.code(), tonic::Code::InvalidArgument);
    }
}

// docs/decisions/008
#[tokio::test]
async fn before_the_first_publish_a_stream_is_held() {
    let xds = Xds::start_with(options());
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::CLUSTER, &[], &[]));
    stream.quiet(Duration::from_millis(1500)).await;
    xds.commit(vec![cluster("A", 1)]);
    assert_eq!(contents(&stream.receive().await), (vec!["A"], vec![]));
}

// GR-08
// A held stream waits idle for the response that GR-08 requires after a second.
#[tokio::test(start_paused = true)]
async fn a_held_stream_is_idle() {
    let xds = Xds::start_with(options());
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::CLUSTER, &[], &[]));
    // The clock of this runtime advances only while all tasks are idle; the guard uses the clock of the host.
    let (guard, too_long) = tokio::sync::oneshot::channel();
    let (_ended, end) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        end.recv_timeout(PATIENCE * 4).ok();
        guard.send(()).ok();
    });
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(3600)) => {}
        _ = too_long => panic!("the stream is busy"),
    }
    xds.commit(fixture());
    assert_eq!(contents(&stream.receive().await).0, ["A", "B", "S"]);
}

#[tokio::test]
async fn a_reconnect_with_everything_current_gets_one_empty_response() {
    let xds = Xds::start();
    let mut stream = delta_stream(&xds).await;
    let set = xds
        .store
        .current()
        .group("default")
        .unwrap()
        .set(ResourceType::Cluster)
        .clone();
    let mut request = delta(types::CLUSTER, &[], &[]);
    request.initial_resource_versions = set
        .iter()
        .map(|resource| (resource.name.to_string(), resource.version.to_string()))
        .collect();
    stream.send(request);
    stream.quiet(QUIET).await;
    assert_eq!(contents(&stream.receive().await), (vec![], vec![]));
    stream.quiet(Duration::from_millis(1500)).await;
}

// GR-09
#[tokio::test]
async fn a_half_closed_stream_is_finished_and_ends_with_ok() {
    let xds = Xds::start();
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::CLUSTER, &[], &[]));
    stream.half_close();
    assert_eq!(contents(&stream.receive().await), (vec!["A", "B", "S"], vec![]));
    assert_eq!(stream.ended().await.code(), tonic::Code::Ok);
}

#[tokio::test]
async fn a_drain_ends_streams_with_ok_and_the_server() {
    let xds = Xds::start();
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = delta_stream(&xds).await;
        stream.send(delta(types::CLUSTER, &[], &[]));
        stream.receive().await;
        streams.push(stream);
    }
    xds.draining.cancel();
    for stream in &mut streams {
        assert_eq!(stream.ended().await.code(), tonic::Code::Ok);
    }
    drop(streams);
    tokio::time::timeout(PATIENCE, xds.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

// GR-10
#[tokio::test]
async fn a_drain_says_so_at_once_and_ends_each_stream_at_a_moment_of_its_own() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let xds = Xds::start();
    let channel = connect(xds.address).await;
    let health = HealthClient::new(channel.clone())
        .watch(HealthCheckRequest::default())
        .await
        .unwrap();
    let mut health = health.into_inner();
    assert_eq!(
        health.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
        stream.send(delta(types::CLUSTER, &[], &[]));
        stream.receive().await;
        streams.push(stream);
    }
    xds.draining.cancel();
    assert_eq!(
        health.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    drop(health);
    // The connection accepts no further streams, and there is no other connection.
    eventually(
        PATIENCE,
        || async { DeltaStream::open(&channel, ADS_DELTA).await.is_err() },
        true,
    )
    .await;
    let ends = streams.iter_mut().map(|stream| async {
        assert_eq!(stream.ended().await.code(), tonic::Code::Ok);
        tokio::time::Instant::now()
    });
    let mut ends = futures::future::join_all(ends).await;
    ends.sort();
    let widest = ends.last().unwrap().duration_since(ends[0]);
    assert!(widest > Duration::from_millis(100), "all within {widest:?}");
    drop(streams);
    tokio::time::timeout(PATIENCE, xds.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

// GR-07
#[tokio::test]
async fn a_reset_frees_the_stream_at_once() {
    let xds = Xds::start();
    let channel = connect(xds.address).await;
    for _ in 0..200 {
        let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
        stream.send(delta(types::CLUSTER, &[], &[]));
        stream.receive().await;
    }
    let fleet = xds.fleet.clone();
    eventually(PATIENCE, || async { fleet.connected(Variant::Delta) }, 0).await;
    assert_eq!(fleet.clients().len(), 200);
    assert!(fleet.clients().iter().all(|client| client.gone_at.is_some()));
}

// GR-11, GR-12
#[tokio::test]
async fn streams_beyond_the_limit_are_refused_before_anything_is_read() {
    let xds = Xds::start_with(Options {
        max_streams: 2,
        ..options()
    });
    let channel = connect(xds.address).await;
    let _one = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    let two = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    let refused = DeltaStream::open(&channel, ADS_DELTA).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    drop(two);
    let open = || async { DeltaStream::open(&channel, ADS_DELTA).await.is_ok() };
    eventually(PATIENCE, open, true).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_nobody_else_is_harmed() {
    let xds = Xds::start_with(Options {
        max_connections: 2,
        ..options()
    });
    xds.commit(fixture());
    let mut stream = delta_stream(&xds).await;
    let silent = tokio::net::TcpStream::connect(xds.address).await.unwrap();
    let end = async || {
        let mut socket = tokio::net::TcpStream::connect(xds.address).await.unwrap();
        let mut said = [0; 1];
        tokio::time::timeout(PATIENCE, socket.read(&mut said))
            .await
            .expect("it is closed")
    };
    // The server sends no bytes: it closes or resets the connection.
    assert!(!matches!(end().await, Ok(1..)));
    stream.send(delta(types::CLUSTER, &[], &[]));
    assert_eq!(contents(&stream.receive().await).0, ["A", "B", "S"]);
    drop(silent);
    let served = || async {
        let Ok(channel) = tonic::transport::Endpoint::from_shared(format!("http://{}", xds.address))
            .unwrap()
            .connect()
            .await
        else {
            return false;
        };
        DeltaStream::open(&channel, ADS_DELTA).await.is_ok()
    };
    eventually(PATIENCE, served, true).await;
}

// GEN-19
#[tokio::test]
async fn a_request_of_a_hundred_thousand_names_is_taken() {
    let xds = Xds::start();
    let mut stream = delta_stream(&xds).await;
    let names: Vec<String> = (0..100_000).map(|number| format!("{number:0100}")).collect();
    let mut request = delta(types::ENDPOINT, &["A"], &[]);
    request.resource_names_subscribe.extend(names);
    assert!(request.encoded_len() > 10_000_000);
    stream.send(request);
    let response = stream.receive().await;
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (1, 100_000)
    );
}

// GR-06, SW-27
#[tokio::test]
async fn a_slow_reader_skips_what_it_missed() {
    let xds = Xds::start();
    let large = |content| {
        let mut change = endpoints("A", content);
        let body = vec![u8::try_from(content % 250).unwrap(); 1_000_000];
        change.resource = Some(std::sync::Arc::new(chancery::resource::Resource::new(
            "A",
            body,
            Vec::new(),
        )));
        change
    };
    let mut stream = delta_stream(&xds).await;
    stream.send(delta(types::ENDPOINT, &["A"], &[]));
    stream.receive().await;
    for content in 0..200 {
        xds.commit(vec![large(content)]);
        tokio::task::yield_now().await;
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&199) {
        seen.push(stream.receive().await.resources[0].resource.as_ref().unwrap().value[0]);
    }
    assert!(seen.len() <= 20, "{seen:?}");
    stream.quiet(QUIET).await;
}

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_is_reset_and_its_neighbour_goes_on() {
    let xds = Xds::start_with(Options {
        stall_timeout: Duration::from_millis(400),
        ..options()
    });
    let body = vec![7; 32_000_000];
    let resource = chancery::resource::Resource::new("A", body, Vec::new());
    let mut change = endpoints("A", 1);
    change.resource = Some(std::sync::Arc::new(resource));
    xds.commit(vec![change, cluster("A", 1)]);
    let channel = connect(xds.address).await;
    let mut neighbour = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    neighbour.send(delta(types::CLUSTER, &[], &[]));
    neighbour.receive().await;
    let stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    stream.send(delta(types::ENDPOINT, &["A"], &[]));
    let fleet = xds.fleet.clone();
    eventually(PATIENCE, || async { fleet.clients().len() }, 2).await;
    eventually(PATIENCE, || async { fleet.connected(Variant::Delta) }, 1).await;
    xds.commit(vec![cluster("A", 2)]);
    assert_eq!(contents(&neighbour.receive().await), (vec!["A"], vec![]));
    drop(stream);
}

#[tokio::test]
async fn the_fleet_knows_what_a_stream_asked_for_and_holds() {
    let xds = Xds::start();
    let mut stream = sotw_stream(&xds).await;
    stream.send(sotw(types::CLUSTER, &[]));
    let response = stream.receive().await;
    stream.send(sotw_ack(&response, &[]));
    stream.send(sotw(types::ENDPOINT, &["B", "A"]));
    let endpoints = stream.receive().await;
    let client = &xds.fleet.clients_of("n1")[0];
    let clusters = &client.types[&ResourceType::Cluster];
    assert_eq!(clusters.subscribed, Subscribed::Wildcard);
    assert_eq!(
        clusters.acknowledged.as_ref().map(|one| &one.nonce),
        Some(&response.nonce)
    );
    let held = &client.types[&ResourceType::Endpoint];
    assert_eq!(held.subscribed, Subscribed::Names(["A".into(), "B".into()].into()));
    assert_eq!(
        held.sent.as_ref().map(|one| &one.version),
        Some(&endpoints.version_info)
    );
    assert_eq!(
        (&*client.node_cluster, &*client.group, client.variant),
        ("c", "default", Variant::Sotw)
    );
}
