//! Section 3, continued: repeated and stale requests, NACKs, reconnects, stalls, wrappers and times to live.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use serde_json::json;
use tokio::time::Instant;

use crate::client::{Request, Response};
use crate::fixture::{
    CDS, ECDS, EDS, LDS, RDS, RTDS, Resource, SDS, SRDS, Type, any_of, cluster, endpoints, f1, listener, put, route,
};
use crate::rule::{Context, Rule, rules};
use crate::support::ads_client::node;

pub(crate) const RULES: &[Rule] = rules![
    "SW-20" SOTW a_repeated_request_is_answered_only_after_its_parent,
    "SW-21" SOTW the_names_of_a_stale_request_are_adopted,
    "SW-22" SOTW an_empty_list_without_a_nonce_is_no_first_request,
    "SW-23" SOTW a_nack_is_answered_by_no_rollback,
    "SW-24" SOTW a_reconnecting_client_gets_what_it_names,
    "SW-25" SOTW endpoints_routes_and_secrets_come_without_their_parents,
    "SW-26" SOTW unknown_endpoints_are_an_empty_assignment,
    "SW-27" SOTW after_a_stall_only_the_newest_is_sent,
    "SW-28" SOTW responses_do_not_wait_for_acks,
    "SW-29" SOTW resources_are_bare,
    "SW-30" SOTW times_to_live_do_no_harm,
    "SW-31" SOTW a_heartbeat_has_the_version_last_accepted,
    "SW-34" SOTW huge_answers_to_grpc_clients_are_split,
];

/// The features of a client that understands wrappers and times to live.
const FEATURES: [&str; 3] = [
    "xds.config.resource-in-sotw",
    "xds.config.supports-resource-in-sotw",
    "xds.config.supports-resource-ttl",
];

fn featured() -> Option<Node> {
    let client_features = FEATURES.map(str::to_owned).to_vec();
    Some(Node {
        user_agent_name: "envoy".to_owned(),
        client_features,
        ..node("n1").expect("a node")
    })
}

async fn a_repeated_request_is_answered_only_after_its_parent(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    let before = client.fetch(EDS, &["A"]).await;
    client.ack(&before);
    client.quiet().await;
    world.commit(vec![put(cluster("A", 2))]).await;
    // The legacy mux sends another request as soon as it has the cluster. A server that pushes has sent the endpoints
    // before.
    let clusters = client.expect(CDS).await;
    client.ack(&before);
    let pushed = client.expect(EDS).await;
    pushed.carries(&["A"]);
    client.ack(&clusters);
    client.ack(&pushed);
    client.drain().await;
    client.ack(&pushed);
    client.quiet().await;
}

async fn the_names_of_a_stale_request_are_adopted(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(EDS, &["A"]);
    let mut unanswered = vec![client.expect(EDS).await];
    for content in [2, 3] {
        world.commit(vec![put(endpoints("A", content))]).await;
        unanswered.push(client.expect(EDS).await);
    }
    for response in &unanswered {
        client.send(
            Request::of(EDS)
                .version(&response.version)
                .nonce(&response.nonce)
                .names(&["A", "B"]),
        );
    }
    let responses = client.drain().await;
    let with_b = responses
        .iter()
        .filter(|response| response.names().contains(&"B"))
        .count();
    assert_eq!(with_b, responses.len(), "nothing but what was asked for anew");
    assert!(
        (1..=2).contains(&with_b),
        "B at least once and at most twice, found {with_b}"
    );
    for response in &responses {
        client.ack(response);
    }
    client.quiet().await;
    if let Some(clients) = world.target.admin("/api/v1/clients/n1").await {
        let types = &clients["clients"][0]["types"];
        let newest = &responses.last().expect("one at least").nonce;
        assert_eq!(types["endpoints"]["acknowledged"]["nonce"], json!(newest), "{clients}");
    }
}

async fn an_empty_list_without_a_nonce_is_no_first_request(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(LDS, &["q"]);
    client.quiet().await;
    client.subscribe(LDS, &[]);
    client.quiet().await;
    world.commit(vec![put(listener("L", "r1", 2))]).await;
    client.quiet().await;
}

async fn a_nack_is_answered_by_no_rollback(context: Context) {
    let world = context.f1().await;
    let (mut client, mut other) = (world.open().await, world.open().await);
    client.fetch(CDS, &[]).await;
    other.fetch(CDS, &[]).await;
    world.commit(vec![put(cluster("A", 2))]).await;
    let refused = client.expect(CDS).await;
    client.nack(&refused, "no");
    // What another client takes is the trouble of this one. A server may take back what nobody takes.
    let taken = other.expect(CDS).await;
    other.ack(&taken);
    client.quiet_for(Duration::from_secs(2)).await;
    world.commit(vec![put(cluster("B", 2))]).await;
    let next = client.expect(CDS).await;
    next.carries(&["A", "B", "S"]);
    assert_eq!(
        next.get("A").body,
        refused.get("A").body,
        "A as it is now, not as it was"
    );
}

async fn a_reconnecting_client_gets_what_it_names(context: Context) {
    const NAMED: [Type; 6] = [EDS, RDS, SDS, RTDS, ECDS, SRDS];
    let world = context.serve(NAMED.map(|of| any_of(of, "A", 1)).to_vec()).await;
    for of in NAMED {
        let version = world.open().await.fetch(of, &["A"]).await.version;
        let mut client = world.open().await;
        client.send(Request::of(of).version(&version).names(&["A"]));
        client.expect(of).await.carries(&["A"]);
    }
}

async fn endpoints_routes_and_secrets_come_without_their_parents(context: Context) {
    let mut resources = f1();
    resources.push(any_of(SDS, "s1", 1));
    let world = context.serve(resources).await;
    for (of, name) in [(EDS, "A"), (RDS, "r1"), (SDS, "s1")] {
        let mut client = world.open().await;
        client.send(Request::of(of).version("before").names(&[name]));
        client.expect(of).await.carries(&[name]);
    }
}

async fn unknown_endpoints_are_an_empty_assignment(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(EDS, &["gone"]);
    let empty = client.expect(EDS).await;
    empty.carries(&["gone"]);
    let assignment: ClusterLoadAssignment = empty.get("gone").decode();
    assert!(assignment.endpoints.is_empty(), "no endpoints, found {assignment:?}");
    client.ack(&empty);
    for (of, name) in [(RDS, "gone"), (LDS, "gone"), (CDS, "gone")] {
        let mut silent = world.open().await;
        silent.subscribe(of, &[name]);
        for response in silent.drain().await {
            response.carries(&[]);
            assert!(
                response.errors.contains_key(name),
                "silence, or why {name} is missing, found {response}"
            );
        }
    }
    world.commit(vec![put(endpoints("gone", 1))]).await;
    let full = client.expect(EDS).await;
    let assignment: ClusterLoadAssignment = full.get("gone").decode();
    assert_eq!(assignment.endpoints.len(), 1, "{assignment:?}");
}

/// A large cluster: a few of them fill the buffers of a connection without a reader.
fn large(content: u32) -> Resource {
    let text = format!("{content} {}", "x".repeat(800_000));
    let mut resource = cluster("A", 1);
    resource.json["metadata"] = json!({ "filter_metadata": { "suite": { "text": text } } });
    resource
}

async fn after_a_stall_only_the_newest_is_sent(context: Context) {
    const COMMITS: u32 = 20;
    let world = context.serve(vec![large(0)]).await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    for content in 1..=COMMITS {
        world.commit(vec![put(large(content))]).await;
    }
    let responses = client.drain().await;
    // The transport buffers some 4 MB without a reader; one more response was made when there was room again.
    assert!(
        responses.len() <= 8,
        "few responses for {COMMITS} commits, found {}",
        responses.len()
    );
    let last = responses.last().expect("at least one response");
    let expected = large(COMMITS).any().value;
    assert_eq!(
        last.get("A").body.as_ref().map(|body| body.value.len()),
        Some(expected.len()),
        "the newest comes last"
    );
    assert!(
        last.get("A").body.as_ref().is_some_and(|body| body.value == expected),
        "the newest comes last"
    );
}

async fn responses_do_not_wait_for_acks(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let asked = [(CDS, &[][..]), (EDS, &["A", "B"]), (LDS, &[]), (RDS, &["r1"])];
    for (of, names) in asked {
        client.subscribe(of, names);
        client.expect(of).await;
    }
    world
        .commit(vec![
            put(endpoints("A", 2)),
            put(route("r1", "B", 2)),
            put(listener("L", "r1", 2)),
        ])
        .await;
    for of in [EDS, LDS, RDS] {
        client.until(of).await;
    }
    client.drain().await;
    world.commit(vec![put(cluster("S", 2))]).await;
    client
        .expect_within(CDS, Duration::from_secs(5))
        .await
        .carries(&["A", "B", "S"]);
}

async fn resources_are_bare(context: Context) {
    let mut resources = f1();
    resources.push(cluster("T", 1).ttl("30s"));
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    for (of, names) in [(CDS, &[][..]), (EDS, &["A", "B"]), (LDS, &[]), (RDS, &["r1"])] {
        let response = client.fetch(of, names).await;
        let wrapped = response.resources.iter().filter(|resource| resource.wrapped).count();
        assert_eq!(
            wrapped, 0,
            "no wrappers for a client that does not say that it understands them: {response}"
        );
    }
}

/// Everything that a client of this node is sent in three seconds, all of it acknowledged.
async fn watched(
    context: &Context,
    resources: Vec<Resource>,
    node: Option<Node>,
    asked: &[(Type, &[&str])],
) -> Vec<Response> {
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    let mut node = node;
    for (of, names) in asked {
        let request = Request::of(*of).names(names);
        client.send(match node.take() {
            Some(node) => request.with_node(Some(node)),
            None => request,
        });
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut responses = Vec::new();
    loop {
        match client.event(deadline.saturating_duration_since(Instant::now())).await {
            crate::support::ads_client::Event::Response(response) => {
                client.ack(&response);
                responses.push(response);
            }
            crate::support::ads_client::Event::Nothing => return responses,
            crate::support::ads_client::Event::Ended(status) => panic!("the stream ended: {status}"),
        }
    }
}

async fn times_to_live_do_no_harm(context: Context) {
    let asked: &[(Type, &[&str])] = &[(CDS, &[]), (EDS, &["A", "B"]), (LDS, &[]), (RDS, &["r1"])];
    for node in [node("n1"), featured()] {
        let resources = f1().into_iter().map(|resource| resource.ttl("1s")).collect();
        let responses = watched(&context, resources, node, asked).await;
        for of in [CDS, EDS, LDS, RDS] {
            assert!(
                responses.iter().any(|response| response.type_url == of.type_url()),
                "{of} was answered"
            );
        }
        for response in &responses {
            let bodiless = response
                .resources
                .iter()
                .filter(|resource| resource.body.is_none())
                .count();
            let lasting = response
                .resources
                .iter()
                .filter(|resource| resource.ttl.is_none())
                .count();
            if [CDS, LDS].iter().any(|of| of.type_url() == response.type_url) {
                assert_eq!(
                    bodiless, 0,
                    "a heartbeat of clusters or listeners deletes them: {response}"
                );
            } else {
                assert_eq!(
                    lasting,
                    response.resources.len(),
                    "no time to live on endpoints and routes: {response}"
                );
            }
        }
    }
}

async fn a_heartbeat_has_the_version_last_accepted(context: Context) {
    let resources = vec![
        any_of(SDS, "s1", 1).ttl("1s"),
        any_of(RTDS, "t1", 1).ttl("1s"),
        any_of(ECDS, "e1", 1).ttl("1s"),
    ];
    let asked: &[(Type, &[&str])] = &[(SDS, &["s1"]), (RTDS, &["t1"]), (ECDS, &["e1"])];
    let responses = watched(&context, resources, featured(), asked).await;
    for (of, _) in asked {
        let mut accepted: Option<&str> = None;
        for response in responses.iter().filter(|response| response.type_url == of.type_url()) {
            for resource in &response.resources {
                if resource.body.is_none() {
                    assert_eq!(
                        resource.version, response.version,
                        "a heartbeat has the version of its response"
                    );
                    assert_eq!(
                        accepted,
                        Some(&*resource.version),
                        "a heartbeat follows the resource: {response}"
                    );
                }
            }
            accepted = Some(&response.version);
        }
        assert!(accepted.is_some(), "{of} was answered");
    }
}

/// Endpoints of nearly a megabyte.
fn bulky(name: &str) -> Resource {
    let mut resource = endpoints(name, 1);
    let text = "x".repeat(900_000);
    resource.json["endpoints"][0]["lb_endpoints"][0]["metadata"] =
        json!({ "filter_metadata": { "suite": { "text": text } } });
    resource
}

async fn huge_answers_to_grpc_clients_are_split(context: Context) {
    const NAMES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];
    const LIMIT: usize = 4 * 1024 * 1024;
    let world = context.serve(NAMES.map(bulky).to_vec()).await;
    let mut client = world.open().await;
    let node = Node {
        user_agent_name: "gRPC C-core".to_owned(),
        ..node("n1").expect("a node")
    };
    client.send(Request::of(EDS).names(&NAMES).with_node(Some(node)));
    let responses = client.drain().await;
    let mut names: Vec<&str> = responses.iter().flat_map(Response::names).collect();
    names.sort_unstable();
    assert_eq!(names, NAMES, "every name once");
    let largest = responses.iter().map(|response| response.size).max();
    assert!(
        largest < Some(LIMIT),
        "each message below 4 MB, found one of {largest:?} bytes"
    );
}
