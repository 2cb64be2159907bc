//! it tests.

#[path = "../support/lib.rs"]
mod support;

mod admin;
mod backend_etcd;
mod cli;
