//! The conformance suite: every rule of docs/xds-rules.md, against a server over its socket.
//!
//! - `checklist` is the list of rules, one line an ID.
//! - The test of a rule is a function in `general`, `sotw`, `delta`, `ordering`, `grpc` or `proxyless`. The function
//!   drives a scripted raw client (`client`) against a server under test (`target`) that serves the resources of
//!   `fixture`.
//! - One trial is one rule in one variant. After the run, `table` prints the verdict of every ID. If an ID has neither
//!   a rule nor a reason, the run fails.
//!
//! README.md beside this file explains the use.

#![allow(clippy::print_stdout, reason = "the table is what the suite is for")]
#![allow(dead_code, reason = "a target under test may need less than the others")]

#[path = "../support/lib.rs"]
mod support;

mod checklist;
mod client;
mod fixture;
mod rule;
mod table;
mod target;
mod trial;

mod delta;
mod general;
mod grpc;
mod ordering;
mod proxyless;
mod sotw;
mod wrong;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use rule::{Noted, Rule};
use table::Verdicts;

/// Trials spend their time waiting, not computing.
const TRIALS_AT_ONCE: usize = 12;

/// All rules, section by section.
fn rules() -> impl Iterator<Item = &'static Rule> {
    let first = [
        general::RULES,
        general::NACKS,
        sotw::RULES,
        sotw::ANSWERS,
        ordering::RULES,
    ];
    let delta = [
        delta::subscriptions::RULES,
        delta::reconnect::RULES,
        delta::changes::RULES,
        delta::on_demand::RULES,
    ];
    let grpc = [
        grpc::connections::RULES,
        grpc::sizes::RULES,
        grpc::services::RULES,
        grpc::malformed::RULES,
        grpc::hostile::RULES,
    ];
    let proxyless = [proxyless::protocol::RULES, proxyless::content::RULES];
    first.into_iter().chain(delta).chain(grpc).chain(proxyless).flatten()
}

/// The IDs without a test, with their reasons.
fn noted() -> impl Iterator<Item = &'static Noted> {
    [general::NOTED, sotw::NOTED, ordering::NOTED, proxyless::protocol::NOTED]
        .into_iter()
        .flatten()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    trial::keep_panics();
    let verdicts = Arc::new(Verdicts::default());
    let under_test = target::under_test();
    arguments
        .test_threads
        .get_or_insert_with(|| under_test.at_once().unwrap_or(TRIALS_AT_ONCE));
    let mut trials: Vec<Trial> = Vec::new();
    for rule in rules() {
        for variant in rule.applies {
            trials.push(trial::of(rule, *variant, &under_test, &verdicts));
        }
    }
    trials.extend(wrong::target::trials(&rules().collect::<Vec<_>>()));
    trials.push(Trial::test("the_checklist_is_complete", || {
        Ok(checklist::complete(rules(), noted())?)
    }));
    let listing = arguments.list;
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !listing {
        println!("{}", table::render(&verdicts, noted()));
    }
    conclusion.exit_code()
}
