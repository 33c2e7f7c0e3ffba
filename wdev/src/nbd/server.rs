//! The NBD server: one [thread](super::acceptor) accepts for all servers, and each connection has one thread that reads and one that writes.
//!
//! Threads, not tasks: a connection is a long-lived stream of small requests, where handing work between tasks costs
//! more than the work; and the number of connections is small and bounded.
//!
//! Connections that have not chosen an export yet are strangers. They are bounded apart from the others, so that they
//! can never take a client's place: each has a deadline, and where there are too many the slowest makes room.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use walb_common::wire::tls::TlsContext;

use super::acceptor::{Acceptor, Registration, Waker};
use super::connection::{self, ServeError};
use super::exports::{Export, Exports};
use super::handshake::NotNow;
use super::listen::{NbdListenError, bind_unix};
use super::transport::{Listener, Transport};

/// What bounds a server. How many clients an export takes is the export's own affair.
#[derive(Debug, Clone, Copy)]
pub struct NbdLimits {
    /// Connections at once that have not chosen an export yet.
    pub haggling: usize,
    /// From connecting to having chosen an export.
    pub handshake: Duration,
    /// Requests in flight per connection.
    pub requests: usize,
    /// Bytes of payload in flight per connection, both ways. One larger request goes alone.
    pub bytes: u64,
}

impl Default for NbdLimits {
    fn default() -> Self {
        Self {
            haggling: 64,
            handshake: Duration::from_secs(10),
            requests: 256,
            bytes: 8 << 20,
        }
    }
}

/// Whether connections are encrypted, and who may connect.
pub(super) enum Security {
    /// In the clear only.
    Plain,
    /// As the client likes it.
    Optional(Arc<TlsContext>),
    /// Inside TLS only.
    Required(Arc<TlsContext>),
}

/// A running server. Dropping it stops it: connections are cut, and every request has ended when the drop returns.
pub struct NbdServer {
    shared: Arc<Shared>,
    /// Until the drop begins.
    accepting: Option<Registration>,
    /// Removed at the end.
    socket: Option<PathBuf>,
}

impl std::fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NbdServer")
            .field("exports", &self.shared.exports)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// What the threads of a server share.
pub(super) struct Shared {
    pub exports: Arc<Exports>,
    pub limits: NbdLimits,
    pub security: Security,
    connections: Mutex<Connections>,
    /// Notified when a connection has chosen or ended.
    moved: Condvar,
    acceptor: Waker,
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    stopping: bool,
    /// The accepting thread waits until a stranger has chosen or left.
    wanted: bool,
    /// By id, so the oldest first.
    open: BTreeMap<u64, Connection>,
}

struct Connection {
    socket: Arc<dyn Transport>,
    stage: Stage,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Choosing an export.
    Haggling {
        until: Instant,
    },
    /// Cut while it was choosing.
    Cut(Cut),
    Chosen {
        export: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Late,
    MadeRoom,
}

impl Connections {
    fn of(&self, export: &str) -> impl Iterator<Item = &Connection> {
        self.open
            .values()
            .filter(move |c| matches!(&c.stage, Stage::Chosen { export: chosen } if chosen == export))
    }

    fn choosing(&self) -> usize {
        let chosen = |c: &&Connection| matches!(c.stage, Stage::Chosen { .. });
        self.open.len() - self.open.values().filter(chosen).count()
    }

    /// Cuts those whose time is over; the next one's time.
    fn cut_late(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for connection in self.open.values_mut() {
            let Stage::Haggling { until } = connection.stage else {
                continue;
            };
            if until <= now {
                connection.cut(Cut::Late);
            } else {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        next
    }

    /// Cuts the one that has been choosing for longest, unless one is cut already and about to go.
    fn make_room(&mut self) {
        if self.open.values().any(|c| matches!(c.stage, Stage::Cut(_))) {
            return;
        }
        let slowest = self
            .open
            .values_mut()
            .find(|c| matches!(c.stage, Stage::Haggling { .. }));
        if let Some(connection) = slowest {
            connection.cut(Cut::MadeRoom);
        }
    }
}

impl Connection {
    fn cut(&mut self, why: Cut) {
        self.stage = Stage::Cut(why);
        self.socket.shutdown();
    }
}

impl NbdServer {
    /// Listens on a unix socket that only root (the owner) can open. A socket file left by a dead server is replaced.
    /// Clients may use TLS if there is one.
    pub fn listen_unix(
        socket: &Path,
        exports: Arc<Exports>,
        tls: Option<Arc<TlsContext>>,
        limits: NbdLimits,
    ) -> Result<Self, NbdListenError> {
        let security = tls.map_or(Security::Plain, Security::Optional);
        let mut server = Self::serve(bind_unix(socket)?, exports, security, limits).map_err(|source| {
            NbdListenError::Io {
                socket: socket.to_owned(),
                act: "start the server",
                source,
            }
        })?;
        server.socket = Some(socket.to_owned());
        Ok(server)
    }

    /// Serves TCP connections, inside TLS only, with a certificate on both sides. For `listener` see [`super::bind_tcp`].
    pub fn serve_tcp(
        listener: TcpListener,
        exports: Arc<Exports>,
        tls: Arc<TlsContext>,
        limits: NbdLimits,
    ) -> io::Result<Self> {
        Self::serve(listener, exports, Security::Required(tls), limits)
    }

    fn serve(
        listener: impl Listener,
        exports: Arc<Exports>,
        security: Security,
        limits: NbdLimits,
    ) -> io::Result<Self> {
        let acceptor = Acceptor::current()?;
        let shared = Arc::new(Shared {
            exports,
            limits,
            security,
            connections: Mutex::default(),
            moved: Condvar::new(),
            acceptor: acceptor.waker(),
        });
        let accepting = acceptor.register(shared.clone(), Box::new(listener))?;
        Ok(Self {
            shared,
            accepting: Some(accepting),
            socket: None,
        })
    }

    /// Cuts every connection to the export and waits until none of their requests is in flight. Whoever removes the
    /// export first is rid of all its clients then.
    pub fn disconnect(&self, export: &str) {
        let mut connections = self.shared.lock();
        while connections.of(export).next().is_some() {
            connections.of(export).for_each(|c| c.socket.shutdown());
            connections = self.shared.wait(connections);
        }
    }

    /// Connections that have chosen the export.
    pub fn connections(&self, export: &str) -> usize {
        self.shared.lock().of(export).count()
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.moved.notify_all();
        drop(self.accepting.take());
        if let Some(socket) = &self.socket {
            // Already gone is fine too.
            let _ = std::fs::remove_file(socket);
        }
        let mut connections = self.shared.lock();
        connections.open.values().for_each(|c| c.socket.shutdown());
        while !connections.open.is_empty() {
            connections = self.shared.wait(connections);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, connections: MutexGuard<'a, Connections>) -> MutexGuard<'a, Connections> {
        self.moved
            .wait(connections)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts strangers whose time is over; the next one's time.
    pub fn cut_late(&self, now: Instant) -> Option<Instant> {
        self.lock().cut_late(now)
    }

    /// Whether one more stranger may come.
    pub fn has_room(&self) -> bool {
        let connections = self.lock();
        connections.stopping || connections.choosing() < self.limits.haggling
    }

    /// The same, and if not, the slowest stranger is cut. Whoever leaves wakes the accepting thread.
    pub fn make_room(&self) -> bool {
        let mut connections = self.lock();
        let room = connections.stopping || connections.choosing() < self.limits.haggling;
        if !room {
            connections.make_room();
            connections.wanted = true;
        }
        room
    }

    /// Takes a connection in as a stranger. Does not wait.
    pub fn admit(self: &Arc<Self>, socket: Arc<dyn Transport>, peer: String) {
        let mut connections = self.lock();
        if connections.stopping {
            return;
        }
        let id = connections.next_id;
        connections.next_id += 1;
        let connection = Connection {
            socket: socket.clone(),
            stage: Stage::Haggling {
                until: Instant::now() + self.limits.handshake,
            },
        };
        connections.open.insert(id, connection);
        drop(connections);
        let leave = Leave {
            shared: self.clone(),
            id,
        };
        let spawned = thread::Builder::new().name(format!("nbd-{id}")).spawn(move || {
            let served = connection::serve(&leave.shared, id, socket.clone(), &peer);
            match leave.shared.why_cut(id).map_or(served, Err) {
                Ok(()) => tracing::debug!(peer, "NBD connection ended"),
                Err(error) => {
                    tracing::warn!(
                        peer,
                        "NBD connection closed: {}",
                        walb_common::daemon::chain(&error)
                    );
                }
            }
            socket.shutdown();
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "NBD: cannot start a thread for a connection");
        }
    }

    /// Takes one of the export's places for the connection.
    pub fn enter(&self, id: u64, export: &Arc<Export>) -> Result<(), NotNow> {
        let mut connections = self.lock();
        if connections.stopping || !self.exports.offers(export) {
            return Err(NotNow::Leaving);
        }
        let limit = export.most_clients();
        if connections.of(export.name()).count() >= limit {
            return Err(NotNow::Full { limit });
        }
        if let Some(connection) = connections.open.get_mut(&id)
            && matches!(connection.stage, Stage::Haggling { .. })
        {
            let export = export.name().to_owned();
            connection.stage = Stage::Chosen { export };
        }
        self.tell_moved(connections);
        Ok(())
    }

    /// A connection has chosen or ended.
    fn tell_moved(&self, mut connections: MutexGuard<'_, Connections>) {
        let wanted = std::mem::take(&mut connections.wanted);
        drop(connections);
        self.moved.notify_all();
        if wanted {
            self.acceptor.wake();
        }
    }

    fn why_cut(&self, id: u64) -> Option<ServeError> {
        match self.lock().open.get(&id)?.stage {
            Stage::Cut(Cut::Late) => Some(ServeError::Late {
                seconds: self.limits.handshake.as_secs(),
            }),
            Stage::Cut(Cut::MadeRoom) => Some(ServeError::MadeRoom {
                most: self.limits.haggling,
            }),
            Stage::Haggling { .. } | Stage::Chosen { .. } => None,
        }
    }
}

/// Takes a connection off the list when its thread ends, however it ends.
struct Leave {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut connections = self.shared.lock();
        connections.open.remove(&self.id);
        self.shared.tell_moved(connections);
    }
}
