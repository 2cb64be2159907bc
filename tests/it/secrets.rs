//! Secrets of a running server: sealed documents and their keys, files, expiry, and outputs that show none of them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::ads_client::{ADS_DELTA, DeltaStream, connect, delta, delta_ack, refusal, types};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::Server;
use crate::traces::Collector;

const LIMIT: Duration = Duration::from_secs(10);
const OLD: &str = "old AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
const NEW: &str = "new AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::Builder::new().prefix("chancery-secrets-").tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn pem(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/secrets");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// Run `chancery secret` in a folder: code, stdout, stderr.
fn secret(folder: &Path, arguments: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    chancery(folder, &[&["secret"], arguments].concat(), stdin)
}

fn chancery(folder: &Path, arguments: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_chancery"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A wrong usage ends the process before it reads.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The document that `chancery secret seal` prints.
fn sealed(folder: &Path, keys: &str, key: &str, document: &str) -> String {
    let (code, stdout, stderr) = secret(folder, &["seal", "--secret-keys-file", keys, key], document);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    stdout
}

#[test]
fn a_document_is_sealed_and_opens_at_its_own_key() {
    let folder = folder(&[("keys", OLD), ("others", NEW)]);
    let folder = folder.path();
    let document = json!({ "generic": "hunter2" }).to_string();
    let text = sealed(folder, "keys", "secrets/a", &document);
    let open = |keys: &str, key: &str, text: &str| secret(folder, &["open", "--secret-keys-file", keys, key], text);
    assert_eq!(
        open("keys", "secrets/a", &text),
        (Some(0), format!("{document}\n"), String::new())
    );

    for (keys, key, text, reason) in [
        (
            "keys",
            "secrets/b",
            &*text,
            "secrets/b: found a sealed text that does not open, expected one sealed with that key for this document's key",
        ),
        (
            "others",
            "secrets/a",
            &text,
            "secrets/a: found a document sealed with the key \"old\", expected one of --secret-keys-file",
        ),
        (
            "keys",
            "secrets/a",
            &document,
            "found no sealed document on stdin, expected {\"encrypted\": …}",
        ),
    ] {
        assert_eq!(
            open(keys, key, text),
            (Some(1), String::new(), format!("chancery: {reason}\n"))
        );
    }

    // The prefix of the documents belongs to the key.
    let elsewhere = ["open", "--secret-keys-file", "keys", "--prefix", "/other/", "secrets/a"];
    assert_eq!(secret(folder, &elsewhere, &text).0, Some(1));
}

#[test]
fn a_bad_secret_is_not_sealed_and_wrong_usage_is_told_apart() {
    let folder = folder(&[("keys", OLD), ("bad", "hunter2")]);
    let run = |arguments: &[&str]| secret(folder.path(), arguments, r#"{"generic": ""}"#);
    for (arguments, code, reason) in [
        (
            ["seal", "--secret-keys-file", "keys", "secrets/a"].as_slice(),
            1,
            "secrets/a: generic: found an empty string, expected a text",
        ),
        (
            &["seal", "--secret-keys-file", "keys", "routes/a"],
            2,
            "found the key \"routes/a\", expected secrets/NAME",
        ),
        (
            &["open", "secrets/a"],
            2,
            "no keys given, expected --secret-keys-file or CHANCERY_SECRET_KEYS",
        ),
        (
            &["open", "--secret-keys-file", "bad", "secrets/a"],
            1,
            "read the keys of bad: line 1: expected an id of letters, digits, - and _, a blank, and the base64 of 32 bytes",
        ),
    ] {
        assert_eq!(
            run(arguments),
            (Some(code), String::new(), format!("chancery: {reason}\n"))
        );
    }
    assert_eq!(run(&["seal", "--secret-keys-file", "keys"]).0, Some(2));
    assert_eq!(run(&[]).0, Some(2));
}

#[test]
fn a_folder_is_rotated() {
    let folder = folder(&[("old", OLD), ("both", &format!("{NEW}{OLD}")), ("new", NEW)]);
    let folder = folder.path();
    let document = json!({ "generic": "hunter2" }).to_string();
    let path = folder.join("gateway/secrets/a.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, sealed(folder, "old", "secrets/a", &document)).unwrap();
    fs::write(folder.join("gateway/secrets/b.json"), &document).unwrap();

    let rotate = |keys: &str| secret(folder, &["rotate", "--secret-keys-file", keys, "--dir", "gateway"], "");
    let said = |text: &str| (Some(0), format!("{text}\n"), String::new());
    assert_eq!(
        rotate("both"),
        said("1 documents and 0 records sealed with new; 0 documents were already")
    );
    assert_eq!(
        rotate("both"),
        said("0 documents and 0 records sealed with new; 1 documents were already")
    );
    let rotated = fs::read_to_string(&path).unwrap();
    let opened = secret(folder, &["open", "--secret-keys-file", "new", "secrets/a"], &rotated);
    assert_eq!(opened, (Some(0), format!("{document}\n"), String::new()));
    assert_eq!(
        fs::read_to_string(folder.join("gateway/secrets/b.json")).unwrap(),
        document
    );

    let (code, _, stderr) = rotate("old");
    assert_eq!(
        (code, &*stderr),
        (
            Some(1),
            "chancery: secrets/a: found a document sealed with the key \"new\", expected one of --secret-keys-file\n"
        )
    );
}

/// The text at a key of etcd.
async fn text_at(etcd: &Etcd, key: &str) -> String {
    let found = etcd.client().await.get(key, None).await.unwrap();
    found
        .kvs()
        .first()
        .map(|kv| kv.value_str().unwrap().to_owned())
        .unwrap_or_default()
}

async fn put_in_etcd(etcd: &Etcd, key: &str, text: &str) {
    etcd.client().await.put(key, text, None).await.unwrap();
}

/// The state of a document, or its warnings.
async fn shown(server: &Server, name: &str, field: &str) -> Value {
    let (_, answer) = server
        .try_get(&format!("/api/v1/documents/secrets/{name}"))
        .await
        .unwrap();
    answer[field].clone()
}

#[tokio::test]
async fn keys_are_followed_and_what_is_put_is_sealed() {
    let etcd = Etcd::start().await;
    let files = folder(&[("keys", OLD), ("both", &format!("{NEW}{OLD}"))]);
    let arguments = ["--etcd", &etcd.endpoint(), "--secret-keys-file", "keys"];
    let server = Server::start_in(files, &arguments).await;
    server.ready().await;
    let document = json!({ "certificate": pem("p256.pem"), "private_key": pem("p256.key") }).to_string();
    let path = "/api/v1/documents/secrets/edge";
    assert_eq!(server.put(path, &document).await.0, 201);
    let stored = text_at(&etcd, "/gateway/secrets/edge").await;
    assert!(stored.starts_with(r#"{"encrypted":"v1.old."#), "{stored}");

    // An equal document is no write, in the clear and sealed.
    assert_eq!(server.put(path, &document).await.0, 200);
    assert_eq!(server.put(path, &stored).await.0, 200);
    let by_hand = sealed(server.folder(), "keys", "secrets/edge", &document);
    assert_eq!(server.put(path, &by_hand).await.0, 200);
    assert_eq!(text_at(&etcd, "/gateway/secrets/edge").await, stored);
    let for_another = sealed(server.folder(), "keys", "secrets/other", &document);
    assert_eq!(server.put(path, &for_another).await.0, 422);

    // A secret in the clear has a warning, until it is put again.
    let clear = json!({ "generic": "hunter2" }).to_string();
    put_in_etcd(&etcd, "/gateway/secrets/clear", &clear).await;
    let warned = json!(["not sealed, although the server has keys; \"chancery secret seal\" or a PUT seals it"]);
    eventually(LIMIT, || shown(&server, "clear", "warnings"), warned).await;
    assert_eq!(server.put("/api/v1/documents/secrets/clear", &clear).await.0, 200);
    assert!(
        text_at(&etcd, "/gateway/secrets/clear")
            .await
            .starts_with(r#"{"encrypted":"v1.old."#)
    );
    assert_eq!(shown(&server, "clear", "warnings").await, json!([]));
    etcd.client()
        .await
        .delete("/gateway/secrets/clear", None)
        .await
        .unwrap();

    // A text that was read cannot be written back.
    let (status, problem) = server.put(path, &json!({ "generic": "[redacted]" }).to_string()).await;
    assert_eq!((status, &problem["code"]), (422, &json!("redacted_value")));

    // Shown of it.
    let answer = server.get(path).await;
    assert_eq!(answer["expires_at"], "2126-11-06T15:00:07Z");
    assert_eq!(answer["secret"]["key_id"], "old");
    assert_eq!(answer["secret"]["shape"], "certificate");
    assert_eq!(answer["secret"]["certificates"][0]["subject"], "CN=p256.example.com");
    assert_eq!(answer.get("value"), None);
    let left = server
        .metric(r#"chancery_certificate_expiry_seconds{secret="edge"}"#)
        .await;
    assert!(left.is_some_and(|left| left > 86_400.0), "{left:?}");

    // A document of another key waits for the key.
    let later = sealed(server.folder(), "both", "secrets/later", r#"{"generic": "hunter2"}"#);
    put_in_etcd(&etcd, "/gateway/secrets/later", &later).await;
    eventually(LIMIT, || shown(&server, "later", "state"), json!("rejected")).await;
    let keys = server.folder().join("keys");
    fs::write(&keys, NEW).unwrap();
    let complains = || async {
        server
            .log()
            .contains("New keys of sealed secrets are not used, the keys before stay")
    };
    eventually(LIMIT, complains, true).await;
    assert_eq!(shown(&server, "later", "state").await, "rejected");
    fs::write(&keys, format!("{NEW}{OLD}")).unwrap();
    server.hang_up();
    eventually(LIMIT, || shown(&server, "later", "state"), json!("accepted")).await;

    // A last good text in etcd, and its rotation.
    put_in_etcd(&etcd, "/gateway/secrets/edge", "{}").await;
    let record = "/chancery/last-good//gateway/secrets/edge";
    let has_record = || async { text_at(&etcd, record).await.contains("v1.old.") };
    eventually(LIMIT, has_record, true).await;
    let rotate = ["rotate", "--secret-keys-file", "both", "--etcd", &etcd.endpoint()];
    assert_eq!(
        secret(server.folder(), &rotate, "").1,
        "0 documents and 1 records sealed with new; 1 documents were already\n"
    );
    let key_id = || async { shown(&server, "edge", "secret").await["key_id"].clone() };
    eventually(LIMIT, key_id, json!("new")).await;
    fs::write(&keys, NEW).unwrap();
    let is_taken = || async { server.log().matches("Keys of sealed secrets are replaced").count() };
    eventually(LIMIT, is_taken, 2).await;
    assert_eq!(shown(&server, "edge", "state").await, "rejected");
    assert_ne!(shown(&server, "edge", "serving_revision").await, Value::Null);
}

/// The bytes of the Secret in the next response of a stream.
async fn next_secret(stream: &mut DeltaStream) -> Vec<u8> {
    let response = stream.receive().await;
    stream.send(delta_ack(&response));
    response.resources.into_iter().next().unwrap().resource.unwrap().value
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_secret_in_files_follows_them() {
    let files = folder(&[("files/tls.crt", &pem("p256.pem")), ("files/tls.key", &pem("p256.key"))]);
    let path = |name: &str| files.path().join("files").join(name).display().to_string();
    let document = json!({ "files": { "certificate": path("tls.crt"), "private_key": path("tls.key") } });
    let place = files.path().join("gateway/secrets/edge.json");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, document.to_string()).unwrap();
    let server = Server::start_in(files, &["--dir", "gateway", "--secret-dir", "files"]).await;
    server.ready().await;
    let channel = connect(server.xds()).await;
    let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    stream.send(delta(types::SECRET, &["edge"], &[]));
    let middle = |name: &str| pem(name).lines().nth(1).unwrap().to_owned();
    assert!(contains(&next_secret(&mut stream).await, &middle("p256.key")));

    // One file after the other: nothing is sent in between, or the pair would not fit.
    fs::write(server.folder().join("files/tls.crt"), pem("rsa2048.pem")).unwrap();
    server.hang_up();
    fs::write(server.folder().join("files/tls.key"), pem("rsa2048.key")).unwrap();
    let sent = next_secret(&mut stream).await;
    assert!(contains(&sent, &middle("rsa2048.key")) && contains(&sent, &middle("rsa2048.pem")));
    let answer = server.get("/api/v1/documents/secrets/edge").await;
    assert_eq!(answer["value"], Value::Null);
    assert!(
        answer["secret"]["files"]["certificate"]
            .as_str()
            .unwrap()
            .ends_with("files/tls.crt")
    );

    // Without keys the state directory has no secret, and this document is none.
    let state = || async { fs::read_to_string(server.folder().join("state/serving.json")).unwrap_or_default() };
    eventually(LIMIT, || async { state().await.contains("secrets/edge") }, true).await;
}

/// Every text that must not be shown.
const VALUES: [&str; 13] = [
    "hunter2-generic",
    "hunter2-api-key-of-a-shop",
    "5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "aHVudGVyMi10aWNrZXQ",
    "hunter2-jwk",
    "hunter2-field",
    "hunter2-wrong",
    "hunter2-syntax",
    "hunter2-pem",
    "hunter2-xds",
    "hunter2-password",
    "hunter2-file",
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
];

/// Documents with a secret, good and bad.
fn documents() -> Vec<(&'static str, String)> {
    let ticket = format!("aHVudGVyMi10aWNrZXQ{}=", "A".repeat(88));
    let secret = |content: Value| {
        let resource = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "x",
            "generic_secret": content,
        });
        json!({ "resource": resource }).to_string()
    };
    let pair = json!({ "certificate": pem("p256.pem"), "private_key": pem("p256.key") }).to_string();
    let mut documents = vec![
        ("secrets/pair", pair.clone()),
        ("secrets/generic", json!({ "generic": "hunter2-generic" }).to_string()),
        (
            "secrets/keys",
            json!({ "api_keys": { "shop": "hunter2-api-key-of-a-shop" } }).to_string(),
        ),
        (
            "secrets/users",
            json!({ "users": { "ana": "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=" } }).to_string(),
        ),
        ("secrets/tickets", json!({ "session_tickets": [ticket] }).to_string()),
        (
            "secrets/jwks",
            json!({ "jwks": { "keys": [{ "kty": "oct", "k": "hunter2-jwk" }] } }).to_string(),
        ),
        (
            "policies/users",
            json!({ "basic_auth": { "users": "users" } }).to_string(),
        ),
        ("policies/keys", json!({ "api_key": { "keys": ["keys"] } }).to_string()),
        (
            "policies/tokens",
            json!({ "jwt": { "issuer": "me", "audiences": ["a"], "jwks": { "secret": "jwks" } } }).to_string(),
        ),
        (
            "routes/guarded",
            json!({ "match": "/guarded", "to": "x", "policies": ["users", "keys", "tokens"] }).to_string(),
        ),
        ("secrets/field", json!({ "hunter2-field": "hunter2-wrong" }).to_string()),
        (
            "secrets/shape",
            json!({ "generic": { "hunter2-field": "hunter2-wrong" } }).to_string(),
        ),
        ("secrets/list", json!(["hunter2-wrong"]).to_string()),
        ("secrets/text", "hunter2-wrong".to_owned()),
        (
            "secrets/name",
            json!({ "name": "hunter2-wrong", "generic": "hunter2-generic" }).to_string(),
        ),
        ("secrets/syntax", "{\"generic\": hunter2-syntax".to_owned()),
        (
            "secrets/yaml",
            "generic: |\n hunter2-syntax\n\thunter2-syntax: [".to_owned(),
        ),
        (
            "secrets/password",
            json!({ "htpasswd": "ana:hunter2-password" }).to_string(),
        ),
        (
            "secrets/pem",
            pair.replace("BEGIN PRIVATE KEY-----", "BEGIN PRIVATE KEY-----hunter2-pem"),
        ),
        (
            "secrets/halves",
            json!({ "certificate": pem("rsa2048.pem"), "private_key": pem("p256.key") }).to_string(),
        ),
        (
            "secrets/sealed",
            json!({ "encrypted": "v1.lost.aHVudGVyMi10aWNrZXQ=" }).to_string(),
        ),
        (
            "xds/secrets/x",
            secret(json!({ "secret": { "inline_string": "hunter2-xds" } })),
        ),
        (
            "xds/secrets/wrong",
            secret(json!({ "secret": { "inline_strin": "hunter2-xds" } })),
        ),
        ("xds/secrets/text", "hunter2-xds".to_owned()),
    ];
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": { "tls_certificates": [{
            "certificate_chain": { "inline_string": pem("p256.pem") },
            "private_key": { "inline_string": pem("p256.key") },
            "password": { "inline_string": "hunter2-password" },
        }] },
    });
    let cluster = json!({ "resource": {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "inline",
        "type": "EDS",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
    } });
    documents.push(("xds/clusters/inline", cluster.to_string()));
    documents
}

/// Every file below a folder, except these.
fn files_below(folder: &Path, except: &[&str]) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if except.contains(&&*entry.file_name().to_string_lossy()) {
            continue;
        }
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path(), except)),
            false => files.push((
                entry.path(),
                String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned(),
            )),
        }
    }
    files
}

#[tokio::test]
async fn no_output_shows_a_secret() {
    let (etcd, collector) = (Etcd::start().await, Collector::start().await);
    let given = folder(&[
        ("keys", OLD),
        ("files/token", "hunter2-file-1"),
        ("password", "hunter2-password"),
    ]);
    for (key, text) in documents() {
        let path = given.path().join("documents").join(format!("{key}.yaml"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let token = given.path().join("files/token");
    let arguments = [
        "--etcd",
        &etcd.endpoint(),
        "--secret-keys-file",
        "keys",
        "--secret-dir",
        "files",
        "--log-level",
        "trace",
        "--otlp-endpoint",
        &collector.endpoint,
    ];
    let mut server = Server::start_in(given, &arguments).await;
    server.ready().await;
    let mut outputs: Vec<(String, String)> = Vec::new();

    // A proxy that has the secrets, and refuses one.
    let channel = connect(server.xds()).await;
    let mut stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
    stream.send(delta(types::SECRET, &["generic", "file", "x", "pair"], &[]));
    let none = stream.receive().await;
    stream.send(delta_ack(&none));

    // Writes through the API; the same texts, put straight into etcd under other names.
    for (key, text) in documents() {
        let (status, answer) = server.put(&format!("/api/v1/documents/{key}"), &text).await;
        outputs.push((format!("PUT {key}: {status}"), answer.to_string()));
        let (kind, name) = key.rsplit_once('/').unwrap();
        put_in_etcd(&etcd, &format!("/gateway/{kind}/clear-{name}"), &text).await;
    }
    let document = json!({ "files": { "generic": token.display().to_string() } }).to_string();
    assert_eq!(server.put("/api/v1/documents/secrets/file", &document).await.0, 201);
    let mut sent = Vec::new();
    while !["hunter2-generic", "hunter2-file-1", "hunter2-xds"]
        .iter()
        .all(|value| contains(&sent, value))
    {
        let response = stream.receive().await;
        for resource in &response.resources {
            sent.extend(resource.resource.as_ref().unwrap().value.clone());
        }
        let mut answer = delta_ack(&response);
        answer.error_detail = refusal("no");
        stream.send(answer);
    }
    fs::write(&token, "hunter2-file-2").unwrap();
    server.hang_up();
    while !contains(
        &stream.receive().await.resources[0].resource.as_ref().unwrap().value,
        "hunter2-file-2",
    ) {}

    // A good secret turns bad, so that a record has the text before.
    put_in_etcd(&etcd, "/gateway/secrets/generic", r#"{"generic": ["hunter2-wrong"]}"#).await;
    put_in_etcd(&etcd, "/gateway/xds/secrets/x", "hunter2-wrong").await;
    let records = || async {
        let mut are_sealed = true;
        for key in ["secrets/generic", "xds/secrets/x"] {
            let record = text_at(&etcd, &format!("/chancery/last-good//gateway/{key}")).await;
            are_sealed &= record.contains("v1.old.");
        }
        are_sealed
    };
    eventually(LIMIT, records, true).await;

    // All that the API tells.
    let mut paths: Vec<String> = ["documents", "snapshot", "clients"]
        .map(|path| format!("/api/v1/{path}"))
        .into();
    paths.extend(["/readyz".to_owned(), "/metrics".to_owned()]);
    let listed = server.get("/api/v1/documents").await;
    let listed = listed["documents"].as_array().unwrap();
    assert!(listed.len() > documents().len(), "{listed:?}");
    let names = listed.iter().map(|entry| {
        format!(
            "{}/{}",
            entry["kind"].as_str().unwrap(),
            entry["name"].as_str().unwrap()
        )
    });
    paths.extend(names.map(|name| format!("/api/v1/documents/{name}")));
    paths.extend(["secrets", "clusters", "listeners"].map(|kind| format!("/api/v1/snapshot/{kind}")));
    paths.extend(["generic", "file", "x", "pair"].map(|name| format!("/api/v1/snapshot/secrets/{name}")));
    for path in paths {
        let (status, answer) = server.try_get(&path).await.unwrap();
        outputs.push((format!("GET {path}: {status}"), answer.to_string()));
    }

    // The command line.
    let of_folder = [["check", "documents"].as_slice(), &["convert", "documents"]];
    for arguments in of_folder {
        let (_, stdout, stderr) = chancery(server.folder(), arguments, "");
        outputs.push((format!("{arguments:?}"), format!("{stdout}{stderr}")));
    }
    for (key, text) in documents() {
        let (_, stdout, stderr) = secret(server.folder(), &["seal", "--secret-keys-file", "keys", key], &text);
        outputs.push((format!("seal {key}"), format!("{stdout}{stderr}")));
    }

    // The end, with the last exports and the state directory.
    server.terminate();
    server.ended(LIMIT * 4).await;
    let log = server.log();
    assert!(
        log.contains("\"TRACE\"") && log.contains("secrets/generic"),
        "a log at trace level"
    );
    outputs.push(("log".to_owned(), log));
    let state = files_below(&server.folder().join("state"), &[]);
    assert!(
        state.iter().any(|(_, text)| text.contains("v1.old.")),
        "the state has secrets: {state:?}"
    );
    outputs.extend(state.into_iter().map(|(path, text)| (path.display().to_string(), text)));
    let exports = collector.bodies();
    assert!(!exports.is_empty(), "spans are exported");
    outputs.extend(
        exports
            .iter()
            .map(|body| ("a span".to_owned(), String::from_utf8_lossy(body).into_owned())),
    );
    let store = etcd
        .client()
        .await
        .get("/", Some(etcd_client::GetOptions::new().with_prefix()))
        .await
        .unwrap();
    let is_clear = |key: &str| {
        key.contains("/clear-")
            || ["/gateway/secrets/generic", "/gateway/xds/"]
                .iter()
                .any(|it| key.starts_with(it))
    };
    let kept = store.kvs().iter().map(|kv| {
        (
            kv.key_str().unwrap().to_owned(),
            String::from_utf8_lossy(kv.value()).into_owned(),
        )
    });
    let kept: Vec<_> = kept.filter(|(key, _)| !is_clear(key)).collect();
    assert!(kept.iter().any(|(key, _)| key.starts_with("/chancery/")), "{kept:?}");
    outputs.extend(kept);

    let keys = ["p256.key", "rsa2048.key"].map(pem);
    let lines = keys
        .iter()
        .flat_map(|key| key.lines().filter(|line| !line.starts_with("---")));
    let values: Vec<&str> = VALUES.into_iter().chain(lines).collect();
    let shown: Vec<String> = outputs
        .iter()
        .flat_map(|(place, text)| values.iter().map(move |value| (place, text, value)))
        .filter(|(_, text, value)| text.contains(**value))
        .map(|(place, text, value)| {
            let at = text.find(*value).unwrap();
            let from = text[..at].char_indices().rev().nth(200).map_or(0, |(at, _)| at);
            format!("{place} shows {value:?}: …{}", &text[from..at + value.len()])
        })
        .collect();
    assert!(shown.is_empty(), "{} places:\n{}", shown.len(), shown.join("\n"));
}
