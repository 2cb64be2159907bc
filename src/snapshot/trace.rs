//! Where what follows from a publish belongs in its trace.
//!
//! A snapshot lives until the next change, its trace's spans end with the publish: what is kept here are ids, not a span,
//! which would stay open (and be told to no collector) as long as the snapshot serves.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A span of a trace that is sent to a collector, to be the parent of others after it has ended. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace(Arc<SpanContext>);

impl Trace {
    /// The span's; `None` where traces are not sent, or not this one.
    #[must_use]
    pub fn of(span: &Span) -> Option<Self> {
        let context = span.context().span().span_context().clone();
        context.is_sampled().then(|| Self(Arc::new(context)))
    }

    /// Make `span`, which was just created, a child.
    pub fn adopt(&self, span: &Span) {
        let parent = Context::new().with_remote_span_context(SpanContext::clone(&self.0));
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "Span could not be added to the trace of its change");
        }
    }
}
