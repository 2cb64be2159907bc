//! A TCP proxy that a test can cut: open connections break, and no new one is made until the proxy is mended. The proxy
//! can also delay what it carries, and lead to another address from then on, as a name or a virtual address does.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A proxy between a client and `target`. When the value is dropped, its connections end.
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    delay: watch::Sender<Duration>,
    target: Arc<Mutex<String>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listen on a free port and carry every connection to `target` (`host:port`).
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let open = watch::Sender::new(true);
        let delay = watch::Sender::new(Duration::ZERO);
        let link = Link {
            open: open.subscribe(),
            delay: delay.subscribe(),
        };
        let target = Arc::new(Mutex::new(target));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&target), link));
        Self {
            address,
            open,
            delay,
            target,
            _tasks: tasks,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Break every connection; new ones are closed at once.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Break every connection; new ones go to another target.
    pub fn lead_to(&self, target: String) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
        self.cut();
        self.mend();
    }

    /// Keep all bytes back for so long, in both directions, also on open connections. An hour is silence; zero carries
    /// at once what was kept back.
    pub fn delay(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }

    /// Carry connections again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

/// What a connection obeys.
#[derive(Clone)]
struct Link {
    open: watch::Receiver<bool>,
    delay: watch::Receiver<Duration>,
}

async fn accept(listener: TcpListener, target: Arc<Mutex<String>>, link: Link) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if *link.open.borrow() {
            let target = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
            connections.spawn(carry(client, target, link.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut client: TcpStream, target: String, mut link: Link) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    // Any change is a cut, also one that is mended already.
    link.open.mark_unchanged();
    if !*link.open.borrow() {
        return;
    }

    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let both = async {
        tokio::join!(
            pump(from_client, to_server, link.delay.clone()),
            pump(from_server, to_client, link.delay.clone())
        )
    };
    tokio::select! {
        _ = both => {}
        _ = link.open.changed() => {}
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut delay: watch::Receiver<Duration>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let pause = *delay.borrow_and_update();
        if !pause.is_zero() {
            tokio::select! {
                () = sleep(pause) => {}
                _ = delay.changed() => {}
            }
        }
        to.write_all(&buffer[..length]).await?;
    }
}
