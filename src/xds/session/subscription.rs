//! The subscription of a stream to one type: one model for SotW and delta.
//!
//! In: the name lists of requests. Out: whether a resource is subscribed, and the resources that a request makes due.
//! Only this file says which types know a wildcard, and what an empty list means (docs/xds-rules.md SW-02 to SW-08,
//! SW-17 to SW-22, DX-01 to DX-09).

use std::sync::Arc;

use crate::resource::xdstp::{self, Glob};
use crate::resource::{Resource, ResourceType};
use crate::snapshot::set::ResourceSet;
use crate::xds::error::Error;
use crate::xds::session::subscription::implied::{Implied, glob_members};
use crate::xds::session::subscription::names::{Interner, Names, summand};
use crate::xds::session::wire::fields::{NameList, Run};
use crate::xds::session::wire::limits;

pub(in crate::xds) mod implied;
pub(in crate::xds) mod names;

/// The explicit wildcard.
const STAR: &[u8] = b"*";

/// The subscription of one stream to one type.
#[derive(Debug, Clone, Default)]
pub(in crate::xds) struct Subscription {
    /// Every resource that is not on demand.
    pub(in crate::xds) wildcard: bool,
    /// Subscribed names, globs among them; `xdstp://` names canonical.
    pub(in crate::xds) names: Names,
    /// Subscriptions beyond names.
    implied: Option<Box<Implied>>,
    /// SotW: an earlier list had a name or `*`, so an empty list means no resource (SW-08).
    named_before: bool,
    /// SotW: the last adopted list.
    adopted: Option<Run>,
}

/// The new subscriptions in a request.
#[derive(Debug, Default, PartialEq)]
pub(in crate::xds) struct Asked {
    /// A new subscription to the wildcard.
    pub(in crate::xds) wildcard: bool,
    /// These names, each owed a response.
    pub(in crate::xds) names: Vec<Arc<str>>,
    /// All subscribed names are new.
    pub(in crate::xds) all_names: bool,
    /// Whether the subscription changed, shrunk lists included.
    pub(in crate::xds) changed: bool,
}

/// Whether an empty first list, or `*`, subscribes to every resource.
pub(in crate::xds) fn knows_wildcard(resource_type: ResourceType) -> bool {
    matches!(
        resource_type,
        ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRoute
    )
}

impl Subscription {
    /// Whether the resource is subscribed.
    pub(in crate::xds) fn covers(&self, resource: &Resource) -> bool {
        (self.wildcard && !resource.on_demand) || self.names_it(resource)
    }

    /// Whether the resource is subscribed beyond the wildcard: by its name, by an alias, by a glob.
    pub(in crate::xds) fn names_it(&self, resource: &Resource) -> bool {
        self.names.contains(&resource.name)
            || resource.aliases.iter().any(|alias| self.names.contains(alias))
            || (xdstp::is_xdstp(&resource.name) && self.names.contains(&xdstp::canonical(&resource.name)))
            || self.implied.as_ref().is_some_and(|implied| implied.covers(resource))
    }

    /// Whether the two subscriptions are known to be equal. Compares pointers only.
    pub(in crate::xds) fn is_same(&self, other: &Self) -> bool {
        self.wildcard == other.wildcard
            && Arc::ptr_eq(self.names.sorted(), other.names.sorted())
            && self.implied.is_none()
            && other.implied.is_none()
    }

    /// The names, if the subscription has nothing else.
    pub(in crate::xds) fn by_name(&self) -> Option<&Names> {
        Some(&self.names).filter(|_| !self.wildcard && self.implied.is_none())
    }

    /// The members that are subscribed beyond the wildcard, each once.
    pub(in crate::xds) fn named<'a>(&'a self, set: &'a ResourceSet) -> Vec<&'a Arc<Resource>> {
        let mut members: Vec<_> = self.names.iter().filter_map(|name| set.find(name)).collect();
        if !self.is_plain(set) {
            members.extend(self.implied.iter().flat_map(|implied| implied.members(set)));
            members.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            members.dedup_by(|one, other| one.name == other.name);
        }
        members
    }

    /// Whether each name selects only the member of that name, and nothing else is subscribed beyond the wildcard.
    pub(in crate::xds) fn is_plain(&self, set: &ResourceSet) -> bool {
        self.implied.is_none() && !set.has_aliases()
    }

    /// The members that one of the names selects.
    pub(in crate::xds) fn members<'a>(
        &'a self,
        set: &'a ResourceSet,
        name: &str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let glob = self.glob(name);
        let host = || self.implied.as_ref().and_then(|implied| implied.host_of(set, name));
        let one = if glob.is_none() {
            set.find(name).or_else(host)
        } else {
            None
        };
        glob.into_iter().flat_map(|glob| glob_members(set, glob)).chain(one)
    }

    fn glob(&self, name: &str) -> Option<&Glob> {
        self.implied.as_ref()?.globs.iter().find(|glob| **glob.name() == *name)
    }

    /// Whether the subscription has a glob.
    pub(in crate::xds) fn has_globs(&self) -> bool {
        self.implied.as_ref().is_some_and(|implied| !implied.globs.is_empty())
    }

    /// VHDS: add the subscribed names with ports to the resources, as aliases.
    pub(in crate::xds) fn alias(&self, resources: &mut [Arc<Resource>]) {
        if let Some(implied) = &self.implied {
            implied.alias(resources);
        }
    }

    fn set_names(&mut self, resource_type: ResourceType, names: Names) -> Result<(), Error> {
        let globs: Vec<_> = names.iter().filter_map(Glob::parse).collect();
        limits::names(&names, globs.len())?;
        self.names = names;
        let hosts = resource_type == ResourceType::VirtualHost;
        if self.implied.is_some() || !globs.is_empty() || hosts {
            let names = self.names.clone();
            self.change_implied(|implied| {
                implied.globs = globs;
                if hosts {
                    implied.set_ported(&names);
                }
            });
        }
        Ok(())
    }

    /// Whether the implied route configurations were computed from this set and these names.
    pub(in crate::xds) fn follows(&self, set: &Arc<ResourceSet>, names: &Names) -> bool {
        let followed = self.implied.as_ref().and_then(|implied| implied.followed.as_ref());
        followed.is_some_and(|(of, asked)| Arc::ptr_eq(of, set) && asked == names)
    }

    /// Change the subscriptions beyond names.
    pub(in crate::xds) fn change_implied<T>(&mut self, change: impl FnOnce(&mut Implied) -> T) -> T {
        let mut implied = self.implied.take().unwrap_or_default();
        let result = change(&mut implied);
        self.implied = Some(implied).filter(|implied| !implied.is_empty());
        result
    }

    /// Reduce this older subscription, of this set, to the part that is still subscribed.
    pub(in crate::xds) fn narrow(&mut self, now: &Self, set: &ResourceSet, interner: &Interner) {
        if self.wildcard && !now.wildcard {
            // Some of the names were covered by the wildcard before.
            let was_covered = |name: &str| set.get(name).is_some_and(|resource| self.covers(resource));
            self.names = now.names.without(|name| !was_covered(name), interner);
            self.wildcard = false;
        } else {
            // A name that is unsubscribed may be covered by a wildcard.
            let is_asked = |name: &str| now.names.contains(name) || set.get(name).is_some_and(|one| now.covers(one));
            if self.names.iter().any(|name| !is_asked(name)) {
                self.names = self.names.without(|name| !is_asked(name), interner);
            }
        }
    }

    /// Adopt the name list of a SotW request: each request has the whole list.
    pub(in crate::xds) fn adopt(
        &mut self,
        resource_type: ResourceType,
        listed: &NameList,
        interner: &Interner,
    ) -> Result<Asked, Error> {
        let run = listed.run();
        if listed.is_empty() {
            self.adopted = None;
            return self.adopt_nothing(resource_type);
        }
        if run.is_some() && run == self.adopted {
            return Ok(Asked::default());
        }
        let (starred, names) = resolve(listed, interner)?;
        let wildcard = starred && knows_wildcard(resource_type);
        self.adopted = run;
        self.named_before = true;
        let was_wildcard = std::mem::replace(&mut self.wildcard, wildcard);
        let asked = Asked {
            wildcard: wildcard && !was_wildcard,
            ..Asked::default()
        };
        if names == self.names {
            return Ok(Asked {
                changed: was_wildcard != wildcard,
                ..asked
            });
        }

        let all_names = self.names.is_empty();
        let grown = names
            .iter()
            .filter(|name| !all_names && !self.names.contains(name))
            .cloned()
            .collect();

        self.set_names(resource_type, names)?;
        Ok(Asked {
            names: grown,
            all_names,
            changed: true,
            ..asked
        })
    }

    /// The last adopted list, if it is long.
    pub(in crate::xds) fn long_run(&self) -> Option<Run> {
        self.adopted.filter(Run::is_long)
    }

    /// An empty list: every resource, if no list had a name before and the type knows a wildcard; else none.
    fn adopt_nothing(&mut self, resource_type: ResourceType) -> Result<Asked, Error> {
        let wildcard = !self.named_before && knows_wildcard(resource_type);
        let asked = wildcard && !self.wildcard;
        let changed = wildcard != self.wildcard || !self.names.is_empty();
        self.wildcard = wildcard;
        if !self.names.is_empty() {
            self.set_names(resource_type, Names::default())?;
        }
        Ok(Asked {
            wildcard: asked,
            changed,
            ..Asked::default()
        })
    }

    /// Apply the lists of a delta request: first the subscribed names, then the unsubscribed ones (DX-05).
    pub(in crate::xds) fn edit(
        &mut self,
        resource_type: ResourceType,
        first: bool,
        subscribe: &NameList,
        unsubscribe: &NameList,
        interner: &Interner,
    ) -> Result<Asked, Error> {
        let mut asked = Asked::default();
        if first && subscribe.is_empty() && unsubscribe.is_empty() && knows_wildcard(resource_type) {
            self.wildcard = true;
            asked.wildcard = true;
            asked.changed = true;
        }
        self.add(resource_type, subscribe, interner, &mut asked)?;
        self.take_away(resource_type, unsubscribe, interner, &mut asked)?;
        Ok(asked)
    }

    fn add(
        &mut self,
        resource_type: ResourceType,
        subscribe: &NameList,
        interner: &Interner,
        asked: &mut Asked,
    ) -> Result<(), Error> {
        if subscribe.is_empty() {
            return Ok(());
        }
        let (starred, names) = if self.names.is_empty() {
            resolve(subscribe, interner)?
        } else {
            for name in subscribe.iter().filter(|name| *name != STAR) {
                asked.names.push(text(name)?);
            }
            (subscribe.iter().any(|name| name == STAR), Names::default())
        };

        asked.wildcard |= starred && knows_wildcard(resource_type);
        asked.changed |= asked.wildcard && !self.wildcard;
        self.wildcard |= asked.wildcard;
        if !names.is_empty() {
            asked.changed = true;
            asked.all_names = true;
            self.set_names(resource_type, names)?;
        } else if asked.names.iter().any(|name| !self.names.contains(name)) {
            asked.changed = true;
            self.set_names(resource_type, self.names.with(asked.names.iter().cloned(), interner))?;
        }

        Ok(())
    }

    /// If a name is unsubscribed while the wildcard stays, it is owed a response: the resource or its absence (DX-09).
    fn take_away(
        &mut self,
        resource_type: ResourceType,
        unsubscribe: &NameList,
        interner: &Interner,
        asked: &mut Asked,
    ) -> Result<(), Error> {
        if unsubscribe.is_empty() {
            return Ok(());
        }
        let mut gone: Vec<Arc<str>> = Vec::new();
        for name in unsubscribe.iter() {
            if name == STAR {
                asked.changed |= self.wildcard;
                self.wildcard = false;
                asked.wildcard = false;
            } else {
                gone.push(text(name)?);
            }
        }

        gone.retain(|name| self.names.contains(name));
        gone.sort_unstable();
        if !gone.is_empty() {
            asked.changed = true;
            let left = self
                .names
                .without(|name| gone.binary_search_by(|own| (**own).cmp(name)).is_ok(), interner);
            self.set_names(resource_type, left)?;
        }

        asked.names.retain(|name| gone.binary_search(name).is_err());
        if self.wildcard {
            asked.names.append(&mut gone);
        }
        Ok(())
    }
}

/// Whether `*` is listed, and the names. If some stream has the same list, it is found without reading a name.
fn resolve(listed: &NameList, interner: &Interner) -> Result<(bool, Names), Error> {
    let (mut sum, mut len) = (0_u128, 0);
    for name in listed.iter().filter(|name| *name != STAR) {
        sum = sum.wrapping_add(summand(name));
        len += 1;
    }
    let starred = len < listed.len();
    if let Some(known) = interner.known(sum, len) {
        return Ok((starred, known));
    }
    let names = listed
        .iter()
        .filter(|name| *name != STAR)
        .map(text)
        .collect::<Result<_, _>>()?;
    Ok((starred, Names::new(names, interner)))
}

/// A name in the form that is compared, byte by byte; `xdstp://` names in canonical form (GEN-20).
fn text(name: &[u8]) -> Result<Arc<str>, Error> {
    let name = std::str::from_utf8(name).map_err(|_| Error::NameNotUtf8)?;
    Ok(xdstp::canonical(name).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::session::wire::fields::name_list;

    fn names(subscription: &Subscription, asked: &Asked) -> Vec<String> {
        let all = subscription.names.iter().filter(|_| asked.all_names);
        all.chain(&asked.names).map(ToString::to_string).collect()
    }

    /// The lists of a SotW stream, one after the other: the subscriptions that each one adds.
    fn sotw(resource_type: ResourceType, lists: &[&[&'static str]]) -> Vec<(bool, Vec<String>)> {
        let interner = Interner::default();
        let mut subscription = Subscription::default();
        lists
            .iter()
            .map(|list| {
                let asked = subscription.adopt(resource_type, &name_list(list), &interner).unwrap();
                (asked.wildcard, names(&subscription, &asked))
            })
            .collect()
    }

    fn asks(wildcard: bool, names: &[&str]) -> (bool, Vec<String>) {
        (wildcard, names.iter().map(ToString::to_string).collect())
    }

    // SW-02, SW-03
    #[test]
    fn an_empty_first_list_is_a_wildcard_for_three_types_only() {
        for resource_type in ResourceType::ALL {
            let expected = matches!(
                resource_type,
                ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRoute
            );
            assert_eq!(sotw(resource_type, &[&[]]), [asks(expected, &[])], "{resource_type}");
        }
    }

    // SW-05, SW-07, SW-08, SW-22
    #[test]
    fn an_empty_list_after_any_name_is_nothing() {
        let cluster = ResourceType::Cluster;
        assert_eq!(sotw(cluster, &[&["*"], &[]]), [asks(true, &[]), asks(false, &[])]);
        assert_eq!(sotw(cluster, &[&["q"], &[]]), [asks(false, &["q"]), asks(false, &[])]);
        assert_eq!(
            sotw(cluster, &[&[], &["*"], &[]]),
            [asks(true, &[]), asks(false, &[]), asks(false, &[])]
        );
        assert_eq!(
            sotw(cluster, &[&["*", "A"], &["A"]]),
            [asks(true, &["A"]), asks(false, &[])]
        );
    }

    // GEN-20, SW-17, SW-18, SW-19
    #[test]
    fn only_names_that_are_new_in_the_set_are_asked_for() {
        let lists: &[&[&str]] = &[&["A", "B"], &["B", "A", "A"], &["B"], &["A", "B"], &[], &["B"]];
        let expected = [&["A", "B"] as &[&str], &[], &[], &["A"], &[], &["B"]];
        assert_eq!(
            sotw(ResourceType::Endpoint, lists),
            expected.map(|names| asks(false, names))
        );
    }

    type Edit = (&'static [&'static str], &'static [&'static str]);

    fn delta(resource_type: ResourceType, edits: &[Edit]) -> (Vec<(bool, Vec<String>)>, Subscription) {
        let interner = Interner::default();
        let mut subscription = Subscription::default();
        let mut first = true;
        let asked = edits.iter().map(|(add, remove)| {
            let asked = subscription
                .edit(resource_type, first, &name_list(add), &name_list(remove), &interner)
                .unwrap();
            first = false;
            (asked.wildcard, names(&subscription, &asked))
        });
        (asked.collect(), subscription)
    }

    // DX-01, DX-03, DX-05
    #[test]
    fn a_first_delta_request_is_a_wildcard_only_when_it_names_nothing() {
        let cluster = ResourceType::Cluster;
        assert_eq!(delta(cluster, &[(&[], &[])]).0, [asks(true, &[])]);
        assert_eq!(delta(cluster, &[(&[], &["q"])]).0, [asks(false, &[])]);
        assert_eq!(delta(cluster, &[(&["x"], &[])]).0, [asks(false, &["x"])]);
        assert_eq!(
            delta(cluster, &[(&["*"], &["*"]), (&["A"], &[])]).0,
            [asks(false, &[]), asks(false, &["A"])]
        );
        assert_eq!(delta(ResourceType::Endpoint, &[(&[], &[])]).0, [asks(false, &[])]);
    }

    // DX-04, DX-06, DX-08
    #[test]
    fn names_stay_when_the_wildcard_ends() {
        let edits: &[Edit] = &[
            (&[], &[]),
            (&["X"], &[]),
            (&["X"], &[]),
            (&[], &["*"]),
            (&[], &["X", "phantom"]),
        ];
        let (asked, subscription) = delta(ResourceType::Cluster, &edits[..4]);
        assert_eq!(
            asked,
            [
                asks(true, &[]),
                asks(false, &["X"]),
                asks(false, &["X"]),
                asks(false, &[])
            ]
        );
        assert!(!subscription.wildcard && subscription.names.contains("X"));
        let (asked, subscription) = delta(ResourceType::Cluster, edits);
        assert_eq!(asked[4], asks(false, &[]));
        assert!(subscription.names.is_empty());
    }

    // DX-09
    #[test]
    fn a_name_unsubscribed_under_a_wildcard_is_answered() {
        let (asked, _) = delta(ResourceType::Cluster, &[(&[], &[]), (&["A"], &[]), (&[], &["A", "B"])]);
        assert_eq!(asked[2], asks(false, &["A"]));
    }
}
