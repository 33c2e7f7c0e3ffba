//! The image that the device is compared with: that of the latest snapshot, dirty or clean, hashed in sections.

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use walb_common::convert::{
    BULK_HASH_LEN, BulkHashes, DiscardMode, MergeError, RestoreError, RestoreStream, ZeroHashes,
    merge_to_sorted, section_bulks,
};
use walb_common::format::wdiff::{WdiffFileError, WdiffReader};
use walb_common::lineage::MetaDiff;
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};

use crate::error::{At, FileError};
use crate::volume::VolumeDir;

#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("read the latest snapshot")]
    Diff(#[from] WdiffFileError),
    #[error("merge what leads to the latest snapshot")]
    Merge(#[from] MergeError),
    #[error("read the latest snapshot")]
    Read(#[from] RestoreError),
}

/// What makes the image. Nothing of it goes while it is used: while the volume is in HashSync no diff is removed.
pub(super) struct Source {
    pub base: File,
    /// In order.
    pub diffs: Vec<PathBuf>,
    /// Of these, so many are open at once at most; with more, so many at a time are merged first, into files without a
    /// name.
    pub at_once: usize,
    /// What that needs.
    pub room: Room,
    pub discard: DiscardMode,
}

/// Hashes of a section.
pub(super) struct Section {
    pub at: Lb,
    pub end: Lb,
    /// How many hashes there are.
    pub bulks: u32,
    /// Empty: all of them are that of zeros.
    pub hashes: Bytes,
}

impl Source {
    /// Hashes everything from `from` on; see [`BulkHashes`]. Ends early when nobody listens any more.
    pub fn run(
        self,
        dir: &VolumeDir,
        from: Lb,
        size: Lb,
        bulk: Lb,
        out: &mpsc::Sender<Section>,
    ) -> Result<(), SourceError> {
        let discard = self.discard;
        let (base, readers) = self.readers(dir)?;
        let stream = RestoreStream::new(base, readers, discard)?;
        let mut hashes = BulkHashes::new(stream, from, size, bulk)?;
        let mut zeros = ZeroHashes::default();
        let mut at = from;
        while at < size {
            let (mut section, mut bulks, mut all_zero, first) = (BytesMut::new(), 0, true, at);
            while u64::from(bulks) < section_bulks(bulk) && at < size {
                let Some(hash) = hashes.next_hash()? else { break };
                let end = Lb(size.0.min(at.0 + bulk.0));
                all_zero &= hash == zeros.of(end.bytes() - at.bytes());
                section.extend_from_slice(&hash);
                (bulks, at) = (bulks + 1, end);
            }
            debug_assert_eq!(section.len(), bulks as usize * BULK_HASH_LEN);
            let hashes = if all_zero { Bytes::new() } else { section.freeze() };
            let section = Section {
                at: first,
                end: at,
                bulks,
                hashes,
            };
            if out.blocking_send(section).is_err() {
                return Ok(());
            }
        }
        // Damage behind the last block read is noticed too.
        while hashes.next_hash()?.is_some() {}
        Ok(())
    }

    fn readers(self, dir: &VolumeDir) -> Result<(File, Vec<WdiffReader>), SourceError> {
        let Self {
            base,
            diffs,
            at_once,
            mut room,
            ..
        } = self;
        let mut level: Vec<Input> = diffs.into_iter().map(Input::Stored).collect();
        while level.len() > at_once {
            let (mut inputs, mut merged) = (level.into_iter().peekable(), Vec::new());
            while inputs.peek().is_some() {
                let some: Result<Vec<_>, _> = inputs.by_ref().take(at_once).map(Input::open).collect();
                let some = some?;
                room.give(some.iter().map(|(_, bytes)| bytes).sum());
                merged.push(merge(dir, some.into_iter().map(|(reader, _)| reader).collect())?);
            }
            level = merged;
        }
        let readers: Result<Vec<_>, _> = level
            .into_iter()
            .map(|input| input.open().map(|(reader, _)| reader))
            .collect();
        Ok((base, readers?))
    }
}

/// A diff that is still to be read.
enum Input {
    Stored(PathBuf),
    Merged(File, PathBuf),
}

impl Input {
    /// With its length in bytes.
    fn open(self) -> Result<(WdiffReader, u64), SourceError> {
        let (file, path) = match self {
            Self::Stored(path) => (File::open(&path).at("open", &path)?, path),
            Self::Merged(file, path) => (file, path),
        };
        let bytes = file.metadata().at("look at", &path)?.len();
        let reader = WdiffReader::from_file(file, path.display().to_string())?;
        Ok((reader, bytes))
    }
}

fn merge(dir: &VolumeDir, inputs: Vec<WdiffReader>) -> Result<Input, SourceError> {
    let path = dir.path().join("hash_backup.merged.tmp");
    let file = nameless(&path)?;
    let setting = CompressionSetting::of(Compression::Lz4);
    let (mut file, _) = merge_to_sorted(inputs, file, Uuid::NIL, setting, Lb(0))?;
    file.rewind().at("seek in", &path)?;
    Ok(Input::Merged(file, path))
}

/// A file that goes with its last user, also when that is killed.
fn nameless(path: &Path) -> Result<File, FileError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .at("create", path)?;
    std::fs::remove_file(path).at("remove", path)?;
    Ok(file)
}

/// Room on the disk, taken before the storage gives its log up, and given back bit by bit to what is merged.
pub(super) struct Room {
    held: Option<File>,
    bytes: u64,
}

impl Room {
    /// Takes what merging `diffs` needs where they are more than `at_once`.
    pub fn take(dir: &VolumeDir, diffs: &[MetaDiff], at_once: usize) -> Result<Self, FileError> {
        let (mut files, mut levels) = (diffs.len(), 0);
        while files > at_once {
            (files, levels) = (files.div_ceil(at_once), levels + 1);
        }
        // Merged files are at most as large together as what was merged, and one level goes as the next comes.
        let bytes = diffs.iter().map(MetaDiff::size).sum::<u64>() * levels.min(2);
        if bytes == 0 {
            return Ok(Self { held: None, bytes });
        }
        let path = dir.path().join("hash_backup.room.tmp");
        let file = nameless(&path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(Self {
                held: Some(file),
                bytes,
            }),
            // Some file systems cannot; then it is enough that there is room now.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let found = rustix::fs::fstatvfs(&file)
                    .map_err(std::io::Error::from)
                    .at("look at the room beside", &path)?;
                if found.f_bavail.saturating_mul(found.f_frsize) < bytes {
                    return Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
                        .at("take room in", &path);
                }
                Ok(Self { held: None, bytes })
            }
            Err(error) => Err(std::io::Error::from(error)).at("take room in", &path),
        }
    }

    fn give(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(file) = &self.held
            && let Err(error) = file.set_len(self.bytes)
        {
            // Then it is given back at the end.
            tracing::debug!(%error, "room is not given back yet");
        }
    }
}

#[cfg(test)]
mod tests;
