//! The admin API over a real socket: a store in memory, a world planned from it, snapshots built of resources.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use chancery::admin::pending::PendingWrites;
use chancery::admin::readiness::Readiness;
use chancery::admin::{self, Admin};
use chancery::backend::memory::Memory;
use chancery::backend::{Backend, Event, ListReason, Problem};
use chancery::document::key::{DocumentKey, Kind, Layout, Root};
use chancery::document::secret::Vault;
use chancery::fleet::limit::Limit;
use chancery::fleet::replicas::Replicas;
use chancery::fleet::{Fleet, Identity, Nonce, Sent, StreamHandle, Suspect, Variant};
use chancery::journal::Journal;
use chancery::journal::book::Limits;
use chancery::reconcile::persist::unsaved::Unsaved;
use chancery::reconcile::plan::{Input, plan};
use chancery::reconcile::run::{Arrivals, Command, Health, now};
use chancery::reconcile::world::{Options, World};
use chancery::resource::compile::{Difference, ResourceChange};
use chancery::resource::{Resource, ResourceType, ResourceVersion};
use chancery::snapshot::steps::{Cause, Mark};
use chancery::snapshot::store::Store;
use chancery::snapshot::version::SetVersion;
use chancery::snapshot::{Facts, Source};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::eventually::eventually;

/// 2026-01-02T03:04:05.678Z
const BUILT_AT: Duration = Duration::from_millis(1_767_323_045_678);

/// The API with its store, snapshots and fleet.
pub(crate) struct Server {
    address: SocketAddr,
    admin: Admin,
    store: Memory,
    world: Arc<ArcSwap<World>>,
    pub(crate) snapshots: Arc<Store>,
    pub(crate) fleet: Fleet,
    commands: mpsc::Receiver<Command>,
    health: watch::Sender<Health>,
    token: CancellationToken,
    running: JoinHandle<std::io::Result<()>>,
    client: Client,
}

/// The journal of a store, without its stage.
fn journal(store: &Memory) -> Journal {
    let (backend, roots) = (Arc::new(store.clone()), vec!["/gateway/".into()]);
    Journal::new(backend, "/chancery/", roots, Vault::default(), Limits::default())
}

/// An answer: status, content type, etag, body.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    content_type: String,
    etag: Option<String>,
    pub(crate) body: Value,
}

impl Server {
    /// With these documents, planned and listed.
    pub(crate) async fn start(documents: &[(&str, &str)]) -> Self {
        let store = Memory::new();
        for (key, value) in documents {
            store.put(key, value.as_bytes().to_vec());
        }
        let options = Options {
            layout: Layout::default(),
            confirm_mass_loss: false,
            has_leases: true,
            re2_max_program_size: 100,
            ca_bundle: None,
            access_log_dir: "/var/log".into(),
            vault: Vault::default(),
        };
        let world = Arc::new(ArcSwap::from_pointee(World::new(options)));
        let (commands_in, commands) = mpsc::channel(8);
        let (health, health_out) = watch::channel(Health {
            ready: true,
            pending: Vec::new(),
            stale_since: None,
        });
        let (snapshots, token) = (Arc::new(Store::default()), CancellationToken::new());
        let fleet = Fleet::default();
        let admin = Admin {
            pending: PendingWrites::new("/chancery/"),
            arrivals: Arrivals::default(),
            answers: admin::Answers::new(Arc::clone(fleet.reached())),
            hosts: Arc::new(["chancery.internal".to_owned()]),
            world: Arc::clone(&world),
            snapshots: Arc::clone(&snapshots),
            fleet: fleet.clone(),
            replicas: Replicas::new("chancery-1"),
            advertised: None,
            backend: Arc::new(store.clone()),
            commands: commands_in,
            readiness: Readiness::new(health_out, Unsaved::default(), CancellationToken::new()),
            max_txn_ops: 128,
            metrics: Arc::default(),
            journal: journal(&store),
            earlier: admin::Earlier::default(),
            confirms: admin::confirm::Waiting::default(),
            freezes: admin::Freezes::default(),
            events: admin::Events::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(admin::serve(listener, admin.clone(), token.clone()));
        let client = Client::new();
        let server = Self {
            address,
            admin,
            store,
            world,
            snapshots,
            fleet,
            commands,
            health,
            token,
            running,
            client,
        };
        server.read_again().await;
        server
    }

    /// One turn of the reconcile loop after an event of the store: list, plan, publish.
    pub(crate) async fn read_again(&self) {
        let mut inputs = Vec::new();
        for root in [Root::Documents, Root::Registrations] {
            let (revision, entries) = self.store.list(Layout::default().prefix_of(&root)).await.unwrap();
            inputs.push(Input::Event {
                root,
                event: Event::Listed {
                    revision,
                    reason: ListReason::Start,
                    entries,
                },
            });
        }
        let moment = now();
        let planned = plan(&self.world.load(), inputs, moment);
        self.publish(&planned.difference, planned.world.revision());
        self.world.store(Arc::new(planned.world));
    }

    fn publish(&self, difference: &Difference, revision: i64) {
        self.publish_for(difference, revision, None);
    }

    /// Publish a change of the cluster `users` by a document.
    fn change_cluster(&self, revision: i64) {
        let resource = Resource::new("users", revision.to_string(), Vec::new());
        let difference = Difference {
            resources: vec![change(ResourceType::Cluster, resource)],
            ..Difference::default()
        };
        let cause = Cause {
            revisions: vec![revision],
            documents: None,
        };
        self.publish_for(&difference, revision, Some(cause));
    }

    fn cluster_mark(&self) -> Mark {
        self.snapshots.current().groups["default"].marks()[ResourceType::Cluster.index()]
    }

    fn publish_for(&self, difference: &Difference, revision: i64, cause: Option<Cause>) {
        let facts = Facts {
            revisions: Arc::new([("/gateway/".to_owned(), revision)].into()),
            revision,
            built_at: if cause.is_some() {
                SystemTime::now()
            } else {
                SystemTime::UNIX_EPOCH + BUILT_AT
            },
            source: Source::Memory,
            stale: false,
            withhold_removals: false,
            group_rules: Arc::new([]),
            cause,
        };
        self.snapshots
            .publish(Arc::new(self.snapshots.current().next(difference, facts)));
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Answer {
        let mut request = self
            .client
            .request(method, format!("http://{}{path}", self.address))
            .body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let (status, content_type, etag) = (
            response.status(),
            header("content-type").unwrap_or_default(),
            header("etag"),
        );
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer {
            status,
            content_type,
            etag,
            body,
        }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.request(Method::GET, path, &[], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        answer.body
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.request(Method::PUT, path, headers, body).await
    }

    async fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::DELETE, path, headers, "").await
    }

    async fn stored(&self, key: &str) -> Option<String> {
        let entry = self.store.get(key.as_bytes()).await.unwrap();
        entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    }
}

/// Asserts a problem+json of this status and code, and returns its detail.
fn problem(answer: &Answer, status: StatusCode, code: &str) -> String {
    let mut body = answer.body.clone();
    let fields: Vec<String> = body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        fields,
        [
            "code",
            "detail",
            "key",
            "path",
            "request_id",
            "retryable",
            "status",
            "title",
            "type"
        ]
    );
    let found = (
        answer.status,
        answer.content_type.as_str(),
        body["code"].as_str().unwrap(),
        body["status"].as_u64(),
    );
    assert_eq!(
        found,
        (status, "application/problem+json", code, Some(status.as_u16().into())),
        "{answer:?}"
    );
    body["detail"].take().as_str().unwrap().to_owned()
}

/// One resource of the group `default`.
fn change(resource_type: ResourceType, resource: Resource) -> ResourceChange {
    let name = Arc::clone(&resource.name);
    ResourceChange {
        group: "default".into(),
        resource_type,
        name,
        resource: Some(Arc::new(resource)),
    }
}

/// A delta stream of this node, of the group `default`.
fn connect(fleet: &Fleet, node_id: &str) -> StreamHandle {
    fleet.connect(identity(node_id))
}

fn identity(node_id: &str) -> Identity {
    Identity {
        node_id: node_id.into(),
        node_cluster: "edge".into(),
        user_agent: "envoy".into(),
        version: Some((1, 40, 0)),
        group: "default".into(),
        has_zone: false,
        lacks_slots: false,
        address: Some(([10, 0, 0, 9], 40_000).into()),
        variant: Variant::Delta,
        aggregated: true,
        connected_at: SystemTime::UNIX_EPOCH + BUILT_AT,
    }
}

fn sent(version: u128, sequence: u64) -> Sent {
    Sent {
        version: SetVersion(version),
        nonce: Some(Nonce::new(0xa, sequence)),
        at: SystemTime::UNIX_EPOCH + BUILT_AT,
    }
}

const CLUSTER: &str = r#"{"endpoints": [{"address": "10.0.0.1:8080"}]}"#;
const ROUTE: &str = r#"{"match": "/v1/users", "to": "users"}"#;

#[tokio::test]
async fn a_zone_aware_cluster_has_a_warning_while_no_proxy_reports_its_zone() {
    let zone_aware = CLUSTER.replace("}]", r#"}], "lb": {"locality": "zone_aware"}"#);
    let server = Server::start(&[("/gateway/clusters/users", &zone_aware)]).await;
    let path = "/api/v1/documents/clusters/users";
    assert_eq!(server.get(path).await["warnings"], json!([]));
    let _proxy = connect(&server.fleet, "edge-1");
    let warning =
        "lb.locality: zone_aware has no effect, because no connected proxy reports its zone (node.locality.zone)";
    assert_eq!(server.get(path).await["warnings"], json!([warning]));
    let documents = server.get("/api/v1/documents?kind=clusters").await;
    assert_eq!(documents["documents"][0]["warnings"], json!([warning]));
}

#[tokio::test]
async fn the_index_names_every_endpoint() {
    let server = Server::start(&[]).await;
    let index = server.get("/").await;
    for endpoint in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/documents",
        "/api/v1/clients/NODE",
        "/api/v1/release",
        "/api/v1/explain",
    ] {
        assert!(index.as_str().unwrap().contains(endpoint), "{endpoint}");
    }

    let page = include_str!("../../docs/api.md");
    let requests: Vec<String> = index
        .as_str()
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(format!(
                "{} {}",
                words.next()?,
                words.next().filter(|path| path.starts_with('/'))?
            ))
        })
        .collect();
    let missing: Vec<&String> = requests
        .iter()
        .filter(|request| !page.contains(&format!("[`{request}`]")))
        .collect();
    assert!(
        requests.len() > 10 && missing.is_empty(),
        "not in docs/api.md: {missing:?}"
    );
}

#[tokio::test]
async fn ready_is_what_the_loop_says() {
    let server = Server::start(&[]).await;
    assert_eq!(server.get("/healthz").await, json!({ "status": "ok" }));
    assert_eq!(
        server.get("/readyz").await,
        json!({ "ready": true, "pending": [], "stale_since": null })
    );
    let pending = vec!["etcd: first list".to_owned()];
    let stale_since = Some(SystemTime::UNIX_EPOCH + BUILT_AT);
    server.health.send_replace(Health {
        ready: false,
        pending,
        stale_since,
    });
    let answer = server.request(Method::GET, "/readyz", &[], "").await;
    let expected =
        json!({ "ready": false, "pending": ["etcd: first list"], "stale_since": "2026-01-02T03:04:05.678Z" });
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::SERVICE_UNAVAILABLE, expected)
    );
}

#[tokio::test]
async fn a_snapshot_is_shown_in_figures_by_type_and_by_name() {
    let server = Server::start(&[]).await;
    let empty = server.get("/api/v1/snapshot/secrets").await["resources"].clone();
    assert_eq!(empty, json!([]));
    let runtime = Resource::new(
        "http://10.0.0.1:80/x",
        [].as_slice(),
        vec![DocumentKey::new(Kind::Runtime, "base")],
    );
    let version = runtime.version.to_string();
    let difference = Difference {
        resources: vec![change(ResourceType::Runtime, runtime)],
        ..Difference::default()
    };
    server.publish(&difference, 17);

    let overview = server.get("/api/v1/snapshot").await;
    let group = &overview["groups"]["default"];
    let figures = (
        &group["revision"],
        &group["revisions"],
        &group["built_at"],
        &group["source"],
        &group["types"]["runtime"]["count"],
    );
    assert_eq!(
        figures,
        (
            &json!(17),
            &json!({ "/gateway/": 17 }),
            &json!("2026-01-02T03:04:05.678Z"),
            &json!("memory"),
            &json!(1)
        )
    );
    let types: Vec<&String> = group["types"].as_object().unwrap().keys().collect();
    let mut expected = ResourceType::ALL.map(ResourceType::as_str);
    expected.sort_unstable();
    assert_eq!(types, expected);

    let entry = json!({
        "name": "http://10.0.0.1:80/x",
        "version": version,
        "documents": ["/gateway/runtime/base"],
        "resource": { "@type": "type.googleapis.com/envoy.service.runtime.v3.Runtime" },
    });
    let set_version = group["types"]["runtime"]["version"].clone();
    let expected =
        json!({ "group": "default", "revision": 17, "version": set_version, "resources": [entry], "next": null });
    assert_eq!(server.get("/api/v1/snapshot/runtime?group=default").await, expected);
    assert_eq!(
        server.get("/api/v1/snapshot/runtime/http:%2F%2F10.0.0.1:80%2Fx").await,
        entry
    );
}

#[tokio::test]
async fn of_a_secret_what_is_secret_is_not_shown() {
    let server = Server::start(&[]).await;
    // name: "wildcard", generic_secret: { secret: { inline_string: "hunter2" } }
    let body = b"\x0a\x08wildcard\x2a\x0b\x0a\x09\x1a\x07hunter2".as_slice();
    let resource = Resource::new("wildcard", body, Vec::new());
    server.publish(
        &Difference {
            resources: vec![change(ResourceType::Secret, resource)],
            ..Difference::default()
        },
        3,
    );
    let shown = server.get("/api/v1/snapshot/secrets/wildcard").await;
    let secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let generic = json!({ "secret": { "inline_string": "[redacted]" } });
    assert_eq!(
        shown["resource"],
        json!({ "@type": secret, "name": "wildcard", "generic_secret": generic })
    );
}

#[tokio::test]
async fn clients_are_shown_with_what_they_hold_and_refuse() {
    let server = Server::start(&[]).await;
    let (first, second) = (connect(&server.fleet, "edge-1"), connect(&server.fleet, "edge-2"));
    first.subscribed(ResourceType::Cluster, None);
    first.sent(ResourceType::Cluster, sent(1, 1), false);
    first.acknowledged(ResourceType::Cluster, sent(1, 1), None);
    first.subscribed(ResourceType::Route, Some(&Arc::from(["default".into()])));
    first.sent(ResourceType::Route, sent(2, 2), false);
    first.nacked(ResourceType::Route, &sent(2, 2), 13, "no such filter", 1, vec![]);
    drop(second);

    let at = "2026-01-02T03:04:05.678Z";
    let shown = server.get("/api/v1/clients/edge-1?names=true").await;
    let (one, two) = (format!("{:032x}", 1), format!("{:032x}", 2));
    let expected = json!({
        "stream": first.id(),
        "node": { "id": "edge-1", "cluster": "edge", "user_agent": "envoy", "version": "1.40.0" },
        "group": "default",
        "address": "10.0.0.9:40000",
        "variant": "delta",
        "connected_at": at,
        "gone_at": null,
        "replica": "chancery-1",
        "state": "live",
        "state_since": shown["clients"][0]["state_since"],
        "revision": 0,
        "warnings": [],
        "types": {
            "clusters": {
                "subscribed": "*",
                "sent": { "version": one, "nonce": "0000000a-1", "at": at },
                "acknowledged": { "version": one, "nonce": "0000000a-1", "at": at },
                "refused": null,
            },
            "routes": {
                "subscribed": ["default"],
                "sent": { "version": two, "nonce": "0000000a-2", "at": at },
                "acknowledged": null,
                "refused": { "version": two, "nonce": "0000000a-2", "at": at, "code": 13, "message": "no such filter" },
            },
        },
    });
    assert_eq!(shown, json!({ "clients": [expected], "next": null }));
    let gone_alone = server.get("/api/v1/clients?state=gone").await;
    assert_eq!(gone_alone["clients"].as_array().map(Vec::len), Some(1));
    assert_eq!(gone_alone["clients"][0]["node"]["id"], "edge-2");
    let all = server.get("/api/v1/clients").await;
    let gone: Vec<bool> = all["clients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|client| !client["gone_at"].is_null())
        .collect();
    assert_eq!(gone, [false, true]);
    assert_eq!(
        server.get("/api/v1/clients/edge%2F3").await,
        json!({ "clients": [], "next": null })
    );
}

#[tokio::test]
async fn a_rollout_says_which_proxies_have_a_change() {
    let server = Server::start(&[]).await;
    let (one, two) = (connect(&server.fleet, "edge-1"), connect(&server.fleet, "edge-2"));
    for handle in [&one, &two] {
        handle.subscribed(ResourceType::Cluster, None);
    }
    server.change_cluster(7);
    let mark = server.cluster_mark();
    assert!(one.reaches(ResourceType::Cluster, mark));
    one.converges(mark, server.snapshots.current().groups["default"].marks());

    let shown = server.get("/api/v1/rollout/latest").await;
    assert_eq!(shown["state"], "rolling");
    let behind = &shown["behind"][0];
    let expected = json!({
        "node": "edge-2", "group": "default", "replica": "chancery-1", "state": "rolling", "types": ["clusters"],
        "since": behind["since"], "why": "unacknowledged", "revision": behind["revision"],
    });
    assert_eq!((behind, shown["behind"].as_array().map(Vec::len)), (&expected, Some(1)));

    let suspects = vec![Suspect {
        resource: "users".into(),
        version: ResourceVersion::of(b"users"),
        documents: vec![DocumentKey::new(Kind::Clusters, "users")],
        is_complete: true,
        parts: None,
    }];
    let message = "Error adding/updating cluster(s) users: malformed IP address: x";
    two.nacked(ResourceType::Cluster, &sent(1, 1), 13, message, 1, suspects);
    two.refuses(ResourceType::Cluster, mark);
    let shown = server.get("/api/v1/rollout/7").await;
    let millis = shown["live_after_ms"]["max"].clone();
    let expected = json!({
        "revision": 7,
        "state": "refused",
        "since": "2026-01-02T03:04:05.678Z",
        "complete": true,
        "divergent": false,
        "proxies": {
            "total": 2, "live": 1, "rolling": 0, "behind": 0, "refused": 1, "stalled": 0, "pending": 0, "gone": 0,
        },
        "behind": [],
        "refused": [{
            "node": "edge-2", "group": "default", "replica": "chancery-1", "type": "clusters", "revision": 7,
            "at": "2026-01-02T03:04:05.678Z", "message": message,
            "documents": [{ "key": "/gateway/clusters/users", "path": "endpoints" }],
        }],
        "replicas": [{
            "id": "chancery-1", "version": env!("CARGO_PKG_VERSION"), "admin": null, "revision": 7, "proxies": 2,
            "heard_at": shown["replicas"][0]["heard_at"], "lost": false,
        }],
        "live_after_ms": { "p50": millis, "p99": millis, "max": millis },
    });
    assert_eq!(shown, expected);
    let other = server.get("/api/v1/rollout/latest?group=edge").await;
    assert_eq!(
        (&other["state"], &other["proxies"]["total"]),
        (&json!("live"), &json!(0))
    );

    assert!(two.reaches(ResourceType::Cluster, mark), "the NACK ends");
    assert_eq!(server.get("/api/v1/rollout/latest").await["state"], "live");
    server.change_cluster(12);
    drop(two);
    let shown = server.get("/api/v1/rollout/7").await;
    assert_eq!(
        (&shown["proxies"]["live"], &shown["proxies"]["gone"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(shown["state"], "live", "it went with the change");
    assert_eq!(server.get("/api/v1/rollout/12").await["state"], "rolling");
}

#[tokio::test]
async fn the_status_is_the_newest_change_and_what_waits() {
    let rejected: Vec<(String, String)> = (0..20)
        .map(|number| {
            (
                format!("/gateway/routes/bad-{number}"),
                format!("{{\"match\": \"{}\"}}", "x".repeat(500)),
            )
        })
        .collect();
    let documents: Vec<(&str, &str)> = rejected.iter().map(|(key, text)| (&**key, &**text)).collect();
    let server = Server::start(&documents).await;
    let proxy = connect(&server.fleet, "edge-1");
    proxy.subscribed(ResourceType::Cluster, None);
    server.change_cluster(70);

    let answer = server.request(Method::GET, "/api/v1/status", &[], "").await;
    assert!(answer.body.to_string().len() < 4096, "{}", answer.body);
    let shown = answer.body;
    assert_eq!(
        (&shown["revision"], &shown["rollout"]["state"]),
        (&json!(70), &json!("rolling"))
    );
    assert_eq!(
        (&shown["behind_total"], &shown["proxies"]["rolling"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(shown["behind"][0]["node"], "edge-1");
    assert_eq!(
        (&shown["attention_total"], &shown["attention"][0]["kind"]),
        (&json!(20), &json!("rejected"))
    );
    let listed = shown["attention"].as_array().map_or(0, Vec::len);
    assert!((1..=5).contains(&listed), "{shown}");
    assert_eq!(shown["store"], json!({ "kind": "memory", "ok": true, "since": null }));

    assert!(proxy.reaches(ResourceType::Cluster, server.cluster_mark()));
    assert_eq!(server.get("/api/v1/status").await["rollout"]["state"], "live");
}

/// The events of a connection.
struct Listening {
    response: reqwest::Response,
    text: String,
    /// The id of the last event.
    id: String,
}

impl Listening {
    async fn open(server: &Server, last_event_id: Option<&str>) -> Self {
        let request = server.client.get(format!("http://{}/api/v1/events", server.address));
        let request = match last_event_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (text, id) = (String::new(), String::new());
        Self { response, text, id }
    }

    /// The next event: its name and its data.
    async fn next(&mut self) -> (String, Value) {
        let next = async {
            loop {
                if let Some((event, rest)) = self.text.split_once("\n\n") {
                    let field = |name: &str| {
                        event
                            .lines()
                            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    };
                    let found = field("event").map(|kind| {
                        let id = field("id").unwrap_or_default().to_owned();
                        (
                            kind.to_owned(),
                            serde_json::from_str(field("data").unwrap()).unwrap(),
                            id,
                        )
                    });
                    self.text = rest.to_owned();
                    if let Some((kind, data, id)) = found {
                        self.id = id;
                        return (kind, data);
                    }
                    continue;
                }
                let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.unwrap()
    }

    /// The next event of a name.
    async fn next_of(&mut self, name: &str) -> Value {
        loop {
            let (kind, data) = self.next().await;
            if kind == name {
                return data;
            }
        }
    }
}

#[tokio::test]
async fn events_tell_what_changes_and_resume() {
    let server = Server::start(&[]).await;
    let proxy = connect(&server.fleet, "edge-1");
    proxy.subscribed(ResourceType::Cluster, None);
    let mut events = Listening::open(&server, None).await;

    server.store.put("/gateway/routes/bad", b"{}".to_vec());
    server.read_again().await;
    let document = events.next_of("document").await;
    assert_eq!(
        (&document["key"], &document["state"]),
        (&json!("/gateway/routes/bad"), &json!("rejected"))
    );

    server.change_cluster(70);
    let rollout = loop {
        let rollout = events.next_of("rollout").await;
        if rollout["revision"] == 70 {
            break rollout;
        }
    };
    assert_eq!(
        (&rollout["state"], &rollout["proxies"]["rolling"]),
        (&json!("rolling"), &json!(1))
    );
    let mark = server.cluster_mark();
    proxy.nacked(ResourceType::Cluster, &sent(1, 1), 13, "no", 1, Vec::new());
    proxy.refuses(ResourceType::Cluster, mark);
    let refused = events.next_of("refused").await;
    assert_eq!(
        (&refused["node"], &refused["message"], &refused["ended"]),
        (&json!("edge-1"), &json!("no"), &json!(false))
    );
    assert!(proxy.reaches(ResourceType::Cluster, mark));
    assert_eq!(events.next_of("refused").await["ended"], true);
    let before = events.id.clone();

    let body = json!({ "key": "/gateway/routes/*", "for": "1h", "why": "the fair" }).to_string();
    let json_type = [("content-type", "application/json")];
    let freeze = server.request(Method::POST, "/api/v1/freezes", &json_type, body).await;
    assert_eq!(freeze.status, StatusCode::CREATED);
    let begun = events.next_of("freeze").await;
    assert_eq!((&begun["why"], &begun["ended"]), (&json!("the fair"), &json!(false)));
    let shown = server.get("/api/v1/status").await;
    let kinds = shown["attention"].as_array().unwrap().iter().map(|item| &item["kind"]);
    assert!(kinds.eq(["rejected", "frozen"]), "{shown}");

    let summary = json!({
        "format": 1, "id": "chancery-2", "version": "1", "admin": null, "revision": 70, "revisions": {}, "sets": {},
        "places": [], "behind": [], "refused": [], "gone": [], "back": [], "latencies": [],
    });
    let replicas = &server.admin.replicas;
    replicas.heard(serde_json::from_value(summary).unwrap(), SystemTime::now());
    assert_eq!(events.next_of("replica").await["id"], "chancery-2");
    replicas.ended("chancery-2", SystemTime::now());
    assert_eq!(events.next_of("replica").await["lost"], true);

    // A client that comes back misses nothing, and learns it if the server has forgotten its place.
    let mut again = Listening::open(&server, Some(&before)).await;
    assert_eq!(again.next_of("freeze").await["why"], "the fair");
    let mut other = Listening::open(&server, Some("chancery-1-0000-7")).await;
    assert_eq!(other.next().await.0, "reset");
}

#[tokio::test]
async fn a_cluster_without_endpoints_waits_for_an_operator() {
    let server = Server::start(&[
        ("/gateway/clusters/cart", "{}"),
        ("/gateway/routes/cart", r#"{"match": "/*", "to": "cart"}"#),
    ])
    .await;
    let empty = server.get("/api/v1/status").await["attention"].clone();
    assert_eq!(
        (&empty[0]["kind"], &empty[0]["key"], &empty[1]),
        (&json!("empty"), &json!("/gateway/clusters/cart"), &Value::Null)
    );
    let reason = empty[0]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.starts_with("no instance is registered, and routes/cart names it"),
        "{reason}"
    );
    let metrics = server.get("/metrics").await;
    let is_counted = |line: &str| line == "chancery_clusters_empty 1";
    assert!(metrics.as_str().unwrap().lines().any(is_counted), "{metrics}");
    let cart = server.get("/api/v1/documents/clusters/cart").await;
    assert_eq!(cart["endpoints"], json!({ "total": 0, "healthy": 0, "draining": 0 }));
    assert_eq!(cart["warnings"], json!([reason]));

    let register = |name: &str, text: &str| {
        server
            .store
            .put(&format!("/services/cart/{name}"), text.as_bytes().to_vec())
    };
    register("a", "10.0.0.1:80");
    register("b", r#"{"address": "10.0.0.2:80", "state": "drain"}"#);
    server.read_again().await;
    let cart = server.get("/api/v1/documents/clusters/cart").await;
    assert_eq!(cart["endpoints"], json!({ "total": 2, "healthy": 1, "draining": 1 }));
    assert_eq!(server.get("/api/v1/status").await["attention_total"], 0);
}

#[tokio::test]
async fn a_rollout_can_be_waited_for() {
    let server = Server::start(&[]).await;
    let proxy = connect(&server.fleet, "edge-1");
    proxy.subscribed(ResourceType::Cluster, None);
    let unknown = server.request(Method::GET, "/api/v1/rollout/7", &[], "").await;
    assert_eq!(
        problem(&unknown, StatusCode::NOT_FOUND, "unknown_revision"),
        "there is no revision 7 yet, the newest is 0; ?wait=30s waits for it"
    );

    let waiting = server.request(Method::GET, "/api/v1/rollout/7?wait=20s", &[], "");
    let acting = async {
        server.change_cluster(7);
        tokio::task::yield_now().await;
        assert!(proxy.reaches(ResourceType::Cluster, server.cluster_mark()));
    };
    let (answer, ()) = tokio::join!(waiting, acting);
    assert_eq!((answer.status, &answer.body["state"]), (StatusCode::OK, &json!("live")));

    server.change_cluster(8);
    let over = server
        .request(Method::GET, "/api/v1/rollout/8?wait=20ms", &[], "")
        .await;
    assert_eq!(
        (over.status, &over.body["state"]),
        (StatusCode::ACCEPTED, &json!("rolling"))
    );
    proxy.refuses(ResourceType::Cluster, server.cluster_mark());
    let refused = server.request(Method::GET, "/api/v1/rollout/8?wait=20s", &[], "").await;
    assert_eq!(
        (refused.status, &refused.body["state"]),
        (StatusCode::OK, &json!("refused"))
    );
    for (query, detail) in [
        (
            "wait=61s",
            "query parameter `wait`: found `61s`, expected a time up to 60s, such as 30s",
        ),
        (
            "wait=1s&for=all",
            "query parameter `for`: found `all`, expected live or answered",
        ),
    ] {
        let answer = server
            .request(Method::GET, &format!("/api/v1/rollout/8?{query}"), &[], "")
            .await;
        assert_eq!(problem(&answer, StatusCode::BAD_REQUEST, "invalid_request"), detail);
    }
}

#[tokio::test]
async fn every_replica_answers_for_all() {
    let server = Server::start(&[]).await;
    server.change_cluster(7);
    server.change_cluster(9);
    let other = |revision: i64, live_on: i64, state: Option<&str>| {
        let summary = json!({
            "format": 1, "id": "chancery-2", "version": "0.1.0", "admin": "http://b:18001", "revision": revision,
            "revisions": {}, "sets": {},
            "places": [
                { "group": "default", "live_on": revision, "proxies": 3, "state": null, "since": null },
                { "group": "edge", "live_on": live_on, "proxies": 2, "state": state, "since": 1 },
            ],
            "behind": [{
                "node": "edge-7", "group": "edge", "state": null, "live_on": live_on, "types": ["routes"], "since": 1,
                "why": "warming",
            }],
            "refused": [], "gone": [], "back": [], "latencies": [],
        });
        server
            .admin
            .replicas
            .heard(serde_json::from_value(summary).unwrap(), SystemTime::now());
    };
    let proxies = async |path: &str| {
        let shown = server.get(path).await;
        let of = |name: &str| shown["proxies"][name].as_u64().unwrap();
        (
            shown["state"].as_str().unwrap().to_owned(),
            of("live"),
            of("rolling") + of("behind"),
            of("refused"),
        )
    };
    let (latest, older) = ("/api/v1/rollout/latest", "/api/v1/rollout/8");

    other(7, 7, None);
    assert_eq!(
        proxies(latest).await,
        ("rolling".to_owned(), 0, 5, 0),
        "it does not serve the change yet"
    );
    assert_eq!(server.get(latest).await["behind"][0]["why"], "replica_behind");
    other(9, 7, None);
    assert_eq!(proxies(latest).await, ("rolling".to_owned(), 3, 2, 0));
    assert_eq!(proxies(older).await, ("live".to_owned(), 5, 0, 0));
    other(9, 7, Some("refused"));
    assert_eq!(proxies(latest).await, ("refused".to_owned(), 3, 0, 2));
    other(9, 9, None);
    assert_eq!(proxies(latest).await, ("live".to_owned(), 5, 0, 0));

    server.admin.replicas.ended("chancery-2", SystemTime::now());
    let shown = server.get(latest).await;
    assert_eq!(
        (&shown["state"], &shown["complete"]),
        (&json!("rolling"), &json!(false))
    );
    other(9, 9, None);
    assert_eq!(server.get(latest).await["complete"], true, "it is back");
}

#[tokio::test]
async fn a_document_that_proxies_refuse_says_so() {
    let server = Server::start(&[
        ("/gateway/clusters/users", CLUSTER),
        ("/gateway/clusters/users-2", CLUSTER),
    ])
    .await;
    let refusing = connect(&server.fleet, "edge-1");
    let message = "Error adding/updating cluster(s) users: bad";
    let suspects = || {
        vec![Suspect {
            resource: "users".into(),
            version: ResourceVersion::of(b"users"),
            documents: vec![DocumentKey::new(Kind::Clusters, "users")],
            is_complete: true,
            parts: None,
        }]
    };
    refusing.nacked(ResourceType::Cluster, &sent(1, 1), 13, message, 1, suspects());
    let shown = server.get("/api/v1/documents?state=refused").await;
    let users = json!({
        "key": "/gateway/clusters/users", "kind": "clusters", "name": "users", "state": "refused", "held_by": null,
        "reason": "refused by the proxy edge-1: Error adding/updating cluster(s) users: bad",
        "path": null, "warnings": [], "revision": 1, "serving_revision": 1, "modified_at": null, "by": null, "message": null,
        "endpoints": shown["documents"][0]["endpoints"],
    });
    assert_eq!(shown, json!({ "documents": [users], "next": null }));
    let second = connect(&server.fleet, "edge-2");
    second.nacked(ResourceType::Cluster, &sent(1, 1), 13, message, 1, suspects());
    let reason = server.get("/api/v1/documents/clusters/users").await["reason"].clone();
    assert_eq!(
        reason,
        json!(format!("refused by 2 proxies, edge-1, edge-2: {message}"))
    );
    second.resolve(ResourceType::Cluster, |_| None);
    drop(refusing);
    let reason = server.get("/api/v1/documents/clusters/users").await["reason"].clone();
    assert_eq!(
        reason,
        json!(format!("refused by the proxy edge-1: {message}")),
        "it is gone and remembered"
    );
    let _back = connect(&server.fleet, "edge-1");
    assert_eq!(
        server.get("/api/v1/documents?state=refused").await,
        json!({ "documents": [], "next": null })
    );
}

#[tokio::test]
async fn what_is_not_there_is_told_as_a_problem() {
    let server = Server::start(&[]).await;
    let cases = [
        ("/nothing", "there is no endpoint /nothing; GET / lists them"),
        ("/api/v1/undo", "there is no endpoint /api/v1/undo; GET / lists them"),
        (
            "/api/v1/documents/route/a",
            "there is no kind `route`, expected one of routes, clusters, services, registries, listeners, secrets, policies, groups, runtime, defaults, xds",
        ),
        (
            "/api/v1/documents/routes",
            "`routes` needs a name, /api/v1/documents/routes/NAME",
        ),
        ("/api/v1/documents/defaults", "there is no document defaults"),
        ("/api/v1/documents/defaults/x", "`defaults` has no name"),
        ("/api/v1/documents/routes/a/b", "there is no document routes/a/b"),
        (
            "/api/v1/snapshot/cluster",
            "there is no type `cluster`, expected one of runtime, clusters, endpoints, secrets, extension_configs, listeners, scoped_routes, routes, virtual_hosts",
        ),
        (
            "/api/v1/snapshot/clusters?group=edge",
            "there is no group `edge`, expected one of default",
        ),
        (
            "/api/v1/snapshot/clusters/a%2Fb",
            "the group `default` has no resource `a/b` of type clusters",
        ),
    ];
    for (path, detail) in cases {
        let answer = server.request(Method::GET, path, &[], "").await;
        assert_eq!(problem(&answer, StatusCode::NOT_FOUND, "not_found"), detail, "{path}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_understood_is_refused() {
    let server = Server::start(&[]).await;
    let cases = [
        (
            "/api/v1/documents?state=good",
            "there is no state `good`, expected one of accepted, rejected, shadowed, held, disabled, refused",
        ),
        (
            "/api/v1/documents?kind=route",
            "there is no kind `route`, expected one of routes, clusters, services, registries, listeners, secrets, policies, groups, runtime, defaults, xds",
        ),
        (
            "/api/v1/documents?stat=held",
            "unknown query parameter `stat`, expected state, kind, q, limit, after, revision",
        ),
        (
            "/api/v1/documents/routes/a?rev=1",
            "unknown query parameter `rev`, expected effective, revision",
        ),
        (
            "/api/v1/snapshot/clusters?limit=0",
            "query parameter `limit`: found `0`, expected a number from 1 to 10000",
        ),
        (
            "/api/v1/clients?limit=10001",
            "query parameter `limit`: found `10001`, expected a number from 1 to 10000",
        ),
        (
            "/api/v1/documents?after=routes",
            "query parameter `after`: expected the value of `next` in an answer to the same request",
        ),
        (
            "/api/v1/clients?node=a",
            "unknown query parameter `node`, expected state, group, q, names, limit, after",
        ),
    ];
    for (path, detail) in cases {
        let answer = server.request(Method::GET, path, &[], "").await;
        assert_eq!(
            problem(&answer, StatusCode::BAD_REQUEST, "invalid_request"),
            detail,
            "{path}"
        );
    }
    let answer = server
        .request(Method::GET, "/api/v1/documents/routes/%ff", &[], "")
        .await;
    problem(&answer, StatusCode::BAD_REQUEST, "invalid_request");
    let answer = server.request(Method::POST, "/api/v1/snapshot", &[], "").await;
    let detail = problem(&answer, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    assert_eq!(detail, "POST is not supported on /api/v1/snapshot");
}

impl Server {
    async fn explain(&self, body: Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.request(Method::POST, "/api/v1/explain", &json, body.to_string())
            .await
    }
}

#[tokio::test]
async fn a_request_is_explained_from_the_listener_to_the_endpoints() {
    let route = r#"{
        "match": { "path": "/v1/orders/*", "hosts": ["api.example.com"] }, "to": "orders-v1", "timeout": "3s",
        "rewrite": { "prefix": "/orders/" }, "retry": { "attempts": 2, "on": ["503"] },
        "request_headers": { "set": { "x-from": "edge" }, "remove": ["x-debug"] },
        "policies": [{ "rate_limit": { "requests": 10, "per": "1s" } }],
        "overrides": [{ "headers": { "x-env-tag": "canary" }, "to": "orders-v2" }]
    }"#;
    let server = Server::start(&[
        ("/gateway/listeners/edge", r#"{"address": "0.0.0.0:443"}"#),
        ("/gateway/routes/orders", route),
        (
            "/gateway/routes/any",
            r#"{"match": "/*", "to": {"respond": {"status": 204}}}"#,
        ),
        (
            "/gateway/clusters/orders-v1",
            r#"{"endpoints": [{"address": "10.0.0.1:80"}, {"address": "10.0.0.2:80"}]}"#,
        ),
    ])
    .await;
    let request = "POST http://api.example.com:443/v1/orders/7?x=1";
    let answer = server.explain(json!({ "request": request })).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let mut body = answer.body;
    body["policies"][0]["does"].take();
    let expected = json!({
        "group": "default", "revision": body["revision"], "outcome": "forward", "why": null, "status": null,
        "location": null,
        "listener": {
            "name": "edge", "key": "/gateway/listeners/edge", "addresses": ["0.0.0.0:443"], "tls": false,
        },
        "filter_chain": 0,
        "virtual_host": "api.example.com",
        "route": {
            "key": "/gateway/routes/orders", "kind": "routes", "name": "orders", "entry": "match", "override": null,
        },
        "destination": { "clusters": [{
            "name": "orders-v1", "key": "/gateway/clusters/orders-v1", "weight": 1, "exists": true, "total": 2,
            "usable": 2,
            "endpoints": [
                { "address": "10.0.0.1:80", "health": "unknown", "zone": null, "priority": 0 },
                { "address": "10.0.0.2:80", "health": "unknown", "zone": null, "priority": 0 },
            ],
        }] },
        "request": {
            "method": "POST", "host": "api.example.com:443", "path": "/orders/7?x=1",
            "headers": { "set": { "x-from": "edge" }, "add": [], "remove": ["x-debug"] },
        },
        "timeouts": { "response": "3s", "idle": null },
        "retry": { "on": ["503"], "attempts": 2, "per_try_timeout": null },
        "policies": [{
            "kind": "rate_limit", "key": "/gateway/routes/orders", "path": "policies[0]", "level": "routes",
            "level_key": "/gateway/routes/orders", "cluster": null, "does": null,
        }],
        "losers": [
            { "key": "/gateway/routes/any", "entry": "match", "override": null, "matches": true,
              "why": "its host is less specific" },
            { "key": "/gateway/routes/orders", "entry": "", "override": 0, "matches": false,
              "why": "header x-env-tag: missing, expected \"canary\"" },
        ],
    });
    assert_eq!(body, expected);

    let canary = json!({ "request": "api.example.com/v1/orders/7", "headers": { "X-Env-Tag": ["canary"] } });
    let body = server.explain(canary).await.body;
    let override_zero = (&body["route"]["override"], &body["destination"]["clusters"][0]["total"]);
    assert_eq!(override_zero, (&json!(0), &json!(0)), "{body}");
    assert_eq!(body["losers"][0]["why"], "fewer conditions");
}

#[tokio::test]
async fn a_request_without_a_route_is_explained_by_the_nearest_ones() {
    let server = Server::start(&[
        ("/gateway/listeners/plain", r#"{"address": "0.0.0.0:80"}"#),
        (
            "/gateway/routes/orders",
            r#"{"match": {"path": "/v1/orders/*", "methods": ["PUT"], "hosts": ["a.b"]}}"#,
        ),
        (
            "/gateway/routes/users",
            r#"{"match": {"path": "/v1/users/*", "hosts": ["a.b"]}}"#,
        ),
        (
            "/gateway/routes/other",
            r#"{"match": {"path": "/v1/*", "hosts": ["c.d"]}}"#,
        ),
    ])
    .await;
    let body = server
        .explain(json!({ "request": "GET http://a.b/v1/orders/7" }))
        .await
        .body;
    assert_eq!((&body["outcome"], &body["status"]), (&json!("not_found"), &json!(404)));
    let why: Vec<&str> = body["losers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|loser| loser["why"].as_str().unwrap())
        .collect();
    let expected = [
        "host a.b is not c.d",
        "method GET is not PUT",
        "path /v1/orders/7 is not /v1/users/*",
    ];
    assert_eq!(why, expected);

    let body = server.explain(json!({ "request": "https://a.b/" })).await.body;
    assert_eq!(body["outcome"], "misdirected");
    assert_eq!(body["why"], "the group `default` has no listener for HTTP with TLS");
    let body = server.explain(json!({ "request": "a.b/%2F" })).await.body;
    assert_eq!((&body["outcome"], &body["status"]), (&json!("respond"), &json!(400)));
    let underscore = json!({ "request": "a.b/", "headers": { "x_y": "1" } });
    assert_eq!(server.explain(underscore).await.body["status"], 400);
}

#[tokio::test]
async fn a_request_that_several_listeners_take_needs_the_name_of_one() {
    let server = Server::start(&[
        ("/gateway/listeners/a", r#"{"address": "0.0.0.0:80"}"#),
        ("/gateway/listeners/b", r#"{"address": "0.0.0.0:81"}"#),
    ])
    .await;
    let answer = server.explain(json!({ "request": "http://x/" })).await;
    let detail = problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "several_listeners");
    assert_eq!(
        detail,
        "several listeners take this request, expected `listener`, one of a, b"
    );
    let named = server.explain(json!({ "request": "http://x/", "listener": "b" })).await;
    assert_eq!(named.body["listener"]["name"], "b");
    let by_port = server.explain(json!({ "request": "http://x:81/" })).await;
    assert_eq!(by_port.body["listener"]["name"], "b");

    let unknown = server.explain(json!({ "request": "http://x/", "listener": "c" })).await;
    let detail = problem(&unknown, StatusCode::NOT_FOUND, "not_found");
    assert_eq!(
        detail,
        "the group `default` has no listener `c` for HTTP, expected one of a, b"
    );
    let unread = server.explain(json!({ "request": "http://x/", "at": "settled" })).await;
    problem(&unread, StatusCode::BAD_REQUEST, "invalid_request");
}

#[tokio::test]
async fn a_release_is_told_to_the_loop() {
    // A cluster that is deleted by force while a route uses it is held.
    let mut server = Server::start(&[("/gateway/clusters/users", CLUSTER), ("/gateway/routes/users", ROUTE)]).await;
    server.delete("/api/v1/documents/clusters/users?force=true", &[]).await;
    server.read_again().await;
    let json = [("content-type", "application/json; charset=utf-8")];
    for (body, keys) in [
        (
            r#"{"keys": ["/gateway/clusters/users"]}"#,
            Some(vec!["/gateway/clusters/users".to_owned()]),
        ),
        (
            r#"{"keys": ["/gateway/routes/a", "/gateway/"]}"#,
            Some(vec!["/gateway/routes/a".to_owned(), "/gateway/".to_owned()]),
        ),
        (r#"{"all": true}"#, None),
    ] {
        let answer = server.request(Method::POST, "/api/v1/release", &json, body).await;
        assert_eq!((answer.status, answer.body), (StatusCode::NO_CONTENT, json!("")));
        assert_eq!(server.commands.try_recv().unwrap(), Command::Release(keys));
    }
    for body in [
        "{}",
        r#"{"keys": []}"#,
        r#"{"keys": ["a"], "all": true}"#,
        r#"{"key": "a"}"#,
        "all",
    ] {
        let answer = server.request(Method::POST, "/api/v1/release", &json, body).await;
        problem(&answer, StatusCode::BAD_REQUEST, "invalid_request");
    }
    // A form on a web page of another site can send this content type.
    let form = [("content-type", "text/plain")];
    let answer = server
        .request(Method::POST, "/api/v1/release", &form, r#"{"all": true}"#)
        .await;
    problem(&answer, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    assert!(server.commands.try_recv().is_err());
}

#[tokio::test]
async fn a_release_where_nothing_is_held_is_not_found() {
    let mut server = Server::start(&[("/gateway/clusters/users", CLUSTER), ("/gateway/routes/users", ROUTE)]).await;
    let release = async |body: &str| {
        let json = [("content-type", "application/json")];
        server.request(Method::POST, "/api/v1/release", &json, body).await
    };
    let detail = |answer: &Answer| problem(answer, StatusCode::NOT_FOUND, "not_found");
    assert_eq!(detail(&release(r#"{"all": true}"#).await), "nothing is held");

    server.delete("/api/v1/documents/clusters/users?force=true", &[]).await;
    server.read_again().await;
    let other = release(r#"{"keys": ["/gateway/routes/users"]}"#).await;
    assert_eq!(detail(&other), "nothing is held at /gateway/routes/users");
    assert_eq!(other.body["key"], json!("/gateway/routes/users"));
    // Without the final slash a key is no prefix.
    let others = release(r#"{"keys": ["/gateway/clusters", "/services/"]}"#).await;
    assert_eq!(detail(&others), "nothing is held at any of these 2 keys");
    assert!(server.commands.try_recv().is_err());
}

#[tokio::test]
async fn a_held_document_names_the_cause() {
    let mut documents = vec![("/gateway/clusters/used".to_owned(), CLUSTER)];
    documents.push(("/gateway/routes/used".to_owned(), r#"{"match": "/used", "to": "used"}"#));
    documents.extend((0..20).map(|number| (format!("/gateway/clusters/lost-{number}"), CLUSTER)));
    let documents: Vec<(&str, &str)> = documents.iter().map(|(key, text)| (key.as_str(), *text)).collect();
    let server = Server::start(&documents).await;
    server.delete("/api/v1/documents/clusters/used?force=true", &[]).await;
    server.read_again().await;
    // One list misses all clusters: the guard holds it.
    for (key, _) in documents.iter().filter(|(key, _)| key.contains("lost")) {
        server.store.delete(key);
    }
    server.read_again().await;
    let held_by = async |name: &str| {
        let entry = server.get(&format!("/api/v1/documents/{name}")).await;
        (entry["state"].clone(), entry["held_by"].clone())
    };
    assert_eq!(held_by("clusters/used").await, (json!("held"), json!("in_use")));
    assert_eq!(held_by("clusters/lost-7").await, (json!("held"), json!("guard")));
    assert_eq!(held_by("routes/used").await, (json!("accepted"), Value::Null));
}

#[tokio::test]
async fn documents_are_listed_with_what_became_of_them() {
    let documents = [
        ("/gateway/clusters/users", CLUSTER),
        ("/gateway/routes/users", ROUTE),
        ("/gateway/routes/bad", "{\"mach\": 1}"),
    ];
    let server = Server::start(&documents).await;
    let listed = server.get("/api/v1/documents").await;
    let states: BTreeMap<&str, &str> = listed["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["key"].as_str().unwrap(), entry["state"].as_str().unwrap()))
        .collect();
    let expected = [
        ("/gateway/clusters/users", "accepted"),
        ("/gateway/routes/bad", "rejected"),
        ("/gateway/routes/users", "accepted"),
    ];
    assert_eq!(states, BTreeMap::from(expected));
    let users = json!({
        "key": "/gateway/routes/users", "kind": "routes", "name": "users", "state": "accepted", "held_by": null, "reason": null,
        "path": null, "warnings": [], "revision": 2, "serving_revision": 2, "modified_at": null, "by": null, "message": null,
    });
    let accepted = server
        .get("/api/v1/documents?state=accepted&state=held&kind=routes")
        .await;
    assert_eq!(accepted, json!({ "documents": [users], "next": null }));

    let bad = &server.get("/api/v1/documents?state=rejected").await["documents"][0];
    assert_eq!(
        (&bad["path"], &bad["revision"], &bad["serving_revision"]),
        (&json!("mach"), &json!(3), &Value::Null)
    );
    assert!(bad["reason"].as_str().unwrap().contains("did you mean"), "{bad}");

    let answer = server
        .request(Method::GET, "/api/v1/documents/routes/users", &[], "")
        .await;
    let mut expected = users.clone();
    expected["value"] = json!({ "match": "/v1/users", "to": "users" });
    assert_eq!((answer.body, answer.etag.as_deref()), (expected, Some("\"2\"")));
}

/// The items of a list, one page at a time.
async fn pages(server: &Server, path: &str, list: &str, name: &str) -> Vec<Vec<Value>> {
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{path}{after}")).await;
        let items = page[list].as_array().unwrap();
        pages.push(items.iter().map(|item| item[name].clone()).collect());
        let Some(next) = page["next"].as_str() else {
            return pages;
        };
        after = format!("&after={next}");
    }
}

#[tokio::test]
async fn a_list_of_documents_is_read_in_pages() {
    let documents = [
        ("/gateway/clusters/a", CLUSTER),
        ("/gateway/clusters/b", CLUSTER),
        ("/gateway/routes/a", ROUTE),
        ("/gateway/typo & co", "{}"),
        ("/services/a/b c", "10.0.0.1:80"),
    ];
    let server = Server::start(&documents).await;
    let expected = json!([
        ["/gateway/routes/a", "/gateway/clusters/a"],
        ["/gateway/clusters/b", "/services/a/b c"],
        ["/gateway/typo & co"]
    ]);
    let pages = async |path: &str| json!(pages(&server, path, "documents", "key").await);
    assert_eq!(pages("/api/v1/documents?limit=2").await, expected);
    // Exactly full: no empty page follows.
    assert_eq!(pages("/api/v1/documents?limit=5").await.as_array().unwrap().len(), 1);
    let filtered = "/api/v1/documents?state=accepted&kind=clusters&kind=services&limit=2";
    let expected = json!([["/gateway/clusters/a", "/gateway/clusters/b"], ["/services/a/b c"]]);
    assert_eq!(pages(filtered).await, expected);
    assert_eq!(
        pages("/api/v1/documents?q=s/a").await,
        json!([["/gateway/routes/a", "/gateway/clusters/a", "/services/a/b c"]])
    );
}

#[tokio::test]
async fn entries_of_one_key_may_stand_on_two_pages() {
    let server = Server::start(&[("/gateway/routes/a", ROUTE), ("/gateway/routes/b", ROUTE)]).await;
    let problem = |place: &str| Problem {
        key: "/gateway/routes/a".into(),
        place: place.to_owned(),
        reason: format!("{place} is a second file for the same key, routes/a.json serves"),
    };
    let problems = vec![problem("routes/a.yaml"), problem("routes/a.yml")];
    let input = Input::Event {
        root: Root::Documents,
        event: Event::Problems { problems },
    };
    let moment = now();
    let planned = plan(&server.world.load(), vec![input], moment);
    server.world.store(Arc::new(planned.world));
    let pages = pages(&server, "/api/v1/documents?limit=1", "documents", "reason").await;
    let reasons: Vec<&str> = pages.iter().map(|page| page[0].as_str().unwrap_or_default()).collect();
    assert_eq!((reasons.len(), reasons[0]), (4, ""));
    assert!(
        reasons[1].starts_with("routes/a.yaml") && reasons[2].starts_with("routes/a.yml"),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn lists_of_resources_and_clients_are_read_in_pages() {
    let server = Server::start(&[]).await;
    let resources =
        ["a", "b/c", "d"].map(|name| change(ResourceType::Runtime, Resource::new(name, [].as_slice(), Vec::new())));
    let difference = Difference {
        resources: resources.into(),
        ..Difference::default()
    };
    server.publish(&difference, 3);
    let resources = pages(&server, "/api/v1/snapshot/runtime?limit=2", "resources", "name").await;
    assert_eq!(json!(resources), json!([["a", "b/c"], ["d"]]));

    let streams = ["edge-1", "edge-2", "other", "edge-1"].map(|node| connect(&server.fleet, node));
    let numbers = streams.each_ref().map(StreamHandle::id);
    let [one, two, three, four] = numbers;
    let pages = async |path: &str| json!(pages(&server, path, "clients", "stream").await);
    assert_eq!(
        pages("/api/v1/clients?limit=3").await,
        json!([[one, two, three], [four]])
    );
    assert_eq!(
        pages("/api/v1/clients?q=edge-&limit=2&group=default").await,
        json!([[one, two], [four]])
    );
    assert_eq!(pages("/api/v1/clients?q=her").await, json!([[three]]));
    assert_eq!(pages("/api/v1/clients?group=edge").await, json!([[]]));
    assert_eq!(pages("/api/v1/clients/edge-1?limit=1").await, json!([[one], [four]]));
    // A node id that connects twice is marked on every page.
    let second = server.get("/api/v1/clients/edge-1?limit=1").await;
    assert_eq!(second["clients"][0]["warnings"], json!(["duplicate_node_id"]));

    drop(streams);
    assert_eq!(
        pages("/api/v1/clients?limit=3").await,
        json!([[one, two, three], [four]])
    );
}

#[tokio::test]
async fn subscribed_names_are_counted_unless_they_are_asked_for() {
    let server = Server::start(&[]).await;
    let stream = connect(&server.fleet, "edge-1");
    stream.subscribed(ResourceType::Cluster, None);
    stream.subscribed(ResourceType::Endpoint, Some(&Arc::from(["a".into(), "b".into()])));
    let subscribed = async |query: &str| {
        let types = server.get(&format!("/api/v1/clients{query}")).await["clients"][0]["types"].take();
        [
            types["clusters"]["subscribed"].clone(),
            types["endpoints"]["subscribed"].clone(),
        ]
    };
    assert_eq!(subscribed("").await, [json!("*"), json!(2)]);
    assert_eq!(subscribed("/edge-1?names=false").await, [json!("*"), json!(2)]);
    assert_eq!(subscribed("?names=true").await, [json!("*"), json!(["a", "b"])]);
}

#[tokio::test]
async fn a_text_that_is_not_json_is_shown_as_it_was_written() {
    let server = Server::start(&[("/gateway/routes/users", "match: /v1/users\nto: users\n")]).await;
    let shown = server.get("/api/v1/documents/routes/users").await;
    assert_eq!(shown["value"], json!("match: /v1/users\nto: users\n"));
}

#[tokio::test]
async fn a_document_is_created_changed_and_deleted() {
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER)]).await;
    let path = "/api/v1/documents/routes/users";

    let created = server.put(path, &[("if-none-match", "*")], ROUTE).await;
    assert_eq!(
        (created.status, created.etag.as_deref()),
        (StatusCode::CREATED, Some("\"2\""))
    );
    let expected = json!({
        "key": "/gateway/routes/users", "kind": "routes", "name": "users", "state": "accepted", "held_by": null, "reason": null,
        "path": null, "warnings": [], "revision": 2, "serving_revision": 2, "modified_at": null, "by": null, "message": null,
    });
    assert_eq!(created.body, expected);
    assert_eq!(server.stored("/gateway/routes/users").await.as_deref(), Some(ROUTE));
    server.read_again().await;

    let again = server.put(path, &[], ROUTE).await;
    assert_eq!((again.status, again.etag.as_deref()), (StatusCode::OK, Some("\"2\"")));

    let yaml = "match: /v2/users\nto: users\n";
    let changed = server.put(path, &[("if-match", "\"2\"")], yaml).await;
    assert_eq!(
        (changed.status, changed.etag.as_deref()),
        (StatusCode::OK, Some("\"3\""))
    );
    assert_eq!(server.stored("/gateway/routes/users").await.as_deref(), Some(yaml));
    server.read_again().await;

    let deleted = server.delete(path, &[("if-match", "\"3\"")]).await;
    assert_eq!((deleted.status, deleted.body), (StatusCode::NO_CONTENT, json!("")));
    assert_eq!(server.stored("/gateway/routes/users").await, None);
    let missing = server.delete(path, &[]).await;
    assert_eq!(
        problem(&missing, StatusCode::NOT_FOUND, "not_found"),
        "there is no document routes/users"
    );
}

#[tokio::test]
async fn a_write_whose_expectation_does_not_hold_changes_nothing() {
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER)]).await;
    let (there, missing) = ("/api/v1/documents/clusters/users", "/api/v1/documents/clusters/orders");
    let cases = [
        (
            Method::PUT,
            there,
            ("if-none-match", "*"),
            "clusters/users: the document exists already",
        ),
        (
            Method::PUT,
            there,
            ("if-match", "\"7\""),
            "clusters/users: the current etag is \"1\"",
        ),
        (
            Method::PUT,
            missing,
            ("if-match", "*"),
            "clusters/orders: the document does not exist",
        ),
        (
            Method::DELETE,
            there,
            ("if-match", "\"7\""),
            "clusters/users: the current etag is \"1\"",
        ),
    ];
    for (method, path, header, detail) in cases {
        let answer = server.request(method, path, &[header], CLUSTER).await;
        assert_eq!(
            problem(&answer, StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            detail
        );
    }
    for headers in [
        vec![("if-none-match", "\"1\"")],
        vec![("if-match", "\"1\""), ("if-none-match", "*")],
    ] {
        problem(
            &server.put(there, &headers, CLUSTER).await,
            StatusCode::BAD_REQUEST,
            "invalid_request",
        );
    }
    assert_eq!(server.stored("/gateway/clusters/users").await.as_deref(), Some(CLUSTER));
    assert_eq!(server.stored("/gateway/clusters/orders").await, None);

    // Several lines of one header are a list.
    let lines = [("if-match", "\"7\""), ("if-match", "\"1\"")];
    assert_eq!(server.put(there, &lines, CLUSTER).await.status, StatusCode::OK);
}

#[tokio::test]
async fn templates_that_differ_in_names_of_variables_are_one_match() {
    let route = |variable: &str| format!(r#"{{"match": "/users/{{{variable}}}", "to": "users"}}"#);
    let first = route("id");
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER), ("/gateway/routes/first", &first)]).await;

    let answer = server.put("/api/v1/documents/routes/second", &[], &route("name")).await;
    let detail = problem(&answer, StatusCode::CONFLICT, "same_match");
    assert_eq!(
        detail,
        "routes/second has the same match as routes/first, which takes precedence"
    );

    // The first may change its own.
    let answer = server.put("/api/v1/documents/routes/first", &[], &route("name")).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

#[tokio::test]
async fn a_new_entry_that_a_final_policy_beats_is_refused() {
    let is_final = r#"{"body_limit": {"max": "1MiB"}, "final": true}"#;
    let edge = r#"{"address": "127.0.0.1:80", "policies": ["limit"]}"#;
    let limited = |path: &str, max: &str| {
        format!(r#"{{"match": "{path}", "to": "users", "policies": [{{"body_limit": {{"max": "{max}"}}}}]}}"#)
    };
    let documents = [
        ("/gateway/clusters/users", CLUSTER),
        ("/gateway/policies/limit", is_final),
        ("/gateway/listeners/edge", edge),
        ("/gateway/routes/old", &limited("/old", "1KiB")),
    ];
    let server = Server::start(&documents).await;

    let answer = server
        .put("/api/v1/documents/routes/new", &[], &limited("/new", "1KiB"))
        .await;
    let detail = problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "invalid_document");
    assert_eq!(
        detail,
        "routes/new: policies[0]: policies/limit is final and holds instead"
    );
    assert_eq!(server.stored("/gateway/routes/new").await, None);

    // An entry that was beaten before is a warning.
    let answer = server
        .put("/api/v1/documents/routes/old", &[], &limited("/old", "2KiB"))
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn an_envoy_before_slots_is_marked_where_its_group_has_policies() {
    let guarded = r#"{"address": "127.0.0.1:80", "policies": [{"csrf": {}}]}"#;
    for (documents, expected) in [
        (&[("/gateway/listeners/edge", guarded)][..], json!(["envoy_too_old"])),
        (&[], json!([])),
    ] {
        let server = Server::start(documents).await;
        let stream = |node_id: &str, lacks_slots| {
            server.fleet.connect(Identity {
                lacks_slots,
                ..identity(node_id)
            })
        };
        let _streams = [stream("new", false), stream("old", true)];
        let answer = server.request(Method::GET, "/api/v1/clients", &[], "").await;
        let warnings = |index: usize| &answer.body["clients"][index]["warnings"];
        assert_eq!((warnings(0), warnings(1)), (&json!([]), &expected), "{:?}", answer.body);
    }
}

#[tokio::test]
async fn a_write_that_breaks_a_test_of_another_document_needs_force() {
    let tested =
        r#"{"match": "/v1/*", "to": "users", "tests": [{"request": "GET http://h/v1/a", "expect": {"to": "users"}}]}"#;
    let thief = r#"{"match": "/v1/a", "to": {"respond": {"status": 200}}}"#;
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER)]).await;
    let answer = server.put("/api/v1/documents/routes/tested", &[], tested).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");

    let answer = server.put("/api/v1/documents/routes/thief", &[], thief).await;
    let detail = problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "breaks_test");
    assert_eq!(
        detail,
        "routes/tested: tests[0]: GET http://h/v1/a expected to=users, got routes/thief (status=200); \
         ?force=true makes the change nevertheless"
    );
    assert_eq!(server.stored("/gateway/routes/thief").await, None);

    let answer = server
        .put("/api/v1/documents/routes/thief?force=true", &[], thief)
        .await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    // The test fails already: a change of the other document breaks nothing.
    let answer = server
        .put("/api/v1/documents/routes/thief", &[], &thief.replace("200", "201"))
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");

    // A policy breaks tests as a route does.
    let policed = r#"{"match": "/v3/*", "to": "users", "policies": ["pause"],
        "tests": [{"request": "GET http://h/v3/a", "expect": {"to": "users"}}]}"#;
    for (path, text) in [("policies/pause", r#"{"csrf": {}}"#), ("routes/policed", policed)] {
        let answer = server.put(&format!("/api/v1/documents/{path}"), &[], text).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
    let answer = server
        .put("/api/v1/documents/policies/pause", &[], r#"{"maintenance": {}}"#)
        .await;
    problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "breaks_test");

    let own = tested.replace("/v1/a\"", "/v2\"");
    let answer = server
        .put("/api/v1/documents/routes/tested?force=true", &[], &own)
        .await;
    problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "invalid_document");
    assert_eq!(answer.body["path"], json!("tests[0]"));
}

#[tokio::test]
async fn what_would_be_rejected_is_not_written() {
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER), ("/gateway/routes/first", ROUTE)]).await;
    let answer = server
        .put(
            "/api/v1/documents/routes/users",
            &[],
            r#"{"match": "/a", "timeout": 5}"#,
        )
        .await;
    problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "invalid_document");
    let found = (&answer.body["key"], &answer.body["path"], &answer.body["retryable"]);
    assert_eq!(
        found,
        (&json!("/gateway/routes/users"), &json!("timeout"), &json!(false))
    );

    let answer = server.put("/api/v1/documents/routes/second", &[], ROUTE).await;
    let detail = problem(&answer, StatusCode::CONFLICT, "same_match");
    assert_eq!(
        detail,
        "routes/second has the same match as routes/first, which takes precedence"
    );

    let large = "x".repeat(1024 * 1024 + 1);
    let answer = server.put("/api/v1/documents/routes/users", &[], &large).await;
    assert_eq!(
        problem(&answer, StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        "the body is too large, expected at most 1048576 bytes"
    );

    for name in ["users", "second"] {
        assert_eq!(server.stored(&format!("/gateway/routes/{name}")).await, None);
    }
}

#[tokio::test]
async fn a_cluster_in_use_is_deleted_by_force_alone() {
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER), ("/gateway/routes/users", ROUTE)]).await;
    let path = "/api/v1/documents/clusters/users";
    let detail = problem(&server.delete(path, &[]).await, StatusCode::CONFLICT, "in_use");
    assert_eq!(
        detail,
        "clusters/users is used by routes/users; ?force=true deletes the document nevertheless"
    );
    assert_eq!(server.stored("/gateway/clusters/users").await.as_deref(), Some(CLUSTER));
    assert_eq!(
        server.delete(&format!("{path}?force=true"), &[]).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(server.stored("/gateway/clusters/users").await, None);
    // It serves on, held, and can still be read.
    server.read_again().await;
    let held = server.get(path).await;
    assert_eq!((&held["state"], &held["revision"]), (&json!("held"), &Value::Null));
}

#[tokio::test]
async fn a_write_is_checked_against_the_writes_before_it() {
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER)]).await;
    let route = "/api/v1/documents/routes/users";
    let created = server.put(route, &[], ROUTE).await;
    assert_eq!(
        (created.status, &created.body["revision"]),
        (StatusCode::CREATED, &json!(2))
    );

    // The world has not seen the route yet.
    let second = server.put("/api/v1/documents/routes/second", &[], ROUTE).await;
    problem(&second, StatusCode::CONFLICT, "same_match");
    let in_use = server.delete("/api/v1/documents/clusters/users", &[]).await;
    problem(&in_use, StatusCode::CONFLICT, "in_use");

    // A write that is overtaken by another one counts no more.
    assert_eq!(server.delete(route, &[]).await.status, StatusCode::NO_CONTENT);
    let second = server.put("/api/v1/documents/routes/second", &[], ROUTE).await;
    assert_eq!(
        (second.status, &second.body["state"]),
        (StatusCode::CREATED, &json!("accepted"))
    );

    // So does a write that the world has reached: another writer has deleted the route since.
    server.read_again().await;
    server.store.delete("/gateway/routes/second");
    server.read_again().await;
    let deleted = server.delete("/api/v1/documents/clusters/users", &[]).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_name_is_the_rest_of_the_path_decoded() {
    let server = Server::start(&[]).await;
    let path = "/api/v1/documents/services/users/pod%20a%2F1";
    let created = server.put(path, &[], "10.0.0.1:8080").await;
    assert_eq!(
        (created.status, &created.body["key"]),
        (StatusCode::CREATED, &json!("/services/users/pod a/1"))
    );
    assert_eq!(
        server.stored("/services/users/pod a/1").await.as_deref(),
        Some("10.0.0.1:8080")
    );
    server.read_again().await;
    assert_eq!(server.get(path).await["value"], json!("10.0.0.1:8080"));

    let defaults = server.put("/api/v1/documents/defaults", &[], "{}").await;
    assert_eq!(
        (defaults.status, &defaults.body["key"]),
        (StatusCode::CREATED, &json!("/gateway/defaults"))
    );
}

#[tokio::test]
async fn nothing_is_written_before_the_first_list() {
    let server = Server::start(&[]).await;
    let options = server.world.load().options().clone();
    server.world.store(Arc::new(World::new(options)));
    let answer = server.put("/api/v1/documents/clusters/users", &[], CLUSTER).await;
    problem(&answer, StatusCode::SERVICE_UNAVAILABLE, "not_ready");
    assert_eq!(server.stored("/gateway/clusters/users").await, None);
}

#[tokio::test]
async fn a_store_that_is_away_is_told_and_worth_a_retry() {
    let server = Server::start(&[]).await;
    server.store.set_away(Some("etcd: connection refused"));
    let answer = server.put("/api/v1/documents/clusters/users", &[], CLUSTER).await;
    let detail = problem(&answer, StatusCode::SERVICE_UNAVAILABLE, "store_unavailable");
    assert_eq!(
        (detail.as_str(), &answer.body["retryable"]),
        ("etcd: connection refused", &json!(true))
    );
}

#[tokio::test]
async fn a_write_to_a_registration_keeps_its_lease_or_says_that_there_is_none() {
    let server = Server::start(&[("/gateway/clusters/cart", "{}")]).await;
    server.store.put_leased("/services/cart/a", "10.0.0.1:80");
    server.read_again().await;
    let kept = server
        .put("/api/v1/documents/services/cart/a", &[], "10.0.0.2:80")
        .await;
    assert_eq!((kept.status, &kept.body["warnings"]), (StatusCode::OK, &json!([])));
    let stored = server.store.get(b"/services/cart/a").await.unwrap().unwrap();
    assert_eq!((&*stored.value, stored.leased), (&b"10.0.0.2:80"[..], true));

    let created = server
        .put("/api/v1/documents/services/cart/b", &[], "10.0.0.3:80")
        .await;
    assert_eq!(created.status, StatusCode::CREATED);
    let warning = created.body["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("no_lease: "), "{warning}");
    let document = server.put("/api/v1/documents/clusters/other", &[], CLUSTER).await;
    assert_eq!(document.body["warnings"], json!([]), "documents have no lease");
}

#[tokio::test]
async fn metrics_count_documents_by_kind_and_state() {
    let server = Server::start(&[("/gateway/clusters/users", CLUSTER), ("/gateway/routes/bad", "[")]).await;
    let text = server.get("/metrics").await;
    let text = text.as_str().unwrap();
    for line in [
        "chancery_documents{kind=\"clusters\",state=\"accepted\"} 1",
        "chancery_documents{kind=\"routes\",state=\"rejected\"} 1",
        "chancery_clusters_empty 0",
        "chancery_clients{variant=\"sotw\"} 0",
        "chancery_clients{variant=\"delta\"} 0",
        "chancery_snapshot_revision 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }
}

#[tokio::test]
async fn no_endpoint_shows_a_secret() {
    let secret = r#"{"generic": "hunter2"}"#;
    let documents = [
        ("/gateway/secrets/token", secret),
        ("/gateway/secrets/broken", "generic: [hunter2"),
        ("/gateway/xds/secrets/raw", secret),
        ("/gateway/secret/typo", secret),
    ];
    let server = Server::start(&documents).await;
    let paths = [
        "/",
        "/readyz",
        "/metrics",
        "/api/v1/documents",
        "/api/v1/documents/secrets/token",
        "/api/v1/documents/secrets/broken",
        "/api/v1/documents/xds/secrets/raw",
        "/api/v1/snapshot",
        "/api/v1/snapshot/secrets",
        "/api/v1/clients",
    ];
    for path in paths {
        let body = server.get(path).await.to_string();
        assert!(!body.contains("hunter2"), "{path}: {body}");
    }
    for body in [secret, "generic: [hunter2"] {
        let answer = server.put("/api/v1/documents/secrets/new", &[], body).await;
        assert!(!answer.body.to_string().contains("hunter2"), "{answer:?}");
    }
}

#[tokio::test]
async fn answers_are_kept_out_of_caches_and_other_sites() {
    let server = Server::start(&[]).await;
    let url = format!("http://{}/api/v1/documents", server.address);
    let response = server
        .client
        .get(url)
        .header("origin", "http://evil.example")
        .send()
        .await
        .unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("cache-control"), Some("no-store"));
    assert_eq!(header("x-content-type-options"), Some("nosniff"));
    assert_eq!(header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn an_answer_has_the_id_of_its_request() {
    let server = Server::start(&[]).await;
    let ask = async |path: &str, id: Option<&str>| {
        let mut request = server.client.get(format!("http://{}{path}", server.address));
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let response = request.send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        (id, response.text().await.unwrap())
    };
    let of_problem = |text: &str| serde_json::from_str::<Value>(text).unwrap()["request_id"].clone();

    assert_eq!(ask("/healthz", Some("deploy-7")).await.0, "deploy-7");
    let (id, text) = ask("/nothing", Some("deploy-8")).await;
    assert_eq!((id.as_str(), of_problem(&text)), ("deploy-8", json!("deploy-8")));

    // The server makes an id if there is none, or none that it can repeat.
    let long = "x".repeat(129);
    let mut made = std::collections::BTreeSet::new();
    for id in [None, Some(""), Some("two words"), Some(long.as_str())] {
        let (id, text) = ask("/nothing", id).await;
        assert_eq!((id.len(), of_problem(&text)), (32, json!(id)));
        made.insert(id);
    }
    assert_eq!(made.len(), 4);
}

#[tokio::test]
async fn the_api_is_served_on_a_unix_socket_of_this_user() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    std::fs::write(&path, "").unwrap();
    let refused = admin::Listener::bind_unix(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists, "{refused}");
    std::fs::remove_file(&path).unwrap();

    // The second start replaces the socket of the first.
    drop(admin::Listener::bind_unix(&path).unwrap());
    let listener = admin::Listener::bind_unix(&path).unwrap();
    assert_eq!(listener.to_string(), format!("unix:{}", path.display()));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names: Vec<_> = folder
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["admin.sock"]);

    tokio::spawn(admin::serve(listener, server.admin.clone(), server.token.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(r#"{"status":"ok"}"#),
        "{answer}"
    );
}

#[tokio::test]
async fn it_stops_when_told_though_a_connection_is_open() {
    let server = Server::start(&[]).await;
    let silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    server.get("/healthz").await;
    server.token.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(5), server.running).await;
    assert!(stopped.unwrap().unwrap().is_ok());
    drop(silent);
}

#[tokio::test]
async fn a_page_of_another_site_reads_nothing_and_changes_nothing() {
    let server = Server::start(&[]).await;
    let url = format!("http://{}/api/v1/documents", server.address);
    let answer = server
        .client
        .get(&url)
        .header("host", "evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 421);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "foreign_host");
    let route = format!("{url}/routes/a");
    let put = server
        .client
        .put(&route)
        .header("origin", "http://evil.example")
        .body(r#"{ "match": "/a" }"#);
    let answer = put.send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "foreign_origin");
    assert_eq!(server.store.list("/gateway/").await.unwrap().1.len(), 0);
    let named = server
        .client
        .get(&url)
        .header("host", "chancery.internal")
        .send()
        .await
        .unwrap();
    assert_eq!(named.status(), 200);
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_new_one_out() {
    let server = Server::start(&[]).await;
    let mut silent = Vec::new();
    for _ in 0..1544 {
        silent.push(tokio::net::TcpStream::connect(server.address).await.unwrap());
    }
    let healthy = tokio::time::timeout(Duration::from_secs(10), server.get("/healthz")).await;
    assert_eq!(
        healthy.expect("before a silent connection times out"),
        json!({ "status": "ok" })
    );
    assert!(server.fleet.reached().of(Limit::AdminConnections) >= 9);
    assert_eq!(silent.len(), 1544);
}

#[tokio::test]
async fn a_client_that_subscribes_to_many_names_is_shown_in_parts() {
    let server = Server::start(&[]).await;
    let client = connect(&server.fleet, "edge-1");
    let names: Vec<Arc<str>> = (0..2500).map(|number| format!("name-{number:060}").into()).collect();
    client.subscribed(ResourceType::Endpoint, Some(&names.iter().cloned().collect()));
    client.subscribed(ResourceType::Cluster, Some(&Arc::from([])));
    let types = |shown: &Value| shown["clients"][0]["types"].clone();
    let counted = server.get("/api/v1/clients").await;
    assert_eq!(types(&counted)["endpoints"]["subscribed"], 2500);
    let named = server.get("/api/v1/clients?names=true").await;
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    assert_eq!(types(&named)["endpoints"]["subscribed"], json!(names));
    assert_eq!(types(&named)["clusters"]["subscribed"], json!([]));
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_cut() {
    let body = "x".repeat(4000);
    let texts: Vec<(String, String)> = (0..3000)
        .map(|number| {
            let text = json!({ "match": format!("/{number}"), "to": { "respond": { "status": 200, "body": body } } });
            (format!("/gateway/routes/r{number}"), text.to_string())
        })
        .collect();
    let documents: Vec<(&str, &str)> = texts.iter().map(|(key, text)| (&**key, &**text)).collect();
    let server = Server::start(&documents).await;

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let request = b"GET /api/v1/snapshot/routes HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let cut = || async { server.fleet.reached().of(Limit::AdminUnread) };
    eventually(Duration::from_secs(30), cut, 1).await;

    let mut read = Vec::new();
    let outcome = stream.read_to_end(&mut read).await;
    assert!(read.starts_with(b"HTTP/1.1 200"), "{outcome:?}");
    assert!(!read.ends_with(b"0\r\n\r\n"), "the answer is whole");
    assert!(read.len() < 12_000_000, "{}", read.len());
}

#[tokio::test]
async fn a_page_of_documents_is_written_as_it_is_read() {
    let keys: Vec<String> = (0..5000).map(|number| format!("/gateway/routes/{number:04}")).collect();
    let documents: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, "{}")).collect();
    let server = Server::start(&documents).await;
    let url = format!("http://{}/api/v1/documents?limit=4000", server.address);
    let answer = server.client.get(&url).send().await.unwrap();
    assert_eq!(
        answer.headers().get("content-length"),
        None,
        "nobody knows the length before the end"
    );
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["documents"].as_array().unwrap().len(), 4000);
    assert_eq!(answer["documents"][3999]["name"], "3999");
    let rest = format!("{url}&after={}", answer["next"].as_str().unwrap());
    let rest: Value = server.client.get(rest).send().await.unwrap().json().await.unwrap();
    assert_eq!(rest["documents"].as_array().unwrap().len(), 1000);
    assert_eq!(rest["next"], Value::Null);
}
