//! One document at a time: from the checked value to its share of resources.
//!
//! This file alone calls the translation of each resource type, with `defaults` filled in. It also catches a panic in
//! it: a document that makes the compiler panic is rejected like any other bad one.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::context::Context;
use super::parts::{Part, Parts};
use crate::document::cluster::{Cluster, Source};
use crate::document::defaults::LegacyPath;
use crate::document::endpoint::Endpoint;
use crate::document::host::Host;
use crate::document::key::DocumentKey;
use crate::document::listener::Listener;
use crate::document::policy::Policy;
use crate::document::route::{PathMatch, Route, Upstream, UpstreamUrl};
use crate::document::{Document, Rejection};
use crate::resource::body::Body;
use crate::resource::listeners::Routing;
use crate::resource::policies::{self, Fields, Filter};
use crate::resource::table::{self, Entry, Form, HostKey, Origin, Table};
use crate::resource::verbatim::Written;
use crate::resource::{
    Reference, Resource, ResourceType, check, clusters, endpoints, listeners, routes, runtime, secrets, verbatim,
};

/// A Cluster, and its endpoints if the Cluster uses EDS and the same document lists them.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// The Cluster.
    pub cluster: Arc<Resource>,
    /// Its ClusterLoadAssignment.
    pub endpoints: Option<Arc<Resource>>,
    /// The services of policies in its list.
    pub services: NamedUpstreams,
}

impl Upstreams {
    /// A Cluster without endpoints of its own.
    fn alone(cluster: Resource) -> Self {
        Self {
            cluster: Arc::new(cluster),
            endpoints: None,
            services: Box::default(),
        }
    }
}

/// A Listener, and the facts about its RouteConfiguration.
#[derive(Debug, Clone)]
pub struct Served {
    /// The Listener.
    pub listener: Arc<Resource>,
    /// The Listener of HTTP/3 beside it.
    pub quic: Option<Arc<Resource>>,
    /// `None`: it has no RouteConfiguration.
    pub routing: Option<Routing>,
    /// The entry behind all routes, if there is one.
    pub last_resort: Option<Arc<Entry>>,
    /// The clusters of its logs, traces and connections, sorted; inline ones with their URL.
    pub upstreams: NamedUpstreams,
}

/// Names of Clusters, sorted; inline ones with their URL.
pub type NamedUpstreams = Box<[(Arc<str>, Option<UpstreamUrl>)]>;

/// One document's own translation.
#[derive(Debug, Clone)]
pub enum Translated {
    /// A route.
    Route {
        /// One entry for each host of each rule in force.
        entries: Box<[Arc<Entry>]>,
        /// The names of its Clusters, sorted; inline ones with their URL.
        upstreams: NamedUpstreams,
    },
    /// A cluster.
    Cluster(Upstreams),
    /// A listener.
    Listener(Served),
    /// One resource under the name of its document: a runtime layer, a secret.
    Named(ResourceType, Arc<Resource>),
    /// A policy.
    Policy {
        /// Its filters, if they need no secret.
        filters: Arc<[Filter]>,
        /// The services that it asks.
        services: NamedUpstreams,
    },
    /// A resource in Envoy's own form.
    Verbatim(Written),
    /// `defaults`: the clusters that the listener without a document may name.
    Defaults(NamedUpstreams),
    /// Nothing: groups, registries, registrations, secrets that Envoy has no SDS for.
    Nothing,
}

impl Translated {
    /// The names of the Clusters that the document uses, sorted; inline ones with their URL. Of xds documents: none.
    #[must_use]
    pub fn upstreams(&self) -> &[(Arc<str>, Option<UpstreamUrl>)] {
        match self {
            Self::Route { upstreams, .. } | Self::Defaults(upstreams) => upstreams,
            Self::Listener(served) => &served.upstreams,
            Self::Cluster(upstreams) => &upstreams.services,
            Self::Policy { services, .. } => services,
            _ => &[],
        }
    }
}

/// Translate one document.
///
/// # Errors
/// A value that Envoy would refuse, with its field path.
pub fn document(
    context: &Context,
    key: &DocumentKey,
    create_revision: i64,
    document: &Document,
) -> Result<Translated, Rejection> {
    let translated = catch_unwind(AssertUnwindSafe(|| match document {
        Document::Route(value) => route(context, key, create_revision, value),
        Document::Cluster(value) => cluster(context, key, value).map(Translated::Cluster),
        Document::Listener(value) => listener(context, key, value).map(Translated::Listener),
        Document::Secret(value) => Ok(match secrets::from_document(key, value) {
            Some(secret) => Translated::Named(ResourceType::Secret, Arc::new(secret)),
            None => Translated::Nothing,
        }),
        Document::Runtime(value) => {
            let layer = Arc::new(runtime::from_document(key, value));
            Ok(Translated::Named(ResourceType::Runtime, layer))
        }
        Document::Policy(value) => Ok(Translated::Policy {
            filters: policies::of_policy(&value.policy, &|_| None, None).into(),
            services: named_upstreams(context, value.policy.upstreams())?,
        }),
        Document::Xds(value) => verbatim::from_document(key, value).map(Translated::Verbatim),
        Document::Endpoint(value) => {
            let mut offers = value.offers();
            let checked = offers.try_for_each(|offer| check::registered_endpoint(&offer.endpoint));
            checked.map(|()| Translated::Nothing)
        }
        Document::Defaults(value) => {
            listeners::check_defaults(&value.listener, context)?;
            let named = value.listener.upstreams().chain(Policy::upstreams_of(&value.policies));
            named_upstreams(context, named).map(Translated::Defaults)
        }
        Document::Group(_) | Document::Registry(_) => Ok(Translated::Nothing),
    }));
    translated.unwrap_or_else(|_| {
        let reason = "found a value that the compiler failed on, which is a fault of the server; \
                      expected one that it can translate";
        Err(Rejection::new("", reason))
    })
}

fn route(context: &Context, key: &DocumentKey, create_revision: i64, route: &Route) -> Result<Translated, Rejection> {
    let origin = Origin {
        document: Arc::new(key.clone()),
        create_revision,
        priority: route.priority,
    };

    let legacy_path = context.defaults.legacy_path;
    let mut entries = Vec::new();
    for (index, rule) in route.enabled_rules() {
        let settings = rule.settings.clone().or(&context.defaults.route);
        let encoded = routes::entries(key, rule, &settings, legacy_path)?;
        let path = resolved(&rule.matches.path, legacy_path);
        entries.extend(table::entries(
            &origin,
            index,
            &rule.place,
            &rule.matches,
            &path,
            encoded,
        ));
    }

    Ok(Translated::Route {
        entries: entries.into(),
        upstreams: named_upstreams(context, route.upstreams().chain(route_services(route)))?,
    })
}

/// The services of policies in the lists of a route.
pub(super) fn route_services(route: &Route) -> impl Iterator<Item = &Upstream> {
    let rules = route.enabled_rules();
    rules.flat_map(|(_, rule)| Policy::upstreams_of(&rule.policies))
}

/// The names of upstreams; an inline one is translated, so that a bad URL is a fault of this document.
fn named_upstreams<'a>(
    context: &Context,
    named: impl Iterator<Item = &'a Upstream>,
) -> Result<NamedUpstreams, Rejection> {
    let mut upstreams = BTreeMap::new();
    for upstream in named {
        let url = match upstream {
            Upstream::Url(url) => {
                inline(context, url, Vec::new())?;
                Some(url.clone())
            }
            Upstream::Cluster(_) => None,
        };
        upstreams.insert(upstream.cluster_name(), url);
    }
    Ok(upstreams.into_iter().collect())
}

/// The path in the form that is compared: the older forms read as `defaults.legacy_path` directs, a prefix without its
/// last slash, a template without the names of its variables.
fn resolved(path: &PathMatch, legacy_path: LegacyPath) -> PathMatch {
    match (path, legacy_path) {
        (PathMatch::Legacy(path), LegacyPath::Exact) => PathMatch::Exact(path.clone()),
        (PathMatch::Legacy(path), LegacyPath::Prefix) | (PathMatch::Prefix(path), _) => {
            PathMatch::Prefix(path.trim_end_matches('/').to_owned())
        }
        (PathMatch::Template(template), _) => PathMatch::Template(routes::order::without_names(template)),
        (path, _) => path.clone(),
    }
}

fn cluster(context: &Context, key: &DocumentKey, cluster: &Cluster) -> Result<Upstreams, Rejection> {
    let resource = clusters::from_document(key, cluster, context)?;
    let endpoints = match &cluster.source {
        Source::Listed(list) if list.iter().all(|endpoint| matches!(endpoint.host, Host::Ip(_))) => {
            let list: Vec<&Endpoint> = list.iter().collect();
            let name = clusters::own_name(&key.name, cluster);
            Some(Arc::new(endpoints::from_list(&name, &list, vec![key.clone()])?))
        }
        Source::Listed(_) | Source::Dns { .. } | Source::Registered | Source::Registry { .. } => None,
    };
    Ok(Upstreams {
        cluster: Arc::new(resource),
        endpoints,
        services: named_upstreams(context, Policy::upstreams_of(&cluster.policies))?,
    })
}

/// The ClusterLoadAssignment of a cluster with registered instances, sorted by address.
#[must_use]
pub fn registered(name: &Arc<str>, instances: &[&Endpoint], documents: Vec<DocumentKey>) -> Arc<Resource> {
    let assignment = endpoints::from_list(name, instances, documents);
    Arc::new(assignment.unwrap_or_else(|_| endpoints::empty(name)))
}

/// The Cluster of a URL, and its one endpoint if the host is an IP address.
///
/// # Errors
/// `https` without a CA bundle.
pub fn inline(context: &Context, url: &UpstreamUrl, documents: Vec<DocumentKey>) -> Result<Upstreams, Rejection> {
    let cluster = clusters::from_url(url, documents.clone(), context)?;
    let Ok(address) = url.host.parse() else {
        return Ok(Upstreams::alone(cluster));
    };
    let endpoint = Endpoint {
        host: Host::Ip(address),
        port: url.port,
        zone: None,
        weight: 1,
        priority: 0,
        draining: false,
        metadata: BTreeMap::new(),
    };

    let endpoints = endpoints::from_list(&cluster.name, &[&endpoint], documents)?;
    Ok(Upstreams {
        endpoints: Some(Arc::new(endpoints)),
        ..Upstreams::alone(cluster)
    })
}

/// The resources for a cluster that no document describes: no endpoints, so its routes answer 503.
#[must_use]
pub fn missing(name: &Arc<str>, documents: Vec<DocumentKey>) -> Upstreams {
    Upstreams {
        endpoints: Some(Arc::new(Resource {
            documents: documents.clone(),
            ..endpoints::empty(name)
        })),
        ..Upstreams::alone(clusters::missing(name, documents))
    }
}

fn listener(context: &Context, key: &DocumentKey, listener: &Listener) -> Result<Served, Rejection> {
    let resource = listeners::from_document(key, listener, context)?;
    let routing = listeners::routing(listener, context);
    let redirect = routing.as_ref().and_then(|routing| routing.redirect);
    let sent_to = listeners::upstreams(listener, context);
    Ok(Served {
        listener: Arc::new(resource),
        quic: listeners::quic(key, listener, context).map(Arc::new),
        last_resort: redirect.map(|redirect| table::last_resort(key, routes::https_redirect(redirect))),
        routing,
        upstreams: named_upstreams(context, sent_to.iter().chain(Policy::upstreams_of(&listener.policies)))?,
    })
}

/// The default listener, which exists while no document describes one.
#[must_use]
pub fn default_listener(context: &Context) -> Served {
    let listener = Arc::new(listeners::default_listener(context));
    Served {
        listener,
        quic: None,
        routing: Some(listeners::default_routing(context)),
        last_resort: None,
        upstreams: Box::default(),
    }
}

/// The RouteConfiguration of a table, with encoded fields before its virtual hosts. If policies have secrets: also the form
/// without. The cost is one step a run of slabs; no slab is copied.
pub fn route_configuration(
    name: &Arc<str>,
    http3_port: Option<u16>,
    fields: &Fields,
    table: &Table,
    parts: Parts,
) -> Arc<Resource> {
    let resource = |fields: &[u8], form: &Form| {
        let head: Bytes = [&routes::configuration(name, http3_port), fields].concat().into();
        let version = form.version(&head);
        let body = Body::of_runs([[head].into_iter().collect()].into_iter().chain(form.runs().cloned()));
        Resource::put_together(Arc::clone(name), version, body, parts.clone())
    };
    let withheld = match (&fields.withheld, table.withheld()) {
        (None, None) => None,
        (fields_withheld, form) => {
            let fields = fields_withheld.as_ref().unwrap_or(&fields.given);
            Some(Arc::new(resource(fields, form.unwrap_or_else(|| table.given()))))
        }
    };
    Arc::new(Resource {
        withheld,
        ..resource(&fields.given, table.given())
    })
}

/// The RouteConfiguration whose virtual hosts are on demand: it has none inline, except for clients without VHDS.
pub fn on_demand_configuration(
    whole: Arc<Resource>,
    http3_port: Option<u16>,
    documents: Vec<DocumentKey>,
) -> Arc<Resource> {
    let name = Arc::clone(&whole.name);
    // One reference for all virtual hosts: proxies never subscribe to one by this name.
    let hosts = Reference {
        resource_type: ResourceType::VirtualHost,
        name: Arc::clone(&name),
        source: crate::resource::Source::Own,
    };
    let head = routes::on_demand_configuration(&name, http3_port);
    Arc::new(Resource {
        refers: Some(Arc::new([hosts])),
        whole: Some(whole),
        ..Resource::new(name, head, documents)
    })
}

/// The name of a virtual host as a resource: the name of its RouteConfiguration, and the pattern.
#[must_use]
pub fn virtual_host_name(configuration: &str, host: &HostKey) -> Arc<str> {
    format!("{configuration}/{host}").into()
}

/// A virtual host of a table as a resource of its own; `None`: no host has the pattern. `parts_of` gives a document's
/// part in the whole RouteConfiguration.
///
/// A proxy asks for the virtual host of a request if it has none that matches. If it had one with a wider pattern, it
/// would take that one's routes and not ask. So only a virtual host that no wider pattern covers is on demand.
pub fn virtual_host(
    configuration: &str,
    table: &Table,
    host: &HostKey,
    parts_of: impl Fn(&DocumentKey) -> Option<Part>,
) -> Option<Arc<Resource>> {
    let hosted = table.hosted(host)?;
    let name = virtual_host_name(configuration, host);
    let head = routes::virtual_host_head(&name, &host.pattern());
    let body = Body::of_pieces([head.into(), hosted.routes]);
    let parts: Parts = hosted
        .documents
        .into_iter()
        .filter_map(|key| Some(((*key).clone(), parts_of(&key)?)))
        .collect();
    let resource = Resource::new(name, body, Vec::new());
    Some(Arc::new(Resource {
        on_demand: hosted.is_lone,
        parts: Some(Arc::new(parts)),
        ..resource
    }))
}
