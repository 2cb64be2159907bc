//! The task of one stream: reads requests, asks the session for responses, writes them.
//!
//! - No response is built while earlier ones are still unread ([`in_flight`]).
//! - A response to a subscription is built in turn ([`admission`]).
//! - There is no queue and no channel. If the client resets the stream, the task is dropped with all its state.
//! - The outcomes of the session become facts of [`crate::fleet`], log lines and trace spans here.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Span, debug, info, info_span, warn};

use crate::fleet::convergence::Why;
use crate::fleet::{Conditions, Fleet, Identity, Sent, StreamHandle, Variant};
use crate::resource::ResourceType;
use crate::resource::policies::FIRST_ENVOY;
use crate::snapshot::Snapshot;
use crate::snapshot::steps::Mark;
use crate::snapshot::store::Store;
use crate::xds::error::{Code, Error, status};
use crate::xds::grpc;
use crate::xds::http2::incoming::Incoming;
use crate::xds::http2::peer::{Peer, shown};
use crate::xds::limits::{SHORT_LIST, SMALL_REQUEST};
use crate::xds::session::{Ack, Acked, Outcome, Response, Session};
use crate::xds::stream::admission::{Ticket, Turn};
use crate::xds::stream::budget::{Account, Lists, Proven};
use crate::xds::stream::in_flight::{Cell, Progress};
use crate::xds::stream::interest::Registration;
use crate::xds::stream::message::Message;
use crate::xds::stream::meter::Meter;
use crate::xds::stream::reader::Reader;
use crate::xds::stream::wake::SideFuture;

pub(in crate::xds) mod admission;
pub(in crate::xds) mod budget;
pub(in crate::xds) mod in_flight;
pub(in crate::xds) mod interest;
pub(in crate::xds) mod message;
pub(in crate::xds) mod meter;
pub(in crate::xds) mod reader;
pub(in crate::xds) mod wake;

/// Requests read in one poll, before other streams get their turn.
const REQUESTS_A_POLL: usize = 64;
/// The delay until a passed deadline that gave no response is checked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Resolves when the server ends the stream.
pub(in crate::xds) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The parts of a new stream.
pub(in crate::xds) struct Opening {
    pub(in crate::xds) requests: Incoming,
    pub(in crate::xds) out: SendStream<Message>,
    pub(in crate::xds) session: Session,
    pub(in crate::xds) variant: Variant,
    pub(in crate::xds) aggregated: bool,
    pub(in crate::xds) peer: Peer,
    pub(in crate::xds) account: Arc<Account>,
    pub(in crate::xds) store: Arc<Store>,
    pub(in crate::xds) fleet: Fleet,
    pub(in crate::xds) progress: Progress,
    pub(in crate::xds) ticket: Ticket,
    pub(in crate::xds) registration: Registration,
    pub(in crate::xds) ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The client has ended its side. Owed responses are still sent.
    HalfClosed,
}

/// The next write to a stream.
enum Next {
    Response(Message),
    /// The status of the stream, as trailers.
    End(HeaderMap),
}

/// One xDS stream. Ready when the stream is over; if dropped earlier, the stream is reset.
pub(in crate::xds) struct Stream {
    reader: Reader<Incoming>,
    out: SendStream<Message>,
    session: Session,
    variant: Variant,
    aggregated: bool,
    peer: Peer,
    account: Arc<Account>,
    /// Once the client has sent an ACK.
    proven: Option<Proven>,
    /// Once the client has subscribed to a long list of names.
    lists: Option<Box<Lists>>,
    store: Arc<Store>,
    timer: Option<Pin<Box<Sleep>>>,
    fleet: Fleet,
    handle: Option<StreamHandle>,
    progress: Progress,
    ticket: Ticket,
    registration: Registration,
    /// A received request that waits for a turn.
    arrived: Option<Bytes>,
    /// The client has subscribed, and not every response to that is sent.
    asked: bool,
    ending: SideFuture<Ending, Cell>,
    phase: Phase,
    /// As last reported to the fleet.
    group: Option<Arc<str>>,
    conditions: Conditions,
    /// The newest mark whose changes the client has or was sent; `None`: something waits, or it is unknown.
    looked: Option<u64>,
    /// The reason for the wait.
    why: Option<Why>,
    /// As last reported to the fleet.
    stalled: bool,
    span: Span,
}

impl Stream {
    pub(in crate::xds) fn new(opening: Opening) -> Self {
        let Opening {
            requests,
            out,
            session,
            variant,
            aggregated,
            peer,
            account,
            store,
            fleet,
            progress,
            ticket,
            registration,
            ending,
        } = opening;
        let meter = Meter::new(&account, progress.cell());
        Self {
            reader: Reader::new(requests, grpc::REQUEST_MAX, Some(meter)),
            proven: None,
            lists: None,
            out,
            session,
            variant,
            aggregated,
            peer,
            account,
            store,
            timer: None,
            fleet,
            handle: None,
            ending: SideFuture::new(ending, Arc::clone(progress.cell())),
            progress,
            ticket,
            registration,
            arrived: None,
            asked: false,
            phase: Phase::Open,
            group: None,
            conditions: Conditions::default(),
            looked: None,
            why: None,
            stalled: false,
            span: Span::none(),
        }
    }

    /// Write every response that is due now.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.progress.poll_over(&mut self.out, context)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let (mut now, mut reads) = (Instant::now(), true);
        loop {
            match ready!(self.poll_next(context, &mut now, &mut reads)) {
                Next::Response(message) => self.out.send_data(message, false)?,
                Next::End(status) => return Poll::Ready(self.out.send_trailers(status)),
            }
        }
    }

    /// `reads`: there may be unread requests. Once all are read, the next request wakes the task.
    fn poll_next(&mut self, context: &mut Context<'_>, now: &mut Instant, reads: &mut bool) -> Poll<Next> {
        if self.ending.poll().is_ready() {
            return self.end(Code::Ok, "");
        }
        self.note_stalled();
        let mut turn = None;
        if *reads && let Err(error) = self.read(context, *now, &mut turn, reads) {
            info!(
                parent: &self.span,
                peer = %shown(self.peer.address),
                %error,
                "Ended a stream that breaks the protocol"
            );
            return self.end(error.code(), &error.to_string());
        }
        if self.phase == Phase::HalfClosed && self.store.peek().generation == 0 {
            // The first publish may take long.
            return self.end(Code::Ok, "");
        }
        if !self.progress.has_room() || !self.has_turn(context, &mut turn) {
            return Poll::Pending;
        }
        loop {
            let snapshot = self.store.peek();
            if let Some(response) = self.session.next_response(&snapshot, now.into_std()) {
                let withholds = |of| self.session.withholds(of, &snapshot);
                let withholds = response.resource_type.is_some_and(withholds);
                return self.send(response, withholds);
            }
            self.note_conditions();
            self.note_marks(&snapshot);
            self.asked = false;
            if self.phase == Phase::HalfClosed {
                return self.end(Code::Ok, "");
            }
            if self.registration.update(self.session.endpoints_alone()) {
                continue;
            }
            // Before the first publish nothing is due. The publish wakes the task.
            if snapshot.generation == 0 || self.poll_timer(*now, context).is_pending() {
                return Poll::Pending;
            }
            *now = Instant::now();
        }
    }

    /// Read requests, at most [`REQUESTS_A_POLL`]. A large request waits for a turn.
    fn read(
        &mut self,
        context: &mut Context<'_>,
        now: Instant,
        turn: &mut Option<Turn>,
        reads: &mut bool,
    ) -> Result<(), Error> {
        for _ in 0..REQUESTS_A_POLL {
            if self.phase != Phase::Open || self.session.is_full() {
                self.reader.stop_time();
                return Ok(());
            }
            if self.arrived.is_none() {
                match self.reader.poll_next(context) {
                    Poll::Pending => {
                        *reads = false;
                        return Ok(());
                    }
                    Poll::Ready(None) => self.phase = Phase::HalfClosed,
                    Poll::Ready(Some(request)) => self.arrived = Some(request?),
                }
            }
            let Some(request) = self.arrived.take() else { continue };
            if request.len() > SMALL_REQUEST && !self.take_turn(context, turn) {
                self.arrived = Some(request);
                return Ok(());
            }
            let outcome = self.session.on_request(request, now.into_std())?;
            self.asked |= outcome.resubscribed;
            if outcome.resubscribed {
                self.count_names(outcome.resource_type)?;
            }
            self.note(outcome);
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    /// Report the memory of the subscribed names, if the stream has or had a long list of them.
    fn count_names(&mut self, resource_type: Option<ResourceType>) -> Result<(), Error> {
        let session = &self.session;
        let names = |resource_type| session.subscription(resource_type).map(|(_, names)| names);
        let is_long = resource_type
            .and_then(names)
            .is_some_and(|names| names.len() > SHORT_LIST);
        if !is_long && self.lists.is_none() {
            return Ok(());
        }
        let lists = self.lists.get_or_insert_with(|| Box::new(Lists::new(&self.account)));
        lists.set(ResourceType::ALL.into_iter().filter_map(names))
    }

    /// Whether the next response may be built now. A response to a subscription waits for a turn, an update does not.
    /// There are no turns before the first publish.
    fn has_turn(&mut self, context: &Context<'_>, turn: &mut Option<Turn>) -> bool {
        if !self.asked {
            if self.arrived.is_none() {
                self.ticket.leave();
            }
            return true;
        }
        self.take_turn(context, turn)
    }

    /// Pending: the task is woken when it is this stream's turn.
    fn take_turn(&mut self, context: &Context<'_>, turn: &mut Option<Turn>) -> bool {
        if turn.is_none()
            && let Poll::Ready(taken) = self.ticket.poll_turn(context)
        {
            *turn = Some(taken);
        }
        turn.is_some()
    }

    /// Whether the session's deadline has passed since `now`. Pending: the task is woken when it does.
    fn poll_timer(&mut self, now: Instant, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.session.deadline().map(Instant::from_std) else {
            self.timer = None;
            return Poll::Pending;
        };
        // A passed deadline was checked just now. The due work waits for something else, such as other removals.
        let deadline = if deadline > now { deadline } else { now + AGAIN_AFTER };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context)
    }

    /// `withholds`: the response would be another one if the client might have secrets.
    fn send(&mut self, response: Response, withholds: bool) -> Poll<Next> {
        let Response {
            resource_type,
            version,
            nonce,
            ..
        } = response;
        let size = response.head.len() + response.blocks.len();
        let Some(message) = Message::of(response) else {
            warn!(
                parent: &self.span,
                peer = %shown(self.peer.address),
                bytes = size,
                "Ended a stream whose response is too large for gRPC"
            );
            return self.end(Code::ResourceExhausted, "the response is larger than 4 GiB");
        };
        self.join();
        if let (Some(handle), Some(resource_type)) = (&self.handle, resource_type) {
            let word = resource_type.as_str();
            debug!(parent: &self.span, r#type = word, %version, %nonce, bytes = size, "Sent a response");
            let sent = Sent {
                version,
                nonce: Some(nonce),
                at: SystemTime::now(),
            };
            let is_library = self.session.node().is_some_and(|node| node.is_grpc_library());
            if size > grpc::LIBRARY_LARGE && is_library {
                warn!(
                    parent: &self.span,
                    peer = %shown(self.peer.address),
                    r#type = word,
                    bytes = size,
                    "A response to a gRPC library is large; it drops the stream above 4 MB"
                );
            }
            handle.sent(resource_type, sent, size > grpc::LIBRARY_MAX && is_library);
            if withholds {
                self.note_withheld(handle);
            }
        }
        // The next poll may be late: leave the line, so that no other stream waits for this one.
        self.ticket.leave();
        Poll::Ready(Next::Response(message.counted(&self.progress)))
    }

    fn end(&mut self, code: Code, message: &str) -> Poll<Next> {
        self.leave();
        self.ticket.leave();
        Poll::Ready(Next::End(status(code, message)))
    }

    // ---- facts ----

    /// Report the conditions of the client to the fleet.
    fn note_conditions(&mut self) {
        let Some(handle) = &self.handle else { return };
        while let Some((resource_type, version)) = self.session.confirmed() {
            debug!(parent: &self.span, r#type = resource_type.as_str(), %version, "Reported as current");
            handle.confirmed(resource_type, version);
            handle.holds(resource_type, self.session.acked(resource_type));
        }
        let conditions = self.session.conditions();
        if conditions == self.conditions {
            return;
        }
        self.conditions = conditions;
        let before = handle.conditions(conditions);
        let node_id = self.session.node().map(|node| &*node.id);
        if conditions.clusters_unacknowledged && !before.clusters_unacknowledged {
            let documents: Vec<String> = self
                .session
                .unacked_clusters()
                .iter()
                .map(ToString::to_string)
                .collect();
            warn!(
                parent: &self.span,
                peer = %shown(self.peer.address),
                node.id = node_id,
                ?documents,
                "No ACK or NACK for clusters for 20 s, other types are answered. Envoy cannot build one of these \
                 clusters: change or delete it"
            );
        }
        if conditions.removals_held && !before.removals_held {
            info!(
                parent: &self.span,
                peer = %shown(self.peer.address),
                node.id = node_id,
                "Removals are held: a proxy NACKed a resource that may still refer to a removed one"
            );
        }
    }

    /// Report that the client reads nothing, or reads again.
    fn note_stalled(&mut self) {
        let is_stalled = self.progress.cell().is_stalled();
        if self.stalled != is_stalled
            && let Some(handle) = &self.handle
        {
            self.stalled = is_stalled;
            handle.stalled(is_stalled);
        }
    }

    /// Nothing is owed: report the changes that do not concern the client.
    fn note_marks(&mut self, snapshot: &Snapshot) {
        if self.looked == Some(snapshot.marked) || self.handle.is_none() {
            return;
        }
        self.join();
        let (Some(handle), Some(group)) = (&self.handle, self.session.group()) else {
            return;
        };
        let Some(group) = snapshot.group(group) else { return };
        let why = self.session.look(group, |of, mark| handle.unconcerned(of, mark));
        if why != self.why {
            handle.waits(why.unwrap_or_default());
        }
        (self.why, self.looked) = (why, why.is_none().then_some(snapshot.marked));
    }

    /// Register the client with the fleet after its first request, and report a change of its group.
    fn join(&mut self) {
        let (Some(node), group) = (self.session.node(), self.session.group()) else {
            return;
        };
        match (&self.handle, group) {
            (Some(handle), Some(group)) if self.group.as_ref().is_none_or(|told| !Arc::ptr_eq(told, group)) => {
                handle.moved(group);
                self.group = Some(Arc::clone(group));
            }
            (Some(_), _) => {}
            (None, group) => {
                self.progress.cell().heard();
                let default = || Arc::from(crate::document::DEFAULT_GROUP);
                self.span = info_span!("stream", node.id = &*node.id, variant = self.variant.as_str());
                let unknown = self.fleet.recall(&node.id);
                self.handle = Some(self.fleet.connect(Identity {
                    node_id: Arc::clone(&node.id),
                    node_cluster: Arc::clone(&node.cluster),
                    user_agent: Arc::clone(&node.user_agent),
                    version: node.version,
                    group: group.cloned().unwrap_or_else(default),
                    has_zone: !node.locality.1.is_empty(),
                    lacks_slots: node.is_envoy_before(FIRST_ENVOY),
                    address: self.peer.address,
                    variant: self.variant,
                    aggregated: self.aggregated,
                    connected_at: SystemTime::now(),
                }));
                self.session.recall(unknown);
            }
        }
    }

    /// Report the outcome of a request.
    fn note(&mut self, outcome: Outcome) {
        self.join();
        let (Some(handle), Some(resource_type)) = (&self.handle, outcome.resource_type) else {
            return;
        };
        if outcome.resubscribed
            && let Some((wildcard, names)) = self.session.subscription(resource_type)
        {
            handle.subscribed(resource_type, (!wildcard).then(|| names.sorted()));
            self.looked = None;
            if resource_type == ResourceType::Secret {
                self.note_withheld(handle);
            }
        }
        if let Some(acked) = outcome.acked {
            let is_ack = matches!(acked.ack, Ack::Ack);
            self.note_ack(handle, resource_type, acked);
            if is_ack && self.proven.is_none() {
                self.proven = Some(self.account.prove());
            }
        }
    }

    /// Logged once a stream, at its first subscription to secrets, or its first routes with policies that have secrets.
    fn note_withheld(&self, handle: &StreamHandle) {
        let Some(because) = self.peer.withheld else { return };
        if handle.secrets_withheld() {
            warn!(
                parent: &self.span,
                node.id = self.session.node().map(|node| &*node.id),
                peer = %shown(self.peer.address),
                "Withheld secrets from a proxy: {because}. Policies with these secrets answer 403 there. Let the proxy \
                 connect with a certificate \
                 of --xds-tls-client-ca (envoy-config/mtls.yaml), over a Unix socket or from this machine, or start \
                 the server with --plaintext-secrets"
            );
        }
    }

    fn note_ack(&self, handle: &StreamHandle, resource_type: ResourceType, acked: Acked) {
        let at = SystemTime::now();
        let word = resource_type.as_str();
        let sent = Sent {
            version: acked.version,
            nonce: Some(acked.nonce),
            at,
        };
        handle.resolve(resource_type, |name| self.session.nacked_in(resource_type, name));
        match acked.ack {
            Ack::Ack => {
                debug!(
                    parent: &self.span,
                    r#type = word,
                    version = %sent.version,
                    nonce = %acked.nonce,
                    "Acknowledged"
                );
                if let Some(trace) = acked.trace {
                    let node_id = self.session.node().map(|node| &*node.id);
                    trace.adopt(&info_span!(parent: None, "acknowledged", node.id = node_id, r#type = word));
                }
                let since = acked
                    .published_at
                    .and_then(|published| at.duration_since(published).ok());
                handle.holds(resource_type, self.session.acked(resource_type));
                handle.acknowledged(resource_type, sent, since);
                if handle.reaches(resource_type, acked.mark) && acked.mark != Mark::NEVER {
                    let snapshot = self.store.peek();
                    if let Some(group) = self.group.as_ref().and_then(|group| snapshot.group(group)) {
                        handle.converges(acked.mark, group.marks());
                    }
                }
            }
            Ack::Nack {
                code,
                message,
                names,
                suspects,
            } => {
                let documents = suspects.shown.iter().flat_map(|suspect| &suspect.documents);
                let documents: Vec<String> = documents.map(ToString::to_string).collect();
                warn!(
                    parent: &self.span,
                    peer = %shown(self.peer.address),
                    node.id = self.session.node().map(|node| &*node.id),
                    r#type = word,
                    version = %sent.version,
                    nonce = %acked.nonce,
                    code,
                    reason = message,
                    ?names,
                    ?documents,
                    "A proxy NACKed a response"
                );
                handle.nacked(resource_type, &sent, code, &message, acked.sequence, suspects);
                handle.refuses(resource_type, acked.mark);
            }
        }
    }
}

impl Future for Stream {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Err(error) = ready!(this.poll_write(context)) {
            debug!(parent: &this.span, %error, "A stream ended");
        }
        Poll::Ready(())
    }
}

impl Stream {
    /// Leave the fleet, which keeps the resources of unknown state for the next stream of the client.
    fn leave(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.leave(self.session.unknown());
        }
    }
}

impl Drop for Stream {
    /// The client reset the stream, or the stream ended.
    fn drop(&mut self) {
        self.leave();
    }
}
