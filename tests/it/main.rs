//! Tests in process, over real sockets, some with a real etcd.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds what it does not expect")]

#[path = "../support/lib.rs"]
mod support;

mod admin;
mod apply;
mod backend_directory;
mod backend_etcd;
mod backend_etcd_tls;
mod backend_etcd_tokens;
mod cli;
mod histories;
mod journal;
mod layers;
mod plan;
mod quarantine;
mod reconcile;
mod registries;
mod rules;
mod secrets;
mod serve;
mod state;
mod traces;
mod writes;
mod xds_documents;
mod xds_fixture;
mod xds_limits;
mod xds_log;
mod xds_reconnect;
mod xds_refusals;
mod xds_secrets;
mod xds_services;
mod xds_storm;
mod xds_streams;
