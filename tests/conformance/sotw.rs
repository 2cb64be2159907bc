//! Section 3: state of the world, from the first request to lists that shrink, grow and vanish.
//!
//! `sotw::answers` has the rules of NACKs, reconnects, stalls and times to live.

use std::time::Duration;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::client::Request;
use super::fixture::{
    CDS, ECDS, EDS, LDS, RDS, RTDS, Resource, SDS, SRDS, Type, any_of, cluster, delete, endpoints, listener,
    on_demand_cluster, put, route, scope,
};
use super::rule::{Context, Noted, Rule, rules};

mod answers;

pub(crate) use answers::RULES as ANSWERS;

pub(crate) const RULES: &[Rule] = rules![
    "SW-01" SOTW a_first_request_is_answered_with_the_names_that_exist,
    "SW-02" SOTW an_empty_first_list_is_a_wildcard,
    "SW-03" SOTW an_empty_list_is_no_wildcard_on_named_types,
    "SW-04" SOTW a_wildcard_with_nothing_to_serve_is_answered_empty,
    "SW-05" SOTW a_star_is_a_wildcard_also_beside_names,
    "SW-06" SOTW a_star_and_a_name_outside_its_set_is_the_union,
    "SW-07" SOTW leaving_the_star_out_ends_the_wildcard,
    "SW-08" SOTW an_empty_list_after_any_name_means_nothing,
    "SW-09" SOTW clusters_and_listeners_always_come_whole,
    "SW-10" SOTW other_types_hold_what_changed,
    "SW-10" SOTW scoped_routes_are_full_state,
    "SW-11" SOTW a_deletion_leaves_the_rest_and_the_last_one_an_empty_response,
    "SW-12" SOTW deleted_endpoints_and_routes_are_no_empty_response,
    "SW-13" SOTW a_missing_name_is_sent_when_it_exists,
    "SW-14" SOTW what_exists_is_not_held_up_by_what_does_not,
    "SW-15" SOTW a_plain_ack_is_answered_by_nothing,
    "SW-16" SOTW an_ack_with_a_missing_name_is_no_loop,
    "SW-17" SOTW a_grown_list_is_answered_at_once,
    "SW-18" SOTW a_name_dropped_and_listed_again_is_sent_again,
    "SW-19" SOTW a_shrunk_list_is_not_answered,
    "SW-32" SOTW named_clusters_and_listeners_come_alone,
    "SW-33" SOTW unsubscribing_everything_is_not_answered,
];

pub(crate) const NOTED: &[Noted] = &[];

/// The types whose empty first list means everything.
const WILDCARD_TYPES: [Type; 3] = [CDS, LDS, SRDS];
/// The types whose list is always one of names.
const NAMED_TYPES: [Type; 5] = [EDS, RDS, SDS, RTDS, ECDS];

/// Two resources, `A` and `B`, of each of these types.
fn pairs(types: &[Type]) -> Vec<Resource> {
    types
        .iter()
        .flat_map(|of| [any_of(*of, "A", 1), any_of(*of, "B", 2)])
        .collect()
}

async fn a_first_request_is_answered_with_the_names_that_exist(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(EDS, &["A"]);
    client.expect(EDS).await.carries(&["A"]);
    client.quiet().await;
}

async fn an_empty_first_list_is_a_wildcard(context: Context) {
    let world = context.serve(pairs(&WILDCARD_TYPES)).await;
    for of in WILDCARD_TYPES {
        let mut client = world.open().await;
        client.subscribe(of, &[]);
        client.expect(of).await.carries(&["A", "B"]);
    }
}

async fn an_empty_list_is_no_wildcard_on_named_types(context: Context) {
    let world = context.serve(pairs(&NAMED_TYPES)).await;
    let mut client = world.open().await;
    for of in NAMED_TYPES {
        client.send(Request::of(of).version("e1"));
    }
    client.quiet().await;
    world
        .commit(NAMED_TYPES.map(|of| put(any_of(of, "A", 3))).to_vec())
        .await;
    client.quiet().await;
    for of in NAMED_TYPES {
        client.send(Request::of(of).version("e1").names(&["A"]));
        client.expect(of).await.carries(&["A"]);
    }
}

async fn a_wildcard_with_nothing_to_serve_is_answered_empty(context: Context) {
    let world = context.serve(Vec::new()).await;
    let mut client = world.open().await;
    for of in WILDCARD_TYPES {
        client.subscribe(of, &[]);
        let response = client.expect(of).await;
        response.carries(&[]);
        assert!(
            !response.version.is_empty(),
            "an empty answer has a version too: {response}"
        );
    }
}

async fn a_star_is_a_wildcard_also_beside_names(context: Context) {
    let world = context.serve(pairs(&WILDCARD_TYPES)).await;
    for of in WILDCARD_TYPES {
        for names in [&["*"][..], &["*", "A"]] {
            let mut client = world.open().await;
            client.subscribe(of, names);
            client.expect(of).await.carries(&["A", "B"]);
        }
    }
}

async fn a_star_and_a_name_outside_its_set_is_the_union(context: Context) {
    let resources = vec![cluster("A", 1), cluster("B", 1), on_demand_cluster("x")];
    let world = context.serve(resources).await;
    let mut client = world.open().await;
    client.fetch(CDS, &["*"]).await.carries(&["A", "B"]);
    client.grow(CDS, &["x"]);
    client.expect(CDS).await.carries(&["A", "B", "x"]);
    let mut other = world.open().await;
    other.subscribe(CDS, &["*", "x"]);
    other.expect(CDS).await.carries(&["A", "B", "x"]);
}

async fn leaving_the_star_out_ends_the_wildcard(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &["*", "A"]).await.carries(&["A", "B", "S"]);
    client.shrink(CDS, &["*"]);
    client.quiet().await;
    world.commit(vec![put(cluster("B", 2))]).await;
    client.quiet().await;
    world.commit(vec![put(cluster("A", 2))]).await;
    client.expect(CDS).await.carries(&["A"]);
}

async fn an_empty_list_after_any_name_means_nothing(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await.carries(&["A", "B", "S"]);
    client.grow(CDS, &["*"]);
    for response in client.drain().await {
        client.ack(&response);
    }
    client.shrink(CDS, &["*"]);
    client.quiet().await;
    world.commit(vec![put(cluster("A", 2)), put(cluster("N", 1))]).await;
    client.quiet().await;
}

async fn clusters_and_listeners_always_come_whole(context: Context) {
    let world = context.serve(pairs(&[CDS, LDS])).await;
    for (of, names, content) in [
        (CDS, &["A", "B"][..], 3),
        (LDS, &["A", "B"], 4),
        (CDS, &[], 5),
        (LDS, &[], 6),
    ] {
        let mut client = world.open().await;
        let before = client.fetch(of, names).await;
        world.commit(vec![put(any_of(of, "B", content))]).await;
        let after = client.expect(of).await;
        after.carries(&["A", "B"]);
        assert_ne!(after.get("B").body, before.get("B").body, "B as it is now");
        assert_ne!(after.version, before.version, "a new version for a new content");
    }
}

async fn other_types_hold_what_changed(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A", "B"]).await.carries(&["A", "B"]);
    world.commit(vec![put(endpoints("B", 2))]).await;
    client.expect(EDS).await.carries(&["B"]);
    client.quiet().await;
}

async fn scoped_routes_are_full_state(context: Context) {
    let world = context
        .serve(vec![
            scope("s1", "r1", "one"),
            scope("s2", "r1", "two"),
            scope("s3", "r1", "three"),
        ])
        .await;
    let mut client = world.open().await;
    client.fetch(SRDS, &[]).await.carries(&["s1", "s2", "s3"]);
    world.commit(vec![delete(SRDS, "s2")]).await;
    client.expect(SRDS).await.carries(&["s1", "s3"]);
}

async fn a_deletion_leaves_the_rest_and_the_last_one_an_empty_response(context: Context) {
    let world = context.serve(pairs(&WILDCARD_TYPES)).await;
    for of in WILDCARD_TYPES {
        let mut client = world.open().await;
        let before = client.fetch(of, &[]).await;
        world.commit(vec![delete(of, "A")]).await;
        let rest = client.expect(of).await;
        rest.carries(&["B"]);
        assert_ne!(rest.version, before.version, "the rest is another content");
        client.ack(&rest);
        world.commit(vec![delete(of, "B")]).await;
        let none = client.expect(of).await;
        none.carries(&[]);
        assert!(
            !none.version.is_empty() && none.version != rest.version,
            "a new version: {none}"
        );
    }
}

async fn deleted_endpoints_and_routes_are_no_empty_response(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A", "B"]).await;
    client.fetch(RDS, &["r1"]).await;
    world.commit(vec![delete(EDS, "A"), delete(RDS, "r1")]).await;
    for response in client.drain().await {
        assert_eq!(
            response.type_url,
            EDS.type_url(),
            "a deleted route is silence, found {response}"
        );
        response.carries(&["A"]);
        let assignment: ClusterLoadAssignment = response.get("A").decode();
        assert!(
            assignment.endpoints.is_empty(),
            "A has no endpoints any more, found {assignment:?}"
        );
    }
}

async fn a_missing_name_is_sent_when_it_exists(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(RDS, &["r1", "rX"]).await.carries(&["r1"]);
    client.quiet().await;
    world.commit(vec![put(route("rX", "B", 1))]).await;
    client.expect(RDS).await.get("rX");
}

async fn what_exists_is_not_held_up_by_what_does_not(context: Context) {
    let world = context.f1().await;
    for (of, names, present) in [
        (RDS, ["r1", "rX"], "r1"),
        (CDS, ["A", "X"], "A"),
        (LDS, ["L", "X"], "L"),
        (EDS, ["A", "X"], "A"),
    ] {
        let mut client = world.open().await;
        client.subscribe(of, &names);
        client.expect(of).await.get(present);
    }
}

async fn a_plain_ack_is_answered_by_nothing(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    client.quiet_for(Duration::from_secs(2)).await;
}

async fn an_ack_with_a_missing_name_is_no_loop(context: Context) {
    let world = context.f1().await;
    for (of, names) in [
        (RDS, ["r1", "Z"]),
        (CDS, ["A", "Z"]),
        (LDS, ["L", "Z"]),
        (EDS, ["A", "Z"]),
    ] {
        let mut client = world.open().await;
        client.subscribe(of, &names);
        let mut count = 0;
        for response in client.drain().await {
            count += 1;
            client.ack(&response);
        }
        let more = client.drain().await;
        assert!(
            count == 1 && more.is_empty(),
            "expected one response of {of}, found {count} and {}",
            more.len()
        );
    }
}

async fn a_grown_list_is_answered_at_once(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A"]).await.carries(&["A"]);
    client.grow(EDS, &["B"]);
    client.expect(EDS).await.get("B");
    client.fetch(CDS, &["A"]).await.carries(&["A"]);
    client.grow(CDS, &["B"]);
    client.until(CDS).await.carries(&["A", "B"]);
}

async fn a_name_dropped_and_listed_again_is_sent_again(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let first = client.fetch(RDS, &["r1"]).await;
    client.shrink(RDS, &["r1"]);
    client.quiet().await;
    client.grow(RDS, &["r1"]);
    let again = client.expect(RDS).await;
    again.carries(&["r1"]);
    assert_ne!(again.nonce, first.nonce, "a new nonce");
}

async fn a_shrunk_list_is_not_answered(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A", "B"]).await;
    client.shrink(EDS, &["B"]);
    client.quiet().await;
    let mut clusters = world.open().await;
    clusters.fetch(CDS, &["A", "B"]).await;
    clusters.shrink(CDS, &["B"]);
    clusters.quiet().await;
    world.commit(vec![put(endpoints("B", 2)), put(cluster("B", 2))]).await;
    client.quiet().await;
    clusters.quiet().await;
}

async fn named_clusters_and_listeners_come_alone(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &["A"]).await.carries(&["A"]);
    world
        .commit(vec![put(listener("M", "r1", 2)), put(cluster("B", 2))])
        .await;
    client.quiet().await;
    client.fetch(LDS, &["L"]).await.carries(&["L"]);
    world
        .commit(vec![put(cluster("A", 2)), put(listener("M", "r1", 3))])
        .await;
    client.expect(CDS).await.carries(&["A"]);
    client.quiet().await;
}

async fn unsubscribing_everything_is_not_answered(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(EDS, &["A", "B"]).await;
    client.shrink(EDS, &["A", "B"]);
    client.quiet().await;
    world.commit(vec![put(endpoints("A", 2))]).await;
    client.quiet().await;
    client.grow(EDS, &["A"]);
    client.expect(EDS).await.carries(&["A"]);
}
