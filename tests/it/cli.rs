//! The built binary: its output and its exit codes.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::server::Server;

/// Run `chancery` with nothing but these arguments and variables.
fn chancery(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chancery"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Code, stdout, stderr.
fn outcome(output: Output) -> (Option<i32>, String, String) {
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn without_a_verb_it_shows_its_help_as_wrong_usage() {
    let (code, stdout, stderr) = outcome(chancery(&[], &[]));
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("Usage: chancery <COMMAND>"), "{stderr}");
    assert!(stderr.contains("Serve documents to proxies"), "{stderr}");
}

#[test]
fn version_and_help_are_answers() {
    let version = format!("chancery {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        outcome(chancery(&["--version"], &[])),
        (Some(0), version, String::new())
    );
    for arguments in [["--help"].as_slice(), &["serve", "--help"], &["serve", "-h"]] {
        let (code, stdout, stderr) = outcome(chancery(arguments, &[]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(stdout.contains("chancery serve"), "{stdout}");
    }
}

#[test]
fn the_help_of_serve_tells_every_default_variable_and_an_example() {
    let (_, stdout, _) = outcome(chancery(&["serve", "--help"], &[]));
    for part in [
        "Where documents are:",
        "[default: /gateway/]",
        "[env: CHANCERY_STATE_PREFIX]",
        "chancery serve --etcd http://10.0.0.1:2379",
        "SIGHUP",
    ] {
        assert!(stdout.contains(part), "{part} is missing in {stdout}");
    }
}

#[test]
fn an_unknown_verb_or_flag_is_wrong_usage_with_a_suggestion() {
    for (arguments, suggestion) in [(["serv", ""], "'serve'"), (["serve", "--state-dri"], "'--state-dir'")] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|argument| !argument.is_empty()).collect();
        let (code, stdout, stderr) = outcome(chancery(&arguments, &[]));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(suggestion), "{stderr}");
    }
}

#[test]
fn all_configuration_mistakes_come_in_one_report() {
    let arguments = ["serve", "--etcd", "http://user:hunter2@etcd:2379", "--grace", "soon"];
    let environment = [("CHANCERY_LOG_FORMT", "json"), ("CHANCERY_XDS_TLS_CERT", "server.pem")];
    let expected = "chancery: 4 mistakes in the configuration:
  CHANCERY_LOG_FORMT: unknown variable, did you mean `CHANCERY_LOG_FORMAT`?
  --etcd: credentials in a URL are not accepted, use --etcd-user and --etcd-password-file
  CHANCERY_XDS_TLS_CERT: needs --xds-tls-key
  --grace: found `soon`, expected a duration with a unit such as 30s or 250ms
";
    let found = outcome(chancery(&arguments, &environment));
    assert_eq!(found, (Some(2), String::new(), expected.to_owned()));
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told_with_its_flag() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml/state");
    let ports = ["--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let arguments = [&["serve", "--dir", "gateway", "--state-dir", file], &ports[..]].concat();
    let (code, _, stderr) = outcome(chancery(&arguments, &[]));
    assert_eq!(code, Some(1), "{stderr}");
    let expected = format!("use {file} as --state-dir (the working directory is ");
    assert!(stderr.contains(&expected), "{stderr}");
    assert!(stderr.contains("create the state directory"), "{stderr}");
}

/// A folder of documents.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn check_names_file_line_and_column_of_each_mistake() {
    let folder = folder(&[
        (
            "routes/users.json",
            "{\n  \"match\": \"/users\",\n  \"timout\": \"5s\"\n}",
        ),
        ("routes/orders.yaml", "match: /orders\nto: orders\n"),
        ("routes/z-again.yaml", "match: /orders\nto: http://10.0.0.1:80\n"),
        ("services/cart/a.yaml", "10.0.0.1:80"),
        ("services/cart/a.json", "10.0.0.2:80"),
        ("clusters/cart.json", "{}"),
    ]);
    let path = folder.path().to_str().unwrap();
    let (code, stdout, stderr) = outcome(chancery(&["check", path], &[]));
    assert_eq!(code, Some(1));
    assert_eq!(
        stdout,
        "6 documents: 3 accepted, 2 rejected, 1 shadowed, 2 with warnings\n"
    );
    let stderr = stderr.replace(path, "DIR");
    let lines: Vec<&str> = stderr.lines().collect();
    let warning = "DIR/routes/orders.yaml: routes/orders: warning: ";
    assert!(lines.iter().any(|line| line.starts_with(warning)), "{stderr}");
    for line in [
        "DIR/routes/users.json:3:3: routes/users: timout: unknown field, did you mean \"timeout\"?",
        "DIR/services/cart/a.yaml: services/cart/a.yaml is a second file for the same key, services/cart/a.json serves",
    ] {
        assert!(lines.contains(&line), "{line} is missing in {stderr}");
    }
    let shadowed = "DIR/routes/z-again.yaml:1:1: routes/z-again: routes/orders has the same match";
    assert!(lines.iter().any(|line| line.starts_with(shadowed)), "{stderr}");
}

#[test]
fn check_takes_one_file_and_says_the_same_as_json() {
    let folder = folder(&[(
        "routes/users.yaml",
        "match: /users\nto: { respond: { status: 200 } }\npriority: x\n",
    )]);
    let path = folder.path().join("routes/users.yaml");
    let (code, stdout, stderr) = outcome(chancery(&["check", "-o", "json", path.to_str().unwrap()], &[]));
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let judged = &report["documents"][0];
    assert_eq!(
        (
            &judged["key"],
            &judged["state"],
            &judged["path"],
            &judged["line"],
            &judged["column"]
        ),
        (
            &"routes/users".into(),
            &"rejected".into(),
            &"priority".into(),
            &3.into(),
            &1.into()
        )
    );
    std::fs::write(&path, "match: /users\nto: { respond: { status: 200 } }\n").unwrap();
    let (code, stdout, _) = outcome(chancery(&["check", path.to_str().unwrap()], &[]));
    assert_eq!((code, stdout.as_str()), (Some(0), "1 document: 1 accepted\n"));
}

#[test]
fn check_of_what_is_no_document_is_wrong_usage() {
    let folder = folder(&[("notes/a.json", "{}")]);
    let path = folder.path().join("notes/a.json");
    let (code, _, stderr) = outcome(chancery(&["check", path.to_str().unwrap()], &[]));
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("is below no folder with the name of a kind"),
        "{stderr}"
    );
    let (code, _, stderr) = outcome(chancery(&["check", "/nowhere"], &[]));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("read /nowhere"), "{stderr}");
}

#[test]
fn convert_writes_the_full_form_with_equal_resources() {
    let older =
        |path: &str| format!("{{\"path\": \"{path}\", \"method\": \"GET\", \"upstream\": \"http://10.0.0.1:80\"}}");
    let list = "[{\"path\": \"/c\", \"service\": \"x\"}, {\"path\": \"/d\", \"service\": \"y\", \"timeout_ms\": 10}]";
    let folder = folder(&[
        ("routes/a.json", &older("/a")),
        ("routes/list.yaml", list),
        (
            "routes/full.json",
            "{\"match\": \"/full\", \"to\": { \"respond\": { \"status\": 200 } }}",
        ),
        ("defaults.json", "{\"legacy_path\": \"prefix\"}"),
    ]);
    let path = folder.path().to_str().unwrap();
    let (code, stdout, stderr) = outcome(chancery(&["convert", path], &[]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let body: Value = serde_json::from_str(&stdout).unwrap();
    let documents = body["documents"].as_array().unwrap();
    let names: Vec<_> = documents
        .iter()
        .map(|document| document["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "list", "list/1", "list/2"]);
    assert!(documents[1]["value"].is_null(), "{stdout}");

    let (code, _, stderr) = outcome(chancery(&["convert", "--write", path], &[]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let first = std::fs::read_to_string(folder.path().join("routes/a.json")).unwrap();
    let first: Value = serde_json::from_str(&first).unwrap();
    let expected = serde_json::json!({ "match": "GET /a/*", "to": "http://10.0.0.1:80", "timeout": "3s" });
    assert_eq!(first, expected);
    assert!(!folder.path().join("routes/list.yaml").exists());
    assert!(folder.path().join("routes/list/2.yaml").exists());
    let (code, stdout, _) = outcome(chancery(&["check", path], &[]));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "5 documents: 5 accepted, 2 with warnings\n")
    );

    std::fs::write(folder.path().join("routes/z.json"), older("/{id}")).unwrap();
    let (code, stdout, stderr) = outcome(chancery(&["convert", path], &[]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("routes/z: path: \"/{id}\""), "{stderr}");
}

#[test]
fn schema_prints_kinds_fields_and_all_of_them() {
    let schema = |path: &str| {
        let (code, stdout, stderr) = outcome(chancery(&["schema", path], &[]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{path}");
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    assert_eq!(
        schema("clusters.lb.ring.min"),
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "clusters.lb.ring.min",
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": 8_388_608,
            "description": "Least entries of the ring. Default: 1024",
            "default": 1024,
        })
    );
    let (_, stdout, _) = outcome(chancery(&["schema"], &[]));
    let all: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(all["$defs"]["groups"]["required"], serde_json::json!(["match"]));
    assert_eq!(all["$defs"]["groups"], {
        let mut groups = schema("groups");
        let fields = groups.as_object_mut().unwrap();
        fields.retain(|name, _| !["$schema", "title"].contains(&name.as_str()));
        groups
    });
}

#[test]
fn schema_of_an_unknown_field_is_wrong_usage() {
    let (code, stdout, stderr) = outcome(chancery(&["schema", "routes.timout"], &[]));
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert_eq!(
        stderr,
        "chancery: routes.timout: unknown field \"timout\", did you mean \"timeout\"?\n"
    );
    let (code, stdout, _) = outcome(chancery(&["schema", "-o", "table", "clusters.keepalive.ping"], &[]));
    assert_eq!(code, Some(0));
    assert!(
        stdout.contains("interval  duration  \"30s\"    Between two PING frames"),
        "{stdout}"
    );
}

/// Run a verb against a server.
async fn on(server: &Server, arguments: &[&str]) -> (Option<i32>, String, String) {
    let address = server.admin().to_string();
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let run = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        outcome(chancery(&arguments, &[("CHANCERY_SERVER", &address)]))
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The newest change.
async fn newest_of(server: &Server) -> String {
    let newest = done(server, &["history", "-o", "name", "--limit", "1"]).await;
    newest.trim().to_owned()
}

/// The stdout of a verb that must succeed.
async fn done(server: &Server, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = on(server, arguments).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}: {stdout}");
    stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_written_shown_explained_and_deleted_by_verbs() {
    let documents = tempfile::tempdir().unwrap();
    let server = Server::start(&["--dir", documents.path().to_str().unwrap()]).await;
    server.ready().await;
    let files = folder(&[
        ("listeners/edge.yaml", "address: 0.0.0.0:10000\n"),
        ("clusters/orders-v1.yaml", "endpoints: [{address: '10.0.0.1:80'}]\n"),
        ("clusters/orders-v2.json", "{}"),
        (
            "routes/orders.json",
            r#"{"match": "/v1/orders/*", "to": [{"cluster": "orders-v1", "weight": 95}, {"cluster": "orders-v2", "weight": 5}]}"#,
        ),
    ]);
    let path = files.path().to_str().unwrap();
    let applied = done(&server, &["apply", path, "-m", "first"]).await;
    assert!(applied.contains("4 of 4 documents changed"), "{applied}");
    let again = done(&server, &["apply", "-f", path]).await;
    assert!(again.starts_with("nothing changed: 4 documents"), "{again}");

    assert_eq!(
        done(&server, &["get", "clusters", "-o", "name"]).await,
        "clusters/orders-v1\nclusters/orders-v2\n"
    );
    let table = done(&server, &["get", "routes"]).await;
    assert!(
        table.contains("DOCUMENT") && table.contains("routes/orders  accepted"),
        "{table}"
    );
    let one: Value = serde_json::from_str(&done(&server, &["get", "routes/orders", "-o", "json"]).await).unwrap();
    assert_eq!(one["value"]["to"][0]["weight"], 95);

    let moved = done(&server, &["weight", "orders", "orders-v2=100", "--wait"]).await;
    assert!(
        moved.contains("orders-v2 5 % -> 100 %") && moved.contains("orders-v1 95 % -> 0 %"),
        "{moved}"
    );
    assert!(moved.contains("serves; no proxy is connected"), "{moved}");
    let status = done(&server, &["status"]).await;
    assert!(status.contains("routes/orders  to: orders-v2 5 % -> 100 %"), "{status}");
    let request = "curl -X POST http://api.example.com/v1/orders/7 -H 'x-a: 1'";
    let explained = done(&server, &["explain", request]).await;
    assert!(
        explained.starts_with("503 no_healthy_upstream (UH)   group default, revision"),
        "{explained}"
    );
    assert!(
        explained.contains("/v1/orders/*  changed ")
            && explained.contains("orders-v2 -> /v1/orders/7")
            && explained.contains("0 endpoints: none below services/orders-v2/"),
        "{explained}"
    );
    let newest = done(&server, &["history", "-o", "name", "--limit", "2"]).await;
    let before = newest.lines().nth(1).expect("two changes");
    let earlier = done(&server, &["explain", "--revision", before, request]).await;
    assert!(earlier.starts_with("forwarded"), "{earlier}");
    let words = done(
        &server,
        &["explain", "-o", "name", "POST", "api.example.com/v1/orders/7"],
    )
    .await;
    assert_eq!(words, "routes/orders\n");

    let drained = done(&server, &["drain", "orders-v1/10.0.0.1:80"]).await;
    assert!(drained.starts_with("orders-v1/10.0.0.1:80: drains"), "{drained}");
    let cluster = done(&server, &["xds", "clusters", "orders-v1"]).await;
    assert!(
        cluster.starts_with("# made of clusters/orders-v1\n{") && cluster.contains("\"orders-v1\""),
        "{cluster}"
    );
    done(&server, &["undrain", "orders-v1/10.0.0.1:80", "-q"]).await;
    assert!(done(&server, &["xds"]).await.contains("clusters"));
    assert!(done(&server, &["ps"]).await.starts_with("no proxy is connected"));

    let exported = tempfile::tempdir().unwrap();
    let export = exported.path().join("export");
    let export = export.to_str().unwrap();
    assert!(done(&server, &["export", export]).await.starts_with("4 documents"));
    assert!(done(&server, &["import", export]).await.starts_with("nothing changed"));

    // Documents without a file go only if their pattern is given, and nobody is asked only with --yes.
    std::fs::remove_file(files.path().join("clusters/orders-v2.json")).unwrap();
    std::fs::remove_file(files.path().join("routes/orders.json")).unwrap();
    let kept = done(&server, &["apply", path]).await;
    assert!(!kept.contains("removed"), "{kept}");
    let (code, _, reason) = on(&server, &["apply", path, "--prune", "*"]).await;
    assert!(code == Some(2) && reason.contains("expected --yes"), "{reason}");
    let pruned = done(
        &server,
        &["apply", path, "--prune", "routes/*", "--yes", "--wait", "30s"],
    )
    .await;
    assert!(
        pruned.contains("removed  routes/orders") && !pruned.contains("clusters/orders-v2"),
        "{pruned}"
    );
    let left = done(&server, &["get", "-o", "name"]).await;
    assert_eq!(left, "clusters/orders-v1\nclusters/orders-v2\nlisteners/edge\n");
    let back = done(&server, &["rollback", newest_of(&server).await.as_str(), "--yes"]).await;
    assert!(
        back.contains("+ routes/orders") && back.contains("serves; no proxy is connected"),
        "{back}"
    );
    assert!(done(&server, &["rollout", "status"]).await.contains("serves"));
    assert!(done(&server, &["rollout", "history"]).await.contains("undoes"));
    done(&server, &["delete", "routes/orders"]).await;
    let imported = done(&server, &["import", export]).await;
    assert!(
        imported.contains("of 4 documents changed") && imported.contains("added    routes/orders"),
        "{imported}"
    );
}

#[tokio::test]
async fn a_change_is_told_taken_back_waited_for_and_frozen_by_verbs() {
    let documents = tempfile::tempdir().unwrap();
    let server = Server::start(&["--dir", documents.path().to_str().unwrap()]).await;
    server.ready().await;
    let files = folder(&[(
        "routes/orders.json",
        r#"{"match": "/orders", "to": {"respond": {"status": 200}}}"#,
    )]);
    let path = files.path().to_str().unwrap();
    done(&server, &["apply", path, "-m", "first"]).await;
    let file = files.path().join("routes/orders.json");
    std::fs::write(&file, r#"{"match": "/orders", "to": {"respond": {"status": 404}}}"#).unwrap();
    done(&server, &["apply", path, "-m", "wrong"]).await;

    let diff = done(&server, &["diff"]).await;
    assert!(
        diff.contains("200") && diff.contains("404") && diff.contains("+++"),
        "{diff}"
    );
    let revisions = done(&server, &["history", "routes/orders", "-o", "name"]).await;
    let (wrong, first) = revisions.trim().split_once('\n').expect("two changes");
    let history = done(&server, &["history"]).await;
    assert!(
        history.contains("~ routes/orders") && history.contains("+ routes/orders") && history.contains("wrong"),
        "{history}"
    );
    assert_eq!(done(&server, &["diff", wrong]).await, diff);
    assert_eq!(done(&server, &["diff", &format!("{first}..{wrong}")]).await, diff);
    let resources = done(&server, &["diff", wrong, "--xds"]).await;
    assert!(
        resources.contains("~ routes/") && resources.contains("200 -> 404"),
        "{resources}"
    );

    let status = done(&server, &["status", "--check"]).await;
    assert!(
        status.starts_with(&format!(
            "Revision {wrong}: no proxy is connected.  1 replica, directory ok"
        )) && status.contains("\"wrong\"\n  routes/orders  to.respond.status: 200 -> 404\n"),
        "{status}"
    );
    assert_eq!(done(&server, &["status", "--alive"]).await, "alive\n");
    let waited = done(&server, &["wait", wrong]).await;
    assert!(
        waited.starts_with(&format!("{wrong} serves; no proxy is connected")),
        "{waited}"
    );
    let (code, _, reason) = on(&server, &["wait", "999999", "--timeout", "1s"]).await;
    assert_eq!(code, Some(3), "{reason}");

    let (code, _, reason) = on(&server, &["undo", wrong]).await;
    assert!(code == Some(2) && reason.contains("expected --yes"), "{reason}");
    let (code, _, reason) = on(&server, &["undo", "--yes"]).await;
    assert!(code == Some(2) && reason.contains("without R"), "{reason}");
    let planned = done(&server, &["undo", wrong, "--dry-run"]).await;
    assert!(planned.contains("Risk: ") && planned.contains("changed"), "{planned}");
    let undone = done(&server, &["undo", wrong, "--yes", "-m", "back"]).await;
    assert!(undone.contains("~ routes/orders"), "{undone}");
    let back = done(&server, &["get", "routes/orders", "-o", "json"]).await;
    assert!(back.contains("200") && !back.contains("404"), "{back}");
    let taken_back = done(&server, &["diff"]).await;
    assert!(taken_back.contains("200") && taken_back != diff, "{taken_back}");
    let history = done(&server, &["history"]).await;
    assert!(
        history.contains(&format!("back; undoes {wrong}")) && history.contains("wrong; undone by"),
        "{history}"
    );
    let restored = done(&server, &["restore", wrong, "--yes"]).await;
    assert!(restored.contains("~ routes/orders"), "{restored}");
    let (code, _, reason) = on(&server, &["undo", wrong, "--yes"]).await;
    assert!(
        code == Some(1) && reason.contains("was changed at revision"),
        "{reason}"
    );

    let frozen = done(&server, &["freeze", "/gateway/routes/*", "--for", "30m", "-m", "sale"]).await;
    assert!(frozen.contains("/gateway/routes/* is frozen until"), "{frozen}");
    let (code, _, reason) = on(&server, &["delete", "routes/orders"]).await;
    assert!(code == Some(1) && reason.contains("next: chancery freezes"), "{reason}");
    let freezes = done(&server, &["freezes"]).await;
    assert!(freezes.contains("sale"), "{freezes}");
    let id = done(&server, &["freezes", "-o", "name"]).await;
    done(&server, &["unfreeze", id.trim()]).await;
    assert_eq!(done(&server, &["freezes"]).await, "no freeze\n");
    done(&server, &["delete", "routes/orders"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verb_that_fails_says_the_sentence_and_the_next_command() {
    let documents = tempfile::tempdir().unwrap();
    let server = Server::start(&["--dir", documents.path().to_str().unwrap()]).await;
    server.ready().await;
    let files = folder(&[(
        "routes/users.json",
        "{\n  \"match\": \"/users\",\n  \"timout\": \"5s\"\n}",
    )]);
    let path = files.path().join("routes/users.json");
    let path = path.to_str().unwrap();
    let expected = format!(
        "chancery: {path}:3:3: routes/users: timout: unknown field, did you mean \"timeout\"?\n\
         next: chancery schema -o table routes\n"
    );
    assert_eq!(on(&server, &["apply", path]).await, (Some(1), String::new(), expected));
    let (code, stdout, stderr) = on(&server, &["get", "routes/none"]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(
        stderr,
        "chancery: there is no document routes/none\nnext: chancery get\n"
    );
    assert_eq!(on(&server, &["release"]).await.0, Some(2));
    assert_eq!(on(&server, &["weight", "none", "a"]).await.0, Some(2));
    let token = files.path().join("routes/users.json");
    let arguments = [
        "get",
        "--server",
        "http://10.0.0.1:1",
        "--token-file",
        token.to_str().unwrap(),
    ];
    let (code, _, stderr) = on(&server, &arguments).await;
    assert_eq!(code, Some(2), "{stderr}");

    // The first server is away, the second one answers.
    let both = format!("http://127.0.0.1:1,{}", server.admin());
    assert_eq!(on(&server, &["get", "-q", "--server", &both]).await.0, Some(0));
    let (code, stdout, stderr) = on(&server, &["get", "--server", "http://127.0.0.1:1"]).await;
    assert_eq!((code, stdout.as_str()), (Some(4), ""));
    assert!(
        stderr.starts_with("chancery: http://127.0.0.1:1 cannot be reached: "),
        "{stderr}"
    );
    // The variable of the verbs is no setting of the server.
    let (_, _, stderr) = on(&server, &["serve", "--grace", "soon"]).await;
    assert!(!stderr.contains("CHANCERY_SERVER"), "{stderr}");
}
