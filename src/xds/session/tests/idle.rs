//! Streams at rest: what keeps one there, and what wakes it.

use super::*;

/// A client that has everything and has said so.
fn step_idle(variant: Variant) -> Client {
    let mut client = client(variant);
    for (resource_type, names) in [(CLUSTER, &[] as &[&str]), (ENDPOINT, &["A", "B"]), (LISTENER, &[])] {
        match variant {
            Variant::Delta => client.delta(resource_type, names, &[]),
            Variant::Sotw => client.sotw(resource_type, names),
        };
        for said in client.all() {
            client.ack(
                &said,
                if said.resource_type == resource_type {
                    names
                } else {
                    &[]
                },
            );
        }
    }
    assert!(client.all().is_empty());
    client
}

#[test]
fn an_acknowledged_change_leaves_a_stream_at_rest() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut client = step_idle(variant);
        assert!(client.session.idle.is_some(), "{variant:?}");
        client.commit(&[(ENDPOINT, "B", Some(2))]);
        let said = client.all();
        assert_eq!(said.iter().map(Said::short).collect::<Vec<_>>(), ["EDS[B@2]"]);
        assert!(client.session.idle.is_some(), "{variant:?}: sent");
        client.ack(&said[0], &["A", "B"]);
        assert!(client.session.idle.is_some(), "{variant:?}: acknowledged");
        assert_eq!(
            (client.session.deadline(), client.session.conditions()),
            (None, Conditions::default())
        );
        assert!(client.all().is_empty());
    }
}

#[test]
fn a_refusal_a_question_and_another_node_wake_it() {
    let mut refused = step_idle(Variant::Delta);
    refused.commit(&[(ENDPOINT, "B", Some(2))]);
    let said = refused.all();
    refused.nack(&said[0], &[]);
    let mut asked = step_idle(Variant::Delta);
    asked.delta(ENDPOINT, &["A"], &[]);
    let mut moved = step_idle(Variant::Delta);
    moved.node.cluster = "another".to_owned();
    moved.delta(ENDPOINT, &[], &[]);
    for (client, expected) in [(refused, &[] as &[&str]), (asked, &["EDS[A@1]"]), (moved, &[])] {
        let mut client = client;
        assert!(client.session.idle.is_none());
        assert_eq!(client.says(), expected);
    }
}

#[test]
fn what_waits_and_what_follows_is_not_at_rest() {
    let mut client = step_idle(Variant::Delta);
    client.commit(&[(CLUSTER, "B", None), (LISTENER, "L", Some(2))]);
    assert_eq!(
        client.says(),
        ["LDS[L@2]"],
        "the removal waits for the listener's answer"
    );
    assert!(client.session.idle.is_none() && client.session.deadline().is_some());
}

#[test]
fn one_at_rest_that_answers_nothing_about_clusters_is_looked_at_in_time() {
    let mut client = step_idle(Variant::Delta);
    client.commit(&[(CLUSTER, "A", Some(2))]);
    let said = client.all();
    assert_eq!(
        said.iter().map(Said::short).collect::<Vec<_>>(),
        ["CDS[A@2]", "EDS[A@1]"],
        "endpoints follow their cluster"
    );
    client.ack(&said[1], &[]);
    assert!(client.all().is_empty());
    let check_at = client
        .session
        .deadline()
        .expect("an answer about clusters may be long in coming");
    assert!(client.session.idle.is_some() && check_at > client.now);
    client.now = check_at;
    assert!(client.all().is_empty());
    assert!(client.session.idle.is_none() && client.session.conditions().clusters_unacknowledged);
    client.ack(&said[0], &[]);
    assert!(client.all().is_empty());
    assert!(client.session.idle.is_some() && client.session.deadline().is_none());
}
