//! The paths of the installed tools: `.tools/bin` of the repository (`make tools`), else the PATH.

use std::path::PathBuf;

/// The path of `etcd`, `etcdctl`, `envoy` or `promtool`.
///
/// # Panics
/// With the command that installs it, when it is missing.
pub fn binary(name: &str) -> PathBuf {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/bin").join(name);
    if installed.exists() {
        return installed;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run `make tools`"))
}
