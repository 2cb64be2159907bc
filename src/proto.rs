//! Descriptors, wire envelopes and the small pieces that every Envoy message is made of.
//!
//! Promise: **canonical bytes**. Prost encodes a `HashMap` in a random order. So neither this module nor
//! [`crate::resource`] encodes a `HashMap` of two or more entries. Free-form values (metadata, JSON log formats) are a
//! [`structs::Struct`] with sorted fields. It is encoded separately, and [`message::append`] puts its bytes into the
//! parent. The remaining maps have one entry. Protobuf allows the fields of a parent in any order, and the same order
//! always gives the same bytes.
//!
//! [`json`] turns encoded messages into proto-JSON for people (the admin API, golden tests). The first use decodes the
//! descriptors.

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
