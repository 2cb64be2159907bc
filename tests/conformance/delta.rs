//! DX: delta.
//!
//! `subscriptions` is what a request asks for, `reconnect` what a client brings along, `changes` what follows a commit,
//! `on_demand` what is asked for by name at need: clusters, virtual hosts, `xdstp` names.

pub(crate) mod changes;
pub(crate) mod on_demand;
pub(crate) mod reconnect;
pub(crate) mod subscriptions;
