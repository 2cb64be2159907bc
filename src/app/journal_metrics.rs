//! The journal, as metrics: read at each scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::journal::Journal;

/// The collector of the journal.
#[derive(Debug)]
pub(super) struct JournalMetrics(pub(super) Journal);

impl Collector for JournalMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shown = self.0.shown();
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let gauges = [
            (
                "chancery_journal_entries",
                "Entries of the journal",
                number(shown.book.len() as u64),
            ),
            (
                "chancery_journal_bytes",
                "Size of the journal with its texts",
                number(shown.book.bytes()),
            ),
            (
                "chancery_journal_revision",
                "Revision of the newest entry",
                shown.book.head(),
            ),
            (
                "chancery_journal_failing",
                "1 while entries of the journal cannot be read or written",
                i64::from(self.0.trouble().is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
