//! The cost of single steps, and the proof that it does not grow with the unchanged part:
//! `cargo bench --bench micro [FILTER]`.
//!
//! One file a stage, in the order of a document's way: `parse`, `plan`, `publish`, `encode`, `session`. Each line of
//! the output is one step and one size; benches/README.md explains them. Steps that advance (a world, a snapshot, a
//! session) run one after the other, each on the result of the step before, so that the time to drop the old value is
//! counted.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

mod documents;
mod encode;
mod parse;
mod plan;
mod publish;
mod session;

fn config() -> Criterion {
    let short = Duration::from_secs(1);
    Criterion::default()
        .sample_size(30)
        .warm_up_time(short)
        .measurement_time(2 * short)
}

criterion_group! {
    name = benches;
    config = config();
    targets = parse::parse, plan::plan, publish::publish, encode::encode, session::session
}
criterion_main!(benches);
