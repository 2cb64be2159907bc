//! A real Envoy rejects the examples that are marked so, with the recorded words, and accepts the others.
//!
//! Envoy reads its resources from files, one of each type, without our server in between. The test replaces a file and
//! reads the result from Envoy's counters and log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::catalogue::{Case, Catalogue, xds};
use crate::support::envoy::Envoy;

/// Until Envoy has read a file.
const LIMIT: Duration = Duration::from_secs(10);
/// Files, and the counters of their updates.
const FILES: [(&str, &str); 7] = [
    ("clusters", "cluster_manager.cds"),
    ("listeners", "listener_manager.lds"),
    ("routes", "http.routes.rds.a"),
    ("endpoints", "cluster.eds"),
    ("ring", "cluster.ring"),
    ("secrets", "sds.a"),
    ("scoped_routes", "http.scopes.scoped_rds.scopes"),
];

#[tokio::test]
async fn envoy_says_the_same_of_every_example() {
    let catalogue = Catalogue::load();
    let asked = Asked::start().await;
    let (mut wrong, mut count) = (Vec::new(), 0);
    for condition in &catalogue.conditions {
        let refused = condition.refused.iter().map(|example| (example, true));
        let accepted = condition.accepted.iter().map(|example| (example, false));
        for (example, is_refused) in refused.chain(accepted).filter(|(example, _)| example.unasked.is_none()) {
            count += 1;
            let case = catalogue.case(condition, example);
            let answer = asked.about(&case, example.of.as_deref()).await;
            let right = match (&answer, is_refused) {
                (None, is_refused) => !is_refused,
                (Some(words), true) => case.envoy.iter().any(|part| !part.is_empty() && words.contains(part)),
                (Some(_), false) => false,
            };
            if !right {
                wrong.push(format!(
                    "{} of {}\n  {}",
                    condition.id,
                    case.resource,
                    answer.as_deref().unwrap_or("accepted")
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// An Envoy and the files that it reads.
pub(super) struct Asked {
    pub(super) envoy: Envoy,
    files: TempDir,
}

impl Asked {
    pub(super) async fn start() -> Self {
        let files = tempfile::tempdir().expect("make a folder");
        for (file, _) in FILES {
            let initial = match file {
                "clusters" | "listeners" | "scoped_routes" => json!([]),
                "endpoints" | "ring" => json!([{ "@type": url("endpoints"), "cluster_name": "a" }]),
                "secrets" => json!([{ "@type": url(file), "name": "a", "tls_certificate": certificate() }]),
                _ => json!([{ "@type": url(file), "name": "a" }]),
            };
            write(files.path(), file, &initial);
        }
        let envoy = Envoy::start_with(&bootstrap(files.path()).to_string(), "asked").await;
        envoy.ready().await;
        Self { envoy, files }
    }

    /// The error of Envoy for an example; `None` if Envoy accepts it.
    pub(super) async fn about(&self, case: &Case, of: Option<&str>) -> Option<String> {
        let mut together = Vec::new();
        let mut clusters = Vec::new();
        for (key, document) in &case.beside {
            match (xds(key), key.strip_prefix("clusters/")) {
                (Some((word, _)), _) if word == case.resource_type => together.push(document["resource"].clone()),
                // The bootstrap has it.
                (_, Some("static")) => {}
                (_, Some(name)) => clusters.push(json!({ "@type": url("clusters"), "name": name })),
                _ => {}
            }
        }
        together.push(case.resource.clone());
        let file = of.unwrap_or(&case.resource_type);
        let words = match file {
            "clusters" => {
                clusters.extend(together);
                self.push(file, &json!(clusters)).await
            }
            "endpoints" | "ring" => self.push(file, &json!(together)).await,
            file => {
                if !clusters.is_empty() {
                    assert_eq!(self.push("clusters", &json!(clusters)).await, None);
                }
                self.push(file, &json!(together)).await
            }
        };
        for file in ["clusters", "listeners", "scoped_routes"] {
            if file == case.resource_type || (file == "clusters" && !case.beside.is_empty()) {
                self.push(file, &json!([])).await;
            }
        }
        words
    }

    async fn push(&self, file: &str, resources: &Value) -> Option<String> {
        let (before, logged) = (self.counts(file).await, self.envoy.log().len());
        write(self.files.path(), file, resources);
        let deadline = Instant::now() + LIMIT;
        loop {
            let counts = self.counts(file).await;
            if counts.0 > before.0 {
                return None;
            }
            let log = self.envoy.log();
            let words = log.get(logged..).unwrap_or_default();
            if counts.1 > before.1 {
                return Some(words.to_owned());
            }
            assert!(Instant::now() < deadline, "Envoy does not read {resources}: {words}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Number of accepted and rejected updates of the file.
    async fn counts(&self, file: &str) -> (u64, u64) {
        let (_, prefix) = FILES
            .iter()
            .find(|(name, _)| *name == file)
            .unwrap_or_else(|| panic!("no file {file}"));
        let stats = self
            .envoy
            .stats(&format!(
                "{}.update_(success|rejected|failure)$",
                prefix.replace('.', "\\.")
            ))
            .await;
        let sum = |ends: &[&str]| {
            stats
                .iter()
                .filter(|(name, _)| ends.iter().any(|end| name.ends_with(end)))
                .map(|(_, n)| n)
                .sum()
        };
        (sum(&["success"]), sum(&["rejected", "failure"]))
    }
}

fn url(word: &str) -> &'static str {
    chancery::resource::ResourceType::from_word(word)
        .expect("a type")
        .type_url()
}

fn certificate() -> Value {
    let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("a certificate");
    let inline = |text: String| json!({ "inline_string": text });
    json!({ "certificate_chain": inline(made.cert.pem()), "private_key": inline(made.signing_key.serialize_pem()) })
}

/// In one step, as Envoy wants it.
fn write(folder: &Path, file: &str, resources: &Value) {
    let path = folder.join(format!("{file}.json"));
    let text = json!({ "version_info": "1", "resources": resources }).to_string();
    fs::write(path.with_extension("new"), text).expect("write the resources");
    fs::rename(path.with_extension("new"), path).expect("put them in place");
}

fn bootstrap(folder: &Path) -> Value {
    let from = |file: &str| {
        let path = folder.join(format!("{file}.json"));
        json!({ "path_config_source": { "path": path }, "resource_api_version": "V3" })
    };
    let router = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" });
    let listener = |prefix: &str, field: &str, routes: Value| {
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": prefix, field: routes, "http_filters": [{ "name": "router", "typed_config": router }],
        });
        json!({
            "name": prefix,
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
            "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": manager }] }],
        })
    };
    let scopes = json!({
        "name": "scopes", "rds_config_source": { "ads": {} }, "scoped_rds": { "scoped_rds_config_source": from("scoped_routes") },
        "scope_key_builder": { "fragments": [{ "header_value_extractor": { "name": "x", "element": { "key": "a", "separator": "=" } } }] },
    });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": "a", "sds_config": from("secrets") }] },
    });
    let eds = |file: &str| json!({ "service_name": "a", "eds_config": from(file) });
    json!({
        "node": { "cluster": "asked" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
        "dynamic_resources": {
            // No server answers there: the sources over a stream exist, and have no resources yet.
            "ads_config": { "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": "static" } }] },
            "cds_config": from("clusters"), "lds_config": from("listeners"),
        },
        "static_resources": {
            "listeners": [
                listener("routes", "rds", json!({ "route_config_name": "a", "config_source": from("routes") })),
                listener("scopes", "scoped_routes", scopes),
            ],
            "clusters": [
                { "name": "static", "type": "STATIC" },
                { "name": "eds", "type": "EDS", "eds_cluster_config": eds("endpoints") },
                { "name": "ring", "type": "EDS", "lb_policy": "RING_HASH", "eds_cluster_config": eds("ring") },
                { "name": "secrets", "type": "STATIC", "transport_socket": { "name": "tls", "typed_config": tls } },
            ],
        },
    })
}
