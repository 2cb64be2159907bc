//! The number of log lines: whatever a client or a document does, a second brings fewer than 100 lines.
//!
//! In: events of level `info` and above, each with its kind (the place in the source) and perhaps a peer. Out: whether
//! the event becomes a line, and how many events before it did not. Lines of level `debug` and `trace` are not limited:
//! an operator asks for them.
//!
//! - Of one kind and one peer: one line in [`PEER_PAUSE`]. A peer is an IP address, or an IPv6 network of 64 bits.
//! - Of all peers together: [`PEER_LINES`] lines a second.
//! - Of one kind without a peer: [`KIND_LINES`] lines a second.
//!
//! At most [`PEERS_MAX`] pairs of kind and peer are remembered. An event of a further pair is left out and counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Metadata;
use tracing::callsite::Identifier;

/// Time between two lines of one kind and one peer.
pub(super) const PEER_PAUSE: Duration = Duration::from_secs(60);
/// Lines of all peers in a second.
pub(super) const PEER_LINES: u32 = 40;
/// Lines of one kind without a peer in a second.
pub(super) const KIND_LINES: u32 = 40;
/// Pairs of kind and peer that are remembered.
pub(super) const PEERS_MAX: usize = 10_000;
const SECOND: Duration = Duration::from_secs(1);
/// The bits of an IPv6 network: a host has as many addresses as it likes.
const NETWORK: u128 = !0 << 64;

/// The decision on an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The event becomes a line.
    Write {
        /// Events of its kind and peer that were left out since the last line.
        left_out: u64,
    },
    /// The event is counted only.
    LeaveOut,
}

/// The lines of one kind that were left out and that no later line counts.
#[derive(Debug)]
pub(super) struct Summary {
    /// Of the kind.
    pub(super) metadata: &'static Metadata<'static>,
    /// The message of the last line that was written.
    pub(super) message: String,
    /// Number of lines.
    pub(super) lines: u64,
    /// Number of peers, as far as they were remembered.
    pub(super) peers: u64,
}

/// The limits, and what they need to remember.
#[derive(Debug, Default)]
pub(super) struct Limits {
    state: Mutex<State>,
    /// Hashes names of peers, with a key of this process.
    hasher: std::hash::RandomState,
}

#[derive(Debug, Default)]
struct State {
    kinds: HashMap<Identifier, Kind>,
    peers: HashMap<(Identifier, Peer), Pause>,
    all_peers: Window,
    /// Places that became free are looked for once a second.
    look: Window,
}

/// There are as many kinds as places in the source.
#[derive(Debug)]
struct Kind {
    metadata: &'static Metadata<'static>,
    message: String,
    window: Window,
    left_out: u64,
    peers: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    Address(IpAddr),
    /// Hash of the name.
    Other(u64),
}

/// No line of a kind and a peer until then.
#[derive(Debug)]
struct Pause {
    until: Instant,
    left_out: u64,
}

/// Counts the lines of a second.
#[derive(Debug, Default)]
struct Window {
    begun: Option<Instant>,
    lines: u32,
}

impl Window {
    /// Take a place. `false`: the second is full.
    fn take(&mut self, limit: u32, now: Instant) -> bool {
        if self.begun.is_none_or(|begun| now.duration_since(begun) >= SECOND) {
            *self = Self {
                begun: Some(now),
                lines: 0,
            };
        }
        let has_room = self.lines < limit;
        self.lines += u32::from(has_room);
        has_room
    }
}

impl Limits {
    pub(super) fn on_event(&self, metadata: &'static Metadata<'static>, peer: Option<&str>, now: Instant) -> Outcome {
        let peer = peer.map(|peer| self.peer(peer));
        let id = metadata.callsite();
        let mut state = self.state.lock();
        if state.peers.len() >= PEERS_MAX && state.look.take(1, now) {
            state.end_pauses(now, false);
        }

        let State {
            kinds,
            peers,
            all_peers,
            ..
        } = &mut *state;

        let kind = kinds.entry(id.clone()).or_insert_with(|| Kind {
            metadata,
            message: String::new(),
            window: Window::default(),
            left_out: 0,
            peers: 0,
        });

        let Some(peer) = peer else {
            if kind.window.take(KIND_LINES, now) {
                let left_out = std::mem::take(&mut kind.left_out);
                return Outcome::Write { left_out };
            }
            kind.left_out += 1;
            return Outcome::LeaveOut;
        };

        let is_full = peers.len() >= PEERS_MAX;
        match peers.entry((id, peer)) {
            Entry::Occupied(mut pause) => {
                let pause = pause.get_mut();
                if pause.until > now || !all_peers.take(PEER_LINES, now) {
                    pause.left_out += 1;
                    return Outcome::LeaveOut;
                }
                pause.until = now + PEER_PAUSE;
                let left_out = std::mem::take(&mut pause.left_out);
                Outcome::Write { left_out }
            }
            Entry::Vacant(place) if !is_full && all_peers.take(PEER_LINES, now) => {
                place.insert(Pause {
                    until: now + PEER_PAUSE,
                    left_out: 0,
                });
                Outcome::Write { left_out: 0 }
            }
            Entry::Vacant(_) => {
                kind.left_out += 1;
                Outcome::LeaveOut
            }
        }
    }

    /// Remember the message of a kind for its summary.
    pub(super) fn name(&self, metadata: &Metadata<'_>, message: &str) {
        if let Some(kind) = self.state.lock().kinds.get_mut(&metadata.callsite())
            && kind.message.is_empty()
        {
            message.clone_into(&mut kind.message);
        }
    }

    /// The lines that were left out and that no later line counts; `all`: also those of pauses that have not ended.
    pub(super) fn summaries(&self, now: Instant, all: bool) -> Vec<Summary> {
        let mut state = self.state.lock();
        state.end_pauses(now, all);
        let kinds = state.kinds.values_mut().filter(|kind| kind.left_out > 0);
        kinds
            .map(|kind| Summary {
                metadata: kind.metadata,
                message: kind.message.clone(),
                lines: std::mem::take(&mut kind.left_out),
                peers: std::mem::take(&mut kind.peers),
            })
            .collect()
    }

    fn peer(&self, name: &str) -> Peer {
        let address = name
            .parse::<SocketAddr>()
            .map(|address| address.ip())
            .or_else(|_| name.parse::<IpAddr>());
        match address.map(|address| address.to_canonical()) {
            Ok(IpAddr::V6(address)) => Peer::Address(Ipv6Addr::from_bits(address.to_bits() & NETWORK).into()),
            Ok(address) => Peer::Address(address),
            Err(_) => Peer::Other(self.hasher.hash_one(name)),
        }
    }
}

impl State {
    /// Forget the pauses that have ended; their counts become counts of their kinds.
    fn end_pauses(&mut self, now: Instant, all: bool) {
        let kinds = &mut self.kinds;
        self.peers.retain(|(id, _), pause| {
            if pause.until > now && !all {
                return true;
            }
            if let Some(kind) = kinds.get_mut(id) {
                kind.left_out += pause.left_out;
                kind.peers += u64::from(pause.left_out > 0);
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use tracing::field::FieldSet;
    use tracing::metadata::Kind as MetadataKind;
    use tracing::{Callsite, Level, subscriber::Interest};

    use super::*;

    /// A place in the source.
    struct Place(OnceLock<Metadata<'static>>);

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            self.0.get().unwrap()
        }
    }

    fn kind(place: &'static Place) -> &'static Metadata<'static> {
        place.0.get_or_init(|| {
            let fields = FieldSet::new(&[], Identifier(place));
            let level = Level::WARN;
            Metadata::new(
                "event",
                "chancery",
                level,
                None,
                None,
                None,
                fields,
                MetadataKind::EVENT,
            )
        })
    }

    static NACK: Place = Place(OnceLock::new());
    static END: Place = Place(OnceLock::new());

    #[test]
    fn a_peer_has_one_line_a_minute_of_each_kind_and_the_next_line_counts() {
        let (limits, start) = (Limits::default(), Instant::now());
        let write = |left_out| Outcome::Write { left_out };
        let event = |place, peer, after| limits.on_event(kind(place), Some(peer), start + Duration::from_secs(after));
        assert_eq!(event(&NACK, "10.0.0.1:1", 0), write(0));
        assert_eq!(event(&NACK, "10.0.0.1:2", 1), Outcome::LeaveOut);
        assert_eq!(event(&NACK, "10.0.0.2:1", 1), write(0));
        assert_eq!(event(&END, "10.0.0.1:3", 1), write(0));
        assert_eq!(event(&NACK, "[::ffff:10.0.0.1]:4", 59), Outcome::LeaveOut);
        assert_eq!(event(&NACK, "10.0.0.1:5", 60), write(2));
        assert_eq!(event(&NACK, "[2001:db8::1]:1", 60), write(0));
        assert_eq!(event(&NACK, "[2001:db8::2]:1", 60), Outcome::LeaveOut);
        assert_eq!(event(&NACK, "unix", 61), write(0));
        assert_eq!(event(&NACK, "unix", 62), Outcome::LeaveOut);
    }

    #[test]
    fn no_attack_writes_a_hundred_lines_a_second_or_takes_memory_without_end() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut lines = 0;
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            let mut of_second = 0;
            for client in 0..20_000_u64 {
                let peer = format!("10.{second}.{}.{}:7", client / 256, client % 256);
                for (place, peer) in [(&NACK, Some(&*peer)), (&END, Some(&*peer)), (&END, None)] {
                    let outcome = limits.on_event(kind(place), peer, now);
                    of_second += u32::from(outcome != Outcome::LeaveOut);
                }
            }
            assert!(of_second < 100, "{of_second} lines in second {second}");
            lines += u64::from(of_second);
        }
        let state = limits.state.lock();
        assert!(state.peers.len() <= PEERS_MAX && state.kinds.len() == 2);
        drop(state);
        let counted = |summaries: Vec<Summary>| summaries.iter().map(|summary| summary.lines).sum::<u64>();
        let told: u64 = counted(limits.summaries(start + Duration::from_secs(100), false));
        assert!(told > 0 && lines + told <= 20 * 20_000 * 3, "{lines} {told}");
        assert_eq!(counted(limits.summaries(start + Duration::from_secs(100), true)), 0);
    }
}
