//! DX-13 to DX-16 and the second half of DX-21: the versions that a client reports on a new stream.

use crate::client::{Client, Request, Response};
use crate::fixture::{CDS, EDS, LDS, RDS, Type, cluster, delete, endpoints, f1, put, route};
use crate::rule::{Context, Rule, World, rules};

pub(crate) const RULES: &[Rule] = rules![
    "DX-13" DELTA a_returning_wildcard_gets_what_differs,
    "DX-13" DELTA a_returning_client_learns_of_what_went_meanwhile,
    "DX-14" DELTA a_returning_client_gets_what_differs_of_its_names,
    "DX-15" DELTA endpoints_are_sent_though_the_client_has_them,
    "DX-16" DELTA versions_are_of_the_content_and_outlive_a_restart,
    "DX-21" DELTA a_new_stream_learns_of_what_its_node_may_hold,
];

/// The held versions, for the first request of the next stream.
fn versions(response: &Response) -> Vec<(String, String)> {
    response
        .resources
        .iter()
        .map(|resource| (resource.name.clone(), resource.version.clone()))
        .collect()
}

fn returning(of: Type, held: &[(String, String)]) -> Request {
    let held: Vec<(&str, &str)> = held.iter().map(|(name, version)| (&**name, &**version)).collect();
    Request::of(of).initial(&held)
}

async fn first(world: &World, of: Type, names: &[&str]) -> Response {
    world.open().await.fetch(of, names).await
}

async fn a_returning_wildcard_gets_what_differs(context: Context) {
    let world = context.f1().await;
    let all = first(&world, CDS, &[]).await;
    let mut client = world.open().await;
    client.send(Request::of(CDS).initial(&[("A", &all.get("A").version), ("B", "another"), ("gone", "1")]));
    let response = client.expect(CDS).await;
    assert_eq!(
        (response.names(), response.removed()),
        (vec!["B", "S"], vec!["gone"]),
        "{response}"
    );
    client.ack(&response);
    client.quiet().await;
}

async fn a_returning_client_learns_of_what_went_meanwhile(context: Context) {
    let world = context.f1().await;
    let (clusters, listeners) = (first(&world, CDS, &[]).await, first(&world, LDS, &[]).await);
    world.commit(vec![delete(CDS, "S"), put(cluster("B", 2))]).await;
    let mut client = world.open().await;
    client.send(returning(CDS, &versions(&clusters)));
    let response = client.expect(CDS).await;
    assert_eq!(
        (response.names(), response.removed()),
        (vec!["B"], vec!["S"]),
        "{response}"
    );
    client.ack(&response);
    client.send(returning(LDS, &versions(&listeners)));
    client.quiet().await;
}

async fn a_returning_client_gets_what_differs_of_its_names(context: Context) {
    let more = vec![route("r2", "B", 1), route("r3", "B", 1)];
    let world = context.serve([f1(), more].concat()).await;
    let routes = first(&world, RDS, &["r1", "r2", "r3"]).await;
    let mut client = world.open().await;
    let held = [
        ("r1", &*routes.get("r1").version),
        ("r2", ""),
        ("r3", "another"),
        ("gone", "1"),
        ("q", "1"),
    ];
    client.send(Request::of(RDS).names(&["r1", "r2", "r3", "gone"]).initial(&held));
    let response = client.expect(RDS).await;
    assert_eq!(
        (response.names(), response.removed()),
        (vec!["r2", "r3"], vec!["gone"]),
        "{response}"
    );
    client.ack(&response);
    client.quiet().await;
}

async fn endpoints_are_sent_though_the_client_has_them(context: Context) {
    let world = context.f1().await;
    let held = versions(&first(&world, EDS, &["A", "B"]).await);
    let mut client = world.open().await;
    client.send(returning(EDS, &held).names(&["A", "B"]));
    let response = client.expect(EDS).await;
    response.carries(&["A", "B"]);
    assert_eq!(versions(&response).len(), 2);
    assert!(
        versions(&response).iter().all(|one| held.contains(one)),
        "expected {held:?}, found {response}"
    );
}

async fn versions_are_of_the_content_and_outlive_a_restart(context: Context) {
    let mut world = context.f1().await;
    let mut client = world.open().await;
    let (clusters, listeners) = (client.fetch(CDS, &[]).await, client.fetch(LDS, &[]).await);
    let before = client.fetch(EDS, &["A", "B"]).await;
    assert!(
        before.resources.iter().all(|one| !one.version.is_empty()),
        "expected a version each, found {before}"
    );
    world.commit(vec![put(endpoints("A", 2))]).await;
    let changed = client.expect(EDS).await;
    assert_ne!(
        changed.carries(&["A"]).get("A").version,
        before.get("A").version,
        "another content, another version"
    );
    client.ack(&changed);
    world.commit(vec![put(endpoints("A", 1))]).await;
    let back = client.expect(EDS).await;
    assert_eq!(
        back.get("A").version,
        before.get("A").version,
        "the old content again, the old version again"
    );
    drop(client);
    world.target.restart().await;
    let mut client = world.open().await;
    client.send(returning(CDS, &versions(&clusters)));
    client.send(returning(LDS, &versions(&listeners)));
    for response in client.drain().await {
        assert!(
            response.is_empty(),
            "expected nothing but an empty response, found {response}"
        );
    }
    client.subscribe(EDS, &["A"]);
    assert_eq!(client.expect(EDS).await.get("A").version, before.get("A").version);
}

/// After a NACK the client keeps the good part of the response, and does not report that part when it reconnects
/// (F-14).
async fn a_new_stream_learns_of_what_its_node_may_hold(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let held = client.fetch(CDS, &[]).await;
    world.commit(vec![put(cluster("G", 1)), put(cluster("B", 2))]).await;
    let refused = client.expect(CDS).await;
    client.nack(refused.carries(&["B", "G"]), "B is bad");
    client.quiet().await;
    drop(client);
    world.commit(vec![delete(CDS, "G")]).await;
    let mut client: Client = world.open().await;
    client.send(returning(CDS, &versions(&held)));
    let response = client.expect(CDS).await;
    assert!(response.removed().contains(&"G"), "expected -[G], found {response}");
}
