//! The history of a prefix: a watch that begins in the past, read up to a revision.
//!
//! etcd sends the events of the past in order. The end is known by a later event, or by progress: a member that answers
//! progress after the events is asked; of another one, silence for [`SILENCE`] counts as the end.

use std::time::Duration;

use etcd_client::WatchResponse;
use tokio::time::{Instant, timeout};

use super::batch::{Joiner, KeyEvent};
use super::connect::Connection;
use super::error::{Class, Failure};
use super::follow::{events_of, open_watch, progress_of};
use crate::backend::Revision;

/// Without a message for this long, the watch has sent everything. etcd looks for events of the past ten times a second.
const SILENCE: Duration = Duration::from_secs(2);
/// Pause between two requests for progress.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Longest read.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// The changes of each revision after `after`, up to `up_to`.
pub(super) async fn read(
    connection: &mut Connection,
    prefix: &[u8],
    after: i64,
    up_to: i64,
) -> Result<Vec<Revision>, Failure> {
    let mut revisions = Vec::new();
    if up_to <= after {
        return Ok(revisions);
    }
    let answers_progress = connection.answers_progress;
    let mut stream = open_watch(connection, prefix, after).await?;
    let mut joiner = Joiner::new(after);
    let (begun, mut heard) = (Instant::now(), Instant::now());

    loop {
        if begun.elapsed() > READ_WITHIN {
            return Err(Failure::timeout("the history of a prefix"));
        }
        if answers_progress {
            stream.request_progress().await.map_err(Failure::from)?;
        }
        let message = match timeout(ASK_AGAIN, stream.message()).await {
            Ok(message) => message.map_err(Failure::from)?,
            Err(_) if !answers_progress && heard.elapsed() > SILENCE => return Ok(revisions),
            Err(_) => continue,
        };
        let Some(message) = message else {
            return Err(Failure::new(Class::Retry, "etcd ended the watch's stream"));
        };
        heard = Instant::now();
        let progress = progress_of(&message);
        for revision in joined(&mut joiner, message)? {
            if revision.revision > up_to {
                return Ok(revisions);
            }
            revisions.push(revision);
        }
        let last = revisions.last().map(|revision| revision.revision);
        if last == Some(up_to) || (answers_progress && progress.is_some_and(|reached| reached >= up_to)) {
            return Ok(revisions);
        }
    }
}

fn joined(joiner: &mut Joiner, WatchResponse(message): WatchResponse) -> Result<Vec<Revision>, Failure> {
    if message.canceled {
        return Err(Failure::canceled(&message.cancel_reason, message.compact_revision));
    }
    let events: Vec<KeyEvent> = events_of(message.events)?;
    let joined = joiner.push(events, message.fragment);
    let joined = joined.map_err(|violation| Failure::new(Class::Retry, violation.to_string()))?;
    let batches = joined.batches.into_iter();
    Ok(batches
        .map(|batch| Revision {
            revision: batch.revision,
            changes: batch.changes,
        })
        .collect())
}
