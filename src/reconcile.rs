//! Stage 3, the one decision: which documents serve.
//!
//! `plan` is pure: a world and changes in, verdicts, a new world and the difference of resources out. It is what the loop,
//! the API's refusals, `dry_run` and `chancery check` all call. `hold` keeps back what looks like an accident, `coalesce`
//! spaces publishes, `persist` keeps last good texts, `run` is the loop that joins them to a backend and the snapshot store.

pub mod coalesce;
pub mod hold;
pub mod persist;
pub mod plan;
pub mod run;
pub mod world;
