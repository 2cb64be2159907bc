//! e2e tests.

#[path = "../support/lib.rs"]
mod support;
