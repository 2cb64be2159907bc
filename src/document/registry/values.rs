//! How registries write an instance: from a key and its value to [`Offer`]s.
//!
//! Fields that the server does not use are left aside: each program writes more than an endpoint.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::form_urlencoded;

use super::super::decode::Cursor;
use super::super::endpoint::{self, Endpoint, Offer};
use super::super::sentence::quote;
use super::super::{Limits, Rejection, text};

/// No value of a registry has a regex.
pub(super) const LIMITS: Limits = Limits {
    re2_max_program_size: 0,
};
/// The weight of a Dubbo provider that gives none.
const DUBBO_WEIGHT: u32 = 100;
/// The weight of a Kitex instance that gives none.
const KITEX_WEIGHT: u32 = 10;
/// The weight of a `SkyDNS` record that gives none.
const SKYDNS_WEIGHT: u32 = 100;

/// The value of a key below `/services/`.
pub(in crate::document) fn read_registration(
    bytes: &[u8],
    limits: &Limits,
) -> Result<endpoint::Registration, Rejection> {
    let plain = text::utf8(bytes)?.trim();
    if !plain.is_empty()
        && plain.len() <= 300
        && !plain.contains(|letter: char| letter.is_whitespace() || letter == '{')
    {
        return match endpoint::at_ip(plain) {
            Ok(at) => Ok(endpoint::Registration::of(at)),
            Err(what) => Err(Rejection::new("", format!("found {}, expected {what}", quote(plain)))),
        };
    }

    let mut value = text::value(bytes)?;
    text::take_off_schema(&mut value)?;
    let root = Cursor::root(&value, limits);
    if root.get("Addr").is_some() {
        return endpoint::read_naming(&root);
    }
    if !value.is_object() {
        return Err(root.expected("host:port or an object with \"address\""));
    }
    let has = |names: [&str; 2]| names.into_iter().any(|name| root.get(name).is_some());
    if has(["Host", "host"]) && has(["Port", "port"]) && root.get("address").is_none() {
        return dubbo_application(&root).map(endpoint::Registration::of);
    }
    let object = root.object(&endpoint::ENDPOINT_FIELDS)?;
    let read = endpoint::read_common(&object)?;
    let field = object.require("address", endpoint::AN_ADDRESS)?;
    endpoint::only_ip(read)
        .map(endpoint::Registration::of)
        .map_err(|what| field.expected(what))
}

/// `host:port` or an object, as below `/services/`.
pub(super) fn native(value: &[u8]) -> Result<Vec<Offer>, Rejection> {
    let registration = read_registration(value, &LIMITS)?;
    Ok(vec![registration.first])
}

/// `{"id", "name", "version", "metadata": {}, "endpoints": ["http://h:p?isSecure=false", "grpc://h:p"]}`
pub(super) fn kratos(service: &str, value: &[u8]) -> Result<Vec<Offer>, Rejection> {
    let value = text::value(value)?;
    let root = Cursor::root(&value, &LIMITS);
    root.map()?;
    if let Some(name) = root.get("name").filter(|name| name.value().as_str() != Some(service)) {
        return Err(name.expected(&format!("{}, the name in its key", quote(service))));
    }

    let mut metadata = strings(root.get("metadata"))?;
    if let Some(version) = root.get("version").and_then(|version| version.value().as_str())
        && !version.is_empty()
    {
        metadata.entry("version".to_owned()).or_insert_with(|| version.into());
    }
    let weight = metadata
        .get("weight")
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok());

    let Some(endpoints) = root.get("endpoints") else {
        return Err(Rejection::new("endpoints", "missing, expected a list of URLs"));
    };
    let offer = |entry: Cursor<'_>| {
        let url = Url::read(entry.string()?).map_err(|what| entry.expected(what))?;
        let is_secure = url.parameter("isSecure").is_some_and(|value| value == "true");
        let endpoint = Endpoint {
            metadata: metadata.clone(),
            ..url.endpoint
        };
        Ok(Offer {
            scheme: Some(url.scheme.to_owned()),
            is_secure: Some(is_secure),
            endpoint: weighted(endpoint, weight.unwrap_or(1)),
        })
    };
    endpoints.entries()?.into_iter().map(offer).collect()
}

/// The key itself: `dubbo://h:p/interface?weight=&enabled=&application=&version=&group=`, percent-encoded.
pub(super) fn dubbo_interface(instance: &str) -> Result<Vec<Offer>, Rejection> {
    let rejected = |what: &str| Rejection::new("", format!("found {} in the key, expected {what}", quote(instance)));
    let decoded = percent_decode_str(instance).decode_utf8();
    let decoded = decoded.map_err(|_| rejected("a URL in UTF-8"))?;
    let url = Url::read(&decoded).map_err(rejected)?;

    let names = ["application", "version", "group"];
    let metadata = names.into_iter().filter_map(|name| {
        let value = url.parameter(name).filter(|value| !value.is_empty())?;
        Some((name.to_owned(), value.into()))
    });
    let metadata = metadata.collect();
    let weight = match url.parameter("weight") {
        Some(weight) => weight
            .parse()
            .map_err(|_| rejected("a weight that is a whole number"))?,
        None => DUBBO_WEIGHT,
    };
    let is_off = |name, value| url.parameter(name).is_some_and(|found| found == value);
    let is_disabled = is_off("enabled", "false") || is_off("disabled", "true");
    let endpoint = weighted(
        Endpoint {
            metadata,
            ..url.endpoint.clone()
        },
        weight,
    );
    Ok(vec![Offer {
        scheme: Some(url.scheme.to_owned()),
        is_secure: url.parameter("ssl-enabled").map(|value| value == "true"),
        endpoint: Endpoint {
            draining: endpoint.draining || is_disabled,
            ..endpoint
        },
    }])
}

/// The fields of Dubbo's Go structure, `{"ServiceName", "Host", "Port", "Weight", "Enable", "Healthy", "Metadata"}`; the
/// names may begin in lower case. An instance that is not enabled or not healthy drains.
pub(in crate::document) fn dubbo_application(root: &Cursor<'_>) -> Result<Endpoint, Rejection> {
    root.map()?;
    let field = |names: [&str; 2]| names.into_iter().find_map(|name| root.get(name));
    let endpoint = host_and_port(field(["Host", "host"]), field(["Port", "port"]))?;
    let is_on = |names| field(names).map_or(Ok(true), |field| field.bool());
    let weight = weight_of(field(["Weight", "weight"]), DUBBO_WEIGHT)?;
    Ok(Endpoint {
        weight,
        draining: !(is_on(["Enable", "enable"])? && is_on(["Healthy", "healthy"])?),
        metadata: strings(field(["Metadata", "metadata"]))?,
        ..endpoint
    })
}

/// `{"network", "address", "weight", "tags"}`
pub(super) fn kitex(value: &[u8]) -> Result<Vec<Offer>, Rejection> {
    let value = text::value(value)?;
    let root = Cursor::root(&value, &LIMITS);
    root.map()?;
    if let Some(network) = root.get("network").filter(|network| network.value() != "tcp") {
        return Err(network.expected("\"tcp\""));
    }
    let endpoint = address(root.get("address"), "address")?;
    Ok(vec![Offer::plain(Endpoint {
        weight: weight_of(root.get("weight"), KITEX_WEIGHT)?,
        metadata: strings(root.get("tags"))?,
        ..endpoint
    })])
}

/// `{"name", "version", "metadata", "nodes": [{"id", "address", "metadata"}]}`; each key has one node.
pub(super) fn go_micro(value: &[u8]) -> Result<Vec<Offer>, Rejection> {
    let value = text::value(value)?;
    let root = Cursor::root(&value, &LIMITS);
    root.map()?;
    let Some(nodes) = root.get("nodes") else {
        return Err(Rejection::new("nodes", "missing, expected a list of one node"));
    };
    let entries = nodes.entries()?;
    let [node] = &entries[..] else {
        return Err(nodes.expected("one node: each has a key of its own"));
    };
    let mut metadata = strings(root.get("metadata"))?;
    metadata.extend(strings(node.get("metadata"))?);
    if let Some(version) = root.get("version").and_then(|version| version.value().as_str())
        && !version.is_empty()
    {
        metadata.entry("version".to_owned()).or_insert_with(|| version.into());
    }
    let endpoint = address(node.get("address"), "nodes[0].address")?;
    Ok(vec![Offer::plain(Endpoint { metadata, ..endpoint })])
}

/// `{"host", "port", "priority", "weight", "ttl", "group"}`
pub(super) fn skydns(value: &[u8]) -> Result<Vec<Offer>, Rejection> {
    let value = text::value(value)?;
    let root = Cursor::root(&value, &LIMITS);
    root.map()?;
    let endpoint = host_and_port(root.get("host"), root.get("port"))?;
    let group = root.get("group").and_then(|group| group.value().as_str());
    let group = group.filter(|group| !group.is_empty());
    Ok(vec![Offer::plain(Endpoint {
        weight: weight_of(root.get("weight"), SKYDNS_WEIGHT)?,
        priority: root
            .get("priority")
            .map_or(Ok(0), |field| field.integer(0..=endpoint::MAX_PRIORITY))?,
        metadata: group
            .map(|group| ("group".to_owned(), group.into()))
            .into_iter()
            .collect(),
        ..endpoint
    })])
}

/// An address in a field of this path.
fn address(field: Option<Cursor<'_>>, path: &str) -> Result<Endpoint, Rejection> {
    let Some(field) = field else {
        return Err(Rejection::new(
            path,
            format!("missing, expected {}", endpoint::AN_ADDRESS),
        ));
    };
    endpoint::at_ip(field.string()?).map_err(|what| field.expected(what))
}

/// A host and a port in fields of their own; an IPv6 address without brackets.
fn host_and_port(host: Option<Cursor<'_>>, port: Option<Cursor<'_>>) -> Result<Endpoint, Rejection> {
    let missing = |path: &str, what: &str| Rejection::new(path, format!("missing, expected {what}"));
    let host = host.ok_or_else(|| missing("host", "an IP address"))?;
    let port = port.ok_or_else(|| missing("port", "a port"))?;
    let number: u16 = port.integer(1..=u16::MAX)?;
    let text = host.string()?;
    let bracketed = match text.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{text}]:{number}"),
        Err(_) => format!("{text}:{number}"),
    };
    endpoint::at_ip(&bracketed).map_err(|what| host.expected(what))
}

/// The weight of an instance. In these registries 0 is the same as none.
fn weight_of(field: Option<Cursor<'_>>, default: u32) -> Result<u32, Rejection> {
    let weight = field.map(|field| field.integer(0..=u32::MAX)).transpose()?;
    Ok(weight.filter(|weight| *weight > 0).unwrap_or(default))
}

/// Weight 0 drains.
fn weighted(endpoint: Endpoint, weight: u32) -> Endpoint {
    Endpoint {
        weight: weight.max(1),
        draining: weight == 0,
        ..endpoint
    }
}

/// An object of strings, as metadata.
fn strings(field: Option<Cursor<'_>>) -> Result<BTreeMap<String, Value>, Rejection> {
    let Some(field) = field else {
        return Ok(BTreeMap::new());
    };
    let entries = field.map()?.into_iter();
    Ok(entries
        .map(|(name, entry)| (name.to_owned(), entry.value().clone()))
        .collect())
}

/// `scheme://host:port/path?parameters`
struct Url<'t> {
    scheme: &'t str,
    endpoint: Endpoint,
    query: &'t str,
}

impl<'t> Url<'t> {
    fn read(text: &'t str) -> Result<Self, &'static str> {
        const A_URL: &str = "a URL such as \"grpc://10.0.2.4:9000\"";
        let (scheme, rest) = text.split_once("://").ok_or(A_URL)?;
        let is_of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if scheme.is_empty() || !scheme.bytes().all(is_of_scheme) {
            return Err(A_URL);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = place.split('/').next().unwrap_or_default();
        Ok(Self {
            scheme,
            endpoint: endpoint::at_ip(authority)?,
            query,
        })
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        let (_, value) = pairs.find(|(found, _)| found == name)?;
        Some(value.into_owned())
    }
}
