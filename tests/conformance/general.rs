//! Section 2: session rules of both variants: the node, the shape of a response, valid and invalid requests.
//!
//! `general::nacks` has the rules after a NACK.

use std::collections::BTreeSet;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use tonic::Code;

use super::client::{Client, Request, Response, inner_name};
use super::fixture::{
    CDS, ECDS, EDS, ELSEWHERE, LDS, RDS, RTDS, Resource, SDS, SRDS, Type, VHDS, any_of, cluster, delete, endpoints, f1,
    listener, put, route,
};
use super::rule::{Context, Noted, Rule, Variant, rules};
use super::support::ads_client::node;

mod nacks;

pub(crate) use nacks::RULES as NACKS;

pub(crate) const RULES: &[Rule] = rules![
    "GEN-01" BOTH the_node_of_the_first_message_is_kept,
    "GEN-02" BOTH a_first_message_without_a_node_id_ends_the_stream,
    "GEN-03" BOTH another_node_id_ends_the_stream,
    "GEN-03" BOTH other_metadata_gets_the_view_that_it_should_have,
    "GEN-04" BOTH an_empty_type_url_is_the_services_own_or_refused,
    "GEN-05" BOTH an_unknown_type_disturbs_nobody,
    "GEN-06" BOTH responses_carry_the_type_url,
    "GEN-07" BOTH nonces_are_unique_and_mean_nothing_elsewhere,
    "GEN-08" BOTH versions_follow_the_content_and_survive_a_restart,
    "GEN-09" BOTH the_control_plane_names_itself,
    "GEN-10" BOTH a_silent_stream_is_tolerated_for_ten_seconds,
    "GEN-11" BOTH no_name_comes_twice,
    "GEN-12" BOTH the_type_inside_is_the_type_outside,
    "GEN-13" BOTH the_name_inside_is_the_name_asked_for,
    "GEN-19" BOTH large_requests_are_accepted,
    "GEN-20" BOTH names_are_a_set_of_bytes,
    "GEN-22" BOTH locators_count_as_names,
    "GEN-23" BOTH types_that_were_not_asked_for_stay_away,
];

pub(crate) const NOTED: &[Noted] = &[];

/// A resource of every type, and the names of its subscription: none is the wildcard.
const EVERY_TYPE: [(Type, &str, &[&str]); 9] = [
    (RTDS, "t1", &["t1"]),
    (CDS, "A", &[]),
    (EDS, "A", &["A"]),
    (SDS, "s1", &["s1"]),
    (ECDS, "e1", &["e1"]),
    (LDS, "L", &[]),
    (SRDS, "sc", &[]),
    (RDS, "r1", &["r1"]),
    (VHDS, "r1/h.com", &["r1/h.com"]),
];

fn every_type() -> Vec<Resource> {
    EVERY_TYPE.iter().map(|(of, name, _)| any_of(*of, name, 1)).collect()
}

/// The types of the variant: SotW has no VHDS.
fn types_of(variant: Variant) -> impl Iterator<Item = (Type, &'static [&'static str])> {
    let served = move |of: &Type| variant == Variant::Delta || *of != VHDS;
    EVERY_TYPE
        .iter()
        .filter(move |(of, _, _)| served(of))
        .map(|(of, _, names)| (*of, *names))
}

async fn the_node_of_the_first_message_is_kept(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(CDS, &[]);
    client.expect(CDS).await.carries(&["A", "B", "S"]);
    client.subscribe(LDS, &[]);
    client.expect(LDS).await.carries(&["L"]);
}

async fn a_first_message_without_a_node_id_ends_the_stream(context: Context) {
    let world = context.f1().await;
    for node in [
        None,
        Some(Node {
            cluster: "c".to_owned(),
            ..Node::default()
        }),
    ] {
        let mut client = world.open().await;
        client.send(Request::of(CDS).with_node(node));
        let status = client.refused().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(
            status.message().contains("node"),
            "the message names the field: {status}"
        );
    }
}

async fn another_node_id_ends_the_stream(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    client.send(Request::of(LDS).with_node(node("n2")));
    assert_eq!(client.refused().await.code(), Code::InvalidArgument);
}

/// Node n1 with the metadata of the group [`ELSEWHERE`].
fn moved() -> Option<Node> {
    let place = Value {
        kind: Some(Kind::StringValue(ELSEWHERE.to_owned())),
    };
    let metadata = Struct {
        fields: [("place".to_owned(), place)].into(),
    };
    Some(Node {
        metadata: Some(metadata),
        ..node("n1").expect("a node")
    })
}

async fn other_metadata_gets_the_view_that_it_should_have(context: Context) {
    let mut resources = f1();
    resources.push(cluster("E", 1).for_group(ELSEWHERE));
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    let here = client.fetch(CDS, &[]).await;
    here.carries(&["A", "B", "S"]);
    let request = Request::of(CDS).nonce(&here.nonce).with_node(moved());
    client.send(if context.variant == Variant::Sotw {
        request.version(&here.version)
    } else {
        request
    });
    let there = client.expect(CDS).await;
    match context.variant {
        Variant::Sotw => there.carries(&["A", "B", "E", "S"]),
        Variant::Delta => there.carries(&["E"]),
    };
}

async fn an_empty_type_url_is_the_services_own_or_refused(context: Context) {
    let world = context.f1().await;
    let mut ads = world.open().await;
    ads.send(Request::of_url(""));
    assert_eq!(ads.refused().await.code(), Code::InvalidArgument, "no type_url on ADS");
    let mut own = world.open_service(CDS).await;
    own.send(Request::of_url(""));
    own.expect(CDS).await.carries(&["A", "B", "S"]);
    let mut other = world.open_service(CDS).await;
    other.subscribe(LDS, &[]);
    assert_eq!(
        other.refused().await.code(),
        Code::InvalidArgument,
        "LDS on the service of CDS"
    );
}

async fn an_unknown_type_disturbs_nobody(context: Context) {
    const UNKNOWN: &str = "type.googleapis.com/acme.Foo";
    let world = context.f1().await;
    for (names, removed) in [(&["q"][..], &["q"][..]), (&[], &[])] {
        let mut client = world.open().await;
        client.send(Request::of_url(UNKNOWN).names(names));
        client.subscribe(CDS, &[]);
        let responses = vec![
            client
                .until_url(if context.variant == Variant::Delta {
                    UNKNOWN
                } else {
                    CDS.type_url()
                })
                .await,
        ];
        let (unknown, known): (Vec<Response>, Vec<Response>) = responses
            .into_iter()
            .chain(client.drain().await)
            .partition(|response| response.type_url == UNKNOWN);
        assert_eq!(known.len(), 1, "clusters are answered, once: {known:?}");
        known[0].carries(&["A", "B", "S"]);
        match (context.variant, &*unknown) {
            (Variant::Sotw, []) => {}
            (Variant::Delta, [answer]) => drop(answer.removes(removed)),
            _ => panic!("the unknown type: silence in SotW, one answer in delta, found {unknown:?}"),
        }
    }
}

/// On ADS; GR-14 has the same on every type's own service.
async fn responses_carry_the_type_url(context: Context) {
    let world = context.serve(every_type()).await;
    let mut client = world.open().await;
    for (of, names) in types_of(context.variant) {
        client.subscribe(of, names);
        assert_eq!(client.expect(of).await.resources.len(), 1, "the one resource of {of}");
    }
}

async fn nonces_are_unique_and_mean_nothing_elsewhere(context: Context) {
    const ROUNDS: u32 = 12;
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    for round in 2..2 + ROUNDS {
        let changes = [
            cluster("A", round),
            endpoints("A", round),
            listener("L", "r1", round),
            route("r1", "A", round),
        ];
        world.commit_at_once(changes.map(put).to_vec()).await;
        for of in [CDS, EDS, LDS, RDS] {
            let response = client.until(of).await;
            client.ack(&response);
        }
    }
    // The same content once more.
    for _ in 0..3 {
        client.shrink(EDS, &["B"]);
        client.grow(EDS, &["B"]);
        let again = client.until(EDS).await;
        client.ack(&again);
    }
    let nonces = client.nonces().to_vec();
    let distinct: BTreeSet<&String> = nonces.iter().collect();
    assert!(nonces.len() >= 50, "about fifty responses, found {}", nonces.len());
    assert!(
        nonces.iter().all(|nonce| !nonce.is_empty()),
        "no nonce is empty: {nonces:?}"
    );
    assert_eq!(distinct.len(), nonces.len(), "no nonce comes twice: {nonces:?}");
    let mut other = world.open().await;
    other.send(Request::of(EDS).names(&["A"]).nonce(&nonces[nonces.len() - 1]));
    other.expect(EDS).await.carries(&["A"]);
}

/// The versions of each type: that of the response in SotW, those of the resources in delta.
async fn versions(client: &mut Client, variant: Variant) -> Vec<Vec<(String, String)>> {
    let mut versions = Vec::new();
    for (of, names) in [(CDS, &[][..]), (EDS, &["A", "B"]), (LDS, &[]), (RDS, &["r1"])] {
        let response = client.fetch(of, names).await;
        let mut found = match variant {
            Variant::Sotw => vec![(String::new(), response.version)],
            Variant::Delta => {
                let version = |resource: super::client::Received| (resource.name, resource.version);
                response.resources.into_iter().map(version).collect()
            }
        };
        assert!(
            found.iter().all(|(_, version)| !version.is_empty()),
            "versions of {of} are not empty: {found:?}"
        );
        found.sort_unstable();
        versions.push(found);
    }
    versions
}

async fn versions_follow_the_content_and_survive_a_restart(context: Context) {
    let mut world = context.f1().await;
    let before = versions(&mut world.open().await, context.variant).await;
    world.target.restart().await;
    let restarted = versions(&mut world.open().await, context.variant).await;
    assert_eq!(restarted, before, "equal content, equal versions");
    world.commit(vec![put(endpoints("A", 2))]).await;
    let after = versions(&mut world.open().await, context.variant).await;
    let changed: Vec<bool> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| before != after)
        .collect();
    assert_eq!(
        changed,
        [false, true, false, false],
        "of CDS, EDS, LDS and RDS only the endpoints changed"
    );
    world.commit(vec![put(endpoints("A", 1))]).await;
    assert_eq!(
        versions(&mut world.open().await, context.variant).await,
        before,
        "as before, so the versions are too"
    );
}

async fn the_control_plane_names_itself(context: Context) {
    let world = context.serve(every_type()).await;
    let mut client = world.open().await;
    for (of, names) in types_of(context.variant) {
        let response = client.fetch(of, names).await;
        assert!(
            !response.control_plane.is_empty(),
            "control_plane.identifier of {response}"
        );
    }
}

/// The rule says 60 s. If a server has a deadline for the first message, it has a few seconds.
async fn a_silent_stream_is_tolerated_for_ten_seconds(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.quiet_for(Duration::from_secs(10)).await;
    client.subscribe(CDS, &[]);
    client.expect(CDS).await.carries(&["A", "B", "S"]);
}

async fn no_name_comes_twice(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(EDS, &["A", "B", "A", "B"]);
    client.subscribe(CDS, &["*", "A", "A"]);
    let mut responses = client.drain().await;
    world.commit_at_once(vec![delete(CDS, "A")]).await;
    world.commit(vec![put(cluster("A", 2)), put(endpoints("A", 2))]).await;
    responses.extend(client.drain().await);
    assert!(
        responses.len() >= 3,
        "clusters, endpoints and their change, found {}",
        responses.len()
    );
    for response in &responses {
        let all: Vec<&str> = response.names().into_iter().chain(response.removed()).collect();
        let distinct: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len(), "a name comes once: {response}");
    }
}

async fn the_type_inside_is_the_type_outside(context: Context) {
    let world = context.serve(every_type()).await;
    let mut client = world.open().await;
    for (of, names) in types_of(context.variant) {
        for resource in client.fetch(of, names).await.resources {
            let body = resource.body.expect("a body");
            assert_eq!(body.type_url, of.type_url(), "the Any of {}", resource.name);
        }
    }
}

async fn the_name_inside_is_the_name_asked_for(context: Context) {
    let world = context.serve(every_type()).await;
    for (of, name, _) in EVERY_TYPE
        .iter()
        .filter(|(of, _, _)| context.variant == Variant::Delta || *of != VHDS)
    {
        let mut client = world.open().await;
        let response = client.fetch(*of, &[name]).await;
        let resource = response.get(name);
        assert_eq!(
            inner_name(resource.body.as_ref().expect("a body")),
            *name,
            "inside a resource of {of}"
        );
    }
}

async fn large_requests_are_accepted(context: Context) {
    const NAMES: usize = 100_000;
    let world = context.f1().await;
    let extensions = vec!["x".repeat(64 * 1024)];
    let node = Node {
        client_features: extensions,
        ..node("n1").expect("a node")
    };
    let names: Vec<String> = (0..NAMES)
        .map(|number| format!("{number:0>100}"))
        .chain(["A".to_owned()])
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut request = Request::of(EDS).names(&names).with_node(Some(node.clone()));
    if context.variant == Variant::Delta {
        let versions: Vec<(&str, &str)> = names.iter().map(|name| (*name, "1")).collect();
        request = request.initial(&versions);
    }
    let mut client = world.open().await;
    client.send(request);
    let mut found = false;
    while !found {
        found = client
            .expect_within(EDS, Duration::from_secs(30))
            .await
            .names()
            .contains(&"A");
    }
    client.send(Request::of(CDS).with_node(Some(node)));
    client.until(CDS).await.carries(&["A", "B", "S"]);
}

async fn names_are_a_set_of_bytes(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let first = client.fetch(EDS, &["A", "B", "A"]).await;
    first.carries(&["A", "B"]);
    if context.variant == Variant::Sotw {
        client.send(
            Request::of(EDS)
                .version(&first.version)
                .nonce(&first.nonce)
                .names(&["B", "A", "A"]),
        );
    }
    client.quiet().await;
    let mut other = world.open().await;
    other.subscribe(EDS, &["a"]);
    for response in other.drain().await {
        assert!(!response.names().contains(&"A"), "`a` is not `A`: {response}");
    }
}

async fn locators_count_as_names(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.send(Request::of(EDS).locators(&["A"]));
    client.expect(EDS).await.carries(&["A"]);
}

async fn types_that_were_not_asked_for_stay_away(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    world
        .commit(vec![
            put(listener("M", "r1", 2)),
            put(route("r1", "B", 2)),
            put(endpoints("A", 2)),
        ])
        .await;
    client.quiet().await;
    world
        .commit(vec![put(cluster("A", 2)), put(any_of(SDS, "s1", 1))])
        .await;
    client.expect(CDS).await.get("A");
    client.quiet().await;
}
