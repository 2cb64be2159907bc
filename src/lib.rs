//! Chancery, a management server for Envoy.
//!
//! ```text
//!  1 backend     2 document     4 resource     5 snapshot     6 rollout      7 xds            Envoy
//!  etcd watch →  parse,      →  compile     →  immutable,  →  which       →  one session   →  ACK / NACK
//!  (or a folder) validate       what changed   versioned      snapshot       per stream         │
//!     ↑              3 reconcile: one decision, last good     which node                        │
//!     └── admin, cli: write documents, read every stage       8 fleet: who holds what  ←────────┘
//! ```
//!
//! A document travels from left to right and never back. ACKs and NACKs travel back: they are facts about proxies, kept
//! in [`fleet`]. Logic has no I/O: [`document`], [`resource`], [`snapshot`] (except its store), [`rollout`],
//! [`reconcile::plan`] and the session in [`xds`] take values and return values, time included.

pub mod admin;
pub mod backend;
pub mod document;
pub mod fleet;
pub mod journal;
pub mod proto;
pub mod reconcile;
pub mod resource;
pub mod rollout;
pub mod snapshot;
pub mod telemetry;
pub mod xds;

pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod shutdown;
pub mod socket;
