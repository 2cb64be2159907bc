//! The small services beside xDS: client status, load reports, health, reflection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chancery::xds::options::Options;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ConfigStatus};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, StructMatcher};
use prost::Message;
use prost_types::FileDescriptorProto;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::ads_client::{
    ADS_DELTA, ADS_SOTW, DeltaStream, SotwStream, connect, delta, delta_ack, node, refusal, sotw, sotw_ack, types,
};
use crate::support::eventually::eventually;
use crate::xds_fixture::{Xds, cluster, endpoints, fixture, options, secret};

const PATIENCE: Duration = Duration::from_secs(5);

// ---- client status ----

async fn fetch(channel: &Channel, request: ClientStatusRequest) -> Result<Vec<ClientConfig>, tonic::Status> {
    let mut client = ClientStatusDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    client
        .fetch_client_status(request)
        .await
        .map(|response| response.into_inner().config)
}

fn about(pattern: MatchPattern) -> ClientStatusRequest {
    let node_id = Some(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    });
    let node_matchers = vec![NodeMatcher {
        node_id,
        ..NodeMatcher::default()
    }];
    ClientStatusRequest {
        node_matchers,
        ..ClientStatusRequest::default()
    }
}

/// `type/name` and status of everything that a client has, sorted.
fn statuses(client: &ClientConfig) -> Vec<(String, ConfigStatus)> {
    let word = |type_url: &str| type_url.rsplit('.').next().unwrap().to_owned();
    let configs = client.generic_xds_configs.iter();
    let mut found: Vec<_> = configs
        .map(|one| (format!("{}/{}", word(&one.type_url), one.name), one.config_status()))
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

#[tokio::test]
async fn client_status_tells_who_has_what() {
    use ConfigStatus::{Error, NotSent, Stale, Synced};
    let xds = Xds::start();
    xds.commit(vec![secret("s")]);
    let channel = connect(xds.address).await;
    let mut one = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    one.send(delta(types::CLUSTER, &[], &[]));
    one.send(delta(types::ENDPOINT, &["A", "gone"], &[]));
    one.send(delta(types::SECRET, &["s"], &[]));
    one.send(delta(types::ROUTE, &["r1"], &[]));
    for _ in 0..4 {
        let response = one.receive().await;
        let mut answer = delta_ack(&response);
        match &*response.type_url {
            types::ENDPOINT => continue,
            types::ROUTE => answer.error_detail = refusal("no such filter"),
            _ => {}
        }
        one.send(answer);
    }
    let mut two = SotwStream::open(&channel, ADS_SOTW).await.unwrap();
    let mut request = sotw(types::LISTENER, &[]);
    request.node = node("other");
    two.send(request);
    let listeners = two.receive().await;
    let mut ack = sotw_ack(&listeners, &[]);
    ack.node = None;
    two.send(ack);

    let expected = vec![
        ("Cluster/A".to_owned(), Synced),
        ("Cluster/B".to_owned(), Synced),
        ("Cluster/S".to_owned(), Synced),
        ("ClusterLoadAssignment/A".to_owned(), Stale),
        ("ClusterLoadAssignment/gone".to_owned(), NotSent),
        ("RouteConfiguration/r1".to_owned(), Error),
        ("Secret/s".to_owned(), Synced),
    ];
    let observe = || async {
        let clients = fetch(&channel, about(MatchPattern::Exact("n1".to_owned())))
            .await
            .unwrap();
        clients.iter().map(statuses).collect::<Vec<_>>()
    };
    eventually(PATIENCE, observe, vec![expected]).await;

    let clients = fetch(&channel, ClientStatusRequest::default()).await.unwrap();
    let ids: Vec<_> = clients
        .iter()
        .map(|client| &*client.node.as_ref().unwrap().id)
        .collect();
    assert_eq!(ids, ["n1", "other"]);
    let of = |name: &str, type_url: &str| {
        let found = clients[0]
            .generic_xds_configs
            .iter()
            .find(|one| one.name == name && one.type_url == type_url);
        found.unwrap().clone()
    };
    let route = of("r1", types::ROUTE);
    assert_eq!(route.error_state.unwrap().details, "no such filter");
    assert_eq!(of("A", types::CLUSTER).xds_config.unwrap().type_url, types::CLUSTER);
    assert_eq!(of("s", types::SECRET).xds_config, None, "no secret's content");
    assert!(of("A", types::CLUSTER).last_updated.is_some());
    assert_eq!(clients[1].generic_xds_configs[0].version_info, listeners.version_info);

    drop(one);
    let left = || async { fetch(&channel, ClientStatusRequest::default()).await.unwrap().len() };
    eventually(PATIENCE, left, 1).await;
}

#[tokio::test]
async fn client_status_refuses_what_it_cannot_match_or_hold() {
    let xds = Xds::start();
    let channel = connect(xds.address).await;
    let metadata = NodeMatcher {
        node_metadatas: vec![StructMatcher::default()],
        ..NodeMatcher::default()
    };
    let request = ClientStatusRequest {
        node_matchers: vec![metadata],
        ..ClientStatusRequest::default()
    };
    let status = fetch(&channel, request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("node_metadatas"), "{status}");

    let big: Vec<_> = (0..10)
        .map(|number| {
            let mut change = cluster(&format!("big-{number}"), 1);
            let resource = std::sync::Arc::make_mut(change.resource.as_mut().unwrap());
            resource.body = vec![0; 1 << 20].into();
            change
        })
        .collect();
    xds.commit(big);
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
        stream.send(delta(types::CLUSTER, &[], &[]));
        stream.receive().await;
        streams.push(stream);
    }
    let status = fetch(&channel, ClientStatusRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let names = ClientStatusRequest {
        exclude_resource_contents: true,
        ..ClientStatusRequest::default()
    };
    let clients = fetch(&channel, names.clone()).await.unwrap();
    assert_eq!(clients.len(), 5);
    assert!(
        clients
            .iter()
            .flat_map(|client| &client.generic_xds_configs)
            .all(|one| one.xds_config.is_none())
    );

    // A stream sends the clients that do not fit into one message in further messages, and then reads the next request.
    let nobody = about(MatchPattern::Exact("nobody".to_owned()));
    let requests = tokio_stream::iter([ClientStatusRequest::default(), nobody, names]);
    let mut client = ClientStatusDiscoveryServiceClient::new(channel).max_decoding_message_size(16 << 20);
    let mut responses = client.stream_client_status(requests).await.unwrap().into_inner();
    let mut counts = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        counts.push(response.config.len());
    }
    assert_eq!(counts, [1, 1, 1, 1, 1, 0, 5]);
    drop(streams);
}

// ---- load reports ----

struct LoadStream {
    requests: mpsc::UnboundedSender<LoadStatsRequest>,
    responses: tonic::Streaming<LoadStatsResponse>,
}

impl LoadStream {
    async fn open(channel: &Channel) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = LoadReportingServiceClient::new(channel.clone());
        let responses = client
            .stream_load_stats(UnboundedReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, responses }
    }

    fn send(&self, node: Option<Node>, cluster_stats: Vec<ClusterStats>) {
        self.requests.send(LoadStatsRequest { node, cluster_stats }).unwrap();
    }

    async fn receive(&mut self) -> Result<Option<LoadStatsResponse>, tonic::Status> {
        timeout(PATIENCE, self.responses.message())
            .await
            .expect("an answer in time")
    }
}

fn stats(cluster: &str, issued: u64, in_progress: u64) -> ClusterStats {
    let locality = UpstreamLocalityStats {
        total_issued_requests: issued,
        total_requests_in_progress: in_progress,
        ..UpstreamLocalityStats::default()
    };
    ClusterStats {
        cluster_name: cluster.to_owned(),
        upstream_locality_stats: vec![locality],
        ..ClusterStats::default()
    }
}

/// Cluster, requests issued, requests in progress.
fn loads(xds: &Xds) -> Vec<(String, u64, u64)> {
    let loads = xds.fleet.loads().by_cluster();
    loads
        .into_iter()
        .map(|(cluster, load)| (cluster.to_string(), load.issued, load.in_progress))
        .collect()
}

// PX-14
#[tokio::test]
async fn load_reports_are_asked_for_and_added_up() {
    let xds = Xds::start();
    let channel = connect(xds.address).await;
    let mut all = LoadStream::open(&channel).await;
    let sends_all = Node {
        client_features: vec!["envoy.lrs.supports_send_all_clusters".to_owned()],
        ..node("n1").unwrap()
    };
    all.send(Some(sends_all), Vec::new());
    let response = all.receive().await.unwrap().unwrap();
    assert_eq!((response.send_all_clusters, response.clusters.len()), (true, 0));
    assert_eq!(response.load_reporting_interval.unwrap().seconds, 10);

    let mut some = LoadStream::open(&channel).await;
    some.send(node("n2"), Vec::new());
    let response = some.receive().await.unwrap().unwrap();
    assert_eq!(
        (response.send_all_clusters, response.clusters),
        (false, ["A", "B", "S"].map(str::to_owned).to_vec())
    );

    all.send(None, vec![stats("A", 5, 2)]);
    some.send(None, vec![stats("A", 3, 1), stats("B", 1, 0)]);
    eventually(
        PATIENCE,
        || async { loads(&xds) },
        vec![("A".into(), 8, 3), ("B".into(), 1, 0)],
    )
    .await;
    // The requests in progress vanish with their proxy.
    drop(some);
    eventually(
        PATIENCE,
        || async { loads(&xds) },
        vec![("A".into(), 8, 2), ("B".into(), 1, 0)],
    )
    .await;
}

#[tokio::test]
async fn a_load_report_of_nobody_ends_the_stream() {
    let xds = Xds::start();
    let mut stream = LoadStream::open(&connect(xds.address).await).await;
    stream.send(None, vec![stats("A", 5, 2)]);
    let status = stream.receive().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("node.id"), "{status}");
    assert_eq!(loads(&xds), []);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_send_all_is_told_of_new_clusters() {
    let xds = Xds::start();
    let mut stream = LoadStream::open(&connect(xds.address).await).await;
    stream.send(node("n2"), Vec::new());
    assert_eq!(
        stream.responses.message().await.unwrap().unwrap().clusters,
        ["A", "B", "S"]
    );
    // Neither other content of a cluster nor other types are of interest.
    xds.commit(vec![cluster("A", 2), endpoints("A", 2)]);
    tokio::time::sleep(Duration::from_secs(15)).await;
    xds.commit(vec![cluster("C", 1)]);
    assert_eq!(
        stream.responses.message().await.unwrap().unwrap().clusters,
        ["A", "B", "C", "S"]
    );
}

#[tokio::test]
async fn a_drain_ends_load_reports_and_health_watches_with_ok() {
    let xds = Xds::start_with(Options {
        grace: Duration::from_millis(600),
        ..options()
    });
    xds.commit(fixture());
    let channel = connect(xds.address).await;
    let mut stream = LoadStream::open(&channel).await;
    stream.send(node("n1"), Vec::new());
    stream.receive().await.unwrap().unwrap();
    let mut watch = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
    xds.draining.cancel();
    assert_eq!(stream.receive().await.unwrap(), None);
    let ended = async { while watch.message().await.unwrap().is_some() {} };
    timeout(PATIENCE, ended).await.unwrap();
    timeout(PATIENCE, xds.running).await.unwrap().unwrap().unwrap();
}

// ---- health ----

async fn health(channel: &Channel, service: &str) -> Result<i32, Code> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer
        .map(|answer| answer.into_inner().status)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn health_follows_the_first_publish_and_the_drain() {
    let services = [
        "",
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "envoy.service.secret.v3.SecretDiscoveryService",
        "envoy.service.status.v3.ClientStatusDiscoveryService",
        "envoy.service.load_stats.v3.LoadReportingService",
    ];
    let xds = Xds::start_with(options());
    let channel = connect(xds.address).await;
    for service in services {
        assert_eq!(
            health(&channel, service).await,
            Ok(ServingStatus::NotServing.into()),
            "{service}"
        );
    }
    assert_eq!(health(&channel, "acme.Foo").await, Err(Code::NotFound));
    let mut watch = HealthClient::new(channel.clone())
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let is = |status: ServingStatus| Some(HealthCheckResponse { status: status.into() });
    assert_eq!(watch.message().await.unwrap(), is(ServingStatus::NotServing));
    xds.commit(fixture());
    assert_eq!(watch.message().await.unwrap(), is(ServingStatus::Serving));
    for service in services {
        eventually(
            PATIENCE,
            || health(&channel, service),
            Ok(ServingStatus::Serving.into()),
        )
        .await;
    }
    xds.draining.cancel();
    assert_eq!(watch.message().await.unwrap(), is(ServingStatus::NotServing));
}

#[tokio::test]
async fn health_is_told_though_there_are_as_many_streams_as_may_be() {
    let xds = Xds::start_with(Options {
        max_streams: 1,
        ..options()
    });
    xds.commit(fixture());
    let channel = connect(xds.address).await;
    let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    stream.send(delta(types::CLUSTER, &[], &[]));
    stream.receive().await;
    assert_eq!(health(&channel, "").await, Ok(ServingStatus::Serving.into()));
}

// ---- reflection ----

/// A reflection client of one version of the protocol: the services, and the files that an answer holds.
macro_rules! reflection_client {
    ($name:ident, $version:ident) => {
        mod $name {
            use tonic::transport::Channel;
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

            async fn ask(channel: &Channel, request: MessageRequest) -> MessageResponse {
                let request = ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(request),
                };
                let mut client = ServerReflectionClient::new(channel.clone());
                let answers = client
                    .server_reflection_info(tokio_stream::iter([request]))
                    .await
                    .unwrap();
                answers
                    .into_inner()
                    .message()
                    .await
                    .unwrap()
                    .unwrap()
                    .message_response
                    .unwrap()
            }

            pub(super) async fn services(channel: &Channel) -> Vec<String> {
                match ask(channel, MessageRequest::ListServices(String::new())).await {
                    MessageResponse::ListServicesResponse(listed) => {
                        listed.service.into_iter().map(|service| service.name).collect()
                    }
                    other => panic!("{other:?}"),
                }
            }

            pub(super) async fn files_with(channel: &Channel, symbol: &str) -> Vec<Vec<u8>> {
                files(ask(channel, MessageRequest::FileContainingSymbol(symbol.to_owned())).await)
            }

            pub(super) async fn files_named(channel: &Channel, name: &str) -> Vec<Vec<u8>> {
                files(ask(channel, MessageRequest::FileByFilename(name.to_owned())).await)
            }

            fn files(answer: MessageResponse) -> Vec<Vec<u8>> {
                match answer {
                    MessageResponse::FileDescriptorResponse(found) => found.file_descriptor_proto,
                    other => panic!("{other:?}"),
                }
            }
        }
    };
}

reflection_client!(reflection_v1, v1);
reflection_client!(reflection_v1alpha, v1alpha);

/// The steps of a reflection client: list the services, find each, fetch the files that its file imports, build a pool.
macro_rules! reflect {
    ($version:ident, $channel:expr) => {{
        let channel = $channel;
        let services = $version::services(channel).await;
        let mut files = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for service in &services {
            for bytes in $version::files_with(channel, service).await {
                let file = FileDescriptorProto::decode(&*bytes).unwrap();
                wanted.extend(file.dependency.clone());
                files.insert(file.name().to_owned(), bytes);
            }
        }
        while let Some(name) = wanted.pop_first() {
            if files.contains_key(&name) {
                continue;
            }
            for bytes in $version::files_named(channel, &name).await {
                let file = FileDescriptorProto::decode(&*bytes).unwrap();
                wanted.extend(file.dependency.clone());
                files.insert(file.name().to_owned(), bytes);
            }
        }
        let mut set = Vec::new();
        for file in files.values() {
            prost::encoding::bytes::encode(1, file, &mut set);
        }
        (
            services,
            prost_reflect::DescriptorPool::decode(&*set).expect("all that is depended on is there"),
        )
    }};
}

#[tokio::test]
async fn any_reflection_client_finds_every_service_with_all_it_depends_on() {
    let xds = Xds::start();
    let channel = &connect(xds.address).await;
    let (v1, pool) = reflect!(reflection_v1, channel);
    let (v1alpha, other_pool) = reflect!(reflection_v1alpha, channel);
    assert_eq!(v1, v1alpha);
    for pool in [pool, other_pool] {
        for service in &v1 {
            let found = pool.get_service_by_name(service).unwrap_or_else(|| panic!("{service}"));
            assert!(found.methods().count() > 0);
        }
    }
    for service in [
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "envoy.service.route.v3.VirtualHostDiscoveryService",
        "envoy.service.status.v3.ClientStatusDiscoveryService",
        "envoy.service.load_stats.v3.LoadReportingService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        assert!(v1.iter().any(|listed| listed == service), "{service} is not in {v1:?}");
    }
    assert_eq!(v1.len(), 15, "what is served and nothing else: {v1:?}");
}
