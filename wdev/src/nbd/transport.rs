//! What the server needs of a connection, so that it serves unix sockets, TCP and, later, TLS alike.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags};

/// A connection that one thread reads while others write.
pub trait Transport: Send + Sync + 'static {
    /// The side that the reader thread owns.
    fn reader(&self) -> io::Result<Box<dyn Read + Send>>;

    /// The side that answers are written to.
    fn writer(&self) -> io::Result<Box<dyn Write + Send>>;

    /// Bounds every later read and write; `None` lets them wait for ever.
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Ends reads and writes in both directions, those in progress too.
    fn shutdown(&self);

    /// Writes as much as is possible without waiting. A transport that cannot tell says `WouldBlock`.
    fn write_now(&self, _parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Where connections come from. `AsFd`: readable when one is waiting.
pub trait Listener: AsFd + Send + 'static {
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
            fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(timeout)?;
                self.set_write_timeout(timeout)
            }
            fn shutdown(&self) {
                // Fails only when the peer has already gone.
                let _ = <$socket>::shutdown(self, Shutdown::Both);
            }
            fn write_now(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(rustix::net::sendmsg(
                    self,
                    parts,
                    &mut SendAncillaryBuffer::default(),
                    flags,
                )?)
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
        let peer = rustix::net::sockopt::socket_peercred(&stream).map_or_else(
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
        Ok((Box::new(stream), peer.to_string()))
    }
}
