//! The image that the device is compared with: that of the latest snapshot, dirty or clean, hashed in sections.

use std::fs::File;
use std::io::Seek;
use std::path::PathBuf;

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

/// Diffs read at once; more are merged first, so many at a time, into files without a name.
const MAX_OPEN: usize = 256;

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

/// What makes the image: nothing of it can go while it is used, because each file is open.
pub(super) struct Source {
    pub base: File,
    pub diffs: Vec<(MetaDiff, PathBuf, File)>,
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
        let Self { base, diffs, .. } = self;
        let open = |(_, path, file): (MetaDiff, PathBuf, File)| {
            WdiffReader::from_file(file, path.display().to_string())
        };
        let mut diffs = diffs.into_iter();
        let mut readers = Vec::new();
        if diffs.len() <= MAX_OPEN {
            let opened: Result<Vec<_>, _> = diffs.map(open).collect();
            return Ok((base, opened?));
        }
        loop {
            let some: Result<Vec<_>, _> = diffs.by_ref().take(MAX_OPEN).map(open).collect();
            let some = some?;
            if some.is_empty() {
                return Ok((base, readers));
            }
            let path = dir.path().join("hash_backup.merged.tmp");
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .at("create", &path)?;
            std::fs::remove_file(&path).at("remove", &path)?;
            let setting = CompressionSetting::of(Compression::Lz4);
            let (mut file, _) = merge_to_sorted(some, file, Uuid::NIL, setting, Lb(0))?;
            file.rewind().at("seek in", &path)?;
            readers.push(WdiffReader::from_file(file, path.display().to_string())?);
        }
    }
}
