//! Arbitrary bytes: requests decode as with the full protocol messages, and a session accepts them or ends with an
//! error.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};

use envoy_types::pb::envoy::config::core::v3::{Extension, Locality, Node as FullNode};
use envoy_types::pb::google::protobuf::{Any, ListValue, NullValue, Struct, Value, value::Kind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_varint, skip_field};

use super::*;
use crate::resource::xdstp;
use crate::xds::error::Code;
use crate::xds::session::wire::fields::NameList;

// ---- decoding ----

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-c*/]{0,3}", 1 => "\\PC{0,8}", 1 => Just("xdstp://a/t/*?k=v".to_owned())]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..5)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(None),
        Just(Some(Kind::NullValue(NullValue::NullValue.into()))),
        any::<f64>().prop_map(|number| Some(Kind::NumberValue(number))),
        any::<bool>().prop_map(|value| Some(Kind::BoolValue(value))),
        text().prop_map(|text| Some(Kind::StringValue(text))),
    ];
    leaf.prop_map(|kind| Value { kind }).prop_recursive(4, 16, 3, |inner| {
        let list = vec(inner.clone(), 0..3).prop_map(|values| Kind::ListValue(ListValue { values }));
        let fields = vec((text(), inner), 0..3).prop_map(|fields| {
            Kind::StructValue(Struct {
                fields: fields.into_iter().collect(),
            })
        });
        prop_oneof![list, fields].prop_map(|kind| Value { kind: Some(kind) })
    })
}

fn full_node() -> impl Strategy<Value = Option<FullNode>> {
    let locality = proptest::option::of((text(), text(), text()));
    let metadata = vec((text(), value()), 0..3);
    let node = (text(), text(), locality, metadata, texts(), text()).prop_map(
        |(id, cluster, locality, fields, client_features, name)| FullNode {
            id,
            cluster,
            metadata: Some(Struct {
                fields: fields.into_iter().collect(),
            }),
            locality: locality.map(|(region, zone, sub_zone)| Locality { region, zone, sub_zone }),
            // Fields that the server skips: most of a real Envoy's node.
            extensions: vec![Extension {
                name: name.clone(),
                category: "c".to_owned(),
                ..Extension::default()
            }],
            user_agent_name: name,
            client_features,
            ..FullNode::default()
        },
    );
    proptest::option::of(node)
}

fn status() -> impl Strategy<Value = Option<Status>> {
    let details = vec![Any {
        type_url: "t".to_owned(),
        value: vec![1, 2, 3],
    }];
    proptest::option::of((prop_oneof![0..17_i32, any::<i32>()], text())).prop_map(move |status| {
        status.map(|(code, message)| Status {
            code,
            message,
            details: details.clone(),
        })
    })
}

fn locators(names: Vec<String>) -> Vec<pb::ResourceLocator> {
    let locator = |name| pb::ResourceLocator {
        name,
        dynamic_parameters: [("k".to_owned(), "v".to_owned())].into(),
    };
    names.into_iter().map(locator).collect()
}

fn sotw_request() -> impl Strategy<Value = pb::DiscoveryRequest> {
    (full_node(), text(), texts(), text(), text(), status(), texts()).prop_map(
        |(node, version_info, resource_names, type_url, response_nonce, error_detail, located)| pb::DiscoveryRequest {
            node,
            version_info,
            resource_names,
            type_url,
            response_nonce,
            error_detail,
            resource_locators: locators(located),
        },
    )
}

fn delta_request() -> impl Strategy<Value = pb::DeltaDiscoveryRequest> {
    let versions = vec((text(), text()), 0..3);
    (
        full_node(),
        (text(), text()),
        texts(),
        texts(),
        versions,
        status(),
        (texts(), texts()),
    )
        .prop_map(
            |(node, (type_url, response_nonce), subscribe, unsubscribe, versions, error_detail, (add, remove))| {
                pb::DeltaDiscoveryRequest {
                    node,
                    type_url,
                    response_nonce,
                    resource_names_subscribe: subscribe,
                    resource_names_unsubscribe: unsubscribe,
                    initial_resource_versions: versions.into_iter().collect(),
                    error_detail,
                    resource_locators_subscribe: locators(add),
                    resource_locators_unsubscribe: locators(remove),
                }
            },
        )
}

/// One thing that may happen to bytes on their way.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Repeat(Index, Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index, bytes: &Vec<u8>| index.index(bytes.len() + 1);
        let range = |one: &Index, other: &Index, bytes: &Vec<u8>| {
            let (one, other) = (at(one, bytes), at(other, bytes));
            one.min(other)..one.max(other)
        };
        match self {
            Self::Set(index, byte) if !bytes.is_empty() => {
                let index = index.index(bytes.len());
                bytes[index] = *byte;
            }
            Self::Set(..) => {}
            Self::Cut(index) => bytes.truncate(at(index, bytes)),
            Self::Insert(index, more) => {
                let at = at(index, bytes);
                drop(bytes.splice(at..at, more.iter().copied()));
            }
            Self::Remove(one, other) => drop(bytes.drain(range(one, other, bytes))),
            Self::Repeat(one, other) => bytes.extend_from_within(range(one, other, bytes)),
        }
    }
}

/// Mostly none or one.
fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let damage = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(index, byte)| Damage::Set(index, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
        2 => (any::<Index>(), vec(any::<u8>(), 1..5)).prop_map(|(index, more)| Damage::Insert(index, more)),
        1 => any::<(Index, Index)>().prop_map(|(one, other)| Damage::Remove(one, other)),
        1 => any::<(Index, Index)>().prop_map(|(one, other)| Damage::Repeat(one, other)),
    ];
    prop_oneof![1 => vec(damage.clone(), 0..2), 1 => vec(damage, 2..6)]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    damages.iter().for_each(|damage| damage.apply(&mut bytes));
    bytes
}

/// The decoded fields that SotW and delta requests share.
#[derive(Debug, PartialEq)]
struct Read {
    type_url: String,
    nonce: String,
    error_detail: Option<(i32, String)>,
    version: String,
    names: Vec<Vec<u8>>,
    unsubscribed: Vec<Vec<u8>>,
    versions: BTreeMap<String, String>,
}

fn sorted(names: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

fn read(variant: Variant, bytes: &[u8]) -> Result<(Read, Bytes), Error> {
    let bytes = Bytes::copy_from_slice(bytes);
    let (request, mut lists) = match variant {
        Variant::Sotw => {
            let (request, listed) = sotw::decode(&bytes, std::iter::empty())?;
            (request, Lists::Sotw(listed))
        }
        Variant::Delta => {
            let (request, edits) = delta::decode(&bytes)?;
            (request, Lists::Delta(edits))
        }
    };
    let Request {
        node,
        type_url,
        nonce,
        error_detail,
    } = request;
    // A list is a set: where names and locators take turns, their order is not kept.
    let owned = |names: &NameList| sorted(names.iter().map(<[u8]>::to_vec));
    let (names, unsubscribed) = match &lists {
        Lists::Sotw(listed) => (owned(listed.names()), Vec::new()),
        Lists::Delta(edits) => (owned(edits.lists().0), owned(edits.lists().1)),
    };
    let reported = match &mut lists {
        Lists::Sotw(listed) => listed.reported(),
        Lists::Delta(edits) => edits.take_reported(),
    };
    let (version, versions) = match reported {
        Reported::Nothing => Default::default(),
        Reported::Version(version) => (version, BTreeMap::new()),
        Reported::Versions(versions) => (String::new(), versions.by_text()),
    };
    let error_detail = error_detail.map(|status| (status.code, status.message));
    Ok((
        Read {
            type_url: type_url.to_owned(),
            nonce: nonce.to_owned(),
            error_detail,
            version,
            names,
            unsubscribed,
            versions,
        },
        node,
    ))
}

/// The same, read with the messages as Envoy's own .proto files have them.
fn read_in_full(variant: Variant, bytes: &[u8]) -> Result<(Read, Option<FullNode>), prost::DecodeError> {
    let joined = |names: Vec<String>, located: Vec<pb::ResourceLocator>| {
        let located = located.into_iter().map(|locator| locator.name);
        sorted(names.into_iter().chain(located).map(String::into_bytes))
    };
    let detail = |status: Option<Status>| status.map(|status| (status.code, status.message));
    Ok(match variant {
        Variant::Sotw => {
            let request = pb::DiscoveryRequest::decode(bytes)?;
            let read = Read {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error_detail: detail(request.error_detail),
                version: request.version_info,
                names: joined(request.resource_names, request.resource_locators),
                unsubscribed: Vec::new(),
                versions: BTreeMap::new(),
            };
            (read, request.node)
        }
        Variant::Delta => {
            let request = pb::DeltaDiscoveryRequest::decode(bytes)?;
            let read = Read {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error_detail: detail(request.error_detail),
                version: String::new(),
                names: joined(request.resource_names_subscribe, request.resource_locators_subscribe),
                unsubscribed: joined(
                    request.resource_names_unsubscribe,
                    request.resource_locators_unsubscribe,
                ),
                versions: request.initial_resource_versions.into_iter().collect(),
            };
            (read, request.node)
        }
    })
}

/// The fields of a message with their wire types, and their payloads if they have a length. `None`: not a message.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u32, WireType, &[u8])>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).ok()?;
        let before = bytes;
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).ok()?;
        let mut content = &before[..before.len() - bytes.len()];
        if wire_type == WireType::LengthDelimited {
            decode_varint(&mut content).ok()?;
        }
        fields.push((tag, wire_type, content));
    }
    Some(fields)
}

/// Whether both must read the same: messages that come twice are merged, and bytes are not; and prost takes the content
/// of a map (parameters of a locator: field 2, of a node: field 12; versions: field 5) for one whatever its wire type.
fn is_comparable(variant: Variant, bytes: &[u8]) -> bool {
    let Some(request) = fields(bytes) else { return false };
    let (node, locators) = if variant == Variant::Sotw {
        (2, 7..=7)
    } else {
        (1, 8..=9)
    };
    let has_maps = |content: &[u8], map: u32| {
        let of_map =
            |(tag, wire_type, _): &(u32, WireType, &[u8])| *tag != map || *wire_type == WireType::LengthDelimited;
        fields(content).is_some_and(|fields| fields.iter().all(of_map))
    };
    let well_formed = |(tag, wire_type, content): &(u32, WireType, &[u8])| match *tag {
        5 if variant == Variant::Delta => *wire_type == WireType::LengthDelimited,
        tag if tag == node => has_maps(content, 12),
        tag if locators.contains(&tag) => has_maps(content, 2),
        _ => true,
    };
    request.iter().filter(|(tag, ..)| *tag == node).count() < 2 && request.iter().all(well_formed)
}

/// A request that decodes as a full message decodes here with the same result. One that does not may decode here,
/// because fewer fields are read.
fn check_decoding(variant: Variant, bytes: &[u8]) -> Result<(), TestCaseError> {
    let slim = read(variant, bytes);
    let Ok((expected, full_node)) = read_in_full(variant, bytes) else {
        return Ok(());
    };
    if !is_comparable(variant, bytes) {
        return Ok(());
    }
    let (read, node_bytes) = slim.map_err(|error| TestCaseError::fail(format!("it is good, found {error}")))?;
    prop_assert_eq!(read, expected);
    let slim = WireNode::decode(&*node_bytes).map(|wire| node::node(&wire));
    let full = full_node.unwrap_or_default().encode_to_vec();
    prop_assert_eq!(slim, WireNode::decode(&*full).map(|wire| node::node(&wire)));
    Ok(())
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn sotw_requests_read_as_the_whole_message_does(request in sotw_request(), damages in damages()) {
        check_decoding(Variant::Sotw, &damaged(request.encode_to_vec(), &damages))?;
    }

    #[test]
    fn delta_requests_read_as_the_whole_message_does(request in delta_request(), damages in damages()) {
        check_decoding(Variant::Delta, &damaged(request.encode_to_vec(), &damages))?;
    }

    #[test]
    fn random_bytes_read_as_the_whole_message_does(bytes in vec(any::<u8>(), 0..200)) {
        for variant in [Variant::Sotw, Variant::Delta] {
            check_decoding(variant, &bytes)?;
        }
    }
}

/// A field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// The most costly contents. Work beyond linear takes minutes with these, linear work a fraction of a second.
#[test]
fn the_largest_requests_cost_no_more_than_their_size() {
    let node = field(1, b"n1");
    let types = [
        field(4, CLUSTER.type_url().as_bytes()),
        field(2, CLUSTER.type_url().as_bytes()),
    ];
    let numbered = |number: u8, prefix: &str| {
        (0..20_000)
            .flat_map(|at| field(number, format!("{prefix}{at}").as_bytes()))
            .collect::<Vec<u8>>()
    };
    let entries: Vec<u8> = (0..20_000)
        .flat_map(|at| field(5, &[field(1, at.to_string().as_bytes()), field(2, b"v")].concat()))
        .collect();
    // Struct { fields { "k": [[[…]]] } }
    let deep = (0..90).fold(Vec::new(), |inner, _| field(6, &field(1, &inner)));
    let wide = field(6, &field(1, &[]).repeat(60_000));
    let metadata = |value: &[u8]| field(3, &field(1, &[field(1, b"k"), field(2, value)].concat()));
    let with_node = |more: &[u8]| [node.clone(), more.to_vec()].concat();
    let contents: [(&str, Vec<u8>, Vec<u8>); 7] = [
        ("names", node.clone(), numbered(3, "")),
        ("empty names", node.clone(), [0x1a, 0].repeat(200_000)),
        ("xdstp names", node.clone(), numbered(3, "xdstp://a/t/x?b=1&a=")),
        ("versions", node.clone(), entries),
        (
            "groups within groups",
            node.clone(),
            [vec![0x7b; 50], vec![0x7c; 50]].concat().repeat(2_000),
        ),
        ("deep metadata", with_node(&metadata(&deep)), Vec::new()),
        ("wide metadata", with_node(&metadata(&wide)), Vec::new()),
    ];
    for (what, node, lists) in contents {
        for (variant, node_field, of_type) in [(Variant::Sotw, 2, &types[0]), (Variant::Delta, 1, &types[1])] {
            let bytes = [field(node_field, &node), of_type.clone(), lists.clone()].concat();
            let mut client = Client::new(variant);
            let started = tokio::time::Instant::now();
            for _ in 0..2 {
                // Versions are no field of SotW, and what nests too deep is an error.
                if client.session.on_request(bytes.clone().into(), client.now).is_ok() {
                    let responses = std::iter::from_fn(|| client.session.next_response(&client.snapshot, client.now));
                    assert!(responses.count() < 10, "{what}");
                } else {
                    assert!(what.starts_with("deep") || what.starts_with("versions"), "{what}");
                }
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{what}: {:?}",
                started.elapsed()
            );
        }
    }
}

#[test]
fn more_than_anybody_should_ask_for_ends_the_stream_with_its_number() {
    let node = field(2, &field(1, b"n1"));
    let asked = |lists: Vec<u8>| {
        let bytes = [node.clone(), field(4, CLUSTER.type_url().as_bytes()), lists].concat();
        let mut client = client(Variant::Sotw);
        client
            .session
            .on_request(bytes.into(), client.now)
            .map(|_| ())
            .map_err(|error| (error.code(), error.to_string()))
    };
    let globs = |count| {
        (0..count)
            .flat_map(|at| field(3, format!("xdstp://a/t/{at}/*").as_bytes()))
            .collect()
    };
    let exhausted = |sentence: &str| Err((Code::ResourceExhausted, sentence.to_owned()));
    assert_eq!(asked(globs(1000)), Ok(()));
    assert_eq!(
        asked(globs(1001)),
        exhausted("the stream subscribes to 1001 globs of a type, expected 1000 at most")
    );
    let names = [0x1a, 0].repeat(1_000_000);
    assert_eq!(
        asked(names),
        exhausted("the request has 1000002 entries, expected 1000000 at most")
    );
    let large = field(2, &vec![0; 1_048_577]);
    assert_eq!(
        asked(large),
        exhausted("the node has 1048577 bytes, expected 1048576 at most")
    );
    let long = field(2, &field(1, &[b'n'; 1025]));
    let sentence = "node.id has 1025 bytes, expected 1024 at most";
    assert_eq!(asked(long), Err((Code::InvalidArgument, sentence.to_owned())));
}

// ---- the session ----

/// An answer of a client.
#[derive(Debug, Clone)]
enum Nonce {
    None,
    /// Of a response, the last or an earlier one.
    Of(Index),
    /// Of a response, with another number.
    Numbered(u64),
    Text(String),
}

#[derive(Debug, Clone)]
struct Asking {
    node: Option<&'static [u8]>,
    type_url: &'static str,
    names: Vec<Vec<u8>>,
    unsubscribed: Vec<Vec<u8>>,
    nonce: Nonce,
    refused: Option<String>,
    version: Option<String>,
    initial: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Step {
    Ask(Asking),
    Bytes(Vec<u8>),
    Commit(Vec<(ResourceType, &'static str, Option<u8>)>),
    Stale(bool),
    Wait(u64),
    Take(usize),
}

const OFTEN: [ResourceType; 4] = [CLUSTER, ENDPOINT, LISTENER, ROUTE];

/// Type URLs: mostly the four common ones; an unserved one, an invalid one, an empty one.
fn type_url() -> impl Strategy<Value = &'static str> {
    let of = |types: &[ResourceType]| select(types.iter().map(|one| one.type_url()).collect::<Vec<_>>());
    prop_oneof![
        90 => of(&OFTEN),
        40 => of(&ResourceType::ALL),
        10 => Just("type.googleapis.com/acme.Thing"),
        5 => Just("no type at all"),
        1 => Just(""),
    ]
}

const NAMES: [&str; 12] = [
    "A",
    "B",
    "S",
    "L",
    "r1",
    "r1/a.com",
    "r1/",
    "*",
    "",
    "xdstp://a/t/*",
    "xdstp://a/t/x?b=1&a=2",
    "xdstp://a/t/x",
];

/// The longest name in these requests.
const LONGEST: usize = 5000;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        80 => select(&NAMES[..]).prop_map(|name| name.as_bytes().to_vec()),
        8 => Just(vec![b'n'; LONGEST]),
        4 => Just("\u{0}\u{7f}%2F\u{10ffff}".into()),
        1 => Just(vec![0xff, 0xfe]),
    ]
}

fn asking() -> impl Strategy<Value = Asking> {
    let node = prop_oneof![
        30 => Just(None),
        50 => Just(Some(&b"\x0a\x02n1"[..])),
        10 => Just(Some(&b"\x0a\x02n1\x12\x04edge"[..])),
        1 => Just(Some(&b"\x0a\x02n2"[..])),
        1 => Just(Some(&b"\x12\x01c"[..])),
        1 => Just(Some(&b"\x0a\x7f"[..])),
    ];
    let nonce = prop_oneof![
        2 => Just(Nonce::None),
        6 => any::<Index>().prop_map(Nonce::Of),
        1 => prop_oneof![0..20_u64, Just(u64::MAX)].prop_map(Nonce::Numbered),
        1 => ".{0,12}".prop_map(Nonce::Text),
    ];
    let known = crate::resource::ResourceVersion::of(&body("A", 1)).to_string();
    let version = move || prop_oneof![Just(known.clone()), ".{0,5}"];
    let refused = proptest::option::weighted(0.2, prop_oneof![Just("A is bad".to_owned()), Just("w".repeat(20_000))]);
    let initial = vec((select(&NAMES[..]).prop_map(str::to_owned), version()), 0..3);
    let lists = (
        vec(name(), 0..4),
        prop_oneof![3 => Just(Vec::new()), 1 => vec(name(), 0..4)],
    );
    (
        node,
        type_url(),
        lists,
        nonce,
        refused,
        proptest::option::weighted(0.2, version()),
        initial,
    )
        .prop_map(
            |(node, type_url, (names, unsubscribed), nonce, refused, version, initial)| Asking {
                node,
                type_url,
                names,
                unsubscribed,
                nonce,
                refused,
                version,
                initial,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let of_type = prop_oneof![4 => select(&OFTEN[..]), 1 => select(&ResourceType::ALL[..])];
    let name = prop_oneof![4 => select(&NAMES[..5]), 1 => select(&NAMES[..7])];
    let commit = vec((of_type, name, proptest::option::weighted(0.7, 1..4_u8)), 1..4);
    prop_oneof![
        56 => asking().prop_map(Step::Ask),
        1 => vec(any::<u8>(), 0..40).prop_map(Step::Bytes),
        24 => commit.prop_map(Step::Commit),
        4 => any::<bool>().prop_map(Step::Stale),
        8 => select(&[10, 1_100, 6_000, 61_000][..]).prop_map(Step::Wait),
        40 => (1..6_usize).prop_map(Step::Take),
    ]
}

/// A client that sends arbitrary requests, and the state to check responses against.
struct Anything {
    client: Client,
    nonces: Vec<String>,
    seen: HashSet<String>,
    asked: BTreeSet<String>,
}

impl Anything {
    fn new(variant: Variant) -> Self {
        Self {
            client: Client::new(variant),
            nonces: Vec::new(),
            seen: HashSet::new(),
            asked: BTreeSet::new(),
        }
    }

    fn bytes(&mut self, asking: Asking) -> Vec<u8> {
        let named = asking.names.iter().filter_map(|name| std::str::from_utf8(name).ok());
        self.asked.extend(named.map(|name| xdstp::canonical(name).into_owned()));
        let nonce = match asking.nonce {
            Nonce::None => String::new(),
            Nonce::Of(_) if self.nonces.is_empty() => String::new(),
            Nonce::Of(index) => index.get(&self.nonces).clone(),
            Nonce::Numbered(number) => format!("00000007-{number}"),
            Nonce::Text(text) => text,
        };
        let sotw = self.client.session.settings.variant == Variant::Sotw;
        let numbers: [u8; 5] = if sotw { [2, 4, 3, 5, 6] } else { [1, 2, 3, 6, 7] };
        let [node, type_url, names, response_nonce, error_detail] = numbers;
        // Mostly a stream begins with its node: without, it is over.
        let first = self.client.session.node().is_none().then_some(&b"\x0a\x02n1"[..]);
        let mut bytes = asking
            .node
            .or(first)
            .map(|content| field(node, content))
            .unwrap_or_default();
        bytes.extend(field(type_url, asking.type_url.as_bytes()));
        bytes.extend(asking.names.iter().flat_map(|name| field(names, name)));
        bytes.extend(field(response_nonce, nonce.as_bytes()));
        bytes.extend(
            asking
                .refused
                .iter()
                .flat_map(|words| field(error_detail, &field(2, words.as_bytes()))),
        );
        if sotw {
            bytes.extend(asking.version.iter().flat_map(|version| field(1, version.as_bytes())));
        } else {
            bytes.extend(asking.unsubscribed.iter().flat_map(|name| field(4, name)));
            let entry = |(name, version): &(String, String)| {
                field(5, &[field(1, name.as_bytes()), field(2, version.as_bytes())].concat())
            };
            bytes.extend(asking.initial.iter().flat_map(entry));
            self.asked.extend(asking.initial.into_iter().map(|(name, _)| name));
        }
        bytes
    }

    /// Take responses and check each against the invariants. Gives their number.
    fn take(&mut self, most: usize) -> Result<usize, TestCaseError> {
        for taken in 0..most {
            let Some(response) = self
                .client
                .session
                .next_response(&self.client.snapshot, self.client.now)
            else {
                return Ok(taken);
            };
            let bytes = [response.head, response.blocks.pieces().concat()].concat();
            let nonce = match self.client.session.settings.variant {
                Variant::Sotw => {
                    let decoded = pb::DiscoveryResponse::decode(&*bytes).expect("a response");
                    let names = decoded.resources.iter().map(|any| first_text(&any.value));
                    check_names(names, std::iter::empty(), &self.asked)?;
                    decoded.nonce
                }
                Variant::Delta => {
                    let decoded = pb::DeltaDiscoveryResponse::decode(&*bytes).expect("a response");
                    let names = decoded.resources.into_iter().map(|resource| resource.name);
                    check_names(names, decoded.removed_resources.into_iter(), &self.asked)?;
                    decoded.nonce
                }
            };
            prop_assert_eq!(response.nonce.to_string(), &*nonce);
            prop_assert!(self.seen.insert(nonce.clone()), "the nonce {} comes twice", nonce);
            self.nonces.push(nonce);
        }
        Ok(most)
    }
}

/// The text of the first field; a text that is empty is no field.
fn first_text(mut bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    decode_key(&mut bytes).expect("a field");
    let len = decode_varint(&mut bytes).expect("a length");
    String::from_utf8(bytes[..usize::try_from(len).expect("a short text")].to_vec()).expect("a text")
}

/// Each name once, in one of the two places, and none that nobody spoke of.
fn check_names(
    carried: impl Iterator<Item = String>,
    removed: impl Iterator<Item = String>,
    asked: &BTreeSet<String>,
) -> Result<(), TestCaseError> {
    let mut unique = BTreeSet::new();
    for name in carried {
        // Missing endpoints and virtual hosts are sent as empty ones.
        let known = NAMES.contains(&&*name) || asked.contains(&name);
        prop_assert!(known, "carries {:?}, which nobody spoke of", name);
        prop_assert!(unique.insert(name.clone()), "{} comes twice", name);
    }
    for name in removed {
        // A route configuration without virtual hosts is answered with a name that no virtual host has.
        let known = NAMES.contains(&&*name) || asked.contains(&name) || name.ends_with("/-");
        prop_assert!(known, "removes {:?}, which nobody spoke of", name);
        prop_assert!(name.len() <= LONGEST, "removes a name of {} bytes", name.len());
        prop_assert!(unique.insert(name.clone()), "{} comes twice", name);
    }
    Ok(())
}

/// Live through it. A stream ends at its first error; until then the session comes to rest whenever it is asked. Gives
/// how many responses there were.
fn check_session(variant: Variant, steps: Vec<Step>) -> Result<usize, TestCaseError> {
    let mut anything = Anything::new(variant);
    for step in steps {
        let bytes = match step {
            Step::Ask(asking) => anything.bytes(asking),
            Step::Bytes(bytes) => bytes,
            Step::Commit(commit) => {
                anything.client.commit(&commit);
                continue;
            }
            Step::Stale(stale) => {
                anything.client.snapshot.stale = stale;
                continue;
            }
            Step::Wait(millis) => {
                anything.client.now += Duration::from_millis(millis);
                continue;
            }
            Step::Take(most) => {
                anything.take(most)?;
                continue;
            }
        };
        if anything.client.session.is_full() {
            anything.take(1)?;
        }
        match anything.client.session.on_request(bytes.into(), anything.client.now) {
            Ok(Outcome {
                acked:
                    Some(Acked {
                        ack: Ack::Nack { message, .. },
                        ..
                    }),
                ..
            }) => {
                prop_assert!(message.len() <= 16 * 1024, "{} bytes of words", message.len());
            }
            Ok(_) => {}
            Err(error) => {
                prop_assert!(
                    matches!(error.code(), Code::InvalidArgument | Code::ResourceExhausted),
                    "{}",
                    error
                );
                return Ok(anything.nonces.len());
            }
        }
    }
    prop_assert!(anything.take(100)? < 100, "the session does not come to rest");
    Ok(anything.nonces.len())
}

/// Many lives. Those that end at once prove nothing, so most must not.
fn check_sessions(variant: Variant) {
    const LIVES: u32 = 600;
    let responses = Cell::new(0);
    let lives = TestRunner::new(cases(LIVES)).run(&vec(step(), 10..60), |steps| {
        responses.set(responses.get() + check_session(variant, steps)?);
        Ok(())
    });
    lives.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{} responses in {LIVES} lives", responses.get());
    assert!(
        responses.get() > 2 * LIVES as usize,
        "{} responses in {LIVES} lives",
        responses.get()
    );
}

#[test]
fn a_sotw_session_takes_anything() {
    check_sessions(Variant::Sotw);
}

#[test]
fn a_delta_session_takes_anything() {
    check_sessions(Variant::Delta);
}
