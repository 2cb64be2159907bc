//! Resources that name a new cluster wait for its ACK, others do not.

use super::*;
use crate::document::key::{DocumentKey, Kind};
use crate::resource::compile::parts::Part;

/// Route configurations with the clusters that their one document names, beside other content.
fn publish(client: &mut Client, commit: Commit<'_>, routes: &[(&str, u8, &[&str])]) {
    let before = std::mem::replace(&mut client.snapshot, Snapshot::unpublished());
    let mut resources: Vec<ResourceChange> = routes
        .iter()
        .map(|(name, content, clusters)| {
            let upstreams = clusters.iter().map(|cluster| Arc::from(*cluster)).collect();
            let part = Part {
                revision: i64::from(*content),
                upstreams,
            };
            let key = DocumentKey::new(Kind::Routes, *name);
            let parts = Some(Arc::new(std::iter::once((key.clone(), part)).collect()));
            let resource = Resource {
                parts,
                ..Resource::new(*name, body(name, *content), vec![key])
            };
            let name = Arc::from(*name);
            ResourceChange {
                group: "default".into(),
                resource_type: ROUTE,
                name,
                resource: Some(Arc::new(resource)),
            }
        })
        .collect();
    resources.sort_by(|one, other| one.name.cmp(&other.name));
    let mut difference = difference(commit);
    difference.resources.extend(resources);
    difference
        .resources
        .sort_by(|one, other| (one.resource_type, &one.name).cmp(&(other.resource_type, &other.name)));
    client.snapshot = before.next(&difference, Facts::after(&before));
}

/// A client that has everything and has acknowledged it: routes `r1` and `r2` go to `A`.
fn up_to_date(variant: Variant) -> Client {
    let mut client = client(variant);
    publish(&mut client, &[], &[("r1", 1, &["A"]), ("r2", 1, &["A"])]);
    for (of_type, names) in [
        (CLUSTER, &[] as &[&str]),
        (ENDPOINT, &["A", "B"]),
        (LISTENER, &[]),
        (ROUTE, &["r1", "r2"]),
    ] {
        match variant {
            Variant::Sotw => client.sotw(of_type, names),
            Variant::Delta => client.delta(of_type, names, &[]),
        };
        for said in client.all() {
            client.ack(&said, names_of(&said));
        }
    }
    assert_eq!(client.says(), [""; 0]);
    client
}

fn names_of(said: &Said) -> &'static [&'static str] {
    match said.resource_type {
        ENDPOINT => &["A", "B"],
        ROUTE => &["r1", "r2"],
        _ => &[],
    }
}

#[test]
fn a_route_to_a_new_cluster_waits_for_the_ack_of_the_cluster() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        let new = [
            (CLUSTER, "N", Some(1)),
            (CLUSTER, "A", None),
            (ENDPOINT, "B", Some(2)),
            (LISTENER, "L", Some(2)),
        ];
        publish(&mut client, &new, &[("r1", 2, &["N"]), ("r2", 2, &["A"])]);
        let said = client.all();
        let short: Vec<_> = said.iter().map(Said::short).collect();
        let clusters = if variant == Variant::Sotw {
            "CDS[A@1,B@1,N@1,S@1]"
        } else {
            "CDS[N@1]"
        };
        assert_eq!(
            short,
            [clusters, "EDS[B@2]", "LDS[L@2]", "RDS[r2@2]"],
            "nothing else waits"
        );
        for said in &said[1..] {
            client.ack(said, names_of(said));
        }
        assert_eq!(client.says(), [""; 0]);
        let routes = client.ack(&said[0], &[]).all();
        assert_eq!(routes[0].short(), "RDS[r1@2]", "before the cluster goes");
        assert_eq!(routes.len(), 1);
        let gone = client.ack(&routes[0], names_of(&routes[0])).says();
        assert_eq!(
            gone,
            [if variant == Variant::Sotw {
                "CDS[B@1,N@1,S@1]"
            } else {
                "CDS[-A]"
            }]
        );
    }
}

#[test]
fn it_waits_five_seconds_at_most() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        publish(&mut client, &[(CLUSTER, "N", Some(1))], &[("r1", 2, &["N"])]);
        assert_eq!(client.says().len(), 1);
        let deadline = client.now + Duration::from_secs(5);
        assert!(client.session.deadline().is_some_and(|at| at <= deadline), "a bound");
        // A further change of what waits does not begin the wait anew.
        client.now = deadline - Duration::from_millis(1);
        publish(&mut client, &[(CLUSTER, "M", Some(1))], &[("r1", 3, &["M"])]);
        assert_eq!(client.says().len(), 1);
        client.now = deadline;
        assert_eq!(client.says(), ["RDS[r1@3]"]);
        assert!(client.session.deadline().is_none_or(|deadline| deadline > client.now));
        // The next one waits for itself, though the clusters before it were never answered.
        publish(&mut client, &[(CLUSTER, "O", Some(1))], &[("r1", 4, &["O"])]);
        assert_eq!(client.says().len(), 1);
    }
}

#[test]
fn a_cluster_that_was_waited_for_in_vain_is_not_waited_for_again() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        publish(&mut client, &[(CLUSTER, "N", Some(1))], &[("r1", 2, &["N"])]);
        assert_eq!(client.says().len(), 1);
        client.now += Duration::from_secs(5);
        assert_eq!(client.says(), ["RDS[r1@2]"]);
        publish(&mut client, &[], &[("r2", 2, &["N"])]);
        assert_eq!(client.says(), ["RDS[r2@2]"], "{variant:?}");
        publish(&mut client, &[(CLUSTER, "N", Some(2))], &[("r2", 3, &["A"])]);
        assert_eq!(client.says().len(), 2, "{variant:?}");
        publish(&mut client, &[], &[("r2", 4, &["N"])]);
        let said = client.says();
        assert!(
            !said.iter().any(|said| said.starts_with("RDS")),
            "another text of it is, {variant:?}: {said:?}"
        );
    }
}

/// One cold cluster withholds the ACK of all clusters. The ACK of its endpoints shows that another cluster is warm.
#[test]
fn behind_a_wait_in_vain_a_cluster_is_warm_when_its_endpoints_are_answered() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        client.commit(&[(CLUSTER, "S", Some(2))]);
        assert_eq!(client.says().len(), 1);
        let new = [(CLUSTER, "B", Some(2)), (ENDPOINT, "B", Some(2))];
        client.now += Duration::from_secs(4);
        publish(&mut client, &new, &[("r1", 2, &["B"])]);
        let endpoints = client.all().remove(1);
        assert_eq!(endpoints.short(), "EDS[B@2]");
        assert_eq!(
            client.ack(&endpoints, names_of(&endpoints)).says(),
            [""; 0],
            "{variant:?}: the ACK may come"
        );
        client.now += Duration::from_secs(1);
        assert_eq!(client.says(), ["RDS[r1@2]"], "{variant:?}");
    }
}

#[test]
fn a_nack_ends_the_wait() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        publish(&mut client, &[(CLUSTER, "N", Some(1))], &[("r1", 2, &["N"])]);
        let said = client.all().remove(0);
        assert_eq!(client.nack(&said, &[]).says(), ["RDS[r1@2]"]);
    }
}

#[test]
fn only_what_is_newly_named_is_waited_for() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        publish(&mut client, &[(CLUSTER, "A", Some(2))], &[("r1", 2, &["A"])]);
        let said = client.says();
        assert_eq!(
            said.last().map(String::as_str),
            Some("RDS[r1@2]"),
            "the cluster it had serves on: {said:?}"
        );
        publish(&mut client, &[(CLUSTER, "B", Some(2))], &[("r1", 3, &["A", "B"])]);
        assert!(
            !client.says().iter().any(|said| said.starts_with("RDS")),
            "a cluster that changed is warmed anew"
        );
    }
}

#[test]
fn who_asks_is_answered_and_a_first_answer_does_not_wait() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        publish(
            &mut client,
            &[(CLUSTER, "N", Some(1))],
            &[("r1", 2, &["N"]), ("r3", 1, &["N"])],
        );
        client.all();
        let said = match variant {
            Variant::Sotw => client
                .sotw(ROUTE, &["r2", "r3"])
                .sotw(ROUTE, &["r1", "r2", "r3"])
                .says(),
            Variant::Delta => client.delta(ROUTE, &["r1", "r3"], &[]).says(),
        };
        assert_eq!(said, ["RDS[r1@2,r3@1]"]);
        let far = client.now + Duration::from_secs(6);
        assert!(
            client.session.deadline().is_none_or(|deadline| deadline > far),
            "what was answered does not wait"
        );
    }
    let mut fresh = client(Variant::Delta);
    publish(&mut fresh, &[], &[("r1", 1, &["A"])]);
    assert_eq!(fresh.delta(CLUSTER, &[], &[]).says().len(), 1);
    assert_eq!(fresh.delta(ROUTE, &["r1"], &[]).says(), ["RDS[r1@1]"]);
}

#[test]
fn a_change_that_is_taken_back_is_none() {
    for variant in BOTH {
        let mut client = up_to_date(variant);
        publish(&mut client, &[(CLUSTER, "N", Some(1))], &[("r1", 2, &["N"])]);
        let said = client.all().remove(0);
        publish(&mut client, &[], &[("r1", 1, &["A"])]);
        assert_eq!(client.says(), [""; 0]);
        assert_eq!(client.ack(&said, &[]).says(), [""; 0]);
    }
}

#[test]
fn a_cluster_that_was_gone_and_never_removed_is_warm() {
    let mut client = up_to_date(Variant::Delta);
    publish(
        &mut client,
        &[(CLUSTER, "S", None), (CLUSTER, "B", Some(2))],
        &[("r1", 2, &["A"])],
    );
    let said = client.all();
    assert_eq!(
        said.iter().map(Said::short).collect::<Vec<_>>(),
        ["CDS[B@2]", "EDS[B@1]", "RDS[r1@2]"]
    );
    publish(&mut client, &[(CLUSTER, "S", Some(1))], &[]);
    assert_eq!(client.says(), [""; 0], "it has it still");
    client.ack(&said[0], &[]);
    publish(&mut client, &[(CLUSTER, "B", Some(3))], &[("r1", 3, &["S"])]);
    assert_eq!(client.says(), ["CDS[B@3]", "EDS[B@1]", "RDS[r1@3]"]);
}

#[test]
fn the_version_says_what_was_sent() {
    let mut client = up_to_date(Variant::Sotw);
    publish(
        &mut client,
        &[(CLUSTER, "N", Some(1))],
        &[("r1", 2, &["N"]), ("r2", 2, &["A"])],
    );
    let said = client.all();
    let first = said.last().expect("routes").clone();
    let second = client.ack(&said[0], &[]).all().remove(0);
    assert_eq!(
        (first.short(), second.short()),
        ("RDS[r2@2]".to_owned(), "RDS[r1@2]".to_owned())
    );
    assert_ne!(first.version, second.version);
}

// AD-01: a listener that itself names a cluster
#[test]
fn sotw_listeners_keep_the_text_that_waits_beside_others_that_change() {
    let mut client = up_to_date(Variant::Sotw);
    let part = |cluster: &str| Part {
        revision: 1,
        upstreams: [Arc::from(cluster)].into(),
    };
    let listener = |content: u8, cluster: &str| {
        let key = DocumentKey::new(Kind::Listeners, "L");
        let parts = Some(Arc::new(std::iter::once((key, part(cluster))).collect()));
        ResourceChange {
            group: "default".into(),
            resource_type: LISTENER,
            name: "L".into(),
            resource: Some(Arc::new(Resource {
                parts,
                ..Resource::new("L", body("L", content), Vec::new())
            })),
        }
    };
    let put = |client: &mut Client, change: ResourceChange, commit: Commit<'_>| {
        let mut difference = difference(commit);
        difference.resources.push(change);
        client.snapshot = client.snapshot.next(&difference, Facts::after(&client.snapshot));
    };
    put(&mut client, listener(2, "A"), &[]);
    let said = client.all().remove(0);
    client.ack(&said, &[]);
    put(&mut client, listener(3, "N"), &[(CLUSTER, "N", Some(1))]);
    let clusters = client.all();
    assert_eq!(clusters.len(), 1);
    client.commit(&[(LISTENER, "M", Some(1))]);
    assert_eq!(client.says(), ["LDS[L@2,M@1]"]);
    assert_eq!(client.ack(&clusters[0], &[]).says(), ["LDS[L@3,M@1]"]);
}

/// A client that reconnects with these clusters and with older routes; and the responses before its first ACK.
fn back(has: &[(&str, u8)]) -> (Client, Vec<Said>) {
    let mut client = client(Variant::Delta);
    publish(
        &mut client,
        &[(CLUSTER, "N", Some(1)), (ENDPOINT, "N", Some(1))],
        &[("r1", 2, &["N"])],
    );
    client.delta_with(CLUSTER, &[], &[], has);
    client.delta_with(ENDPOINT, &["A"], &[], &[("A", 1)]);
    client.delta_with(LISTENER, &[], &[], &[("L", 1)]);
    client.delta_with(ROUTE, &["r1"], &[], &[("r1", 1)]);
    let said = client.all();
    (client, said)
}

fn short(said: &[Said]) -> Vec<String> {
    said.iter().map(Said::short).collect()
}

const HAD: [(&str, u8); 3] = [("A", 1), ("B", 1), ("S", 1)];

#[test]
fn who_comes_back_gets_new_routes_once_new_clusters_are_warm() {
    let (mut client, said) = back(&HAD);
    assert_eq!(short(&said), ["CDS[N@1]", "EDS[A@1,N@1]"]);
    assert_eq!(client.session.deadline(), Some(client.now + Duration::from_secs(5)));
    assert_eq!(client.ack(&said[0], &[]).says(), ["RDS[r1@2]"]);

    let (mut client, _) = back(&HAD);
    client.now += Duration::from_secs(5);
    assert_eq!(client.says(), ["RDS[r1@2]"], "five seconds at most");

    let (mut client, said) = back(&HAD);
    assert_eq!(
        client.nack(&said[0], &[]).says(),
        ["RDS[r1@2]"],
        "a refusal is an answer"
    );
}

#[test]
fn who_lost_clusters_before_it_asked_for_routes_does_not_wait() {
    let mut client = client(Variant::Delta);
    publish(&mut client, &[], &[("r1", 1, &["S"])]);
    client.delta_with(CLUSTER, &[], &[], &HAD);
    assert_eq!(client.says(), [""; 0]);
    publish(
        &mut client,
        &[(CLUSTER, "N", Some(1)), (CLUSTER, "S", None)],
        &[("r1", 2, &["N"])],
    );
    assert_eq!(client.says(), ["CDS[N@1,-S]"]);
    client.delta_with(ROUTE, &["r1"], &[], &[("r1", 1)]);
    assert_eq!(client.says(), ["RDS[r1@2]"]);
}

#[test]
fn who_comes_back_waits_no_longer_where_clusters_keep_coming() {
    let (mut client, said) = back(&HAD);
    client.now += Duration::from_secs(4);
    client.commit(&[(CLUSTER, "M", Some(1))]);
    assert_eq!(client.says(), ["CDS[M@1]"]);
    assert_eq!(client.ack(&said[0], &[]).says(), [""; 0], "one of them is not warm");
    assert_eq!(client.session.deadline(), Some(client.now + Duration::from_secs(1)));
    client.now += Duration::from_secs(1);
    assert_eq!(client.says(), ["RDS[r1@2]"]);
}

#[test]
fn who_comes_back_and_loses_clusters_gets_new_routes_at_once() {
    let (_, said) = back(&[HAD.as_slice(), &[("gone", 1)]].concat());
    assert_eq!(short(&said), ["CDS[N@1,-gone]", "EDS[A@1,N@1]", "RDS[r1@2]"]);
    let (_, said) = back(&[HAD.as_slice(), &[("N", 1)]].concat());
    assert_eq!(short(&said), ["EDS[A@1]", "RDS[r1@2]"], "it has all of them");
}
