//! The cost of one stream: a request and its response; a publish, its response and its ACK.
//!
//! The values that all streams share (differences, blocks) are computed before, as for every stream of a fleet but the
//! first.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chancery::fleet::Variant;
use chancery::proto::message::append;
use chancery::resource::ResourceType;
use chancery::snapshot::Snapshot;
use chancery::xds::{Interner, Response, Session, Settings};
use criterion::{BatchSize, BenchmarkId, Criterion};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message;

use super::documents::moment;
use super::publish::assignments;

/// Number of assignments. A stream subscribes to [`NAMED`] of them.
const ALL: usize = 10_000;
const NAMED: usize = 100;

/// A stream of a proxy, of either variant.
struct Stream {
    session: Session,
    variant: Variant,
    names: Vec<String>,
    /// The encoded part that all requests share. Its encoding is the client's work, so it is not measured.
    answer: Vec<u8>,
    now: Instant,
}

impl Stream {
    fn new(variant: Variant, interner: &Arc<Interner>, names: Range<usize>) -> Self {
        let settings = Settings {
            variant,
            service_type: None,
            identifier: "bench".into(),
            salt: 1,
            interner: Arc::clone(interner),
            secrets: false,
        };
        let names: Vec<String> = names.map(|number| format!("cluster-{number:06}")).collect();
        let mut stream = Self {
            session: Session::new(settings),
            variant,
            names,
            answer: Vec::new(),
            now: moment().instant,
        };
        stream.answer = stream.encode(None, stream.variant == Variant::Sotw);
        stream
    }

    fn encode(&self, node: Option<Node>, with_names: bool) -> Vec<u8> {
        let names = if with_names { self.names.clone() } else { Vec::new() };
        let type_url = ResourceType::Endpoint.type_url().to_owned();
        match self.variant {
            Variant::Sotw => DiscoveryRequest {
                node,
                type_url,
                resource_names: names,
                ..DiscoveryRequest::default()
            }
            .encode_to_vec(),
            Variant::Delta => {
                let resource_names_subscribe = names;
                DeltaDiscoveryRequest {
                    node,
                    type_url,
                    resource_names_subscribe,
                    ..DeltaDiscoveryRequest::default()
                }
                .encode_to_vec()
            }
        }
    }

    /// The first request: the node and all names.
    fn first_request(&self) -> Bytes {
        let node = Node {
            id: "n".to_owned(),
            cluster: "c".to_owned(),
            ..Node::default()
        };
        self.encode(Some(node), true).into()
    }

    fn ask(&mut self, request: Bytes) {
        black_box(self.session.on_request(request, self.now).expect("a request"));
    }

    fn next(&mut self, snapshot: &Snapshot) -> Option<Response> {
        self.session.next_response(snapshot, self.now)
    }

    /// Take the response of a publish and send its ACK. The fields of a message may come in any order.
    fn follow(&mut self, snapshot: &Snapshot) {
        let Response { nonce, version, .. } = self.next(snapshot).expect("a response");
        let mut request = self.answer.clone();
        let (nonce_tag, version_tag) = match self.variant {
            Variant::Sotw => (5, Some(1)),
            Variant::Delta => (6, None),
        };
        append(&mut request, nonce_tag, nonce.to_string().as_bytes());
        if let Some(tag) = version_tag {
            append(&mut request, tag, version.to_string().as_bytes());
        }
        self.ask(request.into());
    }
}

pub(crate) fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    let (first, second) = assignments(ALL);
    let interner = Arc::new(Interner::default());

    for (name, variant) in [("SotW", Variant::Sotw), ("delta", Variant::Delta)] {
        let own = ALL / 2..ALL / 2 + NAMED;
        let request = Stream::new(variant, &interner, own.clone()).first_request();
        group.bench_function(BenchmarkId::new("first request", name), |bencher| {
            let open = || (Stream::new(variant, &interner, own.clone()), request.clone());
            let answer = |(mut stream, request): (Stream, Bytes)| {
                stream.ask(request);
                (stream.next(&first), stream)
            };
            bencher.iter_batched(open, answer, BatchSize::SmallInput);
        });

        let mut stream = Stream::new(variant, &interner, own.clone());
        stream.ask(request);
        stream.follow(&first);
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("change and ACK", name), |bencher| {
            bencher.iter(|| {
                turn += 1;
                stream.follow(if turn % 2 == 0 { &first } else { &second });
            });
        });

        let mut other = Stream::new(variant, &interner, 0..NAMED);
        other.ask(other.first_request());
        other.follow(&first);
        group.bench_function(BenchmarkId::new("other's change", name), |bencher| {
            bencher.iter(|| {
                turn += 1;
                black_box(other.next(if turn % 2 == 0 { &first } else { &second }));
            });
        });
    }

    group.finish();
}
