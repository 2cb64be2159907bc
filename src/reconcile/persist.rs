//! What outlives the process: serving texts on disk, last good texts beside the documents.
//!
//! `disk` keeps all that serves in the state directory, so that a restart while the store is away serves at once.
//! `shared` keeps, below `<state-prefix>last-good/`, the last good text of every document that is bad now, so that a replica
//! born later serves the same: last good is history, and history is shared.

pub mod disk;
pub mod shared;
