//! The blocking half of a receive: bytes go to the temporary file as they come, and through the reader of sorted wdiffs,
//! which verifies header, packs, order and every datum's checksum, record by record. Only what came whole gets its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use walb_common::disk::{fault, rename_durable, temporary_path};
use walb_common::format::wdiff::{ReadWdiffError, SortedReader};
use walb_common::types::{Lb, Uuid};

use crate::error::{At, FileError};

/// What comes through the queue. A queue that ends without `End` means that the transfer was given up.
pub(super) enum Piece {
    Data(Bytes),
    End,
}

/// Where it goes, and what it has to be.
pub(super) struct Target {
    pub path: PathBuf,
    pub uuid: Uuid,
    pub size: Lb,
}

/// A diff's file, durable under its name.
#[derive(Debug)]
pub(super) struct Spooled {
    pub path: PathBuf,
    pub bytes: u64,
}

/// Nothing was kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("received wdiff")]
    Damaged(#[source] ReadWdiffError),
    #[error("received wdiff: uuid {found} in its header, expected {expected} as announced")]
    Uuid { found: Uuid, expected: Uuid },
    #[error("received wdiff: record at address {address} ends at {end}, but the volume has {size} blocks")]
    BeyondEnd { address: Lb, end: Lb, size: Lb },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the transfer was given up")]
    Aborted,
}

impl SpoolError {
    /// Whether it only follows from the other half's end.
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Aborted)
    }
}

/// Receives a whole diff; see the module. On any error the temporary is removed.
pub(super) fn run(target: &Target, queue: mpsc::Receiver<Piece>) -> Result<Spooled, SpoolError> {
    let temporary = temporary_path(&target.path);
    let result = store(target, &temporary, queue);
    if result.is_err() {
        // The first error is the one to tell; what stays here is removed at the next start.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn store(target: &Target, temporary: &Path, queue: mpsc::Receiver<Piece>) -> Result<Spooled, SpoolError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary);
    let file = file.at("create", temporary)?;
    let mut tee = Tee {
        queue,
        at_hand: Bytes::new(),
        file,
        written: 0,
        failed: None,
        aborted: false,
        ended: false,
    };
    let read = verify(target, &mut tee);
    // A failure of ours reaches the reader as a failed read; the cause is what counts.
    if let Some(source) = tee.failed {
        return Err(FileError {
            act: "write",
            path: temporary.to_owned(),
            source,
        }
        .into());
    }
    if tee.aborted {
        return Err(SpoolError::Aborted);
    }
    read?;
    fault::point("archive.wdiff.received").at("write", temporary)?;
    // Content durable first, then the name, then the directory: the name never stands for half a diff.
    tee.file.sync_all().at("sync", temporary)?;
    fault::point("archive.wdiff.synced").at("sync", temporary)?;
    rename_durable(temporary, &target.path).at("rename to", &target.path)?;
    Ok(Spooled {
        path: target.path.clone(),
        bytes: tee.written,
    })
}

fn verify(target: &Target, tee: &mut Tee) -> Result<(), SpoolError> {
    let mut reader = SortedReader::new(tee)
        .map_err(SpoolError::Damaged)?
        .nothing_follows();
    let found = reader.header().uuid;
    if found != target.uuid {
        return Err(SpoolError::Uuid {
            found,
            expected: target.uuid,
        });
    }
    while let Some(record) = reader.next_record().map_err(SpoolError::Damaged)? {
        let (address, end, size) = (record.address, record.end(), target.size);
        if end > size {
            return Err(SpoolError::BeyondEnd { address, end, size });
        }
    }
    Ok(())
}

/// Gives the reader what comes through the queue, and writes it to the file.
struct Tee {
    queue: mpsc::Receiver<Piece>,
    at_hand: Bytes,
    file: File,
    written: u64,
    failed: Option<io::Error>,
    aborted: bool,
    ended: bool,
}

impl Read for Tee {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at_hand.is_empty() && !self.ended {
            match self.queue.blocking_recv() {
                Some(Piece::Data(data)) => {
                    let written =
                        fault::point("archive.wdiff.write").and_then(|()| self.file.write_all(&data));
                    if let Err(error) = written {
                        self.failed = Some(error);
                        return Err(io::Error::other("the file cannot be written"));
                    }
                    self.written += data.len() as u64;
                    self.at_hand = data;
                }
                Some(Piece::End) => self.ended = true,
                None => {
                    self.aborted = true;
                    return Err(io::Error::other("the transfer was given up"));
                }
            }
        }
        let n = buf.len().min(self.at_hand.len());
        self.at_hand.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}
