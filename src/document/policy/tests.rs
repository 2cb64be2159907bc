//! The reading of policies: the values of each kind, rejections, and lists.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::app::{Abort, AbortStatus};
use super::*;
use crate::document::route::StringMatch;
use crate::document::secret::{Files, Vault};
use crate::document::{Document, Limits, parse, parse_with};

fn read_policy_document(text: &Value) -> Result<PolicyDocument, String> {
    let key = DocumentKey::new(Kind::Policies, "a");
    match parse(&key, text.to_string().as_bytes(), &Limits::default()) {
        Ok(parsed) => match &*parsed.document {
            Document::Policy(policy) => Ok(policy.clone()),
            other => panic!("{other:?}"),
        },
        Err(rejection) => Err(rejection.to_string()),
    }
}

fn rule(text: &Value) -> PolicyRule {
    read_policy_document(text).unwrap().policy.rule.clone()
}

fn list(items: &Value) -> Result<Items, String> {
    let key = DocumentKey::new(Kind::Routes, "a");
    let text = json!({ "match": "/a", "policies": items }).to_string();
    match parse(&key, text.as_bytes(), &Limits::default()) {
        Ok(parsed) => Ok(Arc::clone(&parsed.document.as_route().unwrap().rules[0].policies)),
        Err(rejection) => Err(rejection.to_string()),
    }
}

#[test]
fn a_document_has_one_kind() {
    let document = read_policy_document(&json!({ "grpc_web": {}, "final": true, "groups": ["edge"] })).unwrap();
    assert!(document.is_final && document.groups.is_some());
    assert_eq!(document.policy.kind(), PolicyKind::GrpcWeb);
    assert_eq!(document.policy.written, json!({}));
    let two = read_policy_document(&json!({ "csrf": {}, "grpc_web": {} })).unwrap_err();
    assert_eq!(two, "found grpc_web and csrf, expected one kind of policy");
    assert!(
        read_policy_document(&json!({ "final": true }))
            .unwrap_err()
            .starts_with("found no kind of policy")
    );
}

#[test]
fn every_kind_has_its_own_word() {
    for kind in PolicyKind::ALL {
        assert!(
            FIELDS.contains(kind.as_str()) && ITEM_FIELDS.contains(kind.as_str()),
            "{kind}"
        );
    }
    assert_eq!(ITEM_FIELDS.names().count(), PolicyKind::ALL.len());
}

#[test]
fn a_list_has_names_policies_and_off() {
    let items = list(&json!(["b", { "csrf": {} }, { "cors": "off" }])).unwrap();
    assert_eq!(items[0].choice, Choice::Named("b".into()));
    assert!(matches!(&items[1].choice, Choice::Inline(policy) if policy.kind() == PolicyKind::Csrf));
    assert_eq!(
        (&*items[2].place, &items[2].choice),
        ("policies[2]", &Choice::Off(PolicyKind::Cors))
    );
    for (bad, reason) in [
        (
            json!(["b", "b"]),
            "policies[1]: found the policy of policies[0] once more, expected it once",
        ),
        (
            json!([{ "csrf": {} }, { "csrf": "off" }]),
            "policies[1]: found the policy of policies[0] once more, expected it once",
        ),
        (
            json!([7]),
            "policies[0]: found the number 7, expected the name of a policies document or an object with a kind",
        ),
        (
            json!([{ "csrf": "on" }]),
            "policies[0].csrf: found the string \"on\", expected an object, or \"off\"",
        ),
    ] {
        assert_eq!(list(&bad).unwrap_err(), reason);
    }
    let many: Vec<Value> = (0..21).map(|number| json!(format!("p{number}"))).collect();
    assert_eq!(
        list(&json!(many)).unwrap_err(),
        "policies: found 21 policies, expected at most 20"
    );
}

#[test]
fn origins_are_exact_or_below_a_domain() {
    let origins = [
        "https://A.example.com:8443",
        "https://*.example.com",
        "~https://a.*",
        "*",
        "http://[::1]:80",
    ];
    let PolicyRule::Cors(cors) = rule(&json!({ "cors": { "allow_origins": origins } })) else {
        panic!("cors");
    };
    assert_eq!(
        cors.allow_origins,
        [
            StringMatch::Exact("https://a.example.com:8443".into()),
            StringMatch::Regex(r"https://[^/:]+\.example\.com".into()),
            StringMatch::Regex("https://a.*".into()),
            StringMatch::Exact("*".into()),
            StringMatch::Exact("http://[::1]:80".into()),
        ]
    );
    assert_eq!(cors.allow_methods, ["GET", "HEAD", "POST"]);
    for bad in [
        "a.example.com",
        "https://a.example.com/",
        "https://a.*.com",
        "https://a:0",
        "null",
        "https://",
    ] {
        let reason = read_policy_document(&json!({ "cors": { "allow_origins": [bad] } })).unwrap_err();
        assert!(
            reason.starts_with("cors.allow_origins[0]: found the string"),
            "{bad}: {reason}"
        );
    }
    for field in ["allow_methods", "allow_headers", "expose_headers"] {
        let mut cors = json!({ "allow_origins": ["https://a.com"], "allow_credentials": true });
        cors[field] = json!(["*"]);
        let reason = read_policy_document(&json!({ "cors": cors })).unwrap_err();
        assert!(
            reason.ends_with("expected no \"*\" beside \"allow_credentials\": true"),
            "{reason}"
        );
    }
}

#[test]
fn ranges_are_merged_and_have_no_bits_behind_the_prefix() {
    let ranges = ["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7", "2001:db8::/32"];
    let PolicyRule::IpAccess(access) = rule(&json!({ "ip_access": { "allow": ranges } })) else {
        panic!("ip_access");
    };
    let allowed: Vec<String> = access.allow.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/23", "2001:db8::/32"]);
    let reason = read_policy_document(&json!({ "ip_access": { "deny": ["10.0.0.1/8"] } })).unwrap_err();
    assert_eq!(
        reason,
        "ip_access.deny[0]: found the string \"10.0.0.1/8\", expected \"10.0.0.0/8\", without bits behind the prefix"
    );
    assert!(read_policy_document(&json!({ "ip_access": { "deny": [] } })).is_err());
}

#[test]
fn shares_have_four_decimals() {
    let PolicyRule::Fault(fault) = rule(&json!({ "fault": { "abort": { "grpc_status": 14, "percent": 12.3456 } } }))
    else {
        panic!("fault");
    };
    let expected = Abort {
        status: AbortStatus::Grpc(14),
        millionths: 123_456,
        body: None,
    };
    assert_eq!(fault.abort, Some(expected));
    for percent in [json!(100.1), json!(0.00001), json!("5")] {
        let fault = json!({ "fault": { "abort": { "status": 503, "percent": percent } } });
        assert!(read_policy_document(&fault).is_err(), "{fault}");
    }
}

#[test]
fn conditions_that_take_two_matchers_are_rejected_where_one_must_do() {
    for condition in [json!({ "not": "" }), json!({ "not": { "regex": "a*" } })] {
        let document = json!({ "maintenance": { "unless": { "headers": { "x-a": condition } } } });
        let reason = read_policy_document(&document).unwrap_err();
        assert!(
            reason.starts_with("maintenance.unless.headers.x-a: found \"not\" of the empty text"),
            "{reason}"
        );
    }
    let PolicyRule::Maintenance(maintenance) = rule(&json!({ "maintenance": {} })) else {
        panic!("maintenance");
    };
    assert_eq!(
        (maintenance.status, maintenance.retry_after),
        (503, Duration::from_secs(300))
    );
}

#[test]
fn a_template_in_a_rule_is_a_regex() {
    let PolicyRule::Rbac(rbac) = rule(&json!({ "rbac": { "rules": [{ "path": "/a/{id}" }] } })) else {
        panic!("rbac");
    };
    let expected = crate::document::route::PathMatch::Regex(r"/a/[^/\[\]]+".into());
    assert_eq!(rbac.rules[0].path, Some(expected));
}

/// A file.
#[derive(Debug)]
struct File(&'static str, Bytes);

impl Files for File {
    fn content(&self, _: &DocumentKey, path: &str) -> Result<Bytes, String> {
        let is_it = path == self.0;
        is_it
            .then(|| self.1.clone())
            .ok_or_else(|| "found another path".to_owned())
    }

    fn warning(&self, _: &DocumentKey) -> Option<String> {
        Some("the content before serves".to_owned())
    }
}

#[test]
fn a_descriptor_may_stand_in_a_file_of_the_server() {
    let descriptor = Bytes::from_static(include_bytes!("../../../tests/data/grpc_json/greet.bin"));
    let vault = Vault::new(
        "/",
        None,
        false,
        Some(Arc::new(File("/srv/greet.bin", descriptor.clone()))),
    );
    let read = |kind: Kind, text: Value, vault: &Vault| {
        let key = DocumentKey::new(kind, "a");
        parse_with(&key, text.to_string().as_bytes(), &Limits::default(), vault)
            .map_err(|rejection| rejection.to_string())
    };
    let json = |path: &str| json!({ "grpc_json": { "descriptor_file": path, "services": ["greet.Greeter"] } });

    let parsed = read(Kind::Policies, json("/srv/greet.bin"), &vault).unwrap();
    let policy = &parsed.document.as_policy().unwrap().policy;
    assert!(matches!(&policy.rule, PolicyRule::GrpcJson(json) if json.descriptor == descriptor));
    assert_eq!(policy.written, json("/srv/greet.bin")["grpc_json"]);
    assert_eq!(parsed.document.files(), ["/srv/greet.bin"]);
    assert_eq!(parsed.warnings, ["the content before serves"]);

    let listed = json!({ "match": "/a", "policies": [json("/srv/greet.bin")] });
    assert_eq!(
        read(Kind::Routes, listed, &vault).unwrap().document.files(),
        ["/srv/greet.bin"]
    );
    for (text, vault, reason) in [
        (
            json("/etc/passwd"),
            &vault,
            "grpc_json.descriptor_file: found another path",
        ),
        (
            json("/srv/greet.bin"),
            &Vault::default(),
            "grpc_json.descriptor_file: found a file, but the server reads none (--secret-dir)",
        ),
    ] {
        assert_eq!(read(Kind::Policies, text, vault).unwrap_err(), reason);
    }
    let bad = Vault::new(
        "/",
        None,
        false,
        Some(Arc::new(File("/srv/greet.bin", Bytes::from_static(b"no")))),
    );
    let reason = read(Kind::Policies, json("/srv/greet.bin"), &bad).unwrap_err();
    assert!(reason.contains("found a descriptor that cannot be read"), "{reason}");
}
