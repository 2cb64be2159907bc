//! The parameters of a whole compile, beside the documents.

use bytes::Bytes;

use crate::document::defaults::Defaults;

/// Parameters of a compile. Two replicas with equal ones and equal documents make equal bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Context {
    /// The `defaults` document; [`Defaults::default`] without one.
    pub defaults: Defaults,
    /// `--ca-bundle`: the PEM text that certificates of `https` upstreams are verified against.
    pub ca_bundle: Option<Bytes>,
}
