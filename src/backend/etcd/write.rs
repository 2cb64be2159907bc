//! Writes: all or none, in one transaction.
//!
//! 1. Read the keys. If an expectation does not hold, the write is a conflict, and no transaction is sent.
//! 2. Leave out equal values: etcd would make a revision of them, for every watcher.
//! 3. Send one transaction. Its comparisons repeat the expectations, so a change since the read is a conflict too. If the
//!    caller judged the write with other documents, one more compares the marker of such writes, which this one writes
//!    anew.
//!
//! A key with a lease keeps the lease (`ignore_lease`): a registration that is written here still ends with its
//! instance. If a transaction gets no answer, its outcome is unknown.

use std::collections::HashSet;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::connect::{Connection, answer};
use super::error::{Class, Failure};
use super::list::to_entry;
use crate::backend::{Entry, Expect, Unchanged, Write, WriteError};

/// Operations in one transaction, by etcd's default (`--max-txn-ops`).
const OPERATIONS: usize = 128;
/// The value of the marker: its `mod_revision` is what counts.
const MARK: &str = "the last write through the API";
/// Tries of one change if its leased keys vanish between the read and the transaction.
const TRIES: usize = 3;

/// Failure of a write, or an unknown outcome.
#[derive(Debug)]
pub(super) enum WriteFailure {
    /// No transaction was carried out: another attempt may succeed.
    NotSent(Failure),
    /// etcd denies the user a key of the transaction.
    Denied(Failure),
    /// Another attempt cannot help.
    Final(WriteError),
}

/// Carry out all writes or none. Returns the store's revision with them.
pub(super) async fn write(
    connection: &mut Connection,
    writes: &[Write],
    unchanged: Option<&Unchanged>,
) -> Result<i64, WriteFailure> {
    refuse_double_keys(writes).map_err(WriteFailure::Final)?;

    let mut tries = 1;
    loop {
        match write_once(connection, writes, unchanged).await {
            Err(WriteFailure::NotSent(failure)) if failure.is_key_gone() && tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

async fn write_once(
    connection: &mut Connection,
    writes: &[Write],
    unchanged: Option<&Unchanged>,
) -> Result<i64, WriteFailure> {
    let (revision, current) = read(connection, writes).await.map_err(WriteFailure::NotSent)?;
    for (write, entry) in writes.iter().zip(&current) {
        if !holds(&write.expect, entry.as_ref()) {
            return Err(WriteFailure::Final(conflict(&write.key, entry.clone())));
        }
    }

    let changing: Vec<Changing<'_>> = (writes.iter().zip(&current))
        .filter(|(write, entry)| entry.as_ref().map(|entry| &entry.value) != write.value.as_ref())
        .map(|(write, entry)| Changing {
            write,
            is_leased: entry.as_ref().is_some_and(|entry| entry.leased),
        })
        .collect();

    if changing.is_empty() {
        return Ok(revision);
    }

    let transaction = transaction(writes, &changing, unchanged);
    let response = match answer("a transaction", connection.kv.txn(transaction)).await {
        Ok(response) => response,
        Err(failure) => return Err(classify(failure, &changing)),
    };
    if response.succeeded() {
        return Ok(response
            .header()
            .map_or(revision, etcd_client::ResponseHeader::revision));
    }

    Err(WriteFailure::Final(conflict_of(writes, unchanged, &response)))
}

/// A write whose value differs from the key's current value.
struct Changing<'a> {
    write: &'a Write,
    is_leased: bool,
}

fn refuse_double_keys(writes: &[Write]) -> Result<(), WriteError> {
    let mut seen = HashSet::with_capacity(writes.len());
    match writes.iter().find(|write| !seen.insert(&write.key)) {
        Some(write) => Err(WriteError::Unavailable(format!(
            "{} is written twice in one change",
            shown(&write.key)
        ))),
        None => Ok(()),
    }
}

/// The current entries of the keys. Up to [`OPERATIONS`] keys have one revision (etcd rejects a larger change).
async fn read(connection: &mut Connection, writes: &[Write]) -> Result<(i64, Vec<Option<Entry>>), Failure> {
    let mut revision = 0;
    let mut current = Vec::with_capacity(writes.len());
    for writes in writes.chunks(OPERATIONS) {
        let reads: Vec<TxnOp> = writes
            .iter()
            .map(|write| TxnOp::get(write.key.as_ref(), None))
            .collect();
        let response = answer("a read", connection.kv.txn(Txn::new().and_then(reads))).await?;
        revision = response
            .header()
            .map_or(revision, etcd_client::ResponseHeader::revision);
        current.extend(entries(&response));
    }

    if current.len() != writes.len() {
        return Err(Failure::new(
            Class::Retry,
            "etcd answered a read with fewer keys than requested",
        ));
    }

    Ok((revision, current))
}

/// The entries that the reads of a transaction returned, one for each read.
fn entries(response: &TxnResponse) -> Vec<Option<Entry>> {
    let reads = response
        .op_responses()
        .into_iter()
        .filter_map(|response| match response {
            TxnOpResponse::Get(mut page) => Some(page.take_kvs().into_iter().next().map(to_entry)),
            _ => None,
        });
    reads.collect()
}

fn transaction(writes: &[Write], changing: &[Changing<'_>], unchanged: Option<&Unchanged>) -> Txn {
    let mut compares: Vec<Compare> = writes.iter().filter_map(compare).collect();
    // The mod_revision of a key that does not exist is 0.
    compares.extend(
        unchanged
            .map(|Unchanged { marker, marked, .. }| Compare::mod_revision(marker.as_str(), CompareOp::Equal, *marked)),
    );
    let mut operations: Vec<TxnOp> = changing
        .iter()
        .map(|Changing { write, is_leased }| match &write.value {
            Some(value) => {
                let keep_lease = is_leased.then(|| PutOptions::new().with_ignore_lease());
                TxnOp::put(write.key.as_ref(), value.as_ref(), keep_lease)
            }
            None => TxnOp::delete(write.key.as_ref(), None),
        })
        .collect();
    operations.extend(unchanged.map(|Unchanged { marker, .. }| TxnOp::put(marker.as_str(), MARK, None)));

    let reads: Vec<TxnOp> = guarded(writes)
        .map(|write| TxnOp::get(write.key.as_ref(), None))
        .collect();
    Txn::new().when(compares).and_then(operations).or_else(reads)
}

fn guarded(writes: &[Write]) -> impl Iterator<Item = &Write> {
    writes.iter().filter(|write| compare(write).is_some())
}

fn compare(write: &Write) -> Option<Compare> {
    match &write.expect {
        Expect::Any => None,
        Expect::Absent => Some(Compare::create_revision(write.key.as_ref(), CompareOp::Equal, 0)),
        // `holds` has rejected an etag that is no number, as a conflict.
        Expect::Etag(etag) => Some(Compare::mod_revision(
            write.key.as_ref(),
            CompareOp::Equal,
            etag.parse().unwrap_or(-1),
        )),
    }
}

fn holds(expect: &Expect, current: Option<&Entry>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Etag(etag) => current.is_some_and(|entry| entry.mod_revision.to_string() == *etag),
    }
}

/// The first expectation that the failed transaction found broken.
fn conflict_of(writes: &[Write], unchanged: Option<&Unchanged>, response: &TxnResponse) -> WriteError {
    let found = guarded(writes)
        .zip(entries(response))
        .find(|(write, entry)| !holds(&write.expect, entry.as_ref()));
    match (found, unchanged) {
        (Some((write, entry)), _) => conflict(&write.key, entry),
        (None, Some(unchanged)) => WriteError::Moved(unchanged.prefix.clone()),
        (None, None) => {
            WriteError::Unavailable("etcd refused the transaction although every expectation holds".to_owned())
        }
    }
}

fn conflict(key: &Bytes, current: Option<Entry>) -> WriteError {
    WriteError::Conflict {
        key: shown(key),
        current,
    }
}

fn shown(key: &Bytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The failure of a write, by the failure of its transaction.
fn classify(failure: Failure, changing: &[Changing<'_>]) -> WriteFailure {
    if failure.class == Class::TooLarge {
        let bytes: usize = changing
            .iter()
            .map(|Changing { write, .. }| write.key.len() + write.value.as_ref().map_or(0, Bytes::len))
            .sum();
        return WriteFailure::Final(WriteError::TooLarge(format!(
            "the change has {} operations and {bytes} bytes, the default limits of etcd are {OPERATIONS} operations \
             and 1.5 MiB: {failure}",
            changing.len()
        )));
    }
    match failure.class {
        _ if failure.is_denied() => WriteFailure::Denied(failure),
        Class::Authentication | Class::Certificate => WriteFailure::NotSent(failure),
        _ if failure.is_key_gone() => WriteFailure::NotSent(failure),
        _ if failure.not_done => WriteFailure::Final(WriteError::Unavailable(failure.to_string())),
        _ => WriteFailure::Final(WriteError::Unknown(failure.to_string())),
    }
}
