//! The limit on open files, and with it on connections.
//!
//! A process begins with a low soft limit (often 1024), which it may raise to the hard limit. The xDS server gets the
//! rest after [`RESERVED`] files as its limit of connections, so that many proxies take no files from the connections
//! of etcd, the admin port and the state directory.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info};

/// Open files that are reserved for everything but proxies.
const RESERVED: usize = 128;
/// Smallest limit of connections.
const CONNECTIONS_MIN: usize = 16;

/// Raise the limit on open files as far as possible. Returns the limit of connections for proxies.
pub(super) fn connections() -> usize {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if before.current != before.maximum
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        info!(%error, "Limit on open files could not be raised");
    }
    let files = getrlimit(Resource::Nofile)
        .current
        .and_then(|files| usize::try_from(files).ok());
    let connections = files.map_or(usize::MAX, |files| files.saturating_sub(RESERVED).max(CONNECTIONS_MIN));
    debug!(?files, connections, "Connection limit, from the limit on open files");
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_may_have_it_asks_for() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let (Some(current), Some(maximum)) = (current, maximum) else {
            return;
        };
        // Not lower than before: other tests have files open.
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(current.min(maximum - 1)),
                maximum: Some(maximum),
            },
        )
        .unwrap();
        assert_eq!(connections(), usize::try_from(maximum).unwrap() - RESERVED);
        assert_eq!(getrlimit(Resource::Nofile).current, Some(maximum));
    }
}
