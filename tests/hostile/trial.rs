//! One attack on one server: the fleet left alone, the fleet under the attack, the fleet left alone again.
//!
//! Left alone on both sides of the attack, because other work on the machine makes all waits longer for a while.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use crate::fleet::{self, Fleet, Percentiles, Period};
use crate::support::etcd::Etcd;
use crate::support::server::Server;

/// How long the fleet is left alone, before and behind the attack.
const ALONE: Duration = Duration::from_secs(2);
/// How long an attack goes on.
const ATTACK: Duration = Duration::from_secs(4);
/// How often an attack may go beyond a limit, all but the last time.
const TRIES: usize = 2;
/// How many times longer than alone the fleet may wait under an attack.
const FACTOR: u32 = 3;
/// Waits up to these are good in any case: other work on the machine takes this long.
const UPDATES_FLOOR: Duration = Duration::from_millis(500);
const NEWCOMERS_FLOOR: Duration = Duration::from_secs(1);
const HEALTH_FLOOR: Duration = Duration::from_secs(1);
/// The most lines and bytes of the log in a second.
const LOG_LINES: f64 = 100.0;
const LOG_BYTES: f64 = 100_000.0;
/// The memory that may stay when an attack is over.
const LEFT_OVER: u64 = 96 * MIB;
/// How long the memory may take to come back.
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// Operations of one transaction of etcd.
const BATCH: usize = 128;

/// 2^20 bytes.
pub(crate) const MIB: u64 = 1024 * 1024;

/// One trial at a time: each measures the machine.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// Where the attack goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) xds: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A server with its fleet.
pub(crate) struct Trial {
    // Dropped before the server is: the fleet needs it.
    fleet: Fleet,
    pub(crate) server: Server,
    pub(crate) etcd: Etcd,
    /// The log is as long as it likes: at debug it tells every step.
    is_verbose: bool,
    _machine: MutexGuard<'static, ()>,
}

/// What a trial measured.
#[derive(Debug)]
struct Figures {
    before: Percentiles,
    attacked: Percentiles,
    after: Percentiles,
    /// Above the memory before the attack.
    most: u64,
    left: u64,
    log: Log,
}

#[derive(Debug, Default)]
struct Log {
    lines: f64,
    bytes: f64,
    /// The first line with a control character.
    raw: Option<String>,
}

impl Trial {
    /// Start etcd with documents (keys below the prefix), the server and the fleet.
    pub(crate) async fn start(documents: &[(String, String)], arguments: &[&str]) -> Self {
        let machine = MACHINE.lock().await;
        let etcd = Etcd::start().await;
        let mut client = etcd.client().await;
        let pace = [(format!("clusters/{}", fleet::CLUSTER), fleet::document(0))];
        for batch in documents.chunks(BATCH).chain([&pace[..]]) {
            let puts = batch
                .iter()
                .map(|(key, text)| TxnOp::put(format!("/gateway/{key}"), text.as_str(), None));
            client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
        }
        let endpoint = etcd.endpoint();
        let server = Server::start(&[&["--etcd", &endpoint], arguments].concat()).await;
        server.ready().await;
        let fleet = Fleet::start(&etcd, server.xds(), server.admin()).await;
        Self {
            server,
            etcd,
            fleet,
            is_verbose: arguments.iter().any(|argument| argument.contains("debug")),
            _machine: machine,
        }
    }

    /// Run the attack, and say what became too much of. `memory`: the stated budget, above the memory without the attack.
    ///
    /// # Panics
    /// With all figures, when one of them is beyond its limit, and again when the attack is repeated: other work on the
    /// machine does not come twice.
    pub(crate) async fn withstands<Attack, Attacking>(&self, name: &str, memory: u64, attack: Attack)
    where
        Attack: FnOnce(Target) -> Attacking + Clone + Send + 'static,
        Attacking: Future<Output = ()>,
    {
        let mut excess = String::new();
        for _ in 0..TRIES {
            let figures = self.measure(attack.clone()).await;
            println!("{name}: {figures}");
            excess = figures.excess(memory, self.is_verbose);
            if excess.is_empty() {
                return;
            }
            println!("{name}:{excess}");
        }
        panic!("{name}:{excess}");
    }

    async fn measure<Attack, Attacking>(&self, attack: Attack) -> Figures
    where
        Attack: FnOnce(Target) -> Attacking + Send + 'static,
        Attacking: Future<Output = ()>,
    {
        let before = self.alone().await;
        let base = self.server.memory();

        let target = Target {
            xds: self.server.xds(),
            admin: self.server.admin(),
        };
        self.server.forget_peak();
        let log_before = self.log_len();
        let from = Instant::now();
        let attacker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            // Dropping the runtime ends all that the attack has begun.
            let attacking = async { tokio::time::timeout(ATTACK, attack(target)).await };
            drop(runtime.block_on(attacking));
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        while !attacker.is_finished() {
            sleep(Duration::from_millis(10)).await;
        }
        attacker.join().unwrap();
        let until = Instant::now();
        let most = self.server.peak_memory().saturating_sub(base);
        let log = self.log_since(log_before, until - from);
        let attacked = Period {
            from,
            until,
            with_earlier: true,
        };
        let attacked = self.fleet.percentiles(attacked).await;

        let after = self.alone().await;
        Figures {
            before,
            attacked,
            after,
            most,
            left: self.left(base).await,
            log,
        }
    }

    /// The waits of the fleet without an attack.
    async fn alone(&self) -> Percentiles {
        let from = Instant::now();
        sleep(ALONE).await;
        let period = Period {
            from,
            until: Instant::now(),
            with_earlier: false,
        };
        self.fleet.percentiles(period).await
    }

    /// The memory that has not come back.
    async fn left(&self, base: u64) -> u64 {
        let begun = Instant::now();
        loop {
            let left = self.server.memory().saturating_sub(base);
            if left <= LEFT_OVER || begun.elapsed() > BACK_WITHIN {
                return left;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.server.folder().join("chancery.log")
    }

    fn log_len(&self) -> u64 {
        self.log_path().metadata().unwrap().len()
    }

    fn log_since(&self, start: u64, period: Duration) -> Log {
        let mut file = File::open(self.log_path()).unwrap();
        file.seek(SeekFrom::Start(start)).unwrap();
        let mut log = Log::default();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.unwrap();
            log.lines += 1.0;
            log.bytes += line.len() as f64;
            if log.raw.is_none() && String::from_utf8_lossy(&line).contains(char::is_control) {
                log.raw = Some(String::from_utf8_lossy(&line).escape_debug().to_string());
            }
        }
        log.lines /= period.as_secs_f64();
        log.bytes /= period.as_secs_f64();
        log
    }
}

impl Figures {
    /// What is beyond its limit, one line each.
    fn excess(&self, memory: u64, is_verbose: bool) -> String {
        let mut excess = String::new();
        let mut at_most = |what: &str, found: String, limit: String, is_good: bool| {
            if !is_good {
                write!(excess, "\n  {what}: {found}, expected {limit} at most").unwrap();
            }
        };
        let mut waits = |what: &str, of: fn(&Percentiles) -> Duration, floor: Duration| {
            let limit = floor.max(FACTOR * of(&self.before).max(of(&self.after)));
            let found = of(&self.attacked);
            at_most(what, format!("{found:.1?}"), format!("{limit:.1?}"), found <= limit);
        };
        waits("updates of the fleet (p99)", |waits| waits.updates, UPDATES_FLOOR);
        waits(
            "first responses of newcomers (p99)",
            |waits| waits.newcomers,
            NEWCOMERS_FLOOR,
        );
        waits("answers of /healthz (p99)", |waits| waits.health, HEALTH_FLOOR);

        let mib = |bytes: u64| format!("{} MiB", bytes / MIB);
        at_most("memory", mib(self.most), mib(memory), self.most <= memory);
        at_most(
            "memory that stays",
            mib(self.left),
            mib(LEFT_OVER),
            self.left <= LEFT_OVER,
        );
        let Log { lines, bytes, raw } = &self.log;
        let mut in_a_second = |what: &str, found: f64, limit: f64| {
            let what = format!("{what} of the log in a second");
            at_most(
                &what,
                format!("{found:.0}"),
                format!("{limit}"),
                is_verbose || found <= limit,
            );
        };
        in_a_second("lines", *lines, LOG_LINES);
        in_a_second("bytes", *bytes, LOG_BYTES);
        if let Some(line) = raw {
            write!(excess, "\n  a line of the log with a control character: {line}").unwrap();
        }
        excess
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut waits = |what: &str, of: fn(&Percentiles) -> Duration| {
            let (before, attacked, after) = (of(&self.before), of(&self.attacked), of(&self.after));
            write!(formatter, "{what} p99 {before:.0?} / {attacked:.0?} / {after:.0?}, ")
        };
        waits("updates", |waits| waits.updates)?;
        waits("newcomers", |waits| waits.newcomers)?;
        waits("/healthz", |waits| waits.health)?;
        let (most, left, log) = (self.most / MIB, self.left / MIB, &self.log);
        write!(
            formatter,
            "memory +{most} MiB then +{left} MiB, log {:.0} lines and {:.0} bytes in a second",
            log.lines, log.bytes
        )
    }
}
