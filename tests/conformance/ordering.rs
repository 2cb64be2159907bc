//! Section 5: the order of types on ADS, warming, and holds of one type for another.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::client::{Client, Request, Response};
use super::fixture::{
    CDS, EDS, LDS, RDS, Resource, SDS, Type, cluster, delete, endpoints, f1, listener, listener_from, put, route,
    static_cluster,
};
use super::rule::{Context, Noted, Rule, Variant, World, rules};

pub(crate) const RULES: &[Rule] = rules![
    "AD-01" BOTH one_change_goes_out_in_order_and_removals_last,
    "AD-02" BOTH a_cluster_stays_until_its_routes_are_replaced,
    "AD-02" BOTH a_cluster_stays_when_the_new_routes_are_refused,
    "AD-03" BOTH endpoints_follow_a_changed_cluster_unasked,
    "AD-03" BOTH endpoints_follow_a_new_cluster_that_shares_them,
    "AD-04" BOTH new_names_are_pushed_and_answered_when_asked_for,
    "AD-05" DELTA routes_follow_a_changed_listener,
    "AD-05" DELTA routes_follow_a_listener_back_to_the_common_source,
    "AD-06" BOTH nothing_waits_for_the_ack_of_its_parent,
    "AD-07" BOTH endpoints_come_after_their_cluster,
    "AD-08" DELTA a_late_cluster_request_is_followed_by_endpoints,
    "AD-09" BOTH routes_come_after_the_endpoints_of_a_new_cluster,
    "AD-10" BOTH a_nack_or_silence_of_one_type_does_not_block_others,
    "AD-11" BOTH an_unknown_secret_is_removed_or_silent,
    "AD-11" BOTH a_secret_is_not_sent_to_who_never_asked_for_secrets,
    "AD-12" BOTH a_burst_is_few_responses_and_the_last_is_newest,
    "AD-13" BOTH a_stuck_client_is_freed_by_the_removal_of_its_cluster,
    "AD-14" BOTH what_comes_late_is_still_delivered,
];

pub(crate) const NOTED: &[Noted] = &[];

/// The first response of the type that carries the name.
fn position(responses: &[Response], of: Type, name: &str) -> usize {
    let found = responses
        .iter()
        .position(|response| response.type_url == of.type_url() && response.names().contains(&name));
    found.unwrap_or_else(|| panic!("expected {name} in a response of {of}"))
}

/// The first response of the type that carries the name otherwise than at first.
fn has(responses: &[Response], of: Type, name: &str) -> bool {
    responses
        .iter()
        .any(|response| response.type_url == of.type_url() && response.names().contains(&name))
}

/// True if a response of clusters removes this cluster.
fn drops(response: &Response, variant: Variant, name: &str) -> bool {
    response.type_url == CDS.type_url()
        && match variant {
            Variant::Sotw => !response.names().contains(&name),
            Variant::Delta => response.removed().contains(&name),
        }
}

/// All responses until no more come, each with its ACK.
async fn settle(client: &mut Client) -> Vec<Response> {
    let mut all = Vec::new();
    loop {
        let more = client.drain().await;
        if more.is_empty() {
            return all;
        }
        more.iter().for_each(|response| client.ack(response));
        all.extend(more);
    }
}

async fn one_change_goes_out_in_order_and_removals_last(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    let changes = [cluster("N", 1), endpoints("N", 1), route("r1", "N", 2)].map(put);
    let gone = [delete(CDS, "A"), delete(EDS, "A")];
    world.commit(changes.into_iter().chain(gone).collect()).await;
    let responses = settle(&mut client).await;
    let (clusters, routes) = (position(&responses, CDS, "N"), position(&responses, RDS, "r1"));
    let endpoints = position(&responses, EDS, "N");
    assert!(
        clusters < endpoints && endpoints < routes,
        "CDS, EDS, RDS: found {clusters}, {endpoints}, {routes}"
    );
    let removal = responses
        .iter()
        .position(|response| drops(response, context.variant, "A"));
    assert!(
        removal > Some(routes),
        "the removal of A after the routes that use N, found {removal:?} after {routes}"
    );
}

async fn a_cluster_stays_until_its_routes_are_replaced(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world
        .commit(vec![put(route("r1", "B", 2)), delete(CDS, "A"), delete(EDS, "A")])
        .await;
    let routes = client.until(RDS).await;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        for response in client.drain().await {
            assert!(
                !drops(&response, context.variant, "A"),
                "A goes before its routes are acknowledged: {response}"
            );
        }
    }
    client.ack(&routes);
    let removal = client.until(CDS).await;
    assert!(
        drops(&removal, context.variant, "A"),
        "A goes once nothing uses it, found {removal}"
    );
}

async fn a_cluster_stays_when_the_new_routes_are_refused(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world
        .commit(vec![put(route("r1", "B", 2)), delete(CDS, "A"), delete(EDS, "A")])
        .await;
    let routes = client.until(RDS).await;
    client.nack(&routes, "no");
    for response in client.drain().await {
        assert!(
            !drops(&response, context.variant, "A"),
            "the routes that stand use A: {response}"
        );
    }
    world.commit(vec![put(route("r1", "B", 3))]).await;
    let fixed = client.until(RDS).await;
    client.ack(&fixed);
    let removal = client.until(CDS).await;
    assert!(
        drops(&removal, context.variant, "A"),
        "A goes once nothing uses it, found {removal}"
    );
}

async fn endpoints_follow_a_changed_cluster_unasked(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world.commit(vec![put(cluster("A", 2))]).await;
    client.expect(CDS).await.get("A");
    client.expect(EDS).await.get("A");
}

/// An EDS cluster whose endpoints have another name than it has.
fn sharing(name: &str, service_name: &str) -> Resource {
    let mut resource = cluster(name, 1);
    resource.json["eds_cluster_config"]["service_name"] = json!(service_name);
    resource
}

async fn endpoints_follow_a_new_cluster_that_shares_them(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world.commit(vec![put(sharing("N", "A"))]).await;
    client.expect(CDS).await.get("N");
    client.expect(EDS).await.get("A");
}

async fn new_names_are_pushed_and_answered_when_asked_for(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world.commit(vec![put(cluster("N", 1)), put(endpoints("N", 1))]).await;
    client.expect(CDS).await.get("N");
    client.expect(EDS).await.get("N");
    client.grow(EDS, &["N"]);
    client.expect(EDS).await.get("N");
}

/// The new reference to the known route differs from the first in a byte, so Envoy waits for an answer to it.
async fn routes_follow_a_changed_listener(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world
        .commit(vec![put(listener_from("L4", "r1", 4, json!({ "ads": {} })))])
        .await;
    client.expect(LDS).await.get("L4");
    client.expect(RDS).await.get("r1");
}

/// In Envoy, the same name through another `ConfigSource` is another subscription, in either order of the two.
async fn routes_follow_a_listener_back_to_the_common_source(context: Context) {
    let mut resources = f1();
    resources.retain(|resource| resource.name != "L");
    resources.push(listener_from("L", "r1", 1, json!({ "ads": {} })));
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    client.sync().await;
    for (name, content) in [("L", 2), ("L5", 5)] {
        world.commit(vec![put(listener(name, "r1", content))]).await;
        client.expect(LDS).await.get(name);
        client.expect(RDS).await.get("r1");
    }
}

async fn nothing_waits_for_the_ack_of_its_parent(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    for (of, names) in [(CDS, &[][..]), (EDS, &["A", "B"]), (LDS, &[]), (RDS, &["r1"])] {
        client.subscribe(of, names);
        client.expect(of).await;
    }
    world
        .commit(vec![
            put(cluster("A", 2)),
            put(endpoints("A", 2)),
            put(route("r1", "B", 2)),
        ])
        .await;
    let responses = client.drain().await;
    for (of, name) in [(CDS, "A"), (EDS, "A"), (RDS, "r1")] {
        assert!(
            has(&responses, of, name),
            "{name} of {of} comes without an ACK of anything"
        );
    }
}

async fn endpoints_come_after_their_cluster(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    for content in 2..5 {
        world
            .commit(vec![put(endpoints("A", content)), put(cluster("A", content))])
            .await;
        let clusters = client.expect(CDS).await;
        let endpoints = client.expect(EDS).await;
        client.ack(&clusters);
        client.ack(&endpoints);
        client.drain().await;
    }
}

async fn a_late_cluster_request_is_followed_by_endpoints(context: Context) {
    let world = context.f1().await;
    let mut before = world.open().await;
    before.sync().await;
    let known = world.open().await.fetch(EDS, &["A"]).await.get("A").version.clone();
    let mut client = world.open().await;
    client.send(Request::of(EDS).names(&["A"]).initial(&[("A", &known)]));
    let endpoints = client.expect(EDS).await;
    client.ack(&endpoints);
    client.send(Request::of(CDS).initial(&[("A", "an older one")]));
    client.expect(CDS).await.get("A");
    client.expect(EDS).await.get("A");
}

async fn routes_come_after_the_endpoints_of_a_new_cluster(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    let changes = [route("r1", "N", 2), endpoints("N", 1), cluster("N", 1)].map(put);
    world.commit(changes.to_vec()).await;
    // A server may wait for the clusters to be warm, for a bounded time: nothing is acknowledged here.
    let responses = client.all_until(RDS, Duration::from_secs(8)).await;
    let (endpoints, routes) = (position(&responses, EDS, "N"), position(&responses, RDS, "r1"));
    assert!(
        endpoints < routes,
        "the endpoints of N before the routes to it, found {endpoints} and {routes}"
    );
}

async fn a_nack_or_silence_of_one_type_does_not_block_others(context: Context) {
    let world = context.f1().await;
    for refuse in [true, false] {
        let mut client = world.open().await;
        client.sync().await;
        world
            .commit(vec![put(static_cluster("S", if refuse { 2 } else { 3 }))])
            .await;
        let clusters = client.expect(CDS).await;
        if refuse {
            client.nack(&clusters, "no");
        }
        world
            .commit(vec![put(route("r1", "B", if refuse { 2 } else { 3 }))])
            .await;
        client.expect(RDS).await.carries(&["r1"]);
        world
            .commit(vec![put(endpoints("B", if refuse { 2 } else { 3 }))])
            .await;
        client.expect(EDS).await.carries(&["B"]);
    }
}

async fn an_unknown_secret_is_removed_or_silent(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(SDS, &["nope"]);
    match context.variant {
        Variant::Sotw => {
            for response in client.drain().await {
                response.carries(&[]);
                assert!(
                    response.errors.contains_key("nope"),
                    "silence, or why it is missing, found {response}"
                );
            }
        }
        Variant::Delta => drop(client.expect(SDS).await.removes(&["nope"])),
    }
}

/// A cluster with a TLS certificate over SDS.
fn secretive(name: &str, secret: &str) -> Resource {
    let mut resource = static_cluster(name, 1);
    let source = json!({ "ads": {}, "resource_api_version": "V3" });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": secret, "sds_config": source }] },
    });
    resource.json["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": tls });
    resource
}

async fn a_secret_is_not_sent_to_who_never_asked_for_secrets(context: Context) {
    let mut resources = f1();
    resources.push(super::fixture::secret("s1", 1));
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    world.commit(vec![put(secretive("T", "s1"))]).await;
    client.expect(CDS).await.get("T");
    client.quiet().await;
}

async fn a_burst_is_few_responses_and_the_last_is_newest(context: Context) {
    const COMMITS: u32 = 100;
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    let commit = |content| {
        let changes = [
            cluster("A", content),
            endpoints("A", content),
            route("r1", "A", content),
        ];
        world.commit_at_once(changes.map(put).to_vec())
    };
    let start = Instant::now();
    join_all((2..1 + COMMITS).map(commit)).await;
    commit(1 + COMMITS).await;
    // On two cores, a hundred commits take longer than 50 ms. The rule requires batches.
    let most = 4 + usize::try_from(start.elapsed().as_millis() / 50).expect("a short time");
    let responses = settle(&mut client).await;
    for (of, newest) in [
        (CDS, cluster("A", 1 + COMMITS)),
        (EDS, endpoints("A", 1 + COMMITS)),
        (RDS, route("r1", "A", 1 + COMMITS)),
    ] {
        let of_type: Vec<&Response> = responses
            .iter()
            .filter(|response| response.type_url == of.type_url())
            .collect();
        assert!(
            of_type.len() <= most,
            "at most {most} responses of {of}, found {}",
            of_type.len()
        );
        let last = of_type.last().unwrap_or_else(|| panic!("a response of {of}"));
        let body = last.get(&newest.name).body.as_ref().map(|body| &body.value);
        assert_eq!(body, Some(&newest.any().value), "the newest {of} comes last");
    }
}

/// True if the admin API shows that a client of n1 has sent no ACK or NACK for clusters for long.
async fn alarm(world: &World) -> Option<bool> {
    let page = world.target.admin("/api/v1/clients/n1").await?;
    Some(
        page["clients"][0]["warnings"]
            .as_array()
            .is_some_and(|warnings| !warnings.is_empty()),
    )
}

async fn a_stuck_client_is_freed_by_the_removal_of_its_cluster(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world.commit(vec![put(cluster("Z", 1)), put(endpoints("Z", 1))]).await;
    client.expect(CDS).await.get("Z");
    let endpoints = client.expect(EDS).await;
    client.ack(&endpoints);
    // Neither ACK nor NACK of the clusters: Envoy has a half-built one (fact F-17).
    client.quiet_for(Duration::from_secs(22)).await;
    assert_ne!(
        alarm(&world).await,
        Some(false),
        "after 20 s without an answer operators are told"
    );
    world.commit(vec![delete(CDS, "Z"), delete(EDS, "Z")]).await;
    let freed = client.until(CDS).await;
    assert!(drops(&freed, context.variant, "Z"), "Z goes at once, found {freed}");
}

/// The rule says 20 s, beyond the client's 15 s. To the server the length of the wait makes no difference.
async fn what_comes_late_is_still_delivered(context: Context) {
    let mut resources = f1();
    resources.push(cluster("N", 1));
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    client.sync().await;
    client.subscribe(RDS, &["r1", "rX"]);
    client.grow(EDS, &["N"]);
    settle(&mut client).await;
    client.quiet_for(Duration::from_secs(5)).await;
    world
        .commit(vec![put(endpoints("N", 1)), put(route("rX", "N", 1))])
        .await;
    let responses = settle(&mut client).await;
    assert!(
        has(&responses, EDS, "N") && has(&responses, RDS, "rX"),
        "N and rX, found {} responses",
        responses.len()
    );
}
