//! Reads: whole lists at one revision, and single keys, now or at a revision.
//!
//! A list is read in pages, all at the revision of the first page, so the list is the content of one moment however
//! long the reads take. If a page is too large to receive, it is requested again at half the size. If the revision is
//! compacted between two pages, the list starts over at once.

use bytes::Bytes;
use etcd_client::{GetOptions, GetResponse, KeyValue, ResponseHeader};

use super::connect::{Connection, answer};
use super::error::{Class, Failure};
use super::reach::Counted;
use crate::backend::Entry;

/// Keys of a page. In pages of 1000, 100,000 keys take 0.5 s, and other callers of the same etcd wait little.
const PAGE: i64 = 1000;
/// How often a list starts over after a compaction of its revision.
const MAX_RESTARTS: usize = 5;

/// Everything below a prefix at one revision.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) revision: i64,
    pub(super) cluster_id: u64,
    pub(super) entries: Vec<Entry>,
    /// Size of all keys and values.
    pub(super) bytes: usize,
}

/// List a prefix, with linearizable reads.
pub(super) async fn list(connection: &mut Connection, prefix: &[u8]) -> Result<Listed, Failure> {
    let mut restarts = 0;
    loop {
        match list_once(connection, prefix).await {
            Err(failure) if failure.class == Class::Compacted && restarts < MAX_RESTARTS => restarts += 1,
            listed => return listed,
        }
    }
}

async fn list_once(connection: &mut Connection, prefix: &[u8]) -> Result<Listed, Failure> {
    let end = prefix_end(prefix);
    let mut listed = Listed {
        revision: 0,
        cluster_id: 0,
        entries: Vec::new(),
        bytes: 0,
    };

    let mut from = first_key(prefix);
    let mut limit = PAGE;

    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(limit)
            .with_revision(listed.revision);
        let mut page = match answer("a list", connection.kv.get(from.clone(), Some(options))).await {
            Err(failure) if failure.class == Class::TooLarge && limit > 1 => {
                limit /= 2;
                continue;
            }
            page => page?,
        };

        if listed.revision == 0 {
            let header = header(&page)?;
            (listed.revision, listed.cluster_id) = (header.revision(), header.cluster_id());
        }

        for entry in page.take_kvs().into_iter().map(to_entry) {
            listed.bytes += entry.key.len() + entry.value.len();
            listed.entries.push(entry);
        }

        match listed.entries.last() {
            Some(last) if page.more() => from = [&last.key, &b"\0"[..]].concat(),
            _ => return Ok(listed),
        }
    }
}

/// One key, now (`None`) or at a revision, and the header of the answer.
pub(super) async fn get(
    connection: &mut Connection,
    key: &[u8],
    revision: Option<i64>,
) -> Result<(Option<Entry>, ResponseHeader), Failure> {
    let options = revision.map(|revision| GetOptions::new().with_revision(revision));
    let mut page = answer("a read", connection.kv.get(key, options)).await?;
    let header = header(&page)?.clone();
    Ok((page.take_kvs().into_iter().next().map(to_entry), header))
}

/// A cheap linearizable read: proof that a majority answers, and the store's revision.
pub(super) async fn probe(connection: &mut Connection, prefix: &[u8]) -> Result<ResponseHeader, Failure> {
    let options = GetOptions::new().with_count_only();
    let page = answer("a read", connection.kv.get(first_key(prefix), Some(options))).await?;
    Ok(header(&page)?.clone())
}

/// The keys below a prefix, and whether one of them was written after a revision: a linearizable read.
pub(super) async fn count(connection: &mut Connection, prefix: &[u8], after: i64) -> Result<Counted, Failure> {
    let options = GetOptions::new()
        .with_range(prefix_end(prefix))
        .with_keys_only()
        .with_min_mod_revision(after + 1)
        .with_limit(1);
    let page = answer("a count", connection.kv.get(first_key(prefix), Some(options))).await?;
    Ok(Counted {
        revision: header(&page)?.revision(),
        keys: page.count(),
        after,
        is_newer: !page.kvs().is_empty(),
    })
}

pub(super) fn to_entry(pair: KeyValue) -> Entry {
    let pair = pair.0;
    Entry {
        key: Bytes::from(pair.key),
        value: Bytes::from(pair.value),
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        leased: pair.lease != 0,
    }
}

fn header(page: &GetResponse) -> Result<&ResponseHeader, Failure> {
    page.header()
        .ok_or_else(|| Failure::new(Class::Retry, "etcd answered without a header"))
}

/// The first key of a prefix. etcd rejects an empty key, so the empty prefix begins at the smallest key.
pub(super) fn first_key(prefix: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.to_vec() }
}

/// The end of the range of a prefix: the last byte below 0xff is increased by one, the bytes after it are cut. Without
/// such a byte the end is `\0`, which means "no end" to etcd.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let grows = prefix.iter().rposition(|byte| *byte != u8::MAX);
    let Some(end) = grows.and_then(|at| prefix.get(..=at)) else {
        return vec![0];
    };
    let mut end = end.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_prefix() {
        assert_eq!(prefix_end(b"/gateway/"), b"/gateway0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        assert_eq!((first_key(b""), prefix_end(b"")), (b"\0".to_vec(), b"\0".to_vec()));
    }
}
