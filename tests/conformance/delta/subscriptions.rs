//! DX-01 to DX-12: the names of a request.

use crate::client::Request;
use crate::fixture::{
    CDS, ECDS, EDS, LDS, RDS, RTDS, SDS, SRDS, any_of, cluster, delete, endpoints, extension, f1, put, route, runtime,
    scope, secret,
};
use crate::rule::{Context, Rule, rules};

pub(crate) const RULES: &[Rule] = rules![
    "DX-01" DELTA an_empty_first_request_is_a_wildcard,
    "DX-01" DELTA a_first_request_that_only_unsubscribes_is_none,
    "DX-02" DELTA a_wildcard_over_nothing_is_answered,
    "DX-03" DELTA other_types_have_no_legacy_wildcard,
    "DX-04" DELTA a_star_starts_and_ends_a_wildcard,
    "DX-05" DELTA subscriptions_come_before_unsubscriptions,
    "DX-06" DELTA every_subscription_is_answered,
    "DX-06" DELTA a_wildcard_that_is_asked_for_again_is_sent_again,
    "DX-07" DELTA a_missing_name_is_removed_and_stays_subscribed,
    "DX-08" DELTA an_unsubscription_is_not_answered,
    "DX-09" DELTA a_name_under_a_wildcard_is_answered_when_it_is_unsubscribed,
    "DX-10" DELTA an_acknowledgement_may_subscribe_too,
    "DX-11" DELTA a_stale_nonce_does_not_harm_a_subscription,
    "DX-12" DELTA initial_versions_count_once,
];

async fn an_empty_first_request_is_a_wildcard(context: Context) {
    let resources = [f1(), vec![scope("scope", "r1", "key")]].concat();
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    for (of, names) in [(CDS, &["A", "B", "S"][..]), (LDS, &["L"]), (SRDS, &["scope"])] {
        client.subscribe(of, &[]);
        client.expect(of).await.carries(names);
    }
}

async fn a_first_request_that_only_unsubscribes_is_none(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.send(Request::of(CDS).unsubscribe(&["q"]));
    client.quiet().await;
    world.commit(vec![put(cluster("A", 2))]).await;
    client.quiet().await;
}

async fn a_wildcard_over_nothing_is_answered(context: Context) {
    let world = context.serve(Vec::new()).await;
    let mut client = world.open().await;
    client.subscribe(CDS, &[]);
    client.expect(CDS).await.carries(&[]);
    client.quiet().await;
}

async fn other_types_have_no_legacy_wildcard(context: Context) {
    let others = vec![secret("secret", 1), runtime("layer", 1), extension("filter", 1)];
    let world = context.serve([f1(), others].concat()).await;
    let mut client = world.open().await;
    for of in [EDS, RDS, SDS, RTDS, ECDS] {
        client.subscribe(of, &[]);
    }
    for response in client.drain().await {
        response.carries(&[]);
    }
    world
        .commit(vec![
            put(endpoints("A", 2)),
            put(route("r1", "A", 2)),
            put(secret("secret", 2)),
        ])
        .await;
    client.quiet().await;
}

async fn a_star_starts_and_ends_a_wildcard(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let all = client.fetch(CDS, &[]).await;
    all.carries(&["A", "B", "S"]);
    let missing = client.fetch(CDS, &["X"]).await;
    missing.removes(&["X"]);
    world.commit(vec![put(cluster("B", 2))]).await;
    let changed = client.expect(CDS).await;
    client.ack(changed.carries(&["B"]));
    client.send(Request::of(CDS).unsubscribe(&["*"]));
    client.quiet().await;
    world.commit(vec![put(cluster("B", 3))]).await;
    client.quiet().await;
    world.commit(vec![put(cluster("X", 1))]).await;
    client.expect(CDS).await.carries(&["X"]);
    client.subscribe(CDS, &["*"]);
    let again = client.expect(CDS).await;
    assert!(
        ["A", "B", "S"].iter().all(|name| again.names().contains(name)),
        "expected the wildcard, found {again}"
    );
}

async fn subscriptions_come_before_unsubscriptions(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.send(Request::of(CDS).names(&["*"]).unsubscribe(&["*"]));
    for response in client.drain().await {
        response.carries(&[]);
    }
    client.subscribe(CDS, &["A"]);
    client.expect(CDS).await.carries(&["A"]);
    client.send(Request::of(CDS).names(&["B"]).unsubscribe(&["B"]));
    for response in client.drain().await {
        response.carries(&[]);
    }
    world.commit(vec![put(cluster("B", 2))]).await;
    client.quiet().await;
}

async fn every_subscription_is_answered(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    // Parents first: the subscribed children of a sent parent follow it.
    for (of, name) in [(LDS, "L"), (CDS, "S"), (RDS, "r1"), (EDS, "A")] {
        client.fetch(of, &[name]).await.carries(&[name]);
        client.fetch(of, &[name]).await.carries(&[name]);
    }
}

async fn a_wildcard_that_is_asked_for_again_is_sent_again(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &["*"]).await.carries(&["A", "B", "S"]);
    client.fetch(CDS, &["*"]).await.carries(&["A", "B", "S"]);
}

async fn a_missing_name_is_removed_and_stays_subscribed(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    for of in [EDS, RDS, CDS, LDS, SDS] {
        client.fetch(of, &["X"]).await.removes(&["X"]);
    }
    client.quiet().await;
    for of in [EDS, RDS, SDS] {
        world.commit(vec![put(any_of(of, "X", 1))]).await;
        let appeared = client.expect(of).await;
        client.ack(appeared.carries(&["X"]));
    }
}

async fn an_unsubscription_is_not_answered(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A", "B"]).await.carries(&["A", "B"]);
    client.send(Request::of(EDS).unsubscribe(&["A", "phantom"]));
    client.quiet().await;
    world.commit(vec![put(endpoints("A", 2)), put(endpoints("B", 2))]).await;
    client.expect(EDS).await.carries(&["B"]);
    client.quiet().await;
}

async fn a_name_under_a_wildcard_is_answered_when_it_is_unsubscribed(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await.carries(&["A", "B", "S"]);
    client.fetch(CDS, &["A"]).await.carries(&["A"]);
    client.send(Request::of(CDS).unsubscribe(&["A"]));
    let covered = client.expect(CDS).await;
    client.ack(covered.carries(&["A"]));
    client.fetch(CDS, &["X"]).await.removes(&["X"]);
    client.send(Request::of(CDS).unsubscribe(&["X"]));
    let outside = client.expect(CDS).await;
    client.ack(outside.removes(&["X"]));
    world.commit(vec![put(cluster("A", 2))]).await;
    client.expect(CDS).await.carries(&["A"]);
}

async fn an_acknowledgement_may_subscribe_too(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(EDS, &["A"]);
    let first = client.expect(EDS).await;
    client.send(Request::of(EDS).nonce(&first.nonce).names(&["B"]));
    client.expect(EDS).await.carries(&["B"]);
    client.quiet().await;
    if let Some(page) = world.target.admin("/api/v1/clients/n1").await {
        let streams = page["clients"].as_array().expect("a list of streams");
        let acknowledged = &streams.last().expect("a stream")["types"]["endpoints"]["acknowledged"]["nonce"];
        assert_eq!(
            acknowledged, &first.nonce,
            "expected the first response to be acknowledged: {page}"
        );
    }
}

async fn a_stale_nonce_does_not_harm_a_subscription(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A"]).await.carries(&["A"]);
    client.send(Request::of(EDS).nonce("bogus").names(&["B"]));
    let grown = client.expect(EDS).await;
    client.ack(grown.carries(&["B"]));
    client.send(Request::of(EDS).nonce("bogus").unsubscribe(&["B"]));
    client.quiet().await;
    world.commit(vec![put(endpoints("B", 2))]).await;
    client.quiet().await;
}

async fn initial_versions_count_once(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let all = client.fetch(CDS, &[]).await;
    client.send(Request::of(CDS).initial(&[("gone", "1"), ("A", "1")]));
    client.quiet().await;
    client.send(Request::of(CDS).names(&["A"]).initial(&[("A", &all.get("A").version)]));
    client.expect(CDS).await.carries(&["A"]);
    world.commit(vec![delete(CDS, "S")]).await;
    client.expect(CDS).await.removes(&["S"]);
}
