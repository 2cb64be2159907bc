//! The other names of the members of a set.
//!
//! In: members that are added or removed. Out: the member behind a name that no member has as its own. The map is
//! persistent: an update costs what changed, and a set without aliases costs nothing.

use std::borrow::Cow;
use std::sync::Arc;

use imbl::OrdMap;

use crate::resource::{Resource, xdstp};

/// Members by alias; several with one alias are sorted by name.
#[derive(Clone, Default)]
pub(super) struct Aliases(OrdMap<Arc<str>, Arc<[Arc<Resource>]>>);

/// The aliases of a resource, and the canonical form of its name if the name is written otherwise.
fn others(resource: &Resource) -> impl Iterator<Item = Arc<str>> {
    let canonical = match xdstp::canonical(&resource.name) {
        Cow::Borrowed(same) if same == &*resource.name => None,
        other => Some(Arc::from(&*other)),
    };
    resource.aliases.iter().cloned().chain(canonical)
}

impl Aliases {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first member with the alias.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.0.get(name)?.first()
    }

    pub(super) fn add(&mut self, resource: &Arc<Resource>) {
        for alias in others(resource) {
            self.change(alias, |members| members.push(Arc::clone(resource)));
        }
    }

    pub(super) fn remove(&mut self, resource: &Resource) {
        for alias in others(resource) {
            self.change(alias, |members| members.retain(|member| member.name != resource.name));
        }
    }

    fn change(&mut self, alias: Arc<str>, change: impl FnOnce(&mut Vec<Arc<Resource>>)) {
        let mut members = self.0.get(&alias).map(|members| members.to_vec()).unwrap_or_default();
        change(&mut members);
        members.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        if members.is_empty() {
            self.0.remove(&alias);
        } else {
            self.0.insert(alias, members.into());
        }
    }
}
