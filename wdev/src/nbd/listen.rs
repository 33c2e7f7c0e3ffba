//! Where an NBD server listens: a unix socket of its own, or a TCP address.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum NbdListenError {
    /// Somebody answers on the socket already.
    #[error("NBD socket {}: another server is listening", socket.display())]
    InUse {
        /// The path.
        socket: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("NBD socket {}: exists and is no socket", socket.display())]
    NotASocket {
        /// The path.
        socket: PathBuf,
    },
    /// A system call failed.
    #[error("NBD socket {}: {act}", socket.display())]
    Io {
        /// The path.
        socket: PathBuf,
        /// What was being done.
        act: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The address cannot be had.
    #[error("listen for NBD on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on a unix socket that only root (the owner) can open. A socket file left by a dead server is replaced.
pub(super) fn bind_unix(socket: &Path) -> Result<UnixListener, NbdListenError> {
    let failed = |act| {
        move |source| NbdListenError::Io {
            socket: socket.to_owned(),
            act,
            source,
        }
    };
    remove_dead_socket(socket)?;
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| failed("make a socket")(e.into()))?;
    SocketAddrUnix::new(socket)
        .and_then(|address| rustix::net::bind(&fd, &address))
        .map_err(|e| failed("bind")(e.into()))?;
    // Before listening, so that nobody can connect while the mode is still wider.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .map_err(failed("set the mode"))?;
    rustix::net::listen(&fd, BACKLOG).map_err(|e| failed("listen")(e.into()))?;
    let listener = UnixListener::from(fd);
    listener
        .set_nonblocking(true)
        .map_err(failed("make it non-blocking"))?;
    Ok(listener)
}

/// Listens on a TCP address; connections wait until a server accepts them.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, NbdListenError> {
    let failed = |source| NbdListenError::Address { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn remove_dead_socket(socket: &Path) -> Result<(), NbdListenError> {
    let failed = |act, source| NbdListenError::Io {
        socket: socket.to_owned(),
        act,
        source,
    };
    match std::fs::symlink_metadata(socket) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at it", e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(NbdListenError::NotASocket {
                socket: socket.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(socket) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(socket).map_err(|e| failed("remove what a dead server left", e))
        }
        Err(e) => Err(failed("see whether somebody listens", e)),
        Ok(_) => Err(NbdListenError::InUse {
            socket: socket.to_owned(),
        }),
    }
}
