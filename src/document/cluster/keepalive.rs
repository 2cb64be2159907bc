//! `keepalive`: from its fields to a [`Keepalive`].

use std::time::Duration;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::AMOUNT;
use super::{Keepalive, Ping};

/// The fields of `keepalive`.
pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "idle",
        Shape::DurationOrNone,
        "A connection without requests is closed after this time",
    )
    .or("`\"60s\"`"),
    Field::new(
        "max_age",
        Shape::DurationOrNone,
        "Greatest age of a connection; requests in flight may end",
    )
    .or("`\"none\"`"),
    Field::new("max_requests", AMOUNT, "Most requests on a connection; 0: no limit").or("`0`"),
    Field::new(
        "tcp",
        Shape::DurationOrNone,
        "TCP keepalive: time without traffic until the first probe, and between two probes; whole seconds up to \
         `\"32767s\"`",
    )
    .or("`\"none\"`"),
    Field::new(
        "ping",
        Shape::Object(&PING_FIELDS),
        "HTTP/2 PING frames. Not with `\"protocol\": \"http1\"`",
    ),
]);
const PING_FIELDS: Fields = Fields::of(&[
    Field::new("interval", Shape::Duration, "Between two PING frames").or("`\"30s\"`"),
    Field::new(
        "timeout",
        Shape::Duration,
        "An unanswered PING frame closes the connection after this time",
    )
    .or("`\"5s\"`"),
]);
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
