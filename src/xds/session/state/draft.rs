//! The next response of a type: whether there is one, and what it is made of. The variants differ here and nowhere else.

use std::sync::Arc;
use std::time::Instant;

use super::{Draft, State, Target};
use crate::fleet::Variant;
use crate::resource::ResourceType;
use crate::snapshot::set::ResourceSet;
use crate::snapshot::version::SetVersion;
use crate::xds::session::state::Changed;
use crate::xds::session::state::builder::{empty_assignment, unresolved};
use crate::xds::session::state::content::{Content, Shared};
use crate::xds::session::wire::reported::{self, Reported};

impl State {
    /// The next response, if anything is owed. Brings the client to the target, whether that takes a response or not.
    pub(in crate::xds) fn draft(&mut self, target: Target<'_>, now: Instant) -> Option<Draft> {
        let cautious = target.cautious && !self.settled;
        if cautious
            && !matches!(
                self.resource_type,
                ResourceType::Endpoint | ResourceType::Route | ResourceType::Secret | ResourceType::VirtualHost
            )
        {
            return None;
        }
        self.settled |= !target.cautious;
        if !cautious && !target.referred {
            // What only a stale snapshot held is not told as there any more.
            self.release(|_| true);
        }
        let due = self.unrest.refresh.as_ref().is_some_and(|refresh| refresh.is_due(now));
        if self.is_current(target.set) && !self.unrest.deferrals.any_over(target.unwarm) && !due {
            return None;
        }
        let draft = match target.variant {
            Variant::Sotw => self.draft_sotw(target, cautious, due),
            Variant::Delta => self.draft_delta(target, cautious, due),
        };
        self.schedule(target, now);
        if draft.is_none() && self.unanswered.is_empty() && self.unrest.deferrals.is_empty() {
            // Old sets are not kept for a client that they do not concern.
            self.answered_set.clone_from(&self.base);
            if self.refusals.is_empty() {
                self.acknowledged_set.clone_from(&self.base);
            }
        }
        draft
    }

    pub(in crate::xds) fn is_current(&self, set: &Arc<ResourceSet>) -> bool {
        self.unrest.owed.is_empty()
            && self.unrest.warming.is_empty()
            && self.unrest.released.is_empty()
            && self.base.as_ref().is_some_and(|base| Arc::ptr_eq(base, set))
    }

    pub(super) fn draft_sotw(&mut self, target: Target<'_>, cautious: bool, due: bool) -> Option<Draft> {
        let first = self.base.is_none();
        let full = self.is_full_state(target.variant);
        // Who comes back with a version may have what is gone: SW-24.
        let reported = !matches!(self.unrest.reported, Reported::Nothing);
        let empty_first = first && (reported || self.subscription.wildcard || self.subscription.has_globs());
        let asked = !self.unrest.owed.is_empty();
        let confirmed = match &self.unrest.reported {
            Reported::Version(version) if first && self.is_plain_wildcard() && self.unrest.recalled.is_empty() => {
                reported::number(version) == Some(target.set.wildcard_version().0)
            }
            _ => false,
        };
        let mut found = self.advance(target, cautious);
        let released = self.unrest.take(|unrest| &mut unrest.released);
        if confirmed {
            self.unrest.confirmed = Some(target.set.wildcard_version());
            return None;
        }
        if full {
            let changed = found.is_any() || !released.is_empty() || !found.removed.is_empty();
            let absent = self.absent(target, &mut found, &released);
            if !changed && absent.is_empty() && !empty_first && !due {
                return None;
            }
            let (content, version) = self.whole(target.set);
            let content = Content {
                removed: absent,
                ..content
            };
            let published = !asked && changed;
            let changed = if first { Changed::All } else { found.changed() };
            return Some(Draft {
                content,
                version,
                published,
                changed,
            });
        }
        if self.resource_type == ResourceType::Endpoint && !cautious {
            found
                .updates
                .extend(found.missing.drain(..).map(|name| empty_assignment(&name)));
        }
        found.removed.clear();
        found.removed = self.absent(target, &mut found, &[]);
        if !found.is_any() && found.removed.is_empty() {
            return None;
        }
        let version = self.named_version(target.set);
        let version = self.unrest.deferrals.without(version, target.set);
        let mut draft = found.into_draft(version, !asked, false);
        if let Some(most) = target.abilities.response_max {
            self.split(&mut draft.content, most);
        }
        Some(draft)
    }

    pub(super) fn draft_delta(&mut self, target: Target<'_>, cautious: bool, due: bool) -> Option<Draft> {
        let first = self.base.is_none();
        // DX-02: the first answer to a wildcard is sent even when there is nothing to say, if the client has nothing.
        let fresh = first && self.subscription.wildcard && matches!(self.unrest.reported, Reported::Nothing);
        let reported = first && matches!(self.unrest.reported, Reported::Versions(_));
        let asked = !self.unrest.owed.is_empty();
        let mut found = self.advance(target, cautious);
        found.removed.extend(
            self.unrest
                .take(|unrest| &mut unrest.released)
                .into_iter()
                .map(|resource| Arc::clone(&resource.name)),
        );
        if self.resource_type == ResourceType::VirtualHost {
            found.bodiless = found.missing.drain(..).map(unresolved).collect();
        }
        found.removed.append(&mut found.missing);
        found.removed.sort_unstable();
        found.removed.dedup();
        let changed = found.is_any() || !found.removed.is_empty();
        if reported && found.removed.is_empty() && !found.novel.is_empty() {
            // All but these are with the client already.
            self.answered_set = Some(Arc::new(target.set.apply(&std::mem::take(&mut found.novel))));
        }
        let repeated = if due {
            self.repeat(target.set, &mut found)
        } else {
            Vec::new()
        };
        if !found.is_any() && found.removed.is_empty() && repeated.is_empty() && !fresh {
            if reported {
                self.unrest.confirmed = Some(target.set.version());
            }
            return None;
        }
        let version = self.unrest.deferrals.without(target.set.version(), target.set);
        let mut draft = found.into_draft(version, !asked && changed, first);
        draft.content.own.extend(repeated);
        Some(draft)
    }

    /// All clusters, or all listeners, and nothing by name: a client that reports their version need not be answered.
    pub(super) fn is_plain_wildcard(&self) -> bool {
        matches!(self.resource_type, ResourceType::Cluster | ResourceType::Listener)
            && self.subscription.wildcard
            && self.subscription.names.is_empty()
    }

    /// Everything that is asked for, and what is held: the content of a full-state response.
    pub(super) fn whole(&self, set: &Arc<ResourceSet>) -> (Content, SetVersion) {
        let mut content = Content::default();
        let mut version = SetVersion::default();
        if !self.unrest.deferrals.is_empty() {
            let all = set.iter().filter(|resource| self.subscription.covers(resource));
            let has = all.map(|one| self.unrest.deferrals.kept(&one.name).unwrap_or(one));
            content.own.extend(has.cloned());
            content
                .own
                .extend(self.unrest.holds.iter().flat_map(|hold| &hold.resources).cloned());
            version = content
                .own
                .iter()
                .fold(version, |sum, resource| sum.with(SetVersion::of(resource)));
            return (content, version);
        }
        if self.subscription.wildcard {
            content.shared = Shared::Wildcard(Arc::clone(set));
            version = set.wildcard_version();
        }
        let named = self.subscription.named(set).into_iter();
        content.own.extend(
            named
                .filter(|resource| !self.subscription.wildcard || resource.on_demand)
                .cloned(),
        );
        content
            .own
            .extend(self.unrest.holds.iter().flat_map(|hold| &hold.resources).cloned());
        version = content
            .own
            .iter()
            .fold(version, |sum, resource| sum.with(SetVersion::of(resource)));
        (content, version)
    }
}
