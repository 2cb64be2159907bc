//! Admits expensive work of streams a few at a time: first responses before repeated ones, each connection in its turn.
//!
//! If a fleet connects at once, thousands of streams have expensive work: to read lists of names, to compare whole
//! sets, to build first responses. Without a gate every stream would work as soon as its task runs, and an update for
//! an up-to-date proxy would wait behind all of them. With the gate such work takes a [`Turn`]. There are fewer turns
//! than threads. Before the first publish there are no turns; streams that wait then are queued already.
//!
//! There are two lines:
//!
//! - **First responses**: the first [`FIRST_TURNS`] turns of a stream. A stream has its place from its arrival and keeps
//!   it, so proxies become complete one after the other. The streams of one connection take places one round apart, so a
//!   connection with a thousand streams does not make another connection wait for a thousand.
//! - **Repeated responses**: every later turn, each with a new place, one round behind the last one of its connection.
//!   While first responses wait, every [`AGAIN_EVERY`]th turn is for this line.
//!
//! A turn lasts for at most one poll, in which nothing waits. A client that does not read therefore delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};

/// Turns of a stream that count as first responses: two for each type, and two for a large request, for ten types and
/// more.
const FIRST_TURNS: u32 = 32;
/// While both lines wait, one turn of this many is for repeated responses.
const AGAIN_EVERY: u32 = 4;

/// Shared by the streams of a server. Closed at first.
#[derive(Debug, Default)]
pub(in crate::xds) struct Gate(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    free: usize,
    lines: [Line; 2],
    /// Turns for first responses in succession, while repeated ones waited.
    first_in_a_row: u32,
}

/// The streams that wait for one kind of response. The lowest place is next.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<Place, Waker>,
    /// The round of the last turn.
    round: u64,
}

/// The kind of a response. Gives the index of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    First,
    Again,
}

/// A place in a line: its round, and the number of the stream.
type Place = (u64, u64);

/// The rounds that the streams of one connection have taken, by kind.
#[derive(Debug, Default)]
pub(in crate::xds) struct Rounds([AtomicU64; 2]);

impl Gate {
    /// Allow this many turns at a time, at least one. Called once.
    pub(in crate::xds) fn open(&self, turns: usize) {
        let mut lines = self.lines();
        lines.free = turns.max(1);
        lines.call();
    }

    /// A ticket for a stream of a connection. `number` is unique, and lower for a stream that arrived earlier.
    pub(in crate::xds) fn ticket(self: &Arc<Self>, number: u64, connection: &Arc<Rounds>) -> Ticket {
        let round = self.lines().take_round(Kind::First, connection);
        Ticket {
            gate: Arc::clone(self),
            connection: Arc::clone(connection),
            number,
            turns: 0,
            place: Some((round, number)),
            waits: false,
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock()
    }
}

impl Lines {
    /// The streams that are next, as many as there are free turns.
    fn next(&self) -> impl Iterator<Item = (Kind, Place, &Waker)> {
        let [mut first, mut again] = [Kind::First, Kind::Again].map(|kind| {
            let waiting = self.lines[kind as usize].waiting.iter();
            waiting.map(move |(place, waker)| (kind, *place, waker)).peekable()
        });
        let mut first_in_a_row = self.first_in_a_row;
        let next = std::iter::from_fn(move || {
            let is_again = first.peek().is_none() || (first_in_a_row + 1 >= AGAIN_EVERY && again.peek().is_some());
            first_in_a_row = if is_again { 0 } else { first_in_a_row + 1 };
            if is_again { again.next() } else { first.next() }
        });
        next.take(self.free)
    }

    /// Wake the streams whose turn it is. Each stays in line until it takes the turn.
    fn call(&self) {
        self.next().for_each(|(_, _, waker)| waker.wake_by_ref());
    }

    /// The round of the next place of a connection.
    fn take_round(&self, kind: Kind, connection: &Rounds) -> u64 {
        // Only changed under the lock of the lines.
        let taken = &connection.0[kind as usize];
        let round = taken.load(Ordering::Relaxed).max(self.lines[kind as usize].round);
        taken.store(round + 1, Ordering::Relaxed);
        round
    }

    fn waiting(&mut self, kind: Kind) -> &mut BTreeMap<Place, Waker> {
        &mut self.lines[kind as usize].waiting
    }
}

/// The ticket of one stream.
#[derive(Debug)]
pub(in crate::xds) struct Ticket {
    gate: Arc<Gate>,
    connection: Arc<Rounds>,
    number: u64,
    /// Turns taken.
    turns: u32,
    /// Kept over the first turns.
    place: Option<Place>,
    waits: bool,
}

impl Ticket {
    /// Take a turn. Pending: the task is woken when it is this stream's turn.
    pub(in crate::xds) fn poll_turn(&mut self, context: &Context<'_>) -> Poll<Turn> {
        let kind = self.kind();
        let gate = Arc::clone(&self.gate);
        let mut lines = gate.lines();
        // A stream that asks for the first time long after it was opened has missed its round.
        let round = lines.lines[kind as usize].round;
        let kept = self.place.filter(|place| self.waits || place.0 >= round);
        let place = kept.unwrap_or_else(|| (lines.take_round(kind, &self.connection), self.number));
        self.place = Some(place);

        lines.waiting(kind).insert(place, context.waker().clone());
        self.waits = true;
        if !lines.next().any(|next| (next.0, next.1) == (kind, place)) {
            return Poll::Pending;
        }

        lines.waiting(kind).remove(&place);
        self.waits = false;
        lines.free -= 1;
        let line = &mut lines.lines[kind as usize];
        line.round = line.round.max(place.0);
        let passes = kind == Kind::First && !lines.waiting(Kind::Again).is_empty();
        lines.first_in_a_row = if passes { lines.first_in_a_row + 1 } else { 0 };
        self.turns = self.turns.saturating_add(1);
        if self.kind() == Kind::Again {
            self.place = None;
        }
        drop(lines);
        Poll::Ready(Turn(gate))
    }

    /// Leave the line.
    pub(in crate::xds) fn leave(&mut self) {
        if std::mem::take(&mut self.waits)
            && let Some(place) = self.place
        {
            let kind = self.kind();
            let mut lines = self.gate.lines();
            lines.waiting(kind).remove(&place);
            // This stream may have been woken for a turn, which is then the next stream's.
            lines.call();
        }
    }

    fn kind(&self) -> Kind {
        if self.turns < FIRST_TURNS {
            Kind::First
        } else {
            Kind::Again
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The permission to do expensive work. Ends when dropped.
#[derive(Debug)]
pub(in crate::xds) struct Turn(Arc<Gate>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lines = self.0.lines();
        lines.free += 1;
        lines.call();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::poll_fn;
    use futures::task::noop_waker_ref;

    use super::*;

    fn gate(turns: usize) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        gate.open(turns);
        gate
    }

    /// A ticket of a stream that is alone on its connection.
    fn ticket(gate: &Arc<Gate>, number: u64) -> Ticket {
        gate.ticket(number, &Arc::default())
    }

    /// A ticket of a stream that has all its first responses.
    fn settled(gate: &Arc<Gate>, number: u64, connection: &Arc<Rounds>) -> Ticket {
        let mut ticket = gate.ticket(number, connection);
        (ticket.turns, ticket.place) = (FIRST_TURNS, None);
        ticket
    }

    fn try_turn(ticket: &mut Ticket) -> Option<Turn> {
        match ticket.poll_turn(&Context::from_waker(noop_waker_ref())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_gate_that_opens_wakes_the_waiting_streams() {
        let gate = Arc::new(Gate::default());
        let mut tickets: Vec<Ticket> = (0..3).map(|number| ticket(&gate, number)).collect();
        assert!(tickets.iter_mut().rev().all(|ticket| try_turn(ticket).is_none()));
        gate.open(1);
        assert!(try_turn(&mut tickets[2]).is_none() && try_turn(&mut tickets[0]).is_some());
    }

    #[test]
    fn the_earliest_is_next_whatever_the_order_of_asking() {
        let gate = gate(1);
        let mut tickets: Vec<Ticket> = (0..4).map(|number| ticket(&gate, number)).collect();
        let turn = try_turn(&mut tickets[2]).expect("nobody is there");
        for number in [3, 0, 1] {
            assert!(try_turn(&mut tickets[number]).is_none());
        }
        drop(turn);
        assert!(try_turn(&mut tickets[3]).is_none(), "two are ahead");
        let turn = try_turn(&mut tickets[0]).expect("its turn");
        drop(turn);
        assert!(try_turn(&mut tickets[3]).is_none(), "one is ahead");
        tickets[1].leave();
        assert!(try_turn(&mut tickets[3]).is_some());
    }

    #[test]
    fn there_are_no_more_turns_than_were_made() {
        let gate = gate(2);
        let mut tickets: Vec<Ticket> = (0..5).map(|number| ticket(&gate, number)).collect();
        let turns: Vec<_> = tickets.iter_mut().filter_map(try_turn).collect();
        assert_eq!(turns.len(), 2);
        drop(turns);
        // Three wait and two may go. A later stream does not pass them.
        assert!(try_turn(&mut ticket(&gate, 9)).is_none());
        assert!(try_turn(&mut tickets[3]).is_some() && try_turn(&mut tickets[2]).is_some());
    }

    #[test]
    fn an_old_stream_goes_before_a_thousand_new_ones() {
        let gate = gate(1);
        let (mut settled, mut running) = (ticket(&gate, 0), ticket(&gate, 1));
        let turn = try_turn(&mut running);
        let mut storm: Vec<Ticket> = (2..1002).map(|number| ticket(&gate, number)).collect();
        assert!(storm.iter_mut().all(|ticket| try_turn(ticket).is_none()) && try_turn(&mut settled).is_none());
        drop(turn);
        assert!(try_turn(&mut storm[0]).is_none() && try_turn(&mut settled).is_some());
    }

    /// The numbers of the tickets in the order in which they get their turns, of which there is one at a time.
    fn order(gate: &Arc<Gate>, tickets: &mut [Ticket]) -> Vec<u64> {
        let hold = try_turn(&mut ticket(gate, u64::MAX));
        assert!(tickets.iter_mut().all(|ticket| try_turn(ticket).is_none()));
        drop(hold);
        let mut waiting: Vec<&mut Ticket> = tickets.iter_mut().collect();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let next = waiting.iter_mut().position(|ticket| try_turn(ticket).is_some());
            order.push(waiting.remove(next.expect("one of them is next")).number);
        }
        order
    }

    #[test]
    fn first_responses_come_first_and_every_fourth_turn_is_a_repeated_one() {
        let gate = gate(1);
        let mut tickets: Vec<Ticket> = (0..3).map(|number| settled(&gate, number, &Arc::default())).collect();
        tickets.extend((10..17).map(|number| ticket(&gate, number)));
        assert_eq!(order(&gate, &mut tickets), [10, 11, 12, 0, 13, 14, 15, 1, 16, 2]);
    }

    #[test]
    fn a_stream_that_asks_again_and_again_waits_for_all_others_each_time() {
        let gate = gate(1);
        let mut greedy = settled(&gate, 0, &Arc::default());
        for _ in 0..100 {
            assert!(try_turn(&mut greedy).is_some(), "nobody else is there");
        }
        let hold = try_turn(&mut ticket(&gate, u64::MAX));
        let mut others: Vec<Ticket> = (1..4).map(|number| settled(&gate, number, &Arc::default())).collect();
        assert!(try_turn(&mut greedy).is_none() && others.iter_mut().all(|other| try_turn(other).is_none()));
        drop(hold);
        assert!(others.iter_mut().all(|other| try_turn(other).is_some()));
        assert!(try_turn(&mut greedy).is_some());
    }

    #[test]
    fn the_streams_of_one_connection_are_a_round_apart() {
        let gate = gate(1);
        let connection = Arc::default();
        let mut tickets: Vec<Ticket> = (0..4).map(|number| gate.ticket(number, &connection)).collect();
        tickets.extend((4..6).map(|number| ticket(&gate, number)));
        assert_eq!(order(&gate, &mut tickets), [0, 4, 5, 1, 2, 3]);
    }

    #[test]
    fn the_streams_of_one_connection_are_served_in_order_whichever_asks_first() {
        let gate = gate(1);
        let connection = Arc::default();
        let mut tickets: Vec<Ticket> = (0..20).map(|number| gate.ticket(number, &connection)).collect();
        tickets.reverse();
        assert_eq!(order(&gate, &mut tickets), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn streams_that_were_opened_early_and_ask_late_have_no_early_places() {
        let gate = gate(1);
        let (early, busy) = (Arc::default(), Arc::default());
        let mut kept: Vec<Ticket> = (0..5).map(|number| gate.ticket(number, &early)).collect();
        for number in 10..30 {
            assert!(try_turn(&mut gate.ticket(number, &busy)).is_some());
        }
        kept.push(ticket(&gate, 30));
        assert_eq!(order(&gate, &mut kept), [0, 30, 1, 2, 3, 4]);
    }

    #[test]
    fn a_stream_keeps_its_place_until_it_has_its_first_responses() {
        let gate = gate(1);
        let (mut early, mut late) = (ticket(&gate, 0), ticket(&gate, 1));
        for _ in 0..FIRST_TURNS {
            let turn = try_turn(&mut early).expect("it is first");
            assert!(try_turn(&mut late).is_none());
            drop(turn);
        }
        assert!(try_turn(&mut early).is_none() && try_turn(&mut late).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_thousand_tasks_are_called_in_order_and_none_is_forgotten() {
        let gate = gate(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let hold = try_turn(&mut ticket(&gate, 0)).expect("nobody is there");
        let tasks: Vec<_> = (1..=1000_u64)
            .map(|number| {
                let (mut ticket, order, asked) = (ticket(&gate, number), Arc::clone(&order), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut first = true;
                    let turn = pin!(poll_fn(|context| {
                        let turn = ticket.poll_turn(context);
                        if std::mem::take(&mut first) {
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                        turn
                    }))
                    .await;
                    order.lock().push(number);
                    drop(turn);
                    // Every seventh goes away while others wait.
                    if number % 7 == 0 {
                        drop(ticket);
                    }
                })
            })
            .collect();
        while asked.load(Ordering::Relaxed) < 1000 {
            tokio::task::yield_now().await;
        }
        drop(hold);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), (1..=1000).collect::<Vec<_>>());
    }
}
