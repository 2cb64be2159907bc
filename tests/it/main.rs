//! it tests.

#[path = "../support/lib.rs"]
mod support;
