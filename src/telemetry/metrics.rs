//! All counters, gauges and histograms of the process, as typed handles.
//!
//! In: stages count and time through the fields of [`Metrics`]. The gauges of documents, clients and the snapshot are
//! not kept here; each scrape passes their current values ([`Derived`]). Out: text in one of two [`Format`]s.
//!
//! Labels are bounded: types, kinds, states and variants are the words of the API, never the name of a node or a
//! document. Counters with bounded labels have all their series from the start, with 0: otherwise `increase()` misses
//! the first event of a series.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

mod classic;
mod etcd;

pub use etcd::{Etcd, EventLabels, ListLabels, RootLabels};

/// Text format of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Classic,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format for an `Accept` header: `OpenMetrics` if the header names it and does not prefer `text/plain`.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let open_metrics = quality(accept, "application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= quality(accept, "text/plain") {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// The `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The highest `q` of a media type in an `Accept` header; 0 if the header does not name the type.
fn quality(accept: &str, media_type: &str) -> f32 {
    let ranges = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next()?.eq_ignore_ascii_case(media_type);
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        named.then(|| quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
    });
    ranges.fold(0.0, f32::max)
}

/// Buckets from 1 ms to 65 s, doubling. A publish takes milliseconds; the longest ACK waits for a cluster to warm.
const SECONDS: (f64, f64, u16) = (0.001, 2.0, 17);

/// Most groups with series of their own.
pub const GROUPS_MAX: usize = 100;
/// The label of all other groups.
pub const OTHER_GROUPS: &str = "other";

/// `{type}`: a TYPE of docs/api.md.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabels {
    /// `clusters`, `routes` …
    pub r#type: &'static str,
}

/// `{type, variant}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResponseLabels {
    /// `clusters`, `routes` …
    pub r#type: &'static str,
    /// `sotw` or `delta`.
    pub variant: &'static str,
}

/// `{variant}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VariantLabels {
    /// `sotw` or `delta`.
    pub variant: &'static str,
}

/// `{group}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupLabels {
    /// The name of a group, or [`OTHER_GROUPS`].
    pub group: String,
}

/// `{kind, state}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub struct DocumentLabels {
    /// `routes`, `clusters` …
    pub kind: &'static str,
    /// `accepted`, `rejected` …
    pub state: &'static str,
}

/// The current state of other stages, read at a scrape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Derived {
    /// Connected streams by variant. Every variant has an entry, so that no series disappears.
    pub clients: Vec<(&'static str, usize)>,
    /// Documents by kind and state. A pair without an entry has no series.
    pub documents: BTreeMap<(&'static str, &'static str), usize>,
    /// Clusters that are used and have no endpoints.
    pub empty_clusters: usize,
    /// The revision of the current snapshot.
    pub snapshot_revision: i64,
}

/// All handles; shared by every stage as an `Arc`.
pub struct Metrics {
    registry: Mutex<Registry>,
    clients: Family<VariantLabels, Gauge>,
    documents: Family<DocumentLabels, Gauge>,
    clusters_empty: Gauge,
    snapshot_revision: Gauge,
    /// Snapshots published.
    pub snapshot_publishes: Counter,
    /// Plans that changed no resource, so that nothing was published.
    pub snapshot_skipped_equal: Counter,
    /// Responses sent.
    pub responses: Family<ResponseLabels, Counter>,
    /// NACKs received.
    pub nacks: Family<TypeLabels, Counter>,
    /// Responses to gRPC libraries above their limit of 4 MiB.
    pub responses_too_large: Family<TypeLabels, Counter>,
    /// Clients that stopped sending ACKs and NACKs for clusters.
    pub stuck: Family<VariantLabels, Counter>,
    /// Time from the arrival of a change to its publish, in seconds.
    pub publish_seconds: Histogram,
    /// Time from a publish to its ACK by a stream, in seconds.
    pub acknowledge_seconds: Histogram,
    /// Time from the publish of a change to the last ACK of a proxy for it, in seconds, by group.
    rollout_live_seconds: Family<GroupLabels, Histogram>,
    /// The groups with a histogram of their own.
    groups: Mutex<BTreeSet<String>>,
    /// The `etcd_*` family; shown after [`Metrics::show_etcd`].
    pub etcd: Etcd,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let seconds = || Histogram::new(exponential_buckets(SECONDS.0, SECONDS.1, SECONDS.2));
        let mut metrics = Self {
            registry: Mutex::default(),
            clients: Family::default(),
            documents: Family::default(),
            clusters_empty: Gauge::default(),
            snapshot_revision: Gauge::default(),
            snapshot_publishes: Counter::default(),
            snapshot_skipped_equal: Counter::default(),
            responses: Family::default(),
            nacks: Family::default(),
            responses_too_large: Family::default(),
            stuck: Family::default(),
            publish_seconds: seconds(),
            acknowledge_seconds: seconds(),
            rollout_live_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(SECONDS.0, SECONDS.1, SECONDS.2))
            }),
            groups: Mutex::default(),
            etcd: Etcd::default(),
        };

        metrics.register(&mut registry);
        metrics.registry = Mutex::new(registry);
        metrics
    }
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "chancery_build",
            "Version of the running server",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );

        registry.register("chancery_clients", "Connected streams", self.clients.clone());

        registry.register(
            "chancery_documents",
            "Documents by kind and state",
            self.documents.clone(),
        );

        registry.register(
            "chancery_clusters_empty",
            "Clusters that are used and have no endpoints",
            self.clusters_empty.clone(),
        );

        registry.register(
            "chancery_snapshot_revision",
            "Revision of the store that the current snapshot was built from",
            self.snapshot_revision.clone(),
        );

        registry.register(
            "chancery_snapshot_publishes",
            "Snapshots published",
            self.snapshot_publishes.clone(),
        );

        registry.register(
            "chancery_snapshot_skipped_equal",
            "Changes that altered no resource, and published nothing",
            self.snapshot_skipped_equal.clone(),
        );

        registry.register("chancery_responses", "Responses sent", self.responses.clone());
        registry.register("chancery_nacks", "NACKs received", self.nacks.clone());
        registry.register(
            "chancery_responses_too_large",
            "Responses of more than 4 MiB to gRPC libraries, which reject them",
            self.responses_too_large.clone(),
        );

        registry.register(
            "chancery_clusters_unacknowledged",
            "Clients that stopped sending ACKs and NACKs for clusters",
            self.stuck.clone(),
        );

        registry.register(
            "chancery_publish_seconds",
            "Time from the arrival of a change to its publish",
            self.publish_seconds.clone(),
        );

        registry.register(
            "chancery_acknowledge_seconds",
            "Time from a publish to its ACK by a stream",
            self.acknowledge_seconds.clone(),
        );

        registry.register(
            "chancery_rollout_live_seconds",
            "Time from the publish of a change until a proxy has acknowledged all of it",
            self.rollout_live_seconds.clone(),
        );
    }

    /// Give every counter of a type or a variant its series, with 0.
    pub fn begin(&self, types: &[&'static str], variants: &[&'static str]) {
        for &r#type in types {
            let labels = TypeLabels { r#type };
            // Drop each guard before the next call, which takes the same lock.
            drop(self.nacks.get_or_create(&labels));
            drop(self.responses_too_large.get_or_create(&labels));
            for &variant in variants {
                drop(self.responses.get_or_create(&ResponseLabels { r#type, variant }));
            }
        }
        for &variant in variants {
            drop(self.stuck.get_or_create(&VariantLabels { variant }));
        }
    }

    /// Show the `etcd_*` family, with the series of these watches and list reasons.
    pub fn show_etcd(&self, watches: &[&'static str], reasons: &[&'static str]) {
        self.etcd.register(&mut self.registry.lock());
        self.etcd.begin(watches, reasons);
    }

    /// Show also the metrics of `collector`, which reads them at each scrape.
    pub fn also(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// The response counter of a type and variant. Callers keep the counter, so that a response needs no lookup.
    #[must_use]
    pub fn responses_of(&self, resource_type: &'static str, variant: &'static str) -> Counter {
        self.responses.get_or_create_owned(&ResponseLabels {
            r#type: resource_type,
            variant,
        })
    }

    /// Count a NACK.
    pub fn nacked(&self, resource_type: &'static str) {
        self.nacks.get_or_create(&TypeLabels { r#type: resource_type }).inc();
    }

    /// Count a response that is too large for its client.
    pub fn too_large(&self, resource_type: &'static str) {
        self.responses_too_large
            .get_or_create(&TypeLabels { r#type: resource_type })
            .inc();
    }

    /// Count a client that stopped sending ACKs and NACKs for clusters.
    pub fn stuck(&self, variant: &'static str) {
        self.stuck.get_or_create(&VariantLabels { variant }).inc();
    }

    /// Record the time from the arrival of a change to the publish of its snapshot.
    pub fn published(&self, after: Duration) {
        self.snapshot_publishes.inc();
        self.publish_seconds.observe(after.as_secs_f64());
    }

    /// Record the time from the publish of a snapshot to the ACK of a stream.
    pub fn acknowledged(&self, after: Duration) {
        self.acknowledge_seconds.observe(after.as_secs_f64());
    }

    /// Record the time from the publish of a change until a proxy of the group has acknowledged all of it.
    pub fn converged(&self, group: &str, after: Duration) {
        let mut groups = self.groups.lock();
        let is_known = groups.contains(group) || groups.len() < GROUPS_MAX && groups.insert(group.to_owned());
        drop(groups);
        let group = if is_known { group } else { OTHER_GROUPS };
        let labels = GroupLabels {
            group: group.to_owned(),
        };
        self.rollout_live_seconds
            .get_or_create(&labels)
            .observe(after.as_secs_f64());
    }

    /// All metrics as text.
    #[must_use]
    pub fn encode(&self, derived: &Derived, format: Format) -> String {
        // One scrape at a time: the derived gauges are cleared and set under this lock.
        let registry = self.registry.lock();
        for (variant, count) in &derived.clients {
            self.clients
                .get_or_create(&VariantLabels { variant })
                .set(as_gauge(*count));
        }

        self.documents.clear();
        for ((kind, state), count) in &derived.documents {
            self.documents
                .get_or_create(&DocumentLabels { kind, state })
                .set(as_gauge(*count));
        }

        self.clusters_empty
            .set(i64::try_from(derived.empty_clusters).unwrap_or(i64::MAX));
        self.snapshot_revision.set(derived.snapshot_revision);
        self.etcd.age(Instant::now());
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes everything");
        match format {
            Format::OpenMetrics => text,
            Format::Classic => classic::from_open_metrics(&text),
        }
    }
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of one metric, sorted.
    fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let mut lines: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn every_promised_name_is_there() {
        let metrics = Metrics::default();
        metrics.responses_of("clusters", "delta").inc();
        metrics.nacked("routes");
        metrics.too_large("clusters");
        metrics.published(Duration::from_millis(3));
        metrics.acknowledged(Duration::from_millis(7));
        let derived = Derived {
            clients: vec![("sotw", 1), ("delta", 2)],
            documents: [(("routes", "accepted"), 4)].into(),
            empty_clusters: 0,
            snapshot_revision: 17,
        };
        let text = metrics.encode(&derived, Format::OpenMetrics);
        assert_eq!(
            series(&text, "chancery_clients{"),
            [
                "chancery_clients{variant=\"delta\"} 2",
                "chancery_clients{variant=\"sotw\"} 1"
            ]
        );
        assert_eq!(
            series(&text, "chancery_documents{"),
            ["chancery_documents{kind=\"routes\",state=\"accepted\"} 4"]
        );
        assert_eq!(
            series(&text, "chancery_snapshot_revision "),
            ["chancery_snapshot_revision 17"]
        );
        assert_eq!(
            series(&text, "chancery_snapshot_publishes_total"),
            ["chancery_snapshot_publishes_total 1"]
        );
        assert_eq!(
            series(&text, "chancery_responses_total"),
            ["chancery_responses_total{type=\"clusters\",variant=\"delta\"} 1"]
        );
        assert_eq!(
            series(&text, "chancery_nacks_total"),
            ["chancery_nacks_total{type=\"routes\"} 1"]
        );
        assert_eq!(
            series(&text, "chancery_responses_too_large_total"),
            ["chancery_responses_too_large_total{type=\"clusters\"} 1"]
        );
        assert_eq!(
            series(&text, "chancery_publish_seconds_count"),
            ["chancery_publish_seconds_count 1"]
        );
        assert_eq!(
            series(&text, "chancery_acknowledge_seconds_count"),
            ["chancery_acknowledge_seconds_count 1"]
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn bounded_counters_are_there_from_the_start() {
        let metrics = Metrics::default();
        metrics.begin(&["clusters", "routes"], &["sotw", "delta"]);
        metrics.show_etcd(&["documents"], &["start", "fork"]);
        let text = metrics.encode(&Derived::default(), Format::Classic);
        assert_eq!(
            series(&text, "chancery_nacks_total{"),
            [
                "chancery_nacks_total{type=\"clusters\"} 0",
                "chancery_nacks_total{type=\"routes\"} 0"
            ]
        );
        assert_eq!(series(&text, "chancery_responses_total{").len(), 4);
        assert_eq!(series(&text, "chancery_responses_too_large_total{").len(), 2);
        assert_eq!(series(&text, "chancery_clusters_unacknowledged_total{").len(), 2);
        assert_eq!(
            series(&text, "etcd_lists_total{"),
            [
                "etcd_lists_total{watch=\"documents\",reason=\"fork\"} 0",
                "etcd_lists_total{watch=\"documents\",reason=\"start\"} 0"
            ]
        );
        assert_eq!(series(&text, "etcd_events_total{").len(), 2);
    }

    #[test]
    fn without_etcd_there_is_no_metric_of_etcd() {
        let metrics = Metrics::default();
        metrics.etcd.listed("documents", "start", 1, 10);
        metrics.etcd.wrote(Duration::from_millis(3));
        let text = metrics.encode(&Derived::default(), Format::Classic);
        assert!(!text.contains("etcd"), "{text}");
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("Application/OpenMetrics-Text"), Format::OpenMetrics);
        for classic in [
            "",
            "*/*",
            "text/plain",
            "text/plain, application/openmetrics-text;q=0.9",
            "application/openmetrics-text; q=0",
        ] {
            assert_eq!(Format::accepted(classic), Format::Classic, "{classic}");
        }
    }

    #[test]
    fn a_state_that_no_document_is_in_any_more_loses_its_series() {
        let metrics = Metrics::default();
        let rejected = Derived {
            documents: [(("routes", "rejected"), 1)].into(),
            ..Derived::default()
        };
        assert_eq!(
            series(&metrics.encode(&rejected, Format::OpenMetrics), "chancery_documents{").len(),
            1
        );
        let text = metrics.encode(&Derived::default(), Format::OpenMetrics);
        assert_eq!(series(&text, "chancery_documents{"), Vec::<&str>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn ages_are_counted_from_the_last_message() {
        let metrics = Metrics::default();
        metrics.show_etcd(&["documents"], &[]);
        assert_eq!(
            series(
                &metrics.encode(&Derived::default(), Format::OpenMetrics),
                "etcd_last_message_age_seconds "
            ),
            Vec::<&str>::new()
        );
        metrics.etcd.heard("documents", false);
        tokio::time::advance(Duration::from_millis(1500)).await;
        let text = metrics.encode(&Derived::default(), Format::OpenMetrics);
        assert_eq!(
            series(&text, "etcd_last_message_age_seconds{"),
            ["etcd_last_message_age_seconds{watch=\"documents\"} 1.5"]
        );
        assert_eq!(series(&text, "etcd_last_quorum_read_age_seconds{"), Vec::<&str>::new());
    }
}
