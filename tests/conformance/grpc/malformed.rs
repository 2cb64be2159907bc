//! GR-11: invalid input ends at most its own stream, with a status that names the cause.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::Code;

use super::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Socket, frame, header_block, opening};
use super::raw::Connection;
use crate::client::{Request, method};
use crate::fixture::{CDS, EDS};
use crate::rule::{Context, Rule, rules};

pub(crate) const RULES: &[Rule] = rules![
    "GR-11" BOTH bytes_that_are_no_request_end_the_stream_alone,
    "GR-11" BOTH random_bytes_end_the_stream_alone,
    "GR-11" BOTH giant_names_and_thousands_of_types_are_borne,
    "GR-11" BOTH what_comes_after_the_end_harms_nobody_else,
];

async fn bytes_that_are_no_request_end_the_stream_alone(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    let path = method::ads(context.variant);
    let mut neighbour = connection.stream(path, &[]).await;
    neighbour.ask(context.variant, CDS.type_url(), &[]);
    neighbour.message().await.expect("the neighbour is served");
    let malformed: [(&str, u8, &[u8], Code); 4] = [
        ("a field cut short", 0, &[0x0a, 0x7f, 1, 2, 3], Code::InvalidArgument),
        (
            "a wire type that does not exist",
            0,
            &[0x0f, 0x0f, 0x0f],
            Code::InvalidArgument,
        ),
        ("a varint that does not end", 0, &[0xff; 64], Code::InvalidArgument),
        ("a compressed request", 1, &[0x1f, 0x8b, 8, 0], Code::Unimplemented),
    ];
    for (what, compressed, bytes, code) in malformed {
        let mut stream = connection.stream(path, &[]).await;
        stream.send_bytes(compressed, bytes);
        assert_eq!(stream.status().await, Some(code.into()), "{what}");
    }
    let mut stream = connection.stream(path, &[]).await;
    stream.send_raw(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
    assert!(
        stream.status().await.is_some_and(|status| status != 0),
        "a message of 4 GiB ends the stream with an error"
    );
    let mut stream = connection.stream(path, &[]).await;
    stream.send_raw(Bytes::from_static(&[0, 0, 0, 1]));
    stream.half_close();
    assert!(
        stream.status().await.is_some_and(|status| status != 0),
        "half a message ends the stream with an error"
    );
    neighbour.ask(context.variant, EDS.type_url(), &["A"]);
    neighbour.message().await.expect("the neighbour is still served");
}

/// Always the same bytes.
const SEED: u64 = 11;

async fn random_bytes_end_the_stream_alone(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    let path = method::ads(context.variant);
    let mut random = StdRng::seed_from_u64(SEED);
    for round in 0..200 {
        let length = random.random_range(0..400);
        let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
        let mut stream = connection.stream(path, &[]).await;
        // A request of random bytes, or random bytes where a request should begin.
        if round % 2 == 0 {
            stream.send_bytes(0, &bytes)
        } else {
            stream.send_raw(bytes.into())
        }
        stream.half_close();
        let status = stream.status().await;
        assert!(
            status.is_some(),
            "round {round}: expected a status, the stream was reset"
        );
    }
    let mut stream = connection.stream(path, &[]).await;
    stream.ask(context.variant, CDS.type_url(), &[]);
    stream.message().await.expect("the connection goes on");
}

async fn giant_names_and_thousands_of_types_are_borne(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    let giant = "n".repeat(2_000_000);
    client.subscribe(EDS, &[&giant, "A", "\u{0}\u{7f}/%2F?*"]);
    let response = client.expect(EDS).await;
    client.ack(&response);
    response.get("A");
    for number in 0..1000 {
        client.send(Request::of_url(&format!("type.googleapis.com/acme.Type{number}")).names(&["q"]));
    }
    client.subscribe(CDS, &[]);
    client.until(CDS).await.carries(&["A", "B", "S"]);
}

async fn what_comes_after_the_end_harms_nobody_else(context: Context) {
    let world = context.f1().await;
    let mut neighbour = world.open().await;
    neighbour.fetch(CDS, &[]).await;
    let mut socket = Socket::connect(&world.target.address()).await;
    let nothing = [0; 5];
    let script = [
        opening(&[]),
        frame(HEADERS, END_HEADERS, 1, &header_block(method::ads(context.variant))),
        frame(DATA, END_STREAM, 1, &nothing),
        frame(DATA, 0, 1, &nothing),
        frame(DATA, END_STREAM, 1, &nothing),
    ];
    assert!(socket.say(&script.concat()).await);
    // The connection may end over it, which HTTP/2 allows.
    let answer = socket.hear_until(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert!(answer.is_some(), "expected an answer");
    neighbour.subscribe(EDS, &["A"]);
    neighbour.expect(EDS).await.carries(&["A"]);
}
