//! Chaos: three members of etcd, three replicas behind links that can be cut, three Envoys, constant traffic, constant
//! changes, and one fault after the other. The invariants are watched the whole time:
//!
//! - no request fails, whatever happens to the control plane (`traffic`);
//! - no Envoy goes back to an older configuration (`traffic`);
//! - replicas that stand at one revision have equal versions (`versions`);
//! - after each fault, every Envoy has sent an ACK for every change, or its NACK is shown (`installation`);
//! - in the end, memory is back to what it was (`installation`).
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `CHAOS_SEED` | which faults in which order, and what they hit | another one each time |
//! | `CHAOS_FAULTS` | how many | 20 |
//! | `CHAOS_ONLY` | only these kinds: `Restore,Poison` | all |
//!
//! The first faults are one of each kind, in random order. A seed repeats the faults; it does not repeat the timing, so a
//! finding may need several runs.

#![allow(clippy::print_stdout, reason = "the faults are printed as they happen")]

mod changes;
mod faults;
mod findings;
mod installation;
mod members;
mod replica;
mod store;
#[path = "../support/lib.rs"]
mod support;
mod traffic;
mod versions;

use std::sync::Arc;

use faults::Fault;
use findings::Findings;
use installation::Installation;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

const FAULTS: usize = 20;

/// Kinds that find a known defect, with the reason. They run by name alone (`CHAOS_ONLY`), until the defect is mended.
const KNOWN: &[(Fault, &str)] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_harm_no_request_and_no_replica() {
    let seed = setting("CHAOS_SEED").map_or_else(|| rand::random_range(1..1_000_000), |text| text.parse().unwrap());
    let count = setting("CHAOS_FAULTS").map_or(FAULTS, |text| text.parse().unwrap());
    println!("CHAOS_SEED={seed} CHAOS_FAULTS={count}");
    let findings = Arc::new(Findings::new(seed));
    findings.on_fault("start".to_owned());
    let mut installation = Installation::start(seed, Arc::clone(&findings)).await;
    installation.recover().await;
    installation.measure_memory();

    for (number, fault) in faults(seed).take(count).enumerate() {
        findings.on_fault(format!("fault {} ({fault:?})", number + 1));
        fault.strike(&mut installation).await;
        let goes_on = installation.all_run() && installation.recover().await;
        if !goes_on || findings.are_enough() {
            break;
        }
    }

    findings.on_fault("end".to_owned());
    installation.memory_is_back().await;
    println!("  {} requests", installation.traffic.requests());
    println!("  {}", installation.versions.summary());
    findings.assert_none();
}

/// One of each kind in random order, then any.
fn faults(seed: u64) -> impl Iterator<Item = Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let named = setting("CHAOS_ONLY").map(|names| {
        let named = names
            .split(',')
            .map(|name| Fault::from_name(name).expect("the name of a fault"));
        named.collect::<Vec<_>>()
    });
    let mut kinds = named.unwrap_or_else(|| {
        let is_known = |fault: &Fault| KNOWN.iter().any(|(known, _)| known == fault);
        Fault::ALL.into_iter().filter(|fault| !is_known(fault)).collect()
    });
    for (fault, reason) in KNOWN {
        println!("  left out: {fault:?}, {reason}");
    }
    kinds.shuffle(&mut random);
    let first = kinds.clone();
    first
        .into_iter()
        .chain(std::iter::from_fn(move || kinds.choose(&mut random).copied()))
}

fn setting(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a test's own setting")]
    std::env::var(name).ok()
}
