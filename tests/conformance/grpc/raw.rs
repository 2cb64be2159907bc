//! An HTTP/2 connection below gRPC: frames, flags, trailers, and a driver that can be stopped.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::rule::Variant;

/// Longest wait for any step.
const PATIENCE: Duration = Duration::from_secs(10);

type Frames = UnboundedReceiverStream<Result<Frame<Bytes>, std::convert::Infallible>>;

/// A connection; it is driven until [`Connection::stop`].
pub(crate) struct Connection {
    sender: SendRequest<StreamBody<Frames>>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    /// Connect, with HTTP/2 settings of the caller's.
    pub(crate) async fn open(address: &str, configure: impl FnOnce(&mut Builder<TokioExecutor>)) -> Self {
        let socket = TcpStream::connect(address).await.expect("connect");
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        configure(&mut builder);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.expect("an HTTP/2 server");
        Self {
            sender,
            driver: tokio::spawn(connection),
        }
    }

    /// True if the server accepts no further streams, or has closed the connection.
    pub(crate) async fn refuses(&mut self) -> bool {
        self.sender.is_closed() || self.sender.ready().await.is_err()
    }

    /// How the connection ends.
    pub(crate) async fn ended(&mut self) -> Result<(), String> {
        let end = timeout(PATIENCE, &mut self.driver).await.expect("the connection ends");
        end.expect("the driver does not panic")
            .map_err(|error| error.to_string())
    }

    /// True while the connection is open.
    pub(crate) fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }

    /// Open a stream of a method, with further headers.
    pub(crate) async fn stream(&mut self, method: &str, headers: &[(&'static str, &'static str)]) -> RawStream {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut request = Request::post(format!("http://test{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(StreamBody::new(UnboundedReceiverStream::new(receiver)))
            .expect("a request");
        self.sender.ready().await.expect("the connection takes streams");
        let response = timeout(PATIENCE, self.sender.send_request(request))
            .await
            .expect("headers in time");
        let (parts, body) = response.expect("a response").into_parts();
        RawStream {
            requests: Some(requests),
            headers: parts.headers,
            body,
            buffer: BytesMut::new(),
            trailers: None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A stream of bytes, message by message.
pub(crate) struct RawStream {
    requests: Option<mpsc::UnboundedSender<Result<Frame<Bytes>, std::convert::Infallible>>>,
    /// Of the response.
    pub(crate) headers: HeaderMap,
    body: Incoming,
    buffer: BytesMut,
    trailers: Option<HeaderMap>,
}

impl RawStream {
    /// Send a message unchanged, with this compression flag.
    pub(crate) fn send_bytes(&self, compressed: u8, message: &[u8]) {
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(compressed);
        framed.put_u32(u32::try_from(message.len()).expect("a message is smaller than 4 GiB"));
        framed.extend_from_slice(message);
        self.send_raw(framed.freeze());
    }

    /// Send bytes that need not be a message.
    pub(crate) fn send_raw(&self, bytes: Bytes) {
        let requests = self.requests.as_ref().expect("not half-closed");
        drop(requests.send(Ok(Frame::data(bytes))));
    }

    /// Ask for names of a type.
    pub(crate) fn ask(&self, variant: Variant, type_url: &str, names: &[&str]) {
        self.send_bytes(0, &request(variant, type_url, names));
    }

    /// The client sends nothing more.
    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next message and its flag; `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if self.buffer.len() >= 5 {
                let length = u32::from_be_bytes(self.buffer[1..5].try_into().expect("four bytes")) as usize;
                if self.buffer.len() >= length + 5 {
                    let mut message = self.buffer.split_to(length + 5);
                    let flag = message[0];
                    return Some((flag, message.split_off(5).freeze()));
                }
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("a frame in time")?;
            match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Err(_) => return None,
            }
        }
    }

    /// The status code of the end of the stream, and its message, encoded.
    pub(crate) async fn words(&mut self) -> Option<(i32, String)> {
        let status = self.status().await?;
        let words = self
            .headers
            .get("grpc-message")
            .or_else(|| self.trailers.as_ref()?.get("grpc-message"));
        Some((
            status,
            words
                .and_then(|words| words.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
        ))
    }

    /// The status that the stream ends with, in its headers or trailers; `None` when it is reset.
    pub(crate) async fn status(&mut self) -> Option<i32> {
        while self.message().await.is_some() {}
        let status = self
            .headers
            .get("grpc-status")
            .or_else(|| self.trailers.as_ref()?.get("grpc-status"))?;
        status.to_str().ok()?.parse().ok()
    }
}

/// A request of the node `n1` for names of a type.
pub(crate) fn request(variant: Variant, type_url: &str, names: &[&str]) -> Vec<u8> {
    let node = crate::support::ads_client::node("n1");
    let (names, type_url) = (names.iter().map(ToString::to_string).collect(), type_url.to_owned());
    match variant {
        Variant::Sotw => DiscoveryRequest {
            node,
            type_url,
            resource_names: names,
            ..DiscoveryRequest::default()
        }
        .encode_to_vec(),
        Variant::Delta => DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        }
        .encode_to_vec(),
    }
}
