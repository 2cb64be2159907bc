//! The place of later spans in the trace of a publish.
//!
//! The spans of a publish end with it, and a snapshot serves until the next change. So the snapshot keeps ids, not a
//! span: an open span would not reach a collector while the snapshot serves.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A span of a trace that goes to a collector; it can be the parent of others after it has ended. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace(Arc<SpanContext>);

impl Trace {
    /// The trace of a span; `None` if traces are not exported, or this one is not sampled.
    #[must_use]
    pub fn of(span: &Span) -> Option<Self> {
        let context = span.context().span().span_context().clone();
        context.is_sampled().then(|| Self(Arc::new(context)))
    }

    /// Make `span`, which was just created, a child of this one.
    pub fn adopt(&self, span: &Span) {
        let parent = Context::new().with_remote_span_context(SpanContext::clone(&self.0));
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "Span could not be added to the trace of its change");
        }
    }
}
