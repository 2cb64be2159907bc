//! The scripted raw client: one stream that does only the steps of a rule.
//!
//! A rule has one text for both variants: [`Request::names`] is the whole list in SotW, and the subscribed names in
//! delta. The client remembers the exchange of each type for the shorthands [`Client::ack`], [`Client::nack`],
//! [`Client::grow`] and [`Client::shrink`]. It sends nothing by itself. A failing rule prints the transcript of the
//! whole stream.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;

use super::fixture::Type;
use super::rule::Variant;
use super::support::ads_client::{DeltaStream, Event, SotwStream, connect};

mod message;
pub(crate) mod method;

pub(crate) use message::{Received, Request, Response};

/// Longest wait for a response that a rule requires "at once". The rules say 200 ms; a busy machine needs longer.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);
/// How long a rule that expects nothing listens.
pub(crate) const QUIET: Duration = Duration::from_millis(700);

/// All messages of a rule's run, over all its streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript(Rc<RefCell<Vec<String>>>);

impl Transcript {
    /// Add a line.
    pub(crate) fn note(&self, line: &str) {
        self.0.borrow_mut().push(line.to_owned());
    }

    fn streams(&self) -> usize {
        self.0.borrow().iter().filter(|line| line.contains(" opens ")).count()
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LINES: usize = 60;
        let lines = self.0.borrow();
        let skipped = lines.len().saturating_sub(LINES);
        if skipped > 0 {
            writeln!(formatter, "  ({skipped} lines before)")?;
        }
        lines[skipped..]
            .iter()
            .try_for_each(|line| writeln!(formatter, "  {line}"))
    }
}

enum Wire {
    Sotw(SotwStream),
    Delta(DeltaStream),
}

/// The exchange of one type.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The names of the last request (SotW), or the subscribed names (delta).
    names: Vec<String>,
    /// The version last acknowledged.
    version: String,
    /// The newest nonce.
    nonce: String,
}

/// One stream.
pub(crate) struct Client {
    variant: Variant,
    wire: Wire,
    /// The node id that the rules call `n1`.
    node: String,
    label: String,
    transcript: Transcript,
    memory: BTreeMap<String, Memory>,
    nonces: Vec<String>,
    greeted: bool,
    introduced: bool,
}

impl Client {
    /// An ADS stream on a connection of its own.
    pub(crate) async fn ads(address: &str, node: String, variant: Variant, transcript: &Transcript) -> Self {
        Self::open(address, node, method::ads(variant), variant, transcript).await
    }

    /// A stream of the service of one type on a connection of its own.
    pub(crate) async fn service(
        address: &str,
        node: String,
        of: Type,
        variant: Variant,
        transcript: &Transcript,
    ) -> Self {
        Self::open(address, node, method::of(of, variant), variant, transcript).await
    }

    async fn open(
        address: &str,
        node: String,
        method: &'static str,
        variant: Variant,
        transcript: &Transcript,
    ) -> Self {
        let channel = connect(address).await;
        let wire = match variant {
            Variant::Sotw => Wire::Sotw(SotwStream::open_early(&channel, method)),
            Variant::Delta => Wire::Delta(DeltaStream::open_early(&channel, method)),
        };
        let label = format!("stream {}", transcript.streams() + 1);
        transcript.note(&format!("{label} opens {method}"));
        let transcript = transcript.clone();
        Self {
            variant,
            wire,
            node,
            label,
            transcript,
            memory: BTreeMap::new(),
            nonces: Vec::new(),
            greeted: false,
            introduced: false,
        }
    }

    // ---- requests ----

    /// Send this request unchanged. The first request of the stream gets the node, unless the request has its own.
    pub(crate) fn send(&mut self, request: Request) {
        let mut node = request.node(!self.introduced);
        if let Some(node) = node.as_mut().filter(|node| node.id == "n1") {
            node.id.clone_from(&self.node);
        }
        self.introduced = true;
        self.transcript.note(&format!("{} C> {request}", self.label));
        self.remember(&request);
        match &self.wire {
            Wire::Sotw(stream) => stream.send(request.into_sotw(node)),
            Wire::Delta(stream) => stream.send(request.into_delta(node)),
        }
    }

    fn remember(&mut self, request: &Request) {
        let memory = self.memory.entry(request.type_url.clone()).or_default();
        match self.variant {
            Variant::Sotw => memory.names.clone_from(&request.names),
            Variant::Delta => {
                memory.names.retain(|name| !request.unsubscribe.contains(name));
                memory.names.extend(
                    request
                        .names
                        .iter()
                        .filter(|name| !request.unsubscribe.contains(name))
                        .cloned(),
                );
            }
        }
    }

    /// A first request: these names, or none.
    pub(crate) fn subscribe(&mut self, of: Type, names: &[&str]) {
        self.send(Request::of(of).names(names));
    }

    /// Request the names listed so far and these, with the nonce of the last response.
    pub(crate) fn grow(&mut self, of: Type, names: &[&str]) {
        let memory = self.memory(of);
        let request = match self.variant {
            Variant::Sotw => {
                let all: Vec<&str> = memory
                    .names
                    .iter()
                    .map(String::as_str)
                    .chain(names.iter().copied())
                    .collect();
                Request::of(of)
                    .names(&all)
                    .version(&memory.version)
                    .nonce(&memory.nonce)
            }
            Variant::Delta => Request::of(of).names(names),
        };
        self.send(request);
    }

    /// Request the names listed so far without these, with the nonce of the last response.
    pub(crate) fn shrink(&mut self, of: Type, names: &[&str]) {
        let memory = self.memory(of);
        let request = match self.variant {
            Variant::Sotw => {
                let rest = memory
                    .names
                    .iter()
                    .map(String::as_str)
                    .filter(|name| !names.contains(name));
                Request::of(of)
                    .names(&rest.collect::<Vec<_>>())
                    .version(&memory.version)
                    .nonce(&memory.nonce)
            }
            Variant::Delta => Request::of(of).unsubscribe(names),
        };
        self.send(request);
    }

    /// The ACK of a response, with the names of the last request.
    pub(crate) fn ack(&mut self, response: &Response) {
        self.memory
            .entry(response.type_url.clone())
            .or_default()
            .version
            .clone_from(&response.version);
        let request = self.answer(response).version(&response.version);
        self.send(request);
    }

    /// The NACK of a response, with the names of the last request and the version last accepted.
    pub(crate) fn nack(&mut self, response: &Response, why: &str) {
        let version = self
            .memory
            .get(&response.type_url)
            .map(|memory| memory.version.clone())
            .unwrap_or_default();
        let request = self.answer(response).version(&version).error(why);
        self.send(request);
    }

    fn answer(&self, response: &Response) -> Request {
        let request = Request::of_url(&response.type_url).nonce(&response.nonce);
        match (self.variant, self.memory.get(&response.type_url)) {
            (Variant::Sotw, Some(memory)) => {
                request.names(&memory.names.iter().map(String::as_str).collect::<Vec<_>>())
            }
            _ => request,
        }
    }

    fn memory(&self, of: Type) -> Memory {
        self.memory.get(of.type_url()).cloned().unwrap_or_default()
    }

    /// The client sends nothing more.
    pub(crate) fn half_close(&mut self) {
        self.transcript.note(&format!("{} C> half-close", self.label));
        match &mut self.wire {
            Wire::Sotw(stream) => stream.half_close(),
            Wire::Delta(stream) => stream.half_close(),
        }
    }

    // ---- responses ----

    /// The next event within a period.
    pub(crate) async fn event(&mut self, period: Duration) -> Event<Response> {
        let event = match &mut self.wire {
            Wire::Sotw(stream) => map(stream.event(period).await, Response::from_sotw),
            Wire::Delta(stream) => map(stream.event(period).await, Response::from_delta),
        };
        match &event {
            Event::Response(response) => {
                self.transcript.note(&format!("{} S> {response}", self.label));
                self.memory
                    .entry(response.type_url.clone())
                    .or_default()
                    .nonce
                    .clone_from(&response.nonce);
                self.nonces.push(response.nonce.clone());
            }
            Event::Ended(status) => self.transcript.note(&format!("{} S> ended: {status}", self.label)),
            Event::Nothing => self
                .transcript
                .note(&format!("{} S> nothing for {period:?}", self.label)),
        }
        event
    }

    /// The nonces of all responses so far.
    pub(crate) fn nonces(&self) -> &[String] {
        &self.nonces
    }

    /// The next event that counts. A server may send an empty delta response on a stream without responses (GR-08);
    /// such a response is skipped, unless the awaited type is its type.
    async fn event_of(&mut self, awaited: Option<&str>, period: Duration) -> Event<Response> {
        let deadline = Instant::now() + period;
        loop {
            let event = self.event(deadline.saturating_duration_since(Instant::now())).await;
            let Event::Response(response) = &event else {
                return event;
            };
            let first = !std::mem::replace(&mut self.greeted, true);
            let greeting = self.variant == Variant::Delta && first && response.is_empty();
            if !greeting || awaited == Some(&*response.type_url) {
                return event;
            }
        }
    }

    /// The next response, which must be of this type and come at once.
    pub(crate) async fn expect(&mut self, of: Type) -> Response {
        self.expect_within(of, AT_ONCE).await
    }

    /// The next response, which must be of this type.
    pub(crate) async fn expect_within(&mut self, of: Type, limit: Duration) -> Response {
        match self.event_of(Some(of.type_url()), limit).await {
            Event::Response(response) if response.type_url == of.type_url() => response,
            Event::Response(response) => panic!("expected a response of {of}, found {response}"),
            Event::Ended(status) => panic!("expected a response of {of}, the stream ended: {status}"),
            Event::Nothing => panic!("expected a response of {of} within {limit:?}, nothing came"),
        }
    }

    /// The next response of this type; earlier responses of other types are skipped.
    pub(crate) async fn until(&mut self, of: Type) -> Response {
        self.until_url(of.type_url()).await
    }

    /// The same, for a type given by its URL.
    pub(crate) async fn until_url(&mut self, type_url: &str) -> Response {
        let deadline = Instant::now() + AT_ONCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.event_of(Some(type_url), left).await {
                Event::Response(response) if response.type_url == type_url => return response,
                Event::Response(_) => {}
                Event::Ended(status) => panic!("expected a response of {type_url}, the stream ended: {status}"),
                Event::Nothing => panic!("expected a response of {type_url} within {AT_ONCE:?}, none came"),
            }
        }
    }

    /// Everything up to the first response of this type.
    pub(crate) async fn all_until(&mut self, of: Type, limit: Duration) -> Vec<Response> {
        let deadline = Instant::now() + limit;
        let mut responses = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.event_of(Some(of.type_url()), left).await {
                Event::Response(response) => responses.push(response),
                Event::Ended(status) => panic!("expected a response of {of}, the stream ended: {status}"),
                Event::Nothing => panic!("expected a response of {of} within {limit:?}, none came"),
            }
            if responses
                .last()
                .is_some_and(|response| response.type_url == of.type_url())
            {
                return responses;
            }
        }
    }

    /// Nothing arrives.
    pub(crate) async fn quiet(&mut self) {
        self.quiet_for(QUIET).await;
    }

    /// Nothing arrives for so long.
    pub(crate) async fn quiet_for(&mut self, period: Duration) {
        match self.event_of(None, period).await {
            Event::Response(response) => panic!("expected silence, found {response}"),
            Event::Ended(status) => panic!("expected silence, the stream ended: {status}"),
            Event::Nothing => {}
        }
    }

    /// Everything that arrives until nothing does for a while.
    pub(crate) async fn drain(&mut self) -> Vec<Response> {
        let mut responses = Vec::new();
        loop {
            match self.event_of(None, QUIET).await {
                Event::Response(response) => responses.push(response),
                Event::Ended(status) => panic!("expected the stream to stay open, it ended: {status}"),
                Event::Nothing => return responses,
            }
        }
    }

    /// How the stream ends, which must be the next that happens.
    pub(crate) async fn refused(&mut self) -> Status {
        match self.event_of(None, AT_ONCE).await {
            Event::Response(response) => panic!("expected the stream to end, found {response}"),
            Event::Ended(status) => status,
            Event::Nothing => panic!("expected the stream to end within {AT_ONCE:?}, it stays open"),
        }
    }

    // ---- shorthands ----

    /// Subscribe to these names, receive the response and send its ACK.
    pub(crate) async fn fetch(&mut self, of: Type, names: &[&str]) -> Response {
        self.subscribe(of, names);
        let response = self.expect(of).await;
        self.ack(&response);
        response
    }

    /// Hold all of fixture F1, acknowledged: clusters and listeners by wildcard, endpoints A and B, route r1.
    pub(crate) async fn sync(&mut self) {
        for (of, names) in [
            (Type::Cluster, &[][..]),
            (Type::Endpoint, &["A", "B"]),
            (Type::Listener, &[]),
            (Type::Route, &["r1"]),
        ] {
            self.fetch(of, names).await;
        }
    }
}

fn map<Wired>(event: Event<Wired>, from: fn(Wired) -> Response) -> Event<Response> {
    match event {
        Event::Response(response) => Event::Response(from(response)),
        Event::Ended(status) => Event::Ended(status),
        Event::Nothing => Event::Nothing,
    }
}

/// The name inside a resource: the first field of every type.
pub(crate) fn inner_name(resource: &Any) -> String {
    #[derive(Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Named::decode(&*resource.value)
        .expect("a resource begins with its name")
        .name
}
