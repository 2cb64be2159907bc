//! An xDS server over a real socket; the test fills its snapshot store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chancery::fleet::Fleet;
use chancery::resource::compile::{Difference, ResourceChange};
use chancery::resource::{Resource, ResourceType};
use chancery::snapshot::store::Store;
use chancery::snapshot::{Facts, Source};
use chancery::xds::Limits;
use chancery::xds::options::{Listen, Options};
use chancery::xds::server::{Error, Server};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::UInt32Value;
use prost::Message;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running server.
pub(crate) struct Xds {
    /// The snapshots of the server.
    pub(crate) store: Arc<Store>,
    /// The connected proxies.
    pub(crate) fleet: Fleet,
    /// The address, if the port is TCP.
    pub(crate) address: SocketAddr,
    /// Cancelled: it drains.
    pub(crate) draining: CancellationToken,
    /// Ends with the server.
    pub(crate) running: JoinHandle<Result<(), Error>>,
}

/// Options of a test: any free port of this machine.
pub(crate) fn options() -> Options {
    Options {
        listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
        max_connections: usize::MAX,
        max_streams: 50_000,
        limits: Limits::new(50_000, usize::MAX),
        stall_timeout: Duration::from_secs(60),
        max_connection_age: None,
        grace: Duration::from_secs(3),
        identifier: "test".to_owned(),
        tls: None,
        plaintext_secrets: false,
    }
}

impl Xds {
    /// Start with nothing published.
    pub(crate) fn start_with(options: Options) -> Self {
        let server = Server::bind(options).expect("bind");
        let address = match server.local_addr() {
            Listen::Tcp(address) => *address,
            Listen::Unix(_) => ([0, 0, 0, 0], 0).into(),
        };
        let (store, fleet) = (Arc::new(Store::default()), Fleet::default());
        let (draining, token) = (CancellationToken::new(), CancellationToken::new());
        let run = server.run(Arc::clone(&store), fleet.clone(), draining.clone(), token);
        Self {
            store,
            fleet,
            address,
            draining,
            running: tokio::spawn(run),
        }
    }

    /// Start with fixture F1 of the conformance suite published.
    pub(crate) fn start() -> Self {
        let xds = Self::start_with(options());
        xds.commit(fixture());
        xds
    }

    /// Publish changes of the default group.
    pub(crate) fn commit(&self, mut changes: Vec<ResourceChange>) {
        changes.sort_by(|one, other| (one.resource_type, &one.name).cmp(&(other.resource_type, &other.name)));
        let difference = Difference {
            resources: changes,
            groups_added: Vec::new(),
            groups_removed: Vec::new(),
        };
        let facts = Facts {
            revisions: Arc::default(),
            revision: 1,
            built_at: SystemTime::now(),
            source: Source::Memory,
            stale: false,
            withhold_removals: false,
            group_rules: Arc::clone(&self.store.current().group_rules),
            cause: None,
        };
        self.store
            .publish(Arc::new(self.store.current().next(&difference, facts)));
    }
}

fn change(resource_type: ResourceType, name: &str, resource: Option<Resource>) -> ResourceChange {
    ResourceChange {
        group: "default".into(),
        resource_type,
        name: name.into(),
        resource: resource.map(Arc::new),
    }
}

/// An EDS cluster; `content` makes it another version.
pub(crate) fn cluster(name: &str, content: u32) -> ResourceChange {
    let message = Cluster {
        name: name.to_owned(),
        per_connection_buffer_limit_bytes: Some(UInt32Value { value: content }),
        ..Cluster::default()
    };
    let mut resource = Resource::new(name, message.encode_to_vec(), Vec::new());
    resource.warms = Some(name.into());
    change(ResourceType::Cluster, name, Some(resource))
}

/// Endpoints of a cluster.
pub(crate) fn endpoints(name: &str, content: u32) -> ResourceChange {
    let policy = Policy {
        overprovisioning_factor: Some(UInt32Value { value: content }),
        ..Policy::default()
    };
    let message = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        policy: Some(policy),
        ..ClusterLoadAssignment::default()
    };
    change(
        ResourceType::Endpoint,
        name,
        Some(Resource::new(name, message.encode_to_vec(), Vec::new())),
    )
}

/// A listener.
pub(crate) fn listener(name: &str) -> ResourceChange {
    let message = Listener {
        name: name.to_owned(),
        ..Listener::default()
    };
    change(
        ResourceType::Listener,
        name,
        Some(Resource::new(name, message.encode_to_vec(), Vec::new())),
    )
}

/// A route configuration.
pub(crate) fn route(name: &str, content: u32) -> ResourceChange {
    let message = RouteConfiguration {
        name: name.to_owned(),
        max_direct_response_body_size_bytes: Some(UInt32Value { value: content }),
        ..RouteConfiguration::default()
    };
    change(
        ResourceType::Route,
        name,
        Some(Resource::new(name, message.encode_to_vec(), Vec::new())),
    )
}

/// A secret.
pub(crate) fn secret(name: &str) -> ResourceChange {
    let message = Secret {
        name: name.to_owned(),
        ..Secret::default()
    };
    change(
        ResourceType::Secret,
        name,
        Some(Resource::new(name, message.encode_to_vec(), Vec::new())),
    )
}

/// The deletion of a resource.
pub(crate) fn gone(resource_type: ResourceType, name: &str) -> ResourceChange {
    change(resource_type, name, None)
}

/// Fixture F1 of the conformance suite: clusters A and B with endpoints, S without, listener L, route configuration r1.
pub(crate) fn fixture() -> Vec<ResourceChange> {
    let mut plain = cluster("S", 1);
    if let Some(resource) = &mut plain.resource {
        Arc::make_mut(resource).warms = None;
    }
    vec![
        cluster("A", 1),
        cluster("B", 1),
        plain,
        endpoints("A", 1),
        endpoints("B", 1),
        listener("L"),
        route("r1", 1),
    ]
}
