//! Builds the slim xDS envelopes of `proto-vendor/` and finds the descriptors that the pinned `envoy-types` ships.
//!
//! Needs `protoc` on the PATH (as the `etcd-client` crate does).

#![allow(clippy::disallowed_methods, reason = "a build script is told by its environment")]

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROTOS: &[&str] = &["proto-vendor/chancery/wire/v1/discovery.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto-vendor");
    println!("cargo:rerun-if-changed=Cargo.lock");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .bytes(".")
        .compile_protos(PROTOS, &["proto-vendor"])?;
    let descriptors = envoy_types_root()?.join("src/generated/types.bin");
    fs::copy(&descriptors, out_dir.join("envoy-types.bin"))
        .map_err(|error| format!("copy {}: {error}", descriptors.display()))?;
    Ok(())
}

/// The folder of the `envoy-types` package that Cargo.lock pins: its `FileDescriptorSet` is not part of its Rust interface.
fn envoy_types_root() -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        // Crates of other platforms are not downloaded by a build, and offline metadata would miss them.
        .args(["--filter-platform", &env::var("TARGET")?])
        .current_dir(env::var("CARGO_MANIFEST_DIR")?)
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .map(Path::to_path_buf)
        .ok_or_else(|| "cargo metadata names no package envoy-types".into())
}
