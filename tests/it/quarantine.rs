//! Documents that pass every check, and that proxies refuse: who falls back, when, and how it ends.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use prost::Message;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::ads_client::{
    ADS_DELTA, ADS_SOTW, DeltaStream, Event, SotwStream, connect, delta, delta_ack, node, refusal, sotw, sotw_ack,
    types,
};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::Server;

/// A NACK has 2 s, and a trial has some more.
const LIMIT: Duration = Duration::from_secs(20);
const FOR_EVER: Duration = Duration::from_secs(3600);

type Paths = BTreeSet<String>;

/// The answer of a proxy to a table of routes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Ack,
    Nack,
    Silence,
}

/// A proxy that takes clusters as they are, and answers routes as it is told.
struct Proxy {
    accepted: Arc<Mutex<Option<Paths>>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    async fn delta(server: &Server, id: &'static str, answer: impl FnMut(&Paths) -> Answer + Send + 'static) -> Self {
        let channel = connect(server.xds()).await;
        let stream = DeltaStream::open(&channel, ADS_DELTA).await.unwrap();
        let accepted = Arc::default();
        let task = tokio::spawn(run_delta(stream, id, answer, Arc::clone(&accepted)));
        Self { accepted, task }
    }

    async fn sotw(server: &Server, id: &'static str, answer: impl FnMut(&Paths) -> Answer + Send + 'static) -> Self {
        let channel = connect(server.xds()).await;
        let stream = SotwStream::open(&channel, ADS_SOTW).await.unwrap();
        let accepted = Arc::default();
        let task = tokio::spawn(run_sotw(stream, id, answer, Arc::clone(&accepted)));
        Self { accepted, task }
    }

    /// Wait until the proxy has accepted routes with these paths and no others.
    async fn has(&self, paths: &[&str]) {
        let expected: Paths = paths.iter().map(ToString::to_string).collect();
        let seen = || async { self.accepted.lock().unwrap().clone() };
        eventually(LIMIT, seen, Some(expected)).await;
    }
}

async fn run_delta(
    mut stream: DeltaStream,
    id: &'static str,
    mut answer: impl FnMut(&Paths) -> Answer,
    accepted: Arc<Mutex<Option<Paths>>>,
) {
    for (type_url, names) in [(types::CLUSTER, &[] as &[&str]), (types::ROUTE, &["default"])] {
        let mut request = delta(type_url, names, &[]);
        request.node = node(id);
        stream.send(request);
    }
    while let Event::Response(response) = stream.event(FOR_EVER).await {
        let mut request = delta_ack(&response);
        request.node = node(id);
        if response.type_url == types::ROUTE && !response.resources.is_empty() {
            let table = response.resources[0].resource.as_ref().unwrap();
            let paths = paths(&table.value);
            match answer(&paths) {
                Answer::Ack => *accepted.lock().unwrap() = Some(paths),
                Answer::Nack => request.error_detail = refusal("no such filter"),
                Answer::Silence => continue,
            }
        }
        stream.send(request);
    }
}

async fn run_sotw(
    mut stream: SotwStream,
    id: &'static str,
    mut answer: impl FnMut(&Paths) -> Answer,
    accepted: Arc<Mutex<Option<Paths>>>,
) {
    let names = |type_url: &str| -> &[&str] { if type_url == types::ROUTE { &["default"] } else { &[] } };
    for type_url in [types::CLUSTER, types::ROUTE] {
        let mut request = sotw(type_url, names(type_url));
        request.node = node(id);
        stream.send(request);
    }
    let mut version = String::new();
    while let Event::Response(response) = stream.event(FOR_EVER).await {
        let mut request = sotw_ack(&response, names(&response.type_url));
        request.node = node(id);
        if response.type_url == types::ROUTE && !response.resources.is_empty() {
            let paths = paths(&response.resources[0].value);
            match answer(&paths) {
                Answer::Ack => {
                    version.clone_from(&response.version_info);
                    *accepted.lock().unwrap() = Some(paths);
                }
                Answer::Nack => {
                    request.version_info.clone_from(&version);
                    request.error_detail = refusal("no such filter");
                }
                Answer::Silence => continue,
            }
        }
        stream.send(request);
    }
}

fn paths(table: &[u8]) -> Paths {
    let table = RouteConfiguration::decode(table).unwrap();
    let routes = table.virtual_hosts.into_iter().flat_map(|host| host.routes);
    let matches = routes.filter_map(|route| route.r#match?.path_specifier);
    matches
        .map(|path| match path {
            PathSpecifier::Path(path) | PathSpecifier::Prefix(path) | PathSpecifier::PathSeparatedPrefix(path) => path,
            other => panic!("found {other:?}"),
        })
        .collect()
}

/// Refuses tables with a path that contains one of these words.
fn refuses(words: &'static [&'static str]) -> impl FnMut(&Paths) -> Answer + Send + 'static {
    move |paths| {
        let is_bad = |path: &String| words.iter().any(|word| path.contains(word));
        if paths.iter().any(is_bad) {
            Answer::Nack
        } else {
            Answer::Ack
        }
    }
}

fn route(path: &str) -> String {
    json!({ "match": path, "to": "http://127.0.0.1:8080" }).to_string()
}

/// A ready server on a folder with these routes.
async fn serve(routes: &[(&str, &str)]) -> Server {
    let folder = tempfile::Builder::new()
        .prefix("chancery-quarantine-")
        .tempdir()
        .unwrap();
    fs::create_dir_all(folder.path().join("gateway/routes")).unwrap();
    let server = Server::start_in(folder, &["--dir", "gateway"]).await;
    routes.iter().for_each(|(name, path)| write(&server, name, path));
    server.ready().await;
    server
}

fn write(server: &Server, name: &str, path: &str) {
    let file = server.folder().join(format!("gateway/routes/{name}.json"));
    fs::write(file, route(path)).unwrap();
}

/// Wait until a route has this state, in quarantine or not.
async fn route_is(server: &Server, name: &str, state: &str, is_quarantined: bool) -> Value {
    let path = format!("/api/v1/documents/routes/{name}");
    let seen = || async {
        let entry = server.try_get(&path).await.unwrap().1;
        (entry["state"].clone(), entry["quarantined"] == true)
    };
    eventually(LIMIT, seen, (json!(state), is_quarantined)).await;
    server.get(&path).await
}

async fn release(server: &Server, key: &str) -> u16 {
    let url = format!("http://{}/api/v1/release", server.admin());
    let request = reqwest::Client::new().post(url).json(&json!({ "keys": [key] }));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_text_that_every_proxy_refuses_holds_nothing_up() {
    for is_delta in [true, false] {
        let server = serve(&[("a", "/a1"), ("b", "/b1")]).await;
        let is_mended = Arc::new(AtomicBool::new(false));
        let answer = || {
            let (is_mended, mut refuses) = (Arc::clone(&is_mended), refuses(&["bad"]));
            move |paths: &Paths| match is_mended.load(Ordering::Relaxed) {
                true => Answer::Ack,
                false => refuses(paths),
            }
        };
        let proxy = match is_delta {
            true => Proxy::delta(&server, "n1", answer()).await,
            false => Proxy::sotw(&server, "n1", answer()).await,
        };
        proxy.has(&["/a1", "/b1"]).await;
        write(&server, "a", "/bad");
        let refused = route_is(&server, "a", "refused", true).await;
        assert_eq!(refused["reason"], "refused by the proxy n1: no such filter");
        assert!(
            refused["serving_revision"].as_i64() < refused["revision"].as_i64(),
            "{refused}"
        );
        write(&server, "c", "/c1");
        proxy.has(&["/a1", "/b1", "/c1"]).await;
        let new = match is_delta {
            true => Proxy::delta(&server, "n2", answer()).await,
            false => Proxy::sotw(&server, "n2", answer()).await,
        };
        new.has(&["/a1", "/b1", "/c1"]).await;
        let series = "chancery_documents{kind=\"routes\",state=\"refused\"}";
        assert_eq!(server.metric(series).await, Some(1.0));

        // Released while it is still refused, it falls back once more.
        assert_eq!(release(&server, "/gateway/routes/a").await, 204);
        route_is(&server, "a", "refused", false).await;
        route_is(&server, "a", "refused", true).await;
        is_mended.store(true, Ordering::Relaxed);
        assert_eq!(release(&server, "/gateway/routes/a").await, 204);
        proxy.has(&["/bad", "/b1", "/c1"]).await;
        assert_eq!(route_is(&server, "a", "accepted", false).await["reason"], Value::Null);
        assert_eq!(release(&server, "/gateway/routes/a").await, 404);

        is_mended.store(false, Ordering::Relaxed);
        write(&server, "a", "/bad-too");
        route_is(&server, "a", "refused", true).await;
        write(&server, "a", "/a2");
        proxy.has(&["/a2", "/b1", "/c1"]).await;
        route_is(&server, "a", "accepted", false).await;
    }
}

#[tokio::test]
async fn the_trouble_of_one_host_is_not_that_of_all() {
    let server = serve(&[("a", "/a1"), ("b", "/b1")]).await;
    let troubled = Proxy::delta(&server, "n1", refuses(&["odd", "bad"])).await;
    let healthy = Proxy::delta(&server, "n2", refuses(&["bad"])).await;
    troubled.has(&["/a1", "/b1"]).await;
    healthy.has(&["/a1", "/b1"]).await;
    write(&server, "a", "/odd");
    healthy.has(&["/odd", "/b1"]).await;
    route_is(&server, "a", "refused", false).await;

    // Judged after the first one.
    write(&server, "b", "/bad");
    route_is(&server, "b", "refused", true).await;
    healthy.has(&["/odd", "/b1"]).await;
    let odd = route_is(&server, "a", "refused", false).await;
    assert_eq!(odd["serving_revision"], odd["revision"]);
    troubled.has(&["/a1", "/b1"]).await;
}

#[tokio::test]
async fn of_several_suspects_only_the_guilty_one_stays_refused() {
    let server = serve(&[("a", "/a1"), ("b", "/b1"), ("c", "/c1")]).await;
    // Answers the first change only when all three are there.
    let (mut is_silent, mut refuses) = (true, refuses(&["bad"]));
    let answer = move |paths: &Paths| {
        let changed = ["/a2", "/bad", "/c2"]
            .iter()
            .filter(|path| paths.contains(**path))
            .count();
        is_silent &= changed < 3;
        if is_silent && changed > 0 {
            Answer::Silence
        } else {
            refuses(paths)
        }
    };
    let proxy = Proxy::delta(&server, "n1", answer).await;
    proxy.has(&["/a1", "/b1", "/c1"]).await;
    for (name, path) in [("a", "/a2"), ("b", "/bad"), ("c", "/c2")] {
        write(&server, name, path);
    }
    let several = "refused by the proxy n1, 3 documents may be the cause: no such filter";
    let all_fall_back = || async { server.get("/api/v1/documents/routes/c").await["reason"].clone() };
    eventually(LIMIT, all_fall_back, json!(several)).await;
    proxy.has(&["/a2", "/b1", "/c2"]).await;
    let guilty = || async {
        let entry = server.get("/api/v1/documents/routes/b").await;
        (entry["quarantined"].clone(), entry["reason"].clone())
    };
    let alone = json!("refused by the proxy n1: no such filter");
    eventually(LIMIT, guilty, (json!(true), alone)).await;
    route_is(&server, "a", "accepted", false).await;
    route_is(&server, "c", "accepted", false).await;
}

#[tokio::test]
async fn a_directory_keeps_its_quarantine_over_a_restart() {
    let mut server = serve(&[("a", "/a1"), ("b", "/b1")]).await;
    let proxy = Proxy::delta(&server, "n1", refuses(&["bad"])).await;
    proxy.has(&["/a1", "/b1"]).await;
    write(&server, "a", "/bad");
    route_is(&server, "a", "refused", true).await;
    proxy.has(&["/a1", "/b1"]).await;
    drop(proxy);
    let is_saved = || async {
        let saved = fs::read_to_string(server.folder().join("state/quarantine.json"));
        saved.is_ok_and(|saved| saved.contains("routes/a"))
    };
    eventually(LIMIT, is_saved, true).await;

    server.restart().await;
    write(&server, "b", "/b2");
    server.ready().await;
    let proxy = Proxy::delta(&server, "n2", |_| Answer::Ack).await;
    proxy.has(&["/a1", "/b2"]).await;
    let refused = route_is(&server, "a", "refused", true).await;
    assert_eq!(refused["reason"], "refused by the proxy n1: no such filter");
    write(&server, "a", "/a2");
    proxy.has(&["/a2", "/b2"]).await;
}

#[tokio::test]
async fn of_many_documents_that_a_new_proxy_gets_the_bad_one_is_found() {
    let names: Vec<String> = (0..80).map(|number| format!("r{number:02}")).collect();
    let paths: Vec<String> = names.iter().map(|name| format!("/{name}")).collect();
    let routes = names.iter().zip(&paths).map(|(name, path)| match name.as_str() {
        "r57" => ("r57", "/bad"),
        name => (name, path.as_str()),
    });
    let server = serve(&routes.collect::<Vec<_>>()).await;
    let proxy = Proxy::delta(&server, "n1", refuses(&["bad"])).await;
    let good: Vec<&str> = paths
        .iter()
        .map(String::as_str)
        .filter(|path| *path != "/r57")
        .collect();
    proxy.has(&good).await;
    let bad = route_is(&server, "r57", "refused", true).await;
    assert_eq!(bad["reason"], "refused by the proxy n1: no such filter");
    let refused = || async {
        server.get("/api/v1/documents?state=refused").await["documents"]
            .as_array()
            .map(Vec::len)
    };
    eventually(LIMIT, refused, Some(1)).await;
}

#[tokio::test]
async fn replicas_share_a_quarantine() {
    let etcd = Etcd::start().await;
    let put = |name: &str, path: &str| etcd.etcdctl(&["put", &format!("/gateway/routes/{name}"), &route(path)]);
    put("a", "/a1");
    put("b", "/b1");
    let mut one = Server::on_etcd(&etcd).await;
    let two = Server::on_etcd(&etcd).await;
    one.ready().await;
    two.ready().await;
    let troubled = Proxy::delta(&one, "n1", refuses(&["odd", "bad"])).await;
    let healthy = Proxy::delta(&two, "n2", refuses(&["bad"])).await;
    troubled.has(&["/a1", "/b1"]).await;
    healthy.has(&["/a1", "/b1"]).await;

    put("a", "/bad");
    for server in [&one, &two] {
        route_is(server, "a", "refused", true).await;
    }
    assert_eq!(one.versions().await, two.versions().await);
    put("b", "/b2");
    troubled.has(&["/a1", "/b2"]).await;
    healthy.has(&["/a1", "/b2"]).await;
    let later = Server::on_etcd(&etcd).await;
    later.ready().await;
    assert_eq!(later.versions().await, two.versions().await);
    route_is(&later, "a", "refused", true).await;
    drop(troubled);
    one.restart().await;
    one.ready().await;
    assert_eq!(one.versions().await, two.versions().await);

    // The proxy of the first replica refuses what that of the second has accepted.
    let troubled = Proxy::delta(&one, "n1", refuses(&["odd", "bad"])).await;
    troubled.has(&["/a1", "/b2"]).await;
    put("b", "/odd");
    healthy.has(&["/a1", "/odd"]).await;
    let record = || async {
        let text = etcd.etcdctl(&["get", "--print-value-only", "/chancery/quarantine//gateway/routes/b"]);
        text.contains("\"is_accepted\":true")
    };
    eventually(LIMIT, record, true).await;
    for (server, state) in [(&one, "refused"), (&two, "accepted")] {
        let entry = route_is(server, "b", state, false).await;
        assert_eq!(entry["serving_revision"], entry["revision"]);
    }

    put("a", "/a2");
    healthy.has(&["/a2", "/odd"]).await;
    let is_over = || async { etcd.etcdctl(&["get", "/chancery/quarantine//gateway/routes/a"]) };
    eventually(LIMIT, is_over, String::new()).await;
}
