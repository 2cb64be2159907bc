//! Builds the slim xDS envelopes of `proto-vendor/` and finds the descriptors that the pinned `envoy-types` ships.
//!
//! Needs `protoc` on the PATH (as the `etcd-client` crate does), and no network.

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

    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .bytes(".")
        .compile_protos(PROTOS, &["proto-vendor"])?;

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = envoy_types_root(&out_dir)?.join("src/generated/types.bin");
    fs::copy(&descriptors, out_dir.join("envoy-types.bin"))
        .map_err(|error| format!("copy {}: {error}", descriptors.display()))?;
    Ok(())
}

/// The folder of the `envoy-types` package that Cargo.lock pins: its `FileDescriptorSet` is not part of its Rust
/// interface.
///
/// Cargo alone knows the folder: a registry's cache, or a vendored directory that a configuration file names.
/// `cargo metadata` on this package would want every crate of Cargo.lock, and a plain `cargo build` downloads no
/// dev-dependencies. So Cargo is asked about a package of its own in `OUT_DIR`, whose only dependency is `envoy-types`.
fn envoy_types_root(out_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let version = locked_version(&lock, "envoy-types").ok_or("Cargo.lock names no package envoy-types")?;

    let probe = out_dir.join("probe");
    fs::create_dir_all(probe.join("src"))?;
    fs::write(probe.join("src/lib.rs"), "")?;
    fs::write(
        probe.join("Cargo.toml"),
        format!(
            "[package]\nname = \"probe\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [dependencies]\nenvoy-types = \"={version}\"\n"
        ),
    )?;
    // The same versions of what `envoy-types` depends on: these are at hand.
    fs::write(probe.join("Cargo.lock"), &lock)?;

    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--offline"])
        // Crates of other platforms are not downloaded by a build.
        .args(["--filter-platform", &env::var("TARGET")?])
        .arg("--manifest-path")
        .arg(probe.join("Cargo.toml"))
        // Cargo reads its configuration (vendored sources) from here upward.
        .current_dir(&root)
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

/// The version that a Cargo.lock gives a package.
fn locked_version<'lock>(lock: &'lock str, name: &str) -> Option<&'lock str> {
    let (_, entry) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    entry.split('"').next()
}
