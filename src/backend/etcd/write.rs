//! Writes: all or none, in one transaction.
//!
//! 1. Read the keys. If an expectation does not hold, the write is a conflict, and no transaction is sent.
//! 2. Leave out equal values: etcd would make a revision of them, for every watcher.
//! 3. Send one transaction. Its comparisons repeat the expectations, so a change since the read is a conflict too. If the
//!    caller judged the write with other documents, one more compares the marker of such writes, which this one writes
//!    anew. A note, if the caller has one, is put in the same transaction.
//!
//! With as many documents as a transaction takes beside the note, the marker has no room: a transaction before puts the
//! marker (a claim), and the writes compare that. Servers wait a while for the writes of a claim.
//!
//! A key with a lease keeps the lease (`ignore_lease`): a registration that is written here still ends with its
//! instance. If a transaction gets no answer, its outcome is unknown.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::connect::{Connection, answer};
use super::error::{Class, Failure};
use super::list::to_entry;
use crate::backend::{Base, Entry, Expect, Lease, Note, Terms, Unchanged, Write, WriteError};

/// The value of the marker: its `mod_revision` is what counts.
const MARK: &str = "the last write through the API";
/// The value of a marker that was put before its write.
pub(super) const CLAIM: &str = "a write through the API follows";
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
    terms: &Terms,
    most_operations: usize,
) -> Result<i64, WriteFailure> {
    refuse_double_keys(writes).map_err(WriteFailure::Final)?;

    let mut tries = 1;
    loop {
        match write_once(connection, writes, terms, most_operations).await {
            Err(WriteFailure::NotSent(failure)) if failure.is_key_gone() && tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

async fn write_once(
    connection: &mut Connection,
    writes: &[Write],
    terms: &Terms,
    most_operations: usize,
) -> Result<i64, WriteFailure> {
    let keys = writes.iter().map(|write| &write.key);
    let read = read(connection, keys, most_operations).await;
    let (revision, current) = read.map_err(WriteFailure::NotSent)?;
    for (write, entry) in writes.iter().zip(&current) {
        if !holds(&write.expect, entry.as_ref()) {
            return Err(WriteFailure::Final(conflict(&write.key, entry.clone())));
        }
    }

    let changing: Vec<Changing<'_>> = (writes.iter().zip(&current))
        .filter(|(write, entry)| {
            let is_equal = entry.as_ref().map(|entry| &entry.value) == write.value.as_ref();
            !is_equal || terms.leases.contains_key(&write.key)
        })
        .map(|(write, entry)| Changing {
            write,
            is_leased: entry.as_ref().is_some_and(|entry| entry.leased),
        })
        .collect();

    if changing.is_empty() {
        return Ok(revision);
    }

    let terms = match size(writes, &changing, terms) > most_operations {
        true => Cow::Owned(claim(connection, terms).await?),
        false => Cow::Borrowed(terms),
    };
    let transaction = transaction(writes, &changing, &terms);
    let response = match answer("a transaction", connection.kv.txn(transaction)).await {
        Ok(response) => response,
        Err(failure) => return Err(classify(failure, &changing, most_operations)),
    };
    if response.succeeded() {
        return Ok(response
            .header()
            .map_or(revision, etcd_client::ResponseHeader::revision));
    }

    Err(WriteFailure::Final(conflict_of(writes, &terms, &response)))
}

/// Operations of the transaction, or its comparisons: etcd bounds either.
fn size(writes: &[Write], changing: &[Changing<'_>], terms: &Terms) -> usize {
    let beside = usize::from(terms.unchanged.is_some()) + usize::from(terms.note.is_some());
    let bases = terms.base.as_ref().map_or(0, |base| base.prefixes.len());
    let compares = guarded(writes).count() + beside + bases;
    compares.max(changing.len() + beside)
}

/// Put the marker in a transaction of its own. Returns the terms of the transaction that follows: it compares the marker
/// only.
async fn claim(connection: &mut Connection, terms: &Terms) -> Result<Terms, WriteFailure> {
    let Some(unchanged) = &terms.unchanged else {
        return Ok(terms.clone());
    };
    let transaction =
        Txn::new()
            .when(compares_of(terms))
            .and_then([TxnOp::put(unchanged.marker.as_str(), CLAIM, None)]);
    let response = match answer("a transaction", connection.kv.txn(transaction)).await {
        Ok(response) => response,
        Err(failure) if failure.is_denied() => return Err(WriteFailure::Denied(failure)),
        Err(failure) => return Err(WriteFailure::NotSent(failure)),
    };
    let revision = response.header().map(etcd_client::ResponseHeader::revision);
    match revision.filter(|_| response.succeeded()) {
        Some(marked) => Ok(Terms {
            unchanged: Some(Unchanged {
                marked,
                is_claimed: true,
                ..unchanged.clone()
            }),
            base: None,
            note: terms.note.clone(),
            lease: terms.lease,
            leases: terms.leases.clone(),
        }),
        None => Err(WriteFailure::Final(WriteError::Moved(unchanged.prefix.clone()))),
    }
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

/// The current entries of the keys. Up to `most_operations` keys have one revision (etcd rejects a larger change).
pub(super) async fn read(
    connection: &mut Connection,
    keys: impl Iterator<Item = &Bytes>,
    most_operations: usize,
) -> Result<(i64, Vec<Option<Entry>>), Failure> {
    let mut revision = 0;
    let keys: Vec<&Bytes> = keys.collect();
    let mut current = Vec::with_capacity(keys.len());
    for keys in keys.chunks(most_operations) {
        let reads: Vec<TxnOp> = keys.iter().map(|key| TxnOp::get(key.as_ref(), None)).collect();
        let response = answer("a read", connection.kv.txn(Txn::new().and_then(reads))).await?;
        revision = response
            .header()
            .map_or(revision, etcd_client::ResponseHeader::revision);
        current.extend(entries(&response));
    }

    if current.len() != keys.len() {
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

fn transaction(writes: &[Write], changing: &[Changing<'_>], terms: &Terms) -> Txn {
    let mut compares: Vec<Compare> = writes.iter().filter_map(compare).collect();
    compares.extend(compares_of(terms));
    let unclaimed = terms.unchanged.as_ref().filter(|unchanged| !unchanged.is_claimed);
    // After a claim there is no room for this comparison. The claim lets no other note in between.
    compares.extend(
        (terms.note.iter())
            .filter(|_| unclaimed.is_some())
            .map(|note| Compare::create_revision(note.key.as_str(), CompareOp::Equal, 0)),
    );
    let mut operations: Vec<TxnOp> = changing
        .iter()
        .map(|Changing { write, is_leased }| match &write.value {
            Some(value) => {
                let keep_lease = is_leased.then(|| PutOptions::new().with_ignore_lease());
                let own = terms.leases.get(&write.key).copied();
                let options = own
                    .or(terms.lease)
                    .map(|Lease(id)| PutOptions::new().with_lease(id))
                    .or(keep_lease);
                TxnOp::put(write.key.as_ref(), value.as_ref(), options)
            }
            None => TxnOp::delete(write.key.as_ref(), None),
        })
        .collect();
    operations.extend(unclaimed.map(|Unchanged { marker, .. }| TxnOp::put(marker.as_str(), MARK, None)));
    operations.extend((terms.note.iter()).map(|Note { key, value }| TxnOp::put(key.as_str(), value.as_ref(), None)));

    let reads: Vec<TxnOp> = guarded(writes)
        .map(|write| TxnOp::get(write.key.as_ref(), None))
        .collect();
    Txn::new().when(compares).and_then(operations).or_else(reads)
}

/// The comparisons of the documents beside those of the write.
fn compares_of(terms: &Terms) -> Vec<Compare> {
    let Terms { unchanged, base, .. } = terms;
    // The mod_revision of a key that does not exist is 0.
    let marker = unchanged
        .iter()
        .map(|Unchanged { marker, marked, .. }| Compare::mod_revision(marker.as_str(), CompareOp::Equal, *marked));
    let bases = base.iter().flat_map(|Base { prefixes, revision }| {
        let later = |prefix: &String| {
            Compare::mod_revision(prefix.as_str(), CompareOp::Less, revision.saturating_add(1)).with_prefix()
        };
        prefixes.iter().map(later)
    });
    marker.chain(bases).collect()
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
fn conflict_of(writes: &[Write], terms: &Terms, response: &TxnResponse) -> WriteError {
    let found = guarded(writes)
        .zip(entries(response))
        .find(|(write, entry)| !holds(&write.expect, entry.as_ref()));
    let prefix = match terms {
        Terms {
            unchanged: Some(unchanged),
            ..
        } => Some(&unchanged.prefix),
        Terms { base, .. } => base.as_ref().and_then(|base| base.prefixes.first()),
    };
    match (found, prefix) {
        (Some((write, entry)), _) => conflict(&write.key, entry),
        (None, Some(prefix)) => WriteError::Moved(prefix.clone()),
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
fn classify(failure: Failure, changing: &[Changing<'_>], most_operations: usize) -> WriteFailure {
    if failure.class == Class::TooLarge {
        let bytes: usize = changing
            .iter()
            .map(|Changing { write, .. }| write.key.len() + write.value.as_ref().map_or(0, Bytes::len))
            .sum();
        return WriteFailure::Final(WriteError::TooLarge(format!(
            "the change has {} operations and {bytes} bytes, expected at most {most_operations} operations \
             (--max-txn-ops of this server and of etcd) and 1.5 MiB, etcd's default: {failure}",
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
