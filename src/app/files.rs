//! How many files, and with them connections, the process may have open.
//!
//! Systems give a process few unless it asks (1024), though it may have many: that default is for programs of another age.
//! What is left to proxies is told to the xDS server, so that a crowd of connections takes nothing from etcd's, from the
//! admin port's and from the state directory.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info};

/// Open files that are kept for everything but proxies.
const RESERVED: usize = 128;
/// A server with fewer could not do anything.
const CONNECTIONS_MIN: usize = 16;

/// Ask for as many open files as the process may have. Gives how many connections proxies may have with that.
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
        // Not lower than it was: other tests have files open.
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
