//! `defaults`: what holds where a document says nothing.

use super::{cluster, listener, route};

/// The defaults document; [`Defaults::default`] where there is none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Defaults {
    /// For routes.
    pub route: route::Settings,
    /// For clusters, inline ones too.
    pub cluster: cluster::Settings,
    /// For listeners.
    pub listener: listener::Settings,
    /// What the older forms' `path` means.
    pub legacy_path: LegacyPath,
}

/// `legacy_path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LegacyPath {
    /// The whole path.
    #[default]
    Exact,
    /// The path and what is below it, by segments.
    Prefix,
}
