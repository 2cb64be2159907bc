//! Times to live (DX-19, DX-20, SW-29, SW-30).

use super::*;

const TTL: Duration = Duration::from_secs(3);

fn timed(name: &str, content: u8) -> Resource {
    resource(name, content).wrapped(Vec::new(), Some(TTL))
}

/// At the session's deadline: everything that is said.
fn later(client: &mut Client) -> Vec<Said> {
    let deadline = client.session.deadline().expect("something is due");
    assert!(deadline - client.now <= TTL / 2, "DX-20");
    client.now = deadline;
    client.all()
}

fn short(said: &[Said]) -> Vec<String> {
    said.iter().map(Said::short).collect()
}

// DX-20
#[test]
fn a_resource_with_a_time_to_live_is_repeated_within_half_of_it() {
    let mut client = client(Variant::Delta);
    client.serve(CLUSTER, timed("T", 1));
    let said = client.delta(CLUSTER, &[], &[]).all().remove(0);
    assert_eq!(
        (said.short().as_str(), &*said.ttl),
        ("CDS[A@1,B@1,S@1,T@1]", &[("T".to_owned(), 3000)][..])
    );
    client.ack(&said, &[]);
    for _ in 0..3 {
        let said = later(&mut client);
        assert_eq!(short(&said), ["CDS[~T]"]);
        assert_eq!(said[0].ttl, [("T".to_owned(), 3000)]);
        client.ack(&said[0], &[]);
    }
    assert_eq!(client.says(), [""; 0]);
    client.commit(&[(CLUSTER, "T", Some(1))]);
    let said = client.all().remove(0);
    assert_eq!(
        (said.short().as_str(), said.ttl.len()),
        ("CDS[T@1]", 0),
        "without it, told again"
    );
    assert_eq!(client.session.deadline(), None);
}

// DX-19
#[test]
fn a_body_is_left_out_only_when_it_was_acknowledged_and_not_refused_since() {
    let mut client = client(Variant::Delta);
    client.serve(CLUSTER, timed("T", 1));
    let first = client.delta(CLUSTER, &["T"], &[]).all().remove(0);
    assert_eq!(short(&later(&mut client)), ["CDS[T@1]"], "no answer yet");
    client.nack(&first, &[]);
    let again = later(&mut client).remove(0);
    assert_eq!(again.short(), "CDS[T@1]", "refused");
    client.ack(&again, &[]);
    let beat = later(&mut client).remove(0);
    assert_eq!(beat.short(), "CDS[~T]");
    client.nack(&beat, &[]);
    assert_eq!(short(&later(&mut client)), ["CDS[T@1]"], "a heartbeat was refused");
    client.serve(CLUSTER, timed("T", 2));
    let changed = client.all().remove(0);
    assert_eq!(changed.short(), "CDS[T@2]");
    assert_eq!(
        short(&later(&mut client)),
        ["CDS[T@2]"],
        "another version was acknowledged"
    );
    client.ack(&changed, &[]);
    assert_eq!(short(&later(&mut client)), ["CDS[~T]"]);
}

// DX-20: a reconnected client gets a repetition of a resource that it has; AD-02: also while its removal is held
#[test]
fn what_a_client_reports_and_what_is_held_is_repeated() {
    let mut client = client(Variant::Delta);
    client.serve(CLUSTER, timed("T", 1));
    let version = timed("T", 1).version.to_string();
    let request = pb::DeltaDiscoveryRequest {
        node: crate_node(),
        type_url: CLUSTER.type_url().to_owned(),
        resource_names_subscribe: vec!["T".to_owned()],
        initial_resource_versions: [("T".to_owned(), version)].into(),
        ..pb::DeltaDiscoveryRequest::default()
    };
    client.request(request.encode_to_vec());
    assert_eq!(client.says(), [""; 0]);
    client.delta(ROUTE, &["r1"], &[]).all();
    assert_eq!(short(&later(&mut client)), ["CDS[T@1]"]);
    client.commit(&[(CLUSTER, "T", None), (ROUTE, "r1", Some(2))]);
    let said = client.all();
    assert_eq!(short(&said), ["RDS[r1@2]"]);
    assert_eq!(short(&later(&mut client)), ["CDS[T@1]"]);
    client.ack(&said[0], &[]);
    assert_eq!(client.says(), ["CDS[-T]"]);
}

// SW-30, F-18
#[test]
fn other_types_have_no_time_to_live() {
    for of_type in ResourceType::ALL
        .into_iter()
        .filter(|of_type| !matches!(*of_type, CLUSTER | LISTENER))
    {
        for variant in [Variant::Sotw, Variant::Delta] {
            let mut client = client(variant);
            client.node.client_features = vec!["xds.config.resource-in-sotw".to_owned()];
            client.serve(of_type, timed("T", 1));
            match variant {
                Variant::Sotw => client.sotw(of_type, &["T"]),
                Variant::Delta => client.delta(of_type, &["T"], &[]),
            };
            let said = client.all();
            assert!(said.iter().all(|said| said.ttl.is_empty()), "{of_type}");
            assert_eq!(
                client.session.deadline().filter(|_| variant == Variant::Sotw),
                None,
                "{of_type}"
            );
        }
    }
}

// SW-29, SW-30
#[test]
fn sotw_clients_that_take_wrappers_get_the_whole_set_again_and_others_bare_resources() {
    for feature in ["xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw"] {
        let mut client = client(Variant::Sotw);
        client.node.client_features = vec![feature.to_owned()];
        client.serve(CLUSTER, timed("T", 1));
        let said = client.sotw(CLUSTER, &[]).all().remove(0);
        assert_eq!(
            (said.short().as_str(), &*said.ttl),
            ("CDS[A@1,B@1,S@1,T@1]", &[("T".to_owned(), 3000)][..])
        );
        client.ack(&said, &[]);
        let again = later(&mut client).remove(0);
        assert_eq!(
            (again.resources, again.ttl, again.version),
            (said.resources, said.ttl, said.version)
        );
    }
    let mut client = client(Variant::Sotw);
    client.serve(CLUSTER, timed("T", 1));
    let said = client.sotw(CLUSTER, &[]).all().remove(0);
    assert_eq!((said.short().as_str(), &*said.ttl), ("CDS[A@1,B@1,S@1,T@1]", &[][..]));
    assert_eq!(client.session.deadline(), None);
}
