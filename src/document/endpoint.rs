//! Endpoints: those listed in a cluster, and those that instances register below the registry root.
//!
//! In: entries of a cluster's `endpoints`, or the value of a registry key, which is `host:port`, an object with
//! `address`, or etcd's own naming form (`Op`, `Addr`, `Metadata`). Out: [`Endpoint`]s. Listed ones are all IP literals
//! or all names, each address once; a registered one is an IP literal. The compiler joins two registrations of one
//! address. The values of other registries are read in `registry`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Rejection;
use super::decode::{Cursor, Field, Fields, Object, Shape};
use super::field::{AMOUNT, PORT, words};
use super::host::{Host, parse_address};

/// `endpoints` of a cluster, as a shape.
pub(super) const SHAPE: Shape = Shape::entries(&Shape::Object(&ENDPOINT_FIELDS), usize::MAX);
/// A registration, as a shape.
pub(super) const REGISTRATION: Shape = Shape::AnyOf(&[
    Shape::Object(&ENDPOINT_FIELDS),
    Shape::Object(&NAMING_FIELDS),
    Shape::Object(&DUBBO_FIELDS),
    Shape::Text("`IP:port`", Some(":[0-9]+$")),
]);
pub(super) const ENDPOINT_FIELDS: Fields = Fields::of(&[
    Field::new(
        "address",
        Shape::Text("`host:port`", Some(":[0-9]+$")),
        "IP address (IPv6 in brackets) or host name, of a registration an IP address; port 1 to 65535. Each address once",
    )
    .required(),
    Field::new("zone", Shape::Text("string, 256 bytes at most", None), "Zone of the locality; `\"\"`: none").or("none"),
    Field::new(
        "weight",
        AMOUNT,
        "Share. 0: the endpoint drains (health status DRAINING). All weights of a cluster sum to at most 4,294,967,295",
    )
    .or("`1`"),
    Field::new("priority", Shape::Whole(0, MAX_PRIORITY as i64), "0 is used first").or("`0`"),
    Field::new(
        "state",
        Shape::Words(&words(&STATES)),
        "`\"drain\"`: health status DRAINING, Envoy sends no new requests",
    )
    .or("`\"up\"`"),
    Field::new(
        "metadata",
        Shape::Free,
        "Metadata under the name `envoy.lb`, at most 24 levels deep, for `lb.subsets` and access logs",
    ),
]);
const NAMING_FIELDS: Fields = Fields::of(&[
    Field::new("Op", Shape::Numbers(&[0]), "An address that was added").or("`0`"),
    Field::new("Addr", Shape::Text("`IP:port`", Some(":[0-9]+$")), "As `address`").required(),
    Field::new(
        "Metadata",
        Shape::Any,
        "If an object, as `metadata`; any other value is the metadata `metadata`",
    ),
]);
/// The registration of a Dubbo application. Its keys collide with those of `/services/`.
const DUBBO_FIELDS: Fields = Fields::of(&[
    Field::new("Host", Shape::Text("IP address", None), "Of a Dubbo application").required(),
    Field::new("Port", PORT, "Of a Dubbo application").required(),
    Field::new("Weight", AMOUNT, "Share").or("`100`"),
    Field::new("Enable", Shape::Flag, "`false` drains").or("`true`"),
    Field::new("Healthy", Shape::Flag, "`false` drains").or("`true`"),
    Field::new("Metadata", Shape::Free, "As `metadata`"),
])
.open();
const STATES: [(&str, bool); 2] = [("up", false), ("drain", true)];
/// Largest priority: Envoy's.
pub(super) const MAX_PRIORITY: u32 = 128;
/// Longest zone, in bytes.
const MAX_ZONE: usize = 256;
/// The name for metadata of the naming form that is not an object.
const LONE_METADATA: &str = "metadata";
pub(super) const AN_ADDRESS: &str = "an address such as \"10.0.2.4:8080\"";

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// IP literal or name.
    pub host: Host,
    /// 1..=65535.
    pub port: u16,
    /// Locality zone.
    pub zone: Option<String>,
    /// At least 1; default 1.
    pub weight: u32,
    /// 0..=128; 0 first.
    pub priority: u32,
    /// Weight 0 or `"state": "drain"`: health status DRAINING.
    pub draining: bool,
    /// Metadata.
    pub metadata: BTreeMap<String, Value>,
}

impl Endpoint {
    /// An endpoint with an address and no other facts.
    pub(crate) fn at(host: Host, port: u16) -> Self {
        Self {
            host,
            port,
            zone: None,
            weight: 1,
            priority: 0,
            draining: false,
            metadata: BTreeMap::new(),
        }
    }
}

/// The registration of an instance; always of IP literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The first offer of the instance, which tells the instance from others.
    pub first: Offer,
    /// What it offers besides.
    pub others: Vec<Offer>,
}

/// An endpoint of an instance, and what it speaks there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The scheme that the instance gives, `grpc` for example; `None`: its registry has none.
    pub scheme: Option<String>,
    /// Whether TLS is spoken; `None`: its registry does not say.
    pub is_secure: Option<bool>,
    /// The endpoint.
    pub endpoint: Endpoint,
}

impl Offer {
    /// An endpoint of which its registry says no more.
    pub(super) fn plain(endpoint: Endpoint) -> Self {
        Self {
            scheme: None,
            is_secure: None,
            endpoint,
        }
    }
}

impl Registration {
    /// With one endpoint.
    pub(super) fn of(endpoint: Endpoint) -> Self {
        Self {
            first: Offer::plain(endpoint),
            others: Vec::new(),
        }
    }

    /// The endpoint by which the instance is told from others.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.first.endpoint
    }

    /// Every offer.
    pub fn offers(&self) -> impl Iterator<Item = &Offer> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// `endpoints` of a cluster.
pub(super) fn read_list(cursor: &Cursor<'_>) -> Result<Vec<Endpoint>, Rejection> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut weights = 0u64;
    for entry in cursor.entries()? {
        let object = entry.object(&ENDPOINT_FIELDS)?;
        let endpoint = read_common(&object)?;
        let field = object.require("address", AN_ADDRESS)?;
        if endpoints
            .iter()
            .any(|other| (&other.host, other.port) == (&endpoint.host, endpoint.port))
        {
            return Err(field.expected("each address once"));
        }
        let is_ip = |endpoint: &Endpoint| matches!(endpoint.host, Host::Ip(_));
        if endpoints.first().is_some_and(|first| is_ip(first) != is_ip(&endpoint)) {
            return Err(field.expected("only IP addresses or only names in one cluster"));
        }
        weights += u64::from(endpoint.weight);
        endpoints.push(endpoint);
    }

    // Envoy's limit for hash policies. The policy may come from the defaults, so the limit holds for all.
    if weights > u64::from(u32::MAX) {
        return Err(cursor.reject(format!(
            "found weights that sum to {weights}, expected at most {}",
            u32::MAX
        )));
    }

    Ok(endpoints)
}

/// The form that etcd's own naming package writes; its `Op` is always 0 in a stored value.
pub(super) fn read_naming(root: &Cursor<'_>) -> Result<Registration, Rejection> {
    let object = root.object(&NAMING_FIELDS)?;
    if let Some(field) = object.get("Op").filter(|field| field.value().as_u64() != Some(0)) {
        return Err(field.expected("0, the operation that adds an address"));
    }
    let field = object.require("Addr", AN_ADDRESS)?;
    let (host, port) = parse_address(field.string()?).map_err(|what| field.expected(what))?;
    let mut endpoint = Endpoint::at(host, port);
    // The naming form takes any JSON as metadata. Envoy looks for metadata under names, so a lone value gets one.
    if let Some(field) = object.get("Metadata") {
        endpoint.metadata = match field.value().is_object() {
            true => read_metadata(&field)?,
            false => BTreeMap::from([(LONE_METADATA.to_owned(), field.value().clone())]),
        };
    }
    only_ip(endpoint)
        .map(Registration::of)
        .map_err(|what| field.expected(what))
}

pub(super) fn read_common(object: &Object<'_>) -> Result<Endpoint, Rejection> {
    let field = object.require("address", AN_ADDRESS)?;
    let (host, port) = parse_address(field.string()?).map_err(|what| field.expected(what))?;
    let weight: u32 = object.read("weight", |field| field.integer(0..=u32::MAX))?.unwrap_or(1);
    let drains = object.read("state", |field| field.word(&STATES))?;
    Ok(Endpoint {
        zone: object.read("zone", |field| read_zone(&field))?.flatten(),
        weight: weight.max(1),
        draining: weight == 0 || drains.unwrap_or(false),
        priority: object
            .read("priority", |field| field.integer(0..=MAX_PRIORITY))?
            .unwrap_or(0),
        metadata: object
            .read("metadata", |field| read_metadata(&field))?
            .unwrap_or_default(),
        ..Endpoint::at(host, port)
    })
}

/// An address and no other facts, always an IP literal.
pub(super) fn at_ip(address: &str) -> Result<Endpoint, &'static str> {
    let (host, port) = parse_address(address)?;
    only_ip(Endpoint::at(host, port))
}

/// An empty zone is none: programs that register themselves write one.
fn read_zone(cursor: &Cursor<'_>) -> Result<Option<String>, Rejection> {
    let text = cursor.string()?;
    if text.len() > MAX_ZONE || text.contains(char::is_control) {
        return Err(cursor.expected("a zone of at most 256 bytes without control characters"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn read_metadata(cursor: &Cursor<'_>) -> Result<BTreeMap<String, Value>, Rejection> {
    Ok(cursor
        .map()?
        .into_iter()
        .map(|(name, field)| (name.to_owned(), field.value().clone()))
        .collect())
}

pub(super) fn only_ip(endpoint: Endpoint) -> Result<Endpoint, &'static str> {
    match &endpoint.host {
        Host::Ip(ip) if ip.is_unspecified() => Err("an address that a proxy can reach"),
        Host::Ip(_) => Ok(endpoint),
        Host::Name(_) => Err("an IP address: a registration cannot be a name"),
    }
}
