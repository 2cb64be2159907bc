//! The other names that members of a set go by.
//!
//! What enters: members that come and go. What leaves: the member that a name stands for which no member has. Persistent:
//! a change costs what changed, and a set without such names costs nothing.

use std::borrow::Cow;
use std::sync::Arc;

use imbl::OrdMap;

use crate::resource::{Resource, xdstp};

/// Members by alias, several by one alias sorted by name.
#[derive(Clone, Default)]
pub(super) struct Aliases(OrdMap<Arc<str>, Arc<[Arc<Resource>]>>);

/// The aliases of a resource, and the canonical form of its name where it is written otherwise.
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

    /// The first member that goes by the name.
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
