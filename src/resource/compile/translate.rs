//! One document at a time: from a checked value to what of it goes into resources.
//!
//! The one place that calls the translation of each resource type, with `defaults` filled in, and the one place where a
//! panic in it is caught: a document that the compiler cannot stand is rejected like any other bad one.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::context::Context;
use super::parts::{Part, Parts};
use crate::document::cluster::{Cluster, Source};
use crate::document::defaults::LegacyPath;
use crate::document::endpoint::Endpoint;
use crate::document::host::Host;
use crate::document::key::DocumentKey;
use crate::document::listener::{Listener, VirtualHosts};
use crate::document::route::{PathMatch, Route, Settings, Upstream, UpstreamUrl};
use crate::document::{Document, Rejection};
use crate::resource::body::Body;
use crate::resource::table::{self, Entry, HostKey, Origin, Table};
use crate::resource::verbatim::Written;
use crate::resource::{Reference, Resource, ResourceType, check, clusters, endpoints, listeners, routes, verbatim};

/// A Cluster and, when it takes them from EDS and they are known from the same document, its endpoints.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// The Cluster.
    pub cluster: Arc<Resource>,
    /// Its ClusterLoadAssignment.
    pub endpoints: Option<Arc<Resource>>,
}

impl Upstreams {
    /// Without endpoints of its own.
    fn alone(cluster: Resource) -> Self {
        Self {
            cluster: Arc::new(cluster),
            endpoints: None,
        }
    }
}

/// A Listener, and how proxies get the virtual hosts of its RouteConfiguration.
#[derive(Debug, Clone)]
pub struct Served {
    /// The Listener.
    pub listener: Arc<Resource>,
    /// How they get them.
    pub virtual_hosts: VirtualHosts,
}

/// What one document becomes by itself.
#[derive(Debug, Clone)]
pub enum Translated {
    /// A route.
    Route {
        /// One for each host of each rule in force.
        entries: Box<[Arc<Entry>]>,
        /// The Clusters' names, sorted; inline ones with their URL.
        upstreams: Box<[(Arc<str>, Option<UpstreamUrl>)]>,
    },
    /// A cluster.
    Cluster(Upstreams),
    /// A listener.
    Listener(Served),
    /// A resource as it was written.
    Verbatim(Written),
    /// Nothing by itself: groups, defaults, registrations.
    Nothing,
}

/// Translate one document.
///
/// # Errors
/// What Envoy would refuse, with its field path.
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
        Document::Xds(value) => verbatim::from_document(key, value).map(Translated::Verbatim),
        Document::Endpoint(value) => check::registered_endpoint(&value.endpoint).map(|()| Translated::Nothing),
        Document::Group(_) | Document::Defaults(_) => Ok(Translated::Nothing),
    }));
    translated.unwrap_or_else(|_| {
        Err(Rejection::new("", "found a value that the compiler failed on, which is a fault of the server; expected one that it can translate"))
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
        let settings = with_defaults(&rule.settings, &context.defaults.route);
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
    let mut upstreams = BTreeMap::new();
    for upstream in route.upstreams() {
        let url = match upstream {
            Upstream::Url(url) => {
                inline(context, url, Vec::new())?;
                Some(url.clone())
            }
            Upstream::Cluster(_) => None,
        };
        upstreams.insert(upstream.cluster_name(), url);
    }
    Ok(Translated::Route {
        entries: entries.into(),
        upstreams: upstreams.into_iter().collect(),
    })
}

/// A rule's own settings, and the defaults' where it has none.
fn with_defaults(own: &Settings, defaults: &Settings) -> Settings {
    let Settings {
        timeout,
        idle_timeout,
        retry,
        request_headers,
        response_headers,
    } = own.clone();
    Settings {
        timeout: timeout.or(defaults.timeout),
        idle_timeout: idle_timeout.or(defaults.idle_timeout),
        retry: retry.or_else(|| defaults.retry.clone()),
        request_headers: request_headers.or_else(|| defaults.request_headers.clone()),
        response_headers: response_headers.or_else(|| defaults.response_headers.clone()),
    }
}

/// The path as it is compared: the older forms' as `defaults.legacy_path` says, a prefix without its last slash, a
/// template without the names of its variables.
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
            Some(Arc::new(endpoints::from_list(&key.name, &list, vec![key.clone()])?))
        }
        Source::Listed(_) | Source::Dns { .. } | Source::Registered => None,
    };
    Ok(Upstreams {
        cluster: Arc::new(resource),
        endpoints,
    })
}

/// The ClusterLoadAssignment of a cluster whose instances register themselves, sorted by address.
#[must_use]
pub fn registered(name: &Arc<str>, instances: &[&Endpoint], documents: Vec<DocumentKey>) -> Arc<Resource> {
    let assignment = endpoints::from_list(name, instances, documents);
    Arc::new(assignment.unwrap_or_else(|_| endpoints::empty(name)))
}

/// The Cluster of a URL, and its one endpoint when that is an address.
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
        cluster: Arc::new(cluster),
    })
}

/// What stands for a cluster that no document describes: no endpoints, so that its routes answer 503.
#[must_use]
pub fn missing(name: &Arc<str>, documents: Vec<DocumentKey>) -> Upstreams {
    let cluster = Arc::new(clusters::missing(name, documents.clone()));
    Upstreams {
        cluster,
        endpoints: Some(Arc::new(Resource {
            documents,
            ..endpoints::empty(name)
        })),
    }
}

fn listener(context: &Context, key: &DocumentKey, listener: &Listener) -> Result<Served, Rejection> {
    let resource = listeners::from_document(key, listener, context)?;
    Ok(Served {
        listener: Arc::new(resource),
        virtual_hosts: listeners::virtual_hosts(Some(listener), context),
    })
}

/// The listener that exists when no document describes one.
#[must_use]
pub fn default_listener(context: &Context) -> Served {
    let listener = Arc::new(listeners::default_listener(context));
    Served {
        listener,
        virtual_hosts: listeners::virtual_hosts(None, context),
    }
}

/// The RouteConfiguration of a table. Costs as many steps as the table has runs of slabs, and copies none of them.
pub fn route_configuration(name: &Arc<str>, table: &Table, parts: Parts) -> Arc<Resource> {
    let head = routes::configuration(name);
    let version = table.version(&head);
    let body = Body::of_runs([[head].into_iter().collect()].into_iter().chain(table.runs().cloned()));
    Arc::new(Resource::put_together(Arc::clone(name), version, body, parts))
}

/// The same where virtual hosts come on demand: it says so and has none, but for clients that cannot ask for them.
pub fn on_demand_configuration(whole: Arc<Resource>, documents: Vec<DocumentKey>) -> Arc<Resource> {
    let name = Arc::clone(&whole.name);
    // One name for all virtual hosts, whatever the source is: they are asked for by none.
    let hosts = Reference {
        resource_type: ResourceType::VirtualHost,
        name: Arc::clone(&name),
        source: crate::resource::Source::Own,
    };
    let head = routes::on_demand_configuration(&name);
    Arc::new(Resource {
        refers: Some(Arc::new([hosts])),
        whole: Some(whole),
        ..Resource::new(name, head, documents)
    })
}

/// The name of a virtual host that is a resource of its own: that of its RouteConfiguration, and the pattern.
#[must_use]
pub fn virtual_host_name(configuration: &str, host: &HostKey) -> Arc<str> {
    format!("{configuration}/{host}").into()
}

/// A virtual host of a table as a resource of its own; `None`: there is none for the pattern. `parts_of` picks from what
/// the documents have in the whole RouteConfiguration.
///
/// A proxy asks for the virtual host of a request when it has none that matches. So only one that no wider pattern covers
/// can come on demand: where a proxy has the wider one, it would take that one's routes and not ask.
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
