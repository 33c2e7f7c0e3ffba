//! What the server needs of a connection, so that it serves unix sockets, TCP and [TLS](super::tls) over either alike.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags, sockopt};

/// A connection that one thread reads while others write.
pub(super) trait Transport: Send + Sync + 'static {
    /// The side that the reader thread owns.
    fn reader(&self) -> io::Result<Box<dyn Read + Send>>;

    /// The side that answers are written to.
    fn writer(&self) -> io::Result<Box<dyn Write + Send>>;

    /// Ends reads and writes in both directions, those in progress too. Never waits.
    fn shutdown(&self);

    /// Writes as much as is possible without waiting; `WouldBlock` if that is nothing.
    fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<Taken>;
}

/// What became of bytes that were to be written without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Bytes that must not be given again.
    pub bytes: usize,
    /// Some of them leave only with the next flush of the writer.
    pub flush: bool,
}

/// Where connections come from. `AsFd`: readable when one is waiting.
pub(super) trait Listener: AsFd + Send + 'static {
    /// The next connection and a name of the peer for the log.
    fn accept(&self) -> io::Result<(Box<dyn Transport>, String)>;
}

/// Implements [`Transport`] for a std socket; unix and TCP sockets have the same methods without a common trait.
macro_rules! socket_transport {
    ($socket:ty) => {
        impl Transport for $socket {
            fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
                Ok(Box::new(self.try_clone()?))
            }
            fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
                Ok(Box::new(self.try_clone()?))
            }
            fn shutdown(&self) {
                // Fails only when the peer has already gone.
                let _ = <$socket>::shutdown(self, Shutdown::Both);
            }
            fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<Taken> {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let bytes = rustix::net::sendmsg(self, parts, &mut SendAncillaryBuffer::default(), flags)?;
                Ok(Taken {
                    bytes,
                    flush: false,
                })
            }
        }
    };
}
socket_transport!(UnixStream);
socket_transport!(TcpStream);

impl Listener for UnixListener {
    fn accept(&self) -> io::Result<(Box<dyn Transport>, String)> {
        let (stream, _) = UnixListener::accept(self)?;
        stream.set_nonblocking(false)?;
        let peer = sockopt::socket_peercred(&stream).map_or_else(
            |_| "unix".to_owned(),
            |c| format!("pid {}", c.pid.as_raw_nonzero()),
        );
        Ok((Box::new(stream), peer))
    }
}

impl Listener for TcpListener {
    fn accept(&self) -> io::Result<(Box<dyn Transport>, String)> {
        let (stream, peer) = TcpListener::accept(self)?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        // A guest whose host died says nothing; without these its connection would count for ever.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_TRIES)?;
        Ok((Box::new(stream), peer.to_string()))
    }
}

const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 6;
