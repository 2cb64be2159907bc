//! Leases: keys that vanish when their writer is gone.

use std::time::Duration;

use super::connect::{Connection, answer};
use super::error::Failure;
use crate::backend::Lease;

/// Begin a lease. etcd counts in seconds.
pub(super) async fn grant(connection: &mut Connection, ttl: Duration) -> Result<Lease, Failure> {
    let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
    let granted = answer("a lease", connection.lease.grant(seconds, None)).await?;
    Ok(Lease(granted.id()))
}

/// Let a lease begin anew; `false`: etcd does not know the lease any more.
pub(super) async fn keep(connection: &mut Connection, Lease(id): Lease) -> Result<bool, Failure> {
    // The client sends the first request, and waits for its answer. That of an ended lease is an error.
    match answer("a lease", connection.lease.keep_alive(id)).await {
        Ok(_) => Ok(true),
        Err(failure) if is_gone(&failure) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// End a lease. An ended one is none.
pub(super) async fn end(connection: &mut Connection, Lease(id): Lease) -> Result<(), Failure> {
    match answer("a lease", connection.lease.revoke(id)).await {
        Err(failure) if !is_gone(&failure) => Err(failure),
        _ => Ok(()),
    }
}

fn is_gone(failure: &Failure) -> bool {
    failure.to_string().contains("lease not found")
}
