//! A TCP proxy that a test can cut: open connections break, and no new one is made until the proxy is mended. The proxy
//! can also lead to another address from then on, as a name or a virtual address does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A proxy between a client and `target`. When the value is dropped, its connections end.
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    target: Arc<Mutex<String>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listen on a free port and carry every connection to `target` (`host:port`).
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let open = watch::Sender::new(true);
        let state = open.subscribe();
        let target = Arc::new(Mutex::new(target));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&target), state));
        Self {
            address,
            open,
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

    /// Carry connections again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn accept(listener: TcpListener, target: Arc<Mutex<String>>, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if *open.borrow() {
            let target = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
            connections.spawn(carry(client, target, open.clone()));
        }
    }
}

async fn carry(mut client: TcpStream, target: String, mut open: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    // Any change is a cut, also one that is mended already.
    open.mark_unchanged();
    if !*open.borrow() {
        return;
    }
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = open.changed() => {}
    }
}
