//! Documents among others: clusters, groups, listeners, equal matches.

use super::*;

const X: &str = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;
const TO_X: &str = r#"{"match": "/v1", "to": "x"}"#;

fn to(path: &str, cluster: &str) -> String {
    format!(r#"{{"match": "{path}", "to": "{cluster}"}}"#)
}

#[test]
fn a_missing_cluster_is_generated_and_the_route_says_so() {
    let mut stage = world_of(&[("routes/a", TO_X)]);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    assert_eq!(
        stage.status("routes/a").warnings,
        ["to: there is no document clusters/x; requests sent there are answered with 503"]
    );
    let names = [
        "default clusters x",
        "default endpoints x",
        "default extension_configs chancery.jwt",
        "default extension_configs chancery.lua",
        "default extension_configs chancery.rate_limit",
        "default extension_configs chancery.rate_limit.user",
        "default listeners default",
        "default routes default",
    ];
    assert_eq!(stage.names(), names);
    let plan = stage.put("clusters/x", X);
    assert_eq!(said(&plan), ["routes/a accepted", "clusters/x accepted"]);
    assert_eq!(changed(&plan), ["default endpoints x"]);
    assert_eq!(stage.status("routes/a").warnings, [""; 0]);
}

#[test]
fn a_cluster_that_no_route_uses_is_served_too() {
    let stage = world_of(&[("clusters/x", X)]);
    assert!(stage.names().contains(&"default clusters x".to_owned()));
}

#[test]
fn an_on_demand_cluster_is_marked() {
    let stage = world_of(&[(
        "clusters/x",
        r#"{"endpoints": [{"address": "10.0.0.1:80"}], "on_demand": true}"#,
    )]);
    assert!(
        stage
            .world
            .compiled()
            .resource("default", ResourceType::Cluster, "x")
            .unwrap()
            .on_demand
    );
}

#[test]
fn a_cluster_deleted_while_used_is_held_until_its_last_user_goes() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/a", TO_X), ("routes/b", &to("/b", "x"))]);
    let plan = stage.delete("clusters/x");
    assert!(plan.difference.is_empty());
    let [verdict] = &plan.verdicts[..] else {
        panic!("{:?}", said(&plan))
    };
    assert_eq!(verdict.used_by, [document_key("routes/a"), document_key("routes/b")]);
    let status = stage.status("clusters/x");
    assert_eq!(status.state, State::Held);
    assert_eq!(
        status.reason.as_deref(),
        Some("deleted, still used by routes/a, routes/b")
    );
    assert_eq!(status.latest, None);
    assert_eq!(stage.serving("clusters/x").as_deref(), Some(X));
    assert_eq!(remembered(&plan), [format!("last-good//gateway/clusters/x {X}")]);

    stage.delete("routes/a");
    assert_eq!(
        stage.status("clusters/x").reason.as_deref(),
        Some("deleted, still used by routes/b")
    );
    let plan = stage.put("routes/b", r#"{"match": "/b", "to": "http://10.0.0.2:80"}"#);
    assert_eq!(stage.state("clusters/x"), None);
    assert!(changed(&plan).contains(&"-default clusters x".to_owned()));
    assert_eq!(remembered(&plan), ["-last-good//gateway/clusters/x"]);
}

#[test]
fn a_held_cluster_that_is_released_is_missing() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    stage.delete("clusters/x");
    let plan = stage.plan(vec![Input::Release(Some(vec!["/gateway/clusters/x".to_owned()]))]);
    assert_eq!(said(&plan), ["routes/a accepted", "clusters/x -"]);
    assert_eq!(changed(&plan), ["default endpoints x"]);
    assert_eq!(stage.resources(), world_of(&[("routes/a", TO_X)]).resources());
}

#[test]
fn a_release_is_not_remembered_where_no_memory_is_shared() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    stage.world.memory = crate::reconcile::memory::Memory::default();
    stage.delete("clusters/x");
    stage.plan(vec![Input::Release(None)]);
    assert_eq!(stage.state("clusters/x"), None);
    assert!(stage.world.released.is_empty());
}

#[test]
fn a_cluster_and_its_route_deleted_together_both_go() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    let inputs = vec![stage.delete_input(&["clusters/x", "routes/a"])];
    stage.plan(inputs);
    assert_eq!(stage.resources(), world_of(&[]).resources());
}

#[test]
fn a_rejected_cluster_is_not_said_to_be_missing() {
    let missing = "to: there is no document clusters/x; requests sent there are answered with 503";
    let rejected =
        "to: clusters/x is rejected and has no earlier text that is good; requests sent there are answered with 503";
    let mut stage = world_of(&[("routes/a", TO_X)]);
    stage.put("clusters/x", "{");
    assert_eq!(stage.status("routes/a").warnings, [rejected]);
    stage.delete("clusters/x");
    assert_eq!(stage.status("routes/a").warnings, [missing]);
    stage.put("clusters/x", "{");
    assert_eq!(stage.status("routes/a").warnings, [rejected]);
    stage.put("clusters/x", X);
    assert_eq!(stage.status("routes/a").warnings, [""; 0]);
}

#[test]
fn a_held_cluster_that_is_written_again_serves_its_new_text() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    stage.delete("clusters/x");
    let other = r#"{"endpoints": [{"address": "10.0.0.9:80"}]}"#;
    let plan = stage.put("clusters/x", other);
    assert_eq!(changed(&plan), ["default endpoints x"]);
    assert_eq!(stage.state("clusters/x"), Some(State::Accepted));
}

#[test]
fn a_group_or_listener_that_nobody_describes_is_a_warning_until_it_comes() {
    let route = r#"{"match": "/v1", "to": "http://10.0.0.1:80", "groups": ["edge"], "listeners": ["public"]}"#;
    let mut stage = world_of(&[("routes/a", route)]);
    let warnings = [
        "groups: there is no document groups/edge; no proxy gets this for it",
        "listeners: there is no document listeners/public; nothing is served there",
    ];
    assert_eq!(stage.status("routes/a").warnings, warnings);
    let plan = stage.put("groups/edge", r#"{"match": [{"id": "edge-*"}]}"#);
    assert_eq!(plan.difference.groups_added, vec!["edge".into()]);
    assert_eq!(stage.status("routes/a").warnings, warnings[1..]);
    let plan = stage.put("listeners/public", r#"{"address": "0.0.0.0:8080", "groups": ["edge"]}"#);
    assert_eq!(stage.status("routes/a").warnings, [""; 0]);
    let expected = [
        "-default listeners default",
        "-default routes default",
        "-edge listeners default",
        "edge listeners public",
        "-edge routes default",
        "edge routes public",
    ];
    assert_eq!(changed(&plan), expected);
    let plan = stage.delete("groups/edge");
    assert_eq!(plan.difference.groups_removed, vec!["edge".into()]);
}

#[test]
fn a_document_of_one_group_does_not_exist_in_another() {
    let cluster = r#"{"endpoints": [{"address": "10.0.0.1:80"}], "groups": ["edge"]}"#;
    let group = r#"{"match": [{"id": "edge-*"}]}"#;
    let stage = world_of(&[("groups/edge", group), ("clusters/x", cluster), ("routes/a", TO_X)]);
    let compiled = stage.world.compiled();
    assert!(compiled.resource("edge", ResourceType::Endpoint, "x").is_some());
    for generated in [ResourceType::Cluster, ResourceType::Endpoint] {
        let resource = compiled
            .resource("default", generated, "x")
            .expect("generated for the route");
        assert_eq!(resource.documents, [document_key("routes/a")]);
    }
    assert_eq!(
        stage.status("routes/a").warnings,
        ["to: clusters/x is not for group default; there, requests sent there are answered with 503"]
    );
}

#[test]
fn registrations_without_a_cluster_document_are_listed_with_a_warning() {
    let mut stage = world_of(&[("services/x/1", "10.0.0.1:80")]);
    assert_eq!(
        stage.status("services/x/1").warnings,
        ["no cluster document clusters/x uses it"]
    );
    assert_eq!(stage.resources(), world_of(&[]).resources());
    stage.put("clusters/x", "{}");
    assert_eq!(stage.status("services/x/1").warnings, [""; 0]);
    assert!(stage.names().contains(&"default endpoints x".to_owned()));
}

#[test]
fn a_registration_changes_one_assignment_and_nothing_else() {
    let mut stage = world_of(&[("clusters/x", "{}"), ("routes/a", TO_X)]);
    assert_eq!(
        changed(&stage.put("services/x/1", "10.0.0.1:80")),
        ["default endpoints x"]
    );
    assert_eq!(changed(&stage.delete("services/x/1")), ["default endpoints x"]);
}

#[test]
fn the_same_address_under_a_new_key_does_not_flap() {
    let mut stage = world_of(&[("clusters/x", "{}"), ("services/x/1", "10.0.0.1:80")]);
    assert!(stage.put("services/x/2", "10.0.0.1:80").difference.is_empty());
    assert!(stage.delete("services/x/1").difference.is_empty());
    assert_eq!(changed(&stage.delete("services/x/2")), ["default endpoints x"]);
}

#[test]
fn of_equal_matches_the_document_created_first_keeps_the_traffic() {
    let mut stage = world_of(&[("routes/b", TO_X)]);
    let alone = stage.resources();
    let plan = stage.put("routes/a", &to("/v1", "y"));
    let verdict = plan
        .verdicts
        .iter()
        .find(|verdict| verdict.key == document_key("routes/a"))
        .unwrap();
    assert_eq!(verdict.conflict, Some(document_key("routes/b")));
    assert_eq!(stage.state("routes/a"), Some(State::Shadowed));
    assert_eq!(
        stage.resources()["default routes default"],
        alone["default routes default"]
    );
    let plan = stage.delete("routes/b");
    assert!(said(&plan).contains(&"routes/a accepted".to_owned()));
    let name = stage.resources();
    assert_ne!(name["default routes default"], alone["default routes default"]);
}

#[test]
fn a_rewrite_of_the_older_document_does_not_give_its_match_away() {
    let mut stage = world_of(&[("routes/b", TO_X), ("routes/a", &to("/v1", "y"))]);
    stage.put("routes/b", &to("/v1", "z"));
    assert_eq!(
        (stage.state("routes/b"), stage.state("routes/a")),
        (Some(State::Accepted), Some(State::Shadowed))
    );
}

#[test]
fn a_route_that_keeps_a_match_of_its_own_is_accepted_with_a_warning() {
    let both = r#"{"match": ["/v1", "/v2"], "to": "y"}"#;
    let stage = world_of(&[
        ("clusters/x", X),
        ("clusters/y", X),
        ("routes/b", TO_X),
        ("routes/a", both),
    ]);
    let status = stage.status("routes/a");
    assert_eq!(status.state, State::Accepted);
    assert_eq!(
        status.warnings,
        ["match[0]: never reached, routes/b has the same match and was created earlier"]
    );
}

#[test]
fn routes_of_other_listeners_groups_priorities_hosts_or_methods_are_not_equal() {
    let stage = world_of(&[
        ("routes/a", TO_X),
        ("routes/b", r#"{"match": "/v1", "to": "x", "priority": 1}"#),
        ("routes/c", r#"{"match": "example.com/v1", "to": "x"}"#),
        ("routes/d", r#"{"match": "GET /v1", "to": "x"}"#),
        (
            "routes/e",
            r#"{"match": {"path": "/v1", "headers": {"x-a": "b"}}, "to": "x"}"#,
        ),
    ]);
    for key in ["routes/a", "routes/b", "routes/c", "routes/d", "routes/e"] {
        assert_eq!(stage.state(key), Some(State::Accepted), "{key}");
    }
}

#[test]
fn the_order_of_conditions_makes_no_other_match() {
    let one = r#"{"match": {"path": "/v1", "headers": {"x-a": "1", "x-b": "2"}}, "to": "x"}"#;
    let two = r#"{"match": {"path": "/v1", "headers": {"X-B": "2", "X-A": "1"}}, "to": "x"}"#;
    let stage = world_of(&[("routes/a", one), ("routes/b", two)]);
    assert_eq!(stage.state("routes/b"), Some(State::Shadowed));
}

#[test]
fn the_default_listener_exists_only_when_no_document_describes_one() {
    let mut stage = world_of(&[]);
    stage.put("listeners/edge", r#"{"address": "0.0.0.0:80"}"#);
    let listeners = || {
        stage
            .names()
            .into_iter()
            .filter(|name| !name.contains("extension_configs"))
    };
    assert!(listeners().eq(["default listeners edge", "default routes edge"]));
    stage.delete("listeners/edge");
    assert_eq!(stage.resources(), world_of(&[]).resources());
}

#[test]
fn a_listener_at_an_address_that_is_taken_is_rejected_until_it_is_free() {
    let mut stage = world_of(&[("listeners/b", r#"{"address": "0.0.0.0:80"}"#)]);
    let plan = stage.put("listeners/a", r#"{"address": "0.0.0.0:80"}"#);
    assert_eq!(said(&plan), ["listeners/a rejected"]);
    let status = stage.status("listeners/a");
    assert_eq!(status.path.as_deref(), Some("address"));
    assert_eq!(
        status.reason.as_deref(),
        Some("listeners/a: address: found 0.0.0.0:80, which listeners/b has already, expected an address of its own")
    );
    stage.put(
        "listeners/b",
        r#"{"address": "0.0.0.0:80", "http": {"trusted_hops": 1}}"#,
    );
    assert_eq!(
        (stage.state("listeners/b"), stage.state("listeners/a")),
        (Some(State::Accepted), Some(State::Rejected))
    );
    let plan = stage.put("listeners/b", r#"{"address": "0.0.0.0:81"}"#);
    assert_eq!(said(&plan), ["listeners/a accepted", "listeners/b accepted"]);
}

#[test]
fn a_listener_that_moves_to_a_taken_address_stays_where_it_was() {
    let mut stage = world_of(&[
        ("listeners/a", r#"{"address": "0.0.0.0:80"}"#),
        ("listeners/b", r#"{"address": "0.0.0.0:81"}"#),
    ]);
    let before = stage.resources();
    stage.put("listeners/a", r#"{"address": "0.0.0.0:81"}"#);
    assert_eq!(stage.resources(), before);
    assert_eq!(
        (stage.state("listeners/a"), stage.state("listeners/b")),
        (Some(State::Rejected), Some(State::Accepted))
    );
}

#[test]
fn a_conflict_in_two_groups_costs_one_text() {
    let mut stage = world_of(&[
        ("groups/edge", r#"{"match": [{"id": "edge-*"}]}"#),
        ("listeners/a", r#"{"address": "0.0.0.0:80"}"#),
        ("listeners/b", r#"{"address": "0.0.0.0:81"}"#),
    ]);
    stage.put("listeners/b", r#"{"address": "0.0.0.0:80"}"#);
    assert_eq!(
        stage.serving("listeners/b").as_deref(),
        Some(r#"{"address": "0.0.0.0:81"}"#)
    );
}

#[test]
fn the_newest_document_of_too_many_entries_is_rejected_until_there_is_room() {
    let mut stage = Stage::narrow(2);
    stage.store("routes/c", &to("/c", "x"));
    stage.store("routes/b", &to("/b", "x"));
    stage.store("routes/a", &to("/a", "x"));
    stage.list(ListReason::Start);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    assert!(
        stage
            .status("routes/a")
            .reason
            .as_ref()
            .unwrap()
            .contains("expected at most 2")
    );
    stage.delete("routes/c");
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
}

#[test]
fn a_default_that_another_document_cannot_have_is_the_defaults_fault() {
    let grpc = r#"{"endpoints": [{"address": "10.0.0.1:80"}], "health_check": {"grpc": ""}, "protocol": "http2"}"#;
    let inherited = r#"{"endpoints": [{"address": "10.0.0.1:80"}], "health_check": {"grpc": ""}}"#;
    let http2 = r#"{"cluster": {"protocol": "http2"}}"#;
    let mut stage = world_of(&[("defaults", http2), ("clusters/x", grpc), ("clusters/y", inherited)]);
    if stage.state("clusters/y") != Some(State::Accepted) {
        return; // the parser asks for the protocol in the document itself
    }
    stage.put("defaults", r#"{"cluster": {"protocol": "http1"}}"#);
    assert_eq!(
        (stage.state("defaults"), stage.state("clusters/y")),
        (Some(State::Rejected), Some(State::Accepted))
    );
}

#[test]
fn a_cluster_deleted_and_written_badly_in_one_batch_is_held_in_between() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    let inputs = vec![stage.delete_input(&["clusters/x"]), stage.put_input("clusters/x", "{")];
    let plan = stage.plan(inputs);
    assert_eq!(said(&plan), ["clusters/x rejected"]);
    assert_eq!(stage.serving("clusters/x").as_deref(), Some(X));
    assert!(plan.difference.is_empty());
}

#[test]
fn a_replica_born_after_a_used_cluster_was_deleted_serves_the_same() {
    let mut older = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    older.delete("clusters/x");
    let mut born = older.newborn();
    assert_eq!(born.list(ListReason::Start).wanted, []);
    assert_eq!(born.status("clusters/x"), older.status("clusters/x"));
    assert_eq!(born.resources(), older.resources());
    assert_eq!(born.put("routes/a", TO_X).wanted, []);
    let plan = born.delete("routes/a");
    assert_eq!(born.state("clusters/x"), None);
    assert_eq!(remembered(&plan), ["-last-good//gateway/clusters/x"]);
}

#[test]
fn a_replica_that_missed_a_release_lets_the_cluster_go() {
    let mut older = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    older.delete("clusters/x");
    let mut other = older.newborn();
    other.list(ListReason::Start);
    let plan = older.plan(vec![Input::Release(None)]);
    assert_eq!(
        remembered(&plan),
        [format!("last-good//gateway/clusters/x {X} released")]
    );
    other.memory = older.memory.clone();
    other.read_memory();
    assert_eq!(other.resources(), older.resources());
    // The record says so from now on.
    assert!(older.world.released.is_empty() && other.world.released.is_empty());
    let mut born = older.newborn();
    born.list(ListReason::Start);
    assert_eq!(born.resources(), older.resources());
}

#[test]
fn a_replica_that_reads_a_release_before_the_deletion_lets_the_cluster_go() {
    let mut older = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    let mut late = older.newborn();
    late.list(ListReason::Start);
    let deletion = older.delete_input(&["clusters/x"]);
    older.plan(vec![deletion.clone()]);
    older.plan(vec![Input::Release(None)]);

    late.memory = older.memory.clone();
    late.read_memory();
    assert_eq!(late.state("clusters/x"), Some(State::Accepted));
    late.plan(vec![deletion]);
    assert_eq!(late.state("clusters/x"), None);
    assert_eq!(late.resources(), older.resources());
}

#[test]
fn a_release_stays_where_another_replica_wrote_the_record_first() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/a", TO_X)]);
    stage.delete("clusters/x");
    let place: (Folder, Arc<str>) = (Folder::LastGood, "/gateway/clusters/x".into());
    let known = stage.memory.records.get_mut(&place).unwrap();
    known.etag = "of the other one".into();
    let rewritten = Input::Remembered {
        folder: place.0,
        whole: false,
        records: vec![(place.1, Some(known.clone()))],
    };
    stage.plan(vec![Input::Release(None)]);
    let plan = stage.plan(vec![rewritten]);
    assert_eq!(stage.state("clusters/x"), None);
    assert_eq!(
        remembered(&plan),
        [format!("last-good//gateway/clusters/x {X} released")]
    );
}

#[test]
fn a_record_that_the_plan_leaves_counts_although_an_earlier_batch_was_to_delete_it() {
    let listener = |port: u16| format!(r#"{{"address": "0.0.0.0:{port}"}}"#);
    let mut older = world_of(&[("listeners/l", &listener(8080)), ("listeners/m", &listener(8081))]);
    older.put("listeners/l", &listener(8081));
    older.put("listeners/m", "{");
    assert_eq!(older.serving("listeners/l"), Some(listener(8080)));

    // The record of `m` arrives after the list: until then nothing of `m` serves, and the latest text of `l` can.
    let place: (Folder, Arc<str>) = (Folder::LastGood, "/gateway/listeners/m".into());
    let record = older.memory.records.remove(&place).unwrap();
    let mut born = older.newborn();
    born.memory.records.insert(place.clone(), record.clone());
    let remembered = Input::Remembered {
        folder: place.0,
        whole: false,
        records: vec![(place.1, Some(record))],
    };
    let documents = born.list_input(Root::Documents, ListReason::Start);
    let registrations = born.list_input(Root::Registrations, ListReason::Start);
    born.plan(vec![documents, registrations, remembered]);
    assert_eq!(born.serving("listeners/l"), Some(listener(8080)));
    assert_eq!(born.resources(), older.resources());
}

const ECHO: &str = r#"{"match": "/echo.Echo/*", "to": "x"}"#;

#[test]
fn an_api_listener_has_its_routes_in_the_words_of_grpc() {
    let mut stage = world_of(&[
        ("listeners/echo", r#"{"api": true}"#),
        ("routes/a", ECHO),
        ("clusters/x", X),
    ]);
    let resource = |stage: &Stage, kind| {
        stage
            .world
            .compiled()
            .resource("default", kind, "echo")
            .unwrap()
            .clone()
    };
    assert!(resource(&stage, ResourceType::Listener).on_demand);
    let for_grpc = resource(&stage, ResourceType::Route);
    stage.put("listeners/echo", r#"{"address": "127.0.0.1:80"}"#);
    assert!(!resource(&stage, ResourceType::Listener).on_demand);
    let for_envoy = resource(&stage, ResourceType::Route);
    assert_ne!(for_grpc.version, for_envoy.version, "the table is filled anew");
    stage.put("listeners/echo", r#"{"api": true}"#);
    assert_eq!(resource(&stage, ResourceType::Route).version, for_grpc.version);
    stage.put("routes/a", r#"{"match": "/echo.Echo/Say", "to": "x"}"#);
    stage.put("routes/a", ECHO);
    assert_eq!(resource(&stage, ResourceType::Route).version, for_grpc.version);
}

#[test]
fn an_api_listener_written_as_it_is_is_answered_by_name_too() {
    let text = |field: &str| {
        format!(
            r#"{{"resource": {{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "echo", {field}}}}}"#
        )
    };
    let address =
        r#""address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}}, "default_filter_chain": {}"#;
    let manager = r#""@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "echo", "rds": {"route_config_name": "echo", "config_source": {"ads": {}}}"#;
    for (field, on_demand) in [
        (address.to_owned(), false),
        (format!(r#""api_listener": {{"api_listener": {{{manager}}}}}"#), true),
    ] {
        let stage = world_of(&[("xds/listeners/echo", &text(&field))]);
        let listener = stage
            .world
            .compiled()
            .resource("default", ResourceType::Listener, "echo");
        assert_eq!(listener.map(|listener| listener.on_demand), Some(on_demand), "{field}");
    }
}

#[test]
fn a_setting_without_effect_is_a_warning_wherever_it_stands() {
    let retries = r#"{"circuit_breaker": {"retries": 3, "retry_budget_percent": 20}}"#;
    let mut stage = world_of(&[("clusters/x", retries), ("clusters/y", "{}")]);
    let warning = r#"circuit_breaker.retries: without effect beside "retry_budget_percent""#;
    assert_eq!(stage.status("clusters/x").warnings, [warning]);
    assert_eq!(stage.status("clusters/y").warnings, [""; 0]);
    stage.put("defaults", &format!(r#"{{"cluster": {retries}}}"#));
    assert_eq!(stage.status("clusters/y").warnings, [warning]);
    stage.put("clusters/x", r#"{"circuit_breaker": {"retries": 3}}"#);
    assert_eq!(stage.status("clusters/x").warnings, [""; 0]);
    stage.put("clusters/x", r#"{"dns": "a.internal:443", "tls": {"verify": false}}"#);
    assert_eq!(
        stage.status("clusters/x").warnings,
        [
            warning,
            "tls.verify: false, so that any certificate of the upstream is accepted"
        ]
    );
}

#[test]
fn what_grpc_clients_cannot_take_is_a_warning_where_an_api_listener_reaches_it() {
    let maglev = r#"{"endpoints": [{"address": "10.0.0.1:80"}], "lb": {"policy": "maglev"}}"#;
    let other = r#"{"match": "/echo.Echo/*", "to": "x", "listeners": ["web"], "rewrite": {"host": "a"}}"#;
    let web = ("listeners/web", r#"{"address": "127.0.0.1:80"}"#);
    let mut stage = world_of(&[web, ("routes/a", other), ("clusters/x", maglev)]);
    let refused = "lb.policy: gRPC clients of listeners/echo refuse this cluster, they support round_robin, least_request and ring_hash";
    let none: [&str; 0] = [];
    stage.put("listeners/echo", r#"{"api": true}"#);
    assert_eq!(stage.status("routes/a").warnings, none);
    assert_eq!(stage.status("clusters/x").warnings, none);
    // The route comes to the listener, the cluster says what it did not have to say before.
    stage.put("routes/a", &other.replace("web", "echo"));
    assert_eq!(
        stage.status("routes/a").warnings,
        ["rewrite: gRPC clients of listeners/echo ignore it"]
    );
    assert_eq!(stage.status("clusters/x").warnings, [refused]);
    stage.put(
        "clusters/x",
        r#"{"keepalive": {}, "buffer": "1MiB", "proxy_protocol": 1}"#,
    );
    let fields = [
        "proxy_protocol: gRPC clients of listeners/echo refuse this cluster, they cannot send it",
        "keepalive: gRPC clients of listeners/echo ignore it",
        "buffer: gRPC clients of listeners/echo ignore it",
    ];
    assert!(fields.iter().all(|field| {
        stage
            .status("clusters/x")
            .warnings
            .iter()
            .any(|warning| warning == field)
    }));
    stage.put("clusters/x", &maglev.replace("maglev", "least_request"));
    assert_eq!(stage.status("clusters/x").warnings, none);
    stage.put("clusters/x", X);
    assert_eq!(stage.status("clusters/x").warnings, none);
    stage.put("defaults", r#"{"cluster": {"lb": {"policy": "random"}}}"#);
    assert_eq!(stage.status("clusters/x").warnings, [refused]);
    stage.put("listeners/echo", r#"{"address": "127.0.0.1:81"}"#);
    assert_eq!(stage.status("clusters/x").warnings, none);
    stage.put("listeners/echo", r#"{"api": true}"#);
    stage.put(
        "routes/a",
        r#"{"match": "/echo.Echo/*", "to": {"respond": {"status": 200}}}"#,
    );
    assert_eq!(
        stage.status("routes/a").warnings,
        ["to: gRPC clients of listeners/echo support neither redirects nor fixed responses and do not get this route"]
    );
}

#[test]
fn hashing_without_an_effect_is_a_warning_that_the_cluster_can_end() {
    let hashed = r#"{"match": "/v1", "to": "x", "hash_on": ["client_ip"]}"#;
    let mut stage = world_of(&[("routes/a", hashed), ("clusters/x", X)]);
    let unused = r#"hash_on: clusters/x balances without hashes; "lb" of ring_hash or maglev uses them"#;
    let none: [&str; 0] = [];
    assert_eq!(stage.status("routes/a").warnings, [unused]);
    stage.put("clusters/x", &X.replace(r#"}]}"#, r#"}], "lb": {"policy": "maglev"}}"#));
    assert_eq!(stage.status("routes/a").warnings, none);
    stage.put("clusters/x", X);
    assert_eq!(stage.status("routes/a").warnings, [unused]);
    stage.put("defaults", r#"{"cluster": {"lb": {"policy": "ring_hash"}}}"#);
    assert_eq!(stage.status("routes/a").warnings, none);
    stage.delete("defaults");

    let split = r#"{"match": "/v1", "to": [{"cluster": "x", "weight": 1}, {"cluster": "x", "weight": 1}], "split_by": "hash_on", "hash_on": ["client_ip"]}"#;
    stage.put("routes/a", split);
    assert_eq!(stage.status("routes/a").warnings, none);
    let overridden = r#""hash_on": ["client_ip"], "overrides": [{"headers": {"x-canary": "always"}, "to": "x"}]"#;
    stage.put("routes/a", &split.replace(r#""hash_on": ["client_ip"]"#, overridden));
    assert_eq!(
        stage.status("routes/a").warnings,
        none,
        "an override inherits the hashes"
    );
    stage.put("routes/a", r#"{"match": "/v1", "to": "x", "split_by": "random"}"#);
    assert_eq!(
        stage.status("routes/a").warnings,
        [r#"split_by: has no effect on a "to" of one cluster"#]
    );
    stage.put("routes/a", &split.replace(r#", "hash_on": ["client_ip"]"#, ""));
    assert_eq!(
        stage.status("routes/a").reason.as_deref(),
        Some(r#"routes/a: split_by: found "hash_on" without the field "hash_on", expected both"#)
    );
}

#[test]
fn a_missing_cluster_of_a_mirror_is_generated_and_drops_copies() {
    let mirrored = r#"{"match": "/v1", "to": "x", "mirror": [{"cluster": "y"}]}"#;
    let mut stage = world_of(&[("routes/a", mirrored), ("clusters/x", X)]);
    assert_eq!(
        stage.status("routes/a").warnings,
        ["mirror: there is no document clusters/y; copies of requests sent there are dropped"]
    );
    assert!(stage.names().contains(&"default clusters y".to_owned()));
    stage.put("clusters/y", X);
    assert_eq!(stage.status("routes/a").warnings, [""; 0]);
    stage.delete("clusters/y");
    assert_eq!(stage.state("clusters/y"), Some(State::Held), "the mirror uses it");
}

#[test]
fn fields_that_grpc_clients_ignore_are_named() {
    let route = r#"{"match": "/echo.Echo/*", "to": "x", "mirror": [{"cluster": "x"}], "websocket": true,
        "hash_on": [{"header": "x-user"}, {"query": "user"}, {"cookie": {"name": "user"}}, "client_ip"]}"#;
    let ring = X.replace(r#"}]}"#, r#"}], "lb": {"policy": "ring_hash"}}"#);
    let stage = world_of(&[
        ("routes/a", route),
        ("clusters/x", &ring),
        ("listeners/echo", r#"{"api": true}"#),
    ]);
    let clients = "gRPC clients of listeners/echo";
    assert_eq!(
        stage.status("routes/a").warnings,
        [
            format!("hash_on: {clients} ignore a cookie, they hash headers only"),
            format!("hash_on: {clients} ignore a query parameter, they hash headers only"),
            format!("hash_on: {clients} ignore client_ip, they hash headers only"),
            format!("mirror: {clients} ignore it"),
            format!("websocket: {clients} ignore it"),
        ]
    );
}

#[test]
fn beyond_a_hundred_registries_the_newest_is_rejected() {
    let mut stage = Stage::empty();
    stage.list(ListReason::Start);
    for number in 0..=100 {
        let registry = format!(r#"{{"prefix": "/{number}/", "format": "kratos"}}"#);
        stage.put(&format!("registries/r{number}"), &registry);
    }
    assert_eq!(
        stage.status("registries/r100").reason.as_deref(),
        Some("registries/r100: found more than 100 registries documents, expected at most as many")
    );
    assert_eq!(stage.state("registries/r99"), Some(State::Accepted));
}
