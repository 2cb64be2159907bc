//! Responses for gRPC libraries only: names without a resource, and large responses in parts.

use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost};

use super::*;
use crate::document::key::Kind;
use crate::resource::compile::parts::Part;

fn grpc() -> Client {
    let mut client = client(Variant::Sotw);
    client.node.user_agent_name = "gRPC C-core linux".to_owned();
    client
}

// PX-04, SW-11, PX-02
#[test]
fn a_name_that_does_not_exist_is_an_error_once_beside_all_that_does() {
    let mut client = grpc();
    let said = client.sotw(LISTENER, &["nope"]).all().remove(0);
    assert_eq!(said.short(), "LDS[!nope]");
    assert_eq!(client.ack(&said, &["nope"]).says(), [""; 0]);
    assert_eq!(client.ack(&said, &["nope", "L"]).says(), ["LDS[L@1]"]);
    client.commit(&[(LISTENER, "nope", Some(1))]);
    assert_eq!(client.says(), ["LDS[L@1,nope@1]"]);
    client.commit(&[(LISTENER, "nope", None)]);
    assert_eq!(client.says(), ["LDS[L@1,!nope]"]);
    client.commit(&[(LISTENER, "L", Some(2))]);
    assert_eq!(client.says(), ["LDS[L@2]"]);
    assert_eq!(client.sotw(ROUTE, &["r1", "rX"]).says(), ["RDS[r1@1,!rX]"]);
    client.commit(&[(ROUTE, "r1", None)]);
    assert_eq!(client.says(), [""; 0], "SW-12");
    assert_eq!(
        client.sotw(ENDPOINT, &["gone"]).says(),
        ["EDS[gone@0]"],
        "SW-26: an answer, so no error"
    );
}

// PX-04: other clients get no `resource_errors` (SW-13), and a wildcard has none
#[test]
fn nobody_else_is_told_of_names_that_do_not_exist() {
    let mut envoy = client(Variant::Sotw);
    assert_eq!(envoy.sotw(LISTENER, &["nope"]).says(), [""; 0]);
    assert_eq!(envoy.sotw(ROUTE, &["rX", "r1"]).says(), ["RDS[r1@1]"]);
    let mut wild = grpc();
    assert_eq!(wild.sotw(CLUSTER, &[]).says(), ["CDS[A@1,B@1,S@1]"]);
    wild.commit(&[(CLUSTER, "A", None)]);
    assert_eq!(wild.says(), ["CDS[B@1,S@1]"]);
    assert_eq!(client(Variant::Delta).delta(CLUSTER, &["x"], &[]).says(), ["CDS[-x]"]);
    let mut delta = client(Variant::Delta);
    delta.node.user_agent_name = "gRPC".to_owned();
    assert_eq!(
        delta.delta(CLUSTER, &["*", "x"], &[]).says(),
        ["CDS[A@1,B@1,S@1,-x,!x]"]
    );
    delta.commit(&[(CLUSTER, "A", None)]);
    assert_eq!(delta.says(), ["CDS[-A]"]);
}

const SIZE: usize = 1_000_000;

fn large(name: &str) -> Resource {
    let fill = [body(name, 1), vec![1; SIZE]].concat();
    Resource::new(name, fill, Vec::new())
}

// SW-34, GR-03
#[test]
fn endpoints_too_large_for_one_message_come_in_several_and_clusters_in_one() {
    let names: Vec<String> = (0..8).map(|number| format!("e{number}")).collect();
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    for (mut client, of_type, expected) in [
        (grpc(), ENDPOINT, vec![2, 2, 2, 2]),
        (grpc(), ROUTE, vec![2, 2, 2, 2]),
        (grpc(), CLUSTER, vec![8]),
        (client(Variant::Sotw), ENDPOINT, vec![8]),
    ] {
        for name in &names {
            client.serve(of_type, large(name));
        }
        let said = client.sotw(of_type, &asked).all();
        assert_eq!(
            said.iter().map(|said| said.resources.len()).collect::<Vec<_>>(),
            expected,
            "{of_type}"
        );
        let mut told: Vec<_> = said
            .into_iter()
            .flat_map(|said| said.resources)
            .map(|(name, _)| name)
            .collect();
        told.sort_unstable();
        assert_eq!(told, names, "{of_type}");
        assert_eq!(client.says(), [""; 0]);
    }
}

// SW-34: level-triggered also between the parts
#[test]
fn what_changes_between_two_parts_is_told_as_it_is_then() {
    let mut client = grpc();
    for name in ["e0", "e1", "e2", "e3"] {
        client.serve(ENDPOINT, large(name));
    }
    let first = client.sotw(ENDPOINT, &["e0", "e1", "e2", "e3"]).next().expect("a part");
    assert_eq!(first.short(), "EDS[e0@1,e1@1]");
    client.commit(&[(ENDPOINT, "e0", Some(2)), (ENDPOINT, "e3", Some(2))]);
    assert_eq!(client.says(), ["EDS[e0@2,e2@1,e3@2]"]);
}

/// A route configuration of one document with a route to this cluster.
fn table(name: &str, revision: i64, cluster: &str) -> Resource {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    };
    let route = Route {
        action: Some(Action::Route(action)),
        ..Route::default()
    };
    let message = RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            routes: vec![route],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    };
    let (key, upstreams) = (DocumentKey::new(Kind::Routes, name), Arc::new([Arc::from(cluster)]));
    let parts = std::iter::once((key.clone(), Part { revision, upstreams })).collect();
    Resource {
        parts: Some(Arc::new(parts)),
        ..Resource::new(name, message.encode_to_vec(), vec![key])
    }
}

/// The response that is next, with the clusters that its first table names, and nothing after it.
fn tables(client: &mut Client) -> Option<(Said, Vec<String>)> {
    let response = client.session.next_response(&client.snapshot, client.now)?;
    let said = client.said(&response);
    let table = RouteConfiguration::decode(&*client.bodies(&response)[0]).unwrap();
    let actions = table.virtual_hosts[0].routes.iter().map(|route| route.action.clone());
    let clusters = actions.flat_map(|action| match action {
        Some(Action::Route(action)) => match action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => vec![name],
            Some(ClusterSpecifier::WeightedClusters(all)) => all.clusters.into_iter().map(|one| one.name).collect(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    });
    let clusters = clusters.collect();
    assert_eq!(client.says(), [""; 0]);
    Some((said, clusters))
}

/// A client of `r1`, a route to `A`.
fn calling(mut client: Client) -> Client {
    client.serve(ROUTE, table("r1", 1, "A"));
    for (of_type, names) in [(ROUTE, "r1"), (CLUSTER, "A"), (ENDPOINT, "A")] {
        for said in client.sotw(of_type, &[names]).all() {
            client.ack(&said, &[names]);
        }
    }
    client
}

#[test]
fn a_cluster_is_named_before_a_route_moves_there() {
    let mut client = calling(grpc());
    client.serve(ROUTE, table("r1", 2, "B"));
    let (first, clusters) = tables(&mut client).unwrap();
    assert_eq!(
        clusters,
        ["A", "B"],
        "the calls go to A, no call matches the route to B"
    );
    client.ack(&first, &["r1"]);
    assert!(tables(&mut client).is_none());
    for of_type in [CLUSTER, ENDPOINT] {
        let said = client.sotw(of_type, &["A", "B"]).all().remove(0);
        assert!(tables(&mut client).is_none(), "the client has not taken {of_type}");
        client.ack(&said, &["A", "B"]);
    }
    assert_eq!(tables(&mut client).unwrap().1, ["B"]);
    assert_eq!(client.session.deadline(), None);
    // It knows both now.
    client.serve(ROUTE, table("r1", 3, "A"));
    assert_eq!(tables(&mut client).unwrap().1, ["A"]);
}

#[test]
fn the_cluster_that_a_route_leaves_is_removed_after_the_second_step() {
    let mut client = calling(grpc());
    let gone = |resource_type, name: &str, resource| ResourceChange {
        group: "default".into(),
        resource_type,
        name: name.into(),
        resource,
    };
    let moved = Some(Arc::new(table("r1", 2, "B")));
    client.snapshot = changed(
        &client.snapshot,
        vec![gone(CLUSTER, "A", None), gone(ROUTE, "r1", moved)],
    );
    let (first, _) = tables(&mut client).unwrap();
    assert_eq!(client.ack(&first, &["r1"]).says(), [""; 0], "the calls go to A still");
    for (of_type, said) in [(CLUSTER, "CDS[A@1,B@1]"), (ENDPOINT, "EDS[B@1]")] {
        let one = client.sotw(of_type, &["A", "B"]).all().remove(0);
        assert_eq!(one.short(), said);
        client.ack(&one, &["A", "B"]);
    }
    let (second, clusters) = tables(&mut client).unwrap();
    assert_eq!(clusters, ["B"]);
    assert_eq!(client.ack(&second, &["r1"]).says(), ["CDS[B@1,!A]"]);
}

#[test]
fn a_client_that_does_not_subscribe_is_waited_for_five_seconds() {
    let mut client = calling(grpc());
    client.serve(ROUTE, table("r1", 2, "B"));
    tables(&mut client).unwrap();
    assert_eq!(client.session.deadline(), Some(client.now + Duration::from_secs(5)));
    client.now += Duration::from_secs(5);
    assert_eq!(tables(&mut client).unwrap().1, ["B"]);
    assert_eq!(client.session.deadline(), None);
    // A change that is taken back while it waits.
    client.serve(ROUTE, table("r1", 3, "S"));
    assert_eq!(tables(&mut client).unwrap().1, ["B", "S"]);
    client.serve(ROUTE, table("r1", 4, "B"));
    client.now += Duration::from_secs(5);
    assert_eq!(tables(&mut client).unwrap().1, ["B"]);
    assert_eq!(client.session.deadline(), None);
}

#[test]
fn an_envoy_is_sent_the_routes_as_they_are() {
    let mut envoy = calling(client(Variant::Sotw));
    envoy.serve(ROUTE, table("r1", 2, "B"));
    assert_eq!(tables(&mut envoy).unwrap().1, ["B"]);
}
