//! The cost of a plan grows with the change, at most as n log n, whatever the documents say.
//!
//! Each case is a worst one: of a kind of conflict, or of a kind of loss. A case is planned with n and with 4 n
//! documents. n log n costs about five times as much at the second size, n² sixteen times. The processor time of the
//! thread is compared, not the time on the clock, so that other work on the machine does not count.

use serde_json::json;

use super::*;
use crate::reconcile::memory::Record;

/// The first size.
const SMALL: usize = 200;
/// Growth of the cost that is allowed at four times the size.
const MOST: f64 = 8.5;
/// The kernel counts processor time in steps of some milliseconds.
const UNMEASURED: Duration = Duration::from_millis(25);
/// A case is measured again before it fails: the first measurement may have met a cold cache.
const TRIES: usize = 3;

/// The time that this thread has spent on a processor.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// The cost of the measured part of a case.
fn cost_of(work: impl FnOnce()) -> Duration {
    let before = spent();
    work();
    spent() - before
}

/// Fails if four times the size costs much more than four times as much.
fn assert_n_log_n(case: impl Fn(usize) -> Duration) {
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let (small, large) = (case(SMALL), case(4 * SMALL));
        let growth = large.as_secs_f64() / small.as_secs_f64();
        if growth <= MOST || large < UNMEASURED {
            return;
        }
        seen.push(format!("{small:?} and {large:?} (x {growth:.1})"));
    }
    panic!("{SMALL} and {} cost {}", 4 * SMALL, seen.join(", "));
}

/// A plan of these inputs, and of the records of the shared memory that it writes.
fn cost_of_plan(stage: &mut Stage, inputs: Vec<Input>) -> Duration {
    cost_of(|| drop(stage.plan(inputs)))
}

/// A plan of these inputs alone. While a root is held, each record that is read back costs the records of the root.
fn cost_without_records(stage: &mut Stage, inputs: Vec<Input>) -> Duration {
    cost_of(|| drop(plan(&stage.world, inputs, stage.moment())))
}

fn listed(documents: impl IntoIterator<Item = (String, String)>) -> (Stage, Vec<Input>) {
    listed_on(Stage::empty(), documents)
}

fn listed_on(mut stage: Stage, documents: impl IntoIterator<Item = (String, String)>) -> (Stage, Vec<Input>) {
    documents.into_iter().for_each(|(key, text)| stage.store(&key, &text));
    let inputs = [Root::Documents, Root::Registrations].map(|root| stage.list_input(root, ListReason::Start));
    (stage, inputs.into())
}

/// A stage at rest with these documents.
fn at_rest(documents: impl IntoIterator<Item = (String, String)>) -> Stage {
    let (mut stage, inputs) = listed(documents);
    stage.plan(inputs);
    stage
}

/// All these texts in one revision.
fn one_revision(stage: &mut Stage, documents: impl IntoIterator<Item = (String, Option<String>)>) -> Input {
    let (mut changes, mut root) = (Vec::new(), Root::Documents);
    stage.revision += 1;
    let revision = stage.revision;
    for (key, text) in documents {
        stage.revision = revision - 1;
        root = root_of(&key);
        match text {
            Some(text) => {
                stage.store(&key, &text);
                changes.push(Change::Put(stage.store[&key].clone()));
            }
            None => {
                stage.unstore(&key);
                changes.push(Change::Delete {
                    key: full_key(&key).into(),
                });
            }
        }
    }
    Input::Event {
        root,
        event: Event::Changed { revision, changes },
    }
}

fn cost_of_list(documents: impl IntoIterator<Item = (String, String)>) -> Duration {
    let (mut stage, inputs) = listed(documents);
    cost_of_plan(&mut stage, inputs)
}

/// The cost of one changed route beside these documents.
fn cost_of_a_route_beside(documents: impl IntoIterator<Item = (String, String)>) -> Duration {
    let mut stage = at_rest(documents);
    let put = stage.put_input("routes/other", r#"{"match": "/other", "to": "http://10.9.9.9:80"}"#);
    cost_of_plan(&mut stage, vec![put])
}

fn each(n: usize, document: impl Fn(usize) -> (String, String)) -> Vec<(String, String)> {
    (0..n).map(document).collect()
}

fn listener(port: usize) -> String {
    format!(r#"{{"address": "10.{}.{}.1:80"}}"#, port / 250, port % 250)
}

fn one_address(n: usize) -> Vec<(String, String)> {
    each(n, |i| (format!("listeners/l{i:05}"), listener(1)))
}

fn xds(resource_type: ResourceType, name: &str, mut resource: serde_json::Value) -> (String, String) {
    resource["@type"] = json!(resource_type.type_url());
    let field = if resource_type == ResourceType::Endpoint {
        "cluster_name"
    } else {
        "name"
    };
    resource[field] = json!(name);
    let key = format!("xds/{resource_type}/{name}");
    (key, json!({ "resource": resource }).to_string())
}

fn xds_listener(name: &str, ports: &[usize]) -> (String, String) {
    let address = |port: &usize| {
        let host = format!("10.{}.{}.1", port / 250, port % 250);
        json!({ "socket_address": { "address": host, "port_value": 80 } })
    };
    let more: Vec<_> = ports[1..]
        .iter()
        .map(|port| json!({ "address": address(port) }))
        .collect();
    let listener = json!({ "address": address(&ports[0]), "additional_addresses": more, "filter_chains": [{}] });
    xds(ResourceType::Listener, name, listener)
}

fn scope(name: &str, key: &str) -> (String, String) {
    let key = json!({ "fragments": [{ "string_key": key }] });
    xds(
        ResourceType::ScopedRoute,
        name,
        json!({ "route_configuration_name": "r", "key": key }),
    )
}

fn xds_routes(name: &str, cluster: &str) -> (String, String) {
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    let host = json!({ "name": "h", "domains": ["*"], "routes": [route] });
    xds(
        ResourceType::Route,
        name,
        json!({ "virtual_hosts": [host], "validate_clusters": true }),
    )
}

fn route(n: usize, path: usize, cluster: &str) -> (String, String) {
    (
        format!("routes/r{n:05}"),
        format!(r#"{{"match": "/{path}", "to": "{cluster}"}}"#),
    )
}

#[test]
fn listeners_of_one_address() {
    assert_n_log_n(|n| cost_of_list(one_address(n)));
}

#[test]
fn a_route_beside_listeners_of_one_address() {
    assert_n_log_n(|n| cost_of_a_route_beside(one_address(n)));
}

#[test]
fn xds_listeners_of_one_address() {
    let documents = |n| each(n, |i| xds_listener(&format!("l{i:05}"), &[1]));
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| cost_of_a_route_beside(documents(n)));
}

#[test]
fn listeners_that_each_want_an_address_of_the_one_before() {
    let documents = |n| each(n, |i| xds_listener(&format!("l{i:05}"), &[i + 1, i]));
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| cost_of_a_route_beside(documents(n)));
}

#[test]
fn listeners_whose_last_good_texts_claim_each_others_addresses() {
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, |i| (format!("listeners/l{i:05}"), listener(i))));
        let moved = (1..n)
            .rev()
            .map(|i| (format!("listeners/l{i:05}"), Some(listener(i - 1))));
        let moved: Vec<_> = moved
            .chain([("listeners/l00000".to_owned(), Some("{".to_owned()))])
            .collect();
        let change = one_revision(&mut stage, moved);
        cost_of_plan(&mut stage, vec![change])
    });
}

#[test]
fn listeners_that_exchange_their_addresses() {
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, |i| (format!("listeners/l{i:05}"), listener(i))));
        let moved = (0..n).map(|i| (format!("listeners/l{i:05}"), Some(listener((i + 1) % n))));
        let change = one_revision(&mut stage, moved);
        cost_of_plan(&mut stage, vec![change])
    });
}

#[test]
fn listeners_that_come_one_by_one_in_one_plan() {
    assert_n_log_n(|n| {
        let mut stage = at_rest([]);
        let inputs = (0..n)
            .map(|i| stage.put_input(&format!("listeners/l{i:05}"), &listener(1)))
            .collect();
        cost_of_plan(&mut stage, inputs)
    });
}

#[test]
fn scopes_of_one_key() {
    let documents = |n| each(n, |i| scope(&format!("s{i:05}"), "k"));
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| cost_of_a_route_beside(documents(n)));
}

#[test]
fn virtual_hosts_of_one_domain() {
    let host = |i| {
        xds(
            ResourceType::VirtualHost,
            &format!("r/h{i:05}"),
            json!({ "domains": ["h"] }),
        )
    };
    assert_n_log_n(|n| cost_of_list(each(n, host)));
    assert_n_log_n(|n| cost_of_a_route_beside(each(n, host)));
}

#[test]
fn routes_of_one_match() {
    assert_n_log_n(|n| cost_of_list(each(n, |i| route(i, 1, "x"))));
    // The last in the order of names was created first.
    assert_n_log_n(|n| cost_of_list(each(n, |i| route(n - i, 1, "x"))));
    assert_n_log_n(|n| {
        let mut stage = at_rest(
            each(n, |i| route(i, 1, "x"))
                .into_iter()
                .chain(each(3 * n, |i| route(n + i, n + i, "x"))),
        );
        let keys: Vec<String> = (0..n).map(|i| format!("routes/r{i:05}")).collect();
        let change = one_revision(&mut stage, keys.into_iter().map(|key| (key, None)));
        cost_of_plan(&mut stage, vec![change])
    });
}

#[test]
fn wildcard_hosts_over_hosts() {
    assert_n_log_n(|n| {
        let wide = each(n, |i| {
            (
                format!("routes/w{i}"),
                format!(r#"{{"match": "//*.d{i}.test/a", "to": "x"}}"#),
            )
        });
        let narrow = each(n, |i| {
            (
                format!("routes/n{i}"),
                format!(r#"{{"match": "//a.d{i}.test/b", "to": "x"}}"#),
            )
        });
        cost_of_list(wide.into_iter().chain(narrow))
    });
}

#[test]
fn more_entries_than_a_route_configuration_holds() {
    let documents = |n| each(n, |i| route(i, i, "x"));
    let narrow = |n: usize| listed_on(Stage::narrow(n / 4), documents(n));
    assert_n_log_n(|n| {
        let (mut stage, inputs) = narrow(n);
        cost_of_plan(&mut stage, inputs)
    });
    assert_n_log_n(|n| {
        let (mut stage, inputs) = narrow(n);
        stage.plan(inputs);
        let put = stage.put_input("clusters/x", "{}");
        cost_of_plan(&mut stage, vec![put])
    });
}

#[test]
fn documents_that_need_one_missing_cluster() {
    let documents = |n| each(n, |i| xds_routes(&format!("r{i:05}"), "missing"));
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| cost_of_a_route_beside(documents(n)));
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        let put = stage.put_input("clusters/missing", "{}");
        cost_of_plan(&mut stage, vec![put])
    });
}

#[test]
fn a_cluster_that_is_released_under_its_users() {
    assert_n_log_n(|n| {
        let documents = each(n, |i| xds_routes(&format!("r{i:05}"), "x"));
        let mut stage = at_rest(
            [("clusters/x".to_owned(), "{}".to_owned())]
                .into_iter()
                .chain(documents),
        );
        stage.delete("clusters/x");
        cost_of_plan(&mut stage, vec![Input::Release(None)])
    });
}

#[test]
fn endpoints_that_no_cluster_may_hash() {
    let weighted = |name: &str| {
        let endpoint = json!({ "address": { "socket_address": { "address": "10.0.0.1", "port_value": 80 } } });
        let most = u32::MAX;
        let host = json!({ "endpoint": endpoint, "load_balancing_weight": most });
        let endpoints = json!({ "endpoints": [{ "lb_endpoints": [host], "load_balancing_weight": 1 }] });
        xds(ResourceType::Endpoint, name, endpoints)
    };
    let hashing = |name: &str| {
        let eds = json!({ "eds_config": { "ads": {}, "resource_api_version": "V3" } });
        xds(
            ResourceType::Cluster,
            name,
            json!({ "type": "EDS", "lb_policy": "MAGLEV", "eds_cluster_config": eds }),
        )
    };
    let documents = |n| {
        let endpoints = each(n, |i| weighted(&format!("c{i:05}")));
        endpoints.into_iter().chain(each(n, |i| hashing(&format!("c{i:05}"))))
    };
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| cost_of_a_route_beside(documents(n)));
}

#[test]
fn resources_of_one_name() {
    let documents = |n| {
        let compiled = each(n, |i| (format!("clusters/c{i:05}"), "{}".to_owned()));
        let written = each(n, |i| {
            xds(
                ResourceType::Cluster,
                &format!("c{i:05}"),
                json!({ "connect_timeout": "1s" }),
            )
        });
        compiled.into_iter().chain(written)
    };
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        let keys: Vec<_> = (0..n).map(|i| (format!("clusters/c{i:05}"), None)).collect();
        let change = one_revision(&mut stage, keys);
        let inputs = vec![change, Input::Release(None)];
        cost_of_plan(&mut stage, inputs)
    });
}

#[test]
fn a_default_that_no_document_can_have() {
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, |i| route(i, i, "x")));
        let put = stage.put_input("defaults", r#"{"route": {"timeout": "3s"}}"#);
        cost_of_plan(&mut stage, vec![put])
    });
}

#[test]
fn registrations_that_are_gone_at_once() {
    let documents = |n| {
        let services = each(n, |i| {
            (format!("services/x/{i:05}"), format!("10.{}.{}.1:80", i / 250, i % 250))
        });
        [("clusters/x".to_owned(), "{}".to_owned())].into_iter().chain(services)
    };
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        let keys: Vec<_> = (0..n).map(|i| (format!("services/x/{i:05}"), None)).collect();
        let change = one_revision(&mut stage, keys);
        cost_of_plan(&mut stage, vec![change])
    });
    // Each lease in a revision of its own.
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        let inputs = (0..n)
            .map(|i| stage.delete_input(&[&format!("services/x/{i:05}")]))
            .collect();
        cost_of_plan(&mut stage, inputs)
    });
    // Others come in their place.
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        let gone = (0..n).map(|i| (format!("services/x/{i:05}"), None));
        let come = (0..n).map(|i| {
            (
                format!("services/x/n{i:05}"),
                Some(format!("10.{}.{}.2:80", i / 250, i % 250)),
            )
        });
        let change = one_revision(&mut stage, gone.chain(come));
        cost_of_plan(&mut stage, vec![change])
    });
}

#[test]
fn documents_that_are_gone_at_once() {
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, |i| route(i, i, "x")));
        let keys: Vec<_> = (0..n).map(|i| (format!("routes/r{i:05}"), None)).collect();
        let change = one_revision(&mut stage, keys);
        cost_without_records(&mut stage, vec![change])
    });
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, |i| route(i, i, "x")));
        stage.store.clear();
        let inputs = vec![stage.list_input(Root::Documents, ListReason::Reconnect)];
        cost_without_records(&mut stage, inputs)
    });
}

#[test]
fn documents_that_turn_bad_at_once() {
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, |i| route(i, i, "x")));
        let bad: Vec<_> = (0..n)
            .map(|i| (format!("routes/r{i:05}"), Some("{".to_owned())))
            .collect();
        let change = one_revision(&mut stage, bad);
        cost_of_plan(&mut stage, vec![change])
    });
    assert_n_log_n(|n| cost_of_list(each(n, |i| (format!("routes/r{i:05}"), "{".to_owned()))));
}

#[test]
fn clusters_in_use_that_are_gone_at_once() {
    let documents = |n| {
        let clusters = each(n, |i| (format!("clusters/c{i:05}"), "{}".to_owned()));
        clusters
            .into_iter()
            .chain(each(2 * n, |i| route(i, i, &format!("c{:05}", i % n))))
    };
    let gone = |stage: &mut Stage, n| {
        let keys: Vec<_> = (0..n).map(|i| (format!("clusters/c{i:05}"), None)).collect();
        one_revision(stage, keys)
    };
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        let change = gone(&mut stage, n / 2);
        cost_of_plan(&mut stage, vec![change])
    });
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        let change = gone(&mut stage, n / 2);
        stage.plan(vec![change]);
        cost_of_plan(&mut stage, vec![Input::Release(None)])
    });
}

#[test]
fn a_route_that_moves_away_from_many_kept_clusters() {
    assert_n_log_n(|n| {
        let clusters = each(n, |i| (format!("clusters/c{i:05}"), "{}".to_owned()));
        let mut stage = at_rest(
            clusters
                .into_iter()
                .chain(each(2 * n, |i| route(i, i, &format!("c{:05}", i % n)))),
        );
        let keys: Vec<_> = (0..n / 2).map(|i| (format!("clusters/c{i:05}"), None)).collect();
        let change = one_revision(&mut stage, keys);
        stage.plan(vec![change]);
        let moved = (0..2 * n).map(|i| route(i, i, "http://10.0.0.1:80"));
        let inputs = moved.map(|(key, text)| stage.put_input(&key, &text)).collect();
        cost_of_plan(&mut stage, inputs)
    });
}

#[test]
fn a_virtual_host_with_the_domains_of_all_others() {
    let host = |name: &str, domains: Vec<String>| xds(ResourceType::VirtualHost, name, json!({ "domains": domains }));
    let documents = |n| {
        let all = host("r/all", (0..n).map(|i| format!("h{i}")).collect());
        std::iter::once(all).chain(each(n, |i| host(&format!("r/h{i:05}"), vec![format!("h{i}")])))
    };
    assert_n_log_n(|n| cost_of_list(documents(n)));
    assert_n_log_n(|n| cost_of_a_route_beside(documents(n)));
    assert_n_log_n(|n| {
        let mut stage = at_rest(documents(n));
        assert_eq!(stage.world.contested.len(), n);
        let (key, text) = host("r/all", (1..n).map(|i| format!("h{i}")).collect());
        let put = stage.put_input(&key, &text);
        cost_of_plan(&mut stage, vec![put])
    });
}

#[test]
fn clusters_that_each_want_the_next_one_in_the_bootstrap() {
    let cluster = |i: usize| {
        let service = json!({ "envoy_grpc": { "cluster_name": format!("c{:05}", i + 1) } });
        let source = json!({ "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service] });
        let eds = json!({ "eds_config": { "api_config_source": source, "resource_api_version": "V3" } });
        let cluster = json!({ "type": "EDS", "eds_cluster_config": eds });
        xds(ResourceType::Cluster, &format!("c{i:05}"), cluster)
    };
    assert_n_log_n(|n| cost_of_list(each(n, cluster)));
    assert_n_log_n(|n| cost_of_list(each(n, |i| cluster(n - i))));
    assert_n_log_n(|n| cost_of_a_route_beside(each(n, cluster)));
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, cluster));
        assert!(stage.world.contested.len() > n / 3, "{}", stage.world.contested.len());
        let put = stage.put_input("clusters/other", "{}");
        cost_of_plan(&mut stage, vec![put])
    });
}

#[test]
fn a_listener_that_is_written_with_the_address_of_each_other_one() {
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, |i| (format!("listeners/l{i:05}"), listener(i))));
        let inputs = (1..n)
            .map(|i| stage.put_input("listeners/l00000", &listener(i)))
            .collect();
        cost_of_plan(&mut stage, inputs)
    });
}

#[test]
fn listeners_of_one_address_whose_group_comes_and_goes() {
    let listener = |i| {
        (
            format!("listeners/l{i:05}"),
            r#"{"address": "10.0.0.1:80", "groups": ["edge"]}"#.to_owned(),
        )
    };
    let edge = r#"{"match": [{"id": "edge-*"}]}"#;
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, listener));
        let put = stage.put_input("groups/edge", edge);
        cost_of_plan(&mut stage, vec![put])
    });
    assert_n_log_n(|n| {
        let mut stage = at_rest(each(n, listener));
        stage.put("groups/edge", edge);
        assert_eq!(stage.world.contested.len(), n - 1);
        let gone = stage.delete_input(&["groups/edge"]);
        cost_of_plan(&mut stage, vec![gone])
    });
}

#[test]
fn clusters_in_use_that_go_one_by_one_between_changed_routes() {
    assert_n_log_n(|n| {
        let clusters = each(n, |i| (format!("clusters/c{i:05}"), "{}".to_owned()));
        let routes = each(n, |i| route(i, i, &format!("c{i:05}")));
        let mut stage = at_rest(clusters.into_iter().chain(routes));
        let mut inputs = Vec::new();
        for i in 0..n / 4 {
            inputs.push(stage.delete_input(&[&format!("clusters/c{i:05}")]));
            let (key, text) = route(n - 1 - i, n + i, "x");
            inputs.push(stage.put_input(&key, &text));
        }
        cost_of_plan(&mut stage, inputs)
    });
}

/// Most documents of this stage are gone at once, and held; n of 2 n.
fn held(n: usize) -> Stage {
    let mut stage = at_rest(each(n, |i| route(i, i, "x")));
    let keys: Vec<_> = (0..n * 3 / 4).map(|i| (format!("routes/r{i:05}"), None)).collect();
    let change = one_revision(&mut stage, keys);
    stage.plan(vec![change]);
    assert_eq!(stage.state("routes/r00000"), Some(State::Held));
    stage
}

#[test]
fn changes_while_most_documents_are_held() {
    let written = |stage: &mut Stage, n: usize| -> Vec<Input> {
        let routes = each(n / 4, |i| route(i, n + i, "y"));
        routes.iter().map(|(key, text)| stage.put_input(key, text)).collect()
    };
    assert_n_log_n(|n| {
        let mut stage = held(n);
        let inputs = written(&mut stage, n);
        cost_of_plan(&mut stage, inputs)
    });
    // The replica that joined the hold of another one; the changes come one by one.
    assert_n_log_n(|n| {
        let mut stage = held(n).newborn();
        stage.list(ListReason::Start);
        assert_eq!(stage.state("routes/r00000"), Some(State::Held));
        let inputs = written(&mut stage, n);
        cost_of(|| inputs.into_iter().for_each(|input| drop(stage.plan(vec![input]))))
    });
    assert_n_log_n(|n| cost_of_plan(&mut held(n), vec![Input::Release(None)]));
}

#[test]
fn records_of_held_documents_that_are_read_one_by_one() {
    assert_n_log_n(|n| {
        let mut stage = held(n);
        let mut born = stage.newborn();
        let records = std::mem::take(&mut stage.memory.records);
        born.world = World::new(options());
        born.memory.records.clear();
        born.read_memory();
        born.list(ListReason::Start);
        let mut inputs: Vec<Input> = Vec::new();
        for ((folder, full_key), known) in records {
            inputs.push(Input::Remembered {
                folder,
                whole: false,
                records: vec![(full_key, Some(known))],
            });
        }
        cost_of(|| inputs.into_iter().for_each(|input| drop(born.plan(vec![input]))))
    });
}

#[test]
fn documents_that_proxies_refuse_at_once() {
    let serving = |n: usize| {
        let mut stage = at_rest(each(n, |i| route(i, i, "x")));
        let changes = each(n, |i| route(i, n + i, "x"));
        let change = one_revision(&mut stage, changes.into_iter().map(|(key, text)| (key, Some(text))));
        stage.plan(vec![change]);
        let key = |i| format!("routes/r{i:05}");
        let refusals: Vec<_> = (0..n / 2).map(|i| stage.refusal(&key(i))).collect();
        (stage, refusals)
    };
    assert_n_log_n(|n| {
        let (mut stage, refusals) = serving(n);
        let inputs = refusals.into_iter().map(|refusal| Input::Refused(vec![refusal]));
        let inputs = inputs.collect();
        cost_of_plan(&mut stage, inputs)
    });
    // Each is tried again.
    assert_n_log_n(|n| {
        let (mut stage, refusals) = serving(n);
        stage.plan(vec![Input::Refused(refusals)]);
        let quarantined = stage.world.quarantined();
        let inputs: Vec<Input> = quarantined
            .map(|one| Input::TryAgain([(one.key.clone(), one.about)].into()))
            .collect();
        assert_eq!(inputs.len(), n / 2);
        cost_of_plan(&mut stage, inputs)
    });
}

#[test]
fn good_texts_that_are_found_in_the_history() {
    assert_n_log_n(|n| {
        let bad = each(n, |i| (format!("listeners/l{i:05}"), "{".to_owned()));
        let (mut stage, inputs) = listed(bad);
        let wanted = stage.plan(inputs).wanted;
        assert_eq!(wanted.len(), n);
        // All want one address.
        let text = |key: &DocumentKey| {
            let (_, revision) = stage.world.standing_at(key).unwrap();
            Arc::new(Text {
                value: listener(1).into(),
                create_revision: revision,
                mod_revision: revision - 1,
                leased: false,
            })
        };
        let inputs = wanted.iter().map(|key| Input::Found {
            key: key.clone(),
            texts: vec![text(key)],
        });
        let inputs = inputs.collect();
        cost_of_plan(&mut stage, inputs)
    });
}

/// Fails if a case costs much more with `times` as many documents beside it.
fn assert_constant(times: usize, case: impl Fn(usize) -> Duration) {
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let (few, many) = (case(SMALL), case(times * SMALL));
        if many < 3 * few || many < UNMEASURED {
            return;
        }
        seen.push(format!("{few:?} and {many:?}"));
    }
    panic!("beside {SMALL} and {} documents: {}", times * SMALL, seen.join(", "));
}

/// The same plan, many times: one alone is too short to be measured.
fn cost_of_repeated(stage: &mut Stage, input: impl Fn(&mut Stage, usize) -> Input) -> Duration {
    let inputs: Vec<Input> = (0..SMALL).map(|i| input(stage, i)).collect();
    cost_of(|| inputs.into_iter().for_each(|input| drop(stage.plan(vec![input]))))
}

#[test]
fn a_changed_policy_of_a_listener_costs_the_same_with_many_routes() {
    let policy = |mark: &str| format!(r#"{{"headers": {{"response": {{"set": {{"x-mark": "{mark}"}}}}}}}}"#);
    assert_constant(25, |n| {
        let mut documents = each(n, |i| route(i, i, "x"));
        let guarded = r#"{"address": "0.0.0.0:80", "policies": ["p"]}"#;
        documents.extend([
            ("listeners/edge".to_owned(), guarded.to_owned()),
            ("clusters/x".to_owned(), "{}".to_owned()),
            ("policies/p".to_owned(), policy("one")),
        ]);
        let mut stage = at_rest(documents);
        let put = stage.put_input("policies/p", &policy("two"));
        cost_of_plan(&mut stage, vec![put])
    });
}

/// Listeners with an address each, and a route on each of them. `more`: fields of the listeners, and of the routes.
fn routes_on_own_listeners(n: usize, (of_listener, of_route): (&str, &str)) -> Vec<(String, String)> {
    let listeners = each(n, |i| {
        let text = format!(r#"{{"address": "10.{}.{}.1:80"{of_listener}}}"#, i / 250, i % 250);
        (format!("listeners/l{i:05}"), text)
    });
    let routes = each(n, |i| own_route(i, i, of_route));
    listeners.into_iter().chain(routes).collect()
}

fn own_route(n: usize, path: usize, more: &str) -> (String, String) {
    let text = format!(r#"{{"match": "/{path}", "to": "http://10.0.0.1:80", "listeners": ["l{n:05}"]{more}}}"#);
    (format!("routes/r{n:05}"), text)
}

const BARE: (&str, &str) = ("", "");
const WITH_POLICIES: (&str, &str) = (
    r#", "policies": [{"buffer": {"max": "64KiB"}}]"#,
    r#", "policies": [{"ip_access": {"allow": ["10.0.0.0/8"]}}]"#,
);

#[test]
fn routes_that_are_each_on_a_listener_of_their_own() {
    for more in [BARE, WITH_POLICIES] {
        assert_n_log_n(|n| cost_of_list(routes_on_own_listeners(n, more)));
        assert_n_log_n(|n| {
            let mut stage = at_rest(routes_on_own_listeners(n, more));
            let moved = (0..n).map(|i| own_route(i, n + i, more.1));
            let moved: Vec<_> = moved.map(|(key, text)| (key, Some(text))).collect();
            let change = one_revision(&mut stage, moved);
            cost_of_plan(&mut stage, vec![change])
        });
    }
}

#[test]
fn a_route_on_one_listener_costs_the_same_beside_many_listeners() {
    for more in [BARE, WITH_POLICIES] {
        assert_constant(10, |n| {
            let mut stage = at_rest(routes_on_own_listeners(n, more));
            cost_of_repeated(&mut stage, |stage, i| {
                let (key, text) = own_route(0, 10_000 + i, more.1);
                stage.put_input(&key, &text)
            })
        });
    }
}

#[test]
fn listeners_that_are_each_in_a_group_of_their_own() {
    assert_n_log_n(|n| {
        let groups = each(n, |i| {
            (
                format!("groups/g{i:05}"),
                format!(r#"{{"match": [{{"id": "g{i}-*"}}]}}"#),
            )
        });
        let other = ("listeners/other".to_owned(), listener(0));
        let mut stage = at_rest(groups.into_iter().chain([other]));
        let listeners = each(n, |i| {
            let text = format!(
                r#"{{"address": "10.{}.{}.1:80", "groups": ["g{i:05}"]}}"#,
                i / 250,
                i % 250
            );
            (format!("listeners/l{i:05}"), text)
        });
        let listeners = listeners.into_iter().map(|(key, text)| (key, Some(text)));
        let change = one_revision(&mut stage, listeners);
        cost_of_plan(&mut stage, vec![change])
    });
}

#[test]
fn a_listener_costs_the_same_beside_many_contested_ones() {
    assert_constant(10, |n| {
        let mut stage = at_rest(one_address(n));
        assert_eq!(stage.world.contested.len(), n - 1);
        cost_of_repeated(&mut stage, |stage, i| {
            stage.put_input("listeners/other", &listener(2 + i))
        })
    });
}

#[test]
fn a_route_costs_the_same_beside_many_records_whose_texts_conflict() {
    assert_constant(10, |n| {
        let mut stage = at_rest([]);
        for i in 0..n {
            let key = format!("listeners/l{i:05}");
            stage.store(&key, "{");
            let entry = &stage.store[&key];
            let text = Text {
                value: listener(1).into(),
                create_revision: entry.create_revision,
                mod_revision: entry.mod_revision,
                leased: false,
            };
            stage.store(&key, "{");
            let record = Record {
                about: stage.revision,
                since: SystemTime::UNIX_EPOCH,
                content: Content::Serves(Some(Arc::new(text))),
            };
            let place = (Folder::LastGood, full_key(&key).into());
            stage.memory.records.insert(place, Known::new(record, "1"));
        }
        stage.read_memory();
        stage.list(ListReason::Start);
        assert_eq!(stage.world.unheeded.len(), n - 1);
        cost_of_repeated(&mut stage, |stage, i| {
            let (key, text) = route(0, i, "x");
            stage.put_input(&key, &text)
        })
    });
}

/// Routes of one host, each with a test.
fn tried(n: usize) -> Vec<(String, String)> {
    each(n, |n| {
        let key = format!("routes/r{n}");
        let request = format!("GET http://a.com/r{n}/x");
        let tests = json!([{ "request": request, "expect": { "route": key } }]);
        let route = json!({ "match": format!("a.com/r{n}/*"), "to": "x", "tests": tests });
        (key, route.to_string())
    })
}

#[test]
fn routes_with_tests_on_one_host() {
    assert_n_log_n(|n| cost_of_list(tried(n)));
}

#[test]
fn a_route_beside_routes_with_tests_on_its_host() {
    let cost = |n| {
        let mut stage = at_rest(tried(n));
        let inputs = vec![stage.put_input("routes/new", r#"{"match": "a.com/new/*", "to": "x"}"#)];
        cost_of_plan(&mut stage, inputs)
    };
    assert_n_log_n(cost);
}
