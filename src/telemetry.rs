//! What the process says about itself: log lines, traces, metrics.
//!
//! What enters: [`Options`]. What leaves: a `tracing` subscriber for the whole process, which writes lines to stderr and,
//! with an OTLP endpoint, sends the spans of one change in so many to a collector; [`metrics`] holds the counters that
//! every stage is handed. It promises that [`Guard::finish`] sends what is still owed. Names nothing of ours.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub mod metrics;

/// How long the end of the process waits for the collector.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);

/// What is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// One JSON object a line, instead of text for people.
    pub json: bool,
    /// `EnvFilter` syntax; for lines and spans alike.
    pub filter: String,
    /// URL of an OTLP collector over gRPC.
    pub otlp_endpoint: Option<String>,
    /// How many of the traces are sent, 0 to 100.
    pub trace_sample_percent: f64,
}

/// Why the set-up failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("the log filter cannot be used")]
    Filter(#[from] ParseError),
    /// The exporter cannot be built for this endpoint.
    #[error("cannot export traces to {endpoint}")]
    Exporter {
        /// The endpoint.
        endpoint: String,
        /// Why.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The process has a subscriber already.
    #[error("a subscriber is set already")]
    Subscriber(#[from] TryInitError),
}

/// Owes the collector what was not sent yet.
#[derive(Debug)]
#[must_use = "finish it, or the last spans are lost"]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
}

impl Guard {
    /// Send what is still owed, for 3 seconds at most. Blocks: not for a task.
    pub fn finish(self) {
        let Some(traces) = self.traces else { return };
        if let Err(error) = traces.shutdown_with_timeout(FLUSH_WITHIN) {
            tracing::warn!(%error, "Lost the last traces");
        }
    }
}

/// Set up the process's subscriber. Once; with an OTLP endpoint, inside a tokio runtime.
///
/// # Errors
/// When the filter or the endpoint cannot be used, or there is a subscriber already.
pub fn init(options: &Options) -> Result<Guard, Error> {
    let filter = EnvFilter::try_new(&options.filter)?;
    let traces = options.otlp_endpoint.as_deref().map(|endpoint| exporter(endpoint, options)).transpose()?;
    let spans = traces.as_ref().map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer("chancery")));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if options.json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(filter).with(spans).with(lines).try_init()?;
    Ok(Guard { traces })
}

fn exporter(endpoint: &str, options: &Options) -> Result<SdkTracerProvider, Error> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| Error::Exporter { endpoint: endpoint.to_owned(), source })?;
    // A trace begins with a change; whether it is kept is decided there, once for all its spans.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.trace_sample_percent / 100.0)));
    let resource = Resource::builder().with_service_name("chancery").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler).with_resource(resource).build())
}
