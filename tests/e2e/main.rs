//! End to end: real etcd, the server as a process, real Envoy and gRPC clients, seen from outside, as an operator sees
//! them.
//!
//! Every scenario runs with both bootstraps, delta and SotW. The tests that measure wait until no other test runs.

#![allow(clippy::print_stdout, reason = "measurements are printed")]

/// The scenarios of a module, each a test a bootstrap.
macro_rules! with_both_bootstraps {
    ($($scenario:ident),+ $(,)?) => {
        mod delta {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario(crate::support::envoy::Bootstrap::Delta).await;
            })+
        }
        mod sotw {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario(crate::support::envoy::Bootstrap::Sotw).await;
            })+
        }
    };
}

mod bad_input;
mod basics;
mod calls;
mod clients;
mod control;
mod drains;
mod exchanges;
mod failover;
mod faults;
mod identity;
mod latency;
mod listeners;
mod load;
mod many_changes;
mod policies;
mod policy_services;
mod recipes;
mod refused;
mod sabotage;
mod scenarios;
mod secrets;
mod services;
#[path = "../support/lib.rs"]
mod support;
mod try_out;
mod types;
mod upstream_tls;
mod virtual_hosts;
mod warming;
mod world;
mod zero_loss;
