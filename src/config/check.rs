//! From the gathered texts to a [`Config`]: each value is parsed, then all are checked against each other.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::setting::Setting;
use super::source::Values;
use super::{
    Config, Documents, Error, Etcd, Listen, Mistake, SECRET_KEYS, SecretKeys, SecretText, Telemetry, TlsFiles, value,
};

const TRY_OUT_DIRECTORY: &str = "./gateway";
const XDS_LISTEN: &str = "0.0.0.0:18000";
const TRY_OUT_XDS_LISTEN: &str = "127.0.0.1:18000";

/// Parse and check all values; the mistakes found while gathering come first.
pub(super) fn check(
    values: Values,
    mistakes: Vec<Mistake>,
    read_file: &impl Fn(&Path) -> io::Result<String>,
) -> Result<Config, Error> {
    let mut checker = Checker { values, mistakes };
    let (documents, try_out) = checker.documents(read_file);
    let config = Config {
        file: checker.values.file.clone(),
        documents,
        try_out,
        prefix: checker.value("prefix", value::prefix),
        registry_prefix: checker.value("registry-prefix", value::prefix),
        state_prefix: checker.value("state-prefix", value::prefix),
        routes_prefixes: checker.many("routes-prefix", value::prefix),
        max_txn_ops: checker.value("max-txn-ops", value::txn_ops),
        state_dir: checker.value("state-dir", value::path),
        xds_listen: checker.xds_listen(try_out),
        admin_listen: checker.value("admin-listen", value::admin_listen),
        admin_hosts: checker.many("admin-host", value::host),
        xds_tls: checker.xds_tls(),
        grace: checker.value("grace", value::positive_duration),
        max_streams: checker.value("max-streams", value::count),
        max_connection_age: Some(checker.value("max-connection-age", value::duration)).filter(|age| !age.is_zero()),
        stall_timeout: checker.value("stall-timeout", value::positive_duration),
        allow_empty: checker.value("allow-empty", value::switch),
        on_mass_loss: checker.value("on-mass-loss", value::on_mass_loss),
        plaintext_secrets: checker.value("plaintext-secrets", value::switch),
        secret_dirs: checker.many("secret-dir", value::path),
        secret_keys: checker.secret_keys(),
        require_sealed_secrets: checker.value("require-sealed-secrets", value::switch),
        ca_bundle: checker.optional("ca-bundle", value::path),
        replica_id: checker.optional("replica-id", value::replica_id),
        advertise_admin: checker.optional("advertise-admin", value::text),
        access_log_dir: checker.value("access-log-dir", value::remote_folder),
        re2_max_program_size: checker.value("re2-max-program-size", value::count),
        publish_distance: checker.value::<Duration>("publish-distance", value::duration),
        journal_revisions: checker.value("journal-revisions", value::count),
        journal_age: checker.value("journal-age", value::positive_duration),
        journal_bytes: checker.value("journal-bytes", value::size),
        telemetry: Telemetry {
            log_format: checker.value("log-format", value::log_format),
            log_level: checker.value("log-level", value::log_level),
            otlp_endpoint: checker.optional("otlp-endpoint", value::collector),
            trace_sample_percent: checker.value("trace-sample-percent", value::percent),
        },
    };

    checker.prefixes(&config);

    if checker.mistakes.is_empty() {
        Ok(config)
    } else {
        Err(Error {
            mistakes: checker.mistakes,
        })
    }
}

struct Checker {
    values: Values,
    mistakes: Vec<Mistake>,
}

impl Checker {
    fn mistake(&mut self, name: &str, reason: impl Into<String>) {
        self.mistakes.push(Mistake {
            found_in: self.values.found_in(name),
            reason: reason.into(),
        });
    }

    fn is_given(&self, name: &str) -> bool {
        self.values.texts(name).is_some()
    }

    /// The one text of a setting that takes one.
    fn one(&mut self, name: &str) -> Option<String> {
        let texts = self.values.texts(name)?;
        if let [text] = texts {
            return Some(text.clone());
        }
        let found = format!("found {} values, expected one", texts.len());
        self.mistake(name, found);
        None
    }

    /// The value of a setting without default.
    fn optional<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.one(name)?;
        parse(&text).map_err(|reason| self.mistake(name, reason)).ok()
    }

    /// The value of a setting with a default. The default also replaces a bad value until the report is made.
    fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.optional(name, &parse).unwrap_or_else(|| {
            let default = Setting::named(name).and_then(|setting| setting.default);
            parse(default.expect("only settings with a default are asked for with it"))
                .expect("defaults are good values")
        })
    }

    fn many<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let texts = self.values.texts(name).unwrap_or_default().to_vec();
        texts
            .iter()
            .filter_map(|text| parse(text).map_err(|reason| self.mistake(name, reason)).ok())
            .collect()
    }

    fn documents(&mut self, read_file: &impl Fn(&Path) -> io::Result<String>) -> (Documents, bool) {
        let directory = self.optional("dir", value::path);

        if !self.is_given("etcd") {
            for name in ["etcd-user", "etcd-password-file", "etcd-ca", "etcd-cert", "etcd-key"] {
                if self.is_given(name) {
                    self.mistake(name, "has no effect without --etcd");
                }
            }
            if self.is_given("routes-prefix") {
                self.mistake(
                    "routes-prefix",
                    "needs --etcd: in a directory every route is below routes/",
                );
            }
            let try_out = !self.is_given("dir");
            let directory = directory.unwrap_or_else(|| PathBuf::from(TRY_OUT_DIRECTORY));
            return (Documents::Directory(directory), try_out);
        }

        if self.is_given("dir") {
            let etcd = self.values.found_in("etcd");
            self.mistake(
                "dir",
                format!("cannot be combined with {etcd}: documents live in one place"),
            );
        }

        (Documents::Etcd(self.etcd(read_file)), false)
    }

    fn etcd(&mut self, read_file: &impl Fn(&Path) -> io::Result<String>) -> Etcd {
        let user = self.optional("etcd-user", value::text);
        let password_file = self.optional("etcd-password-file", value::path);
        self.together("etcd-user", "etcd-password-file");

        let ca = self.optional("etcd-ca", value::path);
        let certificate = self.optional("etcd-cert", value::path);
        let key = self.optional("etcd-key", value::path);
        self.together("etcd-cert", "etcd-key");

        let tls = ["etcd-ca", "etcd-cert"].into_iter().find(|name| self.is_given(name));
        let default_scheme = if tls.is_some() { "https" } else { "http" };
        let endpoints = self.many("etcd", |text| value::etcd_endpoint(text, default_scheme));

        let encrypted = endpoints
            .iter()
            .filter(|endpoint| endpoint.starts_with("https:"))
            .count();
        match tls {
            Some(name) if encrypted < endpoints.len() => {
                self.mistake("etcd", format!("found http, but --{name} needs https"));
            }
            None if encrypted != 0 && encrypted < endpoints.len() => {
                self.mistake("etcd", "found http and https, expected one of them");
            }
            _ => {}
        }

        if let Some(path) = &password_file {
            self.readable_password(path, read_file);
        }

        Etcd {
            endpoints,
            user: user.zip(password_file),
            ca,
            identity: certificate.zip(key),
        }
    }

    fn readable_password(&mut self, path: &Path, read_file: &impl Fn(&Path) -> io::Result<String>) {
        match read_file(path) {
            Ok(text) if text.trim_end_matches(['\n', '\r']).is_empty() => {
                self.mistake("etcd-password-file", format!("{} is empty", path.display()));
            }
            Ok(_) => {}
            Err(error) => self.mistake("etcd-password-file", format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Two settings that need each other.
    fn together(&mut self, first: &str, second: &str) {
        match (self.is_given(first), self.is_given(second)) {
            (true, false) => self.mistake(first, format!("needs --{second}")),
            (false, true) => self.mistake(second, format!("needs --{first}")),
            _ => {}
        }
    }

    fn xds_listen(&mut self, try_out: bool) -> Listen {
        let default = if try_out { TRY_OUT_XDS_LISTEN } else { XDS_LISTEN };
        self.optional("xds-listen", value::listen)
            .unwrap_or_else(|| value::listen(default).expect("defaults are good values"))
    }

    fn xds_tls(&mut self) -> Option<TlsFiles> {
        let certificate = self.optional("xds-tls-cert", value::path);
        let key = self.optional("xds-tls-key", value::path);
        let client_ca = self.optional("xds-tls-client-ca", value::path);
        self.together("xds-tls-cert", "xds-tls-key");
        if self.is_given("xds-tls-client-ca") && !self.is_given("xds-tls-cert") {
            self.mistake("xds-tls-client-ca", "needs --xds-tls-cert and --xds-tls-key");
        }
        Some(TlsFiles {
            certificate: certificate?,
            key: key?,
            client_ca,
        })
    }

    /// The place of the keys of sealed secrets; the lines of the variable are not quoted.
    fn secret_keys(&mut self) -> Option<SecretKeys> {
        let file = self.optional("secret-keys-file", value::path);
        let text = self.one(SECRET_KEYS);
        if file.is_some() && text.is_some() {
            self.mistake(SECRET_KEYS, "given beside --secret-keys-file, expected one of the two");
        }
        file.map(SecretKeys::File)
            .or_else(|| Some(SecretKeys::Text(SecretText::from(text?))))
    }

    /// No prefix may contain another: a key would be two documents, or a document would be the server's own state.
    fn prefixes(&mut self, config: &Config) {
        let mut prefixes = vec![
            ("prefix", config.prefix.as_str()),
            ("registry-prefix", config.registry_prefix.as_str()),
            ("state-prefix", config.state_prefix.as_str()),
        ];

        prefixes.extend(
            config
                .routes_prefixes
                .iter()
                .map(|prefix| ("routes-prefix", prefix.as_str())),
        );

        for (index, (name, prefix)) in prefixes.iter().enumerate() {
            for (other_name, other) in &prefixes[..index] {
                if prefix.starts_with(other) || other.starts_with(prefix) {
                    let reason = format!("`{prefix}` overlaps --{other_name} `{other}`");
                    self.mistake(name, reason);
                }
            }
        }
    }
}
