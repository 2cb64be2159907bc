//! Writes to etcd that happen once and in order, whatever happens to members meanwhile.
//!
//! A request without an answer may have been carried out, or may be so later. Each write is a transaction that expects
//! the number of the write before and leaves its own, so a repeated one does nothing.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, ConnectOptions, Txn, TxnOp};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

/// Not below any prefix that a server follows.
const SEQUENCE: &str = "/chaos/sequence";
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a quorum that accepts a write. Faults that take the quorum are shorter.
const LIMIT: Duration = Duration::from_secs(120);

/// A key and its text; `None` deletes the key.
pub(crate) type Write = (String, Option<String>);

/// The one writer of the store.
pub(crate) struct Store {
    endpoints: Vec<String>,
    writer: Mutex<Writer>,
}

/// Held while a write is under way, and during a restore.
pub(crate) struct Writer {
    client: Option<Client>,
    sequence: i64,
}

impl Store {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        let writer = Mutex::new(Writer {
            client: None,
            sequence: 0,
        });
        Self { endpoints, writer }
    }

    /// Write all of it as one revision, which is returned.
    pub(crate) async fn commit(&self, writes: &[Write]) -> i64 {
        let mut writer = self.writer.lock().await;
        self.commit_as(&mut writer, writes).await
    }

    /// Keep other writers out.
    pub(crate) async fn pause(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().await
    }

    /// The same as [`Self::commit`], by whoever has the writer.
    pub(crate) async fn commit_as(&self, writer: &mut Writer, writes: &[Write]) -> i64 {
        let next = writer.sequence + 1;
        let operations = writes.iter().map(|(key, text)| match text {
            Some(text) => TxnOp::put(key.as_str(), text.as_str(), None),
            None => TxnOp::delete(key.as_str(), None),
        });
        let operations: Vec<TxnOp> = operations
            .chain([TxnOp::put(SEQUENCE, next.to_string(), None)])
            .collect();
        let expected = if writer.sequence == 0 {
            Compare::version(SEQUENCE, CompareOp::Equal, 0)
        } else {
            Compare::value(SEQUENCE, CompareOp::Equal, writer.sequence.to_string())
        };
        let transaction = Txn::new()
            .when([expected])
            .and_then(operations)
            .or_else([TxnOp::get(SEQUENCE, None)]);

        let deadline = Instant::now() + LIMIT;
        loop {
            let failure = match self.client(writer).await {
                Ok(mut client) => match client.txn(transaction.clone()).await {
                    // If the expectation failed, an earlier attempt was carried out.
                    Ok(answer) => {
                        writer.sequence = next;
                        return answer.header().expect("a header").revision();
                    }
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            writer.client = None;
            assert!(
                Instant::now() < deadline,
                "etcd takes no write for {LIMIT:?}: {failure}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Read the number of the last write of the history that the store has now.
    pub(crate) async fn on_restored(&self, writer: &mut Writer) {
        writer.client = None;
        let mut client = self.client(writer).await.expect("connect to etcd");
        let answer = client.get(SEQUENCE, None).await.expect("read the sequence");
        let text = answer
            .kvs()
            .first()
            .map(|pair| pair.value_str().expect("a number").to_owned());
        writer.sequence = text.map_or(0, |text| text.parse().expect("a number"));
    }

    /// Compact the whole history.
    pub(crate) async fn compact(&self) {
        let mut writer = self.writer.lock().await;
        let revision = self.commit_as(&mut writer, &[]).await;
        let mut client = self.client(&mut writer).await.expect("connect to etcd");
        // Without an answer the history may be compacted or not.
        drop(client.compact(revision, None).await);
    }

    async fn client(&self, writer: &mut Writer) -> Result<Client, etcd_client::Error> {
        if let Some(client) = &writer.client {
            return Ok(client.clone());
        }
        let options = ConnectOptions::new()
            .with_timeout(PATIENCE)
            .with_connect_timeout(PATIENCE);
        let client = Client::connect(&self.endpoints, Some(options)).await?;
        writer.client = Some(client.clone());
        Ok(client)
    }
}
