//! The parameters of a whole compile, beside the documents.

use std::sync::Arc;

use bytes::Bytes;

use crate::document::defaults::Defaults;

/// The default of `--access-log-dir`.
pub const ACCESS_LOG_DIR: &str = "/var/log";

/// Parameters of a compile. Two replicas with equal ones and equal documents make equal bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The `defaults` document; [`Defaults::default`] without one.
    pub defaults: Defaults,
    /// `--ca-bundle`: the PEM text that certificates of `https` upstreams are verified against.
    pub ca_bundle: Option<Bytes>,
    /// `--access-log-dir`: the folder on the hosts of proxies below which access logs may be written.
    pub access_log_dir: Arc<str>,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            defaults: Defaults::default(),
            ca_bundle: None,
            access_log_dir: ACCESS_LOG_DIR.into(),
        }
    }
}
