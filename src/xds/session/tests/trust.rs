//! The reported conditions of a client: its NACKs and their suspects, a stuck client, its earlier resources.

use super::*;

fn refuse(client: &mut Client, said: &Said, words: &str) -> Vec<String> {
    let status = Status {
        code: 13,
        message: words.to_owned(),
        details: vec![],
    };
    let acked = client.answer(said, &[], Some(status)).acked.expect("a NACK");
    let Ack::Nack { suspects, .. } = acked.ack else {
        panic!("not a NACK")
    };
    suspects
        .shown
        .iter()
        .map(|suspect| suspect.resource.to_string())
        .collect()
}

// F-15: words that name nothing
#[test]
fn what_changed_since_the_last_ack_is_suspected() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        client.commit(&[(CLUSTER, "A", Some(2))]);
        let first = client.all().remove(0);
        assert_eq!(refuse(&mut client, &first, "no"), ["A"]);
        assert!(client.session.nacked_in(CLUSTER, "A").is_some());
        client.commit(&[(CLUSTER, "B", Some(2))]);
        let second = client.all().remove(0);
        let suspects = refuse(&mut client, &second, "no");
        let both: &[&str] = if variant == Variant::Sotw { &["A", "B"] } else { &["B"] };
        assert_eq!(suspects, both, "SotW carries what was refused before along");
        client.commit(&[(CLUSTER, "B", Some(3)), (CLUSTER, "A", Some(3))]);
        let mended = client.all().remove(0);
        client.ack(&mended, &[]);
        assert_eq!(client.session.nacked_in(CLUSTER, "A"), None);
        client.commit(&[(CLUSTER, "S", Some(2))]);
        let third = client.all().remove(0);
        assert_eq!(refuse(&mut client, &third, "no"), ["S"]);
    }
}

// DX-21: across streams
#[test]
fn what_a_stream_left_unknown_is_removed_by_the_next_if_it_is_gone() {
    let mut last = up_to_date(Variant::Delta);
    last.commit(&[(CLUSTER, "g", Some(1)), (CLUSTER, "bad", Some(1))]);
    let said = last.all().remove(0);
    last.nack(&said, &[]);
    let unknown = last.session.unknown();
    assert_eq!(unknown, [(CLUSTER, "bad".into()), (CLUSTER, "g".into())]);
    let mut next = client(Variant::Delta);
    next.commit(&[(CLUSTER, "bad", Some(2))]);
    next.session.recall(unknown);
    next.delta_with(CLUSTER, &[], &[], &[("A", 1), ("B", 1), ("S", 1)]);
    assert_eq!(next.says(), ["CDS[bad@2,-g]"]);
    // A client that subscribes to it by name gets it nevertheless, once.
    let mut named = client(Variant::Delta);
    named.session.recall(vec![(CLUSTER, "g".into())]);
    assert_eq!(named.delta(CLUSTER, &["A", "g"], &[]).says(), ["CDS[A@1,-g]"]);
}

// GEN-17
#[test]
fn a_client_that_refused_is_not_taken_at_its_version() {
    let mut first = client(Variant::Sotw);
    let version = first.sotw(CLUSTER, &[]).all().remove(0).version;
    let mut again = client(Variant::Sotw);
    again.session.recall(vec![(CLUSTER, "A".into())]);
    again.sotw_with(CLUSTER, &[], &version, "");
    assert_eq!(again.says(), ["CDS[A@1,B@1,S@1]"]);
}

// AD-13, F-17
#[test]
fn clusters_without_an_answer_for_twenty_seconds_raise_an_alarm() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        client.commit(&[(CLUSTER, "Z", Some(1)), (ENDPOINT, "A", Some(2))]);
        let said = client.all();
        let deadline = client.session.deadline().expect("a look");
        assert_eq!(deadline, client.now + Duration::from_secs(20));
        client.now = deadline;
        assert_eq!(client.says(), [""; 0]);
        assert!(
            !client.session.conditions().clusters_unacknowledged,
            "it answers nothing at all: that is another matter"
        );
        client.ack(&said[1], &["A", "B"]);
        assert_eq!(client.says(), [""; 0]);
        assert!(client.session.conditions().clusters_unacknowledged);
        assert_eq!(client.session.deadline(), None);
        // The removal of the cluster does not wait, although the changed route has no ACK.
        client.commit(&[(CLUSTER, "Z", None), (CLUSTER, "A", None), (ROUTE, "r1", Some(2))]);
        let gone = client.all();
        let clusters = if variant == Variant::Sotw {
            "CDS[A@1,B@1,S@1]"
        } else {
            "CDS[-Z]"
        };
        assert_eq!(
            gone.iter().map(Said::short).collect::<Vec<_>>(),
            [clusters, "RDS[r1@2]"]
        );
        client.ack(&gone[0], &[]);
        assert_eq!(client.says(), [""; 0]);
        assert!(!client.session.conditions().clusters_unacknowledged);
    }
}

// F-17: delta sends the first NACK
#[test]
fn words_of_a_half_built_cluster_raise_the_alarm_at_once() {
    let mut client = up_to_date(Variant::Delta);
    client.commit(&[(CLUSTER, "Z", Some(1))]);
    let said = client.all().remove(0);
    refuse(
        &mut client,
        &said,
        "Error adding/updating cluster(s) Z: The table size of maglev must be prime number",
    );
    assert!(client.session.conditions().clusters_unacknowledged);
    client.commit(&[(CLUSTER, "Z", None), (ROUTE, "r1", Some(2))]);
    let gone = client.all();
    assert_eq!(gone[0].short(), "CDS[-Z]");
    client.ack(&gone[0], &[]);
    assert!(!client.session.conditions().clusters_unacknowledged);
}

#[test]
fn removals_that_a_refusal_holds_are_told() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        client.commit(&[(CLUSTER, "A", None), (ROUTE, "r1", Some(2))]);
        let said = client.all().remove(0);
        assert!(!client.session.conditions().removals_held, "no answer yet");
        client.nack(&said, &["r1"]).all();
        assert!(client.session.conditions().removals_held);
        client.commit(&[(ROUTE, "r1", Some(3))]);
        let mended = client.all().remove(0);
        client.ack(&mended, &["r1"]).all();
        assert!(!client.session.conditions().removals_held);
    }
}

// DX-13, DX-15, GR-08
#[test]
fn a_reconnect_with_everything_current_says_so() {
    let mut client = client(Variant::Delta);
    client.delta_with(CLUSTER, &[], &[], &[("A", 1), ("B", 1), ("S", 1)]);
    client.delta_with(LISTENER, &[], &[], &[("L", 1)]);
    client.delta_with(ROUTE, &["r1"], &[], &[("r1", 1)]);
    assert_eq!(client.says(), [""; 0]);
    let mut confirmed: Vec<_> = std::iter::from_fn(|| client.session.confirmed())
        .map(|(of_type, _)| of_type)
        .collect();
    confirmed.sort_unstable();
    assert_eq!(confirmed, [CLUSTER, LISTENER, ROUTE]);
    client.now = client.session.deadline().expect("a greeting");
    assert_eq!(client.says(), ["CDS[]"]);
    assert_eq!(
        client.session.deadline(),
        Some(client.now + Duration::from_secs(20)),
        "its answer is looked for"
    );
    // And what came before needs no ACK to be known: a route that moves to a known cluster does not wait.
    client.delta_with(ENDPOINT, &["A"], &[], &[("A", 1)]);
    assert_eq!(client.says(), ["EDS[A@1]"]);
}
