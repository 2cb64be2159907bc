//! First answers in order of arrival, a few at a time.
//!
//! When a fleet connects at once, thousands of streams have costly work to do: lists of names to read, whole sets to compare,
//! first answers to put together. Without a gate each does it as soon as its task runs, and an update to a proxy that has long
//! settled waits its turn behind all of them. Here such work takes a [`Turn`], of which there are fewer than threads; the
//! stream that arrived first is called first, so that proxies are whole one after the other instead of all being half done.
//! Until there is something to serve nobody is called; who waits then stands in line already.
//!
//! A turn lasts for one poll at most: nothing in it waits, so a client that does not read keeps nobody else out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Shared by the streams of a server. Closed at first.
#[derive(Debug, Default)]
pub(in crate::xds) struct Gate(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    free: usize,
    /// Who waits, by number: the lowest are next.
    waiting: BTreeMap<u64, Waker>,
}

impl Gate {
    /// So many turns at a time from now on; at least one. Opened once.
    pub(in crate::xds) fn open(&self, turns: usize) {
        let mut line = self.line();
        line.free = turns.max(1);
        line.call();
    }

    /// A place in line. `number` is unique, and lower for who arrived earlier.
    pub(in crate::xds) fn seat(self: &Arc<Self>, number: u64) -> Seat {
        Seat {
            gate: Arc::clone(self),
            number,
            waits: false,
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Wake those whose turn it is. They stay in line until they have taken it.
    fn call(&self) {
        for waker in self.waiting.values().take(self.free) {
            waker.wake_by_ref();
        }
    }
}

/// One stream's place.
#[derive(Debug)]
pub(in crate::xds) struct Seat {
    gate: Arc<Gate>,
    number: u64,
    waits: bool,
}

impl Seat {
    /// Take a turn. Pending: the task is woken when it is this stream's.
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

    /// Wait no longer.
    pub(in crate::xds) fn leave(&mut self) {
        if std::mem::take(&mut self.waits) {
            let mut line = self.gate.line();
            line.waiting.remove(&self.number);
            // It may have been called: then it is the next one's turn.
            line.call();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Leave to do costly work. It is over when this is dropped.
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

    fn try_turn(seat: &mut Seat) -> Option<Turn> {
        match seat.poll_turn(&Context::from_waker(noop_waker_ref())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_gate_that_opens_calls_who_stands_there() {
        let gate = Arc::new(Gate::default());
        let mut seats: Vec<Seat> = (0..3).map(|number| gate.seat(number)).collect();
        assert!(seats.iter_mut().rev().all(|seat| try_turn(seat).is_none()));
        gate.open(1);
        assert!(try_turn(&mut seats[2]).is_none() && try_turn(&mut seats[0]).is_some());
    }

    #[test]
    fn the_earliest_is_next_whatever_the_order_of_asking() {
        let gate = gate(1);
        let mut seats: Vec<Seat> = (0..4).map(|number| gate.seat(number)).collect();
        let turn = try_turn(&mut seats[2]).expect("nobody is there");
        for number in [3, 0, 1] {
            assert!(try_turn(&mut seats[number]).is_none());
        }
        drop(turn);
        assert!(try_turn(&mut seats[3]).is_none(), "two are ahead");
        let turn = try_turn(&mut seats[0]).expect("its turn");
        drop(turn);
        assert!(try_turn(&mut seats[3]).is_none(), "one is ahead");
        seats[1].leave();
        assert!(try_turn(&mut seats[3]).is_some());
    }

    #[test]
    fn there_are_no_more_turns_than_were_made() {
        let gate = gate(2);
        let mut seats: Vec<Seat> = (0..5).map(|number| gate.seat(number)).collect();
        let turns: Vec<_> = seats.iter_mut().filter_map(try_turn).collect();
        assert_eq!(turns.len(), 2);
        drop(turns);
        // Three wait; two may go, and who comes late may not pass them.
        assert!(try_turn(&mut gate.seat(9)).is_none());
        assert!(try_turn(&mut seats[3]).is_some() && try_turn(&mut seats[2]).is_some());
    }

    #[test]
    fn a_stream_of_long_ago_goes_before_a_thousand_newcomers() {
        let gate = gate(1);
        let (mut settled, mut running) = (gate.seat(0), gate.seat(1));
        let turn = try_turn(&mut running);
        let mut storm: Vec<Seat> = (2..1002).map(|number| gate.seat(number)).collect();
        assert!(storm.iter_mut().all(|seat| try_turn(seat).is_none()) && try_turn(&mut settled).is_none());
        drop(turn);
        assert!(try_turn(&mut storm[0]).is_none() && try_turn(&mut settled).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_thousand_tasks_are_called_in_order_and_none_is_forgotten() {
        let gate = gate(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let hold = try_turn(&mut gate.seat(0)).expect("nobody is there");
        let tasks: Vec<_> = (1..=1000_u64)
            .map(|number| {
                let (mut seat, order, asked) = (gate.seat(number), Arc::clone(&order), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut first = true;
                    let turn = pin!(poll_fn(|context| {
                        let turn = seat.poll_turn(context);
                        if std::mem::take(&mut first) {
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                        turn
                    }))
                    .await;
                    order.lock().unwrap().push(number);
                    drop(turn);
                    // Every seventh goes away while others wait.
                    if number % 7 == 0 {
                        drop(seat);
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
        assert_eq!(*order.lock().unwrap(), (1..=1000).collect::<Vec<_>>());
    }
}
