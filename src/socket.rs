//! Unix sockets of the two ports.
//!
//! A socket file outlives its process. A start replaces such a file, and nothing else: not a file of another type, and
//! not the socket of a process that listens.

use std::fs::{Permissions, set_permissions, symlink_metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::net::UnixListener;

/// Bind a Unix socket, with this mode if one is given. A socket without a process that listens is replaced.
///
/// # Errors
/// The path cannot be bound, is a file of another type, or is the socket of another process.
pub fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    if let Ok(metadata) = symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            let reason = format!("{} exists and is no socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        if UnixStream::connect(path).is_ok() {
            let reason = format!("another process listens on {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
        }
    }

    // Under its final name the socket has its final mode from the start.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let hidden = tempfile::Builder::new()
        .prefix(".chancery-")
        .make_in(folder.unwrap_or_else(|| Path::new(".")), |hidden| {
            UnixListener::bind(hidden)
        })?;
    if let Some(mode) = mode {
        set_permissions(hidden.path(), Permissions::from_mode(mode))?;
    }
    hidden.persist(path).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xds.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();

        let first = bind_unix(&path, Some(0o600)).unwrap();
        assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "the first goes on");
        drop(first);
        drop(bind_unix(&path, None).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
