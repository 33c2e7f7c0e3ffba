//! What the start (and `fsck`) finds of a volume, and what it settles: leftovers of whatever a crash interrupted.

use walb_common::daemon::chain;
use walb_common::format::wdiff::WdiffReader;
use walb_common::lineage::{DiffSet, MetaDiff};
use walb_common::state::archive::Static;
use walb_common::types::{Uuid, VolumeName};

use super::{Held, Lineage, VolumeDir};
use crate::error::FileError;
use crate::images::Images;

/// A volume as its files tell it.
pub(crate) struct Loaded {
    /// Its state at rest. A volume that failed counts as Stopped: it can be cleared or reset, nothing else.
    pub state: Static,
    /// What it holds.
    pub held: Held,
    /// Diffs that no snapshot needs; to be removed once their rows are gone.
    pub garbage: Vec<MetaDiff>,
    /// What is odd about its files without making it unusable.
    pub notes: Vec<String>,
}

/// Reads a volume. Never fails: what cannot be used is shown with the reason, and keeps no other volume down.
pub(crate) fn load(name: &VolumeName, dir: &VolumeDir, images: &Images) -> Loaded {
    let mut notes = Vec::new();
    match read(name, dir, images, &mut notes) {
        Ok((state, held, garbage)) => Loaded {
            state,
            held,
            garbage,
            notes,
        },
        Err(reason) => {
            // The diffs are shown for what they are worth to whoever repairs it.
            let diffs = dir.list_diffs().map(|(diffs, _)| diffs).unwrap_or_default();
            let size = images.base_size(name).ok().flatten();
            let held = Held {
                failed: Some(reason),
                diffs,
                size,
                ..Held::default()
            };
            Loaded {
                state: Static::Stopped,
                held,
                garbage: Vec::new(),
                notes,
            }
        }
    }
}

/// The life of the log that the last diff comes from, if it is another one than recorded. Each diff that is received or made
/// here is of the recorded one, so this was brought by somebody: the diff of a hash backup, copied from the archive that
/// has it, and what came after. Diffs follow each other, so what follows on the last one is of its log.
fn uuid_of_last(dir: &VolumeDir, diffs: &DiffSet, lineage: &Lineage) -> Option<Uuid> {
    let last = diffs.chain(lineage.base.snapshot()).pop()?;
    // A damaged one is told when it is read.
    let uuid = WdiffReader::open(dir.diff(&last)).ok()?.uuid();
    (uuid != lineage.uuid && uuid != Uuid::NIL).then_some(uuid)
}

fn read(
    name: &VolumeName,
    dir: &VolumeDir,
    images: &Images,
    notes: &mut Vec<String>,
) -> Result<(Static, Held, Vec<MetaDiff>), String> {
    let told = |e: &(dyn std::error::Error + 'static)| chain(e);
    let state = dir.files().read_state().map_err(|e| told(&e))?;
    if matches!(state, Static::Clear | Static::SyncReady) {
        // Nothing here means anything: a reset or a full backup was interrupted, or it is simply empty.
        let settle = || -> Result<(), FileError> {
            dir.remove_data()?;
            images.remove_all(name)
        };
        settle().map_err(|e| told(&e))?;
        return Ok((Static::SyncReady, Held::default(), Vec::new()));
    }
    // Before anything else is read: it may bring a diff and another uuid.
    let pending = crate::hash_backup::settle(dir)?;
    let mut lineage = dir.files().read_lineage().map_err(|e| told(&e))?;
    let size = images.base_size(name).map_err(|e| told(&e))?;
    let size = size.ok_or_else(|| format!("no base image {}", images.base(name).display()))?;
    if let Some(expected) = dir.files().read_size().map_err(|e| told(&e))?
        && expected != size
    {
        // Growing it was interrupted: behind what was stored there is nothing.
        let grown = size > expected && images.is_hole_from(name, expected).map_err(|e| told(&e))?;
        if grown {
            dir.store_size(size).map_err(|e| told(&e))?;
            return read(name, dir, images, notes);
        }
        let image = images.base(name);
        let (found, expected) = (size.bytes(), expected.bytes());
        return Err(format!(
            "base image {} has {found} bytes, expected {expected}",
            image.display()
        ));
    }
    let (mut diffs, odd) = dir.list_diffs().map_err(|e| told(&e))?;
    notes.extend(odd);
    let latest = diffs.latest(&lineage.base).map_err(|e| told(&e))?;
    if let Some(uuid) = uuid_of_last(dir, &diffs, &lineage) {
        dir.store_uuid(uuid).map_err(|e| told(&e))?;
        notes.push(format!(
            "the last diff is of log {uuid}, not of {}: what follows on it is taken",
            lineage.uuid
        ));
        lineage.uuid = uuid;
    }
    let mut garbage = Vec::new();
    if state == Static::Archived {
        // Full garbage removal, but only of what the chain covers: a diff beyond a gap may be all there is of its time.
        garbage = diffs.garbage_full(&lineage.base);
        garbage.retain(|d| d.end().begin() <= latest.snapshot().begin());
        for diff in &garbage {
            diffs.remove(diff);
        }
    }
    let beyond = diffs
        .iter()
        .filter(|d| d.begin().begin() > latest.snapshot().begin())
        .count();
    if beyond > 0 {
        notes.push(format!(
            "{beyond} diffs lie beyond a gap after {}; they are kept",
            latest.snapshot()
        ));
    }
    let held = Held {
        lineage: Some(lineage),
        diffs,
        latest: Some(latest),
        size: Some(size),
        pending,
        ..Held::default()
    };
    Ok((state, held, garbage))
}
