//! The route that takes a request, and the effect of the route: Envoy's answer, computed on compiled routes.
//!
//! In: compiled Routes in their form for Envoy, and a raw request. Out: the first Route that matches, or the reason why
//! none does; and the clusters, status, redirect, host and path of that Route. The listener is assumed to be one of this
//! server ([`super::listeners`]): the path is normalised, the port and a final dot of Host are ignored.
//!
//! | module | job |
//! |---|---|
//! | this file | a RouteConfiguration: its virtual hosts, and the Route of a request |
//! | `request` | a request as Envoy sees it after normalising |
//! | `conditions` | the match of one Route |
//! | `effect` | the action of one Route |
//!
//! [`super::table`] asks the same conditions about its entries. `tests/golden/parity.rs` compares the answers with a real
//! Envoy. Only matchers that [`super::routes::entries`] writes are known. Pure.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};

pub mod conditions;
pub mod effect;
pub mod request;

use conditions::{Conditions, Unknown};
pub use effect::Effect;
pub use request::{Request, Seen};

/// Envoy's answer to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// Envoy answers 400 before it looks for a route.
    Malformed,
    /// Envoy answers 404.
    NoRoute,
    /// The route takes the request.
    Route(&'a Route),
}

/// A RouteConfiguration in a form for fast matching.
#[derive(Debug)]
pub struct Matcher {
    /// Virtual hosts by domain, in lower case.
    hosts: BTreeMap<String, Vec<(Conditions, Route)>>,
}

impl Matcher {
    /// Reads a RouteConfiguration.
    ///
    /// # Errors
    /// A matcher that this server does not write.
    pub fn new(configuration: &RouteConfiguration) -> Result<Self, Unknown> {
        let mut hosts = BTreeMap::new();
        for host in &configuration.virtual_hosts {
            for domain in &host.domains {
                let routes = host.routes.iter();
                let candidates = routes.map(|route| Ok((Conditions::of(route)?, route.clone())));
                hosts.insert(domain.to_ascii_lowercase(), candidates.collect::<Result<_, _>>()?);
            }
        }
        Ok(Self { hosts })
    }

    /// Envoy's answer to a request.
    #[must_use]
    pub fn outcome(&self, request: &Request<'_>) -> Outcome<'_> {
        match self.candidates(request) {
            None => Outcome::Malformed,
            Some(routes) => routes.first().map_or(Outcome::NoRoute, |first| Outcome::Route(first)),
        }
    }

    /// All routes that match a request, in order: the first takes the request. `None`: Envoy answers 400.
    #[must_use]
    pub fn candidates(&self, request: &Request<'_>) -> Option<Vec<&Route>> {
        let seen = Seen::of(request)?;
        Some(self.matching(&seen).map(|(_, route)| route).collect())
    }

    /// The route that takes a request, and the domain of its virtual host.
    #[must_use]
    pub fn first(&self, seen: &Seen) -> Option<(&str, &Route)> {
        self.matching(seen).next()
    }

    /// The routes that match, in order: of the host's own domain, else of the longest wildcard, else of `*`.
    fn matching<'a, 's>(&'a self, seen: &'s Seen) -> impl Iterator<Item = (&'a str, &'a Route)> + use<'a, 's> {
        let found = request::domains(&seen.host).find_map(|domain| self.hosts.get_key_value(&*domain));
        let routes = found.into_iter();
        let routes = routes.flat_map(|(domain, routes)| routes.iter().map(move |route| (domain.as_str(), route)));
        routes
            .filter(|(_, (conditions, _))| conditions.hold(seen))
            .map(|(domain, (_, route))| (domain, route))
    }
}
