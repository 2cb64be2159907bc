//! Descriptors, wire envelopes and the small pieces that every Envoy message is made of.
//!
//! What this module promises: **canonical bytes**. Prost encodes a `HashMap` in an order that differs from map to map,
//! so nothing here or in [`crate::resource`] lets a map of two or more entries go through one: what is free-form
//! (metadata, JSON log formats) is a [`structs::Struct`], whose fields are sorted, encoded on its own and put into its
//! parent as bytes with [`message::append`]; the maps that remain hold one entry. Protobuf allows a parent's fields in
//! any order, and the same order always gives the same bytes.
//!
//! [`json`] turns encoded messages into proto-JSON for people (the admin API, golden tests); the descriptors that it
//! needs are decoded once, when first asked for.

pub mod canonical;
pub mod json;
pub mod message;
pub mod redact;
pub mod sensitive;
pub mod structs;

/// Slim xDS envelopes (`proto-vendor/chancery/wire/v1/discovery.proto`).
pub mod wire {
    #![expect(missing_docs, reason = "generated; the .proto is documented")]
    #![allow(
        clippy::all,
        clippy::doc_markdown,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    tonic::include_proto!("chancery.wire.v1");
}

/// The `FileDescriptorSet` of everything in `envoy-types`.
pub static ENVOY_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy-types.bin"));
