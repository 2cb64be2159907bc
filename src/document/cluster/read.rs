//! From the fields of a cluster document to a [`Cluster`].
//!
//! Contradictions between two fields of one document are refused here. The compiler checks a document against
//! `defaults.cluster`: a gRPC health check needs HTTP/2, and either may come from the other.

use std::sync::Arc;
use std::time::Duration;

use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::endpoint;
use super::super::field::{AMOUNT, COUNT, HEADER, NOT_EMPTY, words};
use super::super::host::{Host, parse_address};
use super::super::key::DocumentKey;
use super::super::policy;
use super::super::route::header;
use super::super::{Rejection, groups, name};
use super::{
    Check, CircuitBreaker, Cluster, Credential, Guard, HealthCheck, OutlierDetection, Protocol, ProxyProtocol,
    Settings, Source, balance, keepalive, tls,
};

/// The fields of a cluster.
pub(crate) const FIELDS: Fields = Fields::joined(&[&[name::FIELD], SOURCE, SETTINGS, UPSTREAM, &[groups::FIELD]]);

const SOURCE: &[Field] = &[
    Field::new(
        "endpoints",
        endpoint::SHAPE,
        "The endpoints. Without `endpoints`, `dns` and `registry`: the instances that [register themselves](registrations.md)",
    ),
    Field::new(
        "dns",
        Shape::Text("`name:port`", Some(":[0-9]+$")),
        "A host name, no IP address",
    ),
    Field::new(
        "registry",
        Shape::Object(&REGISTRY_FIELDS),
        "The instances that a service has in a [registry](registries.md)",
    ),
];
/// The fields that `defaults.cluster` may give.
pub(crate) const SETTINGS: &[Field] = &[
    Field::new(
        "protocol",
        Shape::Words(&words(&PROTOCOLS)),
        "Protocol to the upstream; `\"grpc\"` is `\"http2\"`; `\"auto\"` is HTTP/2 or HTTP/1.1, as the upstream chooses by \
         ALPN, and needs `tls`; `\"like_client\"` is the protocol of the client's request, HTTP/1.1 or HTTP/2",
    )
    .or("`defaults`, else `\"http1\"`"),
    Field::new("connect_timeout", Shape::Duration, "Limit of connecting").or("`defaults`, else `2s`"),
    Field::new("lb", Shape::Object(&balance::FIELDS), "Choice of the endpoint").or("`defaults`, else round robin"),
    Field::new("health_check", Shape::Object(&HEALTH_FIELDS), "Health checks").or("`defaults`, else none"),
    Field::new("outlier_detection", Shape::Object(&OUTLIER_FIELDS), "Ejection of endpoints that answer with errors")
        .or("`defaults`, else none"),
    Field::new("circuit_breaker", Shape::Object(&BREAKER_FIELDS), "Limits").or("`defaults`, else Envoy's limits"),
    Field::new("keepalive", Shape::Object(&keepalive::FIELDS), "Life of connections").or("`defaults`, else Envoy's"),
    Field::new(
        "buffer",
        Shape::Size(1, u32::MAX),
        "Soft limit of the buffers of a connection, in each direction",
    )
    .or("`defaults`, else Envoy's 1 MiB"),
    Field::new(
        "proxy_protocol",
        Shape::Numbers(&[1, 2]),
        "Envoy sends a PROXY protocol header with the client's address, of this version, at the beginning of each \
         connection",
    )
    .or("`defaults`, else none"),
];
const UPSTREAM: &[Field] = &[
    Field::new("tls", Shape::Object(&tls::FIELDS), "TLS to the upstream").or("none: plain text"),
    Field::new(
        "credential",
        Shape::Object(&CREDENTIAL_FIELDS),
        "A header with a secret on each request to the cluster",
    ),
    Field::new(
        "failover",
        Shape::List {
            of: &name::NAME,
            least: 1,
            most: MAX_FAILOVER,
            once: true,
        },
        "Clusters that take over. See [Failover](clusters.md#failover)",
    ),
    Field::new(
        "guard",
        Shape::Object(&GUARD_FIELDS),
        "Losses of registered instances that are held back. See [Guard](clusters.md#guard)",
    ),
    Field::new(
        "on_demand",
        Shape::Flag,
        "`true`: the cluster is sent to clients that subscribe to it by name, and is no part of the wildcard",
    )
    .or("`false`"),
    Field::new(
        "policies",
        policy::LIST,
        "For routes to the cluster. See [policies.md](policies.md)",
    )
    .or("those of the listener and the defaults"),
];
/// Most clusters that take over.
const MAX_FAILOVER: usize = 16;
const GUARD_FIELDS: Fields = Fields::of(&[
    Field::new(
        "min_endpoints",
        AMOUNT,
        "A loss that leaves fewer instances is held back",
    )
    .or("`0`"),
    Field::new(
        "max_loss_percent",
        Shape::Whole(0, 100),
        "A loss of more than this share of the instances within 10 s is held back",
    )
    .or("`100`"),
    Field::new("hold", Shape::Duration, "How long the lost instances are kept").or("`\"30s\"`"),
]);
const REGISTRY_FIELDS: Fields = Fields::of(&[
    Field::new(
        "source",
        name::NAME,
        "Place where the instances register: a [registry](registries.md)",
    )
    .required(),
    Field::new(
        "service",
        Shape::Text("text, 512 bytes at most", NOT_EMPTY),
        "Name of the service there",
    )
    .required(),
    Field::new(
        "scheme",
        Shape::Text("text, 512 bytes at most", NOT_EMPTY),
        "Of the endpoints of an instance, those with this scheme count. See \
         [Which endpoint](registries.md#which-endpoint)",
    )
    .or("the one that fits"),
]);
/// Longest name of a service in a registry, in bytes.
const MAX_SERVICE: usize = 512;
const CREDENTIAL_FIELDS: Fields = Fields::of(&[
    Field::new("header", HEADER, "The header; one that the client sends is replaced").or("`\"authorization\"`"),
    Field::new(
        "prefix",
        Shape::Text("text, 256 characters at most", Some("^([!-~][ -~]{0,255})?$")),
        "Stands before the value",
    )
    .or("`\"Bearer \"`"),
    Field::new(
        "secret",
        name::NAME,
        "The value: a [secret](secrets.md) of the shape `generic`",
    )
    .required(),
]);
const HEALTH_FIELDS: Fields = Fields::of(&[
    Field::new(
        "http",
        Shape::Text("path, 1,024 bytes at most", Some("^/[!-~]{0,1023}$")),
        "GET of the path must answer 200",
    ),
    Field::new("tcp", Shape::On, "A connection must succeed"),
    Field::new(
        "grpc",
        Shape::Text("string, 1,024 bytes at most", Some("^[!-~]{0,1024}$")),
        "The gRPC health service must report SERVING for this service; `\"\"`: the server. Needs `\"protocol\": \"http2\"`",
    ),
    Field::new(
        "interval",
        Shape::Duration,
        "Between two checks, with and without traffic",
    )
    .or("`\"5s\"`"),
    Field::new("timeout", Shape::Duration, "Limit of one check").or("`\"1s\"`"),
    Field::new("healthy", COUNT, "Successes until healthy").or("`2`"),
    Field::new("unhealthy", COUNT, "Failures until unhealthy").or("`3`"),
])
.filled();
const OUTLIER_FIELDS: Fields = Fields::of(&[
    Field::new(
        "consecutive_5xx",
        COUNT,
        "Answers of 500 and above in a row that eject an endpoint",
    )
    .or("`5`"),
    Field::new("eject_for", Shape::Duration, "First ejection").or("`\"30s\"`"),
    Field::new(
        "max_eject_percent",
        Shape::Whole(0, 100),
        "Largest share of ejected endpoints",
    )
    .or("`10`"),
]);
const BREAKER_FIELDS: Fields = Fields::of(&[
    Field::new("connections", COUNT, "Connections").or("1024"),
    Field::new("pending", COUNT, "Requests that wait for a connection").or("1024"),
    Field::new("requests", COUNT, "Requests in flight").or("1024"),
    Field::new(
        "retry_budget_percent",
        Shape::Percent,
        "Retries in flight as a share of the requests",
    )
    .or("no budget: 3 retries"),
    Field::new(
        "retries",
        AMOUNT,
        "Retries in flight; without effect beside `retry_budget_percent`, which gets a warning",
    )
    .or("3"),
    Field::new("per_endpoint_connections", COUNT, "Connections to one endpoint").or("no limit"),
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
        guard: object.read("guard", |field| read_guard(&object, &field))?,
        on_demand: object.read("on_demand", |field| field.bool())?.unwrap_or(false),
        policies: object
            .read("policies", |field| policy::read_list(&field))?
            .unwrap_or_default(),
        groups: groups::read(&object)?,
    })
}

fn read_source(object: &Object<'_>) -> Result<Source, Rejection> {
    let sources = ["endpoints", "dns", "registry"].map(|name| object.get(name).map(|field| (name, field)));
    let mut sources = sources.into_iter().flatten();
    let Some((name, field)) = sources.next() else {
        return Ok(Source::Registered);
    };
    if let Some((_, other)) = sources.next() {
        return Err(other.reject(format!("found beside {name:?}, expected one source of endpoints")));
    }
    match name {
        "endpoints" => endpoint::read_list(&field).map(Source::Listed),
        "dns" => read_dns(&field),
        _ => read_registry(&field),
    }
}

fn read_registry(cursor: &Cursor<'_>) -> Result<Source, Rejection> {
    let object = cursor.object(&REGISTRY_FIELDS)?;
    let text = |field: Cursor<'_>| {
        let text = field.text()?;
        match text.len() <= MAX_SERVICE && !text.contains(char::is_control) {
            true => Ok(text.to_owned()),
            false => Err(field.expected("at most 512 bytes without control characters")),
        }
    };
    Ok(Source::Registry {
        registry: name::read(&object.require("source", "the name of a registries document")?)?,
        service: text(object.require("service", "the name of a service in the registry")?)?,
        scheme: object.read("scheme", text)?,
    })
}

fn read_guard(cluster: &Object<'_>, cursor: &Cursor<'_>) -> Result<Guard, Rejection> {
    if let Some(source) = ["endpoints", "dns"]
        .into_iter()
        .find(|name| cluster.get(name).is_some())
    {
        let reason = format!("found beside {source:?}, expected a cluster whose instances register themselves");
        return Err(cursor.reject(reason));
    }
    let object = cursor.object(&GUARD_FIELDS)?;
    let min_endpoints = object.read("min_endpoints", |field| field.integer(0..=u32::MAX))?;
    let max_loss_percent = object.read("max_loss_percent", |field| field.integer(0..=100))?;
    if min_endpoints.is_none() && max_loss_percent.is_none() {
        return Err(cursor.expected("\"min_endpoints\", \"max_loss_percent\" or both"));
    }
    Ok(Guard {
        min_endpoints: min_endpoints.unwrap_or(0),
        max_loss_percent: max_loss_percent.unwrap_or(100),
        hold: object
            .read("hold", |field| field.duration())?
            .unwrap_or(Duration::from_secs(30)),
    })
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
