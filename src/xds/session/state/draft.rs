//! The next response of a type: whether one is owed, and its resources. SotW and delta differ in this file only.

use std::sync::Arc;
use std::time::Instant;

use super::{Draft, State, Target};
use crate::fleet::Variant;
use crate::resource::ResourceType;
use crate::snapshot::set::ResourceSet;
use crate::snapshot::version::SetVersion;
use crate::xds::session::state::Changed;
use crate::xds::session::state::builder::{empty_assignment, unresolved};
use crate::xds::session::state::content::{Content, SharedPart};
use crate::xds::session::wire::reported::{self, Reported};

impl State {
    /// The next response, if one is owed. Brings the client to the target, with or without a response.
    pub(in crate::xds) fn draft(&mut self, target: Target<'_>, now: Instant) -> Option<Draft> {
        let cautious = target.cautious && !self.sent_fresh;
        if cautious
            && !matches!(
                self.resource_type,
                ResourceType::Endpoint | ResourceType::Route | ResourceType::Secret | ResourceType::VirtualHost
            )
        {
            return None;
        }
        self.sent_fresh |= !target.cautious;
        if !cautious && !target.referred {
            // Removals that only a stale snapshot held need no ACK: nothing refers to this type.
            self.release(|_| true);
        }
        let due = self
            .work
            .pending()
            .refresh
            .as_ref()
            .is_some_and(|refresh| refresh.is_due(now));

        if self.is_current(target.set) && !self.work.pending().deferrals.any_over(target.unwarm) && !due {
            return None;
        }

        let mut draft = match target.variant {
            Variant::Sotw => self.draft_sotw(target, cautious, due),
            Variant::Delta => self.draft_delta(target, cautious, due),
        };
        if let Some(draft) = draft
            .as_mut()
            .filter(|_| self.resource_type == ResourceType::ExtensionConfig)
        {
            self.part_scripts(&mut draft.content);
        }
        self.schedule(target, now);
        if draft.is_none() && self.unacked.is_empty() && self.work.pending().deferrals.is_empty() {
            // The difference does not concern this client: drop the older sets.
            self.answered_set.clone_from(&self.base);
            if self.nacks.is_empty() {
                self.acked_set.clone_from(&self.base);
            }
        }

        draft
    }

    pub(in crate::xds) fn is_current(&self, set: &Arc<ResourceSet>) -> bool {
        self.work.pending().owed.is_empty()
            && self.work.pending().warming.is_empty()
            && self.work.pending().released.is_empty()
            && self.base.as_ref().is_some_and(|base| Arc::ptr_eq(base, set))
    }

    pub(super) fn draft_sotw(&mut self, target: Target<'_>, cautious: bool, due: bool) -> Option<Draft> {
        let first = self.base.is_none();
        let full = self.is_full_state(target.variant);
        // A client that reports a version may have removed resources (SW-24).
        let reported = !matches!(self.work.pending().reported, Reported::Nothing);
        let empty_first = first && (reported || self.subscription.wildcard || self.subscription.has_globs());
        let asked = !self.work.pending().owed.is_empty();
        let confirmed = match &self.work.pending().reported {
            Reported::Version(version)
                if first && self.is_plain_wildcard() && self.work.pending().recalled.is_empty() =>
            {
                reported::number(version) == Some(target.set.wildcard_version().0)
            }
            _ => false,
        };

        let mut builder = self.advance(target, cautious);
        let released = self.work.take(|work| &mut work.released);
        if confirmed {
            self.work.pending_mut().confirmed = Some(target.set.wildcard_version());
            return None;
        }

        if full {
            let changed = builder.is_any() || !released.is_empty() || !builder.removed.is_empty();
            let absent = self.absent(target, &mut builder, &released);
            if !changed && absent.is_empty() && !empty_first && !due {
                return None;
            }
            let (content, version) = self.whole(target.set);
            let content = Content {
                removed: absent,
                ..content
            };
            let published = !asked && changed;
            let changed = if first { Changed::All } else { builder.changed() };
            return Some(Draft {
                content,
                version,
                published,
                changed,
            });
        }

        if self.resource_type == ResourceType::Endpoint && !cautious {
            builder
                .updates
                .extend(builder.missing.drain(..).map(|name| empty_assignment(&name)));
        }

        builder.removed.clear();
        builder.removed = self.absent(target, &mut builder, &[]);
        if !builder.is_any() && builder.removed.is_empty() {
            return None;
        }

        let version = self.named_version(target.set);

        let version = self.work.pending().deferrals.without(version, target.set);
        let mut draft = builder.into_draft(version, !asked, false);
        if let Some(most) = target.features.response_max {
            self.split(&mut draft.content, most);
        }
        Some(draft)
    }

    pub(super) fn draft_delta(&mut self, target: Target<'_>, cautious: bool, due: bool) -> Option<Draft> {
        let first = self.base.is_none();
        // DX-02: the first response to a wildcard is sent even if empty, if the client reported nothing.
        let fresh = first && self.subscription.wildcard && matches!(self.work.pending().reported, Reported::Nothing);
        let reported = first && matches!(self.work.pending().reported, Reported::Versions(_));
        let asked = !self.work.pending().owed.is_empty();

        let mut builder = self.advance(target, cautious);
        builder.removed.extend(
            self.work
                .take(|work| &mut work.released)
                .into_iter()
                .map(|resource| Arc::clone(&resource.name)),
        );

        if self.resource_type == ResourceType::VirtualHost {
            builder.bodiless = builder.missing.drain(..).map(unresolved).collect();
        }
        builder.removed.append(&mut builder.missing);
        builder.removed.sort_unstable();
        builder.removed.dedup();
        let changed = builder.is_any() || !builder.removed.is_empty();
        if reported && builder.removed.is_empty() && !builder.novel.is_empty() {
            // The client has every other resource already.
            self.answered_set = Some(Arc::new(target.set.apply(&std::mem::take(&mut builder.novel))));
        }

        let repeated = if due {
            self.repeat(target.set, &mut builder)
        } else {
            Vec::new()
        };

        if !builder.is_any() && builder.removed.is_empty() && repeated.is_empty() && !fresh {
            if reported {
                self.work.pending_mut().confirmed = Some(target.set.version());
            }
            return None;
        }

        let version = self.work.pending().deferrals.without(target.set.version(), target.set);
        let mut draft = builder.into_draft(version, !asked && changed, first);
        draft.content.own.extend(repeated);
        Some(draft)
    }

    /// The subscription to all clusters or all listeners, without names: if the client reports their version, no
    /// response is needed.
    pub(super) fn is_plain_wildcard(&self) -> bool {
        matches!(self.resource_type, ResourceType::Cluster | ResourceType::Listener)
            && self.subscription.wildcard
            && self.subscription.names.is_empty()
    }

    /// The content of a full-state response: subscribed resources, and those with a held removal.
    pub(super) fn whole(&self, set: &Arc<ResourceSet>) -> (Content, SetVersion) {
        let pending = self.work.pending();
        let mut content = Content::default();
        let mut version = SetVersion::default();
        if !pending.deferrals.is_empty() {
            let all = set.iter().filter(|resource| self.subscription.covers(resource));
            let has = all.map(|one| pending.deferrals.kept(&one.name).unwrap_or(one));
            content.own.extend(has.cloned());
        } else {
            let wildcard = self.subscription.wildcard;
            if wildcard {
                content.shared = SharedPart::Wildcard(Arc::clone(set));
                version = set.wildcard_version();
            }
            let named = self.subscription.named(set).into_iter();
            let own = named.filter(|resource| !wildcard || resource.on_demand);
            content.own.extend(own.cloned());
        }

        content
            .own
            .extend(pending.holds.iter().flat_map(|hold| &hold.resources).cloned());
        version = content
            .own
            .iter()
            .fold(version, |sum, resource| sum.with(SetVersion::of(resource)));
        (content, version)
    }
}
