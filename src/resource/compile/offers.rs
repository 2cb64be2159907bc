//! Which endpoint of an instance a cluster takes: an instance of some registries offers several, each with a scheme.
//!
//! A cluster with `registry.scheme` takes the endpoint with that scheme. Otherwise the endpoint must speak TLS if the
//! cluster does, and plain text if it does not, as far as the registry says; of several, the one whose scheme fits the
//! protocol of the cluster best. An instance that offers nothing that fits is left out.

use std::sync::Arc;

use super::context::Context;
use super::inventory::Inventory;
use crate::document::cluster::{Cluster, Protocol, Source};
use crate::document::endpoint::{Endpoint, Offer, Registration};
use crate::document::key::DocumentKey;
use crate::resource::clusters;

/// Schemes of HTTP/2, the best first.
const HTTP2: [&str; 3] = ["grpc", "tri", "h2c"];
/// Schemes of HTTP/1.1, the best first.
const HTTP1: [&str; 3] = ["http", "https", "rest"];

/// The endpoints of a source that a cluster takes, sorted by address.
pub(super) fn taken<'a>(
    inventory: &'a Inventory,
    context: &Context,
    name: &Arc<str>,
) -> impl Iterator<Item = (&'a DocumentKey, &'a Endpoint)> + use<'a> {
    let wanted = inventory
        .cluster(name)
        .map(|(cluster, ..)| Wanted::of(cluster, context));
    let instances = inventory.instances(&inventory.source_of(name));
    instances.filter_map(move |(key, registration)| {
        let endpoint = match &wanted {
            Some(wanted) => wanted.choose(registration)?,
            None => registration.endpoint(),
        };
        Some((key, endpoint))
    })
}

/// What a cluster takes of an instance.
struct Wanted {
    scheme: Option<String>,
    speaks_tls: bool,
    prefers_http2: bool,
}

impl Wanted {
    fn of(cluster: &Cluster, context: &Context) -> Self {
        let scheme = match &cluster.source {
            Source::Registry { scheme, .. } => scheme.clone(),
            _ => None,
        };
        Self {
            scheme,
            speaks_tls: cluster.tls.is_some(),
            prefers_http2: clusters::settings_of(cluster, context).protocol == Some(Protocol::Http2),
        }
    }

    fn choose<'a>(&self, registration: &'a Registration) -> Option<&'a Endpoint> {
        let fitting = registration.offers().filter(|offer| self.fits(offer));
        let best = fitting.min_by_key(|offer| self.rank(offer.scheme.as_deref()))?;
        Some(&best.endpoint)
    }

    fn fits(&self, offer: &Offer) -> bool {
        match &self.scheme {
            Some(_) => offer.scheme == self.scheme,
            None => offer.is_secure.is_none_or(|is_secure| is_secure == self.speaks_tls),
        }
    }

    /// Lower is better.
    fn rank(&self, scheme: Option<&str>) -> usize {
        let (best, worst) = match self.prefers_http2 {
            true => (HTTP2, HTTP1),
            false => (HTTP1, HTTP2),
        };
        let place = |schemes: [&str; 3]| schemes.iter().position(|known| Some(*known) == scheme);
        let others = best.len();
        place(best).unwrap_or_else(|| place(worst).map_or(others, |place| others + 1 + place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::key::Kind;
    use crate::document::{Document, Limits, parse};

    fn document(key: DocumentKey, text: &str) -> Arc<Document> {
        parse(&key, text.as_bytes(), &Limits::default()).unwrap().document
    }

    /// The address that a cluster takes of an instance with these offers.
    fn taken_by(cluster: &str, offers: &str) -> Option<String> {
        let cluster = document(DocumentKey::new(Kind::Clusters, "a"), cluster);
        let instance = document(
            DocumentKey::new(Kind::Services, "r@s/1"),
            &format!(r#"{{"endpoints": [{offers}]}}"#),
        );
        let (Document::Cluster(cluster), Document::Endpoint(registration)) = (&*cluster, &*instance) else {
            panic!("a cluster and a registration");
        };
        let endpoint = Wanted::of(cluster, &Context::default()).choose(registration)?;
        Some(endpoint.port.to_string())
    }

    const BOTH: &str = r#"{"scheme": "http", "secure": false, "address": "10.0.0.1:80"},
                          {"scheme": "grpc", "secure": false, "address": "10.0.0.1:90"}"#;

    fn port(port: &str) -> Option<String> {
        Some(port.to_owned())
    }

    #[test]
    fn the_scheme_fits_the_protocol_of_the_cluster() {
        assert_eq!(
            taken_by(r#"{"registry": {"source": "r", "service": "s"}}"#, BOTH),
            port("80")
        );
        let http2 = r#"{"registry": {"source": "r", "service": "s"}, "protocol": "grpc"}"#;
        assert_eq!(taken_by(http2, BOTH), port("90"));
        let only_http = r#"{"scheme": "http", "secure": false, "address": "10.0.0.1:80"}"#;
        assert_eq!(taken_by(http2, only_http), port("80"));
        let dubbo = r#"{"scheme": "tri", "address": "10.0.0.1:50"}, {"scheme": "dubbo", "address": "10.0.0.1:20"}"#;
        assert_eq!(taken_by(http2, dubbo), port("50"));
        assert_eq!(
            taken_by(r#"{"registry": {"source": "r", "service": "s"}}"#, dubbo),
            port("20")
        );
    }

    #[test]
    fn a_cluster_may_name_the_scheme() {
        let scheme =
            |scheme: &str| format!(r#"{{"registry": {{"source": "r", "service": "s", "scheme": "{scheme}"}}}}"#);
        assert_eq!(taken_by(&scheme("grpc"), BOTH), port("90"));
        assert_eq!(taken_by(&scheme("tri"), BOTH), None);
    }

    #[test]
    fn plain_text_and_tls_do_not_meet() {
        let secure = r#"{"scheme": "http", "secure": true, "address": "10.0.0.1:443"}"#;
        assert_eq!(
            taken_by(r#"{"registry": {"source": "r", "service": "s"}}"#, secure),
            None
        );
        let tls = r#"{"registry": {"source": "r", "service": "s"}, "tls": {"sni": "a.internal"}}"#;
        assert_eq!(taken_by(tls, secure), port("443"));
        assert_eq!(taken_by(tls, BOTH), None);
        let unsaid = r#"{"address": "10.0.0.1:80"}"#;
        assert_eq!(taken_by(tls, unsaid), port("80"));
    }
}
