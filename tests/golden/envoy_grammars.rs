//! Envoy reports the program sizes of regexes in `tests/data/re2_program_sizes.json`; unit tests compute the same
//! sizes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::support::tools;

/// A bootstrap whose routes have these regexes; Envoy logs the program size of each as a warning.
fn bootstrap<'a>(patterns: impl Iterator<Item = &'a String>) -> String {
    let routes: Vec<_> = patterns
        .map(|pattern| json!({ "match": { "safe_regex": { "regex": pattern } }, "direct_response": { "status": 200 } }))
        .collect();
    let router = json!({
        "name": "router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "a",
        "http_filters": [router],
        "route_config": { "virtual_hosts": [{ "name": "a", "domains": ["*"], "routes": routes }] },
    });
    let listener = json!({
        "name": "a",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
    });
    let limits = json!({ "re2.max_program_size.error_level": 100_000_000, "re2.max_program_size.warn_level": 0 });
    json!({
        "layered_runtime": { "layers": [{ "name": "limits", "static_layer": limits }] },
        "static_resources": { "listeners": [listener] },
    })
    .to_string()
}

#[test]
fn regexes_have_the_program_sizes_that_envoy_says() {
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/re2_program_sizes.json");
    let known = fs::read_to_string(known).expect("read the known sizes");
    let known: BTreeMap<String, u32> = serde_json::from_str(&known).expect("an object of sizes");
    let folder = tempfile::tempdir().expect("make a folder");
    let path = folder.path().join("envoy.json");
    fs::write(&path, bootstrap(known.keys())).expect("write the bootstrap");
    let mut command = Command::new(tools::binary("envoy"));
    command
        .args(["--mode", "validate", "--log-level", "warn", "--config-path"])
        .arg(&path);

    let output = command.output().expect("run Envoy");

    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let wrong: Vec<String> = known
        .iter()
        .map(|(pattern, size)| format!("regex '{pattern}' RE2 program size of {size} >"))
        .filter(|line| !log.contains(line))
        .collect();
    assert!(wrong.is_empty(), "Envoy does not say:\n{}", wrong.join("\n"));
}
