//! PX-01 to PX-04 and PX-11 to PX-16: the requests of clients inside gRPC.

use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use prost::Message;
use tonic::Code;

use super::grpc_node;
use crate::client::{Client, Request};
use crate::fixture::{CDS, EDS, LDS, RDS, Type, cluster, f1, listener, put, route, static_cluster};
use crate::grpc::raw::Connection;
use crate::rule::{BOTH, Context, Kind, Noted, Rule, Variant, World, rules};

pub(crate) const RULES: &[Rule] = rules![
    "PX-01" BOTH an_empty_list_is_never_a_wildcard,
    "PX-02" BOTH grown_names_lose_nothing,
    "PX-03" BOTH what_exists_does_not_wait_for_what_does_not,
    "PX-04" BOTH a_missing_name_is_an_error_once,
    "PX-11" BOTH a_refusal_may_name_the_refused_version,
    "PX-12" BOTH types_come_in_any_order,
    "PX-13" BOTH federated_and_plain_names_share_a_stream,
    "PX-14" BOTH load_reports_are_answered_or_unimplemented,
    "PX-16" BOTH only_named_clusters_are_sent,
];

pub(crate) const NOTED: &[Noted] = &[Noted {
    id: "PX-15",
    applies: BOTH,
    kind: Kind::Information,
    reason: "gRPC clients serve CSDS themselves; a management server need not",
}];

/// A stream with the first request of grpcio, and its response.
async fn grpc_client(world: &World, of: Type, names: &[&str]) -> Client {
    let mut client = world.open().await;
    client.send(Request::of(of).names(names).with_node(grpc_node()));
    client
}

async fn an_empty_list_is_never_a_wildcard(context: Context) {
    let world = context.f1().await;
    let mut client = grpc_client(&world, CDS, &["A"]).await;
    let clusters = client.expect(CDS).await;
    client.ack(clusters.carries(&["A"]));
    client.fetch(EDS, &["A"]).await.carries(&["A"]);
    for of in [CDS, EDS, EDS] {
        client.shrink(of, &["A"]);
    }
    client.quiet().await;
    world.commit(vec![put(cluster("A", 2)), put(cluster("B", 2))]).await;
    client.quiet().await;
}

async fn grown_names_lose_nothing(context: Context) {
    let world = context.f1().await;
    for (of, first, second) in [(CDS, "A", "S"), (LDS, "L", "M")] {
        let more = vec![put(listener("M", "r1", 2))];
        world.commit(more).await;
        let mut client = grpc_client(&world, of, &[first]).await;
        let one = client.expect(of).await;
        client.ack(one.carries(&[first]));
        client.grow(of, &[second]);
        let both = client.expect(of).await;
        // SotW shows a removal by leaving the resource out.
        match context.variant {
            Variant::Sotw => both.carries(&[first, second]),
            Variant::Delta => both.carries(&[second]),
        };
        client.ack(&both);
        client.quiet().await;
    }
}

async fn what_exists_does_not_wait_for_what_does_not(context: Context) {
    let world = context.f1().await;
    let mut client = grpc_client(&world, RDS, &["r1", "rX"]).await;
    let first = client.expect(RDS).await;
    assert_eq!(first.names(), ["r1"], "{first}");
    client.ack(&first);
    client.quiet().await;
    world.commit(vec![put(route("rX", "A", 1))]).await;
    client.expect(RDS).await.get("rX");
}

/// `NOT_FOUND`, besides the existing resources. In delta `removed_resources` has the missing name already (DX-07).
async fn a_missing_name_is_an_error_once(context: Context) {
    let world = context.f1().await;
    let mut client = grpc_client(&world, LDS, &["L", "nope"]).await;
    let response = client.expect(LDS).await;
    assert_eq!(response.names(), ["L"], "{response}");
    let told = match context.variant {
        Variant::Sotw => matches!(response.errors.get("nope"), Some(5 | 7)),
        Variant::Delta => response.removed() == ["nope"],
    };
    assert!(told, "expected to be told that there is no nope, found {response}");
    client.ack(&response);
    client.quiet().await;
    world.commit(vec![put(listener("nope", "r1", 2))]).await;
    let appeared = client.expect(LDS).await;
    appeared.get("nope");
    assert!(
        appeared.errors.is_empty(),
        "expected the resource without an error, found {appeared}"
    );
    let mut wildcard = grpc_client(&world, CDS, &[]).await;
    let all = wildcard.expect(CDS).await;
    assert!(all.errors.is_empty(), "a wildcard has no missing names: {all}");
}

async fn a_refusal_may_name_the_refused_version(context: Context) {
    let world = context.f1().await;
    let mut client = grpc_client(&world, CDS, &["A", "S"]).await;
    let refused = client.expect(CDS).await;
    // SW-29: resources without a wrapper for a client that does not report support of wrappers.
    let wrapped = refused.resources.iter().any(|one| one.wrapped);
    assert_eq!(wrapped, context.variant == Variant::Delta, "{refused}");
    let nack = Request::of(CDS).nonce(&refused.nonce).error("A is bad");
    client.send(match context.variant {
        Variant::Sotw => nack.names(&["A", "S"]).version(&refused.version),
        Variant::Delta => nack,
    });
    client.quiet().await;
    world.commit(vec![put(cluster("A", 2))]).await;
    client.expect(CDS).await.get("A");
}

async fn types_come_in_any_order(context: Context) {
    let world = context.f1().await;
    let mut client = grpc_client(&world, RDS, &["r1"]).await;
    let routes = client.expect(RDS).await;
    client.ack(routes.carries(&["r1"]));
    for (of, name) in [(EDS, "A"), (LDS, "L"), (CDS, "A")] {
        client.subscribe(of, &[name]);
        let response = client.until(of).await;
        response.get(name);
    }
}

async fn federated_and_plain_names_share_a_stream(context: Context) {
    const FEDERATED: &str = "xdstp://authority/envoy.config.cluster.v3.Cluster/one";
    const STRANGE: &str = "xdstp://elsewhere/envoy.config.cluster.v3.Cluster/one";
    let world = context.serve([f1(), vec![static_cluster(FEDERATED, 1)]].concat()).await;
    let mut client = grpc_client(&world, CDS, &["S", FEDERATED, STRANGE]).await;
    let response = client.expect(CDS).await;
    assert_eq!(response.names(), ["S", FEDERATED], "{response}");
    if context.variant == Variant::Delta {
        assert_eq!(
            response.removed(),
            [STRANGE],
            "an unknown authority is a name that does not exist: {response}"
        );
    }
    client.ack(&response);
    world.commit(vec![put(static_cluster(FEDERATED, 2))]).await;
    client.expect(CDS).await.get(FEDERATED);
}

async fn load_reports_are_answered_or_unimplemented(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    let path = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
    let mut stream = connection.stream(path, &[]).await;
    let node = grpc_node();
    stream.send_bytes(
        0,
        &LoadStatsRequest {
            node,
            cluster_stats: Vec::new(),
        }
        .encode_to_vec(),
    );
    let Some((_, message)) = stream.message().await else {
        assert_eq!(
            stream.status().await,
            Some(Code::Unimplemented.into()),
            "the service is there or it is not"
        );
        return;
    };
    let response = LoadStatsResponse::decode(message).expect("a response");
    let interval = response.load_reporting_interval.expect("an interval");
    assert!(interval.seconds >= 1, "expected a second at least, found {interval:?}");
    assert!(
        !response.send_all_clusters,
        "the client does not say that it knows of send_all_clusters"
    );
}

async fn only_named_clusters_are_sent(context: Context) {
    let many = (0..200).map(|number| static_cluster(&format!("c{number}"), 1));
    let world = context.serve(f1().into_iter().chain(many).collect()).await;
    let mut client = grpc_client(&world, CDS, &["A"]).await;
    let response = client.expect(CDS).await;
    client.ack(response.carries(&["A"]));
    assert!(
        response.size < 10_000,
        "expected one cluster, found {} bytes",
        response.size
    );
    world.commit(vec![put(static_cluster("c7", 2))]).await;
    client.quiet().await;
}
