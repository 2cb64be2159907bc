//! Removals wait for resources that may still use the removed one: the rare cases that the search found.

use super::*;

// AD-13: only a client that is silent is stuck
#[test]
fn a_client_that_answers_is_not_taken_for_a_stuck_one() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        client.commit(&[(CLUSTER, "Z", Some(1))]);
        let said = client.all().remove(0);
        client.now += Duration::from_secs(20);
        assert_eq!(client.says(), [""; 0]);
        assert!(client.session.conditions().clusters_unacknowledged);
        client.nack(&said, &[]);
        client.commit(&[(CLUSTER, "Z", None), (CLUSTER, "A", None), (ROUTE, "r1", Some(2))]);
        assert_eq!(client.says(), ["RDS[r1@2]"], "what the old route uses stays");
    }
}

// AD-02: the NACKed resource is removed, and no response is due for it
#[test]
fn a_removal_that_waits_for_what_is_gone_itself_goes_in_the_same_flush() {
    let mut client = up_to_date(Variant::Sotw);
    client.commit(&[(CLUSTER, "S", None), (ROUTE, "r1", Some(2))]);
    let said = client.all().remove(0);
    assert_eq!(said.short(), "RDS[r1@2]");
    assert_eq!(client.nack(&said, &["r1"]).says(), [""; 0]);
    client.now += Duration::from_secs(61);
    client.commit(&[(ROUTE, "r1", None)]);
    assert_eq!(client.says(), ["CDS[A@1,B@1]"]);
    assert!(client.session.deadline().is_none_or(|deadline| deadline > client.now));
}

// Decision 6: after a NACK the old stays until a later response is acknowledged
#[test]
fn what_was_told_since_a_nack_is_waited_for() {
    for answered in [true, false] {
        let mut client = up_to_date(Variant::Delta);
        client.commit(&[(CLUSTER, "S", None), (ROUTE, "r1", Some(2))]);
        let refused = client.all().remove(0);
        client.nack(&refused, &[]);
        client.now += Duration::from_secs(61);
        client.commit(&[(ROUTE, "r1", None)]);
        let gone = client.all();
        assert_eq!(gone.iter().map(Said::short).collect::<Vec<_>>(), ["RDS[-r1]"]);
        if answered {
            client.ack(&gone[0], &[]);
        } else {
            assert_eq!(client.session.deadline(), Some(client.now + Duration::from_secs(60)));
            client.now += Duration::from_secs(60);
        }
        assert_eq!(client.says(), ["CDS[-S]"]);
    }
}

// AD-02, SW-05
#[test]
fn what_was_asked_for_by_name_waits_under_a_wildcard_too() {
    for variant in BOTH {
        let mut client = client(variant);
        for (of_type, name) in [(CLUSTER, "A"), (ROUTE, "r1")] {
            match variant {
                Variant::Sotw => client.sotw(of_type, &[name]),
                Variant::Delta => client.delta(of_type, &[name], &[]),
            };
            let said = client.all().remove(0);
            client.ack(&said, &[name]);
        }
        match variant {
            Variant::Sotw => client.sotw(CLUSTER, &["*", "A"]).sotw(CLUSTER, &["*"]),
            Variant::Delta => client.delta(CLUSTER, &["*"], &["A"]),
        };
        client.commit(&[(CLUSTER, "A", None), (ROUTE, "r1", Some(2))]);
        assert_eq!(client.says(), ["CDS[A@1,B@1,S@1]", "RDS[r1@2]"]);
    }
}

// AD-02: a publish comes between a cluster and its endpoints
#[test]
fn what_is_back_while_something_that_uses_it_is_told_waits_anew() {
    let mut client = up_to_date(Variant::Delta);
    client.commit(&[(CLUSTER, "A", None), (ENDPOINT, "A", None)]);
    let gone = client.all();
    assert_eq!(gone.iter().map(Said::short).collect::<Vec<_>>(), ["CDS[-A]"]);
    client.ack(&gone[0], &[]);
    client.commit(&[(CLUSTER, "A", Some(2)), (ENDPOINT, "A", Some(1))]);
    let again = client.next().expect("the cluster");
    assert_eq!(again.short(), "CDS[A@2]");
    client.commit(&[(ENDPOINT, "A", None)]);
    let endpoints = client.all();
    assert_eq!(
        endpoints.iter().map(Said::short).collect::<Vec<_>>(),
        ["EDS[A@1]"],
        "which the client has"
    );
    client.ack(&endpoints[0], &[]);
    assert_eq!(client.says(), [""; 0]);
    assert_eq!(client.ack(&again, &[]).says(), ["EDS[-A]"]);
}

// AD-02: a NACK comes after a minute of silence, while the flush that would remove is on its way
#[test]
fn a_removal_that_is_not_told_yet_waits_when_what_uses_it_is_refused() {
    let mut client = up_to_date(Variant::Delta);
    client.commit(&[(ROUTE, "r1", None), (LISTENER, "L", Some(2))]);
    let listeners = client.all();
    assert_eq!(listeners.iter().map(Said::short).collect::<Vec<_>>(), ["LDS[L@2]"]);
    client.now += Duration::from_secs(61);
    client.commit(&[(CLUSTER, "A", Some(2))]);
    assert_eq!(client.next().expect("the cluster").short(), "CDS[A@2]");
    client.nack(&listeners[0], &[]);
    assert_eq!(client.says(), ["EDS[A@1]"]);
    client.commit(&[(LISTENER, "L", Some(3))]);
    let mended = client.all().remove(0);
    assert_eq!(client.ack(&mended, &[]).says(), ["RDS[-r1]"]);
}

// DX-22
#[test]
fn a_wildcard_that_is_given_up_before_it_is_answered_is_not_answered() {
    let mut client = up_to_date(Variant::Delta);
    let named = client.delta(CLUSTER, &["A"], &[]).all().remove(0);
    client.ack(&named, &[]);
    client.commit(&[(CLUSTER, "A", None), (ROUTE, "r1", Some(2))]);
    assert_eq!(client.says(), ["RDS[r1@2]"]);
    assert_eq!(
        client.delta(CLUSTER, &["*"], &[]).delta(CLUSTER, &[], &["*"]).says(),
        [""; 0]
    );
}

// AD-03, decision 5
#[test]
fn endpoints_that_stand_refused_no_longer_follow_their_cluster_after_a_nack_too() {
    let mut client = up_to_date(Variant::Delta);
    client.commit(&[(ENDPOINT, "A", Some(2))]);
    let first = client.all().remove(0);
    client.nack(&first, &[]);
    client.commit(&[(ENDPOINT, "A", Some(3))]);
    let second = client.all().remove(0);
    client.commit(&[(ENDPOINT, "A", Some(2))]);
    assert_eq!(client.says(), ["EDS[A@2]"]);
    client.commit(&[(CLUSTER, "A", Some(2))]);
    assert_eq!(client.says(), ["CDS[A@2]"], "its endpoints stand refused");
    assert_eq!(client.nack(&second, &[]).says(), ["EDS[A@2]"]);
}

// Warming: a resource with a held removal exists again, with a new cluster
#[test]
fn what_comes_back_before_it_is_removed_waits_for_its_clusters_too() {
    use crate::document::key::{DocumentKey, Kind};
    use crate::resource::compile::parts::Part;
    let mut client = up_to_date(Variant::Delta);
    let route = |content: u8, cluster: &str| {
        let part = Part {
            revision: i64::from(content),
            upstreams: [Arc::from(cluster)].into(),
        };
        let parts = std::iter::once((DocumentKey::new(Kind::Routes, "r1"), part)).collect();
        Resource {
            parts: Some(Arc::new(parts)),
            ..Resource::new("r1", body("r1", content), Vec::new())
        }
    };
    client.serve(ROUTE, route(2, "A"));
    let said = client.all().remove(0);
    client.ack(&said, &[]);
    client.commit(&[(ROUTE, "r1", None), (LISTENER, "L", Some(2))]);
    assert_eq!(client.says(), ["LDS[L@2]"], "the route waits for its answer");
    client.commit(&[(CLUSTER, "N", Some(1))]).serve(ROUTE, route(3, "N"));
    let clusters = client.all();
    assert_eq!(clusters.iter().map(Said::short).collect::<Vec<_>>(), ["CDS[N@1]"]);
    assert_eq!(client.ack(&clusters[0], &[]).says(), ["RDS[r1@3]"]);
}

// GEN-17: the ACK of one resource says nothing of another that was refused
#[test]
fn what_was_refused_does_not_count_as_accepted() {
    let mut client = up_to_date(Variant::Delta);
    client.commit(&[(CLUSTER, "A", Some(2))]);
    let refused = client.all().remove(0);
    client.nack(&refused, &[]);
    client.commit(&[(CLUSTER, "B", Some(2))]);
    let taken = client.all().remove(0);
    client.ack(&taken, &[]);
    let accepted = |client: &Client, name: &str| {
        let set = client.session.acked(CLUSTER).expect("clusters were accepted");
        set.get(name).expect("the cluster is there").version
    };
    assert_eq!(accepted(&client, "A"), resource("A", 1).version);
    assert_eq!(accepted(&client, "B"), resource("B", 2).version);
}
