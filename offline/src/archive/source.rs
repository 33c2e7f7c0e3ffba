//! Everything a restore reads, open; and whether it held until it was read.
//!
//! A daemon may work on the same files meanwhile: it merges diffs, applies them to the base image, removes them. What was
//! open stays readable, so only the base image can move on underneath. It does so in an order that can be watched:
//!
//! ```text
//!  apply     base = applying, then the image, then base = idle
//!  reset     state = SyncReady, then the image
//! ```
//! So if these files, read after the last byte of the image, are still the same, the image was. An apply that stayed at
//! or before the snapshot does no harm either: it wrote blocks that the diffs hold too, and the diffs lie over it. Not so
//! where a compared diff is among them, because it leaves out what was written and written back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use walb_common::archive_files::Choice;
use walb_common::archive_files::check::{self, WdiffFinding};
use walb_common::disk::At;
use walb_common::lineage::{BaseState, DiffSet, MetaDiff};
use walb_common::types::Lb;

use super::place::Place;
use super::when::When;

/// Diffs that vanish between the choice and the opening are chosen anew so often.
const ATTEMPTS: usize = 10;

/// A snapshot, ready to be read.
#[derive(Debug)]
pub struct Source {
    place: Place,
    /// What to lay over what.
    pub choice: Choice,
    /// The base image.
    pub base: File,
    /// Its size.
    pub size: Lb,
    /// The diffs, oldest first.
    pub diffs: Vec<OpenDiff>,
    /// Every diff there was to choose from.
    held: DiffSet,
    seen: Seen,
}

/// A diff whose file is open: it may be removed by now.
#[derive(Debug)]
pub struct OpenDiff {
    /// What its name tells.
    pub diff: MetaDiff,
    /// Its file.
    pub path: PathBuf,
    /// The file.
    pub file: File,
}

/// The small files as they were before anything else was read.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    state: Stamp,
    archive_uuid: Stamp,
    base: Stamp,
}

/// Tells a file from the one that replaces it; a hard link to it, as some copies are made of, changes nothing. None: not
/// there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Source {
    /// Chooses the way to a snapshot, and opens everything on it. The files named in `without` are left out.
    pub fn open(place: Place, when: When, without: &[String]) -> anyhow::Result<Self> {
        for _ in 0..ATTEMPTS {
            let seen = Seen::look(&place)?;
            place.state_with_data()?;
            let base_state = place.base()?;
            let (base, size) = place.open_image()?;
            let mut held = place.files.list()?.diffs;
            leave_out(&mut held, without)?;
            let choice = when
                .choose(&base_state, &held)
                .with_context(|| format!("volume {}", place.name))?;
            room_for(choice.diffs.len());
            if let Some(diffs) = open_diffs(&place, &choice)? {
                return Ok(Self {
                    place,
                    choice,
                    base,
                    size,
                    diffs,
                    held,
                    seen,
                });
            }
        }
        bail!(
            "the diffs of volume {} change faster than they can be opened: tried {ATTEMPTS} times",
            place.name
        )
    }

    /// The volume.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong with the diffs, for one who could not make an image of them; and what could be done without these.
    pub fn what_is_damaged(&self) -> Option<String> {
        let findings = check::wdiffs(&self.place.files, &self.choice.diffs, Some(self.size), &|_| {});
        let mut held = self.held.clone();
        let mut told = Vec::new();
        for (diff, finding) in self.choice.diffs.iter().zip(findings) {
            if let WdiffFinding::Wrong(text) = finding {
                held.remove(diff);
                told.push(format!("{text} (--without {})", diff.file_name()));
            }
        }
        if told.is_empty() {
            return None;
        }
        let rest = match Choice::of_gid(&self.choice.base, &held, self.choice.gid) {
            Ok(_) => format!(
                "without it gid {} can be restored from other diffs",
                self.choice.gid
            ),
            Err(error) => format!("without it {error}"),
        };
        Some(format!("{}; {rest}", told.join("; ")))
    }

    /// To be called once everything has been read: an error if the base image may have moved on meanwhile, so that what
    /// was made of it may be wrong.
    pub fn still_holds(&self) -> anyhow::Result<()> {
        let Place { name, files, .. } = &self.place;
        let now = Seen::look(&self.place)?;
        if (now.state, now.archive_uuid) != (self.seen.state, self.seen.archive_uuid) {
            bail!(
                "volume {name} was stopped, started, reset or filled anew while it was read: run this again"
            );
        }
        let there = fs::metadata(&self.place.image).at("look at", &self.place.image)?;
        let open = self.base.metadata().at("look at", &self.place.image)?;
        let which = |about: &fs::Metadata| (about.dev(), about.ino(), about.rdev(), about.len());
        if which(&there) != which(&open) {
            bail!(
                "the base image {} was replaced while it was read: run this again",
                self.place.image.display()
            );
        }
        if now.base == self.seen.base {
            return Ok(());
        }
        let was = self.choice.base;
        let is = files.read_base()?;
        if self.place.base_state.is_some() || !harmless(&self.choice, &is) {
            bail!(
                "the base image of volume {name} moved from {was} to {is} while it was read: run this again"
            );
        }
        Ok(())
    }
}

/// Whether a base image on its way to, or at, `is` reads like the one the choice began with, under the choice's diffs.
fn harmless(choice: &Choice, is: &BaseState) -> bool {
    let farthest = is
        .target()
        .unwrap_or(is.snapshot())
        .end()
        .max(is.snapshot().end());
    farthest <= choice.gid && !choice.diffs.iter().any(MetaDiff::is_compared)
}

fn leave_out(held: &mut DiffSet, without: &[String]) -> anyhow::Result<()> {
    for name in without {
        // A path is as good as a name.
        let name = name.rsplit('/').next().unwrap_or(name);
        let diff = held.iter().find(|diff| diff.file_name() == *name).copied();
        let diff = diff.with_context(|| format!("no wdiff {name} to leave out"))?;
        held.remove(&diff);
    }
    Ok(())
}

/// None if one has gone since it was listed.
fn open_diffs(place: &Place, choice: &Choice) -> anyhow::Result<Option<Vec<OpenDiff>>> {
    let mut opened = Vec::with_capacity(choice.diffs.len());
    for diff in &choice.diffs {
        let path = place.files.diff(diff);
        match File::open(&path) {
            Ok(file) => opened.push(OpenDiff {
                diff: *diff,
                path,
                file,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("open", &path).map_err(Into::into),
        }
    }
    Ok(Some(opened))
}

/// Lets the process open so many files, if it may. If it may not, opening tells.
fn room_for(files: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = files as u64 + 64;
    if limit.current.is_some_and(|now| now < wanted) {
        let current = limit.maximum.map_or(wanted, |most| most.min(wanted));
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(current),
                maximum: limit.maximum,
            },
        );
    }
}

impl Seen {
    fn look(place: &Place) -> anyhow::Result<Self> {
        let stamp = |name: &str| stamp(&place.files.path().join(name));
        Ok(Self {
            state: stamp("state")?,
            archive_uuid: stamp("archive_uuid")?,
            base: stamp("base")?,
        })
    }
}

fn stamp(path: &Path) -> anyhow::Result<Stamp> {
    match fs::metadata(path) {
        Ok(at) => Ok(Some((at.dev(), at.ino(), at.len(), at.mtime(), at.mtime_nsec()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("look at", path).map_err(Into::into),
    }
}
