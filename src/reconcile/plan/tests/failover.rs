//! Clusters that take over from others.

use super::*;

const Y: &str = r#"{"endpoints": [{"address": "10.0.0.2:80"}], "health_check": {"tcp": true}}"#;

fn to(names: &str) -> String {
    format!(
        r#"{{"endpoints": [{{"address": "10.0.0.1:80"}}], "health_check": {{"tcp": true}}, "failover": [{names}]}}"#
    )
}

/// The names of clusters and endpoints that are served.
fn upstreams(stage: &Stage) -> Vec<String> {
    let names = stage.names().into_iter();
    let wanted = names.filter(|name| name.contains(" clusters ") || name.contains(" endpoints "));
    wanted
        .map(|name| name.trim_start_matches("default ").to_owned())
        .collect()
}

#[test]
fn a_cluster_with_failover_is_an_aggregate_over_its_own_endpoints() {
    let mut stage = world_of(&[("clusters/x", &to("\"y\"")), ("clusters/y", Y)]);
    assert_eq!(
        upstreams(&stage),
        [
            "clusters x",
            "clusters x~own",
            "clusters y",
            "endpoints x~own",
            "endpoints y"
        ]
    );
    assert_eq!(stage.status("clusters/x").warnings, [""; 0]);

    // The own endpoints of y have another name now, and the aggregate over them follows.
    let plan = stage.put("clusters/y", &to("\"z\""));
    assert_eq!(
        changed(&plan),
        [
            "default clusters x",
            "default clusters y",
            "default clusters y~own",
            "-default endpoints y",
            "default endpoints y~own"
        ]
    );
    let plan = stage.put("clusters/x", Y);
    assert_eq!(
        changed(&plan),
        [
            "default clusters x",
            "-default clusters x~own",
            "default endpoints x",
            "-default endpoints x~own"
        ]
    );
}

#[test]
fn an_instance_changes_no_cluster() {
    let registered = r#"{"failover": ["y"], "outlier_detection": {}}"#;
    let mut stage = world_of(&[
        ("clusters/x", registered),
        ("clusters/y", Y),
        ("clusters/w", &to("\"x\"")),
    ]);
    let plan = stage.put("services/x/1", "10.0.0.9:80");
    assert_eq!(changed(&plan), ["default endpoints x~own"]);
}

#[test]
fn circles_are_refused_however_long() {
    let mut stage = world_of(&[("clusters/x", &to("\"y\"")), ("clusters/y", &to("\"z\""))]);
    let reason = "clusters/z: failover: found a circle (clusters/z, clusters/x, clusters/y, clusters/z), expected clusters that do not lead back";
    stage.put("clusters/z", &to("\"x\""));
    let status = stage.status("clusters/z");
    assert_eq!(
        (status.state, status.path.as_deref(), status.reason.as_deref()),
        (State::Rejected, Some("failover"), Some(reason))
    );
    // Another text of the others opens the circle.
    stage.put("clusters/y", Y);
    assert_eq!(stage.state("clusters/z"), Some(State::Accepted));
    stage.put("clusters/y", &to("\"z\""));
    assert_eq!(stage.state("clusters/y"), Some(State::Rejected));
    assert_eq!(stage.state("clusters/z"), Some(State::Accepted));
    stage.put("clusters/y", &to("\"y\""));
    assert_eq!(stage.status("clusters/y").path.as_deref(), Some("failover"));
}

#[test]
fn two_clusters_of_one_circle_in_one_batch_give_one_way() {
    let stage = world_of(&[("clusters/x", &to("\"y\"")), ("clusters/y", &to("\"x\""))]);
    let states = ["clusters/x", "clusters/y"].map(|key| stage.state(key));
    assert_eq!(states, [Some(State::Accepted), Some(State::Rejected)]);
}

#[test]
fn a_cluster_that_takes_over_is_in_use() {
    let mut stage = world_of(&[("clusters/x", &to("\"y\"")), ("clusters/y", Y)]);
    stage.delete("clusters/y");
    let status = stage.status("clusters/y");
    assert_eq!(
        (status.state, status.reason.as_deref()),
        (State::Held, Some("deleted, still used by clusters/x"))
    );
    stage.put("clusters/x", Y);
    assert_eq!(upstreams(&stage), ["clusters x", "endpoints x"]);
}

#[test]
fn a_failover_that_cannot_work_is_a_warning() {
    let late = r#"{"failover": ["y", "z"]}"#;
    let mut stage = world_of(&[("clusters/x", late), ("clusters/y", Y)]);
    let unchecked = "failover: without \"health_check\" and \"outlier_detection\", Envoy goes on to the next cluster only \
                     if this one has no endpoints";
    let missing = "failover: there is no document clusters/z; Envoy passes over it";
    assert_eq!(stage.status("clusters/x").warnings, [missing, unchecked]);
    stage.put(
        "clusters/z",
        r#"{"endpoints": [{"address": "10.0.0.3:80"}], "on_demand": true}"#,
    );
    let on_demand = "failover: clusters/z is on_demand, which Envoy gets by name only, so Envoy passes over it";
    assert_eq!(stage.status("clusters/x").warnings, [unchecked, on_demand]);
    stage.put("defaults", r#"{"cluster": {"outlier_detection": {}}}"#);
    assert_eq!(stage.status("clusters/x").warnings, [on_demand]);
    stage.put("groups/edge", r#"{"match": [{"id": "e"}]}"#);
    stage.put(
        "clusters/z",
        r#"{"endpoints": [{"address": "10.0.0.3:80"}], "groups": ["edge"]}"#,
    );
    let elsewhere = "failover: clusters/z is not for group default, where Envoy passes over it";
    assert_eq!(stage.status("clusters/x").warnings, [elsewhere]);

    stage.put("secrets/token", r#"{"generic": "hunter2"}"#);
    stage.put(
        "clusters/z",
        r#"{"endpoints": [{"address": "10.0.0.3:80"}], "credential": {"secret": "token"}}"#,
    );
    let credential = "failover: clusters/z has a credential, which Envoy does not put on requests for this cluster";
    assert_eq!(stage.status("clusters/x").warnings, [credential]);
}
