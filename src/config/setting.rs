//! The one table of what can be set: a row is a flag, a `CHANCERY_*` variable and a key of the file.
//!
//! The command line is built from it, `--help` prints it, and whatever is not in it is a mistake.

use clap::{Arg, ArgAction, value_parser};

/// One thing that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The flag without its dashes.
    pub name: &'static str,
    /// What kind of value it takes.
    pub takes: Takes,
    /// What holds when it is not given; `None`: nothing, or it depends (the help says).
    pub default: Option<&'static str>,
    /// Under which heading `--help` shows it.
    pub heading: &'static str,
    /// One to three sentences.
    pub help: &'static str,
}

/// What kind of value a setting takes.
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
const TELEMETRY: &str = "Logs, traces and the admin API";

/// Every setting of `chancery serve`, in the order of `--help`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "etcd",
        takes: Takes::Many("URL"),
        default: None,
        heading: DOCUMENTS,
        help: "Read documents from etcd at these URLs (comma separated). http:// unless a scheme is written",
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
        help: "The file that holds the password of --etcd-user; a trailing line break is not part of it",
    },
    Setting {
        name: "etcd-ca",
        takes: Takes::One("FILE"),
        default: None,
        heading: DOCUMENTS,
        help: "PEM file of the authorities that etcd's certificate is verified by, instead of the system's",
    },
    Setting {
        name: "etcd-cert",
        takes: Takes::One("FILE"),
        default: None,
        heading: DOCUMENTS,
        help: "PEM file of the client certificate shown to etcd; needs --etcd-key",
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
        help: "Read documents from this directory instead of etcd; edits act at once",
    },
    Setting {
        name: "prefix",
        takes: Takes::One("PREFIX"),
        default: Some("/gateway/"),
        heading: DOCUMENTS,
        help: "Where the keys of documents begin",
    },
    Setting {
        name: "registry-prefix",
        takes: Takes::One("PREFIX"),
        default: Some("/services/"),
        heading: DOCUMENTS,
        help: "Where the keys of registered instances begin",
    },
    Setting {
        name: "state-prefix",
        takes: Takes::One("PREFIX"),
        default: Some("/chancery/"),
        heading: DOCUMENTS,
        help: "Where the server keeps what replicas share; of its own accord it writes nowhere else",
    },
    Setting {
        name: "routes-prefix",
        takes: Takes::Many("PREFIX"),
        default: None,
        heading: DOCUMENTS,
        help: "Another place where route documents are (repeatable)",
    },
    Setting {
        name: "state-dir",
        takes: Takes::One("PATH"),
        default: Some("./state"),
        heading: DOCUMENTS,
        help: "Where the last good documents are saved, so that a restart serves at once while etcd is away",
    },
    Setting {
        name: "xds-listen",
        takes: Takes::One("ADDR"),
        default: None,
        heading: SERVING,
        help: "IP:PORT or unix:PATH where proxies connect; port 0 takes a free one [default: 0.0.0.0:18000; 127.0.0.1:18000 \
               with neither --etcd nor --dir]",
    },
    Setting {
        name: "xds-tls-cert",
        takes: Takes::One("FILE"),
        default: None,
        heading: SERVING,
        help: "PEM file of the server's certificate chain; read again when it changes; needs --xds-tls-key",
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
        help: "PEM file of the authorities that proxies' certificates must be verified by",
    },
    Setting {
        name: "grace",
        takes: Takes::One("DURATION"),
        default: Some("30s"),
        heading: SERVING,
        help: "Longest time from a stop signal to the end; streams are ended spread over two thirds of it",
    },
    Setting {
        name: "max-streams",
        takes: Takes::One("NUMBER"),
        default: Some("50000"),
        heading: SERVING,
        help: "Streams served at once; further ones are refused as UNAVAILABLE before anything is read",
    },
    Setting {
        name: "max-connection-age",
        takes: Takes::One("DURATION"),
        default: Some("0"),
        heading: SERVING,
        help: "Age at which a stream is ended (jittered), so that proxies spread over new replicas; 0 is never",
    },
    Setting {
        name: "stall-timeout",
        takes: Takes::One("DURATION"),
        default: Some("60s"),
        heading: SERVING,
        help: "A proxy that takes nothing of what is owed to it for so long is closed",
    },
    Setting {
        name: "publish-distance",
        takes: Takes::One("DURATION"),
        default: Some("100ms"),
        heading: SERVING,
        help: "Longest distance that a burst of changes puts between two publishes; a lone change never waits",
    },
    Setting {
        name: "plaintext-secrets",
        takes: Takes::Switch,
        default: Some("false"),
        heading: SERVING,
        help: "Serve secrets over unverified plaintext connections too",
    },
    Setting {
        name: "ca-bundle",
        takes: Takes::One("FILE"),
        default: None,
        heading: SERVING,
        help: "PEM file of the authorities that https upstreams are verified by, instead of the system's",
    },
    Setting {
        name: "re2-max-program-size",
        takes: Takes::One("NUMBER"),
        default: Some("100"),
        heading: SERVING,
        help: "Largest regex accepted, as RE2 counts it; must not be larger than Envoy's own re2.max_program_size.error_level",
    },
    Setting {
        name: "allow-empty",
        takes: Takes::Switch,
        default: Some("false"),
        heading: GUARDS,
        help: "With no documents and no saved state, let proxies that already have configuration lose it",
    },
    Setting {
        name: "on-mass-loss",
        takes: Takes::One("auto|confirm"),
        default: Some("auto"),
        heading: GUARDS,
        help: "What lets a list that misses most documents act: a second list that agrees, or an operator alone",
    },
    Setting {
        name: "admin-listen",
        takes: Takes::One("ADDR"),
        default: Some("127.0.0.1:18001"),
        heading: TELEMETRY,
        help: "IP:PORT of the admin HTTP API; it has no authentication; port 0 takes a free one",
    },
    Setting {
        name: "log-format",
        takes: Takes::One("text|json"),
        default: Some("text"),
        heading: TELEMETRY,
        help: "Shape of the log lines on stderr",
    },
    Setting {
        name: "log-level",
        takes: Takes::One("FILTER"),
        default: Some("info"),
        heading: TELEMETRY,
        help: "error, warn, info, debug or trace, or parts such as \"info,chancery::xds=debug\"",
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
        help: "How many of the changes are traced, 0 to 100; fractions are allowed",
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
        format!(
            "{}{}",
            super::source::VARIABLE_PREFIX,
            self.name.replace('-', "_").to_uppercase()
        )
    }

    /// The flag as clap takes it. Values stay text: what is wrong with them is said with what is wrong elsewhere.
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
