//! A protected volume with a guest that writes to it: what most scenarios begin with, and how they judge.

use anyhow::{Context, ensure};

use crate::cluster::{Cluster, Role, VolumeSpec};
use crate::guest::{Guest, Load};
use crate::image::Captured;
use crate::wait::{PATIENCE, until};

/// A snapshot, and what the device held when it was taken.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The snapshot.
    pub gid: u64,
    /// What a restore of it must give.
    pub captured: Captured,
}

impl Cluster {
    /// Starts a guest on a device that is there.
    pub fn start_guest(&self, volume: &str, seed: u64, load: Load) -> anyhow::Result<Guest> {
        Guest::start(&self.nbd_socket(volume), volume, seed, load)
    }

    /// A protected volume, and a guest that writes to it.
    pub fn protect_and_write(&self, spec: &VolumeSpec<'_>, seed: u64, load: Load) -> anyhow::Result<Guest> {
        self.protect(spec)?;
        self.start_guest(spec.name, seed, load)
    }

    /// Takes a snapshot while the guest pauses. A server that is still starting is asked again.
    pub fn record(&self, volume: &str, guest: &Guest) -> anyhow::Result<Recorded> {
        let captured = guest.capture(None)?;
        let gid = until("a snapshot", PATIENCE, || self.snapshot(volume).map(Some))?;
        guest.resume()?;
        Ok(Recorded { gid, captured })
    }

    /// Fails unless the snapshot becomes restorable and is what the device held.
    pub fn check(&self, volume: &str, recorded: &Recorded) -> anyhow::Result<()> {
        let Recorded { gid, captured } = recorded;
        self.until_restorable(volume, *gid, PATIENCE)?;
        let restored = self.restored_digest(volume, *gid)?;
        ensure!(
            restored == *captured,
            "snapshot {gid} of {volume}: recorded {captured:?}, restored {restored:?}"
        );
        Ok(())
    }

    /// A snapshot of what is there now, recorded and checked.
    pub fn check_new(&self, volume: &str, guest: &Guest) -> anyhow::Result<Recorded> {
        let recorded = self.record(volume, guest)?;
        self.check(volume, &recorded)?;
        Ok(recorded)
    }

    /// Kills a daemon and starts it again, to die at a fault point if one is given.
    pub fn restart(&mut self, role: Role, fault: Option<&str>) -> anyhow::Result<()> {
        let value = fault.map(|point| format!("{point}=crash"));
        let environment: Vec<_> = value.iter().map(|v| ("WALB_FAULT", v.as_str())).collect();
        let daemon = self.daemon(role);
        daemon.kill9();
        daemon.set_environment(&environment);
        daemon
            .start()
            .with_context(|| format!("start {} with {fault:?}", role.binary()))
    }
}
