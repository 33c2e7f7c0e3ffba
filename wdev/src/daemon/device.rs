//! A running device: its engine and its front-ends.

use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8Path;
use walb_common::daemon::chain;

use crate::block::BlockDevice;
use crate::config::DeviceConfig;
use crate::engine::{Engine, OpenError};
use crate::fuse::{self, FuseError, FuseHandle};
use crate::nbd::{Export, Exports, NbdLimits, NbdListenError, NbdServer};

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
    nbd: Option<NbdServer>,
    fuse: Option<FuseHandle>,
}

/// Why a device does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceStartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Nbd(#[from] NbdListenError),
    #[error(transparent)]
    Fuse(#[from] FuseError),
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

    /// Unmounts the file, unless somebody uses it, or is connected over NBD.
    pub fn release(&self) -> Result<(), String> {
        let mut front_ends = self.front_ends.lock().unwrap_or_else(PoisonError::into_inner);
        let local = front_ends.nbd.as_ref();
        let local = local.map_or(0, |nbd| nbd.connections(&self.config.name));
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

    /// Front-ends first, so that what they still have in flight is answered; then the engine, cleanly.
    pub fn stop(&self) {
        // Nothing that a front-end has in flight may wait for an operator, or for log to be released.
        self.engine.release_writers();
        let front_ends = std::mem::take(&mut *self.front_ends.lock().unwrap_or_else(PoisonError::into_inner));
        drop(front_ends);
        self.remote.remove(&self.config.name);
        self.engine.stop();
    }
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
    Ok(FrontEnds { nbd, fuse })
}
