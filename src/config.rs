//! The configuration: flags, environment and file → one checked [`Config`].
//!
//! In: the flags of `chancery serve`, the `CHANCERY_*` variables and, with `--config FILE`, a TOML file whose keys are
//! the names of the flags. Out: a [`Config`] in which every value is parsed and fits the others, or an [`Error`] with
//! all mistakes in one report, each with its flag, variable or key.
//!
//! A flag wins over a variable, a variable over the file, the file over the default. An unknown variable or key is a
//! mistake. Only [`process_environment`] and [`process_variable`] read the environment, and no value is kept in a global.
//!
//! | module | in | out |
//! |---|---|---|
//! | [`setting`] | – | the one table of settings: flag, variable, key, default, help |
//! | `source` | flags, variables, file | the text given for each setting, and its source |
//! | `value` | one text | one parsed value |
//! | `check` | all texts | a [`Config`] whose values fit each other |
//! | [`tls`] | a [`TlsFiles`] | the server's certificates, loaded again when the files change |

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod check;
pub mod setting;
mod source;
pub mod tls;
mod value;

pub use source::{Flags, process_environment, process_variable};

/// All settings of `chancery serve`. Each field has the name of its flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `--config`, `CHANCERY_CONFIG`: the file that was read, if any.
    pub file: Option<PathBuf>,
    /// `--etcd` or `--dir`: the store of the documents. Default: the directory `./gateway` (see [`Config::try_out`]).
    pub documents: Documents,
    /// True if neither `--etcd` nor `--dir` was given. Then, if `./gateway` is missing, it is created with a sample.
    pub try_out: bool,
    /// `--prefix`, `CHANCERY_PREFIX`: prefix of the keys of documents; ends with `/`. Default `/gateway/`.
    pub prefix: String,
    /// `--registry-prefix`, `CHANCERY_REGISTRY_PREFIX`: prefix of the keys of registered instances; ends with `/`.
    /// Default `/services/`.
    pub registry_prefix: String,
    /// `--state-prefix`, `CHANCERY_STATE_PREFIX`: prefix of the keys that replicas share; ends with `/`. Default
    /// `/chancery/`.
    pub state_prefix: String,
    /// `--routes-prefix`, `CHANCERY_ROUTES_PREFIX`: further prefixes of route documents; each ends with `/`. Default:
    /// none.
    pub routes_prefixes: Vec<String>,
    /// `--state-dir`, `CHANCERY_STATE_DIR`: the last good documents on disk. Default `./state`.
    pub state_dir: PathBuf,
    /// `--max-txn-ops`, `CHANCERY_MAX_TXN_OPS`: most operations that etcd takes in one transaction. Default 128.
    pub max_txn_ops: usize,
    /// `--xds-listen`, `CHANCERY_XDS_LISTEN`. Default `0.0.0.0:18000`, in the try-out mode `127.0.0.1:18000`.
    pub xds_listen: Listen,
    /// `--admin-listen`, `CHANCERY_ADMIN_LISTEN`. Default `127.0.0.1:18001`.
    pub admin_listen: Listen,
    /// `--admin-host`, `CHANCERY_ADMIN_HOST`: names in the `Host` of admin requests. Default: none.
    pub admin_hosts: Vec<String>,
    /// `--xds-tls-*`, `CHANCERY_XDS_TLS_*`. Default: plaintext.
    pub xds_tls: Option<TlsFiles>,
    /// `--grace`, `CHANCERY_GRACE`: longest time from the signal to the end. Default 30 s.
    pub grace: Duration,
    /// `--max-streams`, `CHANCERY_MAX_STREAMS`: streams served at once. Default 50,000.
    pub max_streams: usize,
    /// `--max-connection-age`, `CHANCERY_MAX_CONNECTION_AGE`: age at which a stream ends, jittered. Default: never.
    pub max_connection_age: Option<Duration>,
    /// `--stall-timeout`, `CHANCERY_STALL_TIMEOUT`: a stream whose client reads nothing for this long is reset. Default
    /// 60 s.
    pub stall_timeout: Duration,
    /// `--allow-empty`, `CHANCERY_ALLOW_EMPTY`: without documents and saved state, proxies lose their configuration.
    /// Default off.
    pub allow_empty: bool,
    /// `--on-mass-loss`, `CHANCERY_ON_MASS_LOSS`. Default `auto`.
    pub on_mass_loss: OnMassLoss,
    /// `--plaintext-secrets`, `CHANCERY_PLAINTEXT_SECRETS`: SDS also without a verified client certificate. Default
    /// off.
    pub plaintext_secrets: bool,
    /// `--secret-dir`, `CHANCERY_SECRET_DIR`: folders whose files secrets may name. Default: none.
    pub secret_dirs: Vec<PathBuf>,
    /// `--secret-keys-file`, `CHANCERY_SECRET_KEYS_FILE`, or the lines in [`SECRET_KEYS`]. Default: none.
    pub secret_keys: Option<SecretKeys>,
    /// `--require-sealed-secrets`, `CHANCERY_REQUIRE_SEALED_SECRETS`: secrets in the clear are rejected. Default off.
    pub require_sealed_secrets: bool,
    /// `--ca-bundle`, `CHANCERY_CA_BUNDLE`: PEM file of authorities for upstream `https`. Default: the system's.
    pub ca_bundle: Option<PathBuf>,
    /// `--replica-id`, `CHANCERY_REPLICA_ID`: the id of this server among its replicas; `None`: host name and admin port.
    pub replica_id: Option<String>,
    /// `--advertise-admin`, `CHANCERY_ADVERTISE_ADMIN`: the admin address that the answers of all replicas show.
    pub advertise_admin: Option<String>,
    /// `--access-log-dir`, `CHANCERY_ACCESS_LOG_DIR`: the folder on proxies' hosts below which access logs may be
    /// written; absolute, without a slash at its end. Default `/var/log`.
    pub access_log_dir: String,
    /// `--re2-max-program-size`, `CHANCERY_RE2_MAX_PROGRAM_SIZE`: largest regex, in RE2 instructions. Default 100.
    pub re2_max_program_size: u32,
    /// `--publish-distance`, `CHANCERY_PUBLISH_DISTANCE`: longest pause between two publishes in a burst of changes.
    /// Default 100 ms.
    pub publish_distance: Duration,
    /// `--journal-revisions`, `CHANCERY_JOURNAL_REVISIONS`: most entries of the journal. Default 10,000.
    pub journal_revisions: usize,
    /// `--journal-age`, `CHANCERY_JOURNAL_AGE`: age at which an entry goes. Default 90 days.
    pub journal_age: Duration,
    /// `--journal-bytes`, `CHANCERY_JOURNAL_BYTES`: size of all entries with their texts. Default 64 MiB.
    pub journal_bytes: u64,
    /// `--log-format`, `--log-level`, `--otlp-endpoint`, `--trace-sample-percent`.
    pub telemetry: Telemetry,
}

/// The variable with the keys of sealed secrets. There is no flag: arguments of a process can be read by others.
pub const SECRET_KEYS: &str = "CHANCERY_SECRET_KEYS";
/// The variable with the servers of the other verbs; no setting of `chancery serve`.
pub const CLIENT_SERVER: &str = "CHANCERY_SERVER";

/// The keys of sealed secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKeys {
    /// In a file.
    File(PathBuf),
    /// In [`SECRET_KEYS`].
    Text(SecretText),
}

/// A text that no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// The store of the documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Documents {
    /// `--etcd`.
    Etcd(Etcd),
    /// `--dir`.
    Directory(PathBuf),
}

/// The endpoints of etcd, and the credentials for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// `--etcd`, `CHANCERY_ETCD`: URLs with scheme, all `http` or all `https`; at least one, without credentials.
    pub endpoints: Vec<String>,
    /// `--etcd-user`, `CHANCERY_ETCD_USER`, and `--etcd-password-file`: the name, and the file of the password. Every
    /// new connection reads the file again, so the password is not kept here.
    pub user: Option<(String, PathBuf)>,
    /// `--etcd-ca`, `CHANCERY_ETCD_CA`: PEM file of authorities. Default: the system's.
    pub ca: Option<PathBuf>,
    /// `--etcd-cert` and `--etcd-key`: PEM files of the client's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The address of a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// PEM files of a TLS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--xds-tls-cert`, `CHANCERY_XDS_TLS_CERT`: the certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// `--xds-tls-key`, `CHANCERY_XDS_TLS_KEY`: its private key.
    pub key: PathBuf,
    /// `--xds-tls-client-ca`, `CHANCERY_XDS_TLS_CLIENT_CA`: authorities that verify client certificates. Default:
    /// clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Release of a list in which most documents are suddenly missing (docs/documents/README.md, Guards).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMassLoss {
    /// A second, equal list releases it.
    Auto,
    /// An operator releases it.
    Confirm,
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// `--log-format`, `CHANCERY_LOG_FORMAT`. Default `text`.
    pub log_format: LogFormat,
    /// `--log-level`, `CHANCERY_LOG_LEVEL`: a level, or the filter syntax of `tracing`'s `EnvFilter`. Default `info`.
    pub log_level: String,
    /// `--otlp-endpoint`, `CHANCERY_OTLP_ENDPOINT`: URL of an OTLP collector over gRPC. Default: no traces.
    pub otlp_endpoint: Option<String>,
    /// `--trace-sample-percent`, `CHANCERY_TRACE_SAMPLE_PERCENT`: percentage of changes that are traced, 0 to 100.
    /// Default 100.
    pub trace_sample_percent: f64,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The flag, the variable, or the key and its file.
    pub found_in: String,
    /// The found and the expected value, one sentence.
    pub reason: String,
}

/// All mistakes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} in the configuration:{}", count(.mistakes), list(.mistakes))]
pub struct Error {
    /// At least one, in the order of the flags' table.
    pub mistakes: Vec<Mistake>,
}

impl Error {
    /// Names and values are quoted as they were given. Here their control characters are escaped.
    fn escaped(mut self) -> Self {
        for mistake in &mut self.mistakes {
            for text in [&mut mistake.found_in, &mut mistake.reason] {
                if text.contains(char::is_control) {
                    *text = text.chars().map(escape).collect();
                }
            }
        }
        self
    }
}

fn escape(character: char) -> String {
    if character.is_control() {
        character.escape_debug().to_string()
    } else {
        character.to_string()
    }
}

fn count(mistakes: &[Mistake]) -> String {
    match mistakes.len() {
        1 => "1 mistake".to_owned(),
        many => format!("{many} mistakes"),
    }
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes
        .iter()
        .map(|mistake| format!("\n  {}: {}", mistake.found_in, mistake.reason))
        .collect()
}

impl Config {
    /// Gather the given texts and check them.
    ///
    /// `environment` comes from [`process_environment`]; `read_file` reads the config file and the password file.
    ///
    /// # Errors
    /// All mistakes, in one report.
    pub fn load(
        flags: &Flags,
        environment: &BTreeMap<String, String>,
        read_file: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Error> {
        let (values, mistakes) = source::gather(flags, environment, &read_file);
        check::check(values, mistakes, &read_file).map_err(Error::escaped)
    }

    /// [`Config::load`] from the process's own environment and files; at start and again on SIGHUP.
    ///
    /// # Errors
    /// All mistakes, in one report.
    pub fn load_from_process(flags: &Flags) -> Result<Self, Error> {
        Self::load(flags, &process_environment(), |path| std::fs::read_to_string(path))
    }

    /// The flags whose values differ between this and another configuration, the changes of a reload. A group of flags
    /// has one name here: `--etcd` for the store of the documents, `--log-level` for telemetry.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            (
                "--etcd",
                self.documents == other.documents && self.try_out == other.try_out,
            ),
            ("--prefix", self.prefix == other.prefix),
            ("--registry-prefix", self.registry_prefix == other.registry_prefix),
            ("--state-prefix", self.state_prefix == other.state_prefix),
            ("--routes-prefix", self.routes_prefixes == other.routes_prefixes),
            ("--max-txn-ops", self.max_txn_ops == other.max_txn_ops),
            ("--state-dir", self.state_dir == other.state_dir),
            ("--xds-listen", self.xds_listen == other.xds_listen),
            ("--admin-listen", self.admin_listen == other.admin_listen),
            ("--admin-host", self.admin_hosts == other.admin_hosts),
            ("--xds-tls-cert", self.xds_tls == other.xds_tls),
            ("--grace", self.grace == other.grace),
            ("--max-streams", self.max_streams == other.max_streams),
            (
                "--max-connection-age",
                self.max_connection_age == other.max_connection_age,
            ),
            ("--stall-timeout", self.stall_timeout == other.stall_timeout),
            ("--allow-empty", self.allow_empty == other.allow_empty),
            ("--on-mass-loss", self.on_mass_loss == other.on_mass_loss),
            ("--plaintext-secrets", self.plaintext_secrets == other.plaintext_secrets),
            ("--ca-bundle", self.ca_bundle == other.ca_bundle),
            ("--replica-id", self.replica_id == other.replica_id),
            ("--advertise-admin", self.advertise_admin == other.advertise_admin),
            ("--access-log-dir", self.access_log_dir == other.access_log_dir),
            (
                "--re2-max-program-size",
                self.re2_max_program_size == other.re2_max_program_size,
            ),
            ("--publish-distance", self.publish_distance == other.publish_distance),
            ("--journal-revisions", self.journal_revisions == other.journal_revisions),
            ("--journal-age", self.journal_age == other.journal_age),
            ("--journal-bytes", self.journal_bytes == other.journal_bytes),
            ("--log-level", self.telemetry == other.telemetry),
        ];

        same.into_iter()
            .filter(|(_, same)| !same)
            .map(|(flag, _)| flag)
            .collect()
    }
}

#[cfg(test)]
mod tests;
