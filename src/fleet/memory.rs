//! Resources whose state at a node is unknown, from the end of its stream until its next stream has begun.
//!
//! After a NACK the client may hold some resources of the response, and Envoy does not report these when it reconnects
//! (docs/xds-rules.md DX-21). The memory is bounded in nodes, names and time; each replica has its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::resource::ResourceType;

/// How long the names of a node are kept.
const FOR: Duration = Duration::from_secs(300);
/// Most nodes.
const NODES: usize = 1000;

/// Names whose state is unknown, by type.
pub(super) type Unknown = Vec<(ResourceType, Arc<str>)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_node: HashMap<Arc<str>, (SystemTime, Unknown)>,
    /// In the order in which the streams ended.
    order: VecDeque<(SystemTime, Arc<str>)>,
}

impl Memory {
    /// Keep the names of a node whose stream ended.
    pub(super) fn keep(&self, node_id: &Arc<str>, unknown: Unknown, now: SystemTime) {
        let mut kept = self.0.lock();
        kept.forget(now);
        if unknown.is_empty() {
            return;
        }
        kept.by_node.insert(Arc::clone(node_id), (now, unknown));
        kept.order.push_back((now, Arc::clone(node_id)));
    }

    /// The names of a node.
    pub(super) fn recall(&self, node_id: &str, now: SystemTime) -> Unknown {
        let mut kept = self.0.lock();
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
    fn the_memory_is_bounded_in_time_and_nodes() {
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
