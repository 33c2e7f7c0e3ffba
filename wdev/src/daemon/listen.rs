//! Binding the control socket: mode 0600, and never in place of one that somebody serves.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody serves it.
    #[error("control socket {socket} is in use by another walb-wdev: give another one with --socket")]
    InUse {
        /// The path.
        socket: Utf8PathBuf,
    },
    /// Something else has that name.
    #[error("{socket} exists and is no socket")]
    NotASocket {
        /// The path.
        socket: Utf8PathBuf,
    },
    /// The system said no.
    #[error("bind control socket {socket}")]
    Io {
        /// The path.
        socket: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Binds the socket and listens; connections wait until somebody accepts them.
pub fn bind_control_socket(socket: &Utf8Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Io {
        socket: socket.to_owned(),
        source,
    };
    if let Some(dir) = socket.parent().filter(|d| !d.as_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed)?;
    }
    match fs::symlink_metadata(socket) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                socket: socket.to_owned(),
            });
        }
        Ok(_) => {
            if UnixStream::connect(socket).is_ok() {
                return Err(ListenError::InUse {
                    socket: socket.to_owned(),
                });
            }
            fs::remove_file(socket).map_err(failed)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| failed(e.into()))?;
    let address = SocketAddrUnix::new(socket.as_std_path()).map_err(|e| failed(e.into()))?;
    rustix::net::bind(&fd, &address).map_err(|e| failed(e.into()))?;
    // Before listening, so that nobody can connect while the mode is still wider.
    fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(failed)?;
    rustix::net::listen(&fd, 64).map_err(|e| failed(e.into()))?;
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
