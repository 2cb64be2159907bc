//! it tests.

#[path = "../support/lib.rs"]
mod support;

mod backend_etcd;
