//! The rules of docs/xds-rules.md on sessions as values; `interleavings` has them in any order.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::rpc::Status;

use super::*;
use crate::resource::Resource;
use crate::resource::compile::{Difference, ResourceChange};
use crate::snapshot::{Facts, Snapshot};

mod exchange;
mod extensions;
mod globs;
mod grpc;
mod idle;
mod interleavings;
mod malformed;
mod on_demand;
mod removals;
mod spared;
mod trust;
mod ttl;
mod warming;

const CLUSTER: ResourceType = ResourceType::Cluster;
const ENDPOINT: ResourceType = ResourceType::Endpoint;
const LISTENER: ResourceType = ResourceType::Listener;
const ROUTE: ResourceType = ResourceType::Route;

const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

/// The content of resources; `None`: removed.
type Commit<'a> = &'a [(ResourceType, &'a str, Option<u8>)];

fn committed(snapshot: &Snapshot, commit: Commit<'_>) -> Snapshot {
    snapshot.next(&difference(commit), Facts::after(snapshot))
}

fn difference(commit: Commit<'_>) -> Difference {
    let unique: BTreeMap<_, _> = commit
        .iter()
        .map(|(of_type, name, content)| ((*of_type, *name), *content))
        .collect();
    let resources = unique.into_iter().map(|((resource_type, name), content)| {
        let resource = content.map(|content| {
            let mut resource = resource(name, content);
            resource.warms = (resource_type == CLUSTER && name != "S").then(|| name.into());
            Arc::new(resource)
        });
        ResourceChange {
            group: "default".into(),
            resource_type,
            name: name.into(),
            resource,
        }
    });
    Difference {
        resources: resources.collect(),
        ..Difference::default()
    }
}

fn changed(snapshot: &Snapshot, resources: Vec<ResourceChange>) -> Snapshot {
    snapshot.next(
        &Difference {
            resources,
            ..Difference::default()
        },
        Facts::after(snapshot),
    )
}

fn resource(name: &str, content: u8) -> Resource {
    Resource::new(name, body(name, content), Vec::new())
}

/// A message whose first field is its name, as in most resources, and which has some content behind it.
fn body(name: &str, content: u8) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("a short name");
    [&[0x0a, length], name.as_bytes(), &[content]].concat()
}

/// The name and the content of such a message; 0: there is none.
fn parse(body: &[u8]) -> (String, u8) {
    let (name, content) = body[2..].split_at(usize::from(body[1]));
    (
        String::from_utf8(name.to_vec()).unwrap(),
        content.first().copied().unwrap_or_default(),
    )
}

/// The content of a response: its type, its resources, its removals.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    resource_type: ResourceType,
    resources: Vec<(String, u8)>,
    /// Resources without a body, each with its aliases.
    bodiless: Vec<String>,
    removed: Vec<String>,
    /// SotW: names in `resource_errors`.
    absent: Vec<String>,
    /// Milliseconds, of those that have a time to live.
    ttl: Vec<(String, i64)>,
    nonce: String,
    version: String,
}

impl Said {
    fn short(&self) -> String {
        let word = match self.resource_type {
            CLUSTER => "CDS",
            ENDPOINT => "EDS",
            LISTENER => "LDS",
            ROUTE => "RDS",
            other => other.as_str(),
        };
        let resources: Vec<_> = self
            .resources
            .iter()
            .map(|(name, content)| format!("{name}@{content}"))
            .collect();
        let bodiless: Vec<_> = self.bodiless.iter().map(|name| format!("~{name}")).collect();
        let removed: Vec<_> = self.removed.iter().map(|name| format!("-{name}")).collect();
        let absent: Vec<_> = self.absent.iter().map(|name| format!("!{name}")).collect();
        format!("{word}[{}]", [resources, bodiless, removed, absent].concat().join(","))
    }
}

/// A client of a session, with a clock of its own.
struct Client {
    session: Session,
    snapshot: Snapshot,
    now: Instant,
    node: envoy_types::pb::envoy::config::core::v3::Node,
}

impl Client {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; only distances matter")]
    fn new(variant: Variant) -> Self {
        let snapshot = committed(
            &Snapshot::unpublished(),
            &[
                (CLUSTER, "A", Some(1)),
                (CLUSTER, "B", Some(1)),
                (CLUSTER, "S", Some(1)),
                (ENDPOINT, "A", Some(1)),
                (ENDPOINT, "B", Some(1)),
                (LISTENER, "L", Some(1)),
                (ROUTE, "r1", Some(1)),
            ],
        );
        let session = Session::new(Settings {
            variant,
            service_type: None,
            identifier: "test".into(),
            salt: 7,
            interner: Arc::default(),
            secrets: true,
        });
        Self {
            session,
            snapshot,
            now: Instant::now(),
            node: crate_node().unwrap_or_default(),
        }
    }

    fn commit(&mut self, commit: Commit<'_>) -> &mut Self {
        self.snapshot = committed(&self.snapshot, commit);
        self
    }

    /// Publish one resource as it is.
    fn serve(&mut self, resource_type: ResourceType, resource: Resource) -> &mut Self {
        let (group, name) = ("default".into(), Arc::clone(&resource.name));
        let change = ResourceChange {
            group,
            resource_type,
            name,
            resource: Some(Arc::new(resource)),
        };
        self.snapshot = changed(&self.snapshot, vec![change]);
        self
    }

    fn request(&mut self, bytes: Vec<u8>) -> Outcome {
        self.session.on_request(bytes.into(), self.now).expect("a good request")
    }

    fn delta(&mut self, resource_type: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> &mut Self {
        self.delta_with(resource_type, subscribe, unsubscribe, &[]);
        self
    }

    fn delta_with(&mut self, of_type: ResourceType, subscribe: &[&str], unsubscribe: &[&str], initial: &[(&str, u8)]) {
        let version = |name, content| crate::resource::ResourceVersion::of(&body(name, content)).to_string();
        let request = pb::DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: of_type.type_url().to_owned(),
            resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
            resource_names_unsubscribe: unsubscribe.iter().map(ToString::to_string).collect(),
            initial_resource_versions: initial
                .iter()
                .map(|(name, content)| (name.to_string(), version(name, *content)))
                .collect(),
            ..pb::DeltaDiscoveryRequest::default()
        };
        self.request(request.encode_to_vec());
    }

    fn sotw(&mut self, resource_type: ResourceType, names: &[&str]) -> &mut Self {
        self.sotw_with(resource_type, names, "", "");
        self
    }

    fn sotw_with(&mut self, resource_type: ResourceType, names: &[&str], version: &str, nonce: &str) {
        let request = pb::DiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: resource_type.type_url().to_owned(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            version_info: version.to_owned(),
            response_nonce: nonce.to_owned(),
            ..pb::DiscoveryRequest::default()
        };
        self.request(request.encode_to_vec());
    }

    /// ACK or NACK.
    fn answer(&mut self, said: &Said, names: &[&str], error_detail: Option<Status>) -> Outcome {
        let (type_url, response_nonce) = (said.resource_type.type_url().to_owned(), said.nonce.clone());
        let bytes = match self.session.settings.variant {
            Variant::Sotw => pb::DiscoveryRequest {
                type_url,
                response_nonce,
                version_info: said.version.clone(),
                resource_names: names.iter().map(ToString::to_string).collect(),
                error_detail,
                ..pb::DiscoveryRequest::default()
            }
            .encode_to_vec(),
            Variant::Delta => pb::DeltaDiscoveryRequest {
                type_url,
                response_nonce,
                error_detail,
                ..Default::default()
            }
            .encode_to_vec(),
        };
        self.request(bytes)
    }

    fn ack(&mut self, said: &Said, names: &[&str]) -> &mut Self {
        self.answer(said, names, None);
        self
    }

    fn nack(&mut self, said: &Said, names: &[&str]) -> &mut Self {
        self.answer(
            said,
            names,
            Some(Status {
                code: 13,
                message: "no".to_owned(),
                details: Vec::new(),
            }),
        );
        self
    }

    fn next(&mut self) -> Option<Said> {
        let response = self.session.next_response(&self.snapshot, self.now)?;
        Some(self.said(&response))
    }

    /// The bodies of a response's resources, in their order.
    fn bodies(&self, response: &Response) -> Vec<Vec<u8>> {
        let bytes = message(response);
        let bodies: Vec<_> = match self.session.settings.variant {
            Variant::Sotw => pb::DiscoveryResponse::decode(&*bytes).unwrap().resources,
            Variant::Delta => {
                let resources = pb::DeltaDiscoveryResponse::decode(&*bytes).unwrap().resources;
                resources.into_iter().filter_map(|one| one.resource).collect()
            }
        };
        bodies.into_iter().map(|any| any.value).collect()
    }

    fn said(&self, response: &Response) -> Said {
        let bytes = message(response);
        let resource_type = response.resource_type.expect("a type that is served");
        let mut said = match self.session.settings.variant {
            Variant::Delta => delta_said(resource_type, pb::DeltaDiscoveryResponse::decode(&*bytes).unwrap()),
            Variant::Sotw => sotw_said(resource_type, pb::DiscoveryResponse::decode(&*bytes).unwrap()),
        };
        said.resources.sort();
        said
    }

    /// Everything that is said now.
    fn all(&mut self) -> Vec<Said> {
        let said: Vec<_> = std::iter::from_fn(|| self.next()).take(100).collect();
        assert!(said.len() < 100, "the session does not come to rest");
        said
    }

    fn says(&mut self) -> Vec<String> {
        self.all().iter().map(Said::short).collect()
    }
}

/// A response as one encoded message.
fn message(response: &Response) -> Vec<u8> {
    [&*response.head, &*response.blocks.pieces().concat()].concat()
}

fn milliseconds(resource: &pb::Resource) -> Option<(String, i64)> {
    let ttl = resource.ttl.as_ref()?;
    Some((
        resource.name.clone(),
        ttl.seconds * 1000 + i64::from(ttl.nanos) / 1_000_000,
    ))
}

fn delta_said(resource_type: ResourceType, decoded: pb::DeltaDiscoveryResponse) -> Said {
    let ttl = decoded.resources.iter().filter_map(milliseconds).collect();
    let (whole, bodiless): (Vec<_>, Vec<_>) = decoded.resources.into_iter().partition(|one| one.resource.is_some());
    Said {
        resource_type,
        resources: whole
            .into_iter()
            .map(|one| parse(&one.resource.unwrap().value))
            .collect(),
        bodiless: bodiless
            .into_iter()
            .map(|one| [&[one.name], &*one.aliases].concat().join("="))
            .collect(),
        removed: decoded.removed_resources,
        absent: decoded
            .resource_errors
            .into_iter()
            .map(|error| error.resource_name.unwrap().name)
            .collect(),
        ttl,
        nonce: decoded.nonce,
        version: decoded.system_version_info,
    }
}

fn sotw_said(resource_type: ResourceType, decoded: pb::DiscoveryResponse) -> Said {
    let (mut resources, mut ttl) = (Vec::new(), Vec::new());
    for any in decoded.resources {
        if any.type_url == resource_type.type_url() {
            resources.push(parse(&any.value));
            continue;
        }
        assert_eq!(any.type_url, "type.googleapis.com/envoy.service.discovery.v3.Resource");
        let wrapper = pb::Resource::decode(&*any.value).unwrap();
        ttl.extend(milliseconds(&wrapper));
        let inner = wrapper.resource.expect("a body");
        assert_eq!(inner.type_url, resource_type.type_url());
        resources.push(parse(&inner.value));
    }
    Said {
        resource_type,
        resources,
        bodiless: Vec::new(),
        removed: Vec::new(),
        absent: decoded
            .resource_errors
            .into_iter()
            .map(|error| error.resource_name.unwrap().name)
            .collect(),
        ttl,
        nonce: decoded.nonce,
        version: decoded.version_info,
    }
}

fn crate_node() -> Option<envoy_types::pb::envoy::config::core::v3::Node> {
    Some(envoy_types::pb::envoy::config::core::v3::Node {
        id: "n1".to_owned(),
        ..Default::default()
    })
}

fn client(variant: Variant) -> Client {
    Client::new(variant)
}

/// A client with subscriptions to clusters, endpoints, listeners and routes, each response ACKed.
fn up_to_date(variant: Variant) -> Client {
    let mut client = client(variant);
    for (of_type, names) in [
        (CLUSTER, &[] as &[&str]),
        (ENDPOINT, &["A", "B"]),
        (LISTENER, &[]),
        (ROUTE, &["r1"]),
    ] {
        match variant {
            Variant::Sotw => client.sotw(of_type, names),
            Variant::Delta => client.delta(of_type, names, &[]),
        };
        for said in client.all() {
            client.ack(&said, names);
        }
    }
    client
}

// SW-01, SW-02, SW-03, SW-04, SW-15
#[test]
fn sotw_first_requests() {
    assert_eq!(client(Variant::Sotw).sotw(CLUSTER, &[]).says(), ["CDS[A@1,B@1,S@1]"]);
    assert_eq!(client(Variant::Sotw).sotw(CLUSTER, &["*"]).says(), ["CDS[A@1,B@1,S@1]"]);
    assert_eq!(client(Variant::Sotw).sotw(ENDPOINT, &["A"]).says(), ["EDS[A@1]"]);
    assert_eq!(client(Variant::Sotw).sotw(ENDPOINT, &[]).says(), [""; 0]);
    assert_eq!(
        client(Variant::Sotw).sotw(ResourceType::ScopedRoute, &[]).says(),
        ["scoped_routes[]"]
    );
}

// SW-09, SW-10, SW-11, SW-12
#[test]
fn sotw_clusters_come_whole_and_endpoints_as_they_change() {
    let mut client = client(Variant::Sotw);
    client.sotw(CLUSTER, &["A", "B"]).all();
    client.commit(&[(CLUSTER, "B", Some(2))]);
    assert_eq!(client.says(), ["CDS[A@1,B@2]"]);
    client.sotw(ENDPOINT, &["A", "B"]).all();
    client.commit(&[(ENDPOINT, "B", Some(2))]);
    assert_eq!(client.says(), ["EDS[B@2]"]);
    client.commit(&[(ENDPOINT, "B", None)]);
    assert_eq!(client.says(), [""; 0]);
}

// SW-13, SW-14, SW-16
#[test]
fn sotw_missing_names_are_awaited() {
    let mut client = client(Variant::Sotw);
    let said = client.sotw(ROUTE, &["r1", "rX"]).all();
    assert_eq!(said[0].short(), "RDS[r1@1]");
    client.ack(&said[0], &["r1", "rX"]);
    assert_eq!(client.says(), [""; 0]);
    client.commit(&[(ROUTE, "rX", Some(9))]);
    assert_eq!(client.says(), ["RDS[rX@9]"]);
}

// SW-17, SW-18, SW-19, SW-33
#[test]
fn sotw_lists_that_grow_are_answered() {
    let mut client = client(Variant::Sotw);
    let said = client.sotw(ENDPOINT, &["A"]).all().remove(0);
    assert_eq!(client.ack(&said, &["A", "B"]).says(), ["EDS[B@1]"]);
    assert_eq!(client.ack(&said, &["B"]).says(), [""; 0]);
    assert_eq!(client.ack(&said, &[]).says(), [""; 0]);
    assert_eq!(client.ack(&said, &["B"]).says(), ["EDS[B@1]"]);
}

// SW-24
#[test]
fn sotw_reconnects_are_answered_unless_all_is_current() {
    let mut first = client(Variant::Sotw);
    let version = first.sotw(CLUSTER, &[]).all().remove(0).version;
    let endpoints = first.sotw(ENDPOINT, &["A"]).all().remove(0).version;
    let mut again = client(Variant::Sotw);
    again.sotw_with(CLUSTER, &[], &version, "");
    assert_eq!(again.says(), [""; 0]);
    let confirmed = again
        .session
        .confirmed()
        .map(|(of_type, version)| (of_type, version.to_string()));
    assert_eq!((confirmed, again.session.confirmed()), (Some((CLUSTER, version)), None));
    again.sotw_with(ENDPOINT, &["A"], &endpoints, "");
    assert_eq!(again.says(), ["EDS[A@1]"]);
    let mut older = client(Variant::Sotw);
    older.sotw_with(CLUSTER, &[], "anything", "");
    assert_eq!(older.says(), ["CDS[A@1,B@1,S@1]"]);
    again.commit(&[(CLUSTER, "A", Some(2))]);
    assert_eq!(again.says(), ["CDS[A@2,B@1,S@1]", "EDS[A@1]"]);
}

// AD-02: one NACK of two route configurations, one of which is then mended
#[test]
fn a_removal_waits_until_all_that_was_refused_is_mended() {
    let mut client = client(Variant::Delta);
    client.commit(&[(ROUTE, "r2", Some(1))]);
    client.delta(CLUSTER, &[], &[]).delta(ROUTE, &["r1", "r2"], &[]);
    for said in client.all() {
        client.ack(&said, &[]);
    }
    client.commit(&[(CLUSTER, "A", None), (ROUTE, "r1", Some(2)), (ROUTE, "r2", Some(2))]);
    let both = client.all().remove(0);
    assert_eq!(both.short(), "RDS[r1@2,r2@2]");
    let one = client
        .nack(&both, &[])
        .commit(&[(ROUTE, "r1", Some(3))])
        .all()
        .remove(0);
    assert_eq!(client.ack(&one, &[]).says(), [""; 0]);
    client.commit(&[(ROUTE, "r2", Some(3))]);
    let other = client.all().remove(0);
    assert_eq!(client.ack(&other, &[]).says(), ["CDS[-A]"]);
}

// SW-24, PX-02
#[test]
fn a_sotw_client_that_comes_back_for_what_is_gone_is_told() {
    let mut client = client(Variant::Sotw);
    client.sotw_with(CLUSTER, &["gone"], "anything", "");
    assert_eq!(client.says(), ["CDS[]"]);
}

// DX-18
#[test]
fn what_was_never_told_is_not_removed() {
    let mut client = client(Variant::Delta);
    client.delta(CLUSTER, &["A"], &[]).all();
    client.commit(&[(CLUSTER, "B", None)]);
    assert_eq!(client.delta(CLUSTER, &["*"], &[]).says(), ["CDS[A@1,S@1]"]);
}

// SW-15, decision 5
#[test]
fn an_ack_does_not_ask_for_what_was_refused() {
    let mut client = client(Variant::Sotw);
    client.sotw(CLUSTER, &[]).all();
    let refused = client.sotw(ENDPOINT, &["A"]).all().remove(0);
    client.nack(&refused, &["A"]).commit(&[(CLUSTER, "A", Some(2))]);
    assert_eq!(client.says(), ["CDS[A@2,B@1,S@1]"]);
    let grown = client.sotw(ENDPOINT, &["A", "B"]).all().remove(0);
    assert_eq!(grown.short(), "EDS[B@1]");
    assert_eq!(client.ack(&grown, &["A", "B"]).says(), [""; 0]);
    client.sotw(ENDPOINT, &["A", "B"]);
    assert_eq!(client.says(), ["EDS[A@1]"]);
}

// SW-26
#[test]
fn sotw_unknown_endpoints_are_empty_and_unknown_others_silent() {
    let mut client = client(Variant::Sotw);
    assert_eq!(client.sotw(ROUTE, &["gone"]).says(), [""; 0]);
    assert_eq!(client.sotw(ENDPOINT, &["gone"]).says(), ["EDS[gone@0]"]);
    client.commit(&[(ENDPOINT, "gone", Some(4))]);
    assert_eq!(client.says(), ["EDS[gone@4]"]);
}

// DX-01, DX-02, DX-03, DX-04, DX-05
#[test]
fn delta_first_requests() {
    let delta = |resource_type, subscribe: &[&str], unsubscribe: &[&str]| {
        client(Variant::Delta)
            .delta(resource_type, subscribe, unsubscribe)
            .says()
    };
    assert_eq!(delta(CLUSTER, &[], &[]), ["CDS[A@1,B@1,S@1]"]);
    assert_eq!(delta(CLUSTER, &[], &["q"]), [""; 0]);
    assert_eq!(delta(CLUSTER, &["*"], &["*"]), [""; 0]);
    assert_eq!(delta(ENDPOINT, &[], &[]), [""; 0]);
    assert_eq!(delta(ResourceType::ScopedRoute, &[], &[]), ["scoped_routes[]"]);
}

// DX-06, DX-07, DX-08, DX-09
#[test]
fn delta_every_subscribed_name_is_answered() {
    let mut client = client(Variant::Delta);
    assert_eq!(client.delta(ROUTE, &["r1"], &[]).says(), ["RDS[r1@1]"]);
    assert_eq!(client.delta(ROUTE, &["r1"], &[]).says(), ["RDS[r1@1]"]);
    assert_eq!(client.delta(ROUTE, &["X"], &[]).says(), ["RDS[-X]"]);
    client.commit(&[(ROUTE, "X", Some(3))]);
    assert_eq!(client.says(), ["RDS[X@3]"]);
    assert_eq!(client.delta(ROUTE, &[], &["X", "phantom"]).says(), [""; 0]);
    client.delta(CLUSTER, &[], &[]).all();
    assert_eq!(client.delta(CLUSTER, &["A", "X"], &[]).says(), ["CDS[A@1,-X]"]);
    assert_eq!(client.delta(CLUSTER, &[], &["A", "X"]).says(), ["CDS[A@1,-X]"]);
}

// DX-13, DX-14, DX-15, AD-08
#[test]
fn delta_reconnects_send_what_differs() {
    let mut client = client(Variant::Delta);
    client.delta_with(ENDPOINT, &["A"], &[], &[("A", 1)]);
    assert_eq!(client.says(), ["EDS[A@1]"]);
    client.delta_with(CLUSTER, &[], &[], &[("A", 9), ("B", 1), ("gone", 1)]);
    assert_eq!(client.says(), ["CDS[A@1,S@1,-gone]", "EDS[A@1]"]);
    client.delta_with(ROUTE, &["r1", "rX"], &[], &[("r1", 1), ("q", 1)]);
    assert_eq!(client.says(), ["RDS[-rX]"]);
}

// GEN-15, GEN-16, GEN-17, DX-21
#[test]
fn refused_content_is_not_sent_again_and_a_fix_is() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = client(variant);
        match variant {
            Variant::Sotw => client.sotw(ROUTE, &["r1"]),
            Variant::Delta => client.delta(ROUTE, &["r1"], &[]),
        };
        let good = client.all().remove(0);
        client.ack(&good, &["r1"]).commit(&[(ROUTE, "r1", Some(2))]);
        let bad = client.all().remove(0);
        let outcome = client.answer(
            &bad,
            &["r1"],
            Some(Status {
                code: 13,
                message: "no".to_owned(),
                details: vec![],
            }),
        );
        assert!(matches!(
            outcome.acked.map(|acked| acked.ack),
            Some(Ack::Nack { code: 13, .. })
        ));
        assert_eq!(client.says(), [""; 0]);
        client.commit(&[(ROUTE, "r1", Some(1))]);
        assert_eq!(
            client.all()[0].resources[0].1,
            1,
            "a fix is sent though its version was seen before"
        );
    }
}

// decision 5: NACKed endpoints do not follow their cluster, but are sent on request
#[test]
fn refused_endpoints_do_not_follow_their_cluster() {
    let mut client = client(Variant::Delta);
    client.delta(CLUSTER, &[], &[]).all();
    let said = client.delta(ENDPOINT, &["A"], &[]).all().remove(0);
    client.nack(&said, &[]).commit(&[(CLUSTER, "A", Some(2))]);
    assert_eq!(client.says(), ["CDS[A@2]"]);
    assert_eq!(client.delta(ENDPOINT, &["A"], &[]).says(), ["EDS[A@1]"]);
}

// AD-01, AD-02, AD-10
#[test]
fn a_change_is_one_flush_in_order_and_removals_come_after_the_ack() {
    let mut client = client(Variant::Delta);
    for (resource_type, names) in [
        (CLUSTER, &[] as &[&str]),
        (ENDPOINT, &["A", "B"]),
        (LISTENER, &[]),
        (ROUTE, &["r1"]),
    ] {
        for said in client.delta(resource_type, names, &[]).all() {
            client.ack(&said, &[]);
        }
    }
    client.commit(&[
        (CLUSTER, "N", Some(1)),
        (ENDPOINT, "N", Some(1)),
        (ROUTE, "r1", Some(2)),
        (CLUSTER, "A", None),
        (ENDPOINT, "A", None),
    ]);
    let said = client.all();
    let short: Vec<_> = said.iter().map(Said::short).collect();
    assert_eq!(short, ["CDS[N@1]", "EDS[N@1]", "RDS[r1@2]"]);
    client.ack(&said[0], &[]).ack(&said[1], &[]);
    assert_eq!(client.says(), [""; 0]);
    let gone = client.ack(&said[2], &[]).all();
    assert_eq!(gone.iter().map(Said::short).collect::<Vec<_>>(), ["CDS[-A]"]);
    assert_eq!(client.ack(&gone[0], &[]).says(), ["EDS[-A]"]);
}

// F-25, DX-18: Envoy unsubscribes from the endpoints before the ACK of the cluster's removal
#[test]
fn endpoints_of_a_removed_cluster_are_not_removed_when_they_are_asked_for_no_longer() {
    let mut client = client(Variant::Delta);
    for (resource_type, names) in [(CLUSTER, &[] as &[&str]), (ENDPOINT, &["A", "B"])] {
        for said in client.delta(resource_type, names, &[]).all() {
            client.ack(&said, &[]);
        }
    }
    client.commit(&[(CLUSTER, "A", None), (ENDPOINT, "A", None)]);
    let gone = client.all();
    assert_eq!(gone.iter().map(Said::short).collect::<Vec<_>>(), ["CDS[-A]"]);
    assert_eq!(client.delta(ENDPOINT, &[], &["A"]).says(), [""; 0]);
    assert_eq!(client.ack(&gone[0], &[]).says(), [""; 0]);
}

// AD-02, DX-06
#[test]
fn what_is_gone_and_held_is_there_for_who_asks() {
    let mut client = client(Variant::Delta);
    client.delta(CLUSTER, &[], &[]).delta(ROUTE, &["r1"], &[]).all();
    client.commit(&[(CLUSTER, "A", None)]);
    assert_eq!(client.says(), [""; 0]);
    assert_eq!(client.delta(CLUSTER, &["A"], &[]).says(), ["CDS[A@1]"]);
    client.commit(&[(CLUSTER, "A", Some(1))]);
    assert_eq!(client.says(), [""; 0]);
}

// AD-02: the bound on silence
#[test]
fn a_removal_waits_a_minute_for_a_client_that_answers_nothing() {
    let mut client = client(Variant::Delta);
    client.delta(CLUSTER, &[], &[]).delta(ROUTE, &["r1"], &[]).all();
    client.commit(&[(CLUSTER, "A", None)]);
    assert_eq!(client.says(), [""; 0]);
    client.now = client
        .session
        .deadline()
        .expect("a look at the clusters that have no answer");
    assert_eq!(client.says(), [""; 0]);
    let deadline = client.session.deadline().expect("a bound");
    client.now = deadline - Duration::from_millis(1);
    assert_eq!(client.says(), [""; 0]);
    client.now = deadline;
    assert_eq!(client.says(), ["CDS[-A]"]);
}

// GEN-05
#[test]
fn an_unserved_type_is_answered_in_delta() {
    let mut session = client(Variant::Delta);
    let request = pb::DeltaDiscoveryRequest {
        node: crate_node(),
        type_url: "type.googleapis.com/acme.Foo".to_owned(),
        resource_names_subscribe: vec!["q".to_owned()],
        ..pb::DeltaDiscoveryRequest::default()
    };
    session.request(request.encode_to_vec());
    let response = session
        .session
        .next_response(&session.snapshot, session.now)
        .expect("an answer");
    let decoded = pb::DeltaDiscoveryResponse::decode(&*response.head).unwrap();
    assert_eq!(
        (&*decoded.type_url, decoded.removed_resources),
        ("type.googleapis.com/acme.Foo", vec!["q".to_owned()])
    );
}

// docs/decisions/008
#[test]
fn a_stale_snapshot_moves_nobody_backwards() {
    let mut client = client(Variant::Delta);
    client.snapshot.stale = true;
    client.delta_with(CLUSTER, &[], &[], &[("A", 9), ("gone", 1)]);
    client.delta_with(ENDPOINT, &["A", "gone"], &[], &[("A", 9)]);
    assert_eq!(client.says(), ["EDS[A@1]"]);
    client.snapshot.stale = false;
    client.commit(&[]);
    assert_eq!(client.says(), ["CDS[A@1,B@1,S@1,-gone]", "EDS[A@1,B@1,-gone]"]);
}

#[test]
fn withheld_secrets_are_as_if_they_did_not_exist() {
    const SECRET: ResourceType = ResourceType::Secret;
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = client(variant);
        client.session.settings.secrets = false;
        client.commit(&[(SECRET, "s", Some(1))]);
        let expected: &[&str] = match variant {
            Variant::Sotw => &[],
            Variant::Delta => &["secrets[-s]"],
        };
        match variant {
            Variant::Sotw => client.sotw(SECRET, &["s"]),
            Variant::Delta => client.delta(SECRET, &["s"], &[]),
        };
        assert_eq!(client.says(), expected);
        client.commit(&[(SECRET, "s", Some(2))]).commit(&[(SECRET, "s", None)]);
        assert_eq!(client.says(), [""; 0]);
    }
}

#[test]
fn a_route_configuration_with_secrets_goes_out_without_where_secrets_are_withheld() {
    for variant in [Variant::Sotw, Variant::Delta] {
        for (secrets, expected) in [(true, ["RDS[r1@5]", "RDS[r1@6]"]), (false, ["RDS[r1@7]", ""])] {
            let mut client = client(variant);
            client.session.settings.secrets = secrets;
            let with = |given, withheld| Resource {
                withheld: Some(Arc::new(resource("r1", withheld))),
                ..resource("r1", given)
            };
            client.serve(ROUTE, with(5, 7));
            match variant {
                Variant::Sotw => client.sotw(ROUTE, &["r1"]),
                Variant::Delta => client.delta(ROUTE, &["r1"], &[]),
            };
            assert_eq!(client.says(), [expected[0]]);
            assert_eq!(client.session.withholds(ROUTE, &client.snapshot), !secrets);
            client.serve(ROUTE, with(6, 7));
            let said = client.says();
            assert_eq!(said.first().map_or("", |said| &**said), expected[1]);
        }
    }
}

// GEN-03
#[test]
fn the_same_node_with_other_metadata_gets_another_view() {
    use crate::document::group::{Group, NodeMatch};
    use envoy_types::pb::google::protobuf as well_known;

    let metadata = [("role".to_owned(), "edge".into())].into();
    let rule = NodeMatch {
        metadata,
        ..NodeMatch::default()
    };
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = client(variant);
        let group = Group {
            matches: vec![rule.clone()],
            priority: 0,
        };
        client.snapshot.group_rules = Arc::new([("edge".into(), Arc::new(group))]);
        let resources = [(ENDPOINT, "A"), (ENDPOINT, "E")].map(|(resource_type, name)| ResourceChange {
            group: "edge".into(),
            resource_type,
            name: name.into(),
            resource: Some(Arc::new(resource(name, 7))),
        });
        let groups_added = vec!["edge".into()];
        let difference = Difference {
            resources: resources.into(),
            groups_added,
            ..Difference::default()
        };
        let facts = Facts::after(&client.snapshot);
        client.snapshot = client.snapshot.next(&difference, facts);
        match variant {
            Variant::Sotw => client.sotw(ENDPOINT, &["A", "B"]),
            Variant::Delta => client.delta(ENDPOINT, &["A", "B"], &[]),
        };
        assert_eq!(client.says(), ["EDS[A@1,B@1]"]);
        let role = well_known::Value {
            kind: Some(well_known::value::Kind::StringValue("edge".to_owned())),
        };
        client.node.metadata = Some(well_known::Struct {
            fields: [("role".to_owned(), role)].into(),
        });
        match variant {
            Variant::Sotw => client.sotw(ENDPOINT, &["A", "B"]),
            Variant::Delta => client.delta(ENDPOINT, &[], &[]),
        };
        let expected = if variant == Variant::Sotw {
            "EDS[A@7]"
        } else {
            "EDS[A@7,-B]"
        };
        assert_eq!(client.says(), [expected]);
    }
}

// GEN-22
#[test]
fn resource_locators_are_names() {
    let locator = |name: &str| pb::ResourceLocator {
        name: name.to_owned(),
        ..pb::ResourceLocator::default()
    };
    let mut sotw = client(Variant::Sotw);
    let (node, type_url) = (crate_node(), ENDPOINT.type_url().to_owned());
    let request = pb::DiscoveryRequest {
        node: node.clone(),
        type_url: type_url.clone(),
        resource_names: vec!["B".to_owned()],
        resource_locators: vec![locator("A")],
        ..pb::DiscoveryRequest::default()
    };
    sotw.request(request.encode_to_vec());
    assert_eq!(sotw.says(), ["EDS[A@1,B@1]"]);
    let mut delta = client(Variant::Delta);
    let request = pb::DeltaDiscoveryRequest {
        node,
        type_url,
        resource_locators_subscribe: vec![locator("A"), locator("B")],
        resource_locators_unsubscribe: vec![locator("B")],
        ..pb::DeltaDiscoveryRequest::default()
    };
    delta.request(request.encode_to_vec());
    assert_eq!(delta.says(), ["EDS[A@1]"]);
}

// SW-10, SW-11
#[test]
fn sotw_scopes_come_whole_to_the_last() {
    let scope = ResourceType::ScopedRoute;
    let mut client = client(Variant::Sotw);
    client
        .commit(&[(scope, "a", Some(1)), (scope, "b", Some(1))])
        .sotw(scope, &[])
        .all();
    client.commit(&[(scope, "a", None)]);
    assert_eq!(client.says(), ["scoped_routes[b@1]"]);
    client.commit(&[(scope, "b", None)]);
    assert_eq!(client.says(), ["scoped_routes[]"]);
}

// AD-01
#[test]
fn extension_configs_and_secrets_go_before_what_needs_them() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = client(variant);
        let (mut commit, mut expected) = (Vec::new(), Vec::new());
        for of_type in ResourceType::ALL {
            match variant {
                Variant::Sotw if of_type == ResourceType::VirtualHost => continue,
                Variant::Sotw => client.sotw(of_type, &["N"]),
                Variant::Delta => client.delta(of_type, &["N"], &[]),
            };
            commit.push((of_type, "N", Some(1)));
            expected.push(of_type);
        }
        client.all();
        commit.reverse();
        client.commit(&commit);
        assert_eq!(
            client
                .all()
                .into_iter()
                .map(|said| said.resource_type)
                .collect::<Vec<_>>(),
            expected
        );
    }
}

// AD-11
#[test]
fn secrets_are_sent_where_they_were_asked_for_and_unknown_ones_as_their_variant_says() {
    let secret = ResourceType::Secret;
    let mut client = client(Variant::Delta);
    client.delta(CLUSTER, &[], &[]).all();
    client.commit(&[(secret, "s", Some(1))]);
    assert_eq!(client.says(), [""; 0]);
    assert_eq!(client.delta(secret, &["s", "x"], &[]).says(), ["secrets[s@1,-x]"]);
    assert_eq!(self::client(Variant::Sotw).sotw(secret, &["x"]).says(), [""; 0]);
}
