//! Clusters.

use crate::document::Rejection;
use crate::document::cluster::Cluster;
use crate::document::key::DocumentKey;
use crate::document::route::UpstreamUrl;

use super::Resource;
use super::context::Context;

/// The Cluster of a clusters document, named like it.
///
/// # Errors
/// What Envoy would refuse once the defaults are filled in.
pub fn from_document(key: &DocumentKey, cluster: &Cluster, context: &Context) -> Result<Resource, Rejection> {
    let _ = (cluster, context);
    Ok(Resource::new(key.name.clone(), Vec::new(), vec![key.clone()]))
}

/// The inline Cluster of a URL, named [`UpstreamUrl::cluster_name`].
///
/// # Errors
/// `https` without a CA bundle.
pub fn from_url(url: &UpstreamUrl, documents: Vec<DocumentKey>, context: &Context) -> Result<Resource, Rejection> {
    let _ = context;
    Ok(Resource::new(url.cluster_name(), Vec::new(), documents))
}

/// The Cluster that stands for one that does not exist: STATIC, without endpoints, so that its routes answer 503.
#[must_use]
pub fn missing(name: &str, documents: Vec<DocumentKey>) -> Resource {
    Resource::new(name, Vec::new(), documents)
}
