//! Descriptors and wire envelopes.

/// Slim xDS envelopes (`proto-vendor/chancery/wire/v1/discovery.proto`).
pub mod wire {
    #![expect(missing_docs, reason = "generated; the .proto is documented")]
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("chancery.wire.v1");
}

/// The FileDescriptorSet of everything in `envoy-types`.
pub static ENVOY_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy-types.bin"));
