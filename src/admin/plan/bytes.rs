//! The bytes of the responses that a change brings to one proxy, from the encoded resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::Inputs;
use crate::resource::compile::Compiled;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::blocks::{self, Shape};

/// Bytes of a response beside its resources and its type URL: a version, a nonce, the name of the server.
const HEAD: usize = 82;
/// Bytes around a bare resource beside its type URL: tags and lengths.
const AROUND: usize = 10;

/// Bytes to one proxy, by the variant of its stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Bytes {
    pub(super) delta: usize,
    pub(super) sotw: usize,
}

/// The largest of the groups.
pub(super) fn largest(inputs: &Inputs<'_>) -> Bytes {
    let mut groups: BTreeMap<&Arc<str>, Bytes> = BTreeMap::new();
    let changes = &inputs.plan.difference.resources;
    for of_type in changes.chunk_by(|one, other| (&one.group, one.resource_type) == (&other.group, other.resource_type))
    {
        let Some(first) = of_type.first() else { continue };
        let (group, resource_type) = (&first.group, first.resource_type);

        let is_sent = |resource: &&Arc<Resource>| !resource.on_demand;
        let put: Vec<&Arc<Resource>> = of_type
            .iter()
            .filter_map(|change| change.resource.as_ref())
            .filter(is_sent)
            .collect();
        // A client that removes a listener or a cluster subscribes to nothing of it any more.
        let removed = of_type
            .iter()
            .filter(|change| change.resource.is_none() && is_whole(resource_type));
        let removed: usize = removed.map(|change| change.name.len() + 2).sum();
        let head = HEAD + resource_type.type_url().len();
        let sum = groups.entry(group).or_default();

        if !put.is_empty() || removed > 0 {
            sum.delta += head + removed + blocks::encode(resource_type, Shape::Delta, put.iter().copied()).len();
        }
        if is_whole(resource_type) {
            // The client removes what a response does not carry, so the response carries the whole set.
            let current = inputs.snapshot.group(group).map(|group| group.set(resource_type));
            let kept = current.into_iter().flat_map(|set| set.iter());
            let is_kept = |resource: &&Arc<Resource>| {
                let name = &resource.name;
                of_type.binary_search_by(|change| change.name.cmp(name)).is_err()
            };
            let kept = kept.filter(is_sent).filter(is_kept);
            sum.sotw += head
                + kept
                    .chain(put.iter().copied())
                    .map(|resource| bare(resource_type, resource))
                    .sum::<usize>();
        } else if !put.is_empty() && resource_type != ResourceType::VirtualHost {
            let whole = put.iter().map(|resource| resource.whole.as_ref().unwrap_or(resource));
            sum.sotw += head + whole.map(|resource| bare(resource_type, resource)).sum::<usize>();
        }

        if resource_type == ResourceType::Cluster {
            let assigned = put.iter().filter_map(|cluster| cluster.warms.as_ref());
            let sum = groups.entry(group).or_default();
            for again in endpoints_again(inputs, group, assigned) {
                sum.add(ResourceType::Endpoint, &again);
            }
        }
    }
    groups.into_values().max_by_key(|bytes| bytes.delta).unwrap_or_default()
}

/// Endpoints beside the changed ones, by response: those of a changed cluster follow the cluster, changed or not (AD-03).
/// Those of a new cluster are sent once more, as the answer to the subscription of the client.
fn endpoints_again<'a>(
    inputs: &'a Inputs<'_>,
    group: &Arc<str>,
    assigned: impl Iterator<Item = &'a Arc<str>>,
) -> [Vec<&'a Arc<Resource>>; 2] {
    let (before, after) = (inputs.before.compiled(), inputs.plan.world.compiled());
    let (mut follow, mut subscribed) = (Vec::new(), Vec::new());
    for name in assigned {
        let of = |whole: &'a Compiled| whole.resource(group, ResourceType::Endpoint, name);
        match (of(before), of(after)) {
            (None, Some(new)) => subscribed.push(new),
            (Some(old), Some(new)) if old.version == new.version => follow.push(new),
            _ => {}
        }
    }
    [follow, subscribed]
}

impl Bytes {
    /// Add a response with these resources, if there are any.
    fn add(&mut self, resource_type: ResourceType, resources: &[&Arc<Resource>]) {
        if resources.is_empty() {
            return;
        }
        let head = HEAD + resource_type.type_url().len();
        self.delta += head + blocks::encode(resource_type, Shape::Delta, resources.iter().copied()).len();
        let bare = resources.iter().map(|resource| bare(resource_type, resource));
        self.sotw += head + bare.sum::<usize>();
    }
}

fn is_whole(resource_type: ResourceType) -> bool {
    matches!(
        resource_type,
        ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRoute
    )
}

fn bare(resource_type: ResourceType, resource: &Resource) -> usize {
    resource.body.len() + resource_type.type_url().len() + AROUND
}
