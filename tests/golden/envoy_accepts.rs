//! Envoy accepts all compiled resources.

use std::fs;
use std::process::Command;

use super::bootstrap;
use super::inputs::{compile, compiled, names};
use super::support::tools;

/// The error of Envoy for a bootstrap; `None` if Envoy accepts it.
fn refusal(bootstrap: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = folder.path().join("envoy.yaml");
    fs::write(&path, bootstrap).expect("write the bootstrap");
    let mut command = Command::new(tools::binary("envoy"));
    command
        .args(["--mode", "validate", "--log-level", "error", "--config-path"])
        .arg(&path);
    let output = command.output().expect("run Envoy");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn envoy_takes_the_resources_of_every_input() {
    let mut refused = Vec::new();
    for name in names() {
        let compiled = compiled(&name);
        for group in compiled.groups() {
            if let Some(reason) = refusal(&bootstrap::of_group(&compiled, group)) {
                refused.push(format!("{name}, group {group}: {reason}"));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn envoy_refuses_a_bad_resource_so_the_test_above_can_fail() {
    let compiled = compile(r#"{ "routes/a": { "match": "/a", "to": { "respond": { "status": 200 } } } }"#);
    let bootstrap = bootstrap::of_group(&compiled, "default").replace("\"status\":200", "\"status\":99");
    assert!(refusal(&bootstrap).is_some_and(|reason| reason.contains("Status")));
}
