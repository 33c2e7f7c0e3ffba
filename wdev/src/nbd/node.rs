//! `/dev/nbdN`: the kernel's NBD client, connected to a device's own socket by walb-wdev itself.
//!
//! The node outlives the process. When walb-wdev ends, the kernel notices that the connection is dead and holds requests
//! back; the next walb-wdev hands it a new one, and what had no answer is sent again. Until then nothing fails, for a day.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, socket_timeout};
use walb_common::daemon::chain;

use super::client::{NbdClient, NbdClientError};
use super::netlink::{Netlink, Node};

/// What had been sent on a connection that died is sent again after so long. A device that is slower loses its connection and
/// gets a new one, so this is above what disks take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests wait so long for the next walb-wdev.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(86_400);
/// The kernel is given so long to notice that a connection is dead.
const NOTICES_WITHIN: Duration = Duration::from_secs(30);

/// Between two attempts to connect again.
const RETRY_AFTER: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub enum NbdNodeError {
    /// The kernel has no NBD client.
    #[error("this kernel has no NBD client (`modprobe nbd` where it is a module)")]
    NoNbd,
    /// The kernel refuses.
    #[error("/dev/nbd{index}: {act}")]
    Kernel {
        /// Which node.
        index: u32,
        /// What was tried.
        act: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("/dev/nbd{index} is connected to something else ({found}): choose another number")]
    InUse {
        /// Which node.
        index: u32,
        /// What it is connected to, as far as it says.
        found: String,
    },
    /// The kernel takes no new connection.
    #[error("/dev/nbd{index} has not let go of its last connection")]
    Stuck {
        /// Which node.
        index: u32,
    },
    /// Our own socket.
    #[error(transparent)]
    Client(#[from] NbdClientError),
}

/// A node that is connected, and is connected again when the kernel has given a connection up.
pub struct NbdNode {
    index: u32,
    identifier: String,
    netlink: Netlink,
    /// Closed, it ends the watcher.
    stop: Option<UnixStream>,
    watcher: Option<JoinHandle<()>>,
}

impl NbdNode {
    /// Connects `/dev/nbd{index}` to the export on `socket`: anew, or again if an earlier process left it. `identifier` tells
    /// our nodes from those of others, and must stay the same.
    pub fn attach(socket: &Path, export: &str, index: u32, identifier: &str) -> Result<Self, NbdNodeError> {
        let failed = |act| move |source| NbdNodeError::Kernel { index, act, source };
        let netlink = Netlink::open().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => NbdNodeError::NoNbd,
            _ => failed("reach the kernel's NBD client")(e),
        })?;
        let link = Link {
            socket: socket.to_owned(),
            export: export.to_owned(),
            index,
            identifier: identifier.to_owned(),
        };
        let connection = if is_left(index, identifier)? {
            link.connect_again(&netlink)?
        } else {
            link.hand_over(|node| netlink.connect(node))?
        };
        let (stop, stopped) = UnixStream::pair().map_err(failed("watch the connection"))?;
        let watcher = thread::Builder::new()
            .name(format!("nbd{index}"))
            .spawn(move || link.watch(connection, &stopped))
            .map_err(failed("watch the connection"))?;
        Ok(Self {
            index,
            identifier: identifier.to_owned(),
            netlink,
            stop: Some(stop),
            watcher: Some(watcher),
        })
    }

    /// Tells the kernel that the device has grown.
    pub fn grow(&self, size: u64) -> Result<(), NbdNodeError> {
        let index = self.index;
        self.netlink
            .resize(index, size, &self.identifier)
            .map_err(|source| NbdNodeError::Kernel {
                index,
                act: "grow",
                source,
            })
    }

    /// Takes the node away: whoever still uses it gets errors.
    pub fn remove(mut self) -> Result<(), NbdNodeError> {
        self.end_watching();
        disconnect(&self.netlink, self.index)
    }

    fn end_watching(&mut self) {
        self.stop = None;
        if let Some(watcher) = self.watcher.take() {
            // It panics only where the process ends anyway.
            let _ = watcher.join();
        }
    }
}

impl Drop for NbdNode {
    /// The node stays, for the next process.
    fn drop(&mut self) {
        self.end_watching();
    }
}

/// What a node is connected to.
struct Link {
    socket: PathBuf,
    export: String,
    index: u32,
    identifier: String,
}

impl Link {
    fn failed(&self, act: &'static str) -> impl FnOnce(io::Error) -> NbdNodeError + use<> {
        let index = self.index;
        move |source| NbdNodeError::Kernel { index, act, source }
    }

    /// Makes a connection and has the kernel use it; our copy of it.
    fn hand_over(&self, ask: impl FnOnce(&Node<'_>) -> io::Result<()>) -> Result<UnixStream, NbdNodeError> {
        let client = NbdClient::connect(&self.socket, &self.export)?;
        let (size, flags) = (client.size(), client.flags());
        let stream = client.into_stream().map_err(self.failed("make a connection"))?;
        let node = Node {
            index: self.index,
            size,
            flags,
            socket: stream.as_fd(),
            identifier: &self.identifier,
            request_timeout: REQUEST_TIMEOUT,
            reconnect_timeout: RECONNECT_TIMEOUT,
        };
        ask(&node).map_err(self.failed("connect"))?;
        Ok(stream)
    }

    /// Until the kernel has noticed that the last connection is dead, and takes a new one.
    fn connect_again(&self, netlink: &Netlink) -> Result<UnixStream, NbdNodeError> {
        let deadline = Instant::now() + NOTICES_WITHIN;
        loop {
            let stream = self.hand_over(|node| netlink.reconnect(node))?;
            // The kernel gives a connection that it keeps the timeout of the node, and does not say so otherwise.
            let kept = socket_timeout(&stream, Timeout::Send);
            let kept = kept.map_err(|e| self.failed("look at the connection")(e.into()))?;
            if kept.is_some() {
                return Ok(stream);
            }
            if Instant::now() > deadline {
                return Err(NbdNodeError::Stuck { index: self.index });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes a new connection when the kernel has shut one down, until `stopped` is closed at its other end.
    fn watch(&self, mut connection: UnixStream, stopped: &UnixStream) {
        let mut pause = None;
        loop {
            // Only a hang-up ends the wait for the connection: what it carries is the kernel's.
            let mut events = [
                PollFd::new(stopped, PollFlags::IN),
                PollFd::new(&connection, PollFlags::empty()),
            ];
            let watched = if pause.is_some() { 1 } else { 2 };
            match poll(&mut events[..watched], pause.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::error!("/dev/nbd{}: not watched: {error}", self.index),
            }
            if !events[0].revents().is_empty() {
                return;
            }
            if pause.is_none() && !events[1].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                continue;
            }
            tracing::warn!("/dev/nbd{}: the kernel has given its connection up", self.index);
            let netlink = Netlink::open().map_err(self.failed("reach the kernel's NBD client"));
            pause = match netlink.and_then(|netlink| self.connect_again(&netlink)) {
                Ok(stream) => {
                    connection = stream;
                    None
                }
                Err(error) => {
                    tracing::error!("{}", chain(&error));
                    Some(RETRY_AFTER)
                }
            };
        }
    }
}

/// Takes a node away that an earlier process left, if it is ours.
pub fn remove_left(index: u32, identifier: &str) -> Result<(), NbdNodeError> {
    let Ok(netlink) = Netlink::open() else {
        return Ok(());
    };
    match is_left(index, identifier) {
        Ok(true) => disconnect(&netlink, index),
        Ok(false) | Err(NbdNodeError::InUse { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn disconnect(netlink: &Netlink, index: u32) -> Result<(), NbdNodeError> {
    netlink.disconnect(index).map_err(|source| NbdNodeError::Kernel {
        index,
        act: "disconnect",
        source,
    })
}

/// Whether the node is connected, by an earlier process of ours. `pid` and `backend` are there while it is connected.
fn is_left(index: u32, identifier: &str) -> Result<bool, NbdNodeError> {
    let dir = format!("/sys/block/nbd{index}");
    let read = |file: &str| fs::read_to_string(format!("{dir}/{file}"));
    let found = match read("backend") {
        Ok(found) => found.trim().to_owned(),
        Err(_) => match read("pid") {
            Ok(pid) => format!("by process {}", pid.trim()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                let act = "look at its process";
                return Err(NbdNodeError::Kernel { index, act, source });
            }
        },
    };
    if found == identifier {
        return Ok(true);
    }
    Err(NbdNodeError::InUse { index, found })
}
