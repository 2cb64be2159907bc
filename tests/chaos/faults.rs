//! The faults. Each begins in a whole installation, lasts under traffic and changes, and is ended; then everything must be
//! as before (`Installation::recover`). No fault owns a request: Envoy goes on with what it has.

use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::changes::{self, deletions, generation_paths, put};
use crate::installation::{ENVOYS, Installation, REPLICAS};
use crate::members::MEMBERS;
use crate::store::Write;

/// Documents of one mass: more than half of all, and more than ten.
const MASS: usize = 90;
/// Revisions of a flood.
const FLOOD: usize = 300;
/// Longer than any fault lasts.
const SILENCE: Duration = Duration::from_secs(3600);

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A replica is killed and starts again, with its state or without.
    KillReplica,
    /// A replica is frozen and thawed.
    FreezeReplica,
    /// A member of etcd is killed and starts again.
    KillMember,
    /// A member of etcd is frozen and thawed.
    FreezeMember,
    /// All members are killed; a replica starts while there is none.
    KillStore,
    /// A replica is cut off from all members.
    CutStore,
    /// A replica hears nothing from members, over connections that stay.
    SilenceStore,
    /// The Envoys are cut off from a replica.
    CutEnvoys,
    /// Everything between replicas, members and Envoys takes longer.
    DelayLinks,
    /// The history is compacted while a replica is cut off.
    Compact,
    /// The store is restored from a snapshot, to an older revision.
    Restore,
    /// Hundreds of revisions as fast as the store takes them.
    Flood,
    /// Most documents are deleted at once.
    MassDeletion,
    /// All instances of a cluster are gone at once.
    MassExpiry,
    /// Documents turn bad.
    Poison,
    /// Good and bad texts and deletions at random, each of which some replica may miss.
    Muddle,
    /// A document conflicts with another.
    Conflict,
    /// A document that only Envoy refuses, a different one each time.
    RefusedByEnvoy,
    /// The disk of a state directory is full.
    FullDisk,
    /// The wall clock of a replica jumps.
    ClockJump,
    /// The replicas are stopped and started one after the other.
    RollingRestart,
    /// Thirty routes are replaced by thirty others; then all replicas restart with the state of before.
    OldState,
}

impl Fault {
    /// Every kind.
    pub(crate) const ALL: [Self; 22] = [
        Self::KillReplica,
        Self::FreezeReplica,
        Self::KillMember,
        Self::FreezeMember,
        Self::KillStore,
        Self::CutStore,
        Self::SilenceStore,
        Self::CutEnvoys,
        Self::DelayLinks,
        Self::Compact,
        Self::Restore,
        Self::Flood,
        Self::MassDeletion,
        Self::MassExpiry,
        Self::Poison,
        Self::Muddle,
        Self::Conflict,
        Self::RefusedByEnvoy,
        Self::FullDisk,
        Self::ClockJump,
        Self::RollingRestart,
        Self::OldState,
    ];

    /// From the name that is printed.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| format!("{fault:?}") == name)
    }

    /// Let it happen, and end it.
    pub(crate) async fn strike(self, on: &mut Installation) {
        match self {
            Self::KillReplica => kill_replica(on).await,
            Self::FreezeReplica => {
                let replica = on.any_replica();
                on.replicas[replica].server.freeze();
                on.last(1000..7000).await;
                on.replicas[replica].server.thaw();
            }
            Self::KillMember => {
                let member = on.random.random_range(0..MEMBERS);
                on.members.kill(member);
                on.last(500..4000).await;
                on.members.start_all();
                on.members.answers().await;
            }
            Self::FreezeMember => {
                let member = on.random.random_range(0..MEMBERS);
                on.members.freeze(member);
                on.last(1000..6000).await;
                on.members.thaw(member);
            }
            Self::KillStore => kill_store(on).await,
            Self::CutStore => {
                let replica = on.any_replica();
                on.replicas[replica].cut_from_store(true);
                on.last(500..5000).await;
                on.replicas[replica].cut_from_store(false);
            }
            Self::SilenceStore => {
                let replica = on.any_replica();
                on.replicas[replica].delay_store(SILENCE);
                on.last(2000..7000).await;
                on.replicas[replica].delay_store(Duration::ZERO);
            }
            Self::CutEnvoys => {
                let replica = on.any_replica();
                on.replicas[replica].front.cut();
                on.last(500..4000).await;
                on.replicas[replica].front.mend();
            }
            Self::DelayLinks => delay_links(on).await,
            Self::Compact => {
                let replica = on.any_replica();
                on.replicas[replica].cut_from_store(true);
                on.last(500..2000).await;
                on.store.compact().await;
                on.replicas[replica].cut_from_store(false);
            }
            Self::Restore => restore(on).await,
            Self::Flood => flood(on).await,
            Self::MassDeletion => mass_deletion(on).await,
            Self::MassExpiry => mass_expiry(on).await,
            Self::Poison => poison(on).await,
            Self::Muddle => muddle(on).await,
            Self::Conflict => conflict(on).await,
            Self::RefusedByEnvoy => refused_by_envoy(on).await,
            Self::FullDisk => full_disk(on).await,
            Self::ClockJump => clock_jump(on).await,
            Self::RollingRestart => rolling_restart(on).await,
            Self::OldState => old_state(on).await,
        }
    }
}

async fn kill_replica(on: &mut Installation) {
    let replica = on.any_replica();
    on.replicas[replica].server.kill();
    on.last(0..3000).await;
    if on.random.random_bool(0.5) {
        on.replicas[replica].wipe();
    }
    on.restart(replica).await;
}

/// Something that happens to a replica while another fault lasts: it misses some of it.
async fn trouble(on: &mut Installation) {
    let replica = on.any_replica();
    match on.random.random_range(0..4) {
        0 => {}
        1 => kill_replica(on).await,
        2 => {
            on.replicas[replica].cut_from_store(true);
            on.last(200..1500).await;
            on.replicas[replica].cut_from_store(false);
            on.catch_up().await;
        }
        _ => on.store.compact().await,
    }
}

async fn kill_store(on: &mut Installation) {
    for member in 0..MEMBERS {
        on.members.kill(member);
    }
    on.last(500..2000).await;
    let replica = on.any_replica();
    on.replicas[replica].server.kill();
    on.restart(replica).await;
    on.last(500..2000).await;
    on.members.start_all();
    on.members.answers().await;
}

async fn delay_links(on: &mut Installation) {
    for replica in 0..REPLICAS {
        let delay = Duration::from_millis(on.random.random_range(20..400));
        on.replicas[replica].delay_store(delay);
        on.replicas[replica].front.delay(delay / 2);
    }
    on.last(2000..6000).await;
    for replica in &on.replicas {
        replica.delay_store(Duration::ZERO);
        replica.front.delay(Duration::ZERO);
    }
}

async fn restore(on: &mut Installation) {
    let file = on.members.save();
    // Changes that the restore takes back.
    on.last(1000..3000).await;

    let store = std::sync::Arc::clone(&on.store);
    let mut writer = store.pause().await;
    on.versions.pause();
    on.traffic.may_go_back(true);
    on.members.restore(&file).await;
    store.on_restored(&mut writer).await;
    let (tick, revision) = changes::tick_as(&on.documents, &store, &mut writer).await;
    on.until_entries("/gateway/routes/tick", "of the restored store", |entry| {
        entry["revision"] == revision && entry["serving_revision"] == revision
    })
    .await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while on.traffic.ticks().iter().any(|seen| *seen < tick) && tokio::time::Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    on.traffic.may_go_back(false);
    on.versions.resume();
    drop(writer);
    std::fs::remove_file(file).expect("remove the snapshot");
}

async fn flood(on: &mut Installation) {
    let route = |number: usize| {
        let document = json!({ "match": format!("/flood/{number}"), "to": "registered", "timeout": "3s" });
        put(&format!("/gateway/routes/flood-{}", number % 10), document)
    };
    for number in 0..FLOOD {
        on.store.commit(&[route(number)]).await;
    }
    let all: Vec<Write> = (0..10).map(route).collect();
    on.store.commit(&deletions(&all)).await;
}

async fn mass_deletion(on: &mut Installation) {
    let route = |number: usize| {
        let document = json!({ "match": format!("/mass/{number}"), "to": "registered" });
        put(&format!("/gateway/routes/mass-{number}"), document)
    };
    let mass: Vec<Write> = (0..MASS).map(route).collect();
    on.store.commit(&mass).await;
    on.until_listed("/gateway/routes/mass-", MASS).await;
    on.store.commit(&deletions(&mass)).await;
    trouble(on).await;
    if on.random.random_bool(0.5) {
        on.last(500..3000).await;
        let replica = on.any_replica();
        on.release(replica).await;
    }
    on.until_listed("/gateway/routes/mass-", 0).await;
}

async fn mass_expiry(on: &mut Installation) {
    let instance = |number: usize| {
        let address = format!("10.9.0.{}:80", number + 1);
        (format!("/services/herd/{number}"), Some(address))
    };
    let herd: Vec<Write> = (0..30).map(instance).collect();
    let cluster = put("/gateway/clusters/herd", json!({}));
    on.store.commit(&[herd.clone(), vec![cluster.clone()]].concat()).await;
    on.until_listed("/services/herd/", 30).await;
    on.store.commit(&deletions(&herd)).await;
    // So many at once look like an accident: all are kept for a minute, also by a replica that is born meanwhile.
    let is_kept = |entry: &Value| entry["state"] == "held";
    on.until_entries("/services/herd/0", "held", is_kept).await;
    kill_replica(on).await;
    on.until_entries("/services/herd/0", "held", is_kept).await;
    trouble(on).await;
    on.last(1500..3000).await;
    match on.random.random_range(0..2) {
        0 => {
            let replica = on.any_replica();
            on.release(replica).await;
            on.until_listed("/services/herd/", 0).await;
        }
        _ => {
            let others = herd
                .iter()
                .map(|(key, address)| (key.replace("herd/", "herd/new-"), address.clone()));
            let others: Vec<Write> = others.collect();
            on.store.commit(&others).await;
            on.until_listed("/services/herd/", 30).await;
            for half in others.chunks(5) {
                on.store.commit(&deletions(half)).await;
                on.last(0..200).await;
            }
            let replica = on.any_replica();
            on.release(replica).await;
        }
    }
    on.store.commit(&deletions(&[cluster])).await;
}

async fn poison(on: &mut Installation) {
    let good = [
        put("/gateway/routes/poison", json!({ "match": "/poison", "to": "poison" })),
        put(
            "/gateway/clusters/poison",
            json!({ "endpoints": [{ "address": "10.9.1.1:80" }] }),
        ),
        put("/gateway/defaults", json!({ "route": { "timeout": "9s" } })),
        ("/services/registered/poison".to_owned(), None),
    ];
    on.store.commit(&good).await;
    on.until_entries("/gateway/routes/poison", "accepted", |entry| {
        entry["state"] == "accepted"
    })
    .await;
    let mut bad = [
        ("/gateway/routes/poison".to_owned(), Some("{".to_owned())),
        put("/gateway/clusters/poison", json!({ "endpoints": 7 })),
        put("/gateway/defaults", json!({ "route": { "timeout": 9 } })),
        ("/services/registered/poison".to_owned(), Some("nowhere".to_owned())),
    ];
    bad.shuffle(&mut on.random);
    for write in bad {
        on.store.commit(&[write]).await;
        on.last(0..500).await;
    }
    trouble(on).await;
    trouble(on).await;
    let is_kept = |entry: &Value| entry["state"] == "rejected" && entry["serving_revision"].is_number();
    on.until_entries("/gateway/routes/poison", "rejected with its last good text", is_kept)
        .await;
    let mended = [
        put(
            "/gateway/routes/poison",
            json!({ "match": "/poison/mended", "to": "poison" }),
        ),
        good[1].clone(),
    ];
    on.store.commit(&mended).await;
    on.until_entries("/gateway/routes/poison", "accepted", |entry| {
        entry["state"] == "accepted"
    })
    .await;
    on.store.commit(&deletions(&good)).await;
}

/// Keys without traffic, with texts that are good there. Each refers to others.
const MUDDLED: &[(&str, &[&str])] = &[
    ("/gateway/routes/muddled-a", MUDDLED_ROUTES),
    ("/gateway/routes/muddled-b", MUDDLED_ROUTES),
    ("/gateway/clusters/muddled-x", MUDDLED_CLUSTERS),
    ("/gateway/clusters/muddled-y", MUDDLED_CLUSTERS),
    ("/gateway/listeners/muddled-l", MUDDLED_LISTENERS),
    ("/gateway/listeners/muddled-m", MUDDLED_LISTENERS),
    ("/gateway/groups/muddled", &[r#"{"match": [{"id": "nobody-*"}]}"#]),
    (
        "/gateway/defaults",
        &[r#"{"route": {"timeout": "7s"}}"#, r#"{"route": {"timeout": "8s"}}"#],
    ),
    ("/services/muddled-x/1", &["10.9.2.8:80", "10.9.2.9:80"]),
];

const MUDDLED_ROUTES: &[&str] = &[
    r#"{"match": "/muddled/1", "to": "muddled-x"}"#,
    r#"{"match": "/muddled/2", "to": "muddled-y"}"#,
    r#"{"match": "example.com/muddled/1/*", "to": "muddled-y", "listeners": ["muddled-l"]}"#,
    r#"{"match": "/muddled/1", "to": "http://10.9.2.1:80", "groups": ["muddled"]}"#,
];

const MUDDLED_CLUSTERS: &[&str] = &[
    r#"{"endpoints": [{"address": "10.9.2.1:80"}]}"#,
    r#"{"endpoints": [{"address": "10.9.2.2:80"}], "groups": ["muddled"]}"#,
    "{}",
];

const MUDDLED_LISTENERS: &[&str] = &[
    r#"{"address": "127.9.9.8:10001", "groups": ["muddled"]}"#,
    r#"{"address": "127.9.9.8:10002", "groups": ["muddled"]}"#,
];

const BAD: &[&str] = &["{", r#"{"match": 5}"#, r#"{"endpoints": 7}"#];

async fn muddle(on: &mut Installation) {
    for _ in 0..4 {
        for _ in 0..on.random.random_range(1..5) {
            let (key, good) = MUDDLED[on.random.random_range(0..MUDDLED.len())];
            let text = match on.random.random_range(0..10) {
                0..2 => None,
                2..5 => BAD.choose(&mut on.random),
                _ => good.choose(&mut on.random),
            };
            let text = text.map(|text| (*text).to_owned());
            on.store.commit(&[(key.to_owned(), text)]).await;
            on.last(0..300).await;
        }
        trouble(on).await;
        if on.random.random_bool(0.2) {
            let replica = on.any_replica();
            on.release(replica).await;
        }
    }
    // As long as a difference may last at the most, and longer.
    on.last(1500..1600).await;
    let all: Vec<Write> = MUDDLED.iter().map(|(key, _)| ((*key).to_owned(), None)).collect();
    on.store.commit(&all).await;
}

async fn conflict(on: &mut Installation) {
    let (node, _) = ENVOYS[on.random.random_range(0..ENVOYS.len())];
    let taken = on.addresses()[0].to_string();
    let free = json!({ "address": "127.9.9.9:10001", "groups": ["nobody"] });
    let key = "/gateway/listeners/conflict";
    on.store.commit(&[put(key, free.clone())]).await;
    // The address of a listener of another document.
    let claims = json!({ "address": taken, "groups": ["edge-1"] });
    on.store.commit(&[put(key, claims)]).await;
    trouble(on).await;
    on.until_entries(key, "rejected", |entry| entry["state"] == "rejected")
        .await;
    let twin = json!({ "match": "/steady", "to": { "respond": { "status": 418 } } });
    on.store.commit(&[put("/gateway/routes/twin", twin)]).await;
    trouble(on).await;
    on.until_entries("/gateway/routes/twin", "shadowed", |entry| entry["state"] == "shadowed")
        .await;
    let all = [put(key, free), put("/gateway/routes/twin", json!(node))];
    on.store.commit(&deletions(&all)).await;
}

async fn refused_by_envoy(on: &mut Installation) {
    let (node, _) = ENVOYS[on.random.random_range(0..ENVOYS.len())];
    let missing = "/nowhere/missing";
    let (key, document) = match on.random.random_range(0..3) {
        // A route table in place of that of the traffic.
        0 => {
            let body = json!({ "filename": missing });
            let route = json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": body } });
            let host = json!({ "name": "all", "domains": ["*"], "routes": [route] });
            let resource = json!({
                "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                "name": node, "virtual_hosts": [host],
            });
            (
                format!("/gateway/xds/routes/{node}"),
                json!({ "resource": resource, "replace": true, "groups": [node] }),
            )
        }
        // A cluster for everybody.
        1 => {
            let context = json!({
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": { "validation_context": { "trusted_ca": { "filename": missing } } },
            });
            let resource = json!({
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "refused", "type": "STATIC", "connect_timeout": "1s",
                "load_assignment": { "cluster_name": "refused" },
                "transport_socket": { "name": "tls", "typed_config": context },
            });
            (
                "/gateway/xds/clusters/refused".to_owned(),
                json!({ "resource": resource }),
            )
        }
        // A listener whose port is taken on every host.
        _ => {
            let port = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
            let address = port.local_addr().expect("a bound listener has an address").to_string();
            // Taken as long as the test runs.
            std::mem::forget(port);
            ("/gateway/listeners/refused".to_owned(), json!({ "address": address }))
        }
    };
    on.store.commit(&[put(&key, document)]).await;
    on.until_entries(&key, "refused", |entry| entry["state"] == "refused")
        .await;
    // What else changes arrives.
    on.recover().await;
    trouble(on).await;
    on.until_entries(&key, "refused", |entry| entry["state"] == "refused")
        .await;
    on.recover().await;
    on.store.commit(&[(key.clone(), None)]).await;
    on.until_listed(&key, 0).await;
}

async fn full_disk(on: &mut Installation) {
    let replica = on.any_replica();
    if !on.replicas[replica].fill_disk() {
        println!("  skipped: without the right to mount, no disk can be filled");
        return;
    }
    on.last(2000..4000).await;
    if on.random.random_bool(0.5) {
        on.replicas[replica].server.kill();
        on.restart(replica).await;
        on.last(500..1500).await;
    }
    on.replicas[replica].empty_disk();
}

async fn clock_jump(on: &mut Installation) {
    let replica = on.any_replica();
    let hours = on.random.random_range(-48..48);
    if !on.replicas[replica].set_clock(hours * 3600) {
        println!("  skipped: without a C compiler, no clock can jump");
        return;
    }
    on.last(500..1500).await;
    poison(on).await;
    on.replicas[replica].set_clock(0);
}

async fn rolling_restart(on: &mut Installation) {
    for replica in 0..REPLICAS {
        on.replicas[replica].stop().await;
        on.restart(replica).await;
    }
}

async fn old_state(on: &mut Installation) {
    // Saved within a second.
    on.last(1500..1600).await;
    let states: Vec<TempDir> = on.replicas.iter().map(crate::replica::Replica::copy_state).collect();
    replace_generation(on).await;
    for (replica, state) in states.iter().enumerate() {
        on.replicas[replica].server.kill();
        on.replicas[replica].replace_state(Some(state.path()));
        on.restart(replica).await;
        on.last(300..2000).await;
    }
}

/// New routes first, then the traffic moves there, then the old ones go.
async fn replace_generation(on: &mut Installation) {
    let (before, next) = (on.generation, on.generation + 1);
    on.generation = next;
    for some in on.documents.generation(next).chunks(10) {
        on.store.commit(some).await;
    }
    for path in generation_paths(next) {
        on.until_served(&path).await;
    }
    on.traffic.move_to(generation_paths(next));
    for some in deletions(&on.documents.generation(before)).chunks(10) {
        on.store.commit(some).await;
    }
    on.until_listed(&format!("/gateway/routes/generation-{before}/"), 0)
        .await;
}
