//! Admits first responses in order of arrival, a few at a time.
//!
//! If a fleet connects at once, thousands of streams have expensive work: to read lists of names, to compare whole
//! sets, to build first responses. Without a gate every stream would work as soon as its task runs, and an update for
//! an up-to-date proxy would wait behind all of them. With the gate such work takes a [`Turn`]. There are fewer turns
//! than threads. The stream that arrived first is next, so proxies become complete one after the other. Before the
//! first publish there are no turns; streams that wait then are queued already.
//!
//! A turn lasts for at most one poll, in which nothing waits. A client that does not read therefore delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, MutexGuard};

/// Shared by the streams of a server. Closed at first.
#[derive(Debug, Default)]
pub(in crate::xds) struct Gate(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    free: usize,
    /// The waiting streams by number; the lowest is next.
    waiting: BTreeMap<u64, Waker>,
}

impl Gate {
    /// Allow this many turns at a time, at least one. Called once.
    pub(in crate::xds) fn open(&self, turns: usize) {
        let mut line = self.line();
        line.free = turns.max(1);
        line.call();
    }

    /// A place in line. `number` is unique, and lower for a stream that arrived earlier.
    pub(in crate::xds) fn ticket(self: &Arc<Self>, number: u64) -> Ticket {
        Ticket {
            gate: Arc::clone(self),
            number,
            waits: false,
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock()
    }
}

impl Line {
    /// Wake the streams whose turn it is. Each stays in line until it takes the turn.
    fn call(&self) {
        for waker in self.waiting.values().take(self.free) {
            waker.wake_by_ref();
        }
    }
}

/// The place in line of one stream.
#[derive(Debug)]
pub(in crate::xds) struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    waits: bool,
}

impl Ticket {
    /// Take a turn. Pending: the task is woken when it is this stream's turn.
    pub(in crate::xds) fn poll_turn(&mut self, context: &Context<'_>) -> Poll<Turn> {
        let mut line = self.gate.line();
        let ahead = line.waiting.range(..self.number).take(line.free).count();
        if ahead < line.free {
            line.free -= 1;
            line.waiting.remove(&self.number);
            self.waits = false;
            return Poll::Ready(Turn(Arc::clone(&self.gate)));
        }
        line.waiting.insert(self.number, context.waker().clone());
        self.waits = true;
        Poll::Pending
    }

    /// Leave the line.
    pub(in crate::xds) fn leave(&mut self) {
        if std::mem::take(&mut self.waits) {
            let mut line = self.gate.line();
            line.waiting.remove(&self.number);
            // This stream may have been woken for a turn, which is then the next stream's.
            line.call();
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
        let mut line = self.0.line();
        line.free += 1;
        line.call();
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

    fn try_turn(ticket: &mut Ticket) -> Option<Turn> {
        match ticket.poll_turn(&Context::from_waker(noop_waker_ref())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_gate_that_opens_wakes_the_waiting_streams() {
        let gate = Arc::new(Gate::default());
        let mut tickets: Vec<Ticket> = (0..3).map(|number| gate.ticket(number)).collect();
        assert!(tickets.iter_mut().rev().all(|ticket| try_turn(ticket).is_none()));
        gate.open(1);
        assert!(try_turn(&mut tickets[2]).is_none() && try_turn(&mut tickets[0]).is_some());
    }

    #[test]
    fn the_earliest_is_next_whatever_the_order_of_asking() {
        let gate = gate(1);
        let mut tickets: Vec<Ticket> = (0..4).map(|number| gate.ticket(number)).collect();
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
        let mut tickets: Vec<Ticket> = (0..5).map(|number| gate.ticket(number)).collect();
        let turns: Vec<_> = tickets.iter_mut().filter_map(try_turn).collect();
        assert_eq!(turns.len(), 2);
        drop(turns);
        // Three wait and two may go. A later stream does not pass them.
        assert!(try_turn(&mut gate.ticket(9)).is_none());
        assert!(try_turn(&mut tickets[3]).is_some() && try_turn(&mut tickets[2]).is_some());
    }

    #[test]
    fn an_old_stream_goes_before_a_thousand_new_ones() {
        let gate = gate(1);
        let (mut settled, mut running) = (gate.ticket(0), gate.ticket(1));
        let turn = try_turn(&mut running);
        let mut storm: Vec<Ticket> = (2..1002).map(|number| gate.ticket(number)).collect();
        assert!(storm.iter_mut().all(|ticket| try_turn(ticket).is_none()) && try_turn(&mut settled).is_none());
        drop(turn);
        assert!(try_turn(&mut storm[0]).is_none() && try_turn(&mut settled).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_thousand_tasks_are_called_in_order_and_none_is_forgotten() {
        let gate = gate(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let hold = try_turn(&mut gate.ticket(0)).expect("nobody is there");
        let tasks: Vec<_> = (1..=1000_u64)
            .map(|number| {
                let (mut ticket, order, asked) = (gate.ticket(number), Arc::clone(&order), Arc::clone(&asked));
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
