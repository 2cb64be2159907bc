//! `lb`: from its fields to a [`LoadBalancing`].
//!
//! A field that the policy would ignore is refused. So are sizes of a ring or a table that wedge Envoy (NC-24, NC-25).

use std::collections::BTreeSet;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::{COUNT, TEXT, words};
use super::{LbPolicy, LoadBalancing, LocalityMode, Ring};

/// The fields of `lb`.
pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new("policy", Shape::Words(&words(&POLICIES)), "Choice of the endpoint").or("`\"round_robin\"`"),
    Field::new(
        "slow_start",
        Shape::Duration,
        "Ramp-up of a new endpoint; only with `round_robin` and `least_request`",
    ),
    Field::new(
        "locality",
        Shape::Words(&words(&MODES)),
        "Choice of the zone; `zone_aware` not with `ring_hash` and `maglev`",
    ),
    Field::new(
        "choices",
        Shape::Whole(2, MAX_CHOICES as i64),
        "Endpoints that are picked at random, of which the one with the fewest requests is taken; only with \
         `least_request`",
    )
    .or("`2`"),
    Field::new(
        "hash_balance",
        Shape::Whole(100, MAX_HASH_BALANCE as i64),
        "Percent of the average load above which an endpoint gets no more requests; only with `ring_hash` and `maglev`",
    ),
    Field::new("ring", Shape::Object(&RING_FIELDS), "Size of the ring; only with `ring_hash`"),
    Field::new(
        "table",
        Shape::Whole(2, MAX_TABLE as i64),
        "Size of the table, a prime number; only with `maglev`",
    )
    .or("`65537`"),
    Field::new(
        "panic_percent",
        Shape::Percent,
        "If fewer endpoints than this are healthy, Envoy sends requests to all of them, sick ones too. 0: never to sick \
         ones",
    )
    .or("`50`"),
    Field::new(
        "min_zone_size",
        COUNT,
        "With fewer endpoints in the cluster, zones do not count; only with `zone_aware`",
    )
    .or("`6`"),
    Field::new(
        "subsets",
        Shape::entries(&KEYS, MAX_SUBSETS),
        "Sets of metadata keys. Requests whose metadata match names one of these sets go to the endpoints with the same \
         values; all others go to any endpoint",
    ),
]);
const RING_FIELDS: Fields = Fields::of(&[
    Field::new("min", Shape::Whole(1, MAX_RING as i64), "Least entries of the ring").or("`1024`"),
    Field::new("max", Shape::Whole(1, MAX_RING as i64), "Most entries of the ring").or("`8388608`"),
]);
const KEYS: Shape = Shape::List {
    of: &TEXT,
    least: 1,
    most: MAX_SUBSETS,
    once: true,
};
const POLICIES: [(&str, LbPolicy); 5] = [
    ("round_robin", LbPolicy::RoundRobin),
    ("least_request", LbPolicy::LeastRequest),
    ("random", LbPolicy::Random),
    ("ring_hash", LbPolicy::RingHash),
    ("maglev", LbPolicy::Maglev),
];
const MODES: [(&str, LocalityMode); 2] = [
    ("zone_aware", LocalityMode::ZoneAware),
    ("weighted", LocalityMode::Weighted),
];
/// Most endpoints that are compared: Envoy takes each pick for each request.
const MAX_CHOICES: u32 = 100;
/// Largest `hash_balance`, far above any effect and far below Envoy's arithmetic.
const MAX_HASH_BALANCE: u32 = 10_000;
/// The smallest ring if none is written: Envoy's.
const MIN_RING: u32 = 1024;
/// The largest ring: Envoy's limit.
const MAX_RING: u32 = 8 * 1024 * 1024;
/// The largest table: Envoy's limit.
const MAX_TABLE: u32 = 5_000_011;
/// Most sets of keys, and most keys of one: Envoy keeps endpoints for every combination of values.
const MAX_SUBSETS: usize = 16;

/// Reads `lb`.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<LoadBalancing, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let policy = object
        .read("policy", |field| field.word(&POLICIES))?
        .unwrap_or_default();
    let slow_start = object.read("slow_start", |field| {
        let window = field.duration()?;
        match policy {
            LbPolicy::RoundRobin | LbPolicy::LeastRequest => Ok(window),
            _ => Err(field.reject("found beside another policy, expected \"round_robin\" or \"least_request\"")),
        }
    })?;

    let hashes = matches!(policy, LbPolicy::RingHash | LbPolicy::Maglev);
    let locality = object.read("locality", |field| {
        let mode = field.word(&MODES)?;
        if hashes && mode == LocalityMode::ZoneAware {
            return Err(
                field.reject("found \"zone_aware\" beside a hashing policy, which picks no zone, expected another")
            );
        }
        Ok(mode)
    })?;

    let zone_aware = locality == Some(LocalityMode::ZoneAware);
    needs(
        &object,
        "choices",
        policy == LbPolicy::LeastRequest,
        "\"policy\": \"least_request\"",
    )?;
    needs(
        &object,
        "hash_balance",
        hashes,
        "\"policy\": \"ring_hash\" or \"maglev\"",
    )?;
    needs(
        &object,
        "ring",
        policy == LbPolicy::RingHash,
        "\"policy\": \"ring_hash\"",
    )?;
    needs(&object, "table", policy == LbPolicy::Maglev, "\"policy\": \"maglev\"")?;
    needs(&object, "min_zone_size", zone_aware, "\"locality\": \"zone_aware\"")?;

    Ok(LoadBalancing {
        policy,
        slow_start,
        locality,
        choices: object.read("choices", |field| field.integer(2..=MAX_CHOICES))?,
        hash_balance: object.read("hash_balance", |field| field.integer(100..=MAX_HASH_BALANCE))?,
        ring: object.read("ring", |field| read_ring(&field))?,
        table: object.read("table", |field| read_table(&field))?,
        panic_percent: object.read("panic_percent", |field| field.percent())?,
        min_zone_size: object.read("min_zone_size", |field| field.integer(1..=u32::MAX))?,
        subsets: object
            .read("subsets", |field| read_subsets(&field))?
            .unwrap_or_default(),
    })
}

/// Refuses a field without the value of another that it needs.
fn needs(object: &Object<'_>, name: &str, fulfilled: bool, expected: &str) -> Result<(), Rejection> {
    match object.get(name) {
        Some(field) if !fulfilled => Err(field.reject(format!("found without {expected}, expected that beside it"))),
        _ => Ok(()),
    }
}

fn read_ring(cursor: &Cursor<'_>) -> Result<Ring, Rejection> {
    let object = cursor.object(&RING_FIELDS)?;
    let size = |name, default| {
        let size = object.read(name, |field| field.integer(1..=MAX_RING))?;
        Ok(size.unwrap_or(default))
    };
    let ring = Ring {
        min: size("min", MIN_RING)?,
        max: size("max", MAX_RING)?,
    };
    if ring.min > ring.max {
        let (min, max) = (ring.min, ring.max);
        return Err(cursor.reject(format!("found min {min} and max {max}, expected min to be at most max")));
    }
    Ok(ring)
}

fn read_table(cursor: &Cursor<'_>) -> Result<u32, Rejection> {
    let size = cursor.integer(2..=MAX_TABLE)?;
    if !is_prime(size) {
        return Err(cursor.expected("a prime number such as 65537"));
    }
    Ok(size)
}

fn is_prime(number: u32) -> bool {
    let divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.into_iter().all(|divisor| !number.is_multiple_of(divisor))
}

fn read_subsets(cursor: &Cursor<'_>) -> Result<Vec<Vec<String>>, Rejection> {
    let entries = cursor.entries()?;
    if entries.len() > MAX_SUBSETS {
        return Err(cursor.reject(format!("found {} sets, expected at most {MAX_SUBSETS}", entries.len())));
    }
    let mut sets = BTreeSet::new();
    let mut subsets = Vec::new();
    for entry in entries {
        let keys = read_keys(&entry)?;
        if !sets.insert(keys.iter().cloned().collect::<BTreeSet<_>>()) {
            return Err(entry.expected("each set of keys once"));
        }
        subsets.push(keys);
    }
    Ok(subsets)
}

fn read_keys(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let mut keys: Vec<String> = Vec::new();
    for field in cursor.entries()? {
        let key = field.text()?;
        if key.len() > 256 || key.contains(char::is_control) {
            return Err(field.expected("a metadata key of at most 256 bytes without control characters"));
        }
        if keys.iter().any(|other| other == key) {
            return Err(field.expected("each key once"));
        }
        keys.push(key.to_owned());
    }
    if keys.len() > MAX_SUBSETS {
        return Err(cursor.reject(format!("found {} keys, expected at most {MAX_SUBSETS}", keys.len())));
    }
    Ok(keys)
}
