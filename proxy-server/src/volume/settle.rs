//! Bringing files and lists together: what a start does with what it finds, and what follows every receive.
//!
//! ```text
//! received/NAME  --link-->  sendto/A/NAME, sendto/B/NAME   (durable)   --remove-->  received/   (durable)   --register
//! ```
//! A crash anywhere leaves the diff in `received/` or already with every archive; doing it again is harmless.

use std::fs;
use std::sync::Arc;

use walb_common::disk::{fault, remove_durable, sync_dir};
use walb_common::lineage::MetaDiff;

use super::Volume;
use super::destination::Destination;
use super::directory::{ASIDE, FileError, StoredDiff, at, link, settle};
use super::waiting::Waiting;

/// A volume's files cannot be brought in order.
pub type SettleError = FileError;

impl Volume {
    /// Reads what waits for one archive; makes its directory if needed. Blocks.
    pub fn load_waiting(&self, archive: &str) -> Result<(Waiting, Vec<String>), SettleError> {
        let dir = self.directory.send_to(archive);
        if !dir.is_dir() {
            self.directory.create(archive)?;
        }
        let listing = settle(&dir)?;
        let mut waiting = Waiting::default();
        for stored in &listing.diffs {
            // Two files of one range: the earlier was about to be replaced by the later.
            if let Some(replaced) = waiting.add(stored) {
                remove_durable(&dir.join(replaced.file_name())).map_err(at("remove", &dir))?;
            }
        }
        Ok((waiting, listing.bad))
    }

    /// Brings all files in order and rebuilds the lists from them. Blocks; the volume lock is held by the caller, and
    /// nothing is being sent.
    pub fn settle(self: &Arc<Self>) -> Result<(), SettleError> {
        let archives = self.archives();
        for name in self.directory.archives()? {
            let known = |name: &str| archives.iter().any(|a| a.name == name);
            match name.strip_prefix(ASIDE) {
                // Its deletion was cut before its row went: it did not happen.
                Some(name) if known(name) => self.directory.take_archive_back(name)?,
                Some(name) => {
                    tracing::info!(volume = %self.name, archive = name, "files of an archive that was deleted are removed");
                    self.directory.remove_archive(name)?;
                }
                None if known(&name) => {}
                None => {
                    tracing::warn!(volume = %self.name, archive = name, "files wait for an archive that is not registered: add it, or remove them");
                }
            }
        }
        for archive in &archives {
            let (waiting, bad) = self.load_waiting(&archive.name)?;
            archive.reload(waiting, bad);
        }
        if archives.is_empty() {
            return Ok(());
        }
        let left = settle(&self.directory.received())?.diffs;
        if !left.is_empty() {
            tracing::info!(volume = %self.name, diffs = left.len(), "distributing what was received before the restart");
        }
        distribute(self, &archives, &left)
    }
}

/// Links diffs of `received/` for every archive, removes them from there and registers them. Blocks; the volume lock is
/// held by the caller.
pub fn distribute(
    volume: &Volume,
    archives: &[Arc<Destination>],
    diffs: &[StoredDiff],
) -> Result<(), SettleError> {
    if diffs.is_empty() {
        return Ok(());
    }
    let received = volume.directory.received();
    volume.set_undistributed(diffs.iter().map(|d| d.diff).collect());
    for archive in archives {
        for stored in diffs {
            link(&received, &archive.dir, &stored.diff.file_name())?;
        }
        // Durable: this archive's links. Only when that holds for all of them may the original go.
        fault::point("proxy.distribute.sync").map_err(at("sync", &archive.dir))?;
        sync_dir(&archive.dir).map_err(at("sync", &archive.dir))?;
    }
    for stored in diffs {
        let path = received.join(stored.diff.file_name());
        fault::point("proxy.distribute.remove").map_err(at("remove", &path))?;
        fs::remove_file(&path).map_err(at("remove", &path))?;
    }
    fault::point("proxy.distribute.removed").map_err(at("sync", &received))?;
    sync_dir(&received).map_err(at("sync", &received))?;
    for archive in archives {
        register(archive, diffs)?;
    }
    volume.set_undistributed(Vec::new());
    Ok(())
}

fn register(archive: &Destination, diffs: &[StoredDiff]) -> Result<(), SettleError> {
    for stored in diffs {
        let replaced: Option<MetaDiff> = archive.with_waiting(|waiting| waiting.add(stored));
        if let Some(replaced) = replaced {
            // An earlier try of the same range under another name. If it stays now, the next start removes it.
            let path = archive.dir.join(replaced.file_name());
            remove_durable(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
}
