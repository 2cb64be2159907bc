//! DX-17 to DX-25, DX-32 and DX-33: the responses after a commit.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fixture::{
    CDS, Change, EDS, LDS, RDS, Resource, Type, cluster, delete, endpoints, f1, heavy_endpoints, put, route,
    static_cluster,
};
use crate::rule::{Context, Rule, rules};

pub(crate) const RULES: &[Rule] = rules![
    "DX-17" DELTA only_what_changed_is_sent,
    "DX-18" DELTA a_deletion_is_a_removed_name,
    "DX-19" DELTA a_refused_resource_is_refreshed_in_full,
    "DX-20" DELTA a_time_to_live_is_refreshed_in_half_of_it,
    "DX-21" DELTA what_was_refused_is_unknown,
    "DX-22" DELTA nothing_to_send_is_nothing_sent,
    "DX-23" DELTA a_slow_reader_gets_the_last_content,
    "DX-24" DELTA responses_do_not_wait_for_acknowledgements,
    "DX-25" DELTA endpoints_follow_their_cluster,
    "DX-32" DELTA a_first_answer_is_one_message,
    "DX-33" DELTA nothing_unasked_for_is_sent,
];

async fn only_what_changed_is_sent(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world.commit(vec![put(static_cluster("S", 2))]).await;
    let changed = client.expect(CDS).await;
    client.ack(changed.carries(&["S"]));
    world.commit(vec![put(endpoints("A", 2))]).await;
    let changed = client.expect(EDS).await;
    client.ack(changed.carries(&["A"]));
    client.quiet().await;
}

async fn a_deletion_is_a_removed_name(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    client.fetch(EDS, &["A"]).await;
    world.commit(vec![delete(EDS, "B")]).await;
    client.quiet().await;
    world.commit(vec![delete(EDS, "A")]).await;
    let gone = client.expect(EDS).await;
    client.ack(gone.removes(&["A"]));
    world.commit(vec![delete(CDS, "S")]).await;
    let gone = client.expect(CDS).await;
    client.ack(gone.removes(&["S"]));
    client.quiet().await;
}

/// A resource with a time to live; the suite uses it for clusters only (SW-30).
fn mortal(content: u32, ttl: &str) -> Resource {
    static_cluster("T", content).ttl(ttl)
}

async fn a_refused_resource_is_refreshed_in_full(context: Context) {
    let world = context.serve([f1(), vec![mortal(1, "2s")]].concat()).await;
    let mut client = world.open().await;
    client.subscribe(CDS, &["T"]);
    let refused = client.expect(CDS).await;
    client.nack(refused.carries(&["T"]), "no");
    let refresh = client.expect(CDS).await;
    assert!(
        refresh.carries(&["T"]).get("T").body.is_some(),
        "expected a body until one is acknowledged: {refresh}"
    );
    client.ack(&refresh);
    let heartbeat = client.expect(CDS).await;
    assert_eq!(heartbeat.carries(&["T"]).get("T").version, refresh.get("T").version);
}

async fn a_time_to_live_is_refreshed_in_half_of_it(context: Context) {
    let world = context.serve([f1(), vec![mortal(1, "2s")]].concat()).await;
    let mut client = world.open().await;
    client.subscribe(CDS, &["T", "S"]);
    let mut last = client.expect(CDS).await;
    for _ in 0..4 {
        let ttl = last
            .get("T")
            .ttl
            .as_ref()
            .unwrap_or_else(|| panic!("expected a ttl, found {last}"));
        assert_eq!(ttl.seconds, 2);
        client.ack(&last);
        let since = Instant::now();
        last = client.expect(CDS).await;
        last.carries(&["T"]);
        // At half of it at the latest; the rest is for a busy machine.
        assert!(
            since.elapsed() < Duration::from_millis(1600),
            "refreshed after {:?}",
            since.elapsed()
        );
    }
    client.ack(&last);
    world.commit(vec![put(static_cluster("T", 1))]).await;
    // A heartbeat may have been on its way.
    while last.get("T").ttl.is_some() {
        last = client.expect(CDS).await;
    }
    assert!(
        last.get("T").body.is_some(),
        "expected a body without ttl, found {last}"
    );
    client.ack(&last);
    client.quiet_for(Duration::from_millis(1500)).await;
}

async fn what_was_refused_is_unknown(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    world
        .commit(vec![put(static_cluster("G", 1)), put(static_cluster("S", 2))])
        .await;
    let refused = client.expect(CDS).await;
    client.nack(refused.carries(&["G", "S"]), "S is bad");
    client.quiet().await;
    world.commit(vec![delete(CDS, "G")]).await;
    let gone = client.expect(CDS).await;
    assert_eq!(gone.removed(), ["G"], "{gone}");
    client.ack(&gone);
    world.commit(vec![put(static_cluster("S", 1))]).await;
    let back = client.expect(CDS).await;
    client.ack(back.carries(&["S"]));
    client.quiet().await;
}

async fn nothing_to_send_is_nothing_sent(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    client.quiet_for(Duration::from_secs(2)).await;
    world
        .commit(vec![put(endpoints("unasked", 1)), put(route("unasked", "A", 1))])
        .await;
    client.quiet().await;
}

/// The transport buffers less than the several megabytes of this response, so without a reader the server must wait.
async fn a_slow_reader_gets_the_last_content(context: Context) {
    let heavy_names: Vec<String> = (0..12).map(|number| format!("heavy-{number}")).collect();
    let heavies: Vec<Resource> = heavy_names.iter().map(|name| heavy_endpoints(name, 1)).collect();
    let world = context.serve([f1(), heavies].concat()).await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A", "T"]).await;
    client.subscribe(EDS, &heavy_names.iter().map(String::as_str).collect::<Vec<_>>());
    // Time for the server to begin the large response. The transport buffers a part of it, and no client reads.
    sleep(Duration::from_millis(300)).await;
    world.commit(vec![put(endpoints("T", 1))]).await;
    for content in 2..100 {
        world.commit_at_once(vec![put(endpoints("A", content))]).await;
    }
    world.commit(vec![delete(EDS, "T"), put(endpoints("A", 100))]).await;
    let mut bodies = Vec::new();
    for response in client.drain().await {
        assert!(!response.names().contains(&"T"), "expected no T, found {response}");
        bodies.extend(
            response
                .resources
                .into_iter()
                .filter(|one| one.name == "A")
                .filter_map(|one| one.body),
        );
    }
    assert!(bodies.len() <= 2, "expected A once, found it {} times", bodies.len());
    assert_eq!(bodies.last(), Some(&endpoints("A", 100).any()), "the last content");
}

async fn responses_do_not_wait_for_acknowledgements(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(CDS, &[]);
    client.expect(CDS).await;
    client.subscribe(LDS, &[]);
    client.expect(LDS).await;
    for content in 2..5 {
        world.commit(vec![put(static_cluster("S", content))]).await;
        client.expect(CDS).await.carries(&["S"]);
    }
    client.subscribe(RDS, &["r1"]);
    client.expect(RDS).await.carries(&["r1"]);
}

async fn endpoints_follow_their_cluster(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    for change in [put(cluster("A", 2)), put(cluster("A", 3))] {
        world.commit(vec![change]).await;
        client.expect(CDS).await.carries(&["A"]);
        client.expect(EDS).await.carries(&["A"]);
        client.quiet().await;
    }
}

async fn a_first_answer_is_one_message(context: Context) {
    // The checklist says 10,000. A server that splits responses would split one of 1,000 too.
    let clusters: Vec<Resource> = (0..1000)
        .map(|number| static_cluster(&format!("c{number}"), 1))
        .collect();
    let world = context.serve(clusters).await;
    let mut client = world.open().await;
    client.subscribe(CDS, &[]);
    assert_eq!(client.expect(CDS).await.resources.len(), 1000);
    client.quiet().await;
}

async fn nothing_unasked_for_is_sent(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let asked: [(Type, &[&str]); 3] = [(CDS, &["A"]), (EDS, &["A"]), (RDS, &["r1"])];
    for (of, names) in asked {
        client.fetch(of, names).await.carries(names);
    }
    let changes: Vec<Change> = vec![
        put(cluster("B", 2)),
        put(endpoints("B", 2)),
        put(cluster("N", 1)),
        put(route("r2", "N", 1)),
    ];
    world.commit(changes).await;
    client.quiet().await;
    world.commit(vec![delete(CDS, "B"), delete(RDS, "r2")]).await;
    client.quiet().await;
}
