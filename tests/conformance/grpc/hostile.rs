//! GR-11: an attack below gRPC ends at most the attacker's own connection. Another client is served as before, and the
//! server's memory does not grow.
//!
//! Most of these tests have no variant: the connection ends before a request is read.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::ALONE;
use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, Socket, frame, header,
    header_block, opening,
};
use super::raw::Connection;
use crate::client::{Client, method};
use crate::fixture::{CDS, EDS, f1};
use crate::rule::{Context, Rule, Variant, World, rules};
use crate::support::authority::Authority;
use crate::target::Options;

pub(crate) const RULES: &[Rule] = rules![
    "GR-11" DELTA who_speaks_no_http2_is_told_and_ended,
    "GR-11" DELTA who_speaks_no_tls_where_it_is_spoken_is_told_and_ended,
    "GR-11" DELTA who_never_finishes_the_preface_is_not_waited_for,
    "GR-11" DELTA headers_beyond_the_limit_end_the_stream_or_the_connection,
    "GR-11" DELTA continuations_without_end_end_the_connection,
    "GR-11" BOTH streams_that_are_reset_at_once_cost_nothing,
    "GR-11" DELTA settings_and_pings_without_end_cost_nothing,
    "GR-11" BOTH requests_in_pieces_of_a_byte_cost_what_they_weigh,
    "GR-11" BOTH too_much_of_anything_ends_the_stream_with_words_for_it,
    "GR-11" BOTH a_window_that_is_never_opened_ends_the_stream,
];

/// Largest growth of the server after an attack, in bytes: memory that the allocator keeps.
const GROWTH: u64 = 48 * 1024 * 1024;
/// When a connection that has to end should have.
const SOON: Duration = Duration::from_secs(5);

/// A server, and a well-behaved client during the attack.
struct Scene {
    world: World,
    neighbour: Client,
    before: Option<u64>,
}

impl Scene {
    async fn begin(context: Context, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let world = context
            .serve_with(
                f1(),
                Options {
                    arguments,
                    ..Options::default()
                },
            )
            .await;
        let mut neighbour = world.open().await;
        neighbour.fetch(CDS, &[]).await;
        let before = world.target.memory();
        Self {
            world,
            neighbour,
            before,
        }
    }

    fn address(&self) -> String {
        self.world.target.address()
    }

    /// Check that the server runs, serves the old client and a new one, and has not grown.
    async fn end_unharmed(self) {
        self.end_within(GROWTH).await;
    }

    /// The same, with another bound.
    async fn end_within(mut self, growth: u64) {
        self.neighbour.subscribe(EDS, &["A"]);
        self.neighbour.expect(EDS).await.carries(&["A"]);
        self.world.open().await.fetch(CDS, &[]).await.carries(&["A", "B", "S"]);
        let (Some(before), Some(after)) = (self.before, self.world.target.memory()) else {
            return;
        };
        assert!(after < before + growth, "the server had {before} bytes and has {after}");
    }
}

async fn who_speaks_no_http2_is_told_and_ended(context: Context) {
    let scene = Scene::begin(context, &[]).await;
    for request in [
        "GET / HTTP/1.1\r\nhost: test\r\n\r\n",
        "POST /v3/discovery:clusters HTTP/1.0\r\n\r\n",
    ] {
        let mut socket = Socket::connect(&scene.address()).await;
        assert!(socket.say(request.as_bytes()).await);
        let answer = socket.hear_all(SOON).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 505 ") && answer.contains("gRPC"),
            "found {answer:?}"
        );
    }
    // A TLS alert gives the client a useful error; a connection that is just closed does not.
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let socket = TcpStream::connect(scene.address()).await.expect("connect");
    let name = ServerName::try_from("test").expect("a name");
    let handshake = timeout(SOON, TlsConnector::from(Arc::new(config)).connect(name, socket)).await;
    let error = handshake
        .expect("an answer in time")
        .expect_err("no TLS here")
        .to_string();
    assert!(error.contains("alert"), "found {error}");
    for rubbish in [
        &[0; 64][..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let mut socket = Socket::connect(&scene.address()).await;
        socket.say(rubbish).await;
        socket.hear_all(SOON).await;
    }
    scene.end_unharmed().await;
}

async fn who_speaks_no_tls_where_it_is_spoken_is_told_and_ended(context: Context) {
    let authority = Authority::new();
    let [certificate, key] = ["server.pem", "server.key"].map(|file| authority.path(file).display().to_string());
    let arguments = ["--xds-tls-cert", &*certificate, "--xds-tls-key", &*key]
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
    for plain in [
        &b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"[..],
        &opening(&[]),
        &[0x16, 3, 1, 0xff, 0xff],
        &[0; 300],
    ] {
        let mut socket = Socket::connect(&world.target.address()).await;
        assert!(socket.say(plain).await);
        if plain[0] != 0x16 {
            let answer = socket.hear_all(SOON).await;
            assert!(
                answer.is_empty() || answer[0] == 0x15,
                "expected an alert, found {answer:?}"
            );
        }
    }
    // Over TLS the port is the same.
    let mut roots = RootCertStore::empty();
    let authority_pem = authority.read("ca.pem");
    let certificates = rustls_pki_types::pem::PemObject::pem_slice_iter(authority_pem.as_bytes());
    roots.add_parsable_certificates(certificates.map(|one| one.expect("a certificate")));
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = || ServerName::try_from("chancery.internal").expect("a name");
    let open = async || {
        let socket = TcpStream::connect(world.target.address()).await.expect("connect");
        timeout(SOON, connector.connect(name(), socket))
            .await
            .expect("in time")
            .expect("a handshake")
    };
    let mut http1 = open().await;
    http1
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .expect("write");
    let mut answer = String::new();
    timeout(SOON, http1.read_to_string(&mut answer))
        .await
        .expect("the end of the connection")
        .expect("text");
    assert!(answer.starts_with("HTTP/1.1 505 "), "found {answer:?}");
    let mut http2 = open().await;
    http2.write_all(&opening(&[])).await.expect("write");
    let mut head = [0; 9];
    timeout(SOON, http2.read_exact(&mut head))
        .await
        .expect("in time")
        .expect("a frame");
    assert_eq!(head[3], SETTINGS, "somebody else is served as before");
}

/// The server has ten seconds for it.
async fn who_never_finishes_the_preface_is_not_waited_for(context: Context) {
    let scene = Scene::begin(context, &[]).await;
    let mut sockets = Vec::new();
    for count in [0, 1, 4, 23] {
        let mut socket = Socket::connect(&scene.address()).await;
        assert!(socket.say(&PREFACE[..count]).await);
        sockets.push(socket);
    }
    let opened = Instant::now();
    for mut socket in sockets {
        socket.hear_all(Duration::from_secs(20)).await;
    }
    assert!(
        opened.elapsed() > Duration::from_secs(5),
        "ended after {:?}: no time for a busy client",
        opened.elapsed()
    );
    scene.end_unharmed().await;
}

async fn headers_beyond_the_limit_end_the_stream_or_the_connection(context: Context) {
    let path = method::ads(context.variant);
    let scene = Scene::begin(context, &[]).await;
    for count in [200, 2000] {
        let mut socket = Socket::connect(&scene.address()).await;
        let mut block = header_block(path);
        block.extend((0..count).flat_map(|number| header(&format!("x-{number}"), &"v".repeat(100))));
        let mut bytes = opening(&[]);
        let (first, rest) = block.split_at(16_000);
        bytes.extend(frame(HEADERS, 0, 1, first));
        let chunks: Vec<&[u8]> = rest.chunks(16_000).collect();
        for (index, chunk) in chunks.iter().enumerate() {
            let flags = if index + 1 == chunks.len() { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, flags, 1, chunk));
        }
        socket.say(&bytes).await;
        let end = socket.hear_until(&[HEADERS, RST_STREAM, GOAWAY]).await;
        // 431 in HPACK: a literal with the name `:status` of the static table.
        let is_431 = |payload: &[u8]| payload.windows(3).any(|text| text == b"431") || payload.len() < 20;
        let ends = end
            .as_ref()
            .is_none_or(|end| end.kind != HEADERS || is_431(&end.payload));
        assert!(
            ends,
            "{count} headers: expected the end of the stream or of the connection, found {end:?}"
        );
    }
    scene.end_unharmed().await;
}

async fn continuations_without_end_end_the_connection(context: Context) {
    let path = method::ads(context.variant);
    let scene = Scene::begin(context, &[]).await;
    let header = header("x-more", &"v".repeat(120));
    for piece in [&[][..], &header, &header.repeat(100)] {
        let mut socket = Socket::connect(&scene.address()).await;
        socket
            .say(&[opening(&[]), frame(HEADERS, 0, 1, &header_block(path))].concat())
            .await;
        let flood = frame(CONTINUATION, 0, 1, piece).repeat(1000);
        let mut said = 0;
        while said < 100 && socket.say(&flood).await {
            said += 1;
        }
        socket.hear_all(SOON).await;
    }
    scene.end_unharmed().await;
}

async fn streams_that_are_reset_at_once_cost_nothing(context: Context) {
    let _alone = ALONE.lock().await;
    let (variant, path) = (context.variant, method::ads(context.variant));
    let scene = Scene::begin(context, &[]).await;
    // As in CVE-2023-44487: opened and reset in one breath, on a few connections.
    for _ in 0..5 {
        let mut socket = Socket::connect(&scene.address()).await;
        socket.say(&opening(&[])).await;
        let block = header_block(path);
        let one = |stream| {
            [
                frame(HEADERS, END_HEADERS, stream, &block),
                frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ]
        };
        for batch in 0..100 {
            let flood: Vec<u8> = (0..100)
                .flat_map(|at| one(1 + 2 * (batch * 100 + at)).concat())
                .collect();
            if !socket.say(&flood).await {
                break;
            }
        }
    }
    // Each stream sends a request first, and is reset when the response comes.
    let mut connection = Connection::open(&scene.address(), |_| {}).await;
    for _ in 0..3000 {
        let stream = connection.stream(path, &[]).await;
        stream.ask(variant, CDS.type_url(), &[]);
    }
    scene.end_unharmed().await;
}

async fn settings_and_pings_without_end_cost_nothing(context: Context) {
    let _alone = ALONE.lock().await;
    let scene = Scene::begin(context, &[]).await;
    let floods = [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PING, ACK, 0, &[7; 8]),
    ];
    let mut sockets = Vec::new();
    for flood in floods {
        // The client reads no answer.
        let mut socket = Socket::connect(&scene.address()).await;
        socket.say(&opening(&[])).await;
        let flood = flood.repeat(10_000);
        for _ in 0..100 {
            if !matches!(timeout(Duration::from_secs(1), socket.say(&flood)).await, Ok(true)) {
                break;
            }
        }
        sockets.push(socket);
    }
    scene.end_unharmed().await;
    drop(sockets);
}

/// A request in which each byte is a frame of its own, and which is never complete. From time to time the client awaits
/// the answer to a PING, because the server may end a connection that is far ahead.
async fn requests_in_pieces_of_a_byte_cost_what_they_weigh(context: Context) {
    let _alone = ALONE.lock().await;
    let path = method::ads(context.variant);
    let scene = Scene::begin(context, &[]).await;
    let mut socket = Socket::connect(&scene.address()).await;
    assert!(
        socket
            .say(&[opening(&[]), frame(HEADERS, END_HEADERS, 1, &header_block(path))].concat())
            .await
    );
    // It claims 32 MiB.
    assert!(socket.say(&frame(DATA, 0, 1, &[0, 2, 0, 0, 0])).await);
    let batch = [frame(DATA, 0, 1, &[0]).repeat(500), frame(PING, 0, 0, &[7; 8])].concat();
    for _ in 0..960 {
        if !socket.say(&batch).await || socket.hear_until(&[PING]).await.is_none() {
            break;
        }
    }
    // Half a megabyte, of which a byte may be kept as one.
    scene.end_within(12 * 1024 * 1024).await;
    drop(socket);
}

/// A field of a request.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

async fn too_much_of_anything_ends_the_stream_with_words_for_it(context: Context) {
    let _alone = ALONE.lock().await;
    let variant = context.variant;
    let scene = Scene::begin(context, &[]).await;
    let mut connection = Connection::open(&scene.address(), |_| {}).await;
    let [node, type_url, names] = if variant == Variant::Sotw { [2, 4, 3] } else { [1, 2, 3] };
    let who = field(node, &field(1, b"n1"));
    let asks = field(type_url, EDS.type_url().as_bytes());
    // In a node's metadata: the field `k` with a list of values that are nothing.
    let list = field(2, &field(6, &field(1, &[]).repeat(1_000_000)));
    let metadata = field(3, &field(1, &[field(1, b"k"), list].concat()));
    let exhausted = i32::from(Code::ResourceExhausted);
    let invalid = i32::from(Code::InvalidArgument);
    let cases: [(&str, Vec<u8>, i32); 6] = [
        (
            "names of nothing",
            [who.clone(), asks.clone(), field(names, &[]).repeat(5_000_000)].concat(),
            exhausted,
        ),
        (
            "a node of nothing",
            [field(node, &[field(1, b"n1"), metadata].concat()), asks.clone()].concat(),
            exhausted,
        ),
        (
            "a long id",
            [field(node, &field(1, &[b'n'; 100_000])), asks.clone()].concat(),
            invalid,
        ),
        (
            "a long type",
            [who.clone(), field(type_url, &[0xc3, 0xa9].repeat(1_000_000))].concat(),
            invalid,
        ),
        (
            "a name that is no text",
            [who.clone(), asks.clone(), field(names, &[0xff])].concat(),
            invalid,
        ),
        (
            "a type of another service",
            [who, field(type_url, CDS.type_url().as_bytes())].concat(),
            invalid,
        ),
    ];
    for (what, request, code) in cases {
        let mut stream = connection.stream(method::of(EDS, variant), &[]).await;
        stream.send_bytes(0, &request);
        let (found, words) = stream
            .words()
            .await
            .unwrap_or_else(|| panic!("{what}: expected a status, not a reset"));
        assert_eq!(found, code, "{what}: {words}");
        // Clients accept some KiB of headers.
        assert!(
            (10..4096).contains(&words.len()),
            "{what}: {} bytes of words",
            words.len()
        );
    }
    scene.end_unharmed().await;
}

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

async fn a_window_that_is_never_opened_ends_the_stream(context: Context) {
    let (variant, path) = (context.variant, method::ads(context.variant));
    let scene = Scene::begin(context, &["--stall-timeout", "2s"]).await;
    let mut socket = Socket::connect(&scene.address()).await;
    let request = super::raw::request(variant, CDS.type_url(), &[]);
    let message = [
        &[0],
        &u32::try_from(request.len()).expect("small").to_be_bytes()[..],
        &request,
    ]
    .concat();
    let script = [
        opening(&[(INITIAL_WINDOW, 0)]),
        frame(HEADERS, END_HEADERS, 1, &header_block(path)),
        frame(DATA, 0, 1, &message),
    ];
    assert!(socket.say(&script.concat()).await);
    let reset = socket
        .hear_until(&[RST_STREAM, GOAWAY, DATA])
        .await
        .expect("the connection goes on");
    assert_eq!((reset.kind, reset.stream), (RST_STREAM, 1), "found {reset:?}");
    assert!(socket.say(&frame(PING, 0, 0, b"are you?")).await);
    let answer = socket.hear_until(&[PING]).await.expect("the connection goes on");
    assert_eq!(answer.payload, b"are you?");
    scene.end_unharmed().await;
}
