//! The cost of one client is bounded, and the others are served: unfinished requests, silent streams, too many streams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use chancery::fleet::Variant;
use chancery::fleet::limit::Limit;
use chancery::xds::Limits;
use chancery::xds::options::Options;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use prost::Message;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::support::ads_client::{ADS_DELTA, DeltaStream, connect, contents, delta, delta_ack, types};
use crate::support::eventually::eventually;
use crate::xds_fixture::{Xds, fixture, options};

const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(200);
const KIB: usize = 1024;
const LOAD_REPORTS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
/// Addresses of this machine.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn limited(max_streams: usize, change: impl Fn(&mut Limits)) -> Xds {
    let mut limits = Limits::new(max_streams, usize::MAX);
    change(&mut limits);
    let xds = Xds::start_with(Options {
        max_streams,
        limits,
        ..options()
    });
    xds.commit(fixture());
    xds
}

fn reached(xds: &Xds, limit: Limit) -> u64 {
    xds.fleet.reached().of(limit)
}

/// A connection that sends what it likes.
struct Raw(SendRequest<Bytes>);

/// A stream of such a connection.
struct RawStream {
    response: ResponseFuture,
    out: SendStream<Bytes>,
}

impl Raw {
    async fn connect(xds: &Xds, from: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).unwrap();
        let stream = socket.connect(xds.address).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    async fn open(&mut self, path: &str) -> RawStream {
        let mut send = self.0.clone().ready().await.unwrap();
        let request = Request::post(format!("http://xds{path}")).header("content-type", "application/grpc");
        let (response, out) = send.send_request(request.body(()).unwrap(), false).unwrap();
        RawStream { response, out }
    }
}

impl RawStream {
    /// Send a part of a request that claims to have `claimed` bytes.
    fn begin(&mut self, claimed: usize, sent: usize) {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(claimed).unwrap());
        bytes.put_bytes(0, sent);
        self.out.send_data(bytes.freeze(), false).unwrap();
    }

    /// `grpc-status` and `grpc-message`, once the stream has ended. `None`: it was reset, or its connection is closed.
    async fn ended(self) -> Option<(String, String)> {
        let status = async {
            let (head, mut body): (_, RecvStream) = self.response.await.ok()?.into_parts();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data.ok()?.len()).ok()?;
            }
            let trailers = body.trailers().await.ok()?.unwrap_or(head.headers);
            let text = |name: &str| Some(trailers.get(name)?.to_str().ok()?.to_owned());
            Some((text("grpc-status")?, text("grpc-message").unwrap_or_default()))
        };
        timeout(PATIENCE, status).await.expect("the stream ends")
    }

    /// Whether the stream is open after a while.
    async fn stays(self) -> bool {
        timeout(SOON, self.response).await.is_ok_and(|response| {
            let body = response.map(http::Response::into_body);
            body.is_ok_and(|body| !body.is_end_stream())
        })
    }
}

/// A proxy on a connection of its own gets its clusters.
async fn is_served(xds: &Xds) {
    let mut stream = DeltaStream::open(&connect(xds.address).await, ADS_DELTA).await.unwrap();
    stream.send(delta(types::CLUSTER, &[], &[]));
    let response = stream.receive().await;
    assert_eq!(contents(&response).0, ["A", "B", "S"]);
    stream.send(delta_ack(&response));
}

#[tokio::test]
async fn unfinished_requests_of_a_connection_have_a_budget() {
    let xds = limited(1000, |limits| limits.connection_unfinished = 2048 * KIB);
    let mut raw = Raw::connect(&xds, HERE).await;
    let mut first = raw.open(ADS_DELTA).await;
    first.begin(64 * KIB * KIB, 900 * KIB);
    let mut second = raw.open(ADS_DELTA).await;
    second.begin(64 * KIB * KIB, 900 * KIB);
    let mut third = raw.open(ADS_DELTA).await;
    third.begin(64 * KIB * KIB, 900 * KIB);
    let streams = [first, second, third].map(|stream| tokio::spawn(stream.ended()));
    let (status, _, _) = futures::future::select_all(streams).await;
    let (code, message) = status.unwrap().expect("a status");
    assert_eq!(code, "8");
    assert!(
        message.starts_with("the unfinished requests of the connection have "),
        "{message}"
    );
    assert_eq!(reached(&xds, Limit::ConnectionUnfinished), 1);
    is_served(&xds).await;
}

#[tokio::test]
async fn beyond_the_budget_of_all_the_largest_address_loses_its_largest_connection() {
    let xds = limited(1000, |limits| {
        limits.unfinished = 1000 * KIB;
        limits.unfinished_per_proven = 0;
    });
    let mut honest = Raw::connect(&xds, HERE).await;
    let mut request = honest.open(ADS_DELTA).await;
    let mut body = delta(types::ENDPOINT, &["A"], &[]);
    body.resource_names_subscribe.push("n".repeat(400 * KIB));
    let bytes = Bytes::from(body.encode_to_vec());
    request.begin(bytes.len(), 0);
    request.out.send_data(bytes.slice(..350 * KIB), false).unwrap();

    let mut greedy = Vec::new();
    for size in [250, 300, 350] {
        let mut raw = Raw::connect(&xds, ELSEWHERE).await;
        let mut stream = raw.open(ADS_DELTA).await;
        stream.begin(64 * KIB * KIB, size * KIB);
        greedy.push(stream);
    }
    let counted = || async { reached(&xds, Limit::Unfinished) > 0 };
    eventually(PATIENCE, counted, true).await;
    request.out.send_data(bytes.slice(350 * KIB..), false).unwrap();
    let fleet = xds.fleet.clone();
    eventually(PATIENCE, || async { fleet.connected(Variant::Delta) }, 1).await;
    // The connection is closed without a status.
    let closed = greedy.into_iter().map(|stream| tokio::spawn(stream.ended()));
    let (closed, _, _) = futures::future::select_all(closed).await;
    assert_eq!(closed.unwrap(), None);
    is_served(&xds).await;
}

#[tokio::test]
async fn a_request_that_has_begun_has_a_deadline_and_a_silent_stream_has_none() {
    let xds = limited(1000, |limits| limits.request_within = SOON);
    let mut raw = Raw::connect(&xds, HERE).await;
    let silent = raw.open(ADS_DELTA).await;
    let mut slow = raw.open(ADS_DELTA).await;
    slow.begin(1000, 1);
    let mut report = raw.open(LOAD_REPORTS).await;
    report.begin(1000, 1);
    let (code, message) = slow.ended().await.expect("a status");
    assert_eq!(
        (&*code, &*message),
        ("4", "the request is not complete 200ms after its first byte")
    );
    assert_eq!(report.ended().await.expect("a status").0, "4");
    assert_eq!(reached(&xds, Limit::RequestTime), 2);
    assert!(silent.stays().await);
}

#[tokio::test]
async fn of_many_silent_streams_a_connection_keeps_a_few() {
    let xds = limited(1000, |limits| {
        limits.silent_for = SOON;
        limits.silent = 2;
    });
    let mut raw = Raw::connect(&xds, HERE).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(raw.open(ADS_DELTA).await);
    }
    for ended in streams.split_off(2) {
        assert_eq!(ended.ended().await.expect("a status").0, "4");
    }
    for stays in streams {
        assert!(stays.stays().await);
    }
    assert_eq!(reached(&xds, Limit::Silent), 3);
}

#[tokio::test]
async fn one_connection_and_one_address_leave_streams_to_others() {
    let xds = limited(1000, |limits| {
        limits.connection_streams = 2;
        limits.address_streams = 3;
    });
    let mut connections = Vec::new();
    let mut open = Vec::new();
    for (from, refused) in [(HERE, "connection"), (HERE, "address"), (ELSEWHERE, "connection")] {
        let mut raw = Raw::connect(&xds, from).await;
        for _ in 0..if refused == "address" { 1 } else { 2 } {
            let mut stream = raw.open(ADS_DELTA).await;
            stream.begin(1000, 1);
            open.push(stream);
        }
        let (code, message) = raw.open(ADS_DELTA).await.ended().await.expect("a status");
        assert_eq!(code, "14");
        assert!(
            message.starts_with(&format!("stream limit of one {refused} reached")),
            "{message}"
        );
        connections.push(raw);
    }
    assert_eq!((connections.len(), open.len()), (3, 5));
    assert_eq!(reached(&xds, Limit::ConnectionStreams), 2);
    assert_eq!(reached(&xds, Limit::AddressStreams), 1);
}

#[tokio::test]
async fn a_load_report_of_nothing_but_entries_is_refused() {
    let xds = limited(1000, |_| {});
    let mut raw = Raw::connect(&xds, HERE).await;
    let mut stream = raw.open(LOAD_REPORTS).await;
    let report = [0x12, 0].repeat(300_000);
    stream.begin(report.len(), 0);
    stream.out.send_data(report.into(), false).unwrap();
    let (code, message) = stream.ended().await.expect("a status");
    assert_eq!(code, "8");
    assert!(message.contains("250000"), "{message}");
}
