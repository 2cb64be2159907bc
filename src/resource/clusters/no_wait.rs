//! The form of a Cluster for which Envoy does not wait.
//!
//! A new or changed Cluster warms before Envoy uses it: names are resolved, hosts are checked for the first time. A
//! name server or a host that is silent keeps the Cluster warming for minutes, and with it every ACK of clusters, and
//! the start of a new Envoy (docs/xds-rules.md F-02, F-04). The no-wait form is initialised at once:
//! `wait_for_warm_on_init` is false where names are resolved, and without health checks where hosts are checked. Pure.

use bytes::Buf;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::super::Resource;
use crate::proto::message::append;

/// `Cluster.type`.
const TYPE: u32 = 2;
/// `Cluster.health_checks`.
const HEALTH_CHECKS: u32 = 8;
/// `Cluster.cluster_type`.
const CLUSTER_TYPE: u32 = 38;
/// `Cluster.wait_for_warm_on_init`.
const WAIT_FOR_WARM_ON_INIT: u32 = 54;
/// Encoded `BoolValue`s; false is explicit, so that it overrides an earlier value.
const FALSE: [u8; 2] = [0x08, 0];
const TRUE: [u8; 2] = [0x08, 1];
/// `DiscoveryType`: `STRICT_DNS`, `LOGICAL_DNS`.
const DNS: [u64; 2] = [1, 2];

/// The events that a Cluster waits for when it warms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The first answer of a name server.
    Names,
    /// The first health check of each host.
    Checks,
}

/// The wait of an encoded Cluster; if it waits for DNS and for health checks: DNS, because no host is checked before.
#[must_use]
pub fn wait_of(cluster: &[u8]) -> Option<Wait> {
    let fields = Fields::of(cluster).ok()?;
    if fields.resolves {
        Some(Wait::Names).filter(|_| fields.waits)
    } else {
        Some(Wait::Checks).filter(|_| fields.checked)
    }
}

/// The no-wait form of a Cluster; `None`: the Cluster waits for nothing that may never come.
///
/// The version stays that of the Cluster: a client that has one of the two forms need not be sent the other.
#[must_use]
pub fn no_wait(cluster: &Resource) -> Option<Resource> {
    let body = cluster.body.to_bytes();
    let bytes = match cluster.waits? {
        Wait::Names => {
            let mut bytes = body.to_vec();
            append(&mut bytes, WAIT_FOR_WARM_ON_INIT, &FALSE);
            bytes
        }
        Wait::Checks => Fields::of(&body).ok()?.unchecked,
    };
    Some(Resource {
        body: bytes.into(),
        waits: None,
        ..cluster.clone()
    })
}

/// The fields of an encoded Cluster that decide about its waits.
#[derive(Debug)]
struct Fields {
    /// Names are resolved, perhaps.
    resolves: bool,
    /// Envoy waits until they are.
    waits: bool,
    /// There are health checks.
    checked: bool,
    /// The Cluster without its health checks.
    unchecked: Vec<u8>,
}

impl Fields {
    fn of(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Self {
            resolves: false,
            waits: true,
            checked: false,
            unchecked: Vec::with_capacity(body.len()),
        };

        let mut rest = body;
        while rest.has_remaining() {
            let start = rest;
            let (tag, wire_type) = decode_key(&mut rest)?;
            match (tag, wire_type) {
                (TYPE, WireType::Varint) => fields.resolves |= DNS.contains(&decode_varint(&mut rest)?),
                _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())?,
            }
            let field = &start[..start.len() - rest.len()];
            fields.resolves |= tag == CLUSTER_TYPE;
            if tag == WAIT_FOR_WARM_ON_INIT {
                fields.waits = field.ends_with(&TRUE);
            }
            if tag == HEALTH_CHECKS {
                fields.checked = true;
            } else {
                fields.unchecked.extend_from_slice(field);
            }
        }

        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
    use envoy_types::pb::envoy::config::core::v3::HealthCheck;
    use prost::Message;

    use super::*;
    use crate::proto::message::boolean;

    fn resource(cluster: &Cluster) -> Resource {
        Resource {
            waits: wait_of(&cluster.encode_to_vec()),
            ..Resource::new("one", cluster.encode_to_vec(), Vec::new())
        }
    }

    fn typed(discovery: DiscoveryType, checks: usize) -> Cluster {
        Cluster {
            name: "one".into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
            health_checks: vec![HealthCheck::default(); checks],
            ..Cluster::default()
        }
    }

    fn form(cluster: &Cluster) -> Option<(Wait, Cluster)> {
        let resource = resource(cluster);
        let form = no_wait(&resource)?;
        assert_eq!((form.version, form.waits), (resource.version, None));
        Some((resource.waits?, Cluster::decode(&*form.body.to_bytes()).unwrap()))
    }

    #[test]
    fn names_are_not_waited_for_and_hosts_not_checked() {
        for checks in [0, 2] {
            let dns = typed(DiscoveryType::StrictDns, checks);
            let no_wait = Cluster {
                wait_for_warm_on_init: Some(boolean(false)),
                ..dns.clone()
            };
            let waits = Cluster {
                wait_for_warm_on_init: Some(boolean(true)),
                ..dns.clone()
            };
            assert_eq!(form(&dns), Some((Wait::Names, no_wait.clone())));
            assert_eq!(form(&waits), Some((Wait::Names, no_wait.clone())));
            assert_eq!(form(&no_wait), None);
        }
        let unchecked = typed(DiscoveryType::Eds, 0);
        assert_eq!(form(&typed(DiscoveryType::Eds, 2)), Some((Wait::Checks, unchecked)));
    }

    #[test]
    fn a_cluster_without_such_a_wait_has_no_other_form() {
        assert_eq!(form(&typed(DiscoveryType::Eds, 0)), None);
        assert_eq!(wait_of(&[0x0a, 0xff]), None);
    }
}
