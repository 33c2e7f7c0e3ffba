//! `walbc offline verify`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde_json::{Value, json};
use walb_common::archive_files::check::{self, WdiffFinding};
use walb_common::archive_files::{Choice, Listing};
use walb_common::daemon::chain;
use walb_common::format::wdiff::WdiffReader;
use walb_common::lineage::{BaseState, MetaDiff};
use walb_common::state::archive::Static;
use walb_common::types::{Lb, Uuid, VolumeName};

use super::place::{Archive, Base, Place};
use crate::output::{Usage, mebibytes};
use crate::progress::Progress;
use crate::{Outcome, Output};

/// A daemon that runs may add and remove diffs meanwhile; what it adds is looked at too, this often.
const ROUNDS: usize = 10;

/// Reads everything there is a checksum for. A base image has none: of it the size is checked.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline verify --archive /var/lib/walb-archive\n\nA line for each volume, and one for \
everything that is wrong; exit status 1 if anything is."
)]
pub struct Verify {
    #[command(flatten)]
    archive: Archive,
    /// Only this volume
    #[arg(long, value_name = "VOL")]
    volume: Option<VolumeName>,
    #[command(flatten)]
    base: Base,
}

/// What was found of a volume.
#[derive(Debug, Default)]
struct Findings {
    wrong: Vec<String>,
    notes: Vec<String>,
    diffs: usize,
    bytes: u64,
    snapshots: usize,
}

impl Verify {
    /// Runs it.
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let places = match (&self.volume, &self.base.base) {
            (Some(name), _) => vec![self.archive.place(name, &self.base)?],
            (None, None) => self.archive.places(None)?,
            (None, Some(_)) => {
                return Err(Usage("--base is one volume's: --volume says which".to_owned()).into());
            }
        };
        let mut listing = output.listing()?;
        listing.fact("kind", "archive", String::new)?;
        listing.list("volumes", String::new)?;
        let mut sound = true;
        for place in places {
            let found = volume(&place);
            sound &= found.wrong.is_empty();
            listing.item(found.as_json(&place), || found.as_text(&place))?;
        }
        listing.fact("ok", sound, String::new)?;
        listing.finish(Ok(()))?;
        Ok(if sound {
            Outcome::Positive
        } else {
            Outcome::Negative
        })
    }
}

impl Findings {
    fn as_json(&self, place: &Place) -> Value {
        json!({
            "volume": place.name, "ok": self.wrong.is_empty(), "wrong": self.wrong, "notes": self.notes,
            "diffs": self.diffs, "diff_bytes": self.bytes, "snapshots": self.snapshots,
        })
    }

    fn as_text(&self, place: &Place) -> String {
        let verdict = if self.wrong.is_empty() { "ok" } else { "WRONG" };
        let mut lines = format!(
            "{}: {verdict}: {} diffs, {}, {} snapshots\n",
            place.name,
            self.diffs,
            mebibytes(self.bytes),
            self.snapshots
        );
        for (kind, told) in [("wrong", &self.wrong), ("note", &self.notes)] {
            for line in told {
                let _ = writeln!(lines, "{}: {kind}: {line}", place.name);
            }
        }
        lines
    }

    /// The value, or what is wrong with it.
    fn take<T, E: Into<anyhow::Error>>(&mut self, value: Result<T, E>) -> Option<T> {
        value
            .map_err(|error| self.wrong.push(chain(error.into().as_ref())))
            .ok()
    }
}

fn volume(place: &Place) -> Findings {
    let mut found = Findings::default();
    let Some(state) = found.take(place.files.read_state()) else {
        return found;
    };
    if !matches!(state, Static::Archived | Static::Stopped) {
        found
            .notes
            .push(format!("state {state}: there is nothing to verify"));
        return found;
    }
    let uuid = found.take(place.files.read_uuid());
    found.take(place.files.read_archive_uuid());
    let size = found.take(place.open_image()).map(|(_, size)| size);
    let Some(listing) = diffs(place, size, &mut found) else {
        return found;
    };
    found.wrong.extend(listing.odd.iter().cloned());
    if !listing.temporary.is_empty() {
        let count = listing.temporary.len();
        found.notes.push(format!(
            "{count} half-written files: a daemon is at work, or its next start removes them"
        ));
    }
    if let Some(base) = found.take(place.base()) {
        chain_of(place, &base, &listing, uuid, &mut found);
    }
    found
}

/// Reads every diff through; tells the last look at the directory.
fn diffs(place: &Place, size: Option<Lb>, found: &mut Findings) -> Option<Listing> {
    let mut known = BTreeSet::new();
    let mut listing = found.take(place.files.list())?;
    for _ in 0..ROUNDS {
        let new: Vec<MetaDiff> = listing
            .diffs
            .iter()
            .filter(|d| known.insert(d.file_name()))
            .copied()
            .collect();
        if new.is_empty() {
            break;
        }
        let total = new.iter().map(MetaDiff::size).sum();
        let progress = Mutex::new((Progress::new(format!("verify {}", place.name), Some(total)), 0));
        let told = |bytes| {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.1 += bytes;
            let done = progress.1;
            progress.0.at(done);
        };
        for (diff, finding) in new.iter().zip(check::wdiffs(&place.files, &new, size, &told)) {
            match finding {
                WdiffFinding::Sound => {
                    found.diffs += 1;
                    found.bytes += diff.size();
                }
                // If its absence matters, the next look at the directory shows it.
                WdiffFinding::Gone => {}
                WdiffFinding::Wrong(text) => found.wrong.push(text),
            }
        }
        listing = found.take(place.files.list())?;
    }
    Some(listing)
}

fn chain_of(place: &Place, base: &BaseState, listing: &Listing, uuid: Option<Uuid>, found: &mut Findings) {
    let diffs = &listing.diffs;
    found.wrong.extend(check::chain_of(base, diffs));
    if let Some(target) = base.target() {
        found.notes.push(format!(
            "the base image is on its way from {} to {target}: restores take this into account",
            base.snapshot()
        ));
    }
    let unused = diffs.garbage_full(base).len();
    if unused > 0 {
        found.notes.push(format!(
            "{unused} diffs are used by no snapshot that can be restored"
        ));
    }
    if let Some(list) = found.take(Choice::list(base, diffs)) {
        found.snapshots = list.len();
    }
    // A hash backup changes it, so older diffs may carry others.
    let newest = diffs.chain(base.snapshot()).pop();
    let carried = newest
        .and_then(|diff| WdiffReader::open(place.files.diff(&diff)).ok())
        .map(|r| r.uuid());
    if let (Some(expected), Some(carried)) = (uuid, carried)
        && carried != expected
        && carried != Uuid::NIL
    {
        found.notes.push(format!(
            "the newest diff comes from log {carried}, the volume follows log {expected}"
        ));
    }
}
