//! A model of Envoy and gRPC clients (docs/xds-rules.md, Facts), and the responses that they must never get.
//!
//! For each type the model keeps:
//!
//! - the subscription;
//! - `received`: the resources it would have if it had applied every response of this stream;
//! - `applied`: the resources of answered responses; of a NACKed one an arbitrary part of the good ones (F-14);
//! - the NACKed resources.
//!
//! Each response is checked when it arrives, each silence when it is observed, the whole state at the end.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Ack, Outcome, Session, Settings};
use super::statistics::Statistics;
use super::wire::{Asking, EMPTY, Said};
use super::world::{
    BAD, CLUSTER, Contents, ENDPOINT, EXTENSION, LISTENER, Moment, NAMES, ON_DEMAND, ROUTE, SCOPED, SECRET, TYPES,
    World, letter, referrers, refers, version,
};
use crate::fleet::{Nonce, Variant};
use crate::resource::ResourceType;
use crate::snapshot::Snapshot;
use crate::snapshot::version::SetVersion;
use crate::xds::stream::interest;

pub(super) const ALL_NAMES: u8 = (1 << NAMES) - 1;
/// The longest wait of a removal for a client that sends neither ACK nor NACK (AD-02).
const SILENCE: Duration = Duration::from_secs(60);
/// A client without ACK or NACK for clusters for so long, which answers other types, is stuck (AD-13).
const STUCK: Duration = Duration::from_secs(20);
/// The longest wait for warm clusters, of a change and of the first response to a reconnected client (SW-28).
const WARM: Duration = Duration::from_secs(5);
/// A delta stream gets a response within this time (GR-08).
const GREETING: Duration = Duration::from_secs(1);

/// The order of types within a flush (AD-01): a type after those that it refers to. By type.
const RANK: [u8; TYPES] = [0, 1, 2, 3, 3, 5, 6, 7];

pub(super) type Checked = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// A response without ACK or NACK.
#[derive(Debug)]
struct Taken {
    nonce: Nonce,
    version: SetVersion,
    items: Contents,
    removed: u8,
    /// Names that were not subscribed at the response, or at some time since.
    dropped: u8,
    /// Names that were removed at some time since, without a response about it.
    forsaken: u8,
    /// Clusters: all of them at the response, subscribed or not.
    all: Option<Contents>,
    at: Instant,
}

/// One type, as the client sees it.
#[derive(Debug, Default)]
pub(super) struct Type {
    /// A request went out on this stream.
    pub(super) opened: bool,
    pub(super) wildcard: bool,
    pub(super) names: u8,
    named_before: bool,
    /// Subscribed resources that are owed a response.
    must: u8,
    /// Unchanged resources that the session may send again.
    may: u8,
    received: Contents,
    /// Delta: sent, reported or subscribed on this stream.
    spoken: u8,
    /// Sent on this stream while subscribed.
    sent: u8,
    /// Delta: the client reported resources on this stream.
    came_back: bool,
    /// The earliest moment at which the first response may have begun to wait for clusters.
    waits_since: Option<Instant>,
    /// At least one response arrived on this stream; a greeting does not count.
    got_response: bool,
    /// The version of each resource that is NACKed.
    refused: Contents,
    pub(super) applied: Contents,
    /// Resources of ACKed responses.
    reportable: u8,
    /// Applied resources that no server can know of.
    loose: u8,
    /// SotW: its version is the current one, but its resources are not: a part of a NACKed response, or nothing because
    /// the client subscribed to less. A session cannot know this; the NACKs of an earlier stream are not its own.
    misreported: u8,
    /// Subscribed and missing, while a stale snapshot withheld the answer: owed once it exists.
    absent: u8,
    /// Missing while another resource referred to it: it may be removed at any time.
    dangling: u8,
    /// Delta: the wildcard was subscribed, and no response came since.
    star_asked: bool,
    /// SotW: removed at some time without a response about it. No resource can have used it since.
    forsaken: u8,
    /// Applied on an earlier stream and not reported, or removed in a NACKed response: no server knows that it uses
    /// another resource.
    unreported: u8,
    /// SotW: no response was needed at some time: these resources, and those that the client has in another version.
    perhaps: Option<(Contents, u8)>,
    /// Changes that wait for clusters.
    kept: [Option<Kept>; NAMES],
    inbox: VecDeque<Taken>,
    /// SotW: the next request: the version of the last ACK, the nonce of the last response.
    version: String,
    nonce: String,
    older: Vec<String>,
    maybe_fresh: bool,
    surely_fresh: bool,
    responses: usize,
    /// SotW: content and version, each of which determines the other.
    versions: Vec<(u64, SetVersion)>,
}

/// A change that the client did not get yet, because it names clusters that are not warm.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// The content after the change.
    content: u8,
    /// The clusters that the change waits for: the set that the session may take for cold, and the set that it must. Known
    /// once its type surely had its turn.
    needs: Option<(u8, u8)>,
    /// The change was undone in between, which the session may not have seen: the wait for the same clusters goes on.
    was_back: bool,
    /// The earliest and the latest moment at which the wait may have begun.
    since: Option<Instant>,
    earliest: Instant,
}

/// The subscription changes of a request.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Edit {
    pub(super) star: bool,
    pub(super) names: u8,
    pub(super) unstar: bool,
    pub(super) unnames: u8,
}

/// The answer to a response.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    Ack,
    /// The resources that are applied nevertheless; `None`: none, and no removal either.
    Nack(Option<u8>),
}

pub(super) struct Client<'a> {
    pub(super) variant: Variant,
    pub(super) types: [Type; TYPES],
    pub(super) now: Instant,
    world: &'a World,
    session: Session,
    salt: u32,
    pub(super) moment: usize,
    pub(super) stale: bool,
    pub(super) published: bool,
    other_replica: bool,
    /// The snapshot that the session saw last.
    looked_at: Option<Snapshot>,
    pub(super) in_edge: bool,
    introduced: bool,
    reported: bool,
    nonces: HashSet<Nonce>,
    previous_stream_nonce: String,
    opened_at: Option<Instant>,
    /// Endpoints whose cluster was sent: they follow in this flush. And all endpoints that may follow without a
    /// request.
    warm_due: u8,
    warm_may: u8,
    /// The order that the responses since the last event have reached.
    pub(super) flush: Option<u8>,
    unserved: usize,
    /// The clusters that existed when the session last checked them, and when it sent the last answered response.
    clusters: (Option<Contents>, Option<Contents>),
    /// Changes that waited for clusters.
    pub(super) kept_back: usize,
    pub(super) log: Option<Vec<String>>,
}

pub(super) fn knows_wildcard(of: usize) -> bool {
    matches!(of, CLUSTER | LISTENER | SCOPED)
}

fn bits(contents: &Contents) -> u8 {
    (0..NAMES)
        .filter(|name| contents[*name] != 0)
        .fold(0, |all, name| all | 1 << name)
}

fn each(mask: u8) -> impl Iterator<Item = usize> {
    let mut left = mask & ALL_NAMES;
    std::iter::from_fn(move || {
        let name = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (name < NAMES).then_some(name)
    })
}

fn key(contents: &Contents) -> u64 {
    contents.iter().fold(0, |key, content| key << 8 | u64::from(*content))
}

fn text(contents: &Contents, removed: u8) -> String {
    let resources = each(bits(contents)).map(|name| match contents[name] {
        EMPTY => format!("{}@empty", letter(name)),
        content => format!(
            "{}@{}{}",
            letter(name),
            content & !BAD,
            if content & BAD == 0 { "" } else { "!" }
        ),
    });
    resources
        .chain(each(removed).map(|name| format!("-{}", letter(name))))
        .collect::<Vec<_>>()
        .join(",")
}

impl Type {
    /// The first request of a type after a reconnect: the whole subscription. A wildcard alone is a legacy one.
    fn ask_again(&mut self, edit: &mut Edit) {
        let wildcard = std::mem::take(&mut self.wildcard);
        edit.names |= std::mem::take(&mut self.names);
        edit.star |= wildcard && (edit.names | edit.unnames != 0 || edit.unstar);
    }

    fn covered(&self, of: usize) -> u8 {
        let wild = if self.wildcard { ALL_NAMES & !on_demand(of) } else { 0 };
        wild | self.names
    }
}

fn on_demand(of: usize) -> u8 {
    if of == ON_DEMAND.0 { 1 << ON_DEMAND.1 } else { 0 }
}

fn name_of(of: usize) -> ResourceType {
    ResourceType::ALL[of]
}

impl<'a> Client<'a> {
    pub(super) fn new(variant: Variant, world: &'a World, origin: Instant) -> Self {
        Self {
            variant,
            types: Default::default(),
            now: origin,
            world,
            session: session(variant, world, 1),
            salt: 1,
            moment: 0,
            stale: false,
            published: true,
            other_replica: false,
            looked_at: None,
            in_edge: false,
            introduced: false,
            reported: false,
            nonces: HashSet::new(),
            previous_stream_nonce: String::new(),
            opened_at: None,
            warm_due: 0,
            warm_may: 0,
            flush: None,
            unserved: 0,
            clusters: (None, None),
            kept_back: 0,
            log: None,
        }
    }

    fn delta(&self) -> bool {
        self.variant == Variant::Delta
    }

    /// Whether a response must carry every subscribed resource, because the client removes all others.
    fn full(&self, of: usize) -> bool {
        !self.delta() && knows_wildcard(of)
    }

    fn here(&self) -> &'a Moment {
        &self.world.moments[self.moment]
    }

    /// The content of the client's group.
    fn served(&self) -> &'a super::world::Catalog {
        let moment = self.here();
        &moment.groups[usize::from(moment.everybody_moved || self.in_edge)]
    }

    fn cautious(&self) -> bool {
        self.stale && self.reported
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(line());
        }
    }

    // ---- requests ----

    /// Subscribe without an ACK or NACK.
    pub(super) fn ask(&mut self, of: usize, edit: Edit) -> Checked {
        let nonce = if self.delta() {
            String::new()
        } else {
            self.types[of].nonce.clone()
        };
        self.request(of, edit, nonce, false, None)
    }

    /// A nonce of no response, or of one that was answered.
    pub(super) fn ask_stale(&mut self, of: usize, edit: Edit, word: u64) -> Checked {
        let own = &self.types[of];
        let nonce = match word % 4 {
            0 => "bogus".to_owned(),
            1 => self.previous_stream_nonce.clone(),
            _ => own
                .older
                .get(word as usize / 4 % own.older.len().max(1))
                .cloned()
                .unwrap_or_default(),
        };
        self.request(of, edit, nonce, word & 64 != 0, None)
    }

    fn request(&mut self, of: usize, mut edit: Edit, nonce: String, refused: bool, answered: Option<usize>) -> Checked {
        self.flush = None;
        let first = !self.types[of].opened;
        if first {
            self.types[of].ask_again(&mut edit);
        }
        let mut asking = Asking {
            type_url: name_of(of).type_url(),
            nonce,
            refused,
            ..Asking::default()
        };
        asking.node = (!self.introduced || self.types[of].responses % 4 == 1).then(|| self.cluster());
        self.introduced = true;
        self.opened_at = self.opened_at.or(Some(self.now));
        let changed = if self.delta() {
            self.write_delta(of, edit, first, &mut asking)
        } else {
            self.write_sotw(of, edit, first, answered.is_some(), &mut asking)
        };
        self.note(|| format!("  {} <- {asking:?}", name_of(of)));
        let outcome = self.send(&asking)?;
        ensure!(
            outcome.resource_type == Some(name_of(of)),
            "the outcome is of {:?}",
            outcome.resource_type
        );
        ensure!(
            outcome.resubscribed == (first || changed),
            "the outcome says {}, the subscription changed {changed}",
            outcome.resubscribed
        );
        self.check_answer(of, &asking, &outcome, answered.filter(|_| !first))?;
        let own = &self.types[of];
        let (wildcard, names) = self.session.subscription(name_of(of)).ok_or("no subscription")?;
        let names = names
            .iter()
            .filter_map(|name| super::world::of_letter(name.as_bytes()[0]));
        let names = names.fold(0, |all, name| all | 1 << name);
        ensure!(
            (wildcard, names) == (own.wildcard, own.names),
            "the session has {wildcard} {names:06b}, the client asked for {} {:06b}",
            own.wildcard,
            own.names
        );
        Ok(())
    }

    fn send(&mut self, asking: &Asking) -> Result<Outcome, String> {
        let bytes = if self.delta() { asking.delta() } else { asking.sotw() };
        self.session
            .on_request(bytes.into(), self.now)
            .map_err(|error| error.to_string())
    }

    fn cluster(&self) -> &'static str {
        if self.in_edge { "edge" } else { "c" }
    }

    /// The whole list and its meaning (SW-02 to SW-08, SW-17 to SW-22).
    fn write_sotw(&mut self, of: usize, edit: Edit, first: bool, answered: bool, asking: &mut Asking) -> bool {
        let own = &mut self.types[of];
        let star = (own.wildcard && own.named_before || edit.star) && !edit.unstar;
        let names = (own.names | edit.names) & !edit.unnames;
        // An empty list is the legacy wildcard if the client has never named a resource.
        let (before, names_before) = (own.wildcard, own.names);
        asking.names = each(names).map(letter).chain(star.then_some("*")).collect();
        asking.version.clone_from(&own.version);
        if asking.names.is_empty() {
            own.wildcard = !own.named_before && knows_wildcard(of);
        } else {
            own.named_before = true;
            own.wildcard = star && knows_wildcard(of);
        }
        own.names = names;
        own.must |= names & !names_before;
        if first {
            own.opened = true;
            own.must |= names;
            own.may = ALL_NAMES;
            own.received = [0; NAMES];
            self.reported |= !own.version.is_empty();
        } else if own.wildcard && !before {
            own.may = ALL_NAMES;
        } else if names == names_before {
            // A repeated request subscribes again to withheld resources.
            own.may |= if answered { 0 } else { bits(&own.refused) };
        }
        let changed = own.wildcard != before || names != names_before;
        self.forget_uncovered(of);
        changed
    }

    /// The edits and their meaning (DX-01 to DX-09, DX-12 to DX-15).
    fn write_delta(&mut self, of: usize, edit: Edit, first: bool, asking: &mut Asking) -> bool {
        asking.names = each(edit.names).map(letter).chain(edit.star.then_some("*")).collect();
        asking.unsubscribed = each(edit.unnames)
            .map(letter)
            .chain(edit.unstar.then_some("*"))
            .collect();
        let own = &mut self.types[of];
        let (before, names_before) = (own.wildcard, own.names);
        let legacy = first && asking.names.is_empty() && asking.unsubscribed.is_empty();
        let star = (edit.star || legacy) && knows_wildcard(of);
        own.wildcard |= star;
        own.names |= edit.names;
        let mut asked = edit.names;
        let gone = own.names & edit.unnames;
        own.names &= !gone;
        asked &= !gone;
        let lost = own.wildcard && edit.unstar;
        own.wildcard &= !edit.unstar;
        if own.wildcard {
            asked |= gone;
        }
        own.must |= asked;
        own.may |= asked;
        if star && !edit.unstar {
            own.may = ALL_NAMES;
            own.star_asked = true;
        }
        own.spoken |= edit.names;
        let grown = edit.names & !names_before != 0 || (star && !before);
        if first {
            own.opened = true;
            own.may = ALL_NAMES;
            own.received = [0; NAMES];
            let reported = own.reportable & bits(&own.applied);
            for name in each(reported) {
                asking.initial.push((letter(name), version(name, own.applied[name])));
                own.received[name] = own.applied[name];
            }
            own.spoken |= reported;
            self.reported |= reported != 0;
            own.came_back = reported != 0;
            own.must &= own.names;
            if of != ENDPOINT {
                // Equal resources need not be sent again.
                own.must &= !reported;
            }
        }
        let changed = grown || gone != 0 || lost || legacy && own.wildcard;
        self.forget_uncovered(of);
        changed
    }

    /// Drop resources that are no longer subscribed.
    fn forget_uncovered(&mut self, of: usize) {
        let own = &mut self.types[of];
        let covered = own.covered(of);
        for name in each(!covered & ALL_NAMES) {
            own.applied[name] = 0;
            own.received[name] = 0;
            if let Some((received, _)) = &mut own.perhaps {
                received[name] = 0;
            }
        }
        own.must &= covered;
        own.loose &= covered;
        own.unreported &= covered;
        own.inbox.iter_mut().for_each(|taken| taken.dropped |= !covered);
    }

    pub(super) fn ask_unserved(&mut self, names: usize) -> Checked {
        self.flush = None;
        let names: Vec<_> = ["q", "r"].into_iter().take(names).collect();
        let type_url = "type.googleapis.com/acme.Foo";
        let mut asking = Asking {
            type_url,
            names,
            ..Asking::default()
        };
        asking.node = (!self.introduced).then(|| self.cluster());
        self.introduced = true;
        self.opened_at = self.opened_at.or(Some(self.now));
        self.note(|| format!("  {asking:?}"));
        let outcome = self.send(&asking)?;
        ensure!(
            outcome.resource_type.is_none() && outcome.acked.is_none(),
            "GEN-05: {outcome:?}"
        );
        self.unserved += usize::from(self.delta());
        Ok(())
    }

    /// The node reports the other cluster from now on, which changes its group.
    pub(super) fn move_node(&mut self, of: usize) -> Checked {
        self.in_edge = !self.in_edge;
        self.introduced = false;
        self.ask(of, Edit::default())
    }

    // ---- answers ----

    pub(super) fn unanswered(&self, of: usize) -> usize {
        self.types[of].inbox.len()
    }

    /// Send an ACK for one of the responses in flight; earlier responses are answered by it too.
    pub(super) fn answer(&mut self, of: usize, index: usize, mut reply: Reply, edit: Edit) -> Checked {
        let full = self.full(of);
        let own = &mut self.types[of];
        for _ in 0..index {
            if let Some(skipped) = own.inbox.pop_front() {
                own.older.push(skipped.nonce.to_string());
                own.apply(of, &skipped, full, None);
            }
        }
        let Some(taken) = own.inbox.pop_front() else {
            return Ok(());
        };
        if matches!(reply, Reply::Ack) && taken.items.iter().any(|content| content & BAD != 0) {
            reply = Reply::Nack(Some(ALL_NAMES));
        }
        if matches!(reply, Reply::Nack(None)) && bits(&taken.items) == 0 {
            // If nothing is applied, a resource did not decode, and names do (F-14).
            reply = Reply::Nack(Some(ALL_NAMES));
        }
        own.apply(of, &taken, full, Some(reply));
        if of == CLUSTER {
            let all = if own.inbox.is_empty() {
                self.clusters.0
            } else {
                taken.all
            };
            self.clusters.1 = all.or(self.clusters.1);
        }
        if of == ENDPOINT {
            // Endpoints that were withheld after a NACK may follow now.
            self.warm_may |= self.warm_due;
        }
        let own = &mut self.types[of];
        own.nonce = taken.nonce.to_string();
        own.older.push(taken.nonce.to_string());
        if matches!(reply, Reply::Ack) {
            own.version = taken.version.to_string();
        }
        self.note(|| format!("{} {reply:?} [{}]", name_of(of), text(&taken.items, taken.removed)));
        let position = Some(0);
        let (nonce, refused) = (taken.nonce.to_string(), matches!(reply, Reply::Nack(_)));
        self.types[of].inbox.push_front(taken);
        self.request(of, edit, nonce, refused, position)?;
        self.types[of].inbox.pop_front();
        Ok(())
    }

    /// The session reports each ACK and NACK of the client, and no other.
    fn check_answer(&self, of: usize, asking: &Asking, outcome: &Outcome, answered: Option<usize>) -> Checked {
        let Some(taken) = answered.and_then(|index| self.types[of].inbox.get(index)) else {
            ensure!(
                outcome.acked.is_none(),
                "an answer is reported that was none: {:?}",
                outcome.acked
            );
            return Ok(());
        };
        let Some(answer) = &outcome.acked else {
            return Err("an answer is not reported".to_owned());
        };
        ensure!(
            (&answer.nonce, answer.version) == (&taken.nonce, taken.version),
            "the answer to {} is reported as one to {}",
            taken.nonce,
            answer.nonce
        );
        match &answer.ack {
            Ack::Ack => ensure!(!asking.refused, "a NACK is reported as an ACK"),
            Ack::Nack {
                code, message, names, ..
            } => {
                ensure!(asking.refused, "GEN-15: an ACK is reported as a NACK");
                ensure!((*code, &**message) == (13, "no"), "the words are {code} {message:?}");
                let carried = each(bits(&taken.items)).count();
                ensure!(names.len() == carried, "{} names are refused of {carried}", names.len());
            }
        }
        Ok(())
    }
}

impl Type {
    /// The effect of a response. `reply`: `None` if the client sends neither ACK nor NACK.
    fn apply(&mut self, of: usize, taken: &Taken, full: bool, reply: Option<Reply>) {
        let covered = self.covered(of) & !taken.dropped;
        let carried = bits(&taken.items);
        let accepted = match reply {
            None | Some(Reply::Ack) => carried,
            Some(Reply::Nack(good)) => {
                let bad = each(carried).filter(|name| taken.items[*name] & BAD != 0);
                carried & good.unwrap_or(0) & !bad.fold(0, |all, name| all | 1 << name)
            }
        };
        let gone = if full {
            bits(&self.applied) & !carried
        } else {
            taken.removed
        };
        if matches!(reply, Some(Reply::Nack(None))) {
            self.loose |= gone & bits(&self.applied);
        } else {
            each(gone).for_each(|name| self.applied[name] = 0);
            self.loose &= !gone;
            self.unreported &= !gone;
        }
        for name in each(accepted & covered) {
            self.applied[name] = if taken.items[name] == EMPTY {
                0
            } else {
                taken.items[name]
            };
        }
        match reply {
            None => self.reportable |= accepted,
            Some(Reply::Ack) => {
                self.reportable |= accepted;
                // Removals in a NACKed response are waited for until a later response is ACKed.
                self.unreported |= self.loose;
                let resolved = if full { ALL_NAMES } else { carried | taken.removed };
                each(resolved).for_each(|name| self.refused[name] = 0);
            }
            Some(Reply::Nack(_)) => {
                self.reportable &= !carried;
                each(carried).for_each(|name| self.refused[name] = taken.items[name]);
                each(taken.removed).for_each(|name| self.refused[name] = 0);
            }
        }
        self.loose &= !accepted;
        self.unreported &= !accepted;
        self.forsaken &= !accepted | taken.forsaken;
    }
}

fn session(variant: Variant, world: &World, salt: u32) -> Session {
    Session::new(Settings {
        variant,
        service_type: None,
        identifier: "test".into(),
        salt,
        interner: Arc::clone(&world.interner),
        secrets: true,
    })
}

impl Client<'_> {
    // ---- streams ----

    /// The stream ends and another begins, perhaps on another replica. `seen`: responses without ACK or NACK were
    /// applied.
    pub(super) fn reconnect(&mut self, other_replica: bool, seen: bool) {
        self.note(|| format!("reconnect, other replica: {other_replica}"));
        self.salt += 1;
        self.session = session(self.variant, self.world, self.salt);
        self.other_replica = other_replica;
        for of in 0..TYPES {
            let full = self.full(of);
            let own = &mut self.types[of];
            while let Some(taken) = own.inbox.pop_front().filter(|_| seen) {
                own.apply(of, &taken, full, None);
                own.version = taken.version.to_string();
            }
            let before = std::mem::take(own);
            // The subscription is repeated; resources that are not reported are unknown to every server.
            let unreported = if self.variant == Variant::Sotw && before.version.is_empty() {
                ALL_NAMES
            } else {
                !before.reportable
            };
            let loose = before.loose | bits(&before.applied) & unreported;
            let unreported = bits(&before.applied) & unreported;
            *own = Type {
                applied: before.applied,
                loose,
                unreported,
                reportable: before.reportable,
                ..Type::default()
            };
            own.version = before.version;
            own.versions = before.versions;
            own.wildcard = before.wildcard;
            own.names = before.names;
            if !before.nonce.is_empty() {
                self.previous_stream_nonce = before.nonce;
            }
        }
        self.nonces.clear();
        (self.introduced, self.reported, self.opened_at) = (false, false, None);
        (self.warm_due, self.warm_may, self.flush, self.unserved) = (0, 0, None, 0);
        self.clusters = (None, None);
    }

    /// The subscription of the last stream that is not repeated yet on this one.
    pub(super) fn is_to_be_reopened(&self, of: usize) -> bool {
        let own = &self.types[of];
        !own.opened && (own.wildcard || own.names != 0)
    }

    // ---- responses ----

    fn snapshot(&self) -> Option<Snapshot> {
        // A copy that shares all content: only the flag differs.
        self.stale.then(|| Snapshot {
            stale: true,
            ..self.here().snapshot(self.other_replica).clone()
        })
    }

    /// Take the next response. Gives whether there was one.
    pub(super) fn take(&mut self, statistics: &mut Statistics) -> Result<bool, String> {
        let own = self.snapshot();
        let unpublished = (!self.published).then(Snapshot::unpublished);
        let published = self.here().snapshot(self.other_replica);
        let snapshot = unpublished.as_ref().or(own.as_ref()).unwrap_or(published);
        let endpoints = self.session.endpoints_alone();
        let looked_at = self.looked_at.as_ref().filter(|_| endpoints.is_some());
        let passed_over = looked_at.is_some_and(|looked_at| !interest::is_woken(looked_at, snapshot, endpoints));
        let response = self.session.next_response(snapshot, self.now);
        self.looked_at = Some(snapshot.clone());
        ensure!(
            !passed_over || response.is_none(),
            "a stream owes a response and announced no event"
        );
        self.before_response();
        self.look_at_clusters(response.as_ref().map(|response| response.resource_type));
        let Some(response) = response else {
            self.check_silence()?;
            return Ok(false);
        };
        ensure!(self.published, "a response before anything is published");
        ensure!(self.nonces.insert(response.nonce), "GEN-07: {} twice", response.nonce);
        let served = response.resource_type.unwrap_or(ResourceType::Runtime);
        let said = Said::read(served, self.delta(), &response.head, response.blocks.pieces())?;
        ensure!(
            said.nonce == response.nonce.to_string().as_bytes(),
            "the nonce is not in the head"
        );
        ensure!(
            self.delta() || said.version == response.version.to_string().as_bytes(),
            "another version in the head"
        );
        let Some(resource_type) = response.resource_type else {
            return self.on_unserved(&said).map(|()| true);
        };
        let of = resource_type.index();
        self.take_silence_for_word(of.min(TYPES));
        self.note_absent();
        ensure!(
            said.type_url == resource_type.type_url().as_bytes(),
            "GEN-06: another type_url in the head"
        );
        self.note(|| {
            format!(
                "{resource_type} -> [{}] nonce {}",
                text(&said.items, said.removed),
                response.nonce
            )
        });
        self.on_response(of, &said, response.version)?;
        let Said { items, removed, .. } = said;
        let (nonce, version, at) = (response.nonce, response.version, self.now);
        let (dropped, greets) = (!self.types[of].covered(of), bits(&items) == 0 && removed == 0);
        let all = (of == CLUSTER && !(self.delta() && greets)).then(|| self.served()[CLUSTER]);
        self.types[of].inbox.push_back(Taken {
            nonce,
            version,
            items,
            removed,
            dropped,
            forsaken: 0,
            all,
            at,
        });
        self.types[of].responses += 1;
        self.note_kept(of + 1);
        statistics.on_response(self.types.iter().map(|one| one.inbox.len()).sum(), items, removed);
        Ok(true)
    }

    fn on_unserved(&mut self, said: &Said) -> Checked {
        ensure!(self.unserved > 0, "GEN-05: a response of a type that is not served");
        ensure!(
            said.items == [0; NAMES] && said.removed == 0,
            "GEN-05: resources of a type that is not served"
        );
        self.unserved -= 1;
        Ok(())
    }

    /// The session sees a snapshot: one that may move no client backwards, or another.
    fn before_response(&mut self) {
        self.note_dangling();
        let (cautious, served) = (self.cautious(), self.served());
        for of in 0..TYPES {
            let speakable = self.delta() || self.full(of);
            let own = &mut self.types[of];
            if cautious || !speakable {
                // A removed resource may be sent later or never, and is new once it exists again.
                own.may |= !bits(&served[of]);
            }
            if !speakable {
                own.forsaken |= !bits(&served[of]);
                own.inbox
                    .iter_mut()
                    .for_each(|taken| taken.forsaken |= !bits(&served[of]));
            }
            if !cautious && self.published {
                own.maybe_fresh |= own.opened;
            }
        }
    }

    fn on_response(&mut self, of: usize, said: &Said, version: SetVersion) -> Checked {
        ensure!(self.types[of].opened, "GEN-23: {} was never asked for", name_of(of));
        self.check_caution(of, said)?;
        self.check_order(of, said)?;
        if self.delta() {
            self.check_delta(of, said)?;
        } else if self.full(of) {
            self.check_full(of, said)?;
        } else {
            self.check_named(of, said)?;
        }
        self.check_removals(of, said)?;
        if !self.delta() {
            self.check_version(of, said, version)?;
        }
        self.on_told(of, said);
        Ok(())
    }

    /// Whether a stale snapshot withholds the type from a client that reports its resources.
    fn is_withheld(&self, of: usize) -> bool {
        self.cautious() && !self.types[of].maybe_fresh && !matches!(of, ENDPOINT | ROUTE | SECRET)
    }

    /// A stale snapshot moves no client backwards (docs/decisions/008).
    fn check_caution(&self, of: usize, said: &Said) -> Checked {
        if self.cautious() && !self.types[of].maybe_fresh {
            ensure!(
                bits(&said.items) == 0 || !self.is_withheld(of),
                "a stale snapshot changes {} of a client that reports what it has",
                name_of(of)
            );
            ensure!(said.removed == 0, "a stale snapshot removes {}", name_of(of));
        }
        Ok(())
    }

    /// AD-01, AD-03, AD-07: types in order, endpoints behind their cluster, removals last.
    fn check_order(&mut self, of: usize, said: &Said) -> Checked {
        let received = &self.types[of].received;
        let only_removes = if self.full(of) {
            each(bits(&said.items)).all(|name| received[name] == said.items[name])
        } else {
            bits(&said.items) == 0
        };
        let rank = RANK[of];
        if let Some(last) = self.flush {
            ensure!(
                rank > last || only_removes || rank == 3,
                "AD-01: {} comes after what refers to it",
                name_of(of)
            );
        }
        if RANK[of] > RANK[ENDPOINT] {
            self.check_warmed(&format!("{} is sent", name_of(of)))?;
        }
        self.flush = Some(self.flush.map_or(rank, |last| last.max(rank)));
        Ok(())
    }

    /// Endpoints were sent after each cluster that they warm.
    fn check_warmed(&self, when: &str) -> Checked {
        let endpoints = &self.types[ENDPOINT];
        let served = &self.served()[ENDPOINT];
        let refused = each(ALL_NAMES).filter(|name| endpoints.refused[*name] == served[*name]);
        let refused = refused.fold(0, |all, name| all | 1 << name);
        let due = self.warm_due & endpoints.covered(ENDPOINT) & bits(served) & !refused;
        ensure!(
            due == 0,
            "AD-03: {when} before the endpoints {due:06b} whose cluster was sent"
        );
        Ok(())
    }

    fn check_delta(&self, of: usize, said: &Said) -> Checked {
        let own = &self.types[of];
        let served = &self.served()[of];
        let covered = own.covered(of);
        let warm = if of == ENDPOINT { self.warm_may } else { 0 };
        for name in each(bits(&said.items)) {
            let (content, bit) = (said.items[name], 1 << name);
            let word = format_args!("{} {}", name_of(of), letter(name));
            ensure!(covered & bit != 0 || warm & bit != 0, "{word} is not asked for");
            // Endpoints that followed their cluster without a request are held too.
            let received = own.received[name] == content || of == ENDPOINT && own.spoken & bit != 0;
            let held = served[name] == 0 && received && self.is_referred(of);
            ensure!(
                served[name] == content || held && (own.may | warm) & bit != 0,
                "{word} is not the newest"
            );
            self.check_cause(of, name, content, own.may | own.must, warm)?;
            self.check_waits(of, name, content)?;
        }
        ensure!(
            bits(&said.items) & said.removed == 0,
            "GEN-11: {} is there and removed",
            name_of(of)
        );
        for name in each(said.removed) {
            let word = format_args!("{} {}", name_of(of), letter(name));
            ensure!(
                served[name] == 0 || covered & 1 << name == 0,
                "{word} exists and was sent as removed"
            );
            ensure!(
                (own.spoken | bits(&own.received)) & 1 << name != 0,
                "DX-18: {word} was never got_response of and is removed"
            );
            let asked = (own.must | own.may) & 1 << name != 0;
            ensure!(own.received[name] != 0 || asked, "{word} was sent as removed twice");
        }
        let wild = own.wildcard && (own.responses == 0 || own.may == ALL_NAMES || own.star_asked);
        let empty = bits(&said.items) == 0 && said.removed == 0;
        ensure!(
            !empty || wild || self.nonces.len() == 1,
            "DX-22: an empty response of {}",
            name_of(of)
        );
        Ok(())
    }

    /// No resource is sent that is unchanged and not newly subscribed, and none that is NACKed.
    fn check_cause(&self, of: usize, name: usize, content: u8, asked: u8, warm: u8) -> Checked {
        let own = &self.types[of];
        let (bit, word) = (1 << name, format_args!("{} {}", name_of(of), letter(name)));
        if own.received[name] == content && (asked | own.absent) & bit == 0 {
            ensure!(warm & bit != 0, "{word} is unchanged, and is sent without a request");
            ensure!(
                own.refused[name] != content,
                "decision 5: {word} was refused, and is sent unasked"
            );
        }
        Ok(())
    }

    /// SotW: a whole set of old and new resources (SW-09, AD-02).
    fn check_full(&self, of: usize, said: &Said) -> Checked {
        let own = &self.types[of];
        let served = &self.served()[of];
        let covered = own.covered(of);
        for name in 0..NAMES {
            let content = said.items[name];
            let word = format_args!("{} {}", name_of(of), letter(name));
            if covered & 1 << name != 0 && served[name] != 0 {
                let kept = content == own.received[name] && self.is_kept(of, name);
                ensure!(
                    content == served[name] || kept,
                    "SW-09: {word} is {content}, not the newest {}",
                    served[name]
                );
                self.check_waits(of, name, content)?;
            } else if content != 0 {
                ensure!(covered & 1 << name != 0, "{word} is not asked for");
                ensure!(
                    own.received[name] == content && self.is_referred(of),
                    "{word} is gone, and is sent"
                );
            }
        }
        let asked = own.may != 0 || own.must != 0;
        ensure!(
            !own.got_response || asked || own.received != said.items,
            "{} is sent again unasked",
            name_of(of)
        );
        Ok(())
    }

    /// SotW: changed and newly subscribed resources, and no removed ones (SW-10, SW-12, SW-26).
    fn check_named(&self, of: usize, said: &Said) -> Checked {
        let own = &self.types[of];
        let served = &self.served()[of];
        let warm = if of == ENDPOINT { self.warm_may } else { 0 };
        ensure!(bits(&said.items) != 0, "SW-12: an empty response of {}", name_of(of));
        for name in each(bits(&said.items)) {
            let (content, bit) = (said.items[name], 1 << name);
            let word = format_args!("{} {}", name_of(of), letter(name));
            ensure!(own.covered(of) & bit != 0 || warm & bit != 0, "{word} is not asked for");
            if content == EMPTY {
                ensure!(of == ENDPOINT && served[name] == 0, "{word} is not empty");
                ensure!((own.must | own.may) & bit != 0, "{word} is empty, and is sent unasked");
            } else {
                ensure!(content == served[name], "{word} is not the newest");
                self.check_cause(of, name, content, own.must | own.may, warm)?;
                self.check_waits(of, name, content)?;
            }
        }
        Ok(())
    }

    /// Whether the client subscribed on this stream to any type that refers to this one, so that removals wait. Under a
    /// stale snapshot all removals wait.
    fn is_referred(&self, of: usize) -> bool {
        if self.cautious() {
            return true;
        }
        let wider = [LISTENER, SCOPED, ROUTE, EXTENSION];
        let more: &[usize] = if matches!(of, CLUSTER) { &wider } else { &[] };
        let secrets: &[usize] = if of == SECRET { &[LISTENER] } else { &[] };
        let extension: &[usize] = if of == EXTENSION { &[ROUTE] } else { &[] };
        referrers(of)
            .iter()
            .chain(more)
            .chain(secrets)
            .chain(extension)
            .any(|other| self.types[*other].opened)
    }

    /// AD-02: no resource is removed that the client still uses.
    fn check_removals(&self, of: usize, said: &Said) -> Checked {
        let own = &self.types[of];
        let gone = if self.full(of) {
            bits(&own.received) & !bits(&said.items)
        } else {
            said.removed
        };
        // A resource that is only reported is removed by the first response (DX-13). A resource that was removed before
        // and is subscribed again is answered as removed, whichever resource uses it (DX-07).
        let again = if self.delta() {
            own.must & !bits(&own.received)
        } else {
            0
        };
        let free = again | own.dangling | self.stuck_with(of);
        for name in each(gone & own.sent & bits(&own.applied) & !free) {
            for referrer in referrers(of) {
                self.check_unused(*referrer, (of, name))?;
            }
        }
        Ok(())
    }

    /// The resources with which a client may be stuck: their removal does not wait (AD-13).
    fn stuck_with(&self, of: usize) -> u8 {
        let own = &self.types[of];
        let stuck = of == CLUSTER && own.inbox.front().is_some_and(|taken| self.now >= taken.at + STUCK);
        let unanswered = own
            .inbox
            .iter()
            .fold(bits(&own.refused), |all, taken| all | bits(&taken.items));
        if stuck { unanswered } else { 0 }
    }

    fn check_unused(&self, referrer: usize, to: (usize, usize)) -> Checked {
        let other = &self.types[referrer];
        let served = &self.served()[referrer];
        let silent = other.inbox.front().is_some_and(|taken| self.now >= taken.at + SILENCE);
        if !other.opened || silent {
            return Ok(());
        }

        let known = other.covered(referrer) & bits(served);
        for name in each(known) {
            let (bit, uses) = (1 << name, |content| refers(referrer, name, content).contains(&Some(to)));
            let has_applied = bits(&other.applied) & bit & !other.forsaken & !other.unreported != 0;
            // The client may apply a response before it answers.
            let may_apply = |taken: &Taken| {
                bits(&taken.items) & bit & !taken.dropped & !taken.forsaken != 0 && uses(taken.items[name])
            };
            let may_use = (has_applied && uses(other.applied[name])) || other.inbox.iter().any(may_apply);
            ensure!(
                !may_use || uses(served[name]),
                "AD-02: {} {} is removed, and {} {} that the client may have refers to it",
                name_of(to.0),
                letter(to.1),
                name_of(referrer),
                letter(name)
            );
        }
        Ok(())
    }

    /// GEN-08: equal content has equal versions, other content has others.
    fn check_version(&mut self, of: usize, said: &Said, version: SetVersion) -> Checked {
        let full = self.full(of);
        let served = self.served()[of];
        let own = &mut self.types[of];
        let mut content = if full { said.items } else { served };
        if !full {
            each(!own.names & ALL_NAMES).for_each(|name| content[name] = 0);
            let kept = each(bits(&content)).filter(|name| own.received[*name] != 0 && said.items[*name] == 0);
            kept.collect::<Vec<_>>()
                .into_iter()
                .for_each(|name| content[name] = own.received[name]);
        }
        let key = key(&content);
        match own.versions.iter().find(|(known, of)| *known == key || *of == version) {
            Some(known) => ensure!(*known == (key, version), "GEN-08: {} has a wrong version", name_of(of)),
            None => own.versions.push((key, version)),
        }
        Ok(())
    }

    fn on_told(&mut self, of: usize, said: &Said) {
        if self.is_withheld(of) {
            // A greeting has no content.
            return;
        }
        if of == CLUSTER {
            self.warm_behind(said);
        }
        let full = self.full(of);
        let gone = if full || self.delta() {
            0
        } else {
            !bits(&self.served()[of]) & ALL_NAMES
        };
        let own = &mut self.types[of];
        own.got_response = true;
        each(gone).for_each(|name| own.received[name] = 0);
        if full {
            own.received = said.items;
            own.must = 0;
        }
        // Resources that are not subscribed are ignored (DX-33).
        for name in each(bits(&said.items) & own.covered(of)) {
            own.received[name] = if said.items[name] == EMPTY { 0 } else { said.items[name] };
        }
        each(said.removed).for_each(|name| own.received[name] = 0);
        let answered = bits(&said.items) | said.removed;
        own.spoken |= answered;
        own.sent |= bits(&said.items) & own.covered(of);
        own.must &= !answered;
        own.absent &= !bits(&said.items);
        (own.may, own.star_asked) = (0, false);
        if of == ENDPOINT {
            self.warm_due &= !answered;
            // Endpoints that are NACKed may follow their cluster once they are not.
            let served = &self.served()[ENDPOINT];
            let refused = &self.types[ENDPOINT].refused;
            let stands = each(self.warm_may)
                .filter(|name| refused[*name] != 0 && (served[*name] == 0 || refused[*name] == served[*name]));
            self.warm_may = stands.map(|name| 1_u8 << name).sum::<u8>() & !answered;
        }
    }

    /// The endpoints of clusters that are sent again are due now.
    fn warm_behind(&mut self, said: &Said) {
        for name in each(bits(&said.items)) {
            let Some((_, endpoints)) = refers(CLUSTER, name, said.items[name])[0] else {
                continue;
            };
            self.warm_may |= 1 << endpoints;
            if self.types[CLUSTER].received[name] != said.items[name] && self.types[ENDPOINT].opened {
                self.warm_due |= 1 << endpoints;
            }
        }
    }

    /// The session has no response.
    fn check_silence(&mut self) -> Checked {
        self.flush = None;
        let deadline = self.session.deadline();
        ensure!(
            deadline.is_none_or(|at| at > self.now) || !self.published,
            "a deadline that has passed"
        );
        if !self.published {
            return Ok(());
        }
        ensure!(self.unserved == 0, "GEN-05: a type that is not served is not answered");
        self.take_silence_for_word(TYPES);
        self.note_absent();
        self.note_kept(TYPES);
        self.check_warmed("silence")?;
        let cautious = self.cautious();
        for of in 0..TYPES {
            if !self.types[of].opened || (cautious && !self.types[of].surely_fresh) || self.may_wait(of) {
                continue;
            }
            self.believe_silence(of);
            self.check_received(of)?;
            let (speakable, served) = (self.delta() || self.full(of), bits(&self.served()[of]));
            let own = &mut self.types[of];
            if !speakable {
                each(!served & ALL_NAMES).for_each(|name| own.received[name] = 0);
            }
            (own.surely_fresh, own.may) = (true, 0);
        }
        Ok(())
    }

    /// Delta, a new stream: the first response of a type that may name clusters waits for clusters that the client
    /// never had. The whole response waits, and no longer if more clusters follow. An earlier greeting does not count.
    fn may_wait(&mut self, of: usize) -> bool {
        let (own, clusters) = (&self.types[of], &self.types[CLUSTER]);
        let waits = matches!(of, EXTENSION | LISTENER | SCOPED | ROUTE)
            && own.came_back
            && !own.got_response
            && clusters.inbox.front().is_some_and(|taken| self.now < taken.at + WARM);
        waits && self.now < *self.types[of].waits_since.get_or_insert(self.now) + WARM
    }

    /// SotW, a new stream: a wildcard with the current version needs no response (SW-24).
    fn take_silence_for_word(&mut self, before: usize) {
        let here = self.here().snapshot(self.other_replica);
        let group = self.session.group().and_then(|group| here.group(group)).cloned();
        let Some(group) = group.filter(|_| !self.delta()) else {
            return;
        };
        for resource_type in ResourceType::ALL.into_iter().take(TYPES) {
            let of = resource_type.index();
            let newest = group.set(resource_type).wildcard_version().to_string();
            let (full, served) = (self.full(of), *self.served());
            let own = &mut self.types[of];
            let plain = own.opened && own.wildcard && own.names == 0 && own.responses == 0;
            if full && plain && own.version == newest {
                let differs = (0..NAMES).filter(|name| own.applied[*name] != served[of][*name]);
                let differs = differs.map(|name| 1_u8 << name).sum::<u8>();
                // A wildcard does not cover resources on demand.
                let mut received = served[of];
                each(!own.covered(of)).for_each(|name| received[name] = 0);
                own.perhaps = Some((received, differs & own.covered(of)));
                own.must = 0;
            }
        }
        (0..before).for_each(|of| self.believe_silence(of));
    }

    /// SotW: a later response follows the silence of other types once everything is sent and removals are due.
    fn believe_silence(&mut self, of: usize) {
        let own = &mut self.types[of];
        if let Some((received, misreported)) = own.perhaps.take().filter(|_| own.responses == 0) {
            (own.received, own.misreported) = (received, own.misreported | misreported);
        }
    }

    // ---- deferred changes ----

    /// The session checked clusters, unless a type before them was owed a response.
    fn look_at_clusters(&mut self, answer: Option<Option<ResourceType>>) {
        let looked = answer.is_none_or(|of| of.is_some_and(|of| of.index() >= CLUSTER));
        let own = &self.types[CLUSTER];
        if !looked || !self.published || !own.opened || self.is_withheld(CLUSTER) {
            return;
        }
        self.clusters.0 = Some(self.served()[CLUSTER]);
        if own.inbox.is_empty() && answer != Some(Some(ResourceType::Cluster)) {
            self.clusters.1 = self.clusters.0;
        }
    }

    /// The newly named clusters of a change without ACK or NACK: the set that the change may wait for, and the set that it
    /// must wait for, because they changed since the last ACK or NACK and were not waited for in vain. A cluster that
    /// was removed and held in between may count as new.
    fn cold(&self, of: usize, name: usize, content: u8) -> (u8, u8) {
        let own = &self.types[CLUSTER];
        let named = |content| {
            refers(of, name, content)
                .into_iter()
                .flatten()
                .filter(|(of, _)| *of == CLUSTER)
        };
        let named = |content| named(content).fold(0, |all, (_, cluster)| all | 1_u8 << cluster);
        let newly = named(content) & !named(self.types[of].received[name]);
        let mut unanswered = own.inbox.iter().fold(0, |all, taken| all | bits(&taken.items));
        if let ((Some(sent), Some(answered)), false) = (self.clusters, own.inbox.is_empty()) {
            unanswered |= bits(&sent) & !bits(&answered);
        }
        let (Some(sent), Some(answered)) = self.clusters else {
            return (newly & unanswered, 0);
        };
        let carried = |cluster: usize| own.inbox.iter().any(|taken| taken.items[cluster] == sent[cluster]);
        let changed = each(newly & unanswered & own.covered(CLUSTER));
        let changed = changed.filter(|cluster| sent[*cluster] != answered[*cluster] && carried(*cluster));
        // A response without ACK or NACK for so long: its clusters had their wait, and the ACK of endpoints counts for
        // others.
        let in_vain = || own.inbox.iter().filter(|taken| taken.at + WARM <= self.now);
        let given_up =
            |cluster: usize| in_vain().any(|taken| taken.all.is_some_and(|all| all[cluster] == sent[cluster]));
        let assigned = in_vain().next().is_some() && self.types[ENDPOINT].inbox.is_empty();
        let changed = changed.filter(|cluster| !assigned && !given_up(*cluster));
        (newly & unanswered, changed.fold(0, |all, cluster| all | 1 << cluster))
    }

    /// Note the changes that wait. Each type before `turns` surely had its turn.
    fn note_kept(&mut self, turns: usize) {
        for of in [LISTENER, ROUTE] {
            let served = self.served()[of];
            for name in 0..NAMES {
                let own = &self.types[of];
                let received = own.received[name];
                let has = own.opened && !self.is_withheld(of) && own.covered(of) & 1 << name != 0 && received != 0;
                let waits = has && served[name] != 0 && received != served[name];
                let had_turn = of < turns;
                if !waits {
                    // The cluster was back for a while, which the session may not have seen: the wait goes on.
                    let unseen = own.kept[name].filter(|_| has && !had_turn);
                    self.types[of].kept[name] = unseen.map(|kept| Kept {
                        was_back: true,
                        since: None,
                        ..kept
                    });
                    continue;
                }
                let before = own.kept[name];
                let (content, now) = (served[name], self.now);
                let known = before
                    .filter(|kept| kept.content == content)
                    .and_then(|kept| kept.needs);
                let was_back = before.is_some_and(|kept| kept.was_back);
                let cold = had_turn.then(|| self.cold(of, name, content));
                let needs = match (known, cold) {
                    (Some(known), Some(cold)) if was_back => Some((known.0 | cold.0, known.1 & cold.1)),
                    (known, cold) => known.or(cold),
                };
                let kept = Kept {
                    content,
                    needs,
                    was_back: was_back && !had_turn,
                    since: before.and_then(|kept| kept.since).or_else(|| had_turn.then_some(now)),
                    earliest: before.map_or(now, |kept| kept.earliest),
                };
                self.kept_back += usize::from(had_turn && before.is_none_or(|kept| kept.since.is_none()));
                self.types[of].kept[name] = Some(kept);
            }
        }
    }

    /// Whether a change may be deferred now.
    fn is_kept(&self, of: usize, name: usize) -> bool {
        let content = self.served()[of][name];
        let cold = self.cold(of, name, content);
        let kept = self.types[of].kept[name];
        let since = kept.and_then(|kept| kept.since);
        let needs = kept
            .filter(|kept| kept.content == content)
            .and_then(|kept| kept.needs)
            .map_or(cold.0, |it| it.0);
        needs & cold.0 != 0 && since.is_none_or(|since| self.now < since + WARM)
    }

    /// A change that no request made due waits until its newly named clusters are warm.
    fn check_waits(&self, of: usize, name: usize, content: u8) -> Checked {
        let own = &self.types[of];
        let asked = (own.must | own.may | own.absent) & 1 << name != 0;
        if !matches!(of, LISTENER | ROUTE) || asked || own.received[name] == 0 || own.received[name] == content {
            return Ok(());
        }
        let cold = self.cold(of, name, content).1;
        let waits = match own.kept[name] {
            None => cold,
            Some(kept) if kept.content == content => kept.needs.map_or(0, |needs| needs.1 & cold),
            Some(_) => 0,
        };
        let over = own.kept[name].is_some_and(|kept| self.now >= kept.earliest + WARM);
        ensure!(
            waits == 0 || over,
            "decision 6: {} {} names clusters {waits:06b} that are not warm",
            name_of(of),
            letter(name)
        );
        Ok(())
    }

    /// A published resource may refer to one that is not published.
    fn note_dangling(&mut self) {
        let served = *self.served();
        for of in 0..TYPES {
            for (to, name) in each(bits(&served[of]))
                .flat_map(|name| refers(of, name, served[of][name]))
                .flatten()
            {
                let (own, bit) = (&mut self.types[to], 1 << name);
                own.dangling = if served[to][name] == 0 {
                    own.dangling | bit
                } else {
                    own.dangling & !bit
                };
            }
        }
    }

    /// A stale snapshot shows no removal.
    fn note_absent(&mut self) {
        if !self.cautious() {
            return;
        }
        let served = *self.served();
        for (of, own) in self.types.iter_mut().enumerate().filter(|(_, own)| own.opened) {
            own.absent |= own.covered(of) & !bits(&served[of]);
        }
    }

    /// Every published resource was sent; every removal was sent or waits.
    fn check_received(&self, of: usize) -> Checked {
        let own = &self.types[of];
        let served = &self.served()[of];
        for name in each(own.covered(of)) {
            let word = format_args!("{} {}", name_of(of), letter(name));
            if served[name] != 0 {
                let received = own.received[name] == served[name] || own.received[name] != 0 && self.is_kept(of, name);
                ensure!(received, "{word} was not sent, {} was", own.received[name]);
                ensure!(own.must & 1 << name == 0, "{word} was asked for and is not answered");
            } else {
                let speakable = self.delta() || self.full(of);
                let waits = own.received[name] != 0 && self.is_referred(of);
                ensure!(
                    own.received[name] == 0 || !speakable || waits,
                    "{word} is removed, and its removal was not sent"
                );
                let owed = own.must & 1 << name != 0 && (self.delta() || of == ENDPOINT);
                ensure!(!owed, "{word} was asked for, is not there, and is not answered");
            }
        }
        Ok(())
    }

    // ---- the end ----

    /// Take and answer responses until none is left; then let time pass and repeat. The client must then have
    /// everything.
    pub(super) fn run_to_rest(&mut self, statistics: &mut Statistics) -> Checked {
        (self.stale, self.published, self.flush) = (false, true, None);
        for of in (0..TYPES).filter(|of| self.is_to_be_reopened(*of)).collect::<Vec<_>>() {
            self.ask(of, Edit::default())?;
        }
        for pause in [0, 10, 3600] {
            self.note(|| format!("{pause} s pass"));
            self.now += Duration::from_secs(pause);
            self.rest(statistics)?;
        }
        self.check_end()
    }

    fn rest(&mut self, statistics: &mut Statistics) -> Checked {
        for _ in 0..20 {
            let mut taken = 0;
            while self.take(statistics)? {
                taken += 1;
                ensure!(taken < 3 * TYPES, "responses without end");
            }
            let mut answered = false;
            for of in 0..TYPES {
                while self.unanswered(of) > 0 {
                    self.answer(of, 0, Reply::Ack, Edit::default())?;
                    answered = true;
                }
            }
            if !answered && taken == 0 {
                return Ok(());
            }
        }
        Err("answers are answered without end".to_owned())
    }

    /// Whether a resource that may refer to the type is NACKed, so that removals still wait.
    fn is_refused_above(&self, of: usize) -> bool {
        let all = super::super::order::referrers(name_of(of))
            .iter()
            .map(|other| other.index());
        all.filter(|other| *other < TYPES).any(|other| {
            let own = &self.types[other];
            let refused =
                each(own.covered(other)).any(|name| own.refused[name] != 0 && self.served()[other][name] != 0);
            own.opened && refused || self.is_refused_above(other)
        })
    }

    fn check_end(&mut self) -> Checked {
        for of in 0..TYPES {
            let own = &self.types[of];
            let served = &self.served()[of];
            for name in each(own.covered(of)).filter(|_| own.opened) {
                let (has, bit) = (own.applied[name], 1 << name);
                let word = format_args!("{} {}", name_of(of), letter(name));
                if served[name] != 0 {
                    let known = own.misreported & bit == 0;
                    ensure!(
                        has == served[name] || own.refused[name] == served[name] || !known,
                        "{word} ends as {has}"
                    );
                } else if self.delta() || self.full(of) {
                    let waits = own.received[name] != 0 && self.is_refused_above(of);
                    ensure!(has == 0 || own.loose & bit != 0 || waits, "{word} is gone and is kept");
                    ensure!(
                        own.received[name] == 0 || waits,
                        "{word} is removed, and its removal is never sent"
                    );
                }
            }
        }
        let got_response = self
            .types
            .iter()
            .enumerate()
            .any(|(of, own)| own.opened && of >= CLUSTER);
        let since = self.opened_at.is_some_and(|at| self.now > at + GREETING);
        ensure!(
            !self.delta() || !got_response || !since || !self.nonces.is_empty(),
            "GR-08: a stream hears nothing"
        );
        ensure!(self.session.deadline().is_none(), "a deadline though nothing waits");
        Ok(())
    }
}
