//! State that outlives the process.
//!
//! - `disk` saves all serving texts in the state directory. If the store is away, a restarted server serves them.
//! - `shared` writes and reads the records below `<state-prefix>`. A replica that starts later serves the same texts.
//!
//! `unsaved` says which of the two cannot be written now.

pub mod disk;
pub mod shared;
pub mod unsaved;
