//! `POST /api/v1/apply` on whole servers, over etcd and over a folder.

use chancery::backend::Backend as _;
use chancery::backend::etcd::{Etcd as Store, Options};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::etcd::Etcd;
use crate::writes::Replica;

/// An answer: status and body.
type Answer = (StatusCode, Value);

async fn apply_with(replica: &Replica, query: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let url = format!("http://{}/api/v1/apply{query}", replica.admin);
    let mut request = replica.client.post(url).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, response.json().await.unwrap())
}

async fn apply(replica: &Replica, documents: Value) -> Answer {
    apply_with(replica, "", &[], &json!({ "documents": documents })).await
}

fn document(kind: &str, name: &str, value: Value) -> Value {
    json!({ "kind": kind, "name": name, "value": value })
}

fn route(name: &str, path: &str, to: &str) -> Value {
    document("routes", name, json!({ "match": path, "to": to }))
}

fn cluster(name: &str) -> Value {
    let endpoints = json!({ "endpoints": [{ "address": "10.0.0.1:80" }] });
    document("clusters", name, endpoints)
}

fn actions(answer: &Value) -> Vec<(&str, &str)> {
    let documents = answer["documents"].as_array();
    let documents = documents.unwrap_or_else(|| panic!("{answer}"));
    documents
        .iter()
        .map(|document| (document["key"].as_str().unwrap(), document["action"].as_str().unwrap()))
        .collect()
}

async fn is_there(replica: &Replica, key: &str) -> bool {
    let answer = replica.ask(reqwest::Method::GET, key, None).await;
    answer.status() == StatusCode::OK
}

/// What holds on every store.
async fn writes_all_or_nothing(replica: &Replica) {
    let (status, answer) = apply(replica, json!([route("a", "/a", "x"), cluster("x")])).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let revision = answer["revision"].as_i64().unwrap();
    assert_eq!(answer["revisions"], json!([revision]));
    assert_eq!(
        actions(&answer),
        [("/gateway/routes/a", "added"), ("/gateway/clusters/x", "added")]
    );
    let first = &answer["documents"][0];
    assert_eq!(
        (&first["state"], &first["warnings"]),
        (&json!("accepted"), &json!([])),
        "the route sees the cluster of its own change"
    );
    let shown = replica.ask(reqwest::Method::GET, "routes/a", None).await;
    let etag = first["etag"].as_str().unwrap();
    assert_eq!(shown.headers()["etag"].to_str().unwrap(), format!("\"{etag}\""));

    // Equal texts and deletions of absent documents are no change.
    let gone = document("routes", "never", Value::Null);
    let (status, answer) = apply(replica, json!([cluster("x"), gone])).await;
    assert_eq!((status, &answer["revision"]), (StatusCode::OK, &Value::Null));
    assert_eq!(answer["revisions"], json!([]));
    assert_eq!(
        actions(&answer),
        [
            ("/gateway/clusters/x", "unchanged"),
            ("/gateway/routes/never", "unchanged")
        ]
    );

    // Two bad documents: each has its problem, and the good one is not written.
    let unknown = document("routes", "b", json!({ "match": "/b", "too": "x" }));
    let bad = json!([cluster("y"), unknown, route("c", "/a", "x")]);
    let (status, problem) = apply(replica, bad).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        (&problem["code"], &problem["path"]),
        (&json!("invalid_document"), &json!("too"))
    );
    let errors = problem["errors"].as_array().unwrap();
    let codes: Vec<_> = errors.iter().map(|error| error["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["invalid_document", "same_match"]);
    assert_eq!(errors[0]["detail"], problem["detail"]);
    assert_eq!(errors[1]["key"], "/gateway/routes/c");
    assert!(!is_there(replica, "clusters/y").await);

    // In use, unless its user goes in the same change.
    let without = document("clusters", "x", Value::Null);
    let (status, problem) = apply(replica, json!([&without])).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("in_use")));
    let stale = json!({ "kind": "routes", "name": "a", "value": null, "if_match": "nonsense" });
    let (status, problem) = apply(replica, json!([stale, &without])).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PRECONDITION_FAILED, &json!("precondition_failed"))
    );
    let known = json!({ "kind": "routes", "name": "a", "value": null, "if_match": etag });
    let (status, answer) = apply(replica, json!([known, without])).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        actions(&answer),
        [("/gateway/routes/a", "removed"), ("/gateway/clusters/x", "removed")]
    );
    assert_eq!(answer["documents"][0]["etag"], Value::Null);
}

async fn refuses_what_it_cannot_read(replica: &Replica) {
    for (body, part) in [
        (json!({ "documents": [] }), "at least one"),
        (
            json!({ "documents": [cluster("x")], "urgent": true }),
            "unknown field `urgent`",
        ),
        (
            json!({ "documents": [{ "kind": "routes", "name": "a" }] }),
            "missing field `value`",
        ),
        (json!({ "documents": [cluster("x"), cluster("x")] }), "twice"),
        (
            json!({ "documents": [cluster("x")], "message": "two\nlines" }),
            "control character",
        ),
    ] {
        let (status, problem) = apply_with(replica, "", &[], &body).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_request"))
        );
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{detail}");
    }
    let (status, _) = apply(replica, json!([document("nothing", "x", json!({}))])).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let latin = [("x-chancery-message", "caf%E9")];
    let (status, _) = apply_with(replica, "", &latin, &json!({ "documents": [cluster("x")] })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(!is_there(replica, "clusters/x").await);
}

async fn refuses_a_moved_base(replica: &Replica) {
    let (_, answer) = apply(replica, json!([cluster("base")])).await;
    let base = answer["revision"].as_i64().unwrap();
    let on = |base: i64, name: &str| json!({ "documents": [cluster(name)], "if_base": base });
    let (status, problem) = apply_with(replica, "", &[], &on(base - 1, "late")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("base_moved")));
    let (status, _) = apply_with(replica, "", &[], &on(base, "in-time")).await;
    assert_eq!(status, StatusCode::OK);

    // A deletion moves the base, too.
    let (_, answer) = apply(replica, json!([document("clusters", "base", Value::Null)])).await;
    let deleted = answer["revision"].as_i64().unwrap();
    let (status, _) = apply_with(replica, "", &[], &on(deleted - 1, "late")).await;
    assert_eq!(status, StatusCode::CONFLICT);
}

async fn answers_a_repeat_and_writes_nothing(replica: &Replica, other: &Replica) {
    let id = [("x-request-id", "deploy/7")];
    let body = json!({ "documents": [route("again", "/again", "x"), cluster("again")] });
    let (_, first) = apply_with(replica, "", &id, &body).await;
    assert_eq!(actions(&first)[0].1, "added");
    assert_eq!(replica.put("clusters/again", "{}").await, StatusCode::OK);
    let (status, repeated) = apply_with(other, "", &id, &body).await;
    assert_eq!((status, &repeated["revision"]), (StatusCode::OK, &first["revision"]));
    assert_eq!(actions(&repeated), actions(&first));
    let shown = replica.ask(reqwest::Method::GET, "clusters/again", None).await;
    let shown: Value = shown.json().await.unwrap();
    assert_eq!(shown["value"], json!({}), "the later text stays");

    let (status, problem) = apply_with(other, "", &id, &json!({ "documents": [cluster("more")] })).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::CONFLICT, &json!("request_id_used"))
    );

    // A put and a deletion have the same promise.
    let put = async |text: &str| {
        let url = format!("http://{}/api/v1/documents/clusters/once", replica.admin);
        let request = replica.client.put(url).header("x-request-id", "once");
        let response = request.body(text.to_owned()).send().await.unwrap();
        (response.status(), response.headers()["etag"].clone())
    };
    let first = put("{}").await;
    assert_eq!(first.0, StatusCode::CREATED);
    assert_eq!(put("{}").await, first);
    let delete = async || {
        let url = format!("http://{}/api/v1/documents/clusters/once", replica.admin);
        let request = replica.client.delete(url).header("x-request-id", "no-more");
        request.send().await.unwrap().status()
    };
    assert_eq!(
        (delete().await, delete().await),
        (StatusCode::NO_CONTENT, StatusCode::NO_CONTENT)
    );
}

fn many(count: usize) -> Vec<Value> {
    // Users first: the parts put clusters before them.
    let routes =
        (0..count / 2).map(|number| route(&format!("m{number}"), &format!("/m/{number}"), &format!("m{number}")));
    let clusters = (0..count.div_ceil(2)).map(|number| cluster(&format!("m{number}")));
    routes.chain(clusters).collect()
}

fn none_of(documents: &[Value]) -> Vec<Value> {
    let gone = |document: &Value| {
        let mut gone = document.clone();
        gone["value"] = Value::Null;
        gone
    };
    documents.iter().map(gone).collect()
}

async fn bounds_a_change(replica: &Replica) {
    let most = many(127);
    let (status, answer) = apply(replica, json!(most)).await;
    assert_eq!(
        (status, answer["revisions"].as_array().map(Vec::len)),
        (StatusCode::OK, Some(1))
    );
    let gone = json!({ "documents": none_of(&most) });
    let (status, problem) = apply_with(replica, "", &[], &gone).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::CONFLICT, &json!("in_use")),
        "a guard would hold them"
    );
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(100));
    let (status, answer) = apply_with(replica, "?force=true", &[], &gone).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    let more = many(300);
    let (status, problem) = apply(replica, json!(more)).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large"))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("300 documents") && detail.contains("at most 127"),
        "{detail}"
    );

    let body = json!({ "documents": more, "in_parts": true });
    let id = [("x-request-id", "in-parts")];
    let (status, answer) = apply_with(replica, "", &id, &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let revisions = answer["revisions"].as_array().unwrap();
    assert_eq!((revisions.len(), revisions.last()), (3, Some(&answer["revision"])));
    assert_eq!(
        actions(&answer)[0],
        ("/gateway/routes/m0", "added"),
        "in the order of the request"
    );
    let (_, again) = apply_with(replica, "", &[("x-request-id", "in-parts")], &body).await;
    assert_eq!(again["documents"].as_array().map(Vec::len), Some(300));

    let gone = json!({ "documents": none_of(&more), "in_parts": true });
    let (status, answer) = apply_with(replica, "?force=true", &[], &gone).await;
    assert_eq!(status, StatusCode::OK, "routes go before their clusters: {answer}");

    // Judged as a whole before the first part is written.
    let mut bad: Vec<_> = (0..200).map(|number| cluster(&format!("n{number}"))).collect();
    bad.push(document("routes", "bad", json!({ "match": "/bad", "too": "x" })));
    let (status, problem) = apply_with(replica, "", &[], &json!({ "documents": bad, "in_parts": true })).await;
    assert_eq!(
        (status, &problem["key"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("/gateway/routes/bad"))
    );
    assert!(!is_there(replica, "clusters/n0").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_several_documents_is_one_revision_of_etcd() {
    let etcd = Etcd::start().await;
    let (one, other) = tokio::join!(Replica::of_etcd(&etcd), Replica::of_etcd(&etcd));
    writes_all_or_nothing(&one).await;
    refuses_what_it_cannot_read(&one).await;
    refuses_a_moved_base(&other).await;
    answers_a_repeat_and_writes_nothing(&one, &other).await;

    // The author's words lie beside the documents.
    let headers = [("x-request-id", "why"), ("x-chancery-message", "caf%C3%A9")];
    let (_, answer) = apply_with(&one, "", &headers, &json!({ "documents": [cluster("why")] })).await;
    let store = Store::new(Options {
        endpoints: vec![etcd.endpoint()],
        ..Options::default()
    });
    let note = store.get(b"/chancery/writes/why").await.unwrap().unwrap();
    assert_eq!(Some(note.mod_revision), answer["revision"].as_i64());
    let note: Value = serde_json::from_slice(&note.value).unwrap();
    assert_eq!((&note["message"], &note["via"]), (&json!("café"), &json!("api")));

    bounds_a_change(&one).await;
    assert_eq!(
        other.put("clusters/after", "{}").await,
        StatusCode::CREATED,
        "judged with all parts"
    );
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_several_documents_is_one_revision_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let server = Replica::of_folder(folder.path()).await;
    writes_all_or_nothing(&server).await;
    refuses_what_it_cannot_read(&server).await;
    refuses_a_moved_base(&server).await;
    answers_a_repeat_and_writes_nothing(&server, &server).await;
    bounds_a_change(&server).await;
    server.stop().await;
}
