//! The facts about one stream: the task that serves it writes them, the admin API and metrics read them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};

use super::convergence::{Nacks, Proxy};
use super::suspicions::Evidence;
use super::{ClientView, Conditions, Exchange, Nack, Nonce, Subscribed, TypeView, UnresolvedNack, Variant, warnings};
use crate::resource::ResourceType;
use crate::snapshot::set::ResourceSet;
use crate::snapshot::version::SetVersion;

/// The identity of a stream, known from its first request.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `node.id`.
    pub node_id: Arc<str>,
    /// `node.cluster`.
    pub node_cluster: Arc<str>,
    /// `node.user_agent_name`.
    pub user_agent: Arc<str>,
    /// `node.user_agent_build_version`: major, minor and patch number.
    pub version: Option<(u32, u32, u32)>,
    /// The group of the node.
    pub group: Arc<str>,
    /// Whether the node reports its zone (`node.locality.zone`).
    pub has_zone: bool,
    /// Whether the client is an Envoy without the filters that policies need.
    pub lacks_slots: bool,
    /// The address of the peer; `None` over a Unix socket.
    pub address: Option<SocketAddr>,
    /// SotW or delta.
    pub variant: Variant,
    /// Whether the stream carries all types (ADS). A node has one such stream, and any number of streams of one type.
    pub aggregated: bool,
    /// The moment of the first request.
    pub connected_at: SystemTime,
}

#[cfg(test)]
impl Identity {
    /// A delta stream of all types.
    pub(super) fn of_test(node_id: &str) -> Self {
        Self {
            node_id: node_id.into(),
            node_cluster: "c".into(),
            user_agent: "envoy".into(),
            version: Some((1, 40, 0)),
            group: "default".into(),
            has_zone: false,
            lacks_slots: false,
            address: None,
            variant: Variant::Delta,
            aggregated: true,
            connected_at: SystemTime::UNIX_EPOCH,
        }
    }
}

/// One response as handed to the stream.
#[derive(Debug, Clone)]
pub struct Sent {
    /// `version_info` / `system_version_info`.
    pub version: SetVersion,
    /// The nonce; `None`: the client reported the version when it reconnected.
    pub nonce: Option<Nonce>,
    /// The moment of sending.
    pub at: SystemTime,
}

impl Sent {
    pub(super) fn view(&self) -> Exchange {
        Exchange {
            version: self.version.to_string(),
            nonce: self.nonce.map_or_else(String::new, |nonce| nonce.to_string()),
            at: self.at,
        }
    }
}

/// The facts about one type of one stream. Small: ten thousand streams have four each.
#[derive(Debug)]
pub(super) struct TypeFacts {
    pub(super) resource_type: ResourceType,
    /// `None`: wildcard. Shared with the stream's subscription.
    pub(super) names: Option<Arc<[Arc<str>]>>,
    pub(super) sent: Option<Sent>,
    pub(super) acknowledged: Option<Sent>,
    pub(super) nack: Option<Box<Nack>>,
    /// The accepted resources of the client, as far as it subscribes to them. Shared with the session.
    pub(super) accepted: Option<Arc<ResourceSet>>,
}

#[derive(Debug)]
pub(super) struct Facts {
    pub(super) group: Arc<str>,
    pub(super) gone_at: Option<SystemTime>,
    pub(super) response_too_large: bool,
    pub(super) secrets_withheld: bool,
    pub(super) conditions: Conditions,
    pub(super) types: Vec<TypeFacts>,
    /// Oldest first; most streams have none.
    pub(super) unresolved_nacks: Vec<UnresolvedNack>,
}

/// One stream: its identity and its facts.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) identity: Identity,
    /// The proxy that the stream is a part of.
    pub(super) proxy: Arc<Proxy>,
    facts: Mutex<Facts>,
}

impl Stream {
    pub(super) fn new(id: u64, identity: Identity, proxy: Arc<Proxy>) -> Self {
        let group = Arc::clone(&identity.group);
        let facts = Facts {
            group,
            gone_at: None,
            response_too_large: false,
            secrets_withheld: false,
            conditions: Conditions::default(),
            types: Vec::new(),
            unresolved_nacks: Vec::new(),
        };
        Self {
            id,
            identity,
            proxy,
            facts: Mutex::new(facts),
        }
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock()
    }

    pub(super) fn gone_at(&self) -> Option<SystemTime> {
        self.facts().gone_at
    }

    pub(super) fn leave(&self, at: SystemTime) {
        self.facts().gone_at = Some(at);
    }

    /// The subscribed names, one list a type.
    pub(super) fn subscribed_names(&self) -> Vec<Arc<[Arc<str>]>> {
        self.facts()
            .types
            .iter()
            .filter_map(|of_type| of_type.names.clone())
            .filter(|names| !names.is_empty())
            .collect()
    }

    pub(super) fn unresolved_nacks(&self) -> Vec<UnresolvedNack> {
        self.facts().unresolved_nacks.clone()
    }

    /// Add the client's accepted and refused resources.
    pub(super) fn add_to(&self, evidence: &mut Evidence) {
        let facts = self.facts();
        for of_type in &facts.types {
            if let Some(set) = &of_type.accepted {
                evidence.add_accepted(of_type.names.as_ref(), set);
            }
        }
        evidence.add_nacks(&self.identity.node_id, &facts.unresolved_nacks);
    }

    /// Forget what the client has accepted.
    pub(super) fn forget_accepted(&self) {
        self.facts()
            .types
            .iter_mut()
            .for_each(|of_type| of_type.accepted = None);
    }

    pub(super) fn view(&self, duplicate: bool) -> ClientView {
        let place = self.proxy.place();
        let facts = self.facts();
        let warnings = [
            (duplicate, warnings::DUPLICATE_NODE_ID),
            (facts.response_too_large, warnings::RESPONSE_TOO_LARGE),
            (facts.secrets_withheld, warnings::SECRETS_WITHHELD),
            (facts.conditions.removals_held, warnings::REMOVALS_HELD),
            (
                facts.conditions.clusters_unacknowledged,
                warnings::CLUSTERS_UNACKNOWLEDGED,
            ),
        ];

        ClientView {
            stream: self.id,
            node_id: Arc::clone(&self.identity.node_id),
            node_cluster: Arc::clone(&self.identity.node_cluster),
            user_agent: Arc::clone(&self.identity.user_agent),
            version: self.identity.version,
            group: Arc::clone(&facts.group),
            address: self.identity.address,
            variant: self.identity.variant,
            connected_at: self.identity.connected_at,
            lacks_slots: self.identity.lacks_slots,
            gone_at: facts.gone_at,
            place,
            warnings: warnings
                .into_iter()
                .filter_map(|(holds, warning)| holds.then_some(warning))
                .collect(),
            types: facts
                .types
                .iter()
                .map(|of_type| (of_type.resource_type, of_type.view()))
                .collect(),
        }
    }

    /// Change the facts about one type.
    pub(super) fn of_type(&self, resource_type: ResourceType, change: impl FnOnce(&mut TypeFacts)) {
        let mut facts = self.facts();
        let known = facts
            .types
            .iter()
            .position(|of_type| of_type.resource_type == resource_type);
        let index = known.unwrap_or_else(|| {
            let fresh = TypeFacts {
                resource_type,
                names: Some(Arc::new([])),
                sent: None,
                acknowledged: None,
                nack: None,
                accepted: None,
            };
            facts.types.push(fresh);
            facts.types.len() - 1
        });
        change(&mut facts.types[index]);
    }
}

impl Nacks for Stream {
    fn nack_of(&self, resource_type: ResourceType) -> Option<(Nack, Option<UnresolvedNack>)> {
        let facts = self.facts();
        let of_type = facts.types.iter().find(|of| of.resource_type == resource_type)?;
        let nack = of_type.nack.as_deref().cloned()?;
        let mut unresolved = facts.unresolved_nacks.iter().rev();
        let unresolved = unresolved.find(|nack| nack.resource_type == resource_type);
        Some((nack, unresolved.cloned()))
    }
}

impl TypeFacts {
    fn view(&self) -> TypeView {
        TypeView {
            subscribed: match &self.names {
                None => Subscribed::Wildcard,
                Some(names) => Subscribed::Names(Arc::clone(names)),
            },
            sent: self.sent.as_ref().map(Sent::view),
            acknowledged: self.acknowledged.as_ref().map(Sent::view),
            nack: self.nack.as_deref().cloned(),
        }
    }
}
