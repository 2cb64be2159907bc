//! The first bytes of a connection: whether the client speaks HTTP/2.
//!
//! Every HTTP/2 connection begins with the same 24 bytes. They are read here, with a deadline. A client that speaks
//! another protocol gets an answer in that protocol. The caller reads the connection as if nothing had been read.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::xds::http2::socket::Socket;

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A handshake message of TLS: the type of the record and the first half of its version.
const TLS_HELLO: &[u8] = &[0x16, 0x03];
/// A fatal alert of TLS: `handshake_failure`.
const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0, 2, 2, 40];
/// The answer to an HTTP/1 request.
const HTTP_ANSWER: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\n\
    content-length: 88\r\nconnection: close\r\n\r\n\
    This is an xDS port: it speaks gRPC, over HTTP/2. The admin API has a port of its own.\r\n";
/// The time for sending the answer, and the most bytes that are read after it: closing a socket with unread bytes would
/// discard the answer.
const FAREWELL: (Duration, u64) = (Duration::from_secs(1), 64 * 1024);

/// Another protocol that a client began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::xds) enum Foreign {
    /// A request of HTTP/1.
    Http1,
    /// A TLS handshake, inside TLS or on a plaintext port.
    Tls,
    /// Anything else.
    Unknown,
    /// No bytes: the client closed the connection, as a probe of the port does.
    Nothing,
}

impl Foreign {
    fn of(first: &[u8]) -> Self {
        let method = first.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        if first.is_empty() {
            Self::Nothing
        } else if first.starts_with(TLS_HELLO) {
            Self::Tls
        } else if method >= 3 && first.get(method) == Some(&b' ') {
            Self::Http1
        } else {
            Self::Unknown
        }
    }

    /// The protocol, for a log line.
    pub(in crate::xds) fn what(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1, expected gRPC over HTTP/2",
            Self::Tls => "TLS, expected plain text, for which there is --xds-tls-cert",
            Self::Unknown => "neither HTTP nor TLS, expected gRPC over HTTP/2",
            Self::Nothing => "nothing, expected gRPC over HTTP/2",
        }
    }

    fn answer(self) -> &'static [u8] {
        match self {
            Self::Http1 => HTTP_ANSWER,
            Self::Tls => TLS_ALERT,
            Self::Unknown | Self::Nothing => &[],
        }
    }
}

/// Read the preface. `Ok(Err(..))`: the client speaks another protocol and got an answer.
///
/// # Errors
/// The connection is broken.
pub(in crate::xds) async fn read<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: T,
) -> io::Result<Result<Socket<T>, Foreign>> {
    let mut first = [0; PREFACE.len()];
    let mut len = 0;
    while len < first.len() && is_open(&first[..len]) {
        match io.read(&mut first[len..]).await? {
            0 => break,
            count => len += count,
        }
    }
    if first == PREFACE {
        return Ok(Ok(Socket::new(io, PREFACE)));
    }
    let foreign = Foreign::of(&first[..len]);
    // The client need not read the answer.
    drop(timeout(FAREWELL.0, part(&mut io, foreign.answer())).await);
    Ok(Err(foreign))
}

/// Whether more bytes are needed to tell the protocol.
fn is_open(first: &[u8]) -> bool {
    PREFACE.starts_with(first)
        || TLS_HELLO.starts_with(first) && first != TLS_HELLO
        || first.iter().all(u8::is_ascii_uppercase)
}

async fn part<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T, answer: &[u8]) -> io::Result<()> {
    if answer.is_empty() {
        return Ok(());
    }
    io.write_all(answer).await?;
    io.shutdown().await?;
    tokio::io::copy(&mut io.take(FAREWELL.1), &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// The verdict on a client that sends this in pieces, and the answer to it.
    async fn begin(bytes: &[u8], piece: usize) -> (Result<Vec<u8>, Foreign>, Vec<u8>) {
        let (mut client, server) = duplex(1024);
        let serve = async {
            let mut begun = read(server).await.unwrap()?;
            let mut seen = Vec::new();
            begun.read_to_end(&mut seen).await.unwrap();
            Ok(seen)
        };
        let send = async {
            for piece in bytes.chunks(piece) {
                client.write_all(piece).await.ok();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.ok();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.ok();
            answer
        };
        tokio::join!(serve, send)
    }

    #[tokio::test]
    async fn the_preface_is_read_and_still_there() {
        let bytes = [PREFACE, b"and frames"].concat();
        for piece in [1, 7, 24, 1000] {
            assert_eq!(
                begin(&bytes, piece).await,
                (Ok(bytes.clone()), Vec::new()),
                "{piece} bytes at a time"
            );
        }
    }

    #[tokio::test]
    async fn who_speaks_something_else_is_told_in_its_own_words() {
        let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
        let cases: [(&[u8], Foreign, &[u8]); 8] = [
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", Foreign::Http1, HTTP_ANSWER),
            (b"PROPFIND / HTTP/1.1\r\n\r\n", Foreign::Http1, HTTP_ANSWER),
            (b"PUT /x HTTP/1.1\r\n\r\n", Foreign::Http1, HTTP_ANSWER),
            (b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", Foreign::Http1, HTTP_ANSWER),
            (&hello, Foreign::Tls, TLS_ALERT),
            (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", Foreign::Unknown, b""),
            (b"PR", Foreign::Unknown, b""),
            (b"", Foreign::Nothing, b""),
        ];
        for (bytes, foreign, answer) in cases {
            for piece in [1, 1000] {
                assert_eq!(
                    begin(bytes, piece).await,
                    (Err(foreign), answer.to_vec()),
                    "{bytes:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn the_answer_has_the_length_that_it_claims() {
        let text = std::str::from_utf8(HTTP_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{} bytes",
            body.len()
        );
    }
}
