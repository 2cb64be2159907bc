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
    /// All that is asked for.
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
    /// Until the first answer: what the client says that it has.
    pub(in crate::xds) reported: Reported,
    pub(in crate::xds) owed: Owed,
    pub(in crate::xds) holds: Vec<HeldRemoval>,
    /// Holds that are over: their removal is owed.
    pub(super) released: Vec<Arc<Resource>>,
    /// Changes that wait until the clusters they need are warm.
    pub(in crate::xds) deferrals: Deferrals,
    /// Endpoints whose cluster was sent: to be sent after it, asked for or not.
    pub(in crate::xds) warming: BTreeSet<Arc<str>>,
    /// Of these, the ones that were refused: sent when the client asks again.
    pub(super) nacked_warming: BTreeSet<Arc<str>>,
    /// Gone or not, the client may have these: it refused them on its last stream.
    pub(in crate::xds) recalled: Vec<Arc<str>>,
    /// The first answer had nothing to say, because the client reported to have this.
    pub(in crate::xds) confirmed: Option<SetVersion>,
    /// What must be repeated, and when; `None`: nothing has a time to live.
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

/// See the module. Reads as [`PendingWork`], and has room for them from when one is written until
/// [`Pending::free_if_empty`].
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
