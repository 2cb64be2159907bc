//! NACKs that wait for a judgement: is a document refused by every proxy, or is it the trouble of one host?
//!
//! In: each NACK with its suspects; what every stream has accepted. Out: after [`PATIENCE`], the documents that are
//! refused and that no proxy has accepted ([`judge`]). A NACK costs a place in a short list, and an ACK one look at a
//! flag. Streams are looked at only when a NACK is judged.
//!
//! A document is accepted if a stream has ACKed, or reported, a resource with the same content of the document, also a
//! stream that ended lately. A NACK whose suspects are more than [`LAID_ON_MAX`] is laid on no document, nor is one of
//! registrations: a whole cluster would lose its endpoints for one of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imbl::ordmap::DiffItem;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use super::{LAID_ON_MAX, SUSPECTS_MAX, Suspect, UnresolvedNack};
use crate::document::key::{DocumentKey, Kind};
use crate::resource::compile::parts::Parts;
use crate::resource::refused::RefusedResource;
use crate::resource::{Resource, ResourceType, ResourceVersion};
use crate::snapshot::set::ResourceSet;

/// How long another proxy has to ACK what one has NACKed.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Most NACKs of different content that wait at a time. Others count when the proxy sends them again.
const PENDING_MAX: usize = 256;

/// Number of nodes in a reason by name; further nodes are counted.
const NODES_NAMED: usize = 5;

/// One NACK that may be laid on documents.
#[derive(Debug, Clone)]
pub struct Suspicion {
    group: Arc<str>,
    resource_type: ResourceType,
    suspects: Vec<Suspect>,
    /// All resources, if the suspects are the first ones only.
    all: Option<Arc<[Arc<Resource>]>>,
}

/// The same content is judged once, however many proxies refuse it.
type Content = (ResourceType, Vec<(Arc<str>, ResourceVersion)>);

impl Suspicion {
    /// Of a NACK by a proxy of this group. `all`: see [`Suspects::all`](super::Suspects::all).
    pub(super) fn of(group: &Arc<str>, nack: &UnresolvedNack, all: Option<Arc<[Arc<Resource>]>>) -> Self {
        Self {
            group: Arc::clone(group),
            resource_type: nack.resource_type,
            suspects: nack.suspects.clone(),
            all,
        }
    }

    /// Every resource that may be the cause; `None`: they are too many.
    fn suspects(&self) -> Option<Cow<'_, [Suspect]>> {
        match &self.all {
            None => Some(Cow::Borrowed(&self.suspects)),
            Some(all) if all.is_empty() => None,
            Some(all) => Some(all.iter().map(|resource| Suspect::of(resource)).collect()),
        }
    }

    /// Whether a NACK is about one of the resources, in the same version.
    fn is_of(&self, nack: &UnresolvedNack) -> bool {
        let is_same = |one: &Suspect, other: &Suspect| one.resource == other.resource && one.version == other.version;
        self.resource_type == nack.resource_type
            && (nack.suspects.iter()).any(|one| self.suspects.iter().any(|other| is_same(one, other)))
    }

    /// Whether one of the documents may be the cause.
    fn may_be_of(&self, documents: &BTreeSet<&DocumentKey>) -> bool {
        let has = |suspect: &Suspect| match &suspect.parts {
            Some(parts) if !suspect.is_complete => documents.iter().any(|key| parts.contains_key(*key)),
            _ => suspect.documents.iter().any(|key| documents.contains(key)),
        };
        let of_all = || {
            let mut all = self.all.iter().flat_map(|all| all.iter());
            all.any(|resource| resource.made_of().any(|key| documents.contains(key)))
        };
        self.suspects.iter().any(has) || of_all()
    }

    fn content(&self) -> Content {
        let of = |suspect: &Suspect| (Arc::clone(&suspect.resource), suspect.version);
        (self.resource_type, self.suspects.iter().map(of).collect())
    }

    /// How closely the suspects are known: the fewer documents, the better.
    fn breadth(&self) -> usize {
        let count = |suspect: &Suspect| {
            if suspect.is_complete {
                suspect.documents.len()
            } else {
                usize::MAX / 64
            }
        };
        self.suspects.iter().map(count).fold(0, usize::saturating_add)
    }

    /// Whether both are about a resource of one name.
    #[must_use]
    pub fn shares_a_resource(&self, other: &Self) -> bool {
        let names: BTreeSet<&str> = self.suspects.iter().map(|suspect| &*suspect.resource).collect();
        self.resource_type == other.resource_type
            && other.suspects.iter().any(|suspect| names.contains(&*suspect.resource))
    }
}

/// All that wait. See the module.
#[derive(Debug, Default)]
pub struct Suspicions {
    pending: Mutex<BTreeMap<Content, (Instant, Suspicion)>>,
    changed: Notify,
    awaits_acks: AtomicBool,
}

impl Suspicions {
    /// A response was NACKed.
    pub(super) fn add(&self, suspicion: Suspicion) {
        if suspicion.suspects.iter().all(|suspect| suspect.documents.is_empty()) {
            return;
        }
        let content = suspicion.content();
        let mut pending = self.pending.lock();
        if let Some((_, known)) = pending.get_mut(&content) {
            if suspicion.breadth() < known.breadth() {
                *known = suspicion;
            }
            return;
        }
        if pending.len() < PENDING_MAX {
            pending.insert(content, (Instant::now() + PATIENCE, suspicion));
            self.changed.notify_one();
        }
    }

    /// A response was ACKed.
    pub(super) fn on_ack(&self) {
        if self.awaits_acks.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    /// Whether [`Suspicions::changed`] is to end with each ACK, too.
    pub fn await_acks(&self, awaits_acks: bool) {
        self.awaits_acks.store(awaits_acks, Ordering::Relaxed);
    }

    /// Ends when another NACK waits. One caller at a time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When the next NACK is to be judged.
    #[must_use]
    pub fn due_at(&self) -> Option<Instant> {
        self.pending.lock().values().map(|(due, _)| *due).min()
    }

    /// Take the NACKs that are to be judged now, the closest known first.
    #[must_use]
    pub fn take_due(&self, now: Instant) -> Vec<Suspicion> {
        let mut pending = self.pending.lock();
        let (due, waiting) = std::mem::take(&mut *pending)
            .into_iter()
            .partition(|(_, (due, _))| *due <= now);
        *pending = waiting;
        let due: BTreeMap<Content, (Instant, Suspicion)> = due;
        let mut due: Vec<Suspicion> = due.into_values().map(|(_, suspicion)| suspicion).collect();
        due.sort_by_key(Suspicion::breadth);
        due
    }

    /// Documents of these NACKs fall back: other NACKs of the same resources wait anew, until proxies have answered that.
    pub fn postpone(&self, judged: &[Suspicion], now: Instant) {
        for (due, waiting) in self.pending.lock().values_mut() {
            if judged.iter().any(|one| one.shares_a_resource(waiting)) {
                *due = now + PATIENCE;
            }
        }
    }

    /// Whether a NACK that waits may be of one of these documents.
    #[must_use]
    pub fn may_be_of(&self, documents: &BTreeSet<&DocumentKey>) -> bool {
        let pending = self.pending.lock();
        pending.values().any(|(_, suspicion)| suspicion.may_be_of(documents))
    }
}

/// Sorted.
type SubscribedNames = Arc<[Arc<str>]>;

/// The accepted and the refused resources of all clients.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Each set once, with the names that are subscribed of it, sorted; `None`: all.
    accepted: Vec<(Option<SubscribedNames>, Arc<ResourceSet>)>,
    known: HashSet<(usize, usize)>,
    nacks: Vec<(Arc<str>, UnresolvedNack)>,
}

impl Evidence {
    /// Many streams share a set and a list of names.
    pub(super) fn add_accepted(&mut self, names: Option<&SubscribedNames>, set: &Arc<ResourceSet>) {
        let names_at = names.map_or(0, |names| names.as_ptr().addr());
        if self.known.insert((names_at, Arc::as_ptr(set).addr())) {
            self.accepted.push((names.cloned(), Arc::clone(set)));
        }
    }

    pub(super) fn add_nacks(&mut self, node_id: &Arc<str>, nacks: &[UnresolvedNack]) {
        self.nacks
            .extend(nacks.iter().map(|nack| (Arc::clone(node_id), nack.clone())));
    }

    /// The resources of that name that clients have accepted, each once.
    fn accepted(&self, resource_type: ResourceType, name: &Arc<str>) -> Vec<&Arc<Resource>> {
        let mut accepted: Vec<&Arc<Resource>> = Vec::new();
        for (names, set) in &self.accepted {
            let Some(resource) = set.get(name).filter(|_| set.resource_type() == resource_type) else {
                continue;
            };
            let is_subscribed = match names {
                None => !resource.on_demand,
                Some(names) => names.binary_search(name).is_ok(),
            };
            if is_subscribed && !accepted.iter().any(|known| Arc::ptr_eq(known, resource)) {
                accepted.push(resource);
            }
        }
        accepted
    }
}

/// The outcome of a NACK that is laid on documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The documents, each with its refused resources.
    pub documents: BTreeMap<DocumentKey, Vec<RefusedResource>>,
    /// The nodes that refuse one of them.
    pub nodes: BTreeSet<Arc<str>>,
    /// `error_detail` of one of them.
    pub message: Arc<str>,
}

/// The proxies that refuse a document, in one sentence, and the message of one. `suspects`: how many documents may be
/// the cause.
#[must_use]
pub fn refusal_reason(nodes: &BTreeSet<Arc<str>>, suspects: usize, message: &str) -> String {
    let named: Vec<&str> = nodes.iter().take(NODES_NAMED).map(|node| &**node).collect();
    let named = named.join(", ");
    let by = match nodes.len() {
        1 => format!("refused by the proxy {named}"),
        many if many > NODES_NAMED => {
            format!("refused by {many} proxies, {named} and {} others", many - NODES_NAMED)
        }
        many => format!("refused by {many} proxies, {named}"),
    };
    let message = message.trim_end();
    match suspects {
        0 | 1 => format!("{by}: {message}"),
        many => format!("{by}, {many} documents may be the cause: {message}"),
    }
}

/// See [`super::Fleet::judge`].
pub(super) fn judge(suspicion: &Suspicion, evidence: &Evidence) -> Option<Judged> {
    let Some(suspects) = suspicion.suspects() else {
        return too_many();
    };
    let mut documents: BTreeMap<DocumentKey, Vec<RefusedResource>> = BTreeMap::new();
    for suspect in &*suspects {
        let accepted = evidence.accepted(suspicion.resource_type, &suspect.resource);
        for key in candidates(suspect, &accepted)? {
            let refused = suspect.refused(&suspicion.group, suspicion.resource_type, &key);
            if !accepted.iter().any(|resource| refused.is_in(&key, resource)) {
                documents.entry(key).or_default().push(refused);
            }
        }
    }
    if documents.is_empty() || documents.keys().any(|key| key.kind == Kind::Services) {
        return None;
    }
    if documents.len() > LAID_ON_MAX {
        return too_many();
    }

    // A proxy that refuses a later version with one of the documents. The first few tell, if there are many.
    let refuses = |nack: &UnresolvedNack| {
        let mut refused = documents
            .iter()
            .take(SUSPECTS_MAX)
            .flat_map(|(key, all)| all.iter().map(move |one| (key, one)));
        (suspicion.all.is_some() && suspicion.is_of(nack))
            || refused.any(|(key, one)| {
                one.resource_type == nack.resource_type && nack.suspects.iter().any(|suspect| suspect.has(key, one))
            })
    };
    let refusing: Vec<_> = evidence.nacks.iter().filter(|(_, nack)| refuses(nack)).collect();
    let message = Arc::clone(&refusing.first()?.1.message);
    let nodes = refusing.into_iter().map(|(node_id, _)| Arc::clone(node_id)).collect();
    Some(Judged {
        documents,
        nodes,
        message,
    })
}

/// An operator has to find the cause.
fn too_many<T>() -> Option<T> {
    warn!("A NACK may be of any of more than {LAID_ON_MAX} documents: none of them falls back");
    None
}

/// See [`super::Fleet::has_accepted`].
pub(super) fn has_accepted(document: &DocumentKey, resources: &[RefusedResource], evidence: &Evidence) -> bool {
    resources.iter().any(|refused| {
        let accepted = evidence.accepted(refused.resource_type, &refused.name);
        accepted.iter().any(|resource| refused.is_in(document, resource))
    })
}

/// The documents among which the cause is; `None`: nobody knows.
fn candidates(suspect: &Suspect, accepted: &[&Arc<Resource>]) -> Option<Vec<DocumentKey>> {
    if suspect.is_complete {
        return Some(suspect.documents.clone());
    }
    let parts = suspect.parts.as_ref()?;
    let mut accepted = accepted.iter().filter_map(|resource| resource.parts.as_ref());
    let Some(first) = accepted.next() else {
        return Some(parts.keys().take(LAID_ON_MAX + 1).cloned().collect());
    };
    let mut differing = differing(first, parts);
    for other in accepted {
        differing.retain(|key| other.get(key) != parts.get(key));
    }
    Some(differing)
}

fn differing(old: &Parts, new: &Parts) -> Vec<DocumentKey> {
    let differing = old.diff(new).filter_map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } => Some(key.clone()),
        DiffItem::Remove(..) => None,
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::fleet::{Fleet, Identity, Nonce, Sent, StreamHandle, Suspects};
    use crate::resource::compile::parts::Part;
    use crate::snapshot::version::SetVersion;

    fn connect(fleet: &Fleet, node_id: &str) -> StreamHandle {
        let handle = fleet.connect(Identity::of_test(node_id));
        handle.subscribed(ResourceType::Route, None);
        handle
    }

    fn route(name: &str) -> DocumentKey {
        DocumentKey::new(Kind::Routes, name)
    }

    /// A table with these revisions of documents.
    fn table(parts: &[(&str, i64)]) -> Arc<Resource> {
        let part = |revision| Part {
            revision,
            upstreams: Arc::new([]),
        };
        let of = parts.iter().map(|(name, revision)| (route(name), part(*revision)));
        let version = ResourceVersion::of(format!("{parts:?}").as_bytes());
        Arc::new(Resource::put_together("edge".into(), version, "".into(), of.collect()))
    }

    fn set(table: &Arc<Resource>) -> Arc<ResourceSet> {
        let entry = (Arc::clone(&table.name), Some(Arc::clone(table)));
        Arc::new(ResourceSet::new(ResourceType::Route).apply(&[entry]))
    }

    fn sent() -> Sent {
        Sent {
            version: SetVersion(1),
            nonce: Some(Nonce::new(0, 1)),
            at: SystemTime::UNIX_EPOCH,
        }
    }

    fn nack(handle: &StreamHandle, table: &Arc<Resource>, documents: &[&str], is_complete: bool) {
        let suspect = Suspect {
            resource: Arc::clone(&table.name),
            version: table.version,
            documents: documents.iter().map(|name| route(name)).collect(),
            is_complete,
            parts: table.parts.clone(),
        };
        handle.nacked(ResourceType::Route, &sent(), 13, "no", 1, vec![suspect]);
    }

    /// What is judged when the time is over: the documents, a list for each NACK.
    fn judged(fleet: &Fleet) -> Vec<Option<Vec<String>>> {
        assert!(fleet.suspicions().take_due(Instant::now()).is_empty());
        let due = fleet.suspicions().take_due(Instant::now() + PATIENCE);
        let names = |judged: Judged| judged.documents.keys().map(ToString::to_string).collect();
        due.iter().map(|one| fleet.judge(one).map(names)).collect()
    }

    fn laid_on(documents: &[&str]) -> Option<Vec<String>> {
        Some(documents.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_no_proxy_has_accepted_is_laid_on_its_documents() {
        let fleet = Fleet::default();
        let (one, two) = (connect(&fleet, "n1"), connect(&fleet, "n2"));
        let bad = table(&[("a", 2), ("b", 1)]);
        nack(&one, &bad, &["a"], true);
        nack(&two, &bad, &["a"], true);
        assert_eq!(
            judged(&fleet),
            [laid_on(&["routes/a"])],
            "the same content is judged once"
        );
        assert_eq!(fleet.suspicions().due_at(), None);
    }

    #[test]
    fn what_another_proxy_has_accepted_is_the_trouble_of_one_host() {
        for is_connected in [true, false] {
            let fleet = Fleet::default();
            let (one, two) = (connect(&fleet, "n1"), connect(&fleet, "n2"));
            let bad = table(&[("a", 2), ("b", 1)]);
            // Another table with the same text of the document.
            two.holds(ResourceType::Route, Some(&set(&table(&[("a", 2), ("b", 7)]))));
            if !is_connected {
                drop(two);
            }
            nack(&one, &bad, &["a"], true);
            assert_eq!(judged(&fleet), [None]);
            assert!(fleet.has_accepted(&route("a"), &[refused(&bad, "a")]));
            assert!(!fleet.has_accepted(&route("b"), &[refused(&bad, "b")]));
        }
    }

    fn refused(table: &Arc<Resource>, name: &str) -> RefusedResource {
        RefusedResource {
            group: "default".into(),
            resource_type: ResourceType::Route,
            name: Arc::clone(&table.name),
            version: table.version,
            part: table.parts.as_ref().map(|parts| parts[&route(name)].revision),
        }
    }

    #[test]
    fn a_proxy_has_accepted_only_what_it_subscribes_to() {
        let fleet = Fleet::default();
        let (one, two) = (connect(&fleet, "n1"), connect(&fleet, "n2"));
        let bad = table(&[("a", 2)]);
        two.subscribed(ResourceType::Route, Some(&Arc::from(["another".into()])));
        two.holds(ResourceType::Route, Some(&set(&bad)));
        nack(&one, &bad, &["a"], true);
        assert_eq!(judged(&fleet), [laid_on(&["routes/a"])]);
    }

    #[test]
    fn a_nack_that_is_resolved_is_laid_on_nothing() {
        let fleet = Fleet::default();
        let one = connect(&fleet, "n1");
        nack(&one, &table(&[("a", 2)]), &["a"], true);
        one.resolve(ResourceType::Route, |_| None);
        assert_eq!(judged(&fleet), [None]);
    }

    #[test]
    fn a_new_proxy_leads_to_what_the_others_have_not_accepted() {
        let fleet = Fleet::default();
        let (new, other) = (connect(&fleet, "n1"), connect(&fleet, "n2"));
        let many: Vec<String> = (0..100).map(|number| format!("r{number}")).collect();
        let parts = |revision| -> Vec<(&str, i64)> {
            let of = |name: &String| if *name == "r77" { revision } else { 1 };
            many.iter().map(|name| (&**name, of(name))).collect()
        };
        let bad = table(&parts(2));
        nack(&new, &bad, &["r0", "r1"], false);
        let all: Vec<String> = bad.parts.as_ref().unwrap().keys().map(ToString::to_string).collect();
        assert_eq!(judged(&fleet), [Some(all)], "any of a hundred may be the cause");
        other.holds(ResourceType::Route, Some(&set(&table(&parts(1)))));
        nack(&new, &bad, &["r0", "r1"], false);
        assert_eq!(judged(&fleet), [laid_on(&["routes/r77"])]);
    }

    fn cluster(name: &str) -> Arc<Resource> {
        let document = DocumentKey::new(Kind::Clusters, name);
        Arc::new(Resource::new(name, name.as_bytes().to_vec(), vec![document]))
    }

    #[test]
    fn of_many_resources_all_may_be_the_cause_that_no_other_proxy_has_accepted() {
        let fleet = Fleet::default();
        let (new, other) = (connect(&fleet, "n1"), connect(&fleet, "n2"));
        let clusters: Vec<_> = (0..100).map(|number| cluster(&format!("c{number:02}"))).collect();
        let nack = || {
            let suspects = Suspects {
                shown: clusters[..SUSPECTS_MAX].iter().map(|one| Suspect::of(one)).collect(),
                all: Some(clusters.as_slice().into()),
            };
            new.nacked(ResourceType::Cluster, &sent(), 13, "no", 1, suspects);
        };
        nack();
        assert!(
            fleet
                .suspicions()
                .may_be_of(&[&DocumentKey::new(Kind::Clusters, "c77")].into())
        );
        let names: Vec<String> = (0..100).map(|number| format!("clusters/c{number:02}")).collect();
        assert_eq!(judged(&fleet), [Some(names.clone())]);

        let accepted: Vec<_> = clusters[..90]
            .iter()
            .map(|one| (Arc::clone(&one.name), Some(Arc::clone(one))))
            .collect();
        other.subscribed(ResourceType::Cluster, None);
        let accepted = Arc::new(ResourceSet::new(ResourceType::Cluster).apply(&accepted));
        other.holds(ResourceType::Cluster, Some(&accepted));
        nack();
        assert_eq!(judged(&fleet), [Some(names[90..].to_vec())]);
    }

    #[test]
    fn a_nack_of_too_many_resources_is_laid_on_none() {
        let fleet = Fleet::default();
        let one = connect(&fleet, "n1");
        let suspects = Suspects {
            shown: vec![Suspect::of(&cluster("a"))],
            all: Some(Arc::default()),
        };
        one.nacked(ResourceType::Cluster, &sent(), 13, "no", 1, suspects);
        assert_eq!(judged(&fleet), [None]);
    }

    #[test]
    fn of_two_nacks_of_one_content_the_closer_list_counts() {
        let fleet = Fleet::default();
        let (one, two) = (connect(&fleet, "n1"), connect(&fleet, "n2"));
        let bad = table(&[("a", 2), ("b", 2)]);
        nack(&one, &bad, &["a", "b"], true);
        nack(&two, &bad, &["b"], true);
        nack(&one, &bad, &["a", "b"], true);
        assert_eq!(judged(&fleet), [laid_on(&["routes/b"])]);
    }

    #[test]
    fn registrations_do_not_fall_back() {
        let fleet = Fleet::default();
        let one = connect(&fleet, "n1");
        let suspect = Suspect {
            resource: "x".into(),
            version: ResourceVersion::of(b"x"),
            documents: vec![DocumentKey::new(Kind::Services, "x/1")],
            is_complete: true,
            parts: None,
        };
        one.nacked(ResourceType::Endpoint, &sent(), 13, "no", 1, vec![suspect]);
        assert_eq!(judged(&fleet), [None]);
    }

    #[test]
    fn what_falls_back_makes_other_nacks_of_the_resource_wait_anew() {
        let fleet = Fleet::default();
        let one = connect(&fleet, "n1");
        nack(&one, &table(&[("a", 2)]), &["a"], true);
        let due = fleet.suspicions().take_due(Instant::now() + PATIENCE);
        nack(&one, &table(&[("a", 2), ("b", 2)]), &["a", "b"], true);
        assert!(fleet.suspicions().may_be_of(&[&route("b")].into()));
        let later = Instant::now() + PATIENCE;
        fleet.suspicions().postpone(&due, later);
        assert!(fleet.suspicions().take_due(later).is_empty());
        assert_eq!(fleet.suspicions().take_due(later + PATIENCE).len(), 1);
    }

    #[test]
    fn the_reason_says_who_and_how_sure_it_is() {
        let reason = |nodes: &[&str], suspects| {
            let nodes = nodes.iter().map(|node| Arc::from(*node)).collect();
            refusal_reason(&nodes, suspects, "no\n")
        };
        assert_eq!(reason(&["n1"], 1), "refused by the proxy n1: no");
        assert_eq!(reason(&["n2", "n1"], 1), "refused by 2 proxies, n1, n2: no");
        let many = reason(&["1", "2", "3", "4", "5", "6", "7"], 1);
        assert_eq!(many, "refused by 7 proxies, 1, 2, 3, 4, 5 and 2 others: no");
        assert_eq!(
            reason(&["n1"], 3),
            "refused by the proxy n1, 3 documents may be the cause: no"
        );
    }
}
