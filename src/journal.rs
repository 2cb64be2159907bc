//! The story of each change: who wrote which documents, when, and why.
//!
//! In: writes through the API, each with an [`Intent`] that lies beside the documents in the store.

pub mod intent;

pub use intent::Intent;
