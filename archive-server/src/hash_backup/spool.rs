//! The blocking half: chunks in order of address become packs of a sorted wdiff in the part file. At the end of each
//! section, now and then, what has come is made durable, and then the record that says so.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use walb_common::disk::fault;
use walb_common::format::compress::{Compressor, DecompressError, decompress};
use walb_common::format::wdiff::{
    Content, Data, Image, Layout, NextPack, PackBatch, PackHeader, WdiffFileHeader, WdiffRecord,
    WriteWdiffError,
};
use walb_common::types::{Compression, CompressionSetting, LB_SIZE, Lb};
use walb_common::wire::stream::Bulk;

use super::pending::{self, Pending};
use crate::error::{At, FileError};
use crate::volume::VolumeDir;

/// So much data is lost at most when the archive dies: it comes again.
const SAVE_DATA: u64 = 64 << 20;
/// So much of the volume is compared again at most when the archive dies.
const SAVE_SPACE: Lb = Lb((1 << 30) / LB_SIZE);
/// Data of a section that is not complete. More than the largest section.
const SECTION_MAX: u64 = 64 << 20;

/// What comes through the queue. A queue that ends without `End` means that the connection was lost.
pub(super) enum Piece {
    Bulk(Bulk),
    /// Everything below has come.
    Section(Lb),
    End,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "chunk of {bytes} bytes at block {found}: expected whole blocks from block {expected} on, below {size}"
    )]
    Place {
        bytes: u32,
        found: Lb,
        expected: Lb,
        size: Lb,
    },
    #[error("a section of more than {} MiB", SECTION_MAX >> 20)]
    Section,
    #[error("chunk at block {address}")]
    Decompress {
        address: Lb,
        #[source]
        source: DecompressError,
    },
    #[error("put the diff together")]
    Write(#[from] WriteWdiffError),
    #[error("the connection was lost")]
    Aborted,
}

impl SpoolError {
    /// Whether it only follows from the other half's end.
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Aborted)
    }
}

/// Takes what comes, from where `pending` says on. Answers how far it is now, whatever happened; `Ok` once the part is a
/// whole wdiff, durable.
pub(super) fn run(
    dir: &VolumeDir,
    pending: Pending,
    queue: mpsc::Receiver<Piece>,
    progress: impl Fn(Lb),
) -> (Result<(), SpoolError>, Pending) {
    match Spool::open(dir, pending) {
        Ok(mut spool) => {
            let result = spool.take(queue, progress);
            (result, spool.pending)
        }
        Err(error) => (Err(error.into()), pending),
    }
}

struct Spool<'a> {
    dir: &'a VolumeDir,
    /// As stored.
    pending: Pending,
    path: PathBuf,
    file: File,
    written: u64,
    unsaved: u64,
    /// Complete sections, not written yet.
    next: NextPack,
    compressor: Compressor,
    buffer: Vec<u8>,
    /// Of the section that is coming.
    section: Vec<WdiffRecord>,
    section_bytes: u64,
    /// The next chunk begins here or later.
    from: Lb,
}

impl<'a> Spool<'a> {
    fn open(dir: &'a VolumeDir, pending: Pending) -> Result<Self, FileError> {
        let path = pending::part(dir);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .at("open", &path)?;
        file.set_len(pending.bytes).at("cut", &path)?;
        file.seek(SeekFrom::End(0)).at("seek in", &path)?;
        let mut spool = Self {
            dir,
            pending,
            path,
            file,
            written: pending.bytes,
            unsaved: 0,
            next: NextPack::new(Compression::Lz4),
            compressor: Compressor::new(CompressionSetting::of(Compression::Lz4)),
            buffer: Vec::new(),
            section: Vec::new(),
            section_bytes: 0,
            from: pending.address,
        };
        if spool.written == 0 {
            let header = WdiffFileHeader {
                layout: Layout::Sorted,
                uuid: pending.uuid,
            };
            spool.write(&header.encode())?;
        }
        Ok(spool)
    }

    fn take(&mut self, mut queue: mpsc::Receiver<Piece>, progress: impl Fn(Lb)) -> Result<(), SpoolError> {
        let mut reached = self.pending.address;
        loop {
            match queue.blocking_recv() {
                Some(Piece::Bulk(bulk)) => self.add(&bulk)?,
                Some(Piece::Section(end)) => {
                    self.end_section()?;
                    (reached, self.from) = (end, self.from.max(end));
                    progress(end);
                    let far = end.0 - self.pending.address.0 >= SAVE_SPACE.0;
                    if far || self.unsaved >= SAVE_DATA {
                        self.save(end)?;
                    }
                }
                Some(Piece::End) => break,
                None => {
                    // What is complete is kept: the storage comes back, or it does not.
                    self.section.clear();
                    self.save(reached)?;
                    return Err(SpoolError::Aborted);
                }
            }
        }
        if self.pending.ended {
            return Ok(());
        }
        self.end_section()?;
        self.flush()?;
        self.write(&PackHeader::end().encode())?;
        fault::point("archive.hash.received").at("write", &self.path)?;
        self.pending.ended = true;
        self.store(self.pending.size)?;
        Ok(())
    }

    fn add(&mut self, bulk: &Bulk) -> Result<(), SpoolError> {
        let (address, bytes) = (Lb(bulk.tag), u64::from(bulk.raw_len));
        let blocks = Lb(bytes / LB_SIZE);
        let end = address.0.checked_add(blocks.0);
        let fits =
            bytes > 0 && bytes.is_multiple_of(LB_SIZE) && end.is_some_and(|end| end <= self.pending.size.0);
        if !fits || address < self.from || self.pending.ended {
            return Err(SpoolError::Place {
                bytes: bulk.raw_len,
                found: address,
                expected: self.from,
                size: self.pending.size,
            });
        }
        self.from = Lb(address.0 + blocks.0);
        if bulk.is_zeros() {
            if let Some(last) = self.section.last_mut()
                && matches!(last.content, Content::AllZero)
                && last.end() == address
            {
                last.blocks = Lb(last.blocks.0 + blocks.0);
                return Ok(());
            }
            self.section.push(WdiffRecord {
                address,
                blocks,
                content: Content::AllZero,
            });
            return Ok(());
        }
        let image = if bulk.codec == Compression::None {
            if bulk.payload.len() as u64 != bytes {
                return Err(SpoolError::Place {
                    bytes: bulk.raw_len,
                    found: address,
                    expected: address,
                    size: self.pending.size,
                });
            }
            Image::raw(bulk.payload.clone())
        } else {
            // Stored as it came, so it has to be known to be readable.
            decompress(bulk.codec, &bulk.payload, bulk.raw_len as usize)
                .map_err(|source| SpoolError::Decompress { address, source })?;
            Image::stored(bulk.codec, bulk.payload.clone(), blocks, None)
        };
        self.section_bytes += bulk.payload.len() as u64;
        if self.section_bytes > SECTION_MAX {
            return Err(SpoolError::Section);
        }
        self.section.push(WdiffRecord {
            address,
            blocks,
            content: Content::Normal(Data::whole(Arc::new(image))),
        });
        Ok(())
    }

    fn end_section(&mut self) -> Result<(), SpoolError> {
        self.unsaved += std::mem::take(&mut self.section_bytes);
        for record in std::mem::take(&mut self.section) {
            if let Some(full) = self.next.push(record)? {
                self.write_pack(full)?;
            }
        }
        Ok(())
    }

    fn write_pack(&mut self, batch: PackBatch) -> Result<(), SpoolError> {
        let pack = batch.encode(&mut self.compressor, std::mem::take(&mut self.buffer))?;
        self.write(pack.bytes())?;
        self.buffer = pack.into_buffer();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        fault::point("archive.hash.write").at("write", &self.path)?;
        self.file.write_all(bytes).at("write", &self.path)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        let next = std::mem::replace(&mut self.next, NextPack::new(Compression::Lz4));
        match next.finish() {
            Some(batch) => self.write_pack(batch),
            None => Ok(()),
        }
    }

    /// Makes everything below `address` durable.
    fn save(&mut self, address: Lb) -> Result<(), SpoolError> {
        if address == self.pending.address || self.pending.ended {
            return Ok(());
        }
        self.flush()?;
        Ok(self.store(address)?)
    }

    /// The part first, then the record that counts its bytes.
    fn store(&mut self, address: Lb) -> Result<(), FileError> {
        self.file.sync_data().at("sync", &self.path)?;
        fault::point("archive.hash.synced").at("sync", &self.path)?;
        let now = Pending {
            address,
            bytes: self.written,
            ..self.pending
        };
        now.store(self.dir)?;
        self.pending = now;
        self.unsaved = 0;
        fault::point("archive.hash.saved").at("write", &self.path)
    }
}

#[cfg(test)]
mod tests;
