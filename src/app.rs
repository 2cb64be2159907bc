//! The composition root, and the map of the program: binds first, then runs named stages.
//!
//! ```text
//!  reconcile   backend events → world → snapshot store      (the one writer)
//!  xds         snapshot store → streams, fleet               (drains)
//!  confirm     journal → writes that nobody has confirmed are undone
//!  admin       reads world, snapshot store, fleet; writes documents through the backend
//!  journal     what reconcile has planned → entries in the store, admin
//!  replica     fleet → a summary in the store; those of other replicas → admin
//!  quarantine  fleet → reconcile: documents that every proxy refuses
//!  secrets     files of secrets, the file of their keys, expiry → reconcile, log
//!  certificates, reload                                      what SIGHUP and changed files bring
//! ```

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::pending::PendingWrites;
use crate::admin::readiness::Readiness;
use crate::admin::{self, Admin};
use crate::backend::directory::Directory;
use crate::backend::etcd::{self, Etcd};
use crate::backend::{Backend, Change, Event, ListReason};
use crate::config::tls::Certificates;
use crate::config::{self, Config, Documents, Flags, Listen, OnMassLoss, SecretKeys};
use crate::document::key::{Layout, Root};
use crate::document::secret::sealed::Keys;
use crate::document::secret::{Files, Vault};
use crate::fleet::replicas::Replicas;
use crate::fleet::{self, Fleet, Variant};
use crate::journal::{self, Journal, News, Seen, entry};
use crate::reconcile::persist::disk::Disk;
use crate::reconcile::run::{Observer, Parts, PlannedEvents, Reconciler};
use crate::reconcile::world::{Options, World};
use crate::resource::ResourceType;
use crate::shutdown::{self, Stages};
use crate::snapshot::steps;
use crate::snapshot::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::xds;

mod etcd_metrics;
mod files;
mod journal_metrics;
mod limit_metrics;
mod load_metrics;
mod quarantine;
mod replica;
mod rollout_metrics;
mod secret_files;
mod secret_metrics;
mod secret_watch;
mod state_metrics;

use etcd_metrics::EtcdMetrics;
use journal_metrics::JournalMetrics;
use limit_metrics::LimitMetrics;
use load_metrics::LoadMetrics;
use quarantine::{FleetWitness, Quarantine};
use replica::Replica;
use rollout_metrics::RolloutMetrics;
use secret_files::SecretFiles;
use secret_metrics::SecretMetrics;
use secret_watch::{KeyFile, SecretWatch};
use state_metrics::StateMetrics;

/// Commands waiting for the loop; a request of an operator, and a refusal of proxies, waits when there are more.
const COMMANDS: usize = 16;
/// The sample of the try-out mode, written if its folder is missing. The sample needs no upstream.
const SAMPLE: (&str, &str) = (
    "routes/hello.json",
    "{\n  \"match\": \"GET /hello\",\n  \"to\": { \"respond\": { \"status\": 200, \"body\": \"Hello from Chancery.\\n\" } }\n}\n",
);

/// Run the server until a stop signal; `flags` are for the reload of the configuration.
///
/// # Errors
/// The port that cannot be bound, or the stage that failed.
pub async fn serve(config: Config, flags: Flags) -> anyhow::Result<()> {
    let signals = shutdown::process_signals().context("install the signal handlers")?;
    let grace = config.grace;
    let app = App::bind(config).await?;
    let stages = app.start(Some(flags));
    stages.run(signals, grace).await.map_err(anyhow::Error::from)
}

/// A server whose ports are bound and which serves nothing yet.
pub struct App {
    stages: Stages,
    config: Config,
    xds: xds::server::Server,
    admin_listener: admin::Listener,
    certificates: Option<Certificates>,
    backend: Arc<dyn Backend>,
    reconciler: Reconciler,
    quarantine: Quarantine,
    replica: Replica,
    secrets: SecretWatch,
    admin: Admin,
    snapshots: Arc<Store>,
    fleet: Fleet,
    journal: Journal,
}

impl App {
    /// Bind the ports and put the parts together; nothing is read or served yet.
    ///
    /// # Errors
    /// A port that cannot be bound, a file that cannot be read, a state directory that cannot be used.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let certificates = config
            .xds_tls
            .clone()
            .map(Certificates::load)
            .transpose()
            .context("load the xDS port's certificates")?;

        let xds = bind_xds(&config, certificates.as_ref())?;
        let admin_listener = bind_admin(&config.admin_listen).await?;
        if config.try_out {
            create_sample(&config)?;
        }
        let secret_files = secret_files(&config)?;
        // Before the file is read: a change in between is noticed.
        let keys = key_file(&config).map(|path| (path.clone(), secret_files::stamp(path)));
        let options = options_with(&config, secret_files.clone())?;
        let keys = keys.map(|(path, stamp)| KeyFile::new(path, stamp, options.vault.clone()));
        let disk = Disk::open(&config.state_dir, options.layout.clone(), &store_name(&config))
            .and_then(Disk::lock)
            .with_context(|| use_state_dir(&config.state_dir))?
            .sealed_by(options.vault.clone());
        let metrics = Arc::new(Metrics::default());
        metrics.begin(
            &ResourceType::ALL.map(ResourceType::as_str),
            &[Variant::Sotw, Variant::Delta].map(Variant::as_str),
        );
        let backend = open_backend(&config, &metrics);
        let journal = open_journal(&config, &options, &backend);
        metrics.also(Box::new(JournalMetrics(journal.clone())));
        let counted = Arc::new(Counted::new(Arc::clone(&metrics), journal.clone()));
        let fleet = Fleet::new(Arc::clone(&counted) as Arc<dyn fleet::Observer>);
        metrics.also(Box::new(LoadMetrics(Arc::clone(fleet.loads()))));
        metrics.also(Box::new(LimitMetrics(Arc::clone(fleet.reached()))));
        let unsaved = disk.unsaved();
        metrics.also(Box::new(StateMetrics(unsaved.clone())));
        let snapshots = Arc::new(Store::default());
        metrics.also(Box::new(RolloutMetrics(fleet.clone(), Arc::clone(&snapshots))));
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let reconciler = Reconciler::new(Parts {
            backend: Arc::clone(&backend),
            world: World::new(options),
            snapshots: Arc::clone(&snapshots),
            disk,
            state_prefix: config.state_prefix.clone(),
            publish_distance: config.publish_distance,
            allow_empty: config.allow_empty,
            commands: receiver,
            observer: counted,
            witness: Arc::new(FleetWitness(fleet.clone())),
        });
        metrics.also(Box::new(SecretMetrics(reconciler.worlds())));
        let quarantine = Quarantine::new(
            fleet.clone(),
            reconciler.worlds(),
            snapshots.subscribe(),
            commands.clone(),
        );

        let stages = Stages::default();
        let replica_id = config.replica_id.clone();
        let replica_id = replica_id.unwrap_or_else(|| default_replica_id(&admin_listener));
        let replicas = Replicas::new(&replica_id);
        let advertised: Option<Arc<str>> = config.advertise_admin.as_deref().map(Into::into);
        let replica = Replica {
            backend: Arc::clone(&backend),
            state_prefix: config.state_prefix.clone(),
            snapshots: Arc::clone(&snapshots),
            worlds: reconciler.worlds(),
            fleet: fleet.clone(),
            replicas: replicas.clone(),
            advertised: advertised.clone(),
        };
        let admin = Admin {
            pending: PendingWrites::new(&config.state_prefix),
            hosts: config.admin_hosts.clone().into(),
            answers: admin::Answers::new(Arc::clone(fleet.reached())),
            world: reconciler.worlds(),
            arrivals: reconciler.arrivals(),
            readiness: Readiness::new(reconciler.health(), unsaved, stages.draining()),
            snapshots: Arc::clone(&snapshots),
            fleet: fleet.clone(),
            replicas,
            advertised,
            backend: Arc::clone(&backend),
            commands,
            max_txn_ops: config.max_txn_ops,
            metrics,
            journal: journal.clone(),
            earlier: admin::Earlier::default(),
            confirms: admin::confirm::Waiting::default(),
            freezes: admin::Freezes::default(),
            events: admin::Events::default(),
        };

        Ok(Self {
            stages,
            config,
            xds,
            admin_listener,
            certificates,
            backend,
            reconciler,
            quarantine,
            replica,
            secrets: SecretWatch::new(secret_files, keys),
            admin,
            snapshots,
            fleet,
            journal,
        })
    }

    /// The address of the admin port.
    ///
    /// # Errors
    /// When the system does not say where the socket is bound, or the socket is a Unix socket.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        match &self.admin_listener {
            admin::Listener::Tcp(listener) => listener.local_addr(),
            admin::Listener::Unix(..) => Err(io::Error::other("the admin port is a Unix socket")),
        }
    }

    /// Every document with its state, as it becomes once the stages run.
    #[must_use]
    pub fn worlds(&self) -> Arc<ArcSwap<World>> {
        self.reconciler.worlds()
    }

    /// The store of published snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Arc<Store> {
        Arc::clone(&self.snapshots)
    }

    /// Start every stage.
    #[must_use]
    pub fn start(self, flags: Option<Flags>) -> Stages {
        let mut stages = self.stages;
        info!(xds = %self.xds.local_addr(), admin = %self.admin_listener, "listening");
        say_what_holds(&self.config);
        let (draining, token) = (stages.draining(), stages.token());
        let (worlds, commands) = (self.reconciler.worlds(), self.admin.commands.clone());
        let secrets = self.secrets.run(worlds, commands, stages.reloads(), token.clone());
        stages.spawn("secrets", secrets);
        stages.spawn("reconcile", infallible(self.reconciler.run(token.clone())));
        let journal = journal::run::Stage::new(self.journal);
        stages.spawn("journal", infallible(journal.run(token.clone())));
        stages.spawn("quarantine", infallible(self.quarantine.run(token.clone())));
        let freezes = self.admin.freezes.clone();
        let freezes = freezes.run(
            Arc::clone(&self.admin.backend),
            self.config.state_prefix.clone(),
            token.clone(),
        );
        stages.spawn("freezes", infallible(freezes));
        stages.spawn("replica", infallible(self.replica.run(token.clone())));
        stages.spawn_draining("xds", self.xds.run(self.snapshots, self.fleet, draining, token.clone()));
        let confirm = admin::confirm::run(self.admin.clone(), token.clone());
        stages.spawn("confirm", infallible(confirm));
        let admin = admin::serve(self.admin_listener, self.admin, token.clone());
        // A sixth of the grace is left after the cancellation. Half of it may go to requests that are open.
        stages.spawn("admin", cut_short(admin, token.clone(), self.config.grace / 12));
        if let Some(certificates) = self.certificates {
            stages.spawn("certificates", certificates.run(stages.reloads(), token.clone()));
        }
        if let Some(flags) = flags {
            let reload = Reload {
                config: self.config,
                flags,
                backend: self.backend,
            };
            stages.spawn("reload", infallible(reload.run(stages.reloads(), token)));
        }

        stages
    }
}

/// A stage that clients may hold up: it ends this long after the cancellation at the latest.
async fn cut_short(
    stage: impl Future<Output = io::Result<()>>,
    token: CancellationToken,
    after: Duration,
) -> io::Result<()> {
    let late = async {
        token.cancelled().await;
        tokio::time::sleep(after).await;
    };
    tokio::select! {
        ended = stage => ended,
        () = late => Ok(()),
    }
}

/// The journal of the changes of documents.
fn open_journal(config: &Config, options: &Options, backend: &Arc<dyn Backend>) -> Journal {
    let layout = &options.layout;
    let roots = layout.roots().into_iter().filter(|root| !root.is_registrations());
    let limits = journal::book::Limits {
        revisions: config.journal_revisions,
        age: config.journal_age,
        bytes: config.journal_bytes,
    };
    Journal::new(
        Arc::clone(backend),
        &config.state_prefix,
        roots.map(|root| layout.prefix_of(&root).into()).collect(),
        options.vault.clone(),
        limits,
    )
}

fn layout(config: &Config) -> Layout {
    Layout {
        prefix: config.prefix.as_str().into(),
        registry_prefix: config.registry_prefix.as_str().into(),
        routes_prefixes: config
            .routes_prefixes
            .iter()
            .map(|prefix| prefix.as_str().into())
            .collect(),
    }
}

/// The settings of the guards and the compiler in a configuration.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn options(config: &Config) -> anyhow::Result<Options> {
    options_with(config, secret_files(config)?)
}

/// The files of secrets documents; `None`: no document may name any.
fn secret_files(config: &Config) -> anyhow::Result<Option<Arc<SecretFiles>>> {
    match config.secret_dirs.as_slice() {
        [] => Ok(None),
        folders => Ok(Some(Arc::new(SecretFiles::new(folders)?))),
    }
}

fn options_with(config: &Config, secret_files: Option<Arc<SecretFiles>>) -> anyhow::Result<Options> {
    Ok(Options {
        layout: layout(config),
        confirm_mass_loss: config.on_mass_loss == OnMassLoss::Confirm,
        has_leases: matches!(config.documents, Documents::Etcd(_)),
        re2_max_program_size: config.re2_max_program_size,
        ca_bundle: ca_bundle(config)?,
        access_log_dir: config.access_log_dir.as_str().into(),
        vault: vault(config, secret_files)?,
    })
}

/// The file of the keys of sealed secrets.
fn key_file(config: &Config) -> Option<&PathBuf> {
    match &config.secret_keys {
        Some(SecretKeys::File(path)) => Some(path),
        _ => None,
    }
}

/// The keys and the files of secrets.
///
/// # Errors
/// Keys that cannot be read, a folder that is not there.
fn vault(config: &Config, files: Option<Arc<SecretFiles>>) -> anyhow::Result<Vault> {
    let (text, place) = match &config.secret_keys {
        None => (None, String::new()),
        Some(SecretKeys::File(path)) => {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("read the keys of --secret-keys-file, {}", path.display()))?;
            (Some(text), path.display().to_string())
        }
        Some(SecretKeys::Text(text)) => (Some(text.expose().to_owned()), config::SECRET_KEYS.to_owned()),
    };
    let keys = text.map(|text| Keys::read(&text)).transpose();
    let keys = keys
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("read the keys of {place}"))?;
    let files = files.map(|files| files as Arc<dyn Files>);
    Ok(Vault::new(&config.prefix, keys, config.require_sealed_secrets, files))
}

/// The paths of the system's authorities; the first existing one is used.
const SYSTEM_CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The PEM text that `https` upstreams are verified with; `None` on a system without one, which refuses such routes.
fn ca_bundle(config: &Config) -> anyhow::Result<Option<Bytes>> {
    if let Some(path) = &config.ca_bundle {
        let pem = std::fs::read(path).with_context(|| format!("read the CA bundle {}", path.display()))?;
        return Ok(Some(pem.into()));
    }
    Ok(SYSTEM_CA_BUNDLES
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .map(Bytes::from))
}

/// The store of the documents.
pub(crate) fn open_store(config: &Config) -> Arc<dyn Backend> {
    open_backend(config, &Metrics::default())
}

fn open_backend(config: &Config, metrics: &Metrics) -> Arc<dyn Backend> {
    match &config.documents {
        Documents::Etcd(etcd) => {
            let (user, password_file) = etcd.user.clone().unzip();
            let (cert, key) = etcd.identity.clone().unzip();
            let options = etcd::Options {
                endpoints: etcd.endpoints.clone(),
                user,
                password_file,
                ca: etcd.ca.clone(),
                cert,
                key,
                texts: etcd::Texts::default(),
                max_txn_ops: Some(config.max_txn_ops),
            };
            let etcd = Etcd::new(options);
            let watches: Vec<_> = layout(config).roots().iter().map(Root::as_str).collect();
            metrics.show_etcd(&watches, &ListReason::ALL.map(ListReason::as_str));
            metrics.also(Box::new(EtcdMetrics(etcd.stats())));
            Arc::new(etcd)
        }
        Documents::Directory(path) => Arc::new(Directory::new(
            path,
            config.prefix.as_str(),
            config.registry_prefix.as_str(),
            config.state_dir.as_path(),
            config.state_prefix.as_str(),
        )),
    }
}

/// The store that saved texts are read from.
fn store_name(config: &Config) -> String {
    match &config.documents {
        Documents::Etcd(_) => "etcd".to_owned(),
        Documents::Directory(path) => {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("directory {}", absolute.display())
        }
    }
}

/// The action in errors about `--state-dir`. It names the working directory, because that is `/` under systemd.
fn use_state_dir(folder: &Path) -> String {
    let working_directory = std::env::current_dir().unwrap_or_default();
    format!(
        "use {} as --state-dir (the working directory is {}), expected a folder that this user may create and write",
        folder.display(),
        working_directory.display()
    )
}

async fn bind_admin(listen: &Listen) -> anyhow::Result<admin::Listener> {
    match listen {
        Listen::Tcp(address) => TcpListener::bind(address)
            .await
            .map(admin::Listener::from)
            .with_context(|| format!("bind the admin port {address}")),
        Listen::Unix(path) => {
            admin::Listener::bind_unix(path).with_context(|| format!("bind the admin port unix:{}", path.display()))
        }
    }
}

fn bind_xds(config: &Config, certificates: Option<&Certificates>) -> anyhow::Result<xds::server::Server> {
    let listen = match &config.xds_listen {
        Listen::Tcp(address) => xds::options::Listen::Tcp(*address),
        Listen::Unix(path) => xds::options::Listen::Unix(path.clone()),
    };
    let what = listen.to_string();
    let max_connections = files::connections();
    xds::server::Server::bind(xds::options::Options {
        listen,
        limits: xds::Limits::new(config.max_streams, max_connections),
        max_connections,
        max_streams: config.max_streams,
        stall_timeout: config.stall_timeout,
        max_connection_age: config.max_connection_age,
        grace: config.grace,
        identifier: identifier(),
        tls: certificates.map(Certificates::subscribe),
        plaintext_secrets: config.plaintext_secrets,
    })
    .with_context(|| format!("bind the xDS port {what}"))
}

/// `control_plane.identifier`: which replica a proxy talks to.
fn identifier() -> String {
    format!(
        "chancery/{}@{}:{}",
        env!("CARGO_PKG_VERSION"),
        host_name(),
        std::process::id()
    )
}

fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() { "localhost" } else { host }.to_owned()
}

/// The id of this replica: the name of the host and the admin port.
fn default_replica_id(admin_listener: &admin::Listener) -> String {
    let port = match admin_listener {
        admin::Listener::Tcp(listener) => listener.local_addr().map(|address| address.port()).ok(),
        admin::Listener::Unix(..) => None,
    };
    let port = port.map_or_else(|| "unix".to_owned(), |port| port.to_string());
    format!("{}:{port}", host_name())
}

/// The try-out mode's first document, where its folder is missing.
fn create_sample(config: &Config) -> anyhow::Result<()> {
    let Documents::Directory(folder) = &config.documents else {
        return Ok(());
    };
    if folder.exists() {
        return Ok(());
    }
    let path = folder.join(SAMPLE.0);
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        std::fs::write(&path, SAMPLE.1)
    };
    write().with_context(|| format!("write the sample {}", path.display()))
}

/// Log the store of the documents once.
fn say_what_holds(config: &Config) {
    match &config.documents {
        Documents::Etcd(etcd) => {
            info!(endpoints = ?etcd.endpoints, prefix = config.prefix, "Documents are read from etcd")
        }
        Documents::Directory(path) => info!(path = %path.display(), "Documents are read from a directory"),
    }
    if config.try_out {
        info!(
            "Try-out mode, because neither --etcd nor --dir was given: edit ./gateway/routes/hello.json, connect an \
             Envoy to the xDS address (envoy-config/), and read /api/v1/documents on the admin address"
        );
    }
}

/// SIGHUP: read the configuration again. Credentials and certificates change at once; changed flags are only named.
struct Reload {
    config: Config,
    flags: Flags,
    backend: Arc<dyn Backend>,
}

impl Reload {
    async fn run(self, mut reloads: watch::Receiver<u64>, token: CancellationToken) {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                Ok(()) = reloads.changed() => self.reload().await,
            }
        }
    }

    async fn reload(&self) {
        match Config::load_from_process(&self.flags) {
            Ok(config) => match self.config.differences(&config) {
                unchanged if unchanged.is_empty() => info!("Configuration reloaded: no value changed"),
                changed => warn!(
                    ?changed,
                    "Configuration reloaded: the changed flags take effect at the next start"
                ),
            },
            Err(error) => warn!(%error, "New configuration is invalid; the server keeps the current one"),
        }

        match self.backend.reload().await {
            Ok(()) => info!(
                backend = self.backend.name(),
                "Credentials and certificates of the backend are reloaded"
            ),
            Err(reason) => {
                warn!(
                    backend = self.backend.name(),
                    reason, "New credentials or certificates of the backend cannot be used; its connections stay open"
                )
            }
        }
    }
}

/// The observations of the loop and the streams, as metrics and for the journal.
#[derive(Debug)]
struct Counted {
    metrics: Arc<Metrics>,
    journal: Journal,
    /// By type and variant: there are as many responses as updates and streams.
    responses: [[OnceLock<Counter>; 2]; ResourceType::COUNT],
}

impl Counted {
    fn new(metrics: Arc<Metrics>, journal: Journal) -> Self {
        Self {
            metrics,
            journal,
            responses: Default::default(),
        }
    }
}

impl fleet::Observer for Counted {
    fn responded(&self, resource_type: ResourceType, variant: Variant) {
        let counter = &self.responses[resource_type.index()][usize::from(variant == Variant::Sotw)];
        counter
            .get_or_init(|| self.metrics.responses_of(resource_type.as_str(), variant.as_str()))
            .inc();
    }

    fn acknowledged(&self, _: ResourceType, _: Variant, since_published: Option<Duration>) {
        if let Some(after) = since_published {
            self.metrics.acknowledged(after);
        }
    }

    fn stuck(&self, variant: Variant) {
        self.metrics.stuck(variant.as_str());
    }

    fn converged(&self, group: &str, after: Duration) {
        self.metrics.converged(group, after);
    }

    fn nacked(&self, resource_type: ResourceType, _: Variant) {
        self.metrics.nacked(resource_type.as_str());
    }

    fn too_large(&self, resource_type: ResourceType) {
        self.metrics.too_large(resource_type.as_str());
    }
}

impl Observer for Counted {
    fn observed(&self, root: &Root, event: &Event) {
        let (etcd, watch) = (&self.metrics.etcd, root.as_str());
        match event {
            Event::Alive => etcd.heard(watch, true),
            Event::Failed { .. } => etcd.failed(watch),
            Event::Problems { .. } | Event::Reached { .. } => {}
            Event::Listed {
                revision,
                reason,
                entries,
                ..
            } => {
                let bytes = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
                etcd.listed(watch, reason.as_str(), *revision, bytes);
            }
            Event::Changed { revision, changes, .. } => {
                let puts = changes.iter().filter(|change| matches!(change, Change::Put(_))).count();
                etcd.changed(watch, *revision, puts, changes.len() - puts);
            }
        }
    }

    fn published(&self, waited: Duration) {
        self.metrics.published(waited);
    }

    fn skipped(&self) {
        self.metrics.snapshot_skipped_equal.inc();
    }

    fn planned(&self, planned: PlannedEvents) {
        let PlannedEvents {
            events,
            whole,
            is_held,
            step,
        } = planned;
        let seen = events.into_iter().filter_map(|(root, event)| match event {
            Event::Listed {
                revision,
                reason,
                entries,
            } => Some(Seen::Listed {
                root,
                revision,
                reason,
                entries,
            }),
            Event::Changed { revision, changes } => Some(Seen::Changed {
                root,
                revision,
                changes,
            }),
            _ => None,
        });
        let effect = step.and_then(|step| Some((step.revisions.to_vec(), recorded(step.effect.as_deref()?))));
        self.journal.observe(News {
            seen: seen.collect(),
            effect,
            whole,
            is_held,
        });
    }
}

/// The effect of a change as the journal keeps it.
fn recorded(effect: &steps::Effect) -> entry::Effect {
    let counts = |counts: &steps::Counts| entry::Counts {
        added: counts.added,
        changed: counts.changed,
        removed: counts.removed,
    };
    let drain = |drain: &steps::Drain| entry::Drain {
        listener: drain.listener.to_string(),
        group: drain.group.to_string(),
        why: if drain.is_removed { "removed" } else { "changed" }.to_owned(),
    };
    let most = entry::Effect::LIST_MAX;
    let types = effect.types.iter();
    entry::Effect {
        types: types.map(|(of, of_type)| (of.to_string(), counts(of_type))).collect(),
        groups: effect.groups.iter().take(most).map(ToString::to_string).collect(),
        drains: effect.drains.iter().take(most).map(drain).collect(),
    }
}

/// A stage that cannot fail.
async fn infallible(stage: impl Future<Output = ()>) -> Result<(), Infallible> {
    stage.await;
    Ok(())
}
