//! Requests: a session as a value, in any order of requests, responses, ACKs, NACKs and publishes.
//!
//! The first byte of an input chooses the variant and the service. Then come steps: a byte for the kind, and for requests
//! two for the length of the message.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use chancery::fleet::Variant;
use chancery::resource::ResourceType;
use chancery::rollout::Node;
use chancery::snapshot::{Facts, Snapshot, Source};
use chancery::xds::{Interner, Outcome, Response, Session, Settings};
use prost::encoding::{bytes as bytes_field, string};

use crate::check_sentence;
use crate::documents::{entries, lists, plan_now, world};

/// Steps of one input.
const STEPS: usize = 64;
/// Responses that one request may bring at once: one a type, and a few for types that are not served.
const RESPONSES: usize = 64;

/// Documents of two snapshots, in the form of the target `documents`.
const BEFORE: &[u8] = include_bytes!("../corpus/documents/everything-before");
const AFTER: &[u8] = include_bytes!("../corpus/documents/everything-after");

/// Snapshots of the two lists of documents, the second made of the first.
static SNAPSHOTS: LazyLock<[Arc<Snapshot>; 2]> = LazyLock::new(|| {
    let facts = |revision| Facts {
        revision,
        revisions: Arc::default(),
        built_at: SystemTime::UNIX_EPOCH,
        source: Source::Memory,
        stale: false,
        withhold_removals: false,
        group_rules: Arc::new([]),
        cause: None,
    };
    let before = plan_now(&world(), lists(&entries(BEFORE), 10));
    let after = plan_now(&before.world, lists(&entries(AFTER), 20));
    let first = Snapshot::unpublished().next(&before.difference, facts(10));
    let second = first.next(&after.difference, facts(20));
    assert!(!before.difference.is_empty() && !after.difference.is_empty());
    [first, second].map(Arc::new)
});

/// A client that is on its way.
struct Client {
    session: Session,
    variant: Variant,
    now: Instant,
    snapshot: usize,
    last: Vec<(String, String)>,
}

pub(crate) fn run(input: &[u8]) {
    let Some((head, mut rest)) = input.split_first() else {
        return;
    };
    let variant = if head & 1 == 0 { Variant::Sotw } else { Variant::Delta };
    let types = ResourceType::ALL;
    let mut client = Client {
        session: Session::new(Settings {
            variant,
            service_type: (head & 2 != 0).then(|| types[usize::from(head >> 4) % types.len()]),
            identifier: "fuzz".into(),
            salt: 7,
            interner: Arc::new(Interner::default()),
            secrets: head & 4 != 0,
        }),
        variant,
        now: Instant::now(),
        snapshot: 0,
        last: Vec::new(),
    };
    for _ in 0..STEPS {
        let Some((kind, after)) = rest.split_first() else {
            return;
        };
        rest = after;
        let goes_on = match kind % 8 {
            0..=3 => {
                let length = rest.split_at_checked(2).map(|(length, after)| {
                    rest = after;
                    usize::from(u16::from_le_bytes([length[0], length[1]]))
                });
                let (message, after) = rest.split_at(length.unwrap_or_default().min(rest.len()));
                rest = after;
                client.request(Bytes::copy_from_slice(message))
            }
            4 | 5 => client.answer(usize::from(*kind >> 4), kind % 8 == 5),
            6 => {
                client.snapshot ^= 1;
                true
            }
            _ => {
                client.now += Duration::from_millis(u64::from(*kind) * 50);
                true
            }
        };
        if !goes_on {
            return;
        }
        client.respond();
    }
}

impl Client {
    /// Send a request. `false`: the stream has ended.
    fn request(&mut self, message: Bytes) -> bool {
        match self.session.on_request(message, self.now) {
            Ok(Outcome { .. }) => true,
            Err(error) => {
                check_sentence(&error.to_string());
                false
            }
        }
    }

    /// ACK or NACK one of the last responses.
    fn answer(&mut self, back: usize, is_nack: bool) -> bool {
        let Some((type_url, nonce)) = self.last.iter().rev().nth(back).cloned() else {
            return true;
        };
        let (url_field, nonce_field, error_field) = match self.variant {
            Variant::Sotw => (4, 5, 6),
            Variant::Delta => (2, 6, 7),
        };
        let mut message = Vec::new();
        string::encode(url_field, &type_url, &mut message);
        string::encode(nonce_field, &nonce, &mut message);
        if is_nack {
            let mut status = Vec::new();
            string::encode(2, &"no".to_owned(), &mut status);
            bytes_field::encode(error_field, &status, &mut message);
        }
        self.request(message.into())
    }

    /// Take all that is owed.
    fn respond(&mut self) {
        let snapshot = &SNAPSHOTS[self.snapshot];
        let mut count = 0;
        while let Some(response) = self.session.next_response(snapshot, self.now) {
            self.keep(&response);
            count += 1;
            assert!(count <= RESPONSES, "responses without end");
        }
        let deadline = self.session.deadline();
        assert!(deadline.is_none_or(|deadline| deadline > self.now - Duration::from_secs(3600)));
        let _: Option<&Arc<Node>> = self.session.node();
    }

    fn keep(&mut self, response: &Response) {
        let mut message = &*response.head;
        let mut type_url = String::new();
        while !message.is_empty() {
            let context = prost::encoding::DecodeContext::default();
            let (tag, wire_type) = prost::encoding::decode_key(&mut message).expect("a head that decodes");
            if tag == 4 {
                string::merge(wire_type, &mut type_url, &mut message, context).expect("a type URL");
            } else {
                prost::encoding::skip_field(wire_type, tag, &mut message, context).expect("a head that decodes");
            }
        }
        self.last.push((type_url, response.nonce.to_string()));
    }
}
