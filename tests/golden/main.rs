//! Golden tests: documents in, resources out, and a real Envoy that accepts the resources.
//!
//! `in/NAME.yaml` holds documents by key; `out/NAME.TYPE.yaml` the resources of each group as proto-JSON.
//! `CHANCERY_GOLDEN=write cargo test --test golden` rewrites the expected files; read the difference before you commit
//! it.

#[path = "../support/lib.rs"]
mod support;

mod bootstrap;
mod cli;
mod coverage;
mod documented;
mod edges;
mod envoy_accepts;
mod envoy_grammars;
mod field_tables;
mod inputs;
mod outputs;
mod parity;
mod refusals;
mod schema;
mod semantics;
mod steady;
