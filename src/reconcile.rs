//! Stage 3, the one decision: which documents serve.
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | pure: a world and inputs in; verdicts, a new world, the difference of resources and memory writes out |
//! | [`world`], `text` | every document with its state; a text as it stands at a key |
//! | `contested` | documents that others keep from serving, by what they wait for |
//! | [`hold`] | guards: hold back changes that look like an accident |
//! | [`memory`], `due` | the shared memory: the texts that serve in place of the store's, on all replicas; records to write |
//! | [`refusal`], [`quarantine`] | texts that every proxy refuses which has answered |
//! | [`cut`] | one revision, one plan: changes wait until all roots have reached their revision |
//! | [`coalesce`] | the distance between publishes |
//! | [`persist`] | the state directory and the shared memory in the store |
//! | [`run`] | the loop that joins them to a backend and the snapshot store |
//!
//! The loop and the API's refusals call the same [`plan::plan`].

pub mod coalesce;
mod contested;
pub mod cut;
mod due;
pub mod hold;
pub mod memory;
pub mod persist;
pub mod plan;
pub mod quarantine;
pub mod refusal;
pub mod run;
mod text;
pub mod world;
