//! Writes through the API: a write is judged with all writes before it, whichever replica took them, and the replica that
//! answered shows it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use chancery::app::App;
use chancery::config::{Config, Flags};
use chancery::shutdown::{self, Signal};
use reqwest::{Client, Method, Response, StatusCode};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::etcd::{Etcd, data_folder};
use crate::support::eventually::eventually;

/// Writes, or pairs of writes, of one test.
const WRITES: usize = 30;
const LIMIT: Duration = Duration::from_secs(30);

/// A whole server.
pub(crate) struct Replica {
    pub(crate) admin: SocketAddr,
    pub(crate) client: Client,
    signals: mpsc::Sender<Signal>,
    task: JoinHandle<Result<(), shutdown::Error>>,
    _state: TempDir,
}

impl Replica {
    pub(crate) async fn of_etcd(etcd: &Etcd) -> Self {
        Self::start([("CHANCERY_ETCD", etcd.endpoint())]).await
    }

    pub(crate) async fn of_folder(folder: &Path) -> Self {
        Self::start([("CHANCERY_DIR", folder.display().to_string())]).await
    }

    async fn start(store: [(&str, String); 1]) -> Self {
        let state = data_folder();
        let variables = [
            ("CHANCERY_STATE_DIR", state.path().display().to_string()),
            ("CHANCERY_XDS_LISTEN", "127.0.0.1:0".to_owned()),
            ("CHANCERY_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ];
        let variables = variables.into_iter().chain(store);
        let environment = variables.map(|(name, value)| (name.to_owned(), value)).collect();
        let config = Config::load(&Flags::default(), &environment, |path| std::fs::read_to_string(path)).unwrap();
        let grace = config.grace;
        let app = App::bind(config).await.unwrap();
        let admin = app.admin_address().unwrap();
        let (signals, asked) = mpsc::channel(1);
        let task = tokio::spawn(app.start(None).run(ReceiverStream::new(asked), grace));
        let replica = Self {
            admin,
            client: Client::new(),
            signals,
            task,
            _state: state,
        };
        let ready = format!("http://{admin}/readyz");
        let is_ready = || async {
            let answer = replica.client.get(&ready).send().await;
            answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
        };
        eventually(LIMIT, is_ready, true).await;
        replica
    }

    pub(crate) async fn ask(&self, method: Method, key: &str, text: Option<String>) -> Response {
        let url = format!("http://{}/api/v1/documents/{key}", self.admin);
        let request = self.client.request(method, url);
        request.body(text.unwrap_or_default()).send().await.unwrap()
    }

    pub(crate) async fn put(&self, key: &str, text: &str) -> StatusCode {
        self.ask(Method::PUT, key, Some(text.to_owned())).await.status()
    }

    async fn delete(&self, key: &str) -> StatusCode {
        self.ask(Method::DELETE, key, None).await.status()
    }

    pub(crate) async fn stop(self) {
        self.signals.send(Signal::Stop).await.unwrap();
        self.task.await.unwrap().unwrap();
    }
}

fn route(path: &str, cluster: &str) -> String {
    format!(r#"{{"match": "/{path}", "to": "{cluster}"}}"#)
}

/// Each write is shown by the replica that answered it, with the `ETag` of the answer.
async fn shows_its_own_writes(replica: &Replica) {
    for number in 0..2 * WRITES {
        // Each key is written twice.
        let key = format!("routes/r{}", number / 2);
        let written = replica
            .ask(Method::PUT, &key, Some(route(&format!("own{number}"), "x")))
            .await;
        let expected = if number % 2 == 0 {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        assert_eq!(written.status(), expected);
        let shown = replica.ask(Method::GET, &key, None).await;
        assert_eq!(shown.status(), StatusCode::OK, "{key}");
        assert_eq!(shown.headers().get("etag"), written.headers().get("etag"), "{key}");
    }
    assert_eq!(replica.delete("routes/r0").await, StatusCode::NO_CONTENT);
    assert_eq!(
        replica.ask(Method::GET, "routes/r0", None).await.status(),
        StatusCode::NOT_FOUND
    );
}

/// Of two routes of one match, one after the other, the second is refused.
async fn refuses_the_second_match(one: &Replica, other: &Replica) {
    for number in 0..WRITES {
        let text = route(&format!("second{number}"), "x");
        assert_eq!(one.put(&format!("routes/a{number}"), &text).await, StatusCode::CREATED);
        assert_eq!(
            other.put(&format!("routes/b{number}"), &text).await,
            StatusCode::CONFLICT,
            "{number}"
        );
    }
}

/// A cluster that was just taken into use is not deleted.
async fn keeps_clusters_in_use(one: &Replica, other: &Replica) {
    for number in 0..WRITES {
        let (cluster, user) = (format!("clusters/c{number}"), format!("routes/u{number}"));
        assert_eq!(one.put(&cluster, "{}").await, StatusCode::CREATED);
        let text = route(&format!("used{number}"), &format!("c{number}"));
        assert_eq!(one.put(&user, &text).await, StatusCode::CREATED);
        assert_eq!(other.delete(&cluster).await, StatusCode::CONFLICT, "{number}");
    }
}

/// Of many writes of one match at the same time, through both replicas, one is accepted.
async fn accepts_one_of_many(one: &Replica, other: &Replica) {
    for round in 0..3 {
        let text = route(&format!("many{round}"), "x");
        let replicas = [one, other].into_iter().cycle().take(2 * 8);
        let puts = replicas.enumerate().map(|(number, replica)| {
            let (key, text) = (format!("routes/m{round}-{number}"), text.clone());
            async move { replica.put(&key, &text).await }
        });
        let answers = futures::future::join_all(puts).await;
        let count = |status| answers.iter().filter(|answer| **answer == status).count();
        assert_eq!(
            (count(StatusCode::CREATED), count(StatusCode::CONFLICT)),
            (1, answers.len() - 1),
            "{answers:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_of_one_etcd_judge_writes_together() {
    let etcd = Etcd::start().await;
    let (one, other) = tokio::join!(Replica::of_etcd(&etcd), Replica::of_etcd(&etcd));
    shows_its_own_writes(&one).await;
    for replica in [&one, &other] {
        // The other replica has not seen the first write of a pair.
        refuses_the_second_match(&one, replica).await;
        for number in 0..WRITES {
            let deleted = replica.ask(Method::DELETE, &format!("routes/a{number}"), None).await;
            let status = deleted.status();
            assert_eq!(status, StatusCode::NO_CONTENT, "{}", deleted.text().await.unwrap());
        }
    }
    keeps_clusters_in_use(&one, &other).await;
    accepts_one_of_many(&one, &other).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_of_one_folder_judge_writes_together() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = tokio::join!(Replica::of_folder(folder.path()), Replica::of_folder(folder.path()));
    shows_its_own_writes(&one).await;
    refuses_the_second_match(&one, &other).await;
    keeps_clusters_in_use(&one, &other).await;
    accepts_one_of_many(&one, &other).await;

    // No write of either is lost.
    let puts = (0..2 * WRITES).map(|number| {
        let replica = if number % 2 == 0 { &one } else { &other };
        async move { replica.put(&format!("clusters/both{number}"), "{}").await }
    });
    let answers = futures::future::join_all(puts).await;
    assert!(
        answers.iter().all(|answer| *answer == StatusCode::CREATED),
        "{answers:?}"
    );
    for number in 0..2 * WRITES {
        assert!(
            folder.path().join(format!("clusters/both{number}.json")).exists(),
            "{number}"
        );
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_a_folder_cannot_have_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Replica::of_folder(folder.path()).await;
    assert_eq!(server.put("services/a/1", "10.0.0.1:80").await, StatusCode::CREATED);
    let long = "x".repeat(251);
    let deep = "d/".repeat(2200);
    for bad in ["..", "a%2F..", "a%2F%2Fb", &long, "1.json%2Fx", &format!("{deep}x")] {
        let status = server
            .put(&format!("services/a%2F{}", bad.replace('/', "%2F")), "10.0.0.2:80")
            .await;
        assert!(status.is_client_error(), "{bad:.20}: {status}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_to_a_frozen_etcd_fail_together() {
    let etcd = Etcd::start().await;
    let replica = Replica::of_etcd(&etcd).await;
    assert_eq!(replica.put("clusters/x", "{}").await, StatusCode::CREATED);
    etcd.stop();
    let writes = |count: usize| {
        let replica = &replica;
        let begun = Instant::now();
        let puts = (0..count).map(|number| async move {
            let key = format!("routes/r{number}");
            (
                replica.put(&key, &route(&format!("p{number}"), "x")).await,
                begun.elapsed(),
            )
        });
        futures::future::join_all(puts.collect::<Vec<_>>())
    };
    let alone = writes(1).await[0].1;
    for (status, elapsed) in writes(40).await {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(elapsed < alone + Duration::from_secs(8), "{elapsed:?}, {alone:?} alone");
    }
    etcd.cont();
    let is_written = || async { replica.put("routes/after", &route("after", "x")).await.is_success() };
    eventually(LIMIT, is_written, true).await;
    replica.stop().await;
}

/// Fill etcd up to its quota: from then on it takes deletions only.
async fn fill(etcd: &Etcd) {
    let mut client = etcd.client().await;
    for number in 0..1000 {
        let put = client
            .put(format!("/filler/{number}"), vec![b'x'; 200 * 1024], None)
            .await;
        if let Err(error) = put {
            assert!(error.to_string().contains("database space exceeded"), "{error}");
            return;
        }
    }
    panic!("etcd takes everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_is_read_and_said_to_be_full() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes", "4000000"]).await;
    let replica = Replica::of_etcd(&etcd).await;
    assert_eq!(replica.put("clusters/x", "{}").await, StatusCode::CREATED);
    assert_eq!(replica.put("routes/a", &route("a", "x")).await, StatusCode::CREATED);
    fill(&etcd).await;

    let refused = replica.ask(Method::PUT, "routes/b", Some(route("b", "x"))).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let refused = refused.text().await.unwrap();
    assert!(refused.contains("database space exceeded"), "{refused}");
    assert_eq!(
        replica.ask(Method::GET, "routes/a", None).await.status(),
        StatusCode::OK
    );

    // A deleted cluster in use is kept, and its record below the state prefix cannot be written.
    etcd.etcdctl(&["del", "/gateway/clusters/x"]);
    let ready = || async {
        let answer = replica.client.get(format!("http://{}/readyz", replica.admin)).send();
        let answer = answer.await.unwrap();
        let is_ready = answer.status() == StatusCode::OK;
        let text = answer.text().await.unwrap();
        (
            is_ready,
            text.contains("save to --state-prefix") && text.contains("database space exceeded"),
        )
    };
    eventually(LIMIT, ready, (true, true)).await;

    etcd.etcdctl(&["del", "--prefix", "/filler/"]);
    let status = etcd.etcdctl(&["endpoint", "status", "--write-out", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    etcd.etcdctl(&["compaction", &revision]);
    etcd.etcdctl(&["defrag"]);
    etcd.etcdctl(&["alarm", "disarm"]);
    let is_written = || async { replica.put("routes/b", &route("b", "x")).await.is_success() };
    eventually(LIMIT, is_written, true).await;
    eventually(LIMIT, ready, (true, false)).await;
    replica.stop().await;
}
