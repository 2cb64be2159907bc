//! HTTP/2 frames written by hand, for input that no library sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The first bytes of a client: the preface and its settings, each a number and a value.
pub(crate) fn opening(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// Headers as literals that enter no table.
pub(crate) fn header_block(path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// One header. No text is long.
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A frame that the server sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection for arbitrary bytes.
pub(crate) struct Socket(TcpStream);

/// Longest wait for a read or a write.
const PATIENCE: Duration = Duration::from_secs(10);

impl Socket {
    pub(crate) async fn connect(address: &str) -> Self {
        Self(TcpStream::connect(address).await.expect("connect"))
    }

    /// Write these bytes. Returns false if the server has ended the connection or reads no more.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(PATIENCE, self.0.write_all(bytes)).await, Ok(Ok(())))
    }

    /// The next frame; `None`: the connection has ended.
    ///
    /// # Panics
    /// When there is neither within ten seconds.
    pub(crate) async fn hear(&mut self) -> Option<Received> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [length @ .., kind, _, _, _, _, _] = head;
            let [one, two, three] = length;
            let mut payload = vec![0; u32::from_be_bytes([0, one, two, three]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            let [.., a, b, c, d] = head;
            Some(Received {
                kind,
                stream: u32::from_be_bytes([a, b, c, d]),
                payload,
            })
        };
        timeout(PATIENCE, read)
            .await
            .expect("a frame, or the end of the connection")
    }

    /// Frames up to one of these kinds, which is given; `None`: the connection ended before.
    pub(crate) async fn hear_until(&mut self, kinds: &[u8]) -> Option<Received> {
        loop {
            let frame = self.hear().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// Read all bytes until the server ends the connection.
    ///
    /// # Panics
    /// If the server does not end the connection within the limit.
    pub(crate) async fn hear_all(&mut self, limit: Duration) -> Vec<u8> {
        let mut heard = Vec::new();
        let end = timeout(limit, self.0.read_to_end(&mut heard)).await;
        // A reset is an end, too.
        assert!(
            end.is_ok(),
            "expected the end of the connection within {limit:?}, heard {heard:?}"
        );
        heard
    }

    /// The TCP connection.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.0
    }
}
