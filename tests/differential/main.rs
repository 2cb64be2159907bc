//! What this server accepts, Envoy accepts: generated sets of documents, judged by the server's own code and pushed to a
//! real Envoy over ADS.
//!
//! A set has documents of several kinds, made of the table in `tests/data/differential/fields.yaml` ([`fields`]): valid,
//! or with one value just beyond an edge. Two of three sets get a resource in Envoy's own form besides: one of the
//! compiled resources with a change ([`mutation`]), as an xds document. The set is compiled as a whole; the resources go
//! to one Envoy, which answers each response with an ACK or a NACK ([`ads`]). Clusters and listeners have new names in
//! each set and are removed with the next; of the other types, the same resource changes.
//!
//! - No set that the server accepts is refused by Envoy.
//! - Without the checks of the server, Envoy refuses three of ten sets: the changed resource goes to Envoy unchecked.
//! - A resource that the server rejects although Envoy takes it is listed with the rule
//!   (`tests/data/differential/stricter.yaml`).
//! - Every field of the table is in at least 20 sets. Fields of docs/documents/ that the table lacks are printed.
//!
//! `DIFFERENTIAL_SEED` and `DIFFERENTIAL_SETS` choose other sets (`make fuzz-envoy`); `DIFFERENTIAL_ONLY` prints one set.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds what it does not expect")]
#![allow(clippy::print_stdout, reason = "the figures are printed")]

#[path = "../support/lib.rs"]
mod support;

mod ads;
mod dice;
mod fields;
mod mutation;
mod proxy;
mod set;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use dice::Dice;
use proxy::Proxy;
use set::Set;

/// Sets in `make test`.
const SETS: usize = 3200;
const SEED: u64 = 1;
/// Sets that are sent before the first verdict of them is read.
const WINDOW: usize = 50;
/// The least number of sets with a field, and the least share of sets that Envoy refuses without the server's checks.
const LEAST_OF_A_FIELD: usize = 20;
const LEAST_REFUSED_PERCENT: usize = 30;
/// Most lines of a list in a failure.
const SHOWN: usize = 40;

/// A rule by which the server is stricter than Envoy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stricter {
    /// A part of the sentence, with `…` for every name and number.
    rule: String,
    #[expect(dead_code, reason = "for readers of the file")]
    why: String,
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    #[expect(clippy::disallowed_methods, reason = "the caller of the test chooses the seed")]
    let value = std::env::var(name);
    value.ok().map_or(default, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

#[derive(Default)]
struct Counts {
    sets: usize,
    accepted: usize,
    refused_unchecked: usize,
    /// Sets that the server accepts and Envoy refuses.
    wrong: Vec<String>,
    /// Sets whose documents the server rejects before one is changed, by rule.
    rejected: BTreeMap<String, (usize, String)>,
    /// Changed resources that the server rejects and Envoy takes, by rule.
    stricter: BTreeMap<String, (usize, String)>,
    /// Sets by kind and field.
    fields: BTreeMap<(String, String), usize>,
}

impl Counts {
    fn add(&mut self, set: &Set, refused: Option<&String>) {
        self.sets += 1;
        self.accepted += usize::from(set.rejection.is_none());
        self.refused_unchecked += usize::from(refused.is_some());
        for field in &set.fields {
            *self.fields.entry(field.clone()).or_default() += 1;
        }
        match (&set.rejection, refused) {
            (None, Some(words)) => self
                .wrong
                .push(format!("set {} ({}): {words}", set.number, set.change())),
            (Some(rejection), None) if set.is_pushed_unchecked() => {
                let entry = self.stricter.entry(rule(&rejection.reason)).or_default();
                entry.0 += 1;
                entry.1 = format!("set {}: {rejection}", set.number);
            }
            (Some(rejection), _) if !set.is_pushed_unchecked() => {
                let entry = self.rejected.entry(rule(&rejection.reason)).or_default();
                entry.0 += 1;
                entry.1 = format!("set {}: {rejection}", set.number);
            }
            _ => {}
        }
    }
}

/// A reason without its names and numbers.
fn rule(reason: &str) -> String {
    let (mut rule, mut quoted) = (String::new(), false);
    for part in reason.split('"') {
        let words = part
            .split_whitespace()
            .map(|word| match word.contains(|one: char| one.is_ascii_digit()) {
                true => "…".to_owned(),
                false => word.to_owned(),
            });
        match quoted {
            true => rule.push('…'),
            false => rule.push_str(&format!(" {} ", words.collect::<Vec<_>>().join(" "))),
        }
        quoted = !quoted;
    }
    rule.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_accepts_what_the_server_accepts() {
    let (seed, sets) = (number("DIFFERENTIAL_SEED", SEED), number("DIFFERENTIAL_SETS", SETS));
    let only: usize = number("DIFFERENTIAL_ONLY", usize::MAX);
    println!("DIFFERENTIAL_SEED={seed} DIFFERENTIAL_SETS={sets}");
    let table = fields::table();
    println!(
        "fields of docs/documents/ without a row: {:?}",
        fields::forgotten(&table)
    );

    let mut proxy = Proxy::start().await;
    let mut counts = Counts::default();
    let numbers: Vec<usize> = (0..sets)
        .filter(|number| only == usize::MAX || only == *number)
        .collect();
    for numbers in numbers.chunks(WINDOW) {
        let mut pending = Vec::new();
        for number in numbers {
            let mut dice = Dice::new(
                seed.wrapping_mul(1_000_003)
                    .wrapping_add(u64::try_from(*number).unwrap()),
            );
            let set = Set::make(&table, *number, &mut dice);
            if only == *number {
                println!("{set:#?}");
            }
            let nonces = proxy.push(&set);
            pending.push((set, nonces));
        }
        let mut verdicts = Vec::new();
        for (_, nonces) in &pending {
            verdicts.push(proxy.refusal(nonces).await);
        }
        if proxy.has_ended() || proxy.is_stuck() {
            // At one of the sets Envoy ends, or waits: they are pushed again, one after the other.
            proxy = Proxy::start().await;
            verdicts.clear();
            for (set, _) in &pending {
                let nonces = proxy.push(set);
                let mut verdict = proxy.refusal(&nonces).await;
                if proxy.is_stuck() {
                    // A cluster of the set before waits.
                    proxy = Proxy::start().await;
                    let nonces = proxy.push(set);
                    verdict = proxy.refusal(&nonces).await;
                }
                verdicts.push(verdict);
                if proxy.has_ended() {
                    println!("Envoy ends at set {} ({})", set.number, set.change());
                    proxy = Proxy::start().await;
                }
            }
        }
        for ((set, _), refused) in pending.iter().zip(&verdicts) {
            counts.add(set, refused.as_ref());
        }
    }
    if only == usize::MAX {
        report(&counts, &fields::fields(&table));
    }
}

fn report(counts: &Counts, fields: &BTreeSet<(String, String)>) {
    let percent = counts.refused_unchecked * 100 / counts.sets;
    println!(
        "{} sets, {} accepted; without the checks Envoy refuses {} ({percent} %)",
        counts.sets, counts.accepted, counts.refused_unchecked
    );
    let print = |title: &str, rules: &BTreeMap<String, (usize, String)>| {
        println!("{title}");
        for (rule, (count, example)) in rules {
            println!("{count:6} {rule}\n         {example}");
        }
    };
    print("Documents without a resource, by rule:", &counts.rejected);
    print("Rejected here although Envoy takes it, by rule:", &counts.stricter);

    let known: Vec<Stricter> = {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/differential/stricter.yaml");
        serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let unknown: Vec<&String> = counts
        .stricter
        .keys()
        .filter(|rule| !known.iter().any(|known| rule.contains(&known.rule)))
        .collect();
    let rare: Vec<String> = fields
        .iter()
        .map(|field| (field, counts.fields.get(field).copied().unwrap_or_default()))
        .filter(|(_, count)| *count < LEAST_OF_A_FIELD * counts.sets / SETS)
        .map(|((kind, field), count)| format!("{kind} {field}: {count}"))
        .collect();

    let wrong: Vec<String> = counts.wrong.iter().take(SHOWN).cloned().collect();
    assert!(
        counts.wrong.is_empty(),
        "{} sets are accepted here and refused by Envoy:\n{}",
        counts.wrong.len(),
        wrong.join("\n")
    );
    assert!(unknown.is_empty(), "no entry in stricter.yaml: {unknown:#?}");
    assert!(rare.is_empty(), "fields in too few sets: {rare:#?}");
    assert!(percent >= LEAST_REFUSED_PERCENT, "the sets are too tame: {percent} %");
}
