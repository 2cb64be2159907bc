//! GR-01, GR-02, GR-07 to GR-10 and GR-13: the life and the end of connections and streams.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::raw::Connection;
use crate::client::{Request, method};
use crate::fixture::{CDS, EDS, f1, put, static_cluster};
use crate::rule::{Context, Rule, Variant, World, rules};
use crate::support::ads_client::Event;
use crate::target::Options;

pub(crate) const RULES: &[Rule] = rules![
    "GR-01" BOTH a_connection_that_answers_no_ping_is_closed,
    "GR-02" BOTH pings_are_answered_and_not_punished,
    "GR-07" BOTH a_reset_stream_leaves_nothing_behind,
    "GR-07" BOTH two_streams_of_one_node_are_served,
    "GR-08" BOTH a_new_stream_gets_a_message_soon,
    "GR-09" BOTH a_half_closed_stream_ends_with_ok,
    "GR-10" BOTH an_old_connection_is_told_to_go,
    "GR-13" BOTH a_stream_has_no_deadline,
];

/// Interval and timeout of the keepalive, and 15 s for a busy machine.
const KEEPALIVE: Duration = Duration::from_secs(30 + 20 + 15);
const PING: u8 = 6;

/// The server's 30 s and 20 s are no flags, so this test waits for them. A connection without a stream has no variant;
/// the rule applies to both.
async fn a_connection_that_answers_no_ping_is_closed(context: Context) {
    let world = context.f1().await;
    let mut socket = TcpStream::connect(world.target.address()).await.expect("connect");
    // The preface and empty SETTINGS; nothing else, to no frame.
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        .await
        .expect("write");
    let opened = Instant::now();
    let mut received = Vec::new();
    let end = timeout(KEEPALIVE, socket.read_to_end(&mut received)).await;
    assert!(end.is_ok(), "expected the connection to be closed within {KEEPALIVE:?}");
    assert!(
        opened.elapsed() > Duration::from_secs(20),
        "closed after {:?}, before a ping can be late",
        opened.elapsed()
    );
    let frames = frame_types(&received);
    assert!(
        frames.contains(&PING),
        "expected a PING before the end, found frames of the types {frames:?}"
    );
}

fn frame_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [high, middle, low, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        types.push(*kind);
        bytes = rest.get(length..).unwrap_or_default();
    }
    types
}

/// Twenty PINGs at ten times the pace that the checklist allows, instead of five minutes at its pace.
async fn pings_are_answered_and_not_punished(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |builder| {
        builder.keep_alive_interval(Duration::from_millis(500));
        builder
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
    })
    .await;
    sleep(Duration::from_secs(5)).await;
    let mut stream = connection.stream(method::ads(context.variant), &[]).await;
    stream.ask(context.variant, CDS.type_url(), &[]);
    stream.message().await.expect("a response");
    sleep(Duration::from_secs(5)).await;
    assert!(
        connection.is_open(),
        "the connection ended: {:?}",
        connection.ended().await
    );
    stream.ask(context.variant, EDS.type_url(), &["A"]);
    stream.message().await.expect("the stream goes on");
}

/// Number of open streams of the node, from the admin API.
async fn connected(world: &World) -> Option<usize> {
    let page = world.target.admin("/api/v1/clients/n1").await?;
    let streams = page["clients"].as_array().expect("a list of streams");
    Some(streams.iter().filter(|stream| stream["gone_at"] == Value::Null).count())
}

async fn a_reset_stream_leaves_nothing_behind(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    for _ in 0..500 {
        let mut stream = connection.stream(method::ads(context.variant), &[]).await;
        stream.ask(context.variant, CDS.type_url(), &[]);
        stream.message().await.expect("a response");
    }
    let mut last = world.open().await;
    last.fetch(CDS, &[]).await;
    drop(connection);
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(count) = connected(&world).await.filter(|count| *count != 1) {
        assert!(Instant::now() < deadline, "expected one stream, the server has {count}");
        sleep(Duration::from_millis(50)).await;
    }
    world.commit(vec![put(static_cluster("S", 2))]).await;
    last.expect(CDS).await.get("S");
}

async fn two_streams_of_one_node_are_served(context: Context) {
    let world = context.f1().await;
    let (mut one, mut other) = (world.open().await, world.open().await);
    one.fetch(CDS, &[]).await;
    other.fetch(CDS, &[]).await;
    world.commit(vec![put(static_cluster("S", 2))]).await;
    one.expect(CDS).await.get("S");
    other.expect(CDS).await.get("S");
    drop(one);
    world.commit(vec![put(static_cluster("S", 3))]).await;
    other.expect(CDS).await.get("S");
}

/// The stream of a client that has everything already. A second, and a second for a busy machine. A SotW response
/// cannot be empty without taking everything away, so the wildcard may stay unanswered (SW-24); what such a client
/// names is answered.
async fn a_new_stream_gets_a_message_soon(context: Context) {
    let world = context.f1().await;
    let held = world.open().await.fetch(CDS, &[]).await;
    let mut client = world.open().await;
    let request = match context.variant {
        Variant::Sotw => Request::of(CDS).version(&held.version),
        Variant::Delta => {
            let held: Vec<_> = held.resources.iter().map(|one| (&*one.name, &*one.version)).collect();
            Request::of(CDS).initial(&held)
        }
    };
    client.send(request);
    if context.variant == Variant::Sotw {
        client.subscribe(EDS, &["A"]);
    }
    match client.event(Duration::from_secs(2)).await {
        Event::Response(response) => client.ack(&response),
        other => panic!("expected a message, found {other:?}"),
    }
    if context.variant == Variant::Delta {
        client.quiet().await;
    }
}

async fn a_half_closed_stream_ends_with_ok(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    let mut stream = connection.stream(method::ads(context.variant), &[]).await;
    stream.ask(context.variant, CDS.type_url(), &[]);
    stream.half_close();
    stream.message().await.expect("the pending work is finished");
    assert_eq!(stream.status().await, Some(0));
    let mut silent = connection.stream(method::ads(context.variant), &[]).await;
    silent.half_close();
    assert_eq!(silent.status().await, Some(0), "a stream that never asked");
}

async fn an_old_connection_is_told_to_go(context: Context) {
    let arguments = ["--max-connection-age", "2s", "--grace", "3s"]
        .map(str::to_owned)
        .to_vec();
    let world = context
        .serve_with(
            f1(),
            Options {
                arguments,
                ..Options::default()
            },
        )
        .await;
    let opened = Instant::now();
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = connection.stream(method::ads(context.variant), &[]).await;
        stream.ask(context.variant, CDS.type_url(), &[]);
        stream.message().await.expect("a response");
        streams.push(stream);
    }
    // GOAWAY: no more streams, while those that are open go on for some of the grace.
    while !connection.refuses().await {
        assert!(
            opened.elapsed() < Duration::from_secs(6),
            "expected GOAWAY at an age of 2 s"
        );
        sleep(Duration::from_millis(20)).await;
    }
    assert!(
        opened.elapsed() > Duration::from_millis(1700),
        "GOAWAY after {:?}",
        opened.elapsed()
    );
    let mut fresh = world.open().await;
    fresh.fetch(CDS, &[]).await;
    for stream in &mut streams {
        let status = stream.status().await;
        assert!(
            matches!(status, Some(0 | 14)),
            "expected OK or UNAVAILABLE, found {status:?}"
        );
    }
    assert!(connection.ended().await.is_ok(), "the connection closes in order");
}

async fn a_stream_has_no_deadline(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    // Without `grpc-timeout`, as every xDS client opens its streams; nothing happens for as long as a test can wait.
    let mut stream = connection.stream(method::ads(context.variant), &[]).await;
    stream.ask(context.variant, CDS.type_url(), &["S"]);
    stream.message().await.expect("a response");
    sleep(Duration::from_secs(20)).await;
    world.commit(vec![put(static_cluster("S", 2))]).await;
    stream.message().await.expect("the stream lives on");
}
