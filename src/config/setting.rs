//! The one table of settings: a row is a flag, a `CHANCERY_*` variable and a key of the file.
//!
//! The command line is built from the table, `--help` prints the table, and a name that is not in the table is a
//! mistake.

use clap::{Arg, ArgAction, value_parser};

/// Prefix of the server's environment variables.
pub(super) const VARIABLE_PREFIX: &str = "CHANCERY_";

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The flag without its dashes.
    pub name: &'static str,
    /// The kind of its value.
    pub takes: Takes,
    /// The value if none is given. `None`: no default, or one that depends on other settings (see `help`).
    pub default: Option<&'static str>,
    /// Heading in `--help`.
    pub heading: &'static str,
    /// One to three sentences.
    pub help: &'static str,
}

/// The kind of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// `true` or `false`; a bare flag means `true`.
    Switch,
    /// One value, with the word that `--help` shows for it.
    One(&'static str),
    /// Several: comma separated, or the flag given again, or a list in the file.
    Many(&'static str),
}

const DOCUMENTS: &str = "Where documents are";
const SERVING: &str = "Serving proxies";
const GUARDS: &str = "Guards";
const JOURNAL: &str = "The journal of changes";
const TELEMETRY: &str = "Logs, traces and the admin API";

/// Every setting of `chancery serve`, in the order of `--help`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "etcd",
        takes: Takes::Many("URL"),
        default: None,
        heading: DOCUMENTS,
        help: "Read documents from etcd at these URLs (comma separated). Without a scheme: https:// with --etcd-ca or \
            --etcd-cert, else http://",
    },
    Setting {
        name: "etcd-user",
        takes: Takes::One("NAME"),
        default: None,
        heading: DOCUMENTS,
        help: "Log in to etcd as this user; needs --etcd-password-file",
    },
    Setting {
        name: "etcd-password-file",
        takes: Takes::One("FILE"),
        default: None,
        heading: DOCUMENTS,
        help: "File with the password of --etcd-user; a line break at its end is ignored",
    },
    Setting {
        name: "etcd-ca",
        takes: Takes::One("FILE"),
        default: None,
        heading: DOCUMENTS,
        help: "PEM file of the authorities that verify etcd's certificate, instead of the system's",
    },
    Setting {
        name: "etcd-cert",
        takes: Takes::One("FILE"),
        default: None,
        heading: DOCUMENTS,
        help: "PEM file of the client certificate for etcd; needs --etcd-key. Each new connection reads the files \
            again",
    },
    Setting {
        name: "etcd-key",
        takes: Takes::One("FILE"),
        default: None,
        heading: DOCUMENTS,
        help: "PEM file of the private key of --etcd-cert",
    },
    Setting {
        name: "dir",
        takes: Takes::One("PATH"),
        default: None,
        heading: DOCUMENTS,
        help: "Read documents from this directory instead of etcd; a saved file takes effect at once",
    },
    Setting {
        name: "prefix",
        takes: Takes::One("PREFIX"),
        default: Some("/gateway/"),
        heading: DOCUMENTS,
        help: "Prefix of the keys of documents",
    },
    Setting {
        name: "registry-prefix",
        takes: Takes::One("PREFIX"),
        default: Some("/services/"),
        heading: DOCUMENTS,
        help: "Prefix of the keys of registered instances",
    },
    Setting {
        name: "state-prefix",
        takes: Takes::One("PREFIX"),
        default: Some("/chancery/"),
        heading: DOCUMENTS,
        help: "Prefix of the keys that replicas share; other keys are written only when a client asks for it",
    },
    Setting {
        name: "routes-prefix",
        takes: Takes::Many("PREFIX"),
        default: None,
        heading: DOCUMENTS,
        help: "Further prefix of route documents (repeatable)",
    },
    Setting {
        name: "max-txn-ops",
        takes: Takes::One("NUMBER"),
        default: Some("128"),
        heading: DOCUMENTS,
        help: "The value of etcd's flag of this name. One write through the API has at most one document less",
    },
    Setting {
        name: "state-dir",
        takes: Takes::One("PATH"),
        default: Some("./state"),
        heading: DOCUMENTS,
        help: "Directory of the last good documents: while etcd is away, a restarted server serves them",
    },
    Setting {
        name: "xds-listen",
        takes: Takes::One("ADDR"),
        default: None,
        heading: SERVING,
        help: "IP:PORT or unix:PATH of the xDS port; port 0 takes a free one [default: 0.0.0.0:18000; 127.0.0.1:18000 \
               with neither --etcd nor --dir]",
    },
    Setting {
        name: "xds-tls-cert",
        takes: Takes::One("FILE"),
        default: None,
        heading: SERVING,
        help: "PEM file of the server's certificate chain; needs --xds-tls-key. If the file changes, new connections \
            get the new chain",
    },
    Setting {
        name: "xds-tls-key",
        takes: Takes::One("FILE"),
        default: None,
        heading: SERVING,
        help: "PEM file of the private key of --xds-tls-cert",
    },
    Setting {
        name: "xds-tls-client-ca",
        takes: Takes::One("FILE"),
        default: None,
        heading: SERVING,
        help: "PEM file of the authorities that verify client certificates; a client without a valid certificate is \
            refused",
    },
    Setting {
        name: "grace",
        takes: Takes::One("DURATION"),
        default: Some("30s"),
        heading: SERVING,
        help: "Longest time from a stop signal to the end of the process; streams end one by one over two thirds of it",
    },
    Setting {
        name: "max-streams",
        takes: Takes::One("NUMBER"),
        default: Some("50000"),
        heading: SERVING,
        help: "Largest number of streams; a further one is answered with UNAVAILABLE",
    },
    Setting {
        name: "max-connection-age",
        takes: Takes::One("DURATION"),
        default: Some("0"),
        heading: SERVING,
        help: "End a stream at this age (jittered), so that proxies spread over new replicas; 0: never",
    },
    Setting {
        name: "stall-timeout",
        takes: Takes::One("DURATION"),
        default: Some("60s"),
        heading: SERVING,
        help: "Reset a stream whose client reads nothing for this long",
    },
    Setting {
        name: "publish-distance",
        takes: Takes::One("DURATION"),
        default: Some("100ms"),
        heading: SERVING,
        help: "Longest pause between two publishes in a burst of changes; a single change does not wait",
    },
    Setting {
        name: "plaintext-secrets",
        takes: Takes::Switch,
        default: Some("false"),
        heading: SERVING,
        help: "Send secrets also over connections without a verified client certificate",
    },
    Setting {
        name: "ca-bundle",
        takes: Takes::One("FILE"),
        default: None,
        heading: SERVING,
        help: "PEM file of the authorities that verify https upstreams, instead of the system's",
    },
    Setting {
        name: "replica-id",
        takes: Takes::One("ID"),
        default: None,
        heading: SERVING,
        help: "Id of this server among its replicas; by default the host name and the admin port",
    },
    Setting {
        name: "advertise-admin",
        takes: Takes::One("URL"),
        default: None,
        heading: SERVING,
        help: "Admin address of this server that the answers of all replicas show; no server calls it",
    },
    Setting {
        name: "access-log-dir",
        takes: Takes::One("DIR"),
        default: Some("/var/log"),
        heading: SERVING,
        help: "Folder on the hosts of proxies below which a listener's access logs may be written",
    },
    Setting {
        name: "secret-dir",
        takes: Takes::Many("DIR"),
        default: None,
        heading: SERVING,
        help: "Folder whose files secrets documents may name (repeatable); without it, none may",
    },
    Setting {
        name: "secret-keys-file",
        takes: Takes::One("FILE"),
        default: None,
        heading: SERVING,
        help: "Keys of sealed secrets, one a line: an id and the base64 of 32 bytes; the first seals, all open. Or the \
            variable CHANCERY_SECRET_KEYS has the lines themselves",
    },
    Setting {
        name: "require-sealed-secrets",
        takes: Takes::Switch,
        default: Some("false"),
        heading: SERVING,
        help: "Reject secrets documents that are not sealed",
    },
    Setting {
        name: "re2-max-program-size",
        takes: Takes::One("NUMBER"),
        default: Some("100"),
        heading: SERVING,
        help: "Largest regex, in RE2 instructions; set no more than the runtime value \
            re2.max_program_size.error_level of your Envoys",
    },
    Setting {
        name: "allow-empty",
        takes: Takes::Switch,
        default: Some("false"),
        heading: GUARDS,
        help: "If there are neither documents nor saved state, remove the configuration that proxies have",
    },
    Setting {
        name: "on-mass-loss",
        takes: Takes::One("auto|confirm"),
        default: Some("auto"),
        heading: GUARDS,
        help: "When most documents vanish at once: `auto` accepts it after a second list that agrees, `confirm` waits \
            for POST /api/v1/release",
    },
    Setting {
        name: "journal-revisions",
        takes: Takes::One("NUMBER"),
        default: Some("10000"),
        heading: JOURNAL,
        help: "Most entries of the journal of changes; the oldest go first",
    },
    Setting {
        name: "journal-age",
        takes: Takes::One("DURATION"),
        default: Some("90d"),
        heading: JOURNAL,
        help: "Age at which an entry of the journal goes",
    },
    Setting {
        name: "journal-bytes",
        takes: Takes::One("BYTES"),
        default: Some("64MiB"),
        heading: JOURNAL,
        help: "Size of all entries of the journal with their texts; the oldest go first. The texts of the documents at \
            its begin are not counted",
    },
    Setting {
        name: "admin-listen",
        takes: Takes::One("ADDR"),
        default: Some("127.0.0.1:18001"),
        heading: TELEMETRY,
        help: "IP:PORT or unix:PATH of the admin HTTP API, which has no authentication; port 0 takes a free one",
    },
    Setting {
        name: "admin-host",
        takes: Takes::Many("NAME"),
        default: None,
        heading: TELEMETRY,
        help: "Name of this server in the Host of admin requests, beside IP addresses and localhost (repeatable)",
    },
    Setting {
        name: "log-format",
        takes: Takes::One("text|json"),
        default: Some("text"),
        heading: TELEMETRY,
        help: "Format of the log lines on stderr",
    },
    Setting {
        name: "log-level",
        takes: Takes::One("FILTER"),
        default: Some("info"),
        heading: TELEMETRY,
        help: "error, warn, info, debug or trace, also by module: \"info,chancery::xds=debug\"",
    },
    Setting {
        name: "otlp-endpoint",
        takes: Takes::One("URL"),
        default: None,
        heading: TELEMETRY,
        help: "Send traces to this OTLP collector over gRPC, for example http://127.0.0.1:4317",
    },
    Setting {
        name: "trace-sample-percent",
        takes: Takes::One("NUMBER"),
        default: Some("100"),
        heading: TELEMETRY,
        help: "Percentage of changes that are traced, 0 to 100, fractions allowed",
    },
];

/// The flag, variable and key that name the file; not a key of the file itself.
pub const CONFIG: Setting = Setting {
    name: "config",
    takes: Takes::One("FILE"),
    default: None,
    heading: "General",
    help: "TOML file whose keys are the names of these flags",
};

impl Setting {
    /// The setting of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// The flag, `--state-dir`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// The variable, `CHANCERY_STATE_DIR`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}{}", VARIABLE_PREFIX, self.name.replace('-', "_").to_uppercase())
    }

    /// The flag for clap. Values stay text, so that their mistakes are in one report with all others.
    #[must_use]
    pub fn arg(&self) -> Arg {
        let default = self
            .default
            .map(|default| format!(" [default: {default}]"))
            .unwrap_or_default();
        let help = format!("{}{default} [env: {}]", self.help, self.variable());
        let arg = Arg::new(self.name)
            .long(self.name)
            .help(help)
            .help_heading(self.heading);
        let arg = arg.value_parser(value_parser!(String)).allow_hyphen_values(false);
        match self.takes {
            Takes::Switch => arg
                .value_name("true|false")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .action(ArgAction::Set),
            Takes::One(word) => arg.value_name(word).action(ArgAction::Set),
            Takes::Many(word) => arg.value_name(word).action(ArgAction::Append),
        }
    }
}
