//! Tests of route documents.

use super::*;

const X: &str = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;

/// A route whose test expects that its own cluster gets `/a/b`.
const TESTED: &str = r#"{"match": "/a/*", "to": "x",
    "tests": [{"request": "GET http://h/c", "expect": {"status": 404}},
              {"request": "GET http://h/a/b", "expect": {"to": "x"}}]}"#;
/// A route that takes the request of that test.
const THIEF: &str = r#"{"match": "/a/b", "to": {"respond": {"status": 200}}}"#;
const BROKEN: &str = "tests[1]: GET http://h/a/b expected to=x, got routes/b (status=200)";

fn with_tests(to: &str, tests: &str) -> String {
    format!(r#"{{"match": "h/a/*", "to": "{to}", "tests": [{tests}]}}"#)
}

fn tested() -> Stage {
    let mut stage = world_of(&[("clusters/x", X)]);
    stage.put("routes/a", TESTED);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    stage
}

fn none() -> [&'static str; 0] {
    []
}

#[test]
fn a_document_that_fails_its_own_tests_is_rejected_and_its_earlier_text_serves() {
    let mut stage = tested();
    stage.put("routes/a", &TESTED.replace("404", "200"));
    let status = stage.status("routes/a");
    assert_eq!(
        (status.state, status.reason.as_deref(), status.path.as_deref()),
        (
            State::Rejected,
            Some("routes/a: tests[0]: GET http://h/c expected status=200, got no route (status=404)"),
            Some("tests[0]")
        )
    );
    assert_eq!(stage.serving("routes/a").as_deref(), Some(TESTED));

    // Another replica finds the text in its list, and follows the record.
    let mut born = stage.newborn();
    born.list(ListReason::Start);
    assert_eq!(born.resources(), stage.resources());
    assert_eq!(born.serving("routes/a").as_deref(), Some(TESTED));
    assert_eq!(born.status("routes/a").reason, stage.status("routes/a").reason);
}

#[test]
fn a_new_document_that_fails_its_own_tests_serves_on_no_replica_until_they_pass() {
    let mut stage = world_of(&[("clusters/x", X)]);
    let expects_b = TESTED.replace(r#"{"to": "x"}"#, r#"{"route": "routes/b"}"#);
    stage.put("routes/a", &expects_b);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    // The store has no earlier text of the document.
    let (key, texts) = (document_key("routes/a"), Vec::new());
    stage.plan(vec![Input::Found { key, texts }]);
    let mut born = stage.newborn();
    born.list(ListReason::Start);
    assert_eq!(
        (born.state("routes/a"), born.resources()),
        (Some(State::Rejected), stage.resources())
    );

    stage.put("routes/b", THIEF);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
}

#[test]
fn a_document_whose_test_another_breaks_serves_with_a_warning() {
    let mut stage = tested();
    let plan = stage.put("routes/b", THIEF);
    assert_eq!(said(&plan), ["routes/a accepted", "routes/b accepted"]);
    assert_eq!(stage.status("routes/a").warnings, [BROKEN]);
    let newly: Vec<String> = stage
        .world
        .compiled()
        .newly_failing(tested().world.compiled())
        .map(|(key, sentence)| format!("{key} {sentence}"))
        .collect();
    assert_eq!(newly, [format!("routes/a {BROKEN}")]);

    // A replica that is born meanwhile cannot know which of the two changed last: it drops no route.
    let mut born = stage.newborn();
    born.list(ListReason::Start);
    assert_eq!(born.resources(), stage.resources());
    assert_eq!(born.status("routes/a").warnings, [BROKEN]);

    stage.put("routes/b", &THIEF.replace("/a/b", "/a/b/c"));
    assert_eq!(stage.status("routes/a").warnings, none());
    stage.put("routes/b", THIEF);
    assert_eq!(stage.status("routes/a").warnings, [BROKEN]);
    stage.delete("routes/b");
    assert_eq!(stage.status("routes/a").warnings, none());
}

#[test]
fn a_test_that_relies_on_another_document_fails_when_that_goes() {
    let mut stage = world_of(&[("clusters/x", X), ("routes/b", THIEF)]);
    let test = r#"{"request": "GET http://h/a/b", "expect": {"route": "routes/b", "status": 200}}"#;
    stage.put("routes/a", &with_tests("x", test).replace("h/a/*", "/a/*"));
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    stage.delete("routes/b");
    assert_eq!(
        stage.status("routes/a").warnings,
        ["tests[0]: GET http://h/a/b expected route=routes/b status=200, got routes/a (to=x)"]
    );
    stage.put("routes/b", THIEF);
    assert_eq!(stage.status("routes/a").warnings, none());
}

#[test]
fn a_host_that_comes_takes_the_requests_of_its_tests() {
    let mut stage = tested();
    stage.put("routes/c", r#"{"match": "h/none", "to": "x"}"#);
    assert_eq!(
        stage.status("routes/a").warnings,
        none(),
        "the virtual host of h has the wider route"
    );
    stage.put(
        "routes/c",
        r#"{"match": "h/*", "to": {"respond": {"status": 204}}, "priority": 1}"#,
    );
    assert_eq!(
        stage.status("routes/a").warnings,
        [
            "tests[0]: GET http://h/c expected status=404, got routes/c (status=204)",
            "tests[1]: GET http://h/a/b expected to=x, got routes/c (status=204)"
        ]
    );
    stage.delete("routes/c");
    assert_eq!(stage.status("routes/a").warnings, none());
}

#[test]
fn a_listener_that_comes_is_asked_too() {
    let mut stage = tested();
    stage.put("routes/b", &THIEF.replacen('{', r#"{"listeners": ["edge"], "#, 1));
    assert_eq!(stage.state("routes/b"), Some(State::Accepted));
    assert_eq!(stage.status("routes/a").warnings, none());
    stage.put("listeners/edge", r#"{"address": "127.0.0.1:80"}"#);
    assert_eq!(stage.status("routes/a").warnings, [BROKEN]);
    stage.put("listeners/edge", r#"{"api": true}"#);
    assert_eq!(
        stage.status("routes/a").warnings[..2],
        [
            "tests[0]: GET http://h/c expected an answer, got none: the route is on no listener without TLS",
            "tests[1]: GET http://h/a/b expected an answer, got none: the route is on no listener without TLS"
        ]
    );
}

#[test]
fn expectations_are_those_of_the_upstream_and_of_envoys_answers() {
    let mut stage = world_of(&[("clusters/x", X), ("listeners/edge", r#"{"address": "127.0.0.1:80"}"#)]);
    let tests = r#"
        {"request": "GET http://H.:8080/a//b/../c?q", "expect": {"to": "x", "path": "/new/c?q", "host": "H", "route": "routes/a"}},
        {"request": "GET http://h/a%2Fb", "expect": {"status": 400}},
        {"request": "GET http://h/moved", "listener": "edge", "expect": {"redirect": "https://h/moved", "status": 301}}"#;
    stage.put(
        "routes/moved",
        r#"{"match": "/moved", "to": {"redirect": {"scheme": "https"}}}"#,
    );
    let text = with_tests("x", tests).replace(
        r#""to": "x", "tests""#,
        r#""to": "x", "rewrite": {"prefix": "/new"}, "tests""#,
    );
    stage.put("routes/a", &text);
    assert_eq!(stage.status("routes/a").reason, None);

    let reason = |stage: &mut Stage, test: &str| {
        stage.put("routes/a", &with_tests("x", test));
        stage.status("routes/a").reason.clone().unwrap_or_default()
    };
    let found = reason(&mut stage, r#"{"request": "GET http://h/a", "expect": {"to": "y"}}"#);
    assert_eq!(
        found,
        r#"routes/a: tests[0].expect.to: found "y", which no document describes and no route names, expected the name of a cluster"#
    );
    let found = reason(&mut stage, r#"{"request": "GET https://h/a", "expect": {"to": "x"}}"#);
    assert_eq!(
        found,
        "routes/a: tests[0]: GET https://h/a expected an answer, got none: the route is on no listener with TLS"
    );
    let found = reason(
        &mut stage,
        r#"{"request": "GET http://h/a", "expect": {"host": "i", "path": "/b"}}"#,
    );
    assert_eq!(
        found,
        "routes/a: tests[0]: GET http://h/a expected host=i path=/b, got routes/a (host=h path=/a)"
    );
}

#[test]
fn a_route_that_is_switched_off_has_no_tests() {
    let mut stage = tested();
    stage.put(
        "routes/a",
        &TESTED.replace(r#""to": "x","#, r#""to": "x", "enabled": false,"#),
    );
    assert_eq!(stage.state("routes/a"), Some(State::Disabled));
}

#[test]
fn a_listener_that_redirects_to_https_is_asked_for_the_routes_that_name_it() {
    const PLAIN: &str = r#"{"address": "127.0.0.1:81"}"#;
    const REDIRECTING: &str = r#"{"address": "127.0.0.1:81", "http": {"redirect_to_https": true}}"#;
    let mut stage = world_of(&[
        ("clusters/x", X),
        ("listeners/edge", r#"{"address": "127.0.0.1:80"}"#),
        ("listeners/plain", REDIRECTING),
    ]);
    stage.put("routes/a", TESTED);
    assert_eq!(stage.status("routes/a").reason, None);

    let moved = r#"{"request": "GET http://h/a/b", "listener": "plain", "expect": {"redirect": "https://h/a/b"}}"#;
    stage.put("routes/b", &with_tests("x", moved).replace("h/a/*", "/other"));
    assert_eq!(stage.status("routes/b").reason, None);
    stage.put("listeners/plain", PLAIN);
    assert_eq!(
        stage.status("routes/b").warnings,
        ["tests[0]: GET http://h/a/b expected redirect=https://h/a/b, got routes/a (to=x)"]
    );
    stage.put("listeners/plain", REDIRECTING);
    assert_eq!(stage.status("routes/b").warnings, none());
}

/// An answer of 503 instead of the route.
const CLOSED: &str = r#"{"maintenance": {}}"#;
const OPEN: &str = r#"{"maintenance": {"unless": {"headers": {"x-key": "k"}}}}"#;
const ANSWERED: &str = "tests[0]: GET http://h/a/b expected to=x, got routes/a (status=503)";

#[test]
fn a_policy_that_changes_has_the_tests_of_its_routes_judged_again() {
    let on_route = r#"{"match": "h/a/*", "to": "x", "policies": ["pause"], "tests": [
        {"request": "GET http://h/a/b", "headers": {"x-key": "k"}, "expect": {"to": "x"}}]}"#;
    let on_cluster = X.replacen('{', r#"{"policies": ["pause"], "#, 1);
    for (cluster, route) in [
        (X, on_route.to_owned()),
        (&on_cluster[..], on_route.replace(r#""policies": ["pause"], "#, "")),
    ] {
        let mut stage = world_of(&[("clusters/x", cluster), ("policies/pause", OPEN)]);
        stage.put("routes/a", &route);
        assert_eq!(stage.status("routes/a").reason, None);
        stage.put("policies/pause", CLOSED);
        assert_eq!(stage.status("routes/a").warnings, [ANSWERED]);
        stage.put("policies/pause", OPEN);
        assert_eq!(stage.status("routes/a").warnings, none());
    }
}

#[test]
fn maintenance_of_a_listener_has_the_tests_of_every_route_on_it_judged_again() {
    const EDGE: &str = r#"{"address": "127.0.0.1:80"}"#;
    let closed = EDGE.replace('}', r#", "policies": ["pause"]}"#);
    let mut stage = world_of(&[("clusters/x", X), ("listeners/edge", EDGE), ("policies/pause", CLOSED)]);
    let tests = r#"{"request": "GET http://h/a/b", "expect": {"to": "x"}},
        {"request": "GET http://h/none", "expect": {"status": 404}}"#;
    stage.put("routes/a", &with_tests("x", tests));
    assert_eq!(stage.status("routes/a").reason, None);

    let paused = [
        ANSWERED,
        "tests[1]: GET http://h/none expected status=404, got chancery/not-found (status=503)",
    ];
    stage.put("listeners/edge", &closed);
    assert_eq!(stage.status("routes/a").warnings, paused);
    stage.put("policies/pause", r#"{"csrf": {}}"#);
    assert_eq!(stage.status("routes/a").warnings, none());
    stage.put("policies/pause", CLOSED);
    assert_eq!(stage.status("routes/a").warnings, paused);
    stage.put("listeners/edge", EDGE);
    assert_eq!(stage.status("routes/a").warnings, none());

    stage.put("defaults", r#"{"policies": ["pause"]}"#);
    assert_eq!(stage.status("routes/a").warnings, paused);
}

#[test]
fn cors_that_comes_takes_the_preflights_of_tests() {
    let preflight = r#"{"request": "OPTIONS http://h/a/b",
        "headers": {"origin": "https://o.example.com", "access-control-request-method": "PUT"}, "expect": {"status": 404}}"#;
    let puts = r#"{"match": "PUT h/a/*", "to": "x", "policies": ["share"]}"#;
    let mut stage = world_of(&[
        ("clusters/x", X),
        ("policies/share", r#"{"csrf": {}}"#),
        ("routes/puts", puts),
    ]);
    stage.put("routes/a", &with_tests("x", preflight).replace("h/a/*", "h/other"));
    assert_eq!(stage.status("routes/a").reason, None);
    stage.put(
        "policies/share",
        r#"{"cors": {"allow_origins": ["https://o.example.com"]}}"#,
    );
    assert_eq!(
        stage.status("routes/a").warnings,
        ["tests[0]: OPTIONS http://h/a/b expected status=404, got routes/puts (to=x)"]
    );
}

#[test]
fn the_kinds_of_policies_that_hold_can_be_expected() {
    const EDGE: &str = r#"{"address": "127.0.0.1:80"}"#;
    let test = r#"{"request": "GET http://h/a/b", "expect": {"policies": ["csrf", "cors"]}}"#;
    let route = with_tests("x", test).replace(r#""to""#, r#""policies": ["guard"], "to""#);
    let cors = r#"{"address": "127.0.0.1:80", "policies": [{"cors": {"allow_origins": ["*"]}}]}"#;
    let mut stage = world_of(&[
        ("clusters/x", X),
        ("listeners/edge", cors),
        ("policies/guard", r#"{"csrf": {}}"#),
    ]);
    stage.put("routes/a", &route);
    assert_eq!(stage.status("routes/a").reason, None);

    let found = |kinds: &str| {
        [format!(
            "tests[0]: GET http://h/a/b expected policies=cors,csrf, got routes/a (policies={kinds})"
        )]
    };
    stage.put("listeners/edge", EDGE);
    assert_eq!(stage.status("routes/a").warnings, found("csrf"));
    stage.put("listeners/edge", cors);
    assert_eq!(stage.status("routes/a").warnings, none());
    stage.put("policies/guard", r#"{"grpc_web": {}}"#);
    assert_eq!(stage.status("routes/a").warnings, found("grpc_web,cors"));
    stage.put("policies/guard", r#"{"csrf": {}}"#);
    stage.put(
        "clusters/x",
        &X.replacen('{', r#"{"policies": [{"buffer": {"max": "1KiB"}}], "#, 1),
    );
    assert_eq!(stage.status("routes/a").warnings, found("cors,csrf,buffer"));
    stage.put("routes/a", &route.replace(r#"["csrf", "cors"]"#, "[]"));
    assert!(
        stage
            .status("routes/a")
            .reason
            .clone()
            .unwrap()
            .contains("expected policies=none, got")
    );
}

#[test]
fn maintenance_of_a_listener_holds_on_its_redirect_to_https() {
    let plain = r#"{"address": "127.0.0.1:81", "http": {"redirect_to_https": true}}"#;
    let moved = r#"{"request": "GET http://h/a/b", "listener": "plain", "expect": {"redirect": "https://h/a/b"}}"#;
    let mut stage = world_of(&[
        ("clusters/x", X),
        ("listeners/plain", plain),
        ("policies/pause", CLOSED),
    ]);
    stage.put("routes/a", &with_tests("x", moved));
    assert_eq!(stage.status("routes/a").reason, None);
    stage.put("listeners/plain", &plain.replace("}}", r#"}, "policies": ["pause"]}"#));
    let sentence = "tests[0]: GET http://h/a/b expected redirect=https://h/a/b, got listeners/plain (status=503)";
    assert_eq!(stage.status("routes/a").warnings, [sentence]);
    stage.put("policies/pause", r#"{"csrf": {}}"#);
    assert_eq!(stage.status("routes/a").warnings, none());
}
