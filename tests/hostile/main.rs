//! Attacks with a healthy fleet beside them: what one client, one document or one etcd key does harms nobody else.
//!
//! In: a server on a real etcd, proxies that get an update every 50 ms, newcomers, `/healthz`. Out, for each attack: the
//! 99th percentile of the fleet's waits beside that of the same fleet left alone, the most memory, the volume of the log,
//! and the memory afterwards ([`trial`]). docs/operating.md, "Connections and limits", states the budgets.
//!
//! | module | attacks |
//! |---|---|
//! | `messages` | messages that never end or hold far more than they seem |
//! | `streams` | connections and streams that take the places, the turns or the log |
//! | `admin_port` | answers that nobody reads, connections that say nothing |
//! | `keys` | etcd keys and documents that would write into the log |
//!
//! The attacks come from an address of their own, 127.0.0.66.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds what it does not expect")]
#![allow(clippy::print_stdout, reason = "the figures of each attack are printed")]

#[path = "../support/lib.rs"]
mod support;

mod admin_port;
mod fleet;
mod keys;
mod messages;
mod streams;
mod trial;
mod wire;
