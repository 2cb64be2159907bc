//! `GET /api/v1/events`: what changes, as server-sent events.
//!
//! One task looks at the stages ten times a second, as long as somebody listens, and compares pointers and counters first.
//! So nothing is done for a proxy while nothing happens, however many connections there are. The events lie in a ring;
//! each connection has its place in it.
//!
//! | event | subject | when |
//! |---|---|---|
//! | `revision` | all | the journal has a further change |
//! | `rollout` | all | state or numbers of the newest change |
//! | `refused` | node and type | a NACK begins or ends |
//! | `document` | key | a document has another state, text or warning, or is gone; registrations have none |
//! | `guard` | all | the documents that guards hold |
//! | `freeze` | id | a freeze begins or ends |
//! | `replica` | id | a replica comes, goes or vanishes |
//!
//! A connection gets ten events a second at most. While it waits, a later event of a subject takes the place of the
//! earlier one. The id of an event is the place from which nothing is missed: `Last-Event-ID` resumes there. If the ring
//! does not reach back so far, the first event is `reset`.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::Event as Frame;
use axum::response::{IntoResponse, Response, Sse};
use futures::Stream;
use futures::stream::unfold;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Admin;
use super::problem::{Code, Problem};
use super::query::{Pairs, reject_unknown_params};

mod look;

use look::Look;

/// Most connections.
const CONNECTIONS_MAX: usize = 1000;
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the task looks on after the last connection, so that a client which connects again misses nothing.
const LOOK_ON_FOR: Duration = Duration::from_secs(60);
/// Most events in the ring.
const RING_MAX: usize = 4096;
/// Most events of a connection in a second.
const PER_SECOND: usize = 10;
/// Time between two comments that keep an idle connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A change of one subject.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    kind: &'static str,
    subject: String,
    data: Value,
}

/// The events of this server. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Hub>);

#[derive(Debug, Default)]
struct Hub {
    ring: Mutex<Ring>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    /// A word of the task that looks; 0: there is none.
    epoch: u64,
    connections: usize,
    /// The numbers of events begin at 1.
    last: u64,
    events: VecDeque<(u64, Arc<Event>)>,
}

impl Hub {
    fn push(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut ring = self.ring.lock();
        for event in events {
            ring.last += 1;
            let number = ring.last;
            ring.events.push_back((number, Arc::new(event)));
            if ring.events.len() > RING_MAX {
                ring.events.pop_front();
            }
        }
        let last = ring.last;
        drop(ring);
        self.newest.send_replace(last);
    }

    /// The events after a number; `None`: some of them are gone.
    fn after(&self, number: u64) -> Option<Vec<(u64, Arc<Event>)>> {
        let ring = self.ring.lock();
        let first = ring.last + 1 - ring.events.len() as u64;
        let skipped = usize::try_from((number + 1).checked_sub(first)?).ok()?;
        (number <= ring.last).then(|| ring.events.iter().skip(skipped).cloned().collect())
    }
}

/// One connection, until it is dropped.
#[derive(Debug)]
struct Connection(Arc<Hub>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.ring.lock().connections -= 1;
    }
}

impl Events {
    /// Add a connection, and begin to look if nobody does. Gives the epoch and the number of the newest event.
    fn join(&self, admin: &Admin) -> Option<(Connection, u64, u64)> {
        let mut ring = self.0.ring.lock();
        if ring.connections >= CONNECTIONS_MAX {
            return None;
        }
        ring.connections += 1;
        if ring.epoch == 0 {
            ring.epoch = rand::random::<u64>() | 1;
            ring.events.clear();
            // Before the answer, so that the client misses nothing that happens after it.
            let look = Look::begin(admin);
            tokio::spawn(Self::look(Arc::clone(&self.0), admin.clone(), look));
        }
        Some((Connection(Arc::clone(&self.0)), ring.epoch, ring.last))
    }

    /// Look as long as somebody listens, and a minute longer; until the server stops.
    async fn look(hub: Arc<Hub>, admin: Admin, mut look: Look) {
        let draining = admin.readiness.draining().clone();
        let mut idle_since = Instant::now();
        loop {
            tokio::select! {
                () = draining.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
            hub.push(look.changes(&admin));
            let mut ring = hub.ring.lock();
            if ring.connections > 0 {
                idle_since = Instant::now();
            } else if idle_since.elapsed() > LOOK_ON_FOR {
                (ring.epoch, ring.events) = (0, VecDeque::new());
                return;
            }
        }
    }
}

pub(super) async fn stream(State(admin): State<Admin>, query: Pairs, headers: HeaderMap) -> Result<Response, Problem> {
    reject_unknown_params(&query, &[])?;
    let Some((connection, epoch, newest)) = admin.events.join(&admin) else {
        let detail = format!("there are {CONNECTIONS_MAX} connections for events, which is the most");
        return Err(Problem::new(Code::TooMany, detail));
    };
    let prefix = format!("{}-{epoch:016x}-", admin.replicas.own());
    let asked = headers.get("last-event-id").map(|id| {
        let number = id.to_str().ok().and_then(|id| id.strip_prefix(&prefix)?.parse().ok());
        number.filter(|number| connection.0.after(*number).is_some())
    });
    let reader = Reader {
        newest: connection.0.newest.subscribe(),
        connection,
        prefix,
        read: asked.flatten().unwrap_or(newest),
        waiting: Waiting::default(),
        is_reset: asked == Some(None),
        sent: VecDeque::new(),
        stop: admin.readiness.draining().clone(),
    };
    let frames: Pin<Box<dyn Stream<Item = Result<Frame, Infallible>> + Send>> = Box::pin(unfold(reader, Reader::next));
    let mut response = Sse::new(frames).into_response();
    // A proxy between client and server would keep the events back.
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The events that a connection has not got yet: the latest of each subject, in the order in which the subjects came.
#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<String>,
    events: BTreeMap<String, (u64, Arc<Event>)>,
}

impl Waiting {
    fn add(&mut self, number: u64, event: Arc<Event>) {
        let subject = format!("{} {}", event.kind, event.subject);
        match self.events.get_mut(&subject) {
            Some(waiting) => waiting.1 = event,
            None => {
                self.order.push_back(subject.clone());
                self.events.insert(subject, (number, event));
            }
        }
    }

    fn next(&mut self) -> Option<Arc<Event>> {
        let subject = self.order.pop_front()?;
        self.events.remove(&subject).map(|(_, event)| event)
    }

    /// The number of the oldest event that waits: subjects wait in the order of their first events.
    fn oldest(&self) -> Option<u64> {
        let subject = self.order.front()?;
        self.events.get(subject).map(|(number, _)| *number)
    }
}

/// The place of one connection.
#[derive(Debug)]
struct Reader {
    connection: Connection,
    newest: watch::Receiver<u64>,
    /// The begin of ids.
    prefix: String,
    /// The number up to which events were taken from the ring.
    read: u64,
    waiting: Waiting,
    /// The client has missed events.
    is_reset: bool,
    /// When the last events were sent, at most [`PER_SECOND`].
    sent: VecDeque<Instant>,
    stop: CancellationToken,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Frame, Infallible>, Self)> {
        let keep_alive = Instant::now() + KEEP_ALIVE;
        loop {
            self.newest.mark_unchanged();
            self.take();
            let is_due = self.is_reset || !self.waiting.order.is_empty();
            let due = match self.sent.front() {
                Some(first) if self.sent.len() >= PER_SECOND => *first + Duration::from_secs(1),
                _ => Instant::now(),
            };
            if is_due && due <= Instant::now() {
                let frame = self.frame();
                return Some((Ok(frame), self));
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep_until(due), if is_due => {}
                Ok(()) = self.newest.changed(), if !is_due => {}
                () = sleep_until(keep_alive) => return Some((Ok(Frame::default().comment("")), self)),
            }
        }
    }

    /// Take the new events from the ring.
    fn take(&mut self) {
        let Some(events) = self.connection.0.after(self.read) else {
            (self.is_reset, self.waiting) = (true, Waiting::default());
            self.read = *self.newest.borrow();
            return;
        };
        for (number, event) in events {
            self.read = number;
            self.waiting.add(number, event);
        }
    }

    fn frame(&mut self) -> Frame {
        let now = Instant::now();
        self.sent.push_back(now);
        if self.sent.len() > PER_SECOND {
            self.sent.pop_front();
        }
        let (kind, data) = if std::mem::take(&mut self.is_reset) {
            ("reset", json!({}))
        } else {
            match self.waiting.next() {
                Some(event) => (event.kind, event.data.clone()),
                None => return Frame::default().comment(""),
            }
        };
        let place = self.waiting.oldest().map_or(self.read, |oldest| oldest - 1);
        let id = format!("{}{place}", self.prefix);
        Frame::default().event(kind).id(id).data(data.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &'static str, subject: &str, number: usize) -> Event {
        Event {
            kind,
            subject: subject.to_owned(),
            data: number.into(),
        }
    }

    #[test]
    fn the_latest_event_of_a_subject_waits_in_the_place_of_the_first() {
        let mut waiting = Waiting::default();
        let events = [("a", 1), ("b", 2), ("a", 3), ("c", 4)];
        for (number, (subject, data)) in (1..).zip(events) {
            waiting.add(number, Arc::new(event("document", subject, data)));
        }
        let mut found = Vec::new();
        while let Some(event) = waiting.next() {
            found.push((event.data.clone(), waiting.oldest()));
        }
        assert_eq!(found, [(3.into(), Some(2)), (2.into(), Some(4)), (4.into(), None)]);
    }

    #[test]
    fn the_ring_says_whether_it_reaches_back() {
        let hub = Hub::default();
        assert_eq!(hub.after(0), Some(Vec::new()));
        assert_eq!(hub.after(1), None, "an event of another server");
        hub.push((1..=3).map(|number| event("document", "a", number)).collect());
        let numbers = |after| {
            hub.after(after)
                .map(|events| events.iter().map(|(at, _)| *at).collect::<Vec<_>>())
        };
        assert_eq!(
            (numbers(0), numbers(2), numbers(3)),
            (Some(vec![1, 2, 3]), Some(vec![3]), Some(vec![]))
        );
        hub.push((0..RING_MAX).map(|number| event("document", "a", number)).collect());
        assert_eq!((numbers(2), numbers(3).map(|all| all.len())), (None, Some(RING_MAX)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_gets_ten_events_a_second() {
        let hub = Arc::new(Hub::default());
        hub.ring.lock().connections = 1;
        let mut reader = Reader {
            newest: hub.newest.subscribe(),
            connection: Connection(Arc::clone(&hub)),
            prefix: String::new(),
            read: 0,
            waiting: Waiting::default(),
            is_reset: false,
            sent: VecDeque::new(),
            stop: CancellationToken::new(),
        };
        hub.push(
            (0..25)
                .map(|number| event("document", &number.to_string(), number))
                .collect(),
        );
        let begin = Instant::now();
        let mut times = Vec::new();
        for _ in 0..25 {
            (_, reader) = reader.next().await.unwrap();
            times.push(begin.elapsed().as_secs());
        }
        let at = |second| times.iter().filter(|time| **time == second).count();
        assert_eq!((at(0), at(1), at(2)), (10, 10, 5));
        drop(reader);
        assert_eq!(hub.ring.lock().connections, 0);
    }
}
