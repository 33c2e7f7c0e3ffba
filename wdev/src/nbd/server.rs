//! The NBD server: one thread accepts, and each connection has one thread that reads and one that writes.
//!
//! Threads, not tasks: a connection is a long-lived stream of small requests, where handing work between tasks costs
//! more than the work; and the number of connections is small and bounded.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::exports::Exports;
use super::handshake::{HandshakeError, negotiate};
use super::transmission::{TransmissionError, serve_requests};
use super::transport::{Listener, Transport};
use super::window::{Window, WindowLimits};

/// What bounds a server.
#[derive(Debug, Clone, Copy)]
pub struct NbdLimits {
    /// Connections at once; more are closed at once, with a line in the log.
    pub connections: usize,
    /// Requests in flight per connection.
    pub requests: usize,
    /// Bytes of payload in flight per connection, both ways.
    pub bytes: u64,
    /// From connecting to having chosen an export.
    pub handshake: Duration,
}

impl Default for NbdLimits {
    fn default() -> Self {
        Self {
            connections: 32,
            requests: 256,
            bytes: 32 << 20,
            handshake: Duration::from_secs(10),
        }
    }
}

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
}

/// Buffer of a connection's reader: several small writes arrive in one system call.
const READ_BUFFER: usize = 64 << 10;

/// A running server. Dropping it stops it: connections are cut, and every request has ended when the drop returns.
#[derive(Debug)]
pub struct NbdServer {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// Closing it wakes the accepting thread.
    stop: UnixStream,
    /// Removed at the end.
    socket: Option<PathBuf>,
}

struct Shared {
    exports: Arc<Exports>,
    limits: NbdLimits,
    connections: Mutex<Connections>,
    /// Notified when a connection has ended.
    ended: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("exports", &self.exports)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    stopping: bool,
    open: HashMap<u64, Connection>,
}

struct Connection {
    transport: Arc<dyn Transport>,
    /// The export's name once it is chosen.
    export: Option<String>,
}

impl NbdServer {
    /// Listens on a unix socket that only root (the owner) can open. A socket file left by a dead server is replaced.
    pub fn listen_unix(
        socket: &Path,
        exports: Arc<Exports>,
        limits: NbdLimits,
    ) -> Result<Self, NbdListenError> {
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
        rustix::net::listen(&fd, 64).map_err(|e| failed("listen")(e.into()))?;
        let listener = UnixListener::from(fd);
        listener
            .set_nonblocking(true)
            .map_err(failed("make it non-blocking"))?;
        let mut server = Self::serve(listener, exports, limits).map_err(failed("start the server"))?;
        server.socket = Some(socket.to_owned());
        Ok(server)
    }

    /// Serves the connections of any non-blocking listener.
    pub fn serve(listener: impl Listener, exports: Arc<Exports>, limits: NbdLimits) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let shared = Arc::new(Shared {
            exports,
            limits,
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let for_thread = shared.clone();
        let acceptor = thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || for_thread.accept_all(&listener, &stopped))?;
        Ok(Self {
            shared,
            acceptor: Some(acceptor),
            stop,
            socket: None,
        })
    }

    /// Cuts every connection to the export and waits until none of their requests is in flight.
    pub fn disconnect(&self, export: &str) {
        let of_export = |c: &Connection| c.export.as_deref() == Some(export);
        let mut connections = self.shared.lock();
        while connections.open.values().any(of_export) {
            connections
                .open
                .values()
                .filter(|c| of_export(c))
                .for_each(|c| c.transport.shutdown());
            connections = self
                .shared
                .ended
                .wait(connections)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Connections that have chosen the export.
    pub fn connections(&self, export: &str) -> usize {
        self.shared
            .lock()
            .open
            .values()
            .filter(|c| c.export.as_deref() == Some(export))
            .count()
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let mut connections = self.shared.lock();
        connections.stopping = true;
        drop(connections);
        // Fails only if the accepting thread has ended, which is what we want.
        let _ = self.stop.shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            tracing::error!("the thread that accepts NBD connections panicked");
        }
        if let Some(socket) = &self.socket {
            // Already gone is fine too.
            let _ = std::fs::remove_file(socket);
        }
        let mut connections = self.shared.lock();
        connections.open.values().for_each(|c| c.transport.shutdown());
        while !connections.open.is_empty() {
            connections = self
                .shared
                .ended
                .wait(connections)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_all(self: &Arc<Self>, listener: &impl Listener, stopped: &UnixStream) {
        loop {
            let mut events = [
                PollFd::new(stopped, PollFlags::IN),
                PollFd::new(listener, PollFlags::IN),
            ];
            match poll(&mut events, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "NBD: cannot wait for connections"),
            }
            if !events[0].revents().is_empty() {
                return;
            }
            match listener.accept() {
                Ok((transport, peer)) => self.admit(Arc::from(transport), peer),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    // Typically no file descriptors left: the waiting connection would make this loop spin.
                    tracing::warn!(%error, "NBD: cannot accept a connection");
                    let _ = poll(&mut [PollFd::new(stopped, PollFlags::IN)], Some(&PAUSE));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, transport: Arc<dyn Transport>, peer: String) {
        let mut connections = self.lock();
        if connections.stopping {
            return;
        }
        if connections.open.len() >= self.limits.connections {
            tracing::warn!(
                peer,
                limit = self.limits.connections,
                "NBD: too many connections, one refused"
            );
            return;
        }
        let id = connections.next_id;
        connections.next_id += 1;
        connections.open.insert(
            id,
            Connection {
                transport: transport.clone(),
                export: None,
            },
        );
        drop(connections);
        let leave = Leave {
            shared: self.clone(),
            id,
        };
        let spawned = thread::Builder::new().name(format!("nbd-{id}")).spawn(move || {
            match leave.shared.serve_one(id, &transport, &peer) {
                Ok(()) => tracing::debug!(peer, "NBD connection ended"),
                Err(error) => tracing::warn!(peer, error = chain(&error), "NBD connection closed"),
            }
            transport.shutdown();
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "NBD: cannot start a thread for a connection");
        }
    }

    fn serve_one(&self, id: u64, transport: &Arc<dyn Transport>, peer: &str) -> Result<(), ServeError> {
        let mut input = Deadline {
            input: transport.reader().map_err(ServeError::Open)?,
            transport: transport.as_ref(),
            until: Instant::now() + self.limits.handshake,
        };
        let mut output = transport.writer().map_err(ServeError::Open)?;
        let Some(agreed) = negotiate(&mut input, &mut output, &self.exports)? else {
            return Ok(());
        };
        transport.set_timeout(None).map_err(ServeError::Open)?;
        {
            let mut connections = self.lock();
            if connections.stopping {
                return Ok(());
            }
            if let Some(connection) = connections.open.get_mut(&id) {
                connection.export = Some(agreed.export.name().to_owned());
            }
        }
        tracing::info!(peer, export = agreed.export.name(), "NBD connection opened");

        let limits = WindowLimits {
            requests: self.limits.requests,
            bytes: self.limits.bytes,
        };
        let window = Window::new(limits, transport.clone());
        let mut input = BufReader::with_capacity(READ_BUFFER, input.input);
        thread::scope(|scope| {
            let writer = thread::Builder::new()
                .name(format!("nbd-{id}-out"))
                .spawn_scoped(scope, || window.write_replies(output.as_mut()))
                .map_err(ServeError::Open)?;
            let served = serve_requests(&mut input, &agreed.export, agreed.structured, &window);
            if served.is_err() {
                // Nothing sensible can be said to this client any more: do not wait for it to read its answers.
                transport.shutdown();
            }
            window.no_more_requests();
            let written = writer
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
            served?;
            written.map_err(ServeError::Answer)
        })
    }
}

/// Takes a connection off the list when its thread ends, however it ends.
struct Leave {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shared.lock().open.remove(&self.id);
        self.shared.ended.notify_all();
    }
}

/// Why a connection was closed before the client left.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("prepare the connection")]
    Open(#[source] io::Error),
    #[error("send answers")]
    Answer(#[source] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Transmission(#[from] TransmissionError),
}

/// A reader that fails when `until` has passed, however slowly the bytes drip in.
struct Deadline<'a> {
    input: Box<dyn Read + Send>,
    transport: &'a dyn Transport,
    until: Instant,
}

impl Read for Deadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.transport.set_timeout(Some(left))?;
        self.input.read(buffer).map_err(|e| match e.kind() {
            // What a socket says when its timeout has passed.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => e,
        })
    }
}

/// How long accepting rests when the system refuses it.
const PAUSE: rustix::event::Timespec = rustix::event::Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

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

/// An error with its sources, for one log line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
