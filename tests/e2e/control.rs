//! The control: the same load must show failures against an Envoy that gets its updates in the wrong order, and none in
//! the right order.
//!
//! There is no server of ours: Envoy reads its resources from files. A cluster is renamed again and again. The test
//! proves that the load shows the failures if the old cluster is removed before its route has moved.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::{Clients, Load, Report};
use crate::support::envoy::{Envoy, own_address};
use crate::support::eventually::eventually;
use crate::support::upstream::Upstream;
use crate::world::quiet;

/// How often the cluster is renamed.
const RENAMES: usize = 20;
/// Until Envoy has read a file.
const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_removed_before_its_route_moved_shows_as_failures() {
    let _quiet = quiet().await;
    let wrong = renames(Order::ClusterFirst).await;
    println!("control, cluster removed before its route moved: {wrong}");
    assert!(wrong.failures > 0, "the load does not notice the wrong order");
    let right = renames(Order::MakeBeforeBreak).await;
    println!("control, make before break: {right}");
    assert_eq!((right.failures, right.reconnects), (0, 0), "{right}");
}

enum Order {
    /// Old cluster away, new one there, route moved.
    ClusterFirst,
    /// Old and new cluster there, route moved, old cluster away.
    MakeBeforeBreak,
}

async fn renames(order: Order) -> Report {
    let upstream = Upstream::start("only").await;
    let files = Files::new(&upstream);
    files.clusters(&["name-0"]);
    files.route("name-0");
    let envoy = Envoy::start_with(&files.bootstrap(), "control").await;
    envoy.ready().await;
    let load = Load::start(files.address, "any.example.com", "/", Clients::default());
    load.reach(500).await;
    for n in 0..RENAMES {
        let (old, new) = (format!("name-{n}"), format!("name-{}", n + 1));
        if let Order::MakeBeforeBreak = order {
            files.clusters(&[&old, &new]);
            eventually(LIMIT, || has_cluster(&envoy, &new), true).await;
            files.route(&new);
            eventually(LIMIT, || routed_to(&envoy), new.clone()).await;
            files.clusters(&[&new]);
        } else {
            files.clusters(&[&new]);
            eventually(LIMIT, || has_cluster(&envoy, &new), true).await;
            files.route(&new);
            eventually(LIMIT, || routed_to(&envoy), new.clone()).await;
        }
        eventually(LIMIT, || has_cluster(&envoy, &old), false).await;
    }
    load.stop().await
}

async fn has_cluster(envoy: &Envoy, name: &str) -> bool {
    envoy.hosts(name).await.is_some()
}

async fn routed_to(envoy: &Envoy) -> String {
    let tables = envoy.config_dump("dynamic_route_configs").await;
    let cluster = &tables[0]["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"];
    cluster.as_str().unwrap_or_default().to_owned()
}

/// Envoy's resources as files, each replaced whole.
struct Files {
    folder: TempDir,
    address: std::net::SocketAddr,
    upstream: std::net::SocketAddr,
}

impl Files {
    fn new(upstream: &Upstream) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let files = Self {
            folder,
            address: own_address(),
            upstream: upstream.address(),
        };
        files.write("lds", &files.listener());
        files
    }

    fn clusters(&self, names: &[&str]) {
        let cluster = |name: &&str| {
            let endpoint = json!({ "endpoint": { "address": socket(self.upstream) } });
            json!({
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": name,
                "type": "STATIC",
                "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
            })
        };
        self.write(
            "cds",
            &json!({ "resources": names.iter().map(cluster).collect::<Vec<_>>() }),
        );
    }

    fn route(&self, cluster: &str) {
        let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }]);
        let table = json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            "name": "table",
            "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }],
        });
        self.write("rds", &json!({ "resources": [table] }));
    }

    fn listener(&self) -> Value {
        let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "control",
            "rds": { "route_config_name": "table", "config_source": self.source("rds") },
            "http_filters": [{ "name": "router", "typed_config": { "@type": router } }],
        });
        let listener = json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": "control",
            "address": socket(self.address),
            "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
        });
        json!({ "resources": [listener] })
    }

    fn bootstrap(&self) -> String {
        let admin = json!({ "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } });
        let sources = json!({ "cds_config": self.source("cds"), "lds_config": self.source("lds") });
        json!({ "node": { "cluster": "control" }, "admin": admin, "dynamic_resources": sources }).to_string()
    }

    fn source(&self, name: &str) -> Value {
        let path = self.path(name);
        json!({ "path_config_source": { "path": path }, "resource_api_version": "V3" })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name).with_extension("json")
    }

    /// Envoy watches for moves.
    fn write(&self, name: &str, resources: &Value) {
        let path = self.path(name);
        let fresh: &Path = &path.with_extension("new");
        fs::write(fresh, resources.to_string()).expect("write a file");
        fs::rename(fresh, &path).expect("move a file");
    }
}

fn socket(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
