//! Our matcher, the explanation of a request and a real Envoy choose the same route, with the same effect, for generated
//! tables and raw requests.
//!
//! Every table is a listener of one Envoy; a response names its route in `x-route`. Requests are written byte by byte,
//! so that odd slashes, escapes and repeated headers arrive unchanged. In the second test routes redirect and rewrite,
//! and an upstream answers with the host and the path that it sees. Policies stand at all levels, and a response has the
//! number of each one that holds. `PARITY_SEED` changes the generated tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use chancery::document::key::{DocumentKey, Kind};
use chancery::document::policy::PolicyKind;
use chancery::document::{self, Limits};
use chancery::resource::ResourceType;
use chancery::resource::compile::Compiled;
use chancery::resource::compile::explain::{Explanation, Outcome as Explained, Question};
use chancery::resource::matcher::{Effect, Matcher, Outcome, Request, Seen};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use super::bootstrap;
use super::inputs::compile_all;
use super::support::envoy::{Envoy, own_address};
use super::support::eventually::eventually;
use super::support::upstream::Upstream;

const SEED: u64 = 20_261_130;
const TABLES: usize = 100;
const ROUTES: usize = 18;
/// Of each table: pairs for which this many routes or more match, and pairs for which fewer do.
const CONTESTED: usize = 480;
const OTHERS: usize = 25;
const CANDIDATES: usize = 3;
/// Give up on a table that has too few contested requests after so many tries.
const TRIES: usize = 20_000;

/// A raw request that owns its parts.
#[derive(Debug)]
struct Raw {
    method: &'static str,
    host: &'static str,
    target: String,
    headers: Vec<(&'static str, &'static str)>,
}

impl Raw {
    fn request(&self) -> Request<'_> {
        Request {
            method: self.method,
            host: self.host,
            target: &self.target,
            headers: &self.headers,
        }
    }
}

fn one<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).expect("something to choose from")
}

fn segment(random: &mut StdRng) -> &'static str {
    one(
        random,
        &[
            "a", "a", "b", "b", "c", "ab", "~j", "a%20b", "a|b", "%7Ej", "a;b", "x.y",
        ],
    )
}

fn path(random: &mut StdRng) -> String {
    let count = random.random_range(1..=3);
    let mut segments = |count| -> String { (0..count).map(|_| format!("/{}", segment(random))).collect() };
    let plain = segments(count);
    match random.random_range(0..10) {
        0 => plain,
        1 => format!("{plain}/"),
        2 | 3 => format!("{}/*", &plain[..plain.rfind('/').expect("a slash")]),
        4 => format!("{plain}/{{rest=**}}"),
        5 => "/{one}/{rest=**}".to_owned(),
        6 => format!("{plain}/{{id}}"),
        7 => one(
            random,
            &[
                "/{one}/b",
                "/a/{one}",
                "/{one}/{two}",
                "/{one}",
                "/{one}/b/{two}",
                "/{one}/",
            ],
        )
        .to_owned(),
        _ => one(
            random,
            &[
                "~/.*",
                "~^/a.*$",
                "~/[ab]+/[^/]*",
                "~/(a|b)(/.*)?",
                "~.*b",
                "~/~j.*",
                "~(?i)/A/.*",
                r"~/[a-c]/\S+",
                "~/a(%20|b)+/?.*",
            ],
        )
        .to_owned(),
    }
}

fn value(random: &mut StdRng, values: &[&str]) -> Value {
    let text = one(random, values);
    let filled = if text.is_empty() { "1" } else { text };
    let condition = match random.random_range(0..6) {
        0 | 1 => json!(text),
        2 => json!({ "prefix": filled }),
        3 => json!({ "suffix": filled }),
        4 => json!({ "contains": filled }),
        _ => json!({ "present": random.random_bool(0.5) }),
    };
    match random.random_range(0..3) {
        0 => json!({ "not": condition }),
        _ => condition,
    }
}

/// Kinds of policies that show on a response.
const SHOWN: [PolicyKind; 3] = [PolicyKind::Headers, PolicyKind::Cors, PolicyKind::RateLimit];
/// An origin that every cors policy allows.
const ORIGIN: (&str, &str) = ("origin", "https://app.example.com");

/// The number of a policy: of its document, or of its place in one.
fn number(id: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    1_000_000 + u32::try_from(hasher.finish() % 1_000_000).expect("below a million")
}

/// A policy whose responses have its number.
fn policy(kind: PolicyKind, id: &str) -> Value {
    let number = number(id);
    match kind {
        PolicyKind::Headers => json!({ "headers": { "response": { "set": { "x-policy": number.to_string() } } } }),
        PolicyKind::Cors => {
            json!({ "cors": { "allow_origins": [ORIGIN.1], "expose_headers": [format!("x-{number}")] } })
        }
        _ => json!({ "rate_limit": { "requests": number, "per": "1s", "headers": true } }),
    }
}

/// A list of policies: inline ones, names of documents, `off`. `place`: document and path of the list.
fn policies(random: &mut StdRng, listener: &str, place: &str) -> Value {
    let mut items = Vec::new();
    for kind in SHOWN {
        let inline = policy(kind, &format!("{place}[{}]", items.len()));
        items.extend(match random.random_range(0..10) {
            0 => Some(json!({ kind.as_str(): "off" })),
            1 | 2 => Some(json!(format!(
                "{listener}-{}-{}",
                kind.as_str().replace('_', "-"),
                random.random_range(0..NAMED)
            ))),
            3 => Some(inline),
            _ => None,
        });
    }
    items.into()
}

/// Policies of each kind that a table names.
const NAMED: usize = 3;

/// The policies that a table names; the last one of each kind is final.
fn named_policies(listener: &str) -> Map<String, Value> {
    let named = |kind: PolicyKind, index: usize| {
        let key = format!("policies/{listener}-{}-{index}", kind.as_str().replace('_', "-"));
        let mut value = policy(kind, &key);
        value["final"] = json!(index == NAMED - 1);
        (key, value)
    };
    SHOWN
        .into_iter()
        .flat_map(|kind| (0..NAMED).map(move |index| named(kind, index)))
        .collect()
}

/// The numbers of the policies that hold, by kind.
fn explained_policies(explanation: &Explanation) -> [Option<u32>; 3] {
    SHOWN.map(|kind| {
        let mut holding = explanation.policies.iter().filter(|(_, holding)| holding.kind == kind);
        let (_, holding) = holding.next()?;
        Some(number(&match &holding.place {
            Some(place) => format!("{}#{place}", holding.document),
            None => holding.document.to_string(),
        }))
    })
}

fn route(random: &mut StdRng, listener: &str, key: &str) -> Value {
    let mut matches = json!({ "path": path(random) });
    if random.random_bool(0.4) {
        let hosts = [
            "api.example.com",
            "API.Example.com.",
            "*.example.com",
            "*.com",
            "[2001:db8:0:0:0:0:0:3]",
            "*",
        ];
        matches["hosts"] = json!([one(random, &hosts)]);
    }
    if random.random_bool(0.2) {
        matches["methods"] = one(random, &[&["GET"][..], &["GET", "POST"], &["PUT"]]).into();
    }
    if random.random_bool(0.3) {
        let name = one(random, &["x-a", "X-B"]);
        let regex = one(random, &["1*", ".+", "[12]"]);
        matches["headers"][name] = match random.random_range(0..5) {
            0 => json!({ "regex": regex }),
            1 => json!({ "not": { "regex": regex } }),
            _ => value(random, &["", "1", "2", "1,2"]),
        };
    }
    if random.random_bool(0.3) {
        let name = one(random, &["v", "v", "vv", "a b"]);
        // Envoy can invert conditions on short names, and plain values of others.
        let condition = match name {
            "a b" => json!({ "not": one(random, &["", "1", "a b"]) }),
            _ => value(random, &["", "1", "2", "a b", "ü", "1=2"]),
        };
        matches["query"][name] = condition;
    }
    let mut route = json!({
        "match": matches,
        "to": { "respond": { "status": 200, "headers": { "x-route": key } } },
        "priority": one(random, &[0, 0, 0, 0, 0, 1]),
        "listeners": [listener],
    });
    if random.random_bool(0.2) {
        let to = json!({ "respond": { "status": 200, "headers": { "x-route": format!("{key}#overrides[0]") } } });
        let condition = value(random, &["1", "2"]);
        route["overrides"] = match random.random_bool(0.5) {
            true => json!([{ "headers": { "x-b": condition }, "to": to }]),
            false => json!([{ "query": { "w": condition }, "to": to }]),
        };
        if random.random_bool(0.5) {
            route["overrides"][0]["policies"] = policies(random, listener, &format!("{key}#overrides[0].policies"));
        }
    }
    if random.random_bool(0.6) {
        route["policies"] = policies(random, listener, &format!("{key}#policies"));
    }
    route
}

/// A target: a path like those of routes, with odd spellings, and a query.
fn target(random: &mut StdRng) -> String {
    let mut target = String::new();
    for _ in 0..random.random_range(1..=4) {
        target.push_str(one(
            random,
            &[
                "/", "/", "/", "/", "/", "/", "//", "/./", "/../", "/%2e/", "\\", "/..;x/", "/.%2E/",
            ],
        ));
        target.push_str(one(
            random,
            &[
                "a", "a", "a", "b", "b", "c", "ab", "%61", "~j", "%7Ej", "%7ej", "a%20b", "a|b", "a%7Cb", "a;b",
                "x%2Ey", "[a]", "",
            ],
        ));
    }
    target.push_str(one(random, &["", "", "", "", "/", "//", "/..", "/.", "/.;"]));
    if random.random_bool(0.03) {
        target.push_str(one(random, &["%2F", "%5c", "%00", "#a", "%zz", "%"]));
    }
    if random.random_bool(0.6) {
        target.push('?');
        for _ in 0..random.random_range(0..4) {
            target.push_str(one(random, &["v", "v", "v", "vv", "a%20b", "w", "", "V"]));
            target.push_str(one(
                random,
                &[
                    "=1", "=1", "=2", "=", "", "=a%20b", "=%C3%BC", "=1=2", "=12", "=21", "=a+b",
                ],
            ));
            target.push_str(one(random, &["&", "&", "&&"]));
        }
    }
    target
}

fn request(random: &mut StdRng) -> Raw {
    let hosts = [
        "api.example.com",
        "api.example.com",
        "api.example.com.",
        "API.example.com:8080",
        "api.example.com.:80",
        "b.example.com",
        "c.b.example.com.",
        "example.com",
        "x",
        "[2001:db8::3]",
        "[2001:DB8::3]:80",
    ];
    let mut headers = Vec::new();
    for _ in 0..random.random_range(0..3) {
        let value = one(random, &["", "1", "2", "1,2", " 1 ", "11", "21"]);
        headers.push((one(random, &["x-a", "x-a", "x-b"]), value));
    }
    Raw {
        method: one(random, &["GET", "GET", "GET", "POST", "PUT"]),
        host: one(random, &hosts),
        target: target(random),
        headers,
    }
}

/// A table's documents; those that the server rejects are left out.
fn table(random: &mut StdRng, listener: &str, address: SocketAddr) -> Map<String, Value> {
    let mut documents = Map::new();
    documents.insert(
        format!("listeners/{listener}"),
        json!({
            "address": address.to_string(),
            "policies": policies(random, listener, &format!("listeners/{listener}#policies")),
        }),
    );
    // These match nearly everything, so that a request usually has several candidates.
    for (index, path) in ["/*", "~/.*", "/{rest=**}"].into_iter().enumerate() {
        let key = format!("routes/{listener}/all-{index}");
        let to = json!({ "respond": { "status": 200, "headers": { "x-route": key } } });
        documents.insert(key, json!({ "match": path, "to": to, "listeners": [listener] }));
    }
    while documents.len() <= ROUTES {
        let key = DocumentKey::new(Kind::Routes, format!("{listener}/r{}", documents.len()));
        let value = route(random, listener, &key.to_string());
        if document::parse(&key, value.to_string().as_bytes(), &Limits::default()).is_ok() {
            documents.insert(key.to_string(), value);
        }
    }
    documents.extend(named_policies(listener));
    documents
}

/// Requests for a table, most of which several routes match.
fn requests(random: &mut StdRng, matcher: &Matcher) -> Vec<Raw> {
    let (mut contested, mut others) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        let raw = request(random);
        let matching = matcher.candidates(&raw.request()).map_or(0, |routes| routes.len());
        if matching >= CANDIDATES && contested.len() < CONTESTED {
            contested.push(raw);
        } else if matching < CANDIDATES && others.len() < OTHERS {
            others.push(raw);
        }
        if contested.len() == CONTESTED && others.len() == OTHERS {
            break;
        }
    }
    assert_eq!(contested.len(), CONTESTED, "requests that {CANDIDATES} routes match");
    contested.into_iter().chain(others).collect()
}

fn outcome(matcher: &Matcher, raw: &Raw) -> String {
    match matcher.outcome(&raw.request()) {
        Outcome::Malformed => "400".to_owned(),
        Outcome::NoRoute => "404".to_owned(),
        Outcome::Route(route) => {
            let headers = route
                .response_headers_to_add
                .iter()
                .filter_map(|option| option.header.as_ref());
            let mut named = headers.filter(|header| header.key == "x-route");
            named
                .next()
                .map_or_else(|| route.name.clone(), |header| header.value.clone())
        }
    }
}

/// The explanation of a request to a listener.
fn explanation(compiled: &Compiled, listener: &str, raw: &Raw) -> Explanation {
    let question = Question {
        method: raw.method.to_owned(),
        is_tls: Some(false),
        host: raw.host.to_owned(),
        target: raw.target.clone(),
        headers: raw
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        group: "default".into(),
        listener: Some(listener.into()),
    };
    compiled.explain(&question).expect("an explanation")
}

/// The outcome of an explanation in the form of [`outcome`]; each route but the winner is named at most once.
fn explained(explanation: &Explanation) -> String {
    let Some(route) = &explanation.route else {
        return explanation
            .effect
            .status
            .map(|status| status.to_string())
            .unwrap_or_default();
    };
    assert!(matches!(explanation.outcome, Explained::Respond | Explained::Forward));
    let is_winner = explanation
        .losers
        .iter()
        .any(|loser| loser.document == route.document && loser.place == route.place);
    assert!(!is_winner, "the winner is among the losers: {explanation:?}");
    match route.place.starts_with("overrides") {
        true => format!("{}#{}", route.document, route.place),
        false => route.document.to_string(),
    }
}

/// A connection that reopens after Envoy has closed it.
struct Connection {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    fn response(&mut self, raw: &Raw) -> Response {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", raw.method, raw.target, raw.host);
        for (name, value) in &raw.headers {
            write!(text, "{name}: {value}\r\n").expect("a String takes all");
        }
        let (name, value) = ORIGIN;
        write!(text, "{name}: {value}\r\ncontent-length: 0\r\n\r\n").expect("a String takes all");

        let mut stream = self.stream.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(self.address).expect("connect to Envoy");
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .expect("a timeout");
            stream.set_nodelay(true).expect("no delay");
            BufReader::new(stream)
        });
        stream.get_mut().write_all(text.as_bytes()).expect("send a request");

        let mut status = String::new();
        stream.read_line(&mut status).expect("a status line");
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a header");
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_owned(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).expect("a body");

        if headers.get("connection").is_none_or(|value| value != "close") {
            self.stream = Some(stream);
        }
        Response {
            status: status.split(' ').nth(1).unwrap_or_default().to_owned(),
            headers,
            body,
        }
    }
}

/// Envoy's response.
struct Response {
    status: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Response {
    /// The route that the response names, or its status.
    fn outcome(&self) -> String {
        let route = self.headers.get("x-route");
        route.unwrap_or(&self.status).clone()
    }

    /// The numbers of the policies that show on the response, by kind.
    fn policies(&self) -> [Option<u32>; 3] {
        ["x-policy", "access-control-expose-headers", "x-ratelimit-limit"].map(|name| {
            let value = self.headers.get(name)?;
            let digits = value
                .trim_start_matches("x-")
                .split(|byte: char| !byte.is_ascii_digit());
            digits.into_iter().next().and_then(|digits| digits.parse().ok())
        })
    }

    /// Route, status, `location`, and the host and the path that the upstream saw.
    fn effect(&self) -> [Option<String>; 5] {
        let header = |name: &str| self.headers.get(name).cloned();
        let echo: Value = match header("x-upstream") {
            Some(_) => serde_json::from_slice(&self.body).expect("the upstream's JSON"),
            None => Value::Null,
        };
        let seen = |field: &str| echo[field].as_str().map(str::to_owned);
        let own = header("x-upstream").is_none().then(|| self.status.clone());
        [header("x-route"), own, header("location"), seen("host"), seen("path")]
    }
}

fn seed() -> u64 {
    std::env::var_os("PARITY_SEED").map_or(SEED, |seed| {
        let seed = seed.to_str().and_then(|seed| seed.parse().ok());
        seed.expect("PARITY_SEED is a number")
    })
}

/// The matchers of all route tables, by listener.
fn matchers(compiled: &Compiled) -> BTreeMap<String, Matcher> {
    let tables = compiled
        .resources()
        .filter(|(_, resource_type, _)| *resource_type == ResourceType::Route);
    let matcher = |body: Bytes| {
        let configuration = RouteConfiguration::decode(body).expect("a RouteConfiguration");
        let matcher = Matcher::new(&configuration).expect("matchers of ours");
        (configuration.name, matcher)
    };
    tables
        .map(|(_, _, resource)| matcher(resource.body.to_bytes()))
        .collect()
}

/// An Envoy with all listeners of the documents, which listen.
async fn envoy(compiled: &Compiled, name: &str, addresses: &[SocketAddr]) -> Envoy {
    let envoy = Envoy::start_with(&bootstrap::of_group(compiled, "default"), name).await;
    envoy.ready().await;
    for address in addresses {
        let listens = || async move { TcpStream::connect(address).is_ok() };
        eventually(Duration::from_secs(10), listens, true).await;
    }
    envoy
}

/// As many addresses.
fn addresses(count: usize) -> Vec<SocketAddr> {
    let base = own_address();
    let address = |index: usize| SocketAddr::new(base.ip(), base.port() + u16::try_from(index).expect("few tables"));
    (0..count).map(address).collect()
}

#[tokio::test]
async fn envoy_chooses_the_routes_that_the_matcher_chooses() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let addresses = addresses(TABLES);
    let tables: Vec<Map<String, Value>> = (0..TABLES)
        .map(|index| table(&mut random, &format!("t{index}"), addresses[index]))
        .collect();

    let documents: Map<String, Value> = tables.iter().flat_map(Clone::clone).collect();
    let compiled = compile_all(&documents);
    let _envoy = envoy(&compiled, "parity", &addresses).await;
    let matchers = matchers(&compiled);

    let (mut wrong, mut pairs, mut contested, mut held) = (String::new(), 0, 0, 0);
    for (index, documents) in tables.iter().enumerate() {
        let matcher = &matchers[&format!("t{index}")];
        let mut connection = Connection {
            address: addresses[index],
            stream: None,
        };
        for raw in requests(&mut random, matcher) {
            pairs += 1;
            let candidates = matcher.candidates(&raw.request()).unwrap_or_default();
            contested += usize::from(candidates.len() >= CANDIDATES);
            let response = connection.response(&raw);
            let (ours, envoys) = (outcome(matcher, &raw), (response.outcome(), response.policies()));
            held += envoys.1.iter().flatten().count();
            let explanation = explanation(&compiled, &format!("t{index}"), &raw);
            let explained = (explained(&explanation), explained_policies(&explanation));
            if (ours != envoys.0 || explained != envoys) && wrong.len() < 20_000 {
                let table = serde_json::to_string(documents).expect("JSON");
                writeln!(
                    wrong,
                    "{raw:?}\n  ours: {ours}\n  explained: {explained:?}\n  Envoy's: {envoys:?}\n  table: {table}"
                )
                .expect("a String takes all");
            }
        }
    }
    assert!(pairs >= 50_000, "{pairs} pairs");
    assert!(held >= pairs / 2, "{held} policies on {pairs} responses");
    assert!(contested >= 20_000, "{contested} of {pairs} pairs");
    assert!(wrong.is_empty(), "PARITY_SEED={seed}\n{wrong}");
}

const EFFECT_TABLES: usize = 10;
const EFFECT_ROUTES: usize = 16;
const EFFECT_CLUSTERS: usize = 3;
const EFFECT_REQUESTS: usize = 200;

fn rewrite(random: &mut StdRng) -> Value {
    let mut rewrite = match random.random_range(0..5) {
        0 => json!({ "prefix": one(random, &["/", "/new", "/new/", "/a%20b"]) }),
        1 => json!({ "path": one(random, &["/", "/whole", "/a%20b/"]) }),
        2 => {
            let (pattern, with) = one(
                random,
                &[
                    ("^/([^/]+)(/.*)?$", r"/x/\1\2"),
                    ("[ab]+", "z"),
                    ("/", "/$1/"),
                    ("x*", "/"),
                    (r"^/(?P<first>\w)", r"/\0\\\1"),
                    ("nowhere", "x"),
                ],
            );
            json!({ "regex": { "pattern": pattern, "with": with } })
        }
        _ => json!({}),
    };
    if random.random_bool(0.3) {
        rewrite["host"] = json!("new.example.com");
    }
    rewrite
}

fn redirect(random: &mut StdRng) -> Value {
    let mut redirect = json!({ "code": one(random, &[301, 302, 303, 307, 308]) });
    let (field, value) = match random.random_range(0..5) {
        0 => ("path", json!("/only")),
        1 => ("path", json!("/only?q=1")),
        2 | 3 => ("prefix", json!(one(random, &["/", "/new", "/a%20b"]))),
        _ => ("scheme", json!("http")),
    };
    redirect[field] = value;
    for (field, value) in [
        ("scheme", json!(one(random, &["https", "http"]))),
        ("host", json!("new.example.com")),
        ("port", json!(8443)),
    ] {
        if random.random_bool(0.3) {
            redirect[field] = value;
        }
    }
    redirect
}

/// A table of routes that rewrite, redirect or respond; `upstream` answers with the request that it sees.
fn acting_table(random: &mut StdRng, listener: &str, address: SocketAddr, upstream: SocketAddr) -> Map<String, Value> {
    let mut documents = Map::new();
    documents.insert(
        format!("listeners/{listener}"),
        json!({
            "address": address.to_string(),
            "policies": policies(random, listener, &format!("listeners/{listener}#policies")),
        }),
    );
    while documents.len() <= EFFECT_ROUTES {
        let key = DocumentKey::new(Kind::Routes, format!("{listener}/r{}", documents.len()));
        let mut value = json!({
            "match": { "path": path(random) },
            "to": format!("http://{upstream}"),
            "listeners": [listener],
            "response_headers": { "set": { "x-route": key.to_string() } },
        });
        match random.random_range(0..6) {
            0 => value["to"] = json!({ "respond": { "status": one(random, &[200, 418, 503]) } }),
            1 | 2 => value["to"] = json!({ "redirect": redirect(random) }),
            3 => value["to"] = json!(format!("{listener}-{}", random.random_range(0..EFFECT_CLUSTERS))),
            _ => value["rewrite"] = rewrite(random),
        }
        if random.random_bool(0.3) {
            value["policies"] = policies(random, listener, &format!("{key}#policies"));
        }
        if document::parse(&key, value.to_string().as_bytes(), &Limits::default()).is_ok() {
            documents.insert(key.to_string(), value);
        }
    }
    for index in 0..EFFECT_CLUSTERS {
        let key = format!("clusters/{listener}-{index}");
        let policies = policies(random, listener, &format!("{key}#policies"));
        let endpoints = json!([{ "address": upstream.to_string() }]);
        documents.insert(key, json!({ "endpoints": endpoints, "policies": policies }));
    }
    documents.extend(named_policies(listener));
    documents
}

fn effect(matcher: &Matcher, raw: &Raw) -> [Option<String>; 5] {
    let request = raw.request();
    let effect = |route: Option<&str>, effect: Effect| {
        [
            route.map(str::to_owned),
            effect.status.map(|status| status.to_string()),
            effect.redirect,
            effect.host,
            effect.path,
        ]
    };
    match (matcher.outcome(&request), Seen::of(&request)) {
        (Outcome::Route(route), Some(seen)) => {
            // The generated not-found route is no document.
            let name = Some(&*route.name).filter(|name| !name.starts_with("chancery/"));
            effect(name, Effect::of(route, &seen, "http"))
        }
        (Outcome::NoRoute, _) => effect(None, Effect::of_status(404)),
        _ => effect(None, Effect::of_status(400)),
    }
}

/// The explained effect, and the outcome that it belongs to.
fn explained_effect(explanation: &Explanation) -> [Option<String>; 5] {
    let expected = match (&explanation.route, &explanation.effect) {
        (Some(_), effect) if effect.redirect.is_some() => Explained::Redirect,
        (Some(_), effect) if effect.status.is_some() => Explained::Respond,
        (Some(_), _) => Explained::Forward,
        (None, effect) if effect.status == Some(404) => Explained::NotFound,
        (None, _) => Explained::Respond,
    };
    assert_eq!(explanation.outcome, expected, "{explanation:?}");
    let has_endpoint = explanation
        .destinations
        .iter()
        .all(|cluster| cluster.exists && cluster.total == 1 && cluster.endpoints[0].address.starts_with("127."));
    assert!(has_endpoint, "{explanation:?}");
    [
        explanation.route.as_ref().map(|route| route.document.to_string()),
        explanation.effect.status.map(|status| status.to_string()),
        explanation.effect.redirect.clone(),
        explanation.effect.host.clone(),
        explanation.effect.path.clone(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_rewrites_and_redirects_as_the_matcher_says() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let upstream = Upstream::start("echo").await;
    let addresses = addresses(EFFECT_TABLES);
    let tables: Vec<Map<String, Value>> = (0..EFFECT_TABLES)
        .map(|index| acting_table(&mut random, &format!("e{index}"), addresses[index], upstream.address()))
        .collect();
    let documents: Map<String, Value> = tables.iter().flat_map(Clone::clone).collect();
    let compiled = compile_all(&documents);
    let _envoy = envoy(&compiled, "parity-effect", &addresses).await;
    let matchers = matchers(&compiled);

    let (mut wrong, mut taken) = (String::new(), 0);
    for (index, documents) in tables.iter().enumerate() {
        let matcher = &matchers[&format!("e{index}")];
        let mut connection = Connection {
            address: addresses[index],
            stream: None,
        };
        for _ in 0..EFFECT_REQUESTS {
            let raw = request(&mut random);
            let response = connection.response(&raw);
            let (ours, envoys) = (effect(matcher, &raw), (response.effect(), response.policies()));
            taken += usize::from(ours[0].is_some());
            let explanation = explanation(&compiled, &format!("e{index}"), &raw);
            let explained = (explained_effect(&explanation), explained_policies(&explanation));
            if (ours != envoys.0 || explained != envoys) && wrong.len() < 20_000 {
                let table = serde_json::to_string(documents).expect("JSON");
                writeln!(
                    wrong,
                    "{raw:?}\n  ours: {ours:?}\n  explained: {explained:?}\n  Envoy's: {envoys:?}\n  table: {table}"
                )
                .expect("a String takes all");
            }
        }
    }
    assert!(
        taken >= EFFECT_TABLES * EFFECT_REQUESTS / 4,
        "{taken} requests that a route takes"
    );
    assert!(wrong.is_empty(), "PARITY_SEED={seed}\n{wrong}");
}
