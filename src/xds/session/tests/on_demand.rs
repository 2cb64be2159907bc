//! Resources that are subscribed by name when they are needed: virtual hosts, clusters.

use super::*;
use crate::resource::{Reference, Source};

const HOST: ResourceType = ResourceType::VirtualHost;

fn reference(resource_type: ResourceType, name: &str, source: Source) -> Reference {
    Reference {
        resource_type,
        name: name.into(),
        source,
    }
}

/// A route configuration with `vhds`.
fn with_hosts(name: &str, content: u8) -> Resource {
    Resource {
        refers: Some(Arc::new([reference(HOST, name, Source::Own)])),
        ..resource(name, content)
    }
}

fn aliased(name: &str, content: u8, aliases: &[&str]) -> Resource {
    resource(name, content).wrapped(aliases.iter().map(|alias| Arc::from(*alias)).collect(), None)
}

// DX-28
#[test]
fn a_virtual_host_is_answered_by_its_name_and_by_its_aliases_once() {
    let mut client = client(Variant::Delta);
    client.serve(HOST, aliased("r1/h", 1, &["r1/h:80", "r1/H"]));
    assert_eq!(client.delta(HOST, &["r1/h:80"], &[]).says(), ["virtual_hosts[r1/h@1]"]);
    client.serve(HOST, aliased("r1/h", 2, &["r1/h:80", "r1/H"]));
    assert_eq!(client.says(), ["virtual_hosts[r1/h@2]"]);
    assert_eq!(
        client.delta(HOST, &["r1/h", "r1/H"], &[]).says(),
        ["virtual_hosts[r1/h@2]"]
    );
    client.commit(&[(HOST, "r1/h", None)]);
    assert_eq!(client.says(), ["virtual_hosts[-r1/h]"]);
}

// DX-28: Envoy asks by the Host header, and waits for an alias that is just that
#[test]
fn a_virtual_host_asked_for_with_a_port_is_the_one_without() {
    let mut client = client(Variant::Delta);
    client.commit(&[(HOST, "r1/h", Some(1))]);
    client.delta(HOST, &["r1/h:8080"], &[]);
    let answer = client.session.next_response(&client.snapshot, client.now).unwrap();
    let answer = pb::DeltaDiscoveryResponse::decode(&*[answer.head, answer.blocks.pieces().concat()].concat()).unwrap();
    let [host] = &*answer.resources else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (&*host.name, &*host.aliases),
        ("r1/h", &["r1/h:8080".to_owned(), "r1/h".to_owned()][..])
    );
    client.commit(&[(HOST, "r1/h", Some(2))]);
    assert_eq!(client.says(), ["virtual_hosts[r1/h@2]"]);
    client.commit(&[(HOST, "r1/h", None)]);
    assert_eq!(client.says(), ["virtual_hosts[-r1/h]"]);
    assert_eq!(
        client.delta(HOST, &["r1/h:8080"], &[]).says(),
        ["virtual_hosts[~r1/h:8080=r1/h:8080]"]
    );
    client.serve(HOST, resource("r1/h:8080", 3));
    assert_eq!(client.says(), ["virtual_hosts[r1/h:8080@3]"]);
    client
        .delta(HOST, &[], &["r1/h:8080"])
        .commit(&[(HOST, "r1/h", Some(4))]);
    assert_eq!(client.says(), [""; 0]);
}

// DX-29
#[test]
fn a_virtual_host_that_does_not_exist_is_an_alias_of_nothing_until_it_does() {
    let mut client = client(Variant::Delta);
    assert_eq!(
        client.delta(HOST, &["r1/none"], &[]).says(),
        ["virtual_hosts[~r1/none=r1/none]"]
    );
    client.serve(HOST, aliased("r1/n", 1, &["r1/none"]));
    assert_eq!(client.says(), ["virtual_hosts[r1/n@1]"]);
    client.commit(&[(HOST, "r1/n", None)]);
    assert_eq!(client.says(), ["virtual_hosts[-r1/n]"]);
    assert_eq!(
        client.delta(HOST, &["r1/none"], &[]).says(),
        ["virtual_hosts[~r1/none=r1/none]"]
    );
}

// DX-30
#[test]
fn an_empty_first_request_is_answered_for_each_route_configuration_with_vhds() {
    let mut client = client(Variant::Delta);
    client
        .serve(ROUTE, with_hosts("r2", 1))
        .serve(ROUTE, with_hosts("r3", 1));
    client.commit(&[
        (HOST, "r2/a", Some(1)),
        (HOST, "r2/b", Some(1)),
        (HOST, "r20/a", Some(1)),
        (HOST, "r2/x/a", Some(1)),
    ]);
    client.delta(ROUTE, &["r1", "r2", "r3"], &[]).all();
    assert_eq!(
        client.delta(HOST, &[], &[]).says(),
        ["virtual_hosts[r2/a@1,r2/b@1,-r3/-]"]
    );
    client.commit(&[
        (HOST, "r2/a", Some(2)),
        (HOST, "r3/a", Some(1)),
        (HOST, "r20/a", Some(2)),
        (HOST, "r2/b", None),
    ]);
    assert_eq!(client.says(), ["virtual_hosts[r2/a@2,r3/a@1,-r2/b]"]);
}

// DX-30: no request follows for a route configuration that is subscribed later, or again
#[test]
fn a_later_route_configuration_is_followed_by_its_virtual_hosts() {
    let mut client = client(Variant::Delta);
    client
        .serve(ROUTE, with_hosts("r2", 1))
        .commit(&[(HOST, "r2/a", Some(1))]);
    assert_eq!(
        client.delta(ROUTE, &["r1"], &[]).delta(HOST, &[], &[]).says(),
        ["RDS[r1@1]"]
    );
    assert_eq!(
        client.delta(ROUTE, &["r2"], &[]).says(),
        ["RDS[r2@1]", "virtual_hosts[r2/a@1]"]
    );
    assert_eq!(client.delta(ROUTE, &[], &["r2"]).says(), [""; 0]);
    client.commit(&[(HOST, "r2/a", Some(2))]);
    assert_eq!(client.says(), [""; 0]);
    assert_eq!(
        client.delta(ROUTE, &["r2"], &[]).says(),
        ["RDS[r2@1]", "virtual_hosts[r2/a@2]"]
    );
    client.serve(ROUTE, with_hosts("r1", 2));
    assert_eq!(client.says(), ["RDS[r1@2]", "virtual_hosts[-r1/-]"]);
}

// DX-15, DX-30: on a service of its own, and after a reconnect
#[test]
fn alone_on_its_service_virtual_hosts_are_those_of_all_route_configurations() {
    let mut client = client(Variant::Delta);
    client.session.settings.service_type = Some(HOST);
    client
        .serve(ROUTE, with_hosts("r2", 1))
        .commit(&[(HOST, "r2/a", Some(1)), (HOST, "r1/a", Some(1))]);
    client.delta_with(HOST, &["r1/a"], &[], &[("r2/a", 1), ("r2/gone", 1), ("r1/a", 1)]);
    assert_eq!(client.says(), ["virtual_hosts[r1/a@1,r2/a@1,-r2/gone]"]);
}

fn on_demand(name: &str, content: u8) -> Resource {
    Resource {
        on_demand: true,
        ..resource(name, content)
    }
}

// DX-29, DX-30: a client that subscribes by name gets no other virtual host
#[test]
fn names_in_the_first_request_ask_for_no_route_configuration() {
    let mut client = client(Variant::Delta);
    client
        .serve(ROUTE, with_hosts("r2", 1))
        .commit(&[(HOST, "r2/a", Some(1)), (HOST, "r2/b", Some(1))]);
    client.delta(ROUTE, &["r2"], &[]).all();
    assert_eq!(client.delta(HOST, &["r2/b"], &[]).says(), ["virtual_hosts[r2/b@1]"]);
    client
        .serve(ROUTE, with_hosts("r2", 2))
        .commit(&[(HOST, "r2/a", Some(2))]);
    assert_eq!(client.says(), ["RDS[r2@2]"]);
}

// DX-26
#[test]
fn a_cluster_on_demand_is_asked_for_by_name_with_or_without_a_wildcard() {
    let mut client = client(Variant::Delta);
    client.serve(CLUSTER, on_demand("x", 1));
    assert_eq!(client.delta(CLUSTER, &["x"], &[]).says(), ["CDS[x@1]"]);
    client.commit(&[(CLUSTER, "A", Some(2))]);
    assert_eq!(client.says(), [""; 0]);
    assert_eq!(client.delta(CLUSTER, &["nope"], &[]).says(), ["CDS[-nope]"]);
    client.commit(&[(CLUSTER, "x", None)]);
    assert_eq!(client.says(), ["CDS[-x]"]);
    client
        .serve(CLUSTER, on_demand("x", 1))
        .serve(CLUSTER, on_demand("nope", 1));
    assert_eq!(client.says(), ["CDS[nope@1,x@1]"]);
}

// DX-26, DX-27
#[test]
fn a_cluster_on_demand_is_part_of_nobody_elses_wildcard() {
    let (mut one, mut other) = (client(Variant::Delta), client(Variant::Delta));
    for client in [&mut one, &mut other] {
        client
            .serve(CLUSTER, on_demand("x", 1))
            .serve(CLUSTER, on_demand("y", 1));
        assert_eq!(client.delta(CLUSTER, &[], &[]).says(), ["CDS[A@1,B@1,S@1]"]);
    }
    assert_eq!(one.delta(CLUSTER, &["x"], &[]).says(), ["CDS[x@1]"]);
    for client in [&mut one, &mut other] {
        client
            .serve(CLUSTER, on_demand("x", 2))
            .serve(CLUSTER, on_demand("y", 2));
    }
    assert_eq!((one.says(), other.says()), (vec!["CDS[x@2]".to_owned()], Vec::new()));
    let mut again = client(Variant::Delta);
    again.serve(CLUSTER, on_demand("x", 2));
    again.delta_with(
        CLUSTER,
        &["*", "x", "gone"],
        &[],
        &[("A", 1), ("B", 9), ("S", 1), ("x", 1), ("gone", 1)],
    );
    assert_eq!(again.says(), ["CDS[B@1,x@2,-gone]"]);
}

// AD-05, AD-11: in both variants, because SotW clients with the unified mux are silent, too
#[test]
fn what_a_listener_awaits_follows_it_where_the_client_has_it() {
    let secret = ResourceType::Secret;
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = client(variant);
        let ask = |client: &mut Client, of_type, names: &[&str]| match variant {
            Variant::Sotw => client.sotw(of_type, names).says(),
            Variant::Delta => client.delta(of_type, names, &[]).says(),
        };
        let refers = [(ROUTE, "r1"), (ROUTE, "other"), (secret, "s")]
            .map(|(of_type, name)| reference(of_type, name, Source::Own));
        let listener = |content| Resource {
            refers: Some(Arc::new(refers.clone())),
            ..resource("L", content)
        };
        client
            .commit(&[(ROUTE, "other", Some(1)), (secret, "s", Some(1))])
            .serve(LISTENER, listener(2));
        ask(&mut client, ROUTE, &["r1"]);
        assert_eq!(ask(&mut client, LISTENER, &["L"]), ["LDS[L@2]", "RDS[r1@1]"]);
        ask(&mut client, secret, &["s"]);
        client.serve(LISTENER, listener(3));
        assert_eq!(client.says(), ["LDS[L@3]", "secrets[s@1]", "RDS[r1@1]"]);
        client.commit(&[(ROUTE, "r1", Some(2))]);
        assert_eq!(client.says(), ["RDS[r1@2]"]);
    }
}

/// A listener that refers to the route configuration `r1`.
fn routed(name: &str, content: u8, source: Source) -> Resource {
    Resource {
        refers: Some(Arc::new([reference(ROUTE, "r1", source)])),
        ..resource(name, content)
    }
}

// AD-05: to Envoy it is another subscription, for which it asks nothing
#[test]
fn routes_follow_a_listener_that_goes_back_to_the_common_source() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = client(variant);
        client.serve(LISTENER, routed("L", 1, Source::Common));
        match variant {
            Variant::Sotw => client.sotw(LISTENER, &[]).sotw(ROUTE, &["r1"]).all(),
            Variant::Delta => client.delta(LISTENER, &[], &[]).delta(ROUTE, &["r1"], &[]).all(),
        };
        let after = |client: &mut Client, listener| client.serve(LISTENER, listener).all().pop().unwrap().short();
        assert!(
            after(&mut client, routed("L", 2, Source::Common)).starts_with("LDS"),
            "Envoy waits for nothing"
        );
        assert_eq!(after(&mut client, routed("L", 3, Source::Own)), "RDS[r1@1]");
        assert_eq!(after(&mut client, routed("L", 4, Source::Common)), "RDS[r1@1]");
        assert_eq!(
            after(&mut client, routed("M", 1, Source::Common)),
            "RDS[r1@1]",
            "another may be refused"
        );
        assert!(after(&mut client, resource("N", 1)).starts_with("LDS"));
    }
}

// AD-05, DX-14: what the client has of a listener is known from its version alone, or not at all
#[test]
fn routes_follow_a_listener_to_a_client_that_comes_back() {
    let mut same = client(Variant::Delta);
    same.serve(LISTENER, routed("L", 2, Source::Own));
    same.delta_with(LISTENER, &[], &[], &[("L", 2)]);
    same.delta_with(ROUTE, &["r1"], &[], &[("r1", 1)]);
    assert_eq!(same.says(), [""; 0]);
    same.serve(LISTENER, routed("L", 3, Source::Common));
    assert_eq!(same.says(), ["LDS[L@3]", "RDS[r1@1]"]);

    let mut other = client(Variant::Delta);
    other.serve(LISTENER, routed("L", 3, Source::Common));
    other.delta_with(LISTENER, &[], &[], &[("L", 2)]);
    assert_eq!(other.says(), ["LDS[L@3]"]);
    other.delta_with(ROUTE, &["r1"], &[], &[("r1", 1)]);
    assert_eq!(
        other.says(),
        ["RDS[r1@1]"],
        "this request says nothing of what the new listener waits for"
    );
    other.serve(LISTENER, routed("L", 4, Source::Common));
    assert_eq!(other.says(), ["LDS[L@4]"]);
}
