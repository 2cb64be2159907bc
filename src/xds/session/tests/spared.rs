//! Clusters that do not become warm: what else waits for them, and for how long.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::HealthCheck;

use super::*;
use crate::resource::clusters::no_wait::wait_of;
use crate::xds::session::spared::{SLOW_AFTER, START_MAX, UNCHECKED_MAX};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster whose hosts come from where it is said, `checks` of them checked.
fn cluster(name: &str, discovery: DiscoveryType, checks: usize) -> Resource {
    let message = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        health_checks: vec![HealthCheck::default(); checks],
        ..Cluster::default()
    };
    Resource {
        waits: wait_of(&message.encode_to_vec()),
        ..Resource::new(name, message.encode_to_vec(), Vec::new())
    }
}

/// All that is said now, each response acknowledged but those of `silent` types; clusters with their forms.
fn told(client: &mut Client, silent: &[ResourceType]) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(response) = client.session.next_response(&client.snapshot, client.now) {
        let said = client.said(&response);
        if said.resource_type == CLUSTER {
            told.extend(forms(&client.bodies(&response)));
        } else {
            told.push(said.short());
        }
        if !silent.contains(&said.resource_type) {
            let names: &[&str] = match said.resource_type {
                ENDPOINT => &["A", "B", "N"],
                ROUTE => &["r1", "r2"],
                _ => &[],
            };
            client.ack(&said, names);
        }
        assert!(told.len() < 100, "{told:?}");
    }
    told
}

/// The clusters of a response: `name`, `name!` if Envoy does not wait for its names, `name+` if its hosts are checked.
fn forms(bodies: &[Vec<u8>]) -> Vec<String> {
    let form = |cluster: Cluster| {
        let spared = cluster.wait_for_warm_on_init.is_some_and(|waits| !waits.value);
        let checked = !cluster.health_checks.is_empty();
        format!(
            "{}{}{}",
            cluster.name,
            if spared { "!" } else { "" },
            if checked { "+" } else { "" }
        )
    };
    let mut forms: Vec<_> = bodies
        .iter()
        .filter_map(|body| Cluster::decode(&**body).ok())
        .map(form)
        .collect();
    forms.sort();
    forms
}

fn ask(client: &mut Client, resource_type: ResourceType, names: &[&str]) {
    match client.session.settings.variant {
        Variant::Sotw => client.sotw(resource_type, names),
        Variant::Delta => client.delta(resource_type, names, &[]),
    };
}

/// A client and clusters: `dns` waits for names, `checked` for health checks, `both` for both, `plain` for neither.
fn begun(variant: Variant) -> Client {
    let mut client = client(variant);
    client.commit(&[(CLUSTER, "A", None), (CLUSTER, "B", None), (CLUSTER, "S", None)]);
    for (name, discovery, checks) in [
        ("plain", DiscoveryType::Eds, 0),
        ("checked", DiscoveryType::Eds, 1),
        ("dns", DiscoveryType::StrictDns, 0),
        ("both", DiscoveryType::LogicalDns, 1),
    ] {
        client.serve(CLUSTER, cluster(name, discovery, checks));
    }
    ask(&mut client, CLUSTER, &[]);
    client
}

/// A client that has all of that, and has listeners and routes.
fn running(variant: Variant) -> Client {
    let mut client = begun(variant);
    for (of_type, names) in [
        (ENDPOINT, &["A", "B", "N"] as &[&str]),
        (LISTENER, &[]),
        (ROUTE, &["r1", "r2"]),
    ] {
        ask(&mut client, of_type, names);
    }
    told(&mut client, &[]);
    client
}

#[test]
fn a_client_that_does_not_come_to_its_listeners_is_spared_all_waits() {
    for variant in BOTH {
        let mut client = begun(variant);
        assert_eq!(told(&mut client, &[]), ["both+", "checked+", "dns", "plain"]);
        let bound = client.now + START_MAX;
        assert!(
            client.session.deadline().is_some_and(|deadline| deadline <= bound),
            "{variant:?}"
        );
        client.now += START_MAX - Duration::from_millis(1);
        assert_eq!(
            told(&mut client, &[]),
            [""; 0],
            "{variant:?}: sooner than that nothing is spared"
        );
        client.now += Duration::from_millis(1);
        let spared: &[&str] = match variant {
            Variant::Sotw => &["both!+", "checked", "dns!", "plain"],
            Variant::Delta => &["both!+", "checked", "dns!"],
        };
        assert_eq!(told(&mut client, &[]), spared, "{variant:?}");
        ask(&mut client, LISTENER, &[]);
        let checked_again: &[&str] = match variant {
            Variant::Sotw => &["lds", "both!+", "checked+", "dns!", "plain"],
            Variant::Delta => &["lds", "checked+"],
        };
        let told_of: Vec<_> = told(&mut client, &[])
            .iter()
            .map(|word| word.replace("LDS[L@1]", "lds"))
            .collect();
        assert_eq!(
            told_of, checked_again,
            "{variant:?}: the hosts are checked from then on"
        );
        client.now += 100 * SECOND;
        assert_eq!(told(&mut client, &[]), [""; 0], "{variant:?}");
    }
}

#[test]
fn a_client_that_never_asks_for_listeners_gets_its_health_checks_back() {
    let mut client = begun(Variant::Delta);
    told(&mut client, &[]);
    client.now += START_MAX;
    told(&mut client, &[]);
    client.now += UNCHECKED_MAX;
    assert_eq!(told(&mut client, &[]), ["checked+"]);
    assert_eq!(client.session.deadline(), None);
}

#[test]
fn a_client_that_comes_to_its_listeners_in_time_is_sent_nothing_twice() {
    for variant in BOTH {
        let mut client = running(variant);
        client.now += 100 * SECOND;
        assert_eq!(
            (told(&mut client, &[]), client.session.deadline()),
            (vec![], None),
            "{variant:?}"
        );
    }
}

#[test]
fn names_that_are_silent_are_waited_for_once() {
    for variant in BOTH {
        let mut client = running(variant);
        client.serve(CLUSTER, cluster("sick", DiscoveryType::StrictDns, 0));
        let silent = [CLUSTER];
        told(&mut client, &silent);
        client.now += SLOW_AFTER;
        let words = told(&mut client, &[]);
        let spared: Vec<_> = words.iter().filter(|word| word.contains('!')).collect();
        assert_eq!(
            spared,
            ["sick!"],
            "{variant:?}: nothing else that waits for names is touched, {words:?}"
        );

        // Another cluster changes: the spared one stays the same, also for a reconnecting client.
        client.serve(CLUSTER, cluster("other", DiscoveryType::Eds, 0));
        let words = told(&mut client, &[]);
        assert!(!words.contains(&"sick".to_owned()), "{variant:?}: {words:?}");
        client.serve(CLUSTER, cluster("sick", DiscoveryType::StrictDns, 1));
        let words = told(&mut client, &[]);
        assert!(
            words.contains(&"sick+".to_owned()),
            "{variant:?}: another text is waited for, {words:?}"
        );
    }
}

/// Envoy may be stuck with a cluster that it cannot build; removals of clusters without ACK then do not wait. With
/// health checks Envoy may be silent for longer.
#[test]
fn a_health_check_explains_that_clusters_are_not_answered() {
    for variant in BOTH {
        let mut client = running(variant);
        client.serve(CLUSTER, cluster("slow", DiscoveryType::Eds, 1));
        told(&mut client, &[CLUSTER]);
        for (waited, is_stuck) in [(0, false), (119, false), (1, true)] {
            client.now += waited * SECOND;
            client.commit(&[(LISTENER, "L", Some(u8::try_from(waited).unwrap()))]);
            told(&mut client, &[CLUSTER]);
            let conditions = client.session.conditions();
            assert_eq!(conditions.clusters_unacknowledged, is_stuck, "{variant:?}, {waited}");
        }
    }
}
