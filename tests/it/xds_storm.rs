//! A fleet that connects all at once, and the effect on the proxies that are connected already.

use std::time::{Duration, SystemTime};

use chancery::resource::ResourceType;
use tonic::transport::{Channel, Endpoint};

use crate::support::ads_client::{ADS_DELTA, DeltaStream, connect, contents, delta, delta_ack, node, types};
use crate::support::eventually::eventually;
use crate::xds_fixture::{Xds, cluster, endpoints, fixture, options};

const STREAMS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection for many streams, of which most are not read: with the usual window they would close it to each
/// other.
async fn connect_wide(xds: &Xds) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", xds.address)).unwrap();
    endpoint
        .initial_connection_window_size(1 << 30)
        .initial_stream_window_size(1 << 24)
        .connect()
        .await
        .unwrap()
}

/// A stream of this node that has subscribed to clusters and endpoints.
async fn join(channel: &Channel, id: usize, endpoints: &[&str]) -> DeltaStream {
    let stream = DeltaStream::open(channel, ADS_DELTA).await.unwrap();
    for (resource_type, names) in [(types::CLUSTER, [].as_slice()), (types::ENDPOINT, endpoints)] {
        let mut request = delta(resource_type, names, &[]);
        request.node = node(&format!("{id:04}"));
        stream.send(request);
    }
    stream
}

/// When each stream was sent its first answer of a type, in the order in which the streams were opened.
fn answered(xds: &Xds, resource_type: ResourceType) -> Vec<Option<SystemTime>> {
    let mut clients = xds.fleet.clients();
    clients.sort_by(|one, other| one.node_id.cmp(&other.node_id));
    let sent = |client: &chancery::fleet::ClientView| Some(client.types.get(&resource_type)?.sent.as_ref()?.at);
    clients.iter().map(sent).collect()
}

// GR-12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_answered_in_the_order_in_which_it_arrived() {
    let xds = Xds::start_with(options());
    let channel = connect_wide(&xds).await;
    let mut streams = Vec::new();
    for id in 0..STREAMS {
        streams.push(join(&channel, id, &["A", "B"]).await);
    }
    // All streams are held, because no snapshot is published. Each has sent its node, in the order of its connection.
    let asked = || async {
        let all = xds.fleet.clients();
        all.iter()
            .filter(|client| client.types.contains_key(&ResourceType::Endpoint))
            .count()
    };
    eventually(PATIENCE, asked, STREAMS).await;
    xds.commit(fixture());
    let all = || async { answered(&xds, ResourceType::Cluster).iter().flatten().count() };
    eventually(PATIENCE, all, STREAMS).await;
    let at: Vec<SystemTime> = answered(&xds, ResourceType::Cluster).into_iter().flatten().collect();
    // Turns run in parallel on this many threads: neighbours may swap, but no stream is overtaken by many.
    let side_by_side = std::thread::available_parallelism().unwrap().get();
    let mut latest = SystemTime::UNIX_EPOCH;
    let passed = at.windows(side_by_side + 1).filter(|window| {
        latest = latest.max(window[0]);
        latest > window[side_by_side]
    });
    assert_eq!(
        passed.count(),
        0,
        "a stream was answered after others that came long after it"
    );
    drop(streams);
}

// A settled stream gets its update while others wait for their first responses: updates skip the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_settled_does_not_wait_behind_a_storm() {
    let xds = Xds::start();
    let names: Vec<String> = (0..3000).map(|number| format!("cluster-{number}")).collect();
    xds.commit(names.iter().map(|name| endpoints(name, 1)).collect());
    let mut settled = join(&connect(xds.address).await, 0, &["A"]).await;
    for _ in 0..2 {
        let response = settled.receive().await;
        let mut ack = delta_ack(&response);
        ack.node = node("0000");
        settled.send(ack);
    }
    // Each stream subscribes to a selection of its own, so that no response is shared.
    let channel = connect_wide(&xds).await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut storm = Vec::new();
    for id in 1..=200 {
        storm.push(join(&channel, id, &names[id..]).await);
    }
    xds.commit(vec![cluster("A", 2)]);
    assert_eq!(contents(&settled.receive().await).0, ["A"]);
    for stream in &mut storm {
        let (mut clusters, mut endpoints) = (0, 0);
        while endpoints == 0 || clusters == 0 {
            let response = stream.receive().await;
            match &*response.type_url {
                types::CLUSTER => clusters += response.resources.len(),
                _ => endpoints += response.resources.len(),
            }
        }
        assert!(clusters >= 3 && endpoints > 2700);
    }
}
