//! Routes: an accepted path is in the form that Envoy compares, and a path that could never match is rejected.

use super::super::route::{HostPattern, PathMatch, StringMatch};
use super::*;

fn respond(matches: &Value) -> Value {
    json!({ "match": matches, "to": { "respond": { "status": 200 } } })
}

fn first_match(document: &Value) -> super::super::route::Match {
    parse_route(document).rules[0].matches.clone()
}

/// The reason against a document; empty where it is accepted.
fn reason(document: &Value) -> String {
    parsed("routes/orders", document).map_or_else(|rejection| rejection.to_string(), |_| String::new())
}

fn older(path: &str) -> Value {
    json!({ "path": path, "upstream": "http://10.0.1.5:8080" })
}

#[test]
fn paths_take_the_form_that_envoy_sees_in_every_form_of_document() {
    let exact = || PathMatch::Exact("/~joe/a%7Cb".into());
    let written = "/%7Ejoe/a|b";
    assert_eq!(first_match(&respond(&json!(written))).path, exact());
    assert_eq!(first_match(&respond(&json!({ "path": written }))).path, exact());
    assert_eq!(first_match(&respond(&json!([{ "path": written }]))).path, exact());
    let prefix = PathMatch::Prefix("/~joe".into());
    assert_eq!(first_match(&respond(&json!("/%7Ejoe/*"))).path, prefix);
    let template = PathMatch::Template("/~joe/{id}/a%5Eb".into());
    assert_eq!(first_match(&respond(&json!("/%7ejoe/{id}/a^b"))).path, template);

    let legacy = |path: &str| PathMatch::Legacy(path.into());
    assert_eq!(first_match(&older(written)).path, legacy("/~joe/a%7Cb"));
    assert_eq!(first_match(&json!([older("/{id}")])).path, legacy("/%7Bid%7D"));
}

#[test]
fn paths_that_no_request_has_are_rejected_in_every_form_of_document() {
    for path in [
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a//b",
        "/a/../b",
        "/a/%2e%2E/b",
        "/a/.",
        "/%00",
    ] {
        let forms = [
            respond(&json!(path)),
            respond(&json!({ "path": path })),
            respond(&json!([{ "path": format!("{path}/*") }])),
            respond(&json!({ "path": format!("{path}/{{id}}") })),
            older(path),
            json!([older(path)]),
        ];
        for form in forms {
            assert!(reason(&form).contains("expected"), "{form}");
        }
    }
    for path in ["~/%7Ejoe", "~a.*", "~/a//b", "~/a/\\.\\./b", "~/a%2Fb"] {
        assert!(reason(&respond(&json!(path))).contains("no path can match"), "{path}");
    }
    assert_eq!(reason(&respond(&json!("~/(%7E|~)joe"))), "");
}

#[test]
fn query_conditions_are_compared_as_they_arrive() {
    let document =
        respond(&json!({ "path": "/", "query": { "a=ü": "a b", "b": { "prefix": "x&\"" }, "c": "a%20b+c" } }));
    let expected = [
        ("a%3D%C3%BC".to_owned(), StringMatch::Exact("a%20b".to_owned())),
        ("b".to_owned(), StringMatch::Prefix("x%26%22".to_owned())),
        ("c".to_owned(), StringMatch::Exact("a%20b+c".to_owned())),
    ];
    assert_eq!(first_match(&document).query, expected);
    let regex = respond(&json!({ "path": "/", "query": { "a": { "regex": "a b" } } }));
    assert!(reason(&regex).contains("no parameter can match"));
}

#[test]
fn header_values_with_white_space_around_them_are_rejected() {
    let with = |condition: Value| reason(&respond(&json!({ "path": "/", "headers": { "x-a": condition } })));
    for never in [
        json!(" a"),
        json!("a "),
        json!({ "prefix": " a" }),
        json!({ "not": { "suffix": "a " } }),
    ] {
        assert!(with(never.clone()).contains("where Envoy removes it"), "{never}");
    }
    assert!(with(json!({ "regex": " a" })).contains("no header can match"));
    for good in [
        json!(""),
        json!("a b"),
        json!({ "prefix": "a " }),
        json!({ "contains": " " }),
    ] {
        assert_eq!(with(good.clone()), "", "{good}");
    }
}

#[test]
fn hosts_have_no_final_dot_and_addresses_their_shortest_form() {
    let host = |host: &str| first_match(&respond(&json!({ "hosts": [host], "path": "/" }))).hosts[0].clone();
    let exact = |host: &str| HostPattern::Exact(host.into());
    assert_eq!(host("API.example.com."), exact("api.example.com"));
    assert_eq!(host("*.example.com."), HostPattern::Wildcard("*.example.com".into()));
    assert_eq!(host("[2001:DB8:0:0:0:0:0:3]"), exact("[2001:db8::3]"));
    assert_eq!(first_match(&respond(&json!("[0:0::1]/a"))).hosts, [exact("[::1]")]);

    let mut older = older("/a");
    older["host"] = json!("[2001:db8:0::3].");
    assert_eq!(first_match(&older).hosts, [exact("[2001:db8::3]")]);
    for bad in [".", "..", "a..", "*.."] {
        assert!(
            reason(&respond(&json!({ "hosts": [bad], "path": "/" }))).contains("found the host"),
            "{bad}"
        );
    }
}

#[test]
fn headers_that_frame_a_message_are_never_edited() {
    for name in [
        "content-length",
        "Transfer-Encoding",
        "connection",
        "host",
        ":path",
        "keep-alive",
        "TE",
        "upgrade",
    ] {
        let values = json!({ name: "1" });
        let base = || json!({ "match": "/a", "to": "orders" });
        let mut documents = Vec::new();
        for field in ["request_headers", "response_headers"] {
            for edits in [
                json!({ "set": values }),
                json!({ "add": values }),
                json!({ "remove": [name] }),
            ] {
                let mut own = base();
                own[field] = edits.clone();
                let mut of_override = base();
                of_override["overrides"] = json!([{ "headers": { "x-a": "1" }, field: edits }]);
                documents.extend([own, of_override]);
            }
        }
        documents.push(json!({ "match": "/a", "to": { "respond": { "status": 200, "headers": values } } }));
        for document in documents {
            assert!(reason(&document).contains("found the header"), "{document}");
        }
        let defaults = parsed(
            "defaults",
            &json!({ "route": { "request_headers": { "set": values } } }),
        );
        assert!(defaults.unwrap_err().reason.contains("found the header"), "{name}");
    }
}

#[test]
fn a_response_without_a_body_has_none() {
    let with = |status: u16, body: &str| {
        let respond = json!({ "status": status, "body": body });
        json!({ "match": "/a", "to": { "respond": respond } })
    };
    for status in [204, 304] {
        let expected = format!("to.respond.body: found a body, expected none beside the status {status}");
        assert_eq!(reason(&with(status, "x")), expected);
        assert_eq!(reason(&with(status, "")), "");
    }
    assert_eq!(reason(&with(200, "x")), "");
}

#[test]
fn a_retry_goes_to_another_endpoint_unless_it_need_not() {
    let route = |retry: Value| parse_route(&json!({ "match": "/a", "to": "orders", "retry": retry }));
    let retry = |retry: Value| route(retry).rules[0].settings.retry.clone().unwrap().another_endpoint;
    assert!(retry(json!({ "attempts": 1, "on": ["503"] })));
    assert!(!retry(
        json!({ "attempts": 1, "on": ["503"], "another_endpoint": false })
    ));
}
