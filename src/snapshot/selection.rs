//! The members of a set with the names of a list, found and encoded once for all streams with the same list.

use std::sync::{Arc, OnceLock};

use super::blocks::{self, Blocks, Shape};
use super::version::SetVersion;
use crate::resource::{Resource, ResourceType};

/// The members with the names of a list, and the names without a member. Sorted by name.
#[derive(Debug)]
pub struct Selection {
    resource_type: ResourceType,
    members: Vec<Arc<Resource>>,
    missing: Vec<Arc<str>>,
    version: SetVersion,
    sotw: OnceLock<Blocks>,
    delta: OnceLock<Blocks>,
}

impl Selection {
    /// A selection of these members; both lists are sorted.
    pub(super) fn new(resource_type: ResourceType, members: Vec<Arc<Resource>>, missing: Vec<Arc<str>>) -> Self {
        let version = members.iter().fold(SetVersion::default(), |version, member| {
            version.with(SetVersion::of(member))
        });
        Self {
            resource_type,
            members,
            missing,
            version,
            sotw: OnceLock::new(),
            delta: OnceLock::new(),
        }
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &[Arc<Resource>] {
        &self.members
    }

    /// One member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        let found = self.members.binary_search_by(|member| (*member.name).cmp(name)).ok()?;
        self.members.get(found)
    }

    /// The names without a member.
    #[must_use]
    pub fn missing(&self) -> &[Arc<str>] {
        &self.missing
    }

    /// The version of the members.
    #[must_use]
    pub fn version(&self) -> SetVersion {
        self.version
    }

    /// The members, encoded.
    #[must_use]
    pub fn blocks(&self, shape: Shape) -> &Blocks {
        let cell = match shape {
            Shape::Sotw => &self.sotw,
            Shape::Delta => &self.delta,
        };
        cell.get_or_init(|| blocks::encode(self.resource_type, shape, &self.members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::set::ResourceSet;

    #[test]
    fn a_selection_is_found_once_and_tells_what_is_missing() {
        let cluster = ResourceType::Cluster;
        let member = |name: &str| {
            let resource = Arc::new(Resource::new(name, vec![1, 2, 3], Vec::new()));
            (Arc::from(name), Some(resource))
        };
        let set = ResourceSet::new(cluster).apply(&[member("a"), member("b"), member("d")]);
        let names: Vec<Arc<str>> = ["a", "c", "d"].map(Arc::from).to_vec();
        let selection = set.select(7, names.iter());
        assert!(
            Arc::ptr_eq(&selection, &set.select(7, [].iter())),
            "the key alone tells"
        );
        assert_eq!((selection.members().len(), selection.missing()), (2, &names[1..2]));
        assert!(selection.get("d").is_some() && selection.get("b").is_none());
        let rest = set.apply(&[(Arc::from("b"), None)]);
        assert_eq!(selection.version(), rest.version());
        assert_eq!(
            selection.blocks(Shape::Delta).pieces().concat(),
            rest.wildcard(Shape::Delta).pieces().concat()
        );
        for other in 0..100 {
            drop(set.select(other + 100, names.iter()));
        }
        assert!(
            !Arc::ptr_eq(&selection, &set.select(7, names.iter())),
            "only so many are kept"
        );
    }
}
