//! A running device: its engine and its front-ends.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::Utf8Path;
use walb_common::daemon::chain;
use walb_common::types::Lb;

use crate::block::BlockDevice;
use crate::client::{DeviceStatus, Refusal};
use crate::config::DeviceConfig;
use crate::engine::{Engine, OpenError};
use crate::fuse::{self, FuseError, FuseHandle};
use crate::nbd::{self, Export, Exports, NbdLimits, NbdListenError, NbdNode, NbdNodeError, NbdServer};
use crate::ublk::{self, UblkDevice, UblkError};

use super::remote::Remote;

/// A device that runs.
pub(super) struct RunningDevice {
    pub config: DeviceConfig,
    pub engine: Arc<Engine>,
    remote: Arc<Remote>,
    front_ends: Mutex<FrontEnds>,
}

#[derive(Default)]
struct FrontEnds {
    /// Before the server: it would take its end for a connection that the kernel gave up.
    nbd_node: Option<NbdNode>,
    nbd: Option<NbdServer>,
    fuse: Option<FuseHandle>,
    ublk: Option<UblkDevice>,
}

/// Why a device does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceStartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Nbd(#[from] NbdListenError),
    #[error(transparent)]
    NbdNode(#[from] NbdNodeError),
    #[error("/dev/nbd{index} needs the device's NBD socket, and not ublk beside it")]
    NodeWithout { index: u32 },
    #[error(transparent)]
    Fuse(#[from] FuseError),
    #[error(transparent)]
    Ublk(#[from] UblkError),
}

impl RunningDevice {
    /// Opens the device, then its front-ends: nobody can write before redo is done.
    pub fn start(
        config: &DeviceConfig,
        state_file: &Utf8Path,
        remote: &Arc<Remote>,
    ) -> Result<Self, DeviceStartError> {
        let engine = Engine::open(config, state_file)?;
        match front_ends(config, &engine, remote) {
            Ok(front_ends) => Ok(Self {
                config: config.clone(),
                engine,
                remote: Arc::clone(remote),
                front_ends: Mutex::new(front_ends),
            }),
            Err(error) => {
                engine.stop();
                Err(error)
            }
        }
    }

    /// What its engine says, and where it is shown.
    pub fn status(&self) -> DeviceStatus {
        DeviceStatus {
            node: self.node(),
            ..self.engine.status()
        }
    }

    /// The block device that shows it.
    fn node(&self) -> Option<String> {
        let ublk = self.config.ublk.map(|number| format!("/dev/ublkb{number}"));
        ublk.or_else(|| self.config.nbd_node.map(|index| format!("/dev/nbd{index}")))
    }

    /// Grows the device, then what shows it.
    pub fn resize(&self, size: Option<Lb>) -> Result<(), Refusal> {
        self.engine.resize(size)?;
        let not_told = |e: &(dyn std::error::Error + 'static)| Refusal::Io {
            reason: format!("the device has grown, but not its node: {}", chain(e)),
        };
        let front_ends = self.front_ends();
        if let Some(node) = &front_ends.nbd_node {
            node.grow(self.engine.size()).map_err(|e| not_told(&e))?;
        }
        if let Some(ublk) = &front_ends.ublk {
            let told = ublk.grow(self.engine.size()).map_err(|e| not_told(&e))?;
            if !told {
                tracing::warn!(
                    device = self.config.name,
                    "this kernel cannot grow a ublk device: it keeps its size until delete-wdev and create-wdev"
                );
            }
        }
        Ok(())
    }

    /// Unmounts the file, unless somebody uses it, has mounted the block device, or is connected over NBD.
    pub fn release(&self) -> Result<(), String> {
        let mut front_ends = self.front_ends();
        if let Some(node) = self.node()
            && is_claimed(&node)
        {
            return Err(format!("{node} is mounted or claimed otherwise"));
        }
        let local = front_ends.nbd.as_ref();
        let local = local.map_or(0, |nbd| nbd.connections(&self.config.name));
        // The kernel's client is ours.
        let local = local.saturating_sub(front_ends.nbd_node.iter().count());
        match local + self.remote.clients(&self.config.name) {
            0 => {}
            clients => return Err(format!("{clients} NBD clients are connected")),
        }
        if let Some(fuse) = &mut front_ends.fuse {
            fuse.unmount().map_err(|e| chain(&e))?;
            front_ends.fuse = None;
        }
        Ok(())
    }

    /// [`RunningDevice::stop`], and no later start: what would outlive us is taken away.
    pub fn remove(&self) {
        self.engine.release_writers();
        let failed = |error: &(dyn std::error::Error + 'static)| {
            tracing::error!(device = self.config.name, "not removed: {}", chain(error));
        };
        let (ublk, node) = {
            let mut front_ends = self.front_ends();
            (front_ends.ublk.take(), front_ends.nbd_node.take())
        };
        if let Some(Err(error)) = ublk.map(|ublk| ublk.remove()) {
            failed(&error);
        }
        if let Some(Err(error)) = node.map(NbdNode::remove) {
            failed(&error);
        }
        self.stop();
    }

    /// Front-ends first, so that what they still have in flight is answered; then the engine, cleanly. A block device stays,
    /// and holds its requests back until the next start.
    pub fn stop(&self) {
        // Nothing that a front-end has in flight may wait for an operator, or for log to be released.
        self.engine.release_writers();
        let front_ends = std::mem::take(&mut *self.front_ends());
        drop(front_ends);
        self.remote.remove(&self.config.name);
        self.engine.stop();
    }

    fn front_ends(&self) -> MutexGuard<'_, FrontEnds> {
        self.front_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes away what a device that does not run may have left behind.
pub(super) fn remove_left(config: &DeviceConfig) -> Result<(), DeviceStartError> {
    if let Some(number) = config.ublk {
        ublk::remove_left(number, mark(config))?;
    }
    if let Some(index) = config.nbd_node {
        nbd::remove_left(index, &identifier(config))?;
    }
    Ok(())
}

/// By which a block device is recognised as this device's: the same name on the same data.
fn identifier(config: &DeviceConfig) -> String {
    format!("walb-wdev {} {}", config.name, config.ddev)
}

/// The same as a number.
fn mark(config: &DeviceConfig) -> u64 {
    xxhash_rust::xxh3::xxh3_64(identifier(config).as_bytes())
}

/// Whether somebody has mounted a block device or claimed it otherwise.
fn is_claimed(node: &str) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_EXCL);
    let opened = options.open(node);
    opened.is_err_and(|e| e.kind() == ErrorKind::ResourceBusy)
}

fn front_ends(
    config: &DeviceConfig,
    engine: &Arc<Engine>,
    remote: &Remote,
) -> Result<FrontEnds, DeviceStartError> {
    let device: Arc<dyn BlockDevice> = Arc::clone(engine) as _;
    let clients = usize::try_from(config.limits.nbd_clients).unwrap_or(usize::MAX);
    let export = || Export::new(&config.name, Arc::clone(&device)).clients_max(clients);
    let nbd = match &config.nbd {
        Some(socket) => {
            let exports = Exports::new();
            exports.add(export());
            Some(NbdServer::listen_unix(
                socket.as_std_path(),
                exports,
                remote.tls.clone(),
                NbdLimits::default(),
            )?)
        }
        None => None,
    };
    let fuse = match &config.fuse {
        Some(mountpoint) => Some(fuse::mount(
            Arc::clone(&device),
            &config.name,
            mountpoint.as_std_path(),
        )?),
        None => None,
    };
    if !config.nbd_guests.is_empty() {
        remote.add(export().only_for(&config.nbd_guests));
    }
    let nbd_node = match (config.nbd_node, &config.nbd, config.ublk) {
        (None, ..) => None,
        (Some(index), Some(socket), None) => Some(NbdNode::attach(
            socket.as_std_path(),
            &config.name,
            index,
            &identifier(config),
        )?),
        (Some(index), ..) => return Err(DeviceStartError::NodeWithout { index }),
    };
    // Last, as the one above where there is one: nothing fails after it, so a device that does not start leaves no node behind.
    let ublk = match config.ublk {
        Some(number) => Some(UblkDevice::serve(device, &config.name, number, mark(config))?),
        None => None,
    };
    Ok(FrontEnds {
        nbd_node,
        nbd,
        fuse,
        ublk,
    })
}
