//! Shared parts of the test binaries: real etcd and Envoy processes, scripted clients, upstreams.
//!
//! Included with `#[path = "../support/lib.rs"] mod support;`. If a binary is missing, the test that needs it fails
//! with the command that installs it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::print_stderr, reason = "a failing test shows the logs of its processes")]

pub mod ads_client;
pub mod authority;
pub mod catalogue;
pub mod envoy;
pub mod etcd;
pub mod eventually;
pub mod grpc_upstream;
pub mod histories;
pub mod policy_services;
pub mod process;
pub mod proxy;
pub mod raw_codec;
pub mod server;
pub mod tools;
pub mod upstream;
