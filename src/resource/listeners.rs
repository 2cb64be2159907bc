//! Listeners.

use crate::document::Rejection;
use crate::document::key::DocumentKey;
use crate::document::listener::{self, Listener};

use super::Resource;
use super::context::Context;

/// The Listener of a listeners document, named like it.
///
/// # Errors
/// What Envoy would refuse once the defaults are filled in.
pub fn from_document(key: &DocumentKey, listener: &Listener, context: &Context) -> Result<Resource, Rejection> {
    let _ = (listener, context);
    Ok(Resource::new(key.name.clone(), Vec::new(), vec![key.clone()]))
}

/// The Listener that exists when no listeners document does: `default`, on 0.0.0.0:10000.
#[must_use]
pub fn default_listener(context: &Context) -> Resource {
    let _ = context;
    Resource::new(listener::DEFAULT_NAME, Vec::new(), Vec::new())
}
