//! What a node may have or not, from the end of its stream until its next one has begun.
//!
//! After a NACK the client may have taken some of the response, and Envoy does not report those when it reconnects
//! (docs/xds-rules.md DX-21). Bounded in nodes, names and time; each replica has its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::resource::ResourceType;

/// How long.
const FOR: Duration = Duration::from_secs(300);
/// Of how many nodes, at most.
const NODES: usize = 1000;

/// Names whose state is unknown, by type.
pub(super) type Unknown = Vec<(ResourceType, Arc<str>)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_node: HashMap<Arc<str>, (SystemTime, Unknown)>,
    /// In the order in which they were left.
    order: VecDeque<(SystemTime, Arc<str>)>,
}

impl Memory {
    /// A stream of the node ended.
    pub(super) fn keep(&self, node_id: &Arc<str>, unknown: Unknown, now: SystemTime) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.forget(now);
        if unknown.is_empty() {
            return;
        }
        kept.by_node.insert(Arc::clone(node_id), (now, unknown));
        kept.order.push_back((now, Arc::clone(node_id)));
    }

    /// What was left unknown.
    pub(super) fn recall(&self, node_id: &str, now: SystemTime) -> Unknown {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.forget(now);
        kept.by_node
            .get(node_id)
            .map(|(_, unknown)| unknown.clone())
            .unwrap_or_default()
    }
}

impl Kept {
    fn forget(&mut self, now: SystemTime) {
        let too_old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age > FOR);
        while self.order.len() > NODES || self.order.front().is_some_and(|(at, _)| too_old(*at)) {
            let Some((at, node_id)) = self.order.pop_front() else {
                return;
            };
            if self.by_node.get(&node_id).is_some_and(|(left, _)| *left == at) {
                self.by_node.remove(&node_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_time_and_nodes() {
        let memory = Memory::default();
        let start = SystemTime::UNIX_EPOCH;
        let unknown = || vec![(ResourceType::Cluster, Arc::from("a"))];
        memory.keep(&"first".into(), unknown(), start);
        assert_eq!(memory.recall("first", start + FOR), unknown());
        assert_eq!(memory.recall("first", start + FOR + Duration::from_secs(1)), []);
        for number in 0..=NODES {
            memory.keep(&number.to_string().into(), unknown(), start + FOR);
        }
        assert_eq!(memory.recall("0", start + FOR), []);
        assert_eq!(memory.recall("1", start + FOR), unknown());
    }
}
