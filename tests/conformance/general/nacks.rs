//! Section 2, continued: the form of a NACK, and the responses after one.

use std::time::Duration;

use crate::client::{Client, Request};
use crate::fixture::{CDS, EDS, LDS, RDS, cluster, delete, endpoints, put, route};
use crate::rule::{Context, Rule, Variant, World, rules};

pub(crate) const RULES: &[Rule] = rules![
    "GEN-14" BOTH the_names_of_a_nack_count,
    "GEN-15" BOTH error_detail_alone_makes_a_nack,
    "GEN-16" BOTH refused_content_is_not_sent_again,
    "GEN-17" BOTH going_back_after_a_nack_is_sent,
    "GEN-18" BOTH sent_acknowledged_and_refused_are_visible,
    "GEN-21" BOTH a_nack_of_one_type_does_not_touch_another,
];

async fn the_names_of_a_nack_count(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(EDS, &["A"]);
    let refused = client.expect(EDS).await;
    let names: &[&str] = if context.variant == Variant::Sotw {
        &["A", "B"]
    } else {
        &["B"]
    };
    client.send(Request::of(EDS).nonce(&refused.nonce).names(names).error("no"));
    client.expect(EDS).await.get("B");
    if let Some(clients) = world.target.admin("/api/v1/clients/n1").await {
        let types = &clients["clients"][0]["types"];
        assert_eq!(
            types["endpoints"]["refused"]["nonce"], *refused.nonce,
            "the NACK is recorded: {clients}"
        );
    }
}

/// grpcio sends the refused version in its NACK, so only `error_detail` makes it a NACK. The test sees the difference
/// to an ACK in the clusters: after an ACK of the routes, the cluster that they used before is removed.
async fn error_detail_alone_makes_a_nack(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world
        .commit(vec![put(route("r1", "B", 2)), delete(CDS, "A"), delete(EDS, "A")])
        .await;
    let routes = client.until(RDS).await;
    let names: &[&str] = if context.variant == Variant::Sotw { &["r1"] } else { &[] };
    client.send(
        Request::of(RDS)
            .version(&routes.version)
            .nonce(&routes.nonce)
            .names(names)
            .error("no"),
    );
    let responses = client.drain().await;
    for response in responses.iter().filter(|response| response.type_url == CDS.type_url()) {
        assert!(
            response.removed.is_empty(),
            "A is still used by the routes that stand: {response}"
        );
        assert!(
            context.variant == Variant::Delta || response.names().contains(&"A"),
            "A is still used: {response}"
        );
    }
    if let Some(clients) = world.target.admin("/api/v1/clients/n1").await {
        let types = &clients["clients"][0]["types"];
        assert_eq!(
            types["routes"]["refused"]["nonce"], *routes.nonce,
            "the NACK is recorded: {clients}"
        );
    }
}

/// Hold the clusters of F1, then refuse a change of cluster A.
async fn refuse_a_change(world: &World, client: &mut Client) {
    client.fetch(CDS, &[]).await;
    world.commit(vec![put(cluster("A", 2))]).await;
    let refused = client.expect(CDS).await;
    refused.get("A");
    client.nack(&refused, "no");
}

async fn refused_content_is_not_sent_again(context: Context) {
    let world = context.f1().await;
    let (mut client, mut other) = (world.open().await, world.open().await);
    other.fetch(CDS, &[]).await;
    refuse_a_change(&world, &mut client).await;
    // What another client takes is the trouble of this one. A server may take back what nobody takes.
    let taken = other.expect(CDS).await;
    other.ack(&taken);
    client.quiet_for(Duration::from_secs(5)).await;
    world.commit(vec![put(cluster("A", 3))]).await;
    client.expect(CDS).await.get("A");
    client.quiet().await;
}

async fn going_back_after_a_nack_is_sent(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let first = client.fetch(CDS, &[]).await;
    world.commit(vec![put(cluster("A", 2))]).await;
    let refused = client.expect(CDS).await;
    client.nack(&refused, "no");
    client.quiet().await;
    world.commit(vec![put(cluster("A", 1))]).await;
    let back = client.expect(CDS).await;
    assert_eq!(back.get("A").body, first.get("A").body, "A as it was at first");
    if context.variant == Variant::Sotw {
        assert_eq!(back.version, first.version, "the version as it was at first");
    }
}

async fn sent_acknowledged_and_refused_are_visible(context: Context) {
    const LONG: usize = 100_000;
    let world = context.f1().await;
    let mut client = world.open().await;
    let clusters = client.fetch(CDS, &[]).await;
    client.subscribe(LDS, &[]);
    let listeners = client.expect(LDS).await;
    client.nack(&listeners, &"no ".repeat(LONG / 3));
    client.quiet().await;
    let page = world
        .target
        .admin("/api/v1/clients/n1")
        .await
        .expect("the server has an admin API");
    let types = &page["clients"][0]["types"];
    assert_eq!(types["clusters"]["sent"]["nonce"], *clusters.nonce, "{types}");
    assert_eq!(types["clusters"]["acknowledged"]["nonce"], *clusters.nonce, "{types}");
    assert!(types["clusters"]["refused"].is_null(), "{types}");
    let refused = &types["listeners"]["refused"];
    assert_eq!(
        (&refused["nonce"], &refused["code"]),
        (&listeners.nonce.into(), &13.into()),
        "the NACK's nonce and code"
    );
    assert!(refused["at"].is_string(), "when it came: {}", refused["at"]);
    let message = refused["message"].as_str().expect("the client's words");
    assert!(
        message.starts_with("no no") && message.len() < LONG / 2,
        "cut to a bound, found {} bytes",
        message.len()
    );
}

async fn a_nack_of_one_type_does_not_touch_another(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    client.fetch(EDS, &["A", "B"]).await;
    client.subscribe(RDS, &["r1"]);
    let routes = client.expect(RDS).await;
    client.nack(&routes, "no");
    client.quiet().await;
    world.commit(vec![put(endpoints("A", 2))]).await;
    client.expect(EDS).await.carries(&["A"]);
}
