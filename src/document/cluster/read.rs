//! From the fields of a cluster document to a [`Cluster`].
//!
//! Contradictions between two fields of one document are refused here. The compiler checks a document against
//! `defaults.cluster`: a gRPC health check needs HTTP/2, and either may come from the other.

use std::sync::Arc;
use std::time::Duration;

use super::super::decode::{Cursor, Fields, Object};
use super::super::endpoint;
use super::super::host::{Host, parse_address};
use super::super::key::DocumentKey;
use super::super::route::header;
use super::super::{Rejection, groups, name};
use super::{
    Check, CircuitBreaker, Cluster, Credential, HealthCheck, OutlierDetection, Protocol, ProxyProtocol, Settings,
    Source, balance, keepalive, tls,
};

/// The names of the fields that `defaults.cluster` may give.
pub(crate) const SETTINGS: [&str; 9] = [
    "protocol",
    "connect_timeout",
    "lb",
    "health_check",
    "outlier_detection",
    "circuit_breaker",
    "keepalive",
    "buffer",
    "proxy_protocol",
];
/// The fields of a cluster that are not built yet.
pub(crate) const LATER: &[&str] = &["registry", "guard", "policies"];

const FIELDS: Fields = Fields {
    known: &[
        "name",
        "endpoints",
        "dns",
        "protocol",
        "connect_timeout",
        "lb",
        "health_check",
        "outlier_detection",
        "circuit_breaker",
        "keepalive",
        "buffer",
        "proxy_protocol",
        "tls",
        "credential",
        "failover",
        "on_demand",
        "groups",
    ],
    later: LATER,
};
/// Most clusters that take over.
const MAX_FAILOVER: usize = 16;
const CREDENTIAL_FIELDS: Fields = Fields::new(&["header", "prefix", "secret"]);
const HEALTH_FIELDS: Fields = Fields::new(&["http", "tcp", "grpc", "interval", "timeout", "healthy", "unhealthy"]);
const OUTLIER_FIELDS: Fields = Fields::new(&["consecutive_5xx", "eject_for", "max_eject_percent"]);
const BREAKER_FIELDS: Fields = Fields::new(&[
    "connections",
    "pending",
    "requests",
    "retry_budget_percent",
    "retries",
    "per_endpoint_connections",
]);
const PROTOCOLS: [(&str, Protocol); 5] = [
    ("http1", Protocol::Http1),
    ("http2", Protocol::Http2),
    ("grpc", Protocol::Http2),
    ("auto", Protocol::Auto),
    ("like_client", Protocol::LikeClient),
];

/// Reads a cluster document.
pub(crate) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Cluster, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    Ok(Cluster {
        source: read_source(&object)?,
        settings: read_settings(&object)?,
        tls: object.read("tls", |field| tls::read(&field))?,
        credential: object.read("credential", |field| read_credential(&field))?,
        failover: object
            .read("failover", |field| {
                if let Some(credential) = object.get("credential") {
                    let reason = "found beside \"failover\", whose clusters would get it too, expected one of the two";
                    return Err(credential.reject(reason));
                }
                read_failover(&field, key)
            })?
            .unwrap_or_default(),
        on_demand: object.read("on_demand", |field| field.bool())?.unwrap_or(false),
        groups: groups::read(&object)?,
    })
}

fn read_source(object: &Object<'_>) -> Result<Source, Rejection> {
    match (object.get("endpoints"), object.get("dns")) {
        (Some(_), Some(dns)) => Err(dns.reject("found beside \"endpoints\", expected one source of endpoints")),
        (Some(endpoints), None) => endpoint::read_list(&endpoints).map(Source::Listed),
        (None, Some(dns)) => read_dns(&dns),
        (None, None) => Ok(Source::Registered),
    }
}

fn read_credential(cursor: &Cursor<'_>) -> Result<Credential, Rejection> {
    let object = cursor.object(&CREDENTIAL_FIELDS)?;
    let secret = object.require("secret", "the name of a secret")?;
    Ok(Credential {
        header: object
            .read("header", |field| header::parse_edited_name(&field, field.string()?))?
            .map_or_else(|| "authorization".into(), Arc::from),
        prefix: object
            .read("prefix", |field| read_prefix(&field))?
            .unwrap_or_else(|| "Bearer ".to_owned()),
        // A secret that stands here by mistake is not quoted.
        secret: name::read(&secret).map_err(|_| secret.confidential(name::A_NAME))?,
    })
}

fn read_prefix(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if text.len() > 256 || !text.bytes().all(printable) || text.starts_with(' ') {
        return Err(cursor.expected("at most 256 characters of printable ASCII, no space at the beginning"));
    }
    Ok(text.to_owned())
}

fn read_failover(cursor: &Cursor<'_>, key: &DocumentKey) -> Result<Vec<Arc<str>>, Rejection> {
    let names = name::read_list(cursor.clone())?;
    if names.contains(&key.name) {
        return Err(cursor.expected("other clusters than this one"));
    }
    if names.len() > MAX_FAILOVER {
        return Err(cursor.reject(format!(
            "found {} clusters, expected at most {MAX_FAILOVER}",
            names.len()
        )));
    }
    Ok(names)
}

fn read_dns(cursor: &Cursor<'_>) -> Result<Source, Rejection> {
    match parse_address(cursor.string()?) {
        Ok((Host::Name(host), port)) => Ok(Source::Dns { host, port }),
        Ok((Host::Ip(_), _)) => Err(cursor.expected("a name and port (\"endpoints\" lists addresses)")),
        Err(what) => Err(cursor.expected(what)),
    }
}

/// Reads the fields that `defaults.cluster` may give too.
pub(crate) fn read_settings(object: &Object<'_>) -> Result<Settings, Rejection> {
    let protocol = object.read("protocol", |field| field.word(&PROTOCOLS))?;
    let health_check = object.read("health_check", |field| read_health_check(&field))?;
    if let (Some(Protocol::Http1), Some(Check::Grpc(_))) = (protocol, health_check.as_ref().map(|check| &check.check)) {
        let field = object.require("health_check", "a health check")?;
        return Err(field.reject("found a gRPC health check on an HTTP/1.1 cluster, expected \"protocol\": \"http2\""));
    }
    Ok(Settings {
        protocol,
        connect_timeout: object.read("connect_timeout", |field| field.duration())?,
        lb: object.read("lb", |field| balance::read(&field))?,
        health_check,
        outlier_detection: object.read("outlier_detection", |field| read_outlier_detection(&field))?,
        circuit_breaker: object.read("circuit_breaker", |field| read_circuit_breaker(&field))?,
        keepalive: object.read("keepalive", |field| keepalive::read(&field))?,
        buffer: object.read("buffer", |field| field.size(1..=u32::MAX))?,
        proxy_protocol: object.read("proxy_protocol", |field| read_proxy_protocol(&field))?,
    })
}

fn read_health_check(cursor: &Cursor<'_>) -> Result<HealthCheck, Rejection> {
    let object = cursor.object(&HEALTH_FIELDS)?;
    let kinds = object.present(&["http", "tcp", "grpc"]);
    let [kind] = kinds[..] else {
        let found = if kinds.is_empty() {
            "none".to_owned()
        } else {
            kinds.join(" and ")
        };
        return Err(cursor.reject(format!("found {found}, expected one of \"http\", \"tcp\" and \"grpc\"")));
    };

    let field = object.require(kind, "a health check")?;
    let check = match kind {
        "http" => Check::Http(read_health_path(&field)?),
        "tcp" if field.bool()? => Check::Tcp,
        "tcp" => return Err(field.expected("true")),
        _ => Check::Grpc(read_health_service(&field)?),
    };

    let duration = |name, default| Ok(object.read(name, |field| field.duration())?.unwrap_or(default));
    let count = |name, default| {
        Ok(object
            .read(name, |field| field.integer(1..=u32::MAX))?
            .unwrap_or(default))
    };

    Ok(HealthCheck {
        check,
        interval: duration("interval", Duration::from_secs(5))?,
        timeout: duration("timeout", Duration::from_secs(1))?,
        healthy: count("healthy", 2)?,
        unhealthy: count("unhealthy", 3)?,
    })
}

fn read_health_path(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.len() > 1024 {
        return Err(cursor.expected("a path such as \"/healthz\", printable ASCII without spaces"));
    }
    Ok(text.to_owned())
}

fn read_health_service(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.len() > 1024 {
        return Err(cursor.expected("a service's name or \"\" for the server"));
    }
    Ok(text.to_owned())
}

fn read_outlier_detection(cursor: &Cursor<'_>) -> Result<OutlierDetection, Rejection> {
    let object = cursor.object(&OUTLIER_FIELDS)?;
    Ok(OutlierDetection {
        consecutive_5xx: object
            .read("consecutive_5xx", |field| field.integer(1..=u32::MAX))?
            .unwrap_or(5),
        eject_for: object
            .read("eject_for", |field| field.duration())?
            .unwrap_or(Duration::from_secs(30)),
        max_eject_percent: object
            .read("max_eject_percent", |field| field.integer(0..=100))?
            .unwrap_or(10),
    })
}

fn read_circuit_breaker(cursor: &Cursor<'_>) -> Result<CircuitBreaker, Rejection> {
    let object = cursor.object(&BREAKER_FIELDS)?;
    let count = |name| object.read(name, |field| field.integer(1..=u32::MAX));
    Ok(CircuitBreaker {
        connections: count("connections")?,
        pending: count("pending")?,
        requests: count("requests")?,
        retry_budget_percent: object.read("retry_budget_percent", |field| field.percent())?,
        retries: object.read("retries", |field| field.integer(0..=u32::MAX))?,
        per_endpoint_connections: count("per_endpoint_connections")?,
    })
}

fn read_proxy_protocol(cursor: &Cursor<'_>) -> Result<ProxyProtocol, Rejection> {
    match cursor.value().as_u64() {
        Some(1) => Ok(ProxyProtocol::V1),
        Some(2) => Ok(ProxyProtocol::V2),
        _ => Err(cursor.expected("1 or 2")),
    }
}
