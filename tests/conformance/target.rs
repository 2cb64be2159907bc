//! The server under test, which serves the resources that a rule commits.
//!
//! [`Launch`] starts one for a rule (or empties the running one), [`Target`] is the running one. `chancery` starts the
//! real binary and writes documents into etcd; `external` is a server at an address, started by somebody else.

use std::sync::Arc;

use async_trait::async_trait;

use super::fixture::{Change, Resource};

mod chancery;
mod documents;
mod external;

/// Options of the server for a rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Further command line arguments of `chancery serve`; other servers ignore them.
    pub(crate) arguments: Vec<String>,
    /// Further documents, by their keys below the prefix; only servers that read documents have them.
    pub(crate) documents: Vec<(String, String)>,
}

/// A kind of server.
#[async_trait(?Send)]
pub(crate) trait Launch: Send + Sync {
    /// A server that serves exactly these resources.
    async fn launch(&self, resources: Vec<Resource>, options: Options) -> Box<dyn Target>;

    /// How many rules may run at once; `None`: as many as there are.
    fn at_once(&self) -> Option<usize> {
        None
    }
}

/// A running server.
#[async_trait(?Send)]
pub(crate) trait Target {
    /// `HOST:PORT` of its xDS port.
    fn address(&self) -> String;

    /// The id of the node that the rules call `n1`.
    fn node(&self) -> String {
        "n1".to_owned()
    }

    /// Change the served resources in one step. The call does not wait until the server has seen the change.
    async fn commit(&self, changes: Vec<Change>);

    /// Wait until the last commit can have reached its streams, as far as that can be seen from outside.
    async fn settled(&self) {}

    /// Stop it and start it again, with the same content and at the same address.
    async fn restart(&mut self);

    /// The memory that it has, in bytes; `None` when that cannot be seen from here.
    fn memory(&self) -> Option<u64> {
        None
    }

    /// A page of its admin API; `None` when it has none.
    async fn admin(&self, _path: &str) -> Option<serde_json::Value> {
        None
    }
}

/// The server that the environment names, else this tree's own.
pub(crate) fn under_test() -> Arc<dyn Launch> {
    match external::External::from_environment() {
        Some(external) => Arc::new(external),
        None => Arc::new(chancery::Chancery::default()),
    }
}
