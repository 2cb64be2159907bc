//! The way of a request: the listener, the route that takes the request, its destination, and the routes that lose.
//!
//! In: the compiled whole, a group and a request. Out: an [`Explanation`]. The table of the listener names the route, the
//! same function that judges the `tests` of documents; `tests/golden/parity.rs` compares the answers with a real Envoy.
//!
//! | module | job |
//! |---|---|
//! | this file | the question, the answer, and the steps from one to the other |
//! | `listener` | the listener that takes the request |
//! | `destination` | the endpoints of a cluster |
//! | `losers` | the other routes, each with a reason |

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{RetryPolicy, Route, RouteAction, RouteConfiguration};
use envoy_types::pb::google::protobuf;
use prost::Message;

use super::policies::Holding;
use super::{Compiled, input};
use crate::document::key::{DocumentKey, Kind};
use crate::document::listener::Underscores;
use crate::document::route::Rule;
use crate::resource::ResourceType;
use crate::resource::matcher::{Effect, Matcher, Request, Seen, request};
use crate::resource::policies::route::NOT_FOUND;
use crate::resource::table::Entry;

pub mod destination;
pub mod listener;
pub mod losers;

use destination::Destination;
use listener::Place;
use losers::Loser;

/// A request, and where it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// `GET`
    pub method: String,
    /// Whether the request comes over TLS; `None`: unknown.
    pub is_tls: Option<bool>,
    /// The Host header, with or without a port.
    pub host: String,
    /// Path and query, as sent.
    pub target: String,
    /// The other headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The group of the proxy.
    pub group: Arc<str>,
    /// The listener; `None`: the one that takes the request.
    pub listener: Option<Arc<str>>,
}

/// The reason why a request cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unexplained {
    /// No such group.
    #[error("there is no group `{wanted}`, expected one of {}", known.join(", "))]
    NoGroup {
        /// The name.
        wanted: Arc<str>,
        /// The groups that exist.
        known: Vec<Arc<str>>,
    },
    /// No such listener in the group.
    #[error("the group `{group}` has no listener `{wanted}` for HTTP, expected one of {}", known.join(", "))]
    NoListener {
        /// The group.
        group: Arc<str>,
        /// The name.
        wanted: Arc<str>,
        /// The listeners for HTTP.
        known: Vec<Arc<str>>,
    },
    /// Several listeners take the request.
    #[error("several listeners take this request, expected `listener`, one of {}", .0.join(", "))]
    SeveralListeners(Vec<Arc<str>>),
    /// The listener or its routes are written in Envoy's own form.
    #[error("{0} is written in Envoy's own form, with matchers that this server does not evaluate")]
    Verbatim(DocumentKey),
}

/// What Envoy does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Envoy forwards the request.
    Forward,
    /// Envoy answers with a redirect.
    Redirect,
    /// Envoy answers itself.
    Respond,
    /// No route takes the request: 404.
    NotFound,
    /// No listener of the group takes the request.
    Misdirected,
}

impl Outcome {
    /// The word of the admin API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Redirect => "redirect",
            Self::Respond => "respond",
            Self::NotFound => "not_found",
            Self::Misdirected => "misdirected",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// What Envoy does.
    pub outcome: Outcome,
    /// A sentence where the outcome needs one.
    pub why: Option<String>,
    /// The listener.
    pub listener: Option<Place>,
    /// The domain of the virtual host.
    pub virtual_host: Option<String>,
    /// The route that takes the request.
    pub route: Option<Taker>,
    /// Status, redirect, and host and path after rewrites.
    pub effect: Effect,
    /// The method.
    pub method: String,
    /// Edits of the request's headers.
    pub headers: Vec<HeaderEdit>,
    /// The clusters.
    pub destinations: Vec<Destination>,
    /// The longest time of the whole response; zero: no limit.
    pub timeout: Option<Duration>,
    /// The longest time without a byte.
    pub idle_timeout: Option<Duration>,
    /// Retries.
    pub retry: Option<Retry>,
    /// The policies in the order of filters; with the cluster if they depend on it.
    pub policies: Vec<(Option<Arc<str>>, Holding)>,
    /// Other routes, the nearest first.
    pub losers: Vec<Loser>,
}

/// The route that takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taker {
    /// The document.
    pub document: DocumentKey,
    /// The place in the document: `match`, `match[1]`, `overrides[0]`, `[3]` in an array. Of an xds document: the name of
    /// the route there.
    pub place: String,
}

/// An edit of a request's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Overwritten.
    Set(String, String),
    /// Appended.
    Add(String, String),
    /// Removed.
    Remove(String),
}

/// Retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Envoy's words and status codes.
    pub on: Vec<String>,
    /// Retries beyond the first try.
    pub attempts: u32,
    /// Each try.
    pub per_try_timeout: Option<Duration>,
}

impl Compiled {
    /// The way of a request.
    ///
    /// # Errors
    /// The group or the listener does not exist, several listeners take the request, or Envoy's own form hides the
    /// matchers.
    pub fn explain(&self, question: &Question) -> Result<Explanation, Unexplained> {
        if !self.groups.contains_key(&question.group) {
            return Err(Unexplained::NoGroup {
                wanted: Arc::clone(&question.group),
                known: self.groups.keys().cloned().collect(),
            });
        }
        let place = match self.place_of(question)? {
            Ok(place) => place,
            Err(why) => return Ok(Explanation::misdirected(question, why)),
        };
        let Some(seen) = self.seen(question, &place) else {
            return Ok(Explanation::malformed(question, place));
        };

        let routes = (ResourceType::Route, Arc::clone(&place.name));
        match input::verbatim(&self.inventory, &question.group, &routes) {
            Some((key, _)) => self.by_verbatim(question, place, &seen, key),
            None => Ok(self.by_table(question, place, &seen)),
        }
    }

    /// The request as the listener's routes see it; `None`: Envoy answers 400.
    fn seen(&self, question: &Question, place: &Place) -> Option<Seen> {
        let http = self.http_of(&place.name);
        let mut headers: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &question.headers {
            if name.contains('_') && http.underscores == Underscores::Reject {
                return None;
            }
            let is_dropped = name.contains('_') && http.underscores == Underscores::Drop;
            if !is_dropped && !http.remove_request_headers.contains(name) {
                headers.push((name, value));
            }
        }
        let mut seen = Seen::of(&Request {
            method: &question.method,
            host: &question.host,
            target: &question.target,
            headers: &headers,
        })?;
        // Such a listener strips the port of Host (`listeners::http`).
        if http.redirect_to_https.is_some() {
            seen.authority = request::without_port(&seen.authority).to_owned();
        }
        Some(seen)
    }

    fn by_table(&self, question: &Question, place: Place, seen: &Seen) -> Explanation {
        let group = &*question.group;
        let table = self.groups.get(group).and_then(|state| state.tables.get(&place.name));
        let host = table.and_then(|table| table.virtual_host_of(seen));
        let taken = table.and_then(|table| table.take(seen));
        let taken = taken.filter(|(entry, _)| &*entry.claim.document.name != NOT_FOUND);
        let losers = table.map(|table| {
            losers::of(
                self,
                table,
                host.as_ref(),
                seen,
                taken.as_ref().map(|(entry, _)| *entry),
            )
        });
        let scheme = if place.is_tls { "https" } else { "http" };

        let mut explanation = match &taken {
            None => Explanation::not_found(question, Some(place)),
            Some((_, route)) => self.of_route(question, place, route, Effect::of(route, seen, scheme)),
        };
        explanation.virtual_host = host.map(|host| host.to_string());
        explanation.losers = losers.unwrap_or_default();
        if let Some((entry, _)) = &taken {
            explanation.route = Some(Taker {
                document: (*entry.claim.document).clone(),
                place: entry.place.to_string(),
            });
        }
        let rule = taken.and_then(|(entry, _)| Some((&*entry.claim.document, self.rule_of(entry)?)));
        explanation.policies = self.policies_of(group, &explanation, rule);
        explanation
    }

    fn by_verbatim(
        &self,
        question: &Question,
        place: Place,
        seen: &Seen,
        key: DocumentKey,
    ) -> Result<Explanation, Unexplained> {
        let resource = self.resource(&question.group, ResourceType::Route, &place.name);
        let configuration = resource.and_then(|resource| RouteConfiguration::decode(resource.body.to_bytes()).ok());
        let matcher = configuration.and_then(|configuration| Matcher::new(&configuration).ok());
        let Some(matcher) = matcher else {
            return Err(Unexplained::Verbatim(key));
        };
        let scheme = if place.is_tls { "https" } else { "http" };
        let Some((domain, route)) = matcher.first(seen) else {
            return Ok(Explanation::not_found(question, Some(place)));
        };
        let mut explanation = self.of_route(question, place, route, Effect::of(route, seen, scheme));
        explanation.virtual_host = Some(domain.to_owned());
        explanation.route = Some(Taker {
            document: key,
            place: route.name.clone(),
        });
        Ok(explanation)
    }

    /// The rule of an entry; `None`: the entry is of no route document.
    fn rule_of(&self, entry: &Entry) -> Option<&Rule> {
        let route = self.inventory.document(&entry.claim.document)?.as_route()?;
        route.rules.get(entry.claim.rule)
    }

    fn of_route(&self, question: &Question, place: Place, route: &Route, effect: Effect) -> Explanation {
        let outcome = match (&effect.redirect, effect.status) {
            (Some(_), _) => Outcome::Redirect,
            (None, Some(_)) => Outcome::Respond,
            (None, None) => Outcome::Forward,
        };
        let action = match &route.action {
            Some(Action::Route(action)) => Some(action),
            _ => None,
        };
        let clusters = action.map(clusters).unwrap_or_default();
        let destinations = clusters
            .into_iter()
            .map(|(name, weight)| self.destination(&question.group, name, weight))
            .collect();
        Explanation {
            outcome,
            effect,
            headers: header_edits(route),
            destinations,
            timeout: action.and_then(|action| time(action.timeout.as_ref())),
            idle_timeout: action.and_then(|action| time(action.idle_timeout.as_ref())),
            retry: action.and_then(|action| action.retry_policy.as_ref()).map(retry),
            ..Explanation::not_found(question, Some(place))
        }
    }

    /// The policies of the request; with the cluster if those of the clusters differ.
    fn policies_of(
        &self,
        group: &str,
        explanation: &Explanation,
        rule: Option<(&DocumentKey, &Rule)>,
    ) -> Vec<(Option<Arc<str>>, Holding)> {
        let Some(place) = &explanation.listener else {
            return Vec::new();
        };
        let targets = rule.map(|(_, rule)| rule.targets()).unwrap_or_default();
        let mut names: Vec<Option<Arc<str>>> = targets
            .iter()
            .map(|target| Some(target.upstream.cluster_name()))
            .collect();
        if names.is_empty() {
            names.push(None);
        }
        let of_each: Vec<_> = names
            .into_iter()
            .map(|name| {
                let mut holding = self.holding(group, &place.name, name.as_ref(), rule);
                holding.retain(|one| explanation.outcome == Outcome::Forward || one.kind.holds_on_own_answers());
                (name, holding)
            })
            .collect();
        let is_same = of_each.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let of_each = of_each.into_iter().take(if is_same { 1 } else { usize::MAX });
        of_each
            .flat_map(|(name, holding)| {
                let name = name.filter(|_| !is_same);
                holding.into_iter().map(move |one| (name.clone(), one))
            })
            .collect()
    }
}

impl Explanation {
    fn not_found(question: &Question, listener: Option<Place>) -> Self {
        Self {
            outcome: Outcome::NotFound,
            why: None,
            listener,
            virtual_host: None,
            route: None,
            effect: Effect::of_status(404),
            method: question.method.clone(),
            headers: Vec::new(),
            destinations: Vec::new(),
            timeout: None,
            idle_timeout: None,
            retry: None,
            policies: Vec::new(),
            losers: Vec::new(),
        }
    }

    fn misdirected(question: &Question, why: String) -> Self {
        Self {
            outcome: Outcome::Misdirected,
            why: Some(why),
            effect: Effect::default(),
            ..Self::not_found(question, None)
        }
    }

    fn malformed(question: &Question, place: Place) -> Self {
        let why = "Envoy answers 400 before it looks for a route: the path or the name of a header is malformed";
        Self {
            outcome: Outcome::Respond,
            why: Some(why.to_owned()),
            effect: Effect::of_status(400),
            ..Self::not_found(question, Some(place))
        }
    }
}

/// The clusters of a weight above 0.
fn clusters(action: &RouteAction) -> Vec<(Arc<str>, u32)> {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name.as_str().into(), 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let shares = weighted.clusters.iter().map(|share| {
                let weight = share.weight.as_ref().map_or(0, |weight| weight.value);
                (share.name.as_str().into(), weight)
            });
            shares.filter(|(_, weight)| *weight > 0).collect()
        }
        _ => Vec::new(),
    }
}

fn header_edits(route: &Route) -> Vec<HeaderEdit> {
    let edits = route.request_headers_to_add.iter().filter_map(|option| {
        let header = option.header.as_ref()?;
        let (name, value) = (header.key.clone(), header.value.clone());
        Some(match option.append_action() {
            HeaderAppendAction::AppendIfExistsOrAdd => HeaderEdit::Add(name, value),
            _ => HeaderEdit::Set(name, value),
        })
    });
    let removed = route.request_headers_to_remove.iter().cloned();
    edits.chain(removed.map(HeaderEdit::Remove)).collect()
}

fn retry(policy: &RetryPolicy) -> Retry {
    let words = policy
        .retry_on
        .split(',')
        .filter(|word| *word != "retriable-status-codes");
    let codes = policy.retriable_status_codes.iter().map(ToString::to_string);
    Retry {
        on: words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .chain(codes)
            .collect(),
        attempts: policy.num_retries.as_ref().map_or(1, |count| count.value),
        per_try_timeout: time(policy.per_try_timeout.as_ref()),
    }
}

fn time(time: Option<&protobuf::Duration>) -> Option<Duration> {
    let time = time?;
    let (seconds, nanos) = (u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?);
    Some(Duration::new(seconds, nanos))
}

/// The document of a cluster's name, whether there is one or not.
#[must_use]
pub fn cluster_key(name: &Arc<str>) -> DocumentKey {
    DocumentKey::new(Kind::Clusters, Arc::clone(name))
}
