//! `walb-wdev`: a table of devices, their front-ends, and the control socket.
//!
//! ```text
//!  DIR/lock                 held while a daemon runs on DIR
//!  DIR/devices/NAME.toml    one device; written by create, removed by delete
//!  DIR/devices/NAME.state   its overflow mark, if any
//!  DIR/devices/NAME.changed which chunks have changed since log was last released
//! ```
//! Every device is opened alone: one that fails is listed with the reason, and the others run.

mod device;
mod dispatch;
mod listen;
mod memory;
mod remote;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;
use walb_common::daemon::chain;
use walb_common::disk::{remove_durable, replace_durable};
use walb_common::types::VolumeName;
use walb_common::wire::identity::{Identity, Role};

use crate::client::Refusal;
use crate::config::{DeviceConfig, OnRingFull};
use crate::control::message::ListEntry;
use crate::engine::changed_path;
use device::RunningDevice;
use remote::Remote;

pub use listen::{ListenError, bind_control_socket};
pub use memory::{LockMemory, give_memory_back};
pub use remote::Network;

/// Longest device file believed.
const FILE_MAX: u64 = 64 << 10;

/// A running daemon's devices.
pub struct Daemon {
    dir: Utf8PathBuf,
    slots: Mutex<BTreeMap<String, Slot>>,
    remote: Arc<Remote>,
    /// Held until the end.
    _lock: File,
}

#[derive(Clone)]
enum Slot {
    Running(Arc<RunningDevice>),
    Failed {
        reason: String,
    },
    /// Being opened or stopped.
    Busy,
}

/// Why the daemon could not start. A single bad device is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error("{act} {path}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// With which path.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("{dir} is in use by another walb-wdev")]
    InUse {
        /// The directory.
        dir: Utf8PathBuf,
    },
    /// No devices over TCP.
    #[error("serve NBD over TCP")]
    Nbd(#[source] io::Error),
    /// The control socket cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Daemon {
    /// Locks the directory (made if missing), opens every device in it, then lets guests in.
    pub fn open(dir: &Utf8Path, network: Network) -> Result<Arc<Self>, StartError> {
        let failed = |act, path: &Utf8Path| {
            let path = path.to_owned();
            move |source| StartError::Io { act, path, source }
        };
        let devices = dir.join("devices");
        fs::create_dir_all(&devices).map_err(failed("make directory", &devices))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(failed("open", &lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StartError::InUse { dir: dir.to_owned() });
        }
        let daemon = Arc::new(Self {
            dir: dir.to_owned(),
            slots: Mutex::default(),
            remote: Arc::new(Remote::new(network.tls)),
            _lock: lock,
        });
        let mut openers = Vec::new();
        for entry in devices.read_dir_utf8().map_err(failed("list", &devices))? {
            let path = entry.map_err(failed("list", &devices))?.into_path();
            let Some(name) = path
                .file_name()
                .and_then(|n| n.strip_suffix(".toml"))
                .map(str::to_owned)
            else {
                continue;
            };
            daemon.slots().insert(name.clone(), Slot::Busy);
            let daemon = Arc::clone(&daemon);
            // Redo of one device must not keep another waiting.
            openers.push(thread::spawn(move || {
                let slot = match read_config(&path, &name).and_then(|c| daemon.start(&c)) {
                    Ok(device) => Slot::Running(Arc::new(device)),
                    Err(reason) => {
                        tracing::error!(device = name, "not started: {reason}");
                        Slot::Failed { reason }
                    }
                };
                daemon.slots().insert(name, slot);
            }));
        }
        for opener in openers {
            if opener.join().is_err() {
                tracing::error!("opening a device panicked");
            }
        }
        if let Some(listener) = network.listener {
            daemon.remote.serve(listener).map_err(StartError::Nbd)?;
        }
        Ok(daemon)
    }

    /// Serves the control socket until told to stop.
    pub async fn serve(self: Arc<Self>, listener: tokio::net::UnixListener, stop: CancellationToken) {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let (daemon, stop) = (Arc::clone(&self), stop.clone());
                    tokio::spawn(async move {
                        stop.run_until_cancelled(dispatch::converse(&daemon, stream))
                            .await
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the next one may go better.
                    tracing::warn!("accept on the control socket: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Stops every device cleanly, all at once.
    pub fn stop(&self) {
        self.remote.stop();
        let slots = std::mem::take(&mut *self.slots());
        let stoppers: Vec<_> = slots
            .into_values()
            .filter_map(|slot| match slot {
                Slot::Running(device) => Some(thread::spawn(move || device.stop())),
                Slot::Failed { .. } | Slot::Busy => None,
            })
            .collect();
        for stopper in stoppers {
            if stopper.join().is_err() {
                tracing::error!("stopping a device panicked");
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config_path(&self, name: &str) -> Utf8PathBuf {
        self.dir.join("devices").join(format!("{name}.toml"))
    }

    fn state_path(&self, name: &str) -> Utf8PathBuf {
        self.dir.join("devices").join(format!("{name}.state"))
    }

    fn start(&self, config: &DeviceConfig) -> Result<RunningDevice, String> {
        RunningDevice::start(config, &self.state_path(&config.name), &self.remote).map_err(|e| chain(&e))
    }

    fn list(&self) -> Vec<ListEntry> {
        let entry = |(name, slot): (&String, &Slot)| {
            let failed = match slot {
                Slot::Running(_) => None,
                Slot::Failed { reason } => Some(reason.clone()),
                Slot::Busy => Some("starting or stopping".to_owned()),
            };
            ListEntry {
                name: name.clone(),
                failed,
            }
        };
        self.slots().iter().map(entry).collect()
    }

    fn find(&self, name: &str) -> Result<Arc<RunningDevice>, Refusal> {
        let slots = self.slots();
        match slots.get(name) {
            Some(Slot::Running(device)) => Ok(Arc::clone(device)),
            Some(Slot::Failed { reason }) => Err(Refusal::Failed {
                reason: reason.clone(),
            }),
            Some(Slot::Busy) => Err(Refusal::Stopping),
            None => {
                let known: Vec<_> = slots.keys().map(String::as_str).take(20).collect();
                let known = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(" ")
                };
                Err(Refusal::NoSuchDevice { known })
            }
        }
    }

    fn who_uses(&self, path: &str) -> Option<String> {
        let wanted = fs::canonicalize(path).ok()?;
        let same = |p: &Utf8Path| fs::canonicalize(p).is_ok_and(|p| p == wanted);
        let slots = self.slots();
        slots.iter().find_map(|(name, slot)| match slot {
            Slot::Running(d) if same(&d.config.ldev) || same(&d.config.ddev) => Some(name.clone()),
            _ => None,
        })
    }

    /// Adds a device: it runs first, then it is remembered, durably, then the caller hears of it.
    fn create(&self, config: &DeviceConfig) -> Result<(), Refusal> {
        let bad = |reason| Refusal::Bad { reason };
        VolumeName::new(&config.name).map_err(|e| bad(e.to_string()))?;
        if !config.nbd_guests.is_empty() && !self.remote.is_served() {
            return Err(bad(
                "guests of other machines are named, but walb-wdev does not listen for them: start it with --nbd-listen".to_owned(),
            ));
        }
        for guest in &config.nbd_guests {
            Identity::new(Role::Guest, guest).map_err(|e| bad(e.to_string()))?;
        }
        let name = config.name.clone();
        {
            let mut slots = self.slots();
            // A failed device may be created anew, with what repairs it.
            if matches!(slots.get(&name), Some(Slot::Running(_) | Slot::Busy)) {
                return Err(bad(format!("a device {name} exists already")));
            }
            slots.insert(name.clone(), Slot::Busy);
        }
        let result = self.start(config).and_then(|device| {
            let stored = toml::to_string(config).map_err(|e| e.to_string());
            let path = self.config_path(&name);
            match stored.and_then(|text| {
                replace_durable(path.as_std_path(), text.as_bytes()).map_err(|e| format!("write {path}: {e}"))
            }) {
                Ok(()) => Ok(device),
                Err(reason) => {
                    device.remove();
                    Err(reason)
                }
            }
        });
        let mut slots = self.slots();
        match result {
            Ok(device) => {
                slots.insert(name, Slot::Running(Arc::new(device)));
                Ok(())
            }
            Err(reason) => {
                if self.config_path(&name).exists() {
                    slots.insert(
                        name,
                        Slot::Failed {
                            reason: reason.clone(),
                        },
                    );
                } else {
                    slots.remove(&name);
                }
                Err(bad(reason))
            }
        }
    }

    /// Sets what happens when the ring is full: remembered first, so that what the caller is told holds after a restart too.
    fn set_on_ring_full(&self, device: &RunningDevice, policy: OnRingFull) -> Result<(), Refusal> {
        let failed = |reason| Refusal::Io { reason };
        let (name, path) = (&device.config.name, self.config_path(&device.config.name));
        let mut config = read_config(&path, name).map_err(failed)?;
        config.limits.on_ring_full = policy;
        let text = toml::to_string(&config).map_err(|e| failed(e.to_string()))?;
        replace_durable(path.as_std_path(), text.as_bytes())
            .map_err(|e| failed(format!("write {path}: {e}")))?;
        device.engine.set_on_ring_full(policy);
        Ok(())
    }

    /// Stops a device, then forgets it; its log and data stay. A crash in between leaves it as it was.
    fn delete(&self, name: &str, force: bool) -> Result<(), Refusal> {
        match self.find(name) {
            Ok(device) => {
                if !force && let Err(user) = device.release() {
                    return Err(Refusal::Bad {
                        reason: format!("the device is in use ({user}); -f deletes it nevertheless"),
                    });
                }
                self.slots().insert(name.to_owned(), Slot::Busy);
                device.remove();
            }
            Err(Refusal::Failed { .. }) => {
                if let Ok(config) = read_config(&self.config_path(name), name)
                    && let Err(error) = device::remove_left(&config)
                {
                    tracing::warn!(device = name, "its block device stays: {}", chain(&error));
                }
            }
            Err(refusal) => return Err(refusal),
        }
        let removed = remove_durable(self.config_path(name).as_std_path())
            .and_then(|()| remove_durable(self.state_path(name).as_std_path()))
            .and_then(|()| remove_durable(changed_path(&self.state_path(name)).as_std_path()));
        let mut slots = self.slots();
        match removed {
            Ok(()) => {
                slots.remove(name);
                Ok(())
            }
            Err(error) => {
                let reason = format!("stopped, but its file was not removed: {error}");
                slots.insert(
                    name.to_owned(),
                    Slot::Failed {
                        reason: reason.clone(),
                    },
                );
                Err(Refusal::Io { reason })
            }
        }
    }
}

fn read_config(path: &Utf8Path, name: &str) -> Result<DeviceConfig, String> {
    let length = fs::metadata(path).map_err(|e| format!("{path}: {e}"))?.len();
    if length > FILE_MAX {
        return Err(format!("{path}: {length} bytes, expected at most {FILE_MAX}"));
    }
    let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let config: DeviceConfig =
        toml::from_str(&text).map_err(|e| format!("{path}: {e}").replace('\n', " "))?;
    if config.name != name {
        return Err(format!(
            "{path}: is for a device {:?}, expected {name:?} as the file's name says",
            config.name
        ));
    }
    Ok(config)
}
