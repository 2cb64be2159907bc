//! Listeners that take over each other's addresses: the order within a response, and the two steps of a circle.

use super::*;

/// A listener at these addresses.
fn listener(name: &str, content: u8, claims: &[&str]) -> Resource {
    Resource {
        claims: Some(claims.iter().map(|claim| Arc::from(*claim)).collect()),
        ..resource(name, content)
    }
}

/// Publish listeners at once; a listener without addresses is removed.
fn publish(client: &mut Client, listeners: &[(&str, u8, &[&str])]) {
    let change = |(name, content, claims): &(&str, u8, &[&str])| ResourceChange {
        group: "default".into(),
        resource_type: LISTENER,
        name: (*name).into(),
        resource: (!claims.is_empty()).then(|| Arc::new(listener(name, *content, claims))),
    };
    client.snapshot = changed(&client.snapshot, listeners.iter().map(change).collect());
}

/// The next responses, with the resources in their order.
fn says(client: &mut Client) -> Vec<Said> {
    let mut said = Vec::new();
    while let Some(response) = client.session.next_response(&client.snapshot, client.now) {
        let mut one = client.said(&response);
        let bodies = client.bodies(&response);
        let order: Vec<_> = bodies.iter().map(|body| parse(body).0).collect();
        one.resources
            .sort_by_key(|(name, _)| order.iter().position(|other| other == name));
        said.push(one);
    }
    said
}

fn short(said: &[Said]) -> Vec<String> {
    said.iter().map(Said::short).collect()
}

/// A client with the listeners `a` at 1, `b` at 2, `c` at 3, acknowledged.
fn running(variant: Variant) -> Client {
    let mut client = client(variant);
    publish(
        &mut client,
        &[("L", 1, &[]), ("a", 1, &["1"]), ("b", 1, &["2"]), ("c", 1, &["3"])],
    );
    match variant {
        Variant::Sotw => client.sotw(LISTENER, &[]),
        Variant::Delta => client.delta(LISTENER, &[], &[]),
    };
    for said in says(&mut client) {
        client.ack(&said, &[]);
    }
    client
}

#[test]
fn a_listener_that_moves_away_goes_before_the_one_that_takes_its_address() {
    for variant in BOTH {
        let mut client = running(variant);
        publish(&mut client, &[("a", 2, &["2"]), ("b", 2, &["3"]), ("c", 2, &["4"])]);
        assert_eq!(short(&says(&mut client)), ["LDS[c@2,b@2,a@2]"], "{variant:?}");
        publish(&mut client, &[("a", 3, &["3"]), ("b", 3, &["5"])]);
        let expected = if variant == Variant::Sotw {
            "LDS[c@2,b@3,a@3]"
        } else {
            "LDS[b@3,a@3]"
        };
        assert_eq!(short(&says(&mut client)), [expected], "{variant:?}");
    }
}

#[test]
fn of_a_circle_one_listener_is_removed_until_the_others_are_answered() {
    for variant in BOTH {
        for refused in [false, true] {
            let mut client = running(variant);
            publish(&mut client, &[("a", 2, &["2"]), ("b", 2, &["3"]), ("c", 2, &["1"])]);
            let first = says(&mut client);
            let expected = if variant == Variant::Sotw {
                "LDS[a@2,c@2]"
            } else {
                "LDS[a@2,c@2,-b]"
            };
            assert_eq!(short(&first), [expected], "{variant:?}");
            assert_eq!(
                client.session.deadline(),
                Some(client.now + Duration::from_secs(5)),
                "{variant:?}"
            );
            // A further change of another listener does not get in between.
            publish(&mut client, &[("d", 1, &["9"])]);
            assert_eq!(short(&says(&mut client)), [""; 0], "{variant:?}");
            let client = if refused {
                client.nack(&first[0], &[])
            } else {
                client.ack(&first[0], &[])
            };
            let second = short(&says(client));
            let expected = match (variant, refused) {
                (Variant::Sotw, _) => "LDS[b@2,c@2,a@2,d@1]",
                (Variant::Delta, false) => "LDS[b@2,d@1]",
                (Variant::Delta, true) => "LDS[a@2,b@2,c@2,d@1]",
            };
            assert_eq!(second.len(), 1);
            let sorted = |text: &str| {
                let mut names: Vec<_> = text.trim_matches(|one| "LDS[]".contains(one)).split(',').collect();
                names.sort_unstable();
                names.join(",")
            };
            assert_eq!(sorted(&second[0]), sorted(expected), "{variant:?}, refused: {refused}");
        }
    }
}

#[test]
fn the_second_step_does_not_wait_for_ever() {
    for variant in BOTH {
        let mut client = running(variant);
        publish(&mut client, &[("a", 2, &["2"]), ("b", 2, &["1"])]);
        assert_eq!(says(&mut client).len(), 1);
        client.now += Duration::from_secs(5);
        assert_eq!(says(&mut client).len(), 1, "{variant:?}");
        assert_eq!(client.session.deadline(), None, "{variant:?}");
    }
}

/// Delta: a listener whose address was taken is refused for what another one does. It is sent again when any listener
/// changes.
#[test]
fn a_refused_listener_is_sent_again_with_the_next_change_of_listeners() {
    let mut client = running(Variant::Delta);
    publish(&mut client, &[("d", 1, &["7"])]);
    let said = says(&mut client);
    client.nack(&said[0], &[]);
    client.commit(&[(CLUSTER, "A", Some(2))]);
    assert_eq!(short(&says(&mut client)), [""; 0]);
    publish(&mut client, &[("a", 2, &["8"])]);
    let said = says(&mut client);
    assert_eq!(short(&said), ["LDS[a@2,d@1]"]);
    client.ack(&said[0], &[]);
    publish(&mut client, &[("a", 3, &["9"])]);
    assert_eq!(short(&says(&mut client)), ["LDS[a@3]"]);
}
