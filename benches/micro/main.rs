//! What one step costs, and that it does not grow with what stays as it is: `cargo bench --bench micro [FILTER]`.
//!
//! One file a stage, in the order in which a document travels: `parse`, `plan`, `publish`, `encode`, `session`. Each
//! line of the output is one step and one size; README.md says what each of them is. Steps that advance (a world, a
//! snapshot, a session) are measured one after the other, each on what the one before left, so that letting go of the
//! old is counted.

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
