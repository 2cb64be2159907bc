//! `keepalive`: from its fields to a [`Keepalive`].

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Fields};
use super::{Keepalive, Ping};

const FIELDS: Fields = Fields::new(&["idle", "max_age", "max_requests", "tcp", "ping"]);
const PING_FIELDS: Fields = Fields::new(&["interval", "timeout"]);
/// `idle` if it is not written.
const IDLE: Duration = Duration::from_secs(60);
/// The longest time of a TCP probe: the limit of Linux, beyond which no connection can be made.
const MAX_TCP: u64 = 32_767;

/// Reads `keepalive`.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Keepalive, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let max_requests = object.read("max_requests", |field| field.integer(0..=u32::MAX))?;
    Ok(Keepalive {
        idle: object
            .read("idle", |field| field.duration_or_none())?
            .unwrap_or(Some(IDLE)),
        max_age: object.read("max_age", |field| field.duration_or_none())?.flatten(),
        max_requests: max_requests.filter(|most| *most > 0),
        tcp: object.read("tcp", |field| read_tcp(&field))?.flatten(),
        ping: object.read("ping", |field| read_ping(&field))?,
    })
}

/// Whole seconds, as the operating system takes them.
fn read_tcp(cursor: &Cursor<'_>) -> Result<Option<u32>, Rejection> {
    let Some(time) = cursor.duration_or_none()? else {
        return Ok(None);
    };
    if time.subsec_nanos() != 0 || time.as_secs() > MAX_TCP {
        return Err(cursor.expected("whole seconds, at most \"32767s\""));
    }
    Ok(u32::try_from(time.as_secs()).ok())
}

fn read_ping(cursor: &Cursor<'_>) -> Result<Ping, Rejection> {
    let object = cursor.object(&PING_FIELDS)?;
    let duration = |name, seconds| {
        let written = object.read(name, |field| field.duration())?;
        Ok(written.unwrap_or_else(|| Duration::from_secs(seconds)))
    };
    Ok(Ping {
        interval: duration("interval", 30)?,
        timeout: duration("timeout", 5)?,
    })
}
