//! Log lines, traces and metrics of the process.
//!
//! In: [`Options`]. Out: the `tracing` subscriber of the process, which writes log lines to stderr (`lines`) and, with
//! an OTLP endpoint, sends the spans of a share of the changes to a collector; and the counters of all stages
//! ([`metrics`]). The trace of a change:
//!
//! ```text
//! change ─┬─ plan                    from the arrival of the revision to its publish
//!         └─ publish ─── acknowledged   one for each stream and type
//! ```
//! Promise: [`Guard::finish`] sends the remaining spans. This module names no other module of the crate.

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

mod lines;
pub mod metrics;

use lines::{Form, Lines, to_stderr};

/// The spans of traces. Other spans (a stage, a watch, a stream) name a task in log lines and live as long as the task:
/// in a trace they would collect events without end, and never be sent.
const TRACED: [&str; 4] = ["change", "plan", "publish", "acknowledged"];
/// Longest wait for the collector at the end of the process.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);
/// Time between two summaries of the lines that were left out.
const SUMMARY_EVERY: Duration = Duration::from_secs(10);

/// A text from outside as it may stand on a terminal: control characters are escaped.
#[must_use]
pub fn escaped(text: &str) -> String {
    lines::escaped(text)
}

/// The settings of log lines and traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// One JSON object a line, instead of text for people.
    pub json: bool,
    /// Filter of log lines, in `EnvFilter` syntax. Traces are not filtered.
    pub filter: String,
    /// URL of an OTLP collector over gRPC.
    pub otlp_endpoint: Option<String>,
    /// Percentage of traces that are sent, 0 to 100.
    pub trace_sample_percent: f64,
}

/// Failure of the set-up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be parsed.
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

/// Holds the spans that are not sent yet, and the counts of lines that were left out.
#[must_use = "finish it, or the last spans are lost"]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
    lines: Lines<fn(&str)>,
}

impl Guard {
    /// From time to time, log how many lines were left out. Never ready.
    pub fn summaries(&self) -> impl Future<Output = Infallible> + Send + use<> {
        let lines = self.lines.clone();
        async move {
            loop {
                tokio::time::sleep(SUMMARY_EVERY).await;
                lines.write_summaries(false);
            }
        }
    }

    /// Log how many lines were left out, and send the remaining spans, within 3 seconds. Blocks the thread, so no task
    /// may call this.
    pub fn finish(self) {
        self.lines.write_summaries(true);
        let Some(traces) = self.traces else { return };
        if let Err(error) = traces.shutdown_with_timeout(FLUSH_WITHIN) {
            tracing::warn!(%error, "Last traces were not sent to the collector");
        }
    }
}

/// Set up the subscriber of the process, once. With an OTLP endpoint this requires a tokio runtime.
///
/// # Errors
/// If the filter or the endpoint cannot be used, or if the process has a subscriber already.
pub fn init(options: &Options) -> Result<Guard, Error> {
    let filter = EnvFilter::try_new(&options.filter)?;
    let traces = options
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| exporter(endpoint, options))
        .transpose()?;

    let spans = traces.as_ref().map(|traces| {
        let traced = |name: &str, target: &str| TRACED.contains(&name) && target.starts_with("chancery");
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer("chancery"))
            .with_filter(filter_fn(move |metadata| {
                metadata.is_span() && traced(metadata.name(), metadata.target())
            }))
    });

    let form = match options.json {
        true => Form::Json,
        false => Form::Text {
            ansi: std::io::stderr().is_terminal(),
        },
    };

    let lines = Lines::new(form, to_stderr as fn(&str));

    tracing_subscriber::registry()
        .with(spans)
        .with(lines.clone().with_filter(filter))
        .try_init()?;
    Ok(Guard { traces, lines })
}

fn exporter(endpoint: &str, options: &Options) -> Result<SdkTracerProvider, Error> {
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    if endpoint.starts_with("https:") {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    let exporter = exporter.build().map_err(|source| Error::Exporter {
        endpoint: endpoint.to_owned(),
        source,
    })?;
    // A trace begins with its change. The sampler decides there, once for all spans of the trace.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
        options.trace_sample_percent / 100.0,
    )));
    let resource = Resource::builder().with_service_name("chancery").build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build())
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use opentelemetry::trace::{Span, Tracer};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// A collector that records the path and the body of each export.
    async fn collector(listener: TcpListener, exports: mpsc::UnboundedSender<(String, Vec<u8>)>) {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let exports = exports.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                exports.send((path, body.to_vec())).unwrap();
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "0");
                Ok::<_, Infallible>(response.body(Empty::<bytes::Bytes>::new()).unwrap())
            }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // The connection ends when the exporter closes it.
        drop(connection.serve_connection(TokioIo::new(stream), service).await);
    }

    fn options(endpoint: &str, trace_sample_percent: f64) -> Options {
        let otlp_endpoint = Some(endpoint.to_owned());
        Options {
            json: false,
            filter: "info".to_owned(),
            otlp_endpoint,
            trace_sample_percent,
        }
    }

    /// The export of one ended span, after the guard was finished.
    async fn exported(trace_sample_percent: f64) -> Option<(String, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, mut exports) = mpsc::unbounded_channel();
        let collector = tokio::spawn(collector(listener, sender));
        let traces = exporter(&endpoint, &options(&endpoint, trace_sample_percent)).unwrap();
        traces.tracer("chancery").start("publish revision").end();
        let lines = Lines::new(Form::Json, to_stderr as fn(&str));
        let guard = Guard {
            traces: Some(traces),
            lines,
        };
        tokio::task::spawn_blocking(|| guard.finish()).await.unwrap();
        collector.abort();
        exports.try_recv().ok()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_owed_to_the_collector_is_sent_at_the_end() {
        let (path, body) = exported(100.0).await.unwrap();
        assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        let holds = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(holds("publish revision") && holds("chancery"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_not_sampled_is_not_sent() {
        assert_eq!(exported(0.0).await, None);
    }

    #[test]
    fn a_filter_that_is_none_is_an_error() {
        let bad = Options {
            filter: "a=b=c".to_owned(),
            otlp_endpoint: None,
            ..options("", 0.0)
        };
        assert_eq!(
            init(&bad).err().map(|error| error.to_string()).as_deref(),
            Some("the log filter cannot be used")
        );
    }
}
