//! Unix sockets of the two ports.
//!
//! A socket file outlives its process. A start replaces such a file, and nothing else: not a file of another type, and
//! not the socket of a process that listens. A socket is dead only if the kernel refuses a connection to it: a process
//! that is frozen, or whose socket is of another kind or another user, keeps its socket. Two processes that start at
//! the same time take turns by a lock on the folder, so the second finds the socket of the first.

use std::fs::{File, Permissions, remove_file, set_permissions, symlink_metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Bind a Unix socket, with this mode if one is given. A socket without a process that listens is replaced.
///
/// # Errors
/// The path cannot be bound, is a file of another type, or is the socket of another process.
pub fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let turn = File::open(folder)?;
    turn.lock()?;

    if let Ok(metadata) = symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            let reason = format!("{} exists and is no socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        if !is_dead(path)? {
            let reason = format!("another process listens on {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
        }
        remove_file(path)?;
    }

    // Under its final name the socket has its final mode from the start.
    let hidden = tempfile::Builder::new()
        .prefix(".chancery-")
        .make_in(folder, |hidden| UnixListener::bind(hidden))?;
    if let Some(mode) = mode {
        set_permissions(hidden.path(), Permissions::from_mode(mode))?;
    }
    hidden.persist_noclobber(path).map_err(|error| error.error)
}

/// Whether no process listens. A full queue answers with another error, so the call does not wait.
fn is_dead(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let outcome = socket.connect(&SockAddr::unix(path)?);
    Ok(outcome.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xds.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        remove_file(&path).unwrap();

        let first = bind_unix(&path, Some(0o600)).unwrap();
        assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "the first goes on");
        drop(first);
        drop(bind_unix(&path, None).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_socket_that_cannot_answer_now_is_not_dead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xds.sock");
        // The process is frozen: nobody accepts, and the queue is full.
        let frozen = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        frozen.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        frozen.listen(0).unwrap();
        let waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((waiting, frozen));
        remove_file(&path).unwrap();

        let other_kind = UnixDatagram::bind(&path).unwrap();
        assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(other_kind);
    }

    #[test]
    fn of_two_that_start_together_one_gets_the_socket() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("xds.sock");
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(2);
            let bound = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..2)
                    .map(|_| {
                        scope.spawn(|| {
                            let _inside = runtime.enter();
                            start.wait();
                            bind_unix(&path, None)
                        })
                    })
                    .collect();
                let ended: Vec<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
                ended
            });
            assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1, "{bound:?}");
        }
    }
}
