//! One thread accepts for every listening socket of the process: a thousand idle devices need one, not a thousand.
//!
//! It exists while a server does. Nothing it does waits for a client: one that says nothing, or too many strangers at one
//! server, hold no other server up. A server without room for strangers is simply not looked at until somebody leaves it;
//! connections wait in its socket's backlog.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::server::Shared;
use super::transport::Listener;

/// How long accepting rests when the system refuses it.
const PAUSE: Duration = Duration::from_millis(100);
/// Events taken at once; more come with the next call.
const EVENTS: usize = 64;
/// What the wake-up is known as to epoll; servers have smaller numbers.
const WAKE: u64 = u64::MAX;

static CURRENT: Mutex<Weak<Acceptor>> = Mutex::new(Weak::new());

/// The accepting thread, kept by the servers. The last one that lets go ends it.
pub(super) struct Acceptor {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    epoll: OwnedFd,
    wake: OwnedFd,
    servers: Mutex<Servers>,
}

#[derive(Default)]
struct Servers {
    next_id: u64,
    stopping: bool,
    open: BTreeMap<u64, Served>,
}

struct Served {
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
    /// Not looked at, because it has no room for one more stranger.
    resting: bool,
}

/// A server's place with the acceptor. Dropping it closes the socket; nothing is admitted to the server after that.
pub(super) struct Registration {
    acceptor: Arc<Acceptor>,
    id: u64,
}

/// Wakes the accepting thread, so that it looks at the servers that rest.
#[derive(Clone)]
pub(super) struct Waker(Weak<Inner>);

impl Waker {
    pub fn wake(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.wake_up();
        }
    }
}

impl Acceptor {
    /// The one of this process, started if there is none.
    pub fn current() -> io::Result<Arc<Self>> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(acceptor) = current.upgrade() {
            return Ok(acceptor);
        }
        let inner = Arc::new(Inner {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            servers: Mutex::default(),
        });
        epoll::add(
            &inner.epoll,
            &inner.wake,
            EventData::new_u64(WAKE),
            EventFlags::IN,
        )?;
        let of_thread = inner.clone();
        let thread = thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || of_thread.run())?;
        let acceptor = Arc::new(Self {
            inner,
            thread: Some(thread),
        });
        *current = Arc::downgrade(&acceptor);
        Ok(acceptor)
    }

    pub fn waker(&self) -> Waker {
        Waker(Arc::downgrade(&self.inner))
    }

    /// Accepts for a server from now on.
    pub fn register(
        self: &Arc<Self>,
        shared: Arc<Shared>,
        listener: Box<dyn Listener>,
    ) -> io::Result<Registration> {
        let mut servers = self.inner.lock();
        let id = servers.next_id;
        epoll::add(
            &self.inner.epoll,
            listener.as_fd(),
            EventData::new_u64(id),
            EventFlags::IN,
        )?;
        servers.next_id += 1;
        let served = Served {
            shared,
            listener,
            resting: false,
        };
        servers.open.insert(id, served);
        Ok(Registration {
            acceptor: self.clone(),
            id,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Closing the socket takes it out of the set.
        self.acceptor.inner.lock().open.remove(&self.id);
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.inner.lock().stopping = true;
        self.inner.wake_up();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that accepts NBD connections panicked");
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_up(&self) {
        // Fails only when the counter is full, and then it is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let ControlFlow::Continue(timeout) = self.look_around() else {
                return;
            };
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "NBD: cannot wait for connections"),
            }
            let mut refused = false;
            for event in &events {
                match event.data.u64() {
                    WAKE => self.awake(),
                    id => refused |= !self.accept(id),
                }
            }
            if refused {
                // Typically no file descriptors left: the waiting connections would make this loop spin.
                let pause = Timespec::try_from(PAUSE).ok();
                let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], pause.as_ref());
            }
        }
    }

    fn awake(&self) {
        // Fails only when there is nothing to take.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Cuts strangers whose time is over and looks at servers again that have room again. Answers how long it is until the
    /// next stranger's time is over; breaks when it is to stop.
    fn look_around(&self) -> ControlFlow<(), Option<Timespec>> {
        let mut servers = self.lock();
        if servers.stopping {
            return ControlFlow::Break(());
        }
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (id, served) in &mut servers.open {
            if let Some(at) = served.shared.cut_late(now) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            if served.resting && served.shared.has_room() {
                served.resting = false;
                self.watch(*id, served.listener.as_ref(), EventFlags::IN);
            }
        }
        // A deadline that cannot be expressed is none.
        let left = next.map(|at| at.saturating_duration_since(now));
        ControlFlow::Continue(left.and_then(|left| Timespec::try_from(left).ok()))
    }

    fn watch(&self, id: u64, listener: &dyn Listener, events: EventFlags) {
        if let Err(error) = epoll::modify(&self.epoll, listener.as_fd(), EventData::new_u64(id), events) {
            tracing::error!(%error, "NBD: cannot watch a listening socket");
        }
    }

    /// Takes a connection of a server. False: the system has none to give.
    fn accept(&self, id: u64) -> bool {
        // Held until it is admitted: a server that is gone from the list gets nobody any more.
        let mut servers = self.lock();
        let Some(served) = servers.open.get_mut(&id) else {
            return true;
        };
        if !served.shared.make_room() {
            served.resting = true;
            self.watch(id, served.listener.as_ref(), EventFlags::empty());
            return true;
        }
        match served.listener.accept() {
            Ok((socket, peer)) => served.shared.admit(Arc::from(socket), peer),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "NBD: cannot accept a connection");
                return false;
            }
        }
        true
    }
}
