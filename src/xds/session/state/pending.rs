//! The pending work of one type of one stream: owed responses, held removals, deferred changes.
//!
//! Most types of most streams have none. Pending work is therefore allocated only while there is some.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ttl::Refresh;
use crate::resource::Resource;
use crate::snapshot::version::SetVersion;
use crate::xds::session::order::HeldRemoval;
use crate::xds::session::warming::Deferrals;
use crate::xds::session::wire::reported::Reported;

/// Subscriptions that are owed a response, whether the resources changed or not.
#[derive(Debug, Default)]
pub(in crate::xds) struct Owed {
    /// Every subscribed resource.
    pub(in crate::xds) all: bool,
    /// These names.
    pub(in crate::xds) names: BTreeSet<Arc<str>>,
    /// VHDS: the virtual hosts of these route configurations.
    pub(in crate::xds) route_configs: BTreeSet<Arc<str>>,
}

impl Owed {
    pub(in crate::xds) fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty() && self.route_configs.is_empty()
    }
}

/// The kinds of pending work.
#[derive(Debug, Default)]
pub(in crate::xds) struct PendingWork {
    /// The client's report of its resources, until the first response.
    pub(in crate::xds) reported: Reported,
    pub(in crate::xds) owed: Owed,
    pub(in crate::xds) holds: Vec<HeldRemoval>,
    /// Removals whose hold is over: they are owed.
    pub(super) released: Vec<Arc<Resource>>,
    /// Changes that wait for warm clusters.
    pub(in crate::xds) deferrals: Deferrals,
    /// Endpoints whose cluster was sent: they follow it, subscribed or not.
    pub(in crate::xds) warming: BTreeSet<Arc<str>>,
    /// Those of them that were NACKed: sent when the client asks again.
    pub(super) nacked_warming: BTreeSet<Arc<str>>,
    /// Resources that the client NACKed on its last stream: it may have any version of them.
    pub(in crate::xds) recalled: Vec<Arc<str>>,
    /// The version that the client reported, if it made the first response unnecessary.
    pub(in crate::xds) confirmed: Option<SetVersion>,
    /// The repetitions of resources with a time to live; `None`: no resource has one.
    pub(super) refresh: Option<Box<Refresh>>,
}

impl PendingWork {
    fn is_empty(&self) -> bool {
        matches!(self.reported, Reported::Nothing)
            && self.owed.is_empty()
            && self.holds.is_empty()
            && self.released.is_empty()
            && self.deferrals.is_empty()
            && self.warming.is_empty()
            && self.nacked_warming.is_empty()
            && self.recalled.is_empty()
            && self.confirmed.is_none()
            && self.refresh.is_none()
    }
}

/// Read while nothing is pending.
static NONE: PendingWork = PendingWork {
    reported: Reported::Nothing,
    owed: Owed {
        all: false,
        names: BTreeSet::new(),
        route_configs: BTreeSet::new(),
    },
    holds: Vec::new(),
    released: Vec::new(),
    deferrals: Deferrals::NONE,
    warming: BTreeSet::new(),
    nacked_warming: BTreeSet::new(),
    recalled: Vec::new(),
    confirmed: None,
    refresh: None,
};

/// See the module. Room for [`PendingWork`] is allocated by the first write and freed by [`Pending::free_if_empty`].
#[derive(Debug, Default)]
pub(in crate::xds) struct Pending(Option<Box<PendingWork>>);

impl Pending {
    pub(in crate::xds) fn is_none(&self) -> bool {
        self.0.as_deref().is_none_or(PendingWork::is_empty)
    }

    /// The pending work, if room for it is allocated.
    pub(in crate::xds) fn some(&mut self) -> Option<&mut PendingWork> {
        self.0.as_deref_mut()
    }

    /// Take one kind of work. Allocates nothing.
    pub(in crate::xds) fn take<T: Default>(&mut self, of: impl FnOnce(&mut PendingWork) -> &mut T) -> T {
        self.some().map(|work| std::mem::take(of(work))).unwrap_or_default()
    }

    /// The pending work, for reading. Allocates nothing.
    pub(in crate::xds) fn pending(&self) -> &PendingWork {
        self.0.as_deref().unwrap_or(&NONE)
    }

    /// The pending work, to add to. Allocates room if there is none.
    pub(in crate::xds) fn pending_mut(&mut self) -> &mut PendingWork {
        self.0.get_or_insert_default()
    }

    /// Free the room if nothing is pending.
    pub(in crate::xds) fn free_if_empty(&mut self) {
        if self.is_none() {
            self.0 = None;
        }
    }
}
