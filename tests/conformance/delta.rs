//! DX: delta.
//!
//! | module | subject |
//! |---|---|
//! | `subscriptions` | the names of a request |
//! | `reconnect` | the versions that a client reports on a new stream |
//! | `changes` | the responses after a commit |
//! | `on_demand` | clusters, virtual hosts and `xdstp` names that are subscribed on demand |

pub(crate) mod changes;
pub(crate) mod on_demand;
pub(crate) mod reconnect;
pub(crate) mod subscriptions;
