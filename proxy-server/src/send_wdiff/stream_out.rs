//! The merging thread's output: a writer whose bytes come out of a channel in frames.

use std::fs::File;
use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use walb_common::convert::{DEFAULT_MAX_IO, MergeError, merge_to_sorted};
use walb_common::format::wdiff::{WdiffFileError, WdiffReader, WriteWdiffError};
use walb_common::types::{CompressionSetting, Uuid};

/// Bytes per frame.
const FRAME: usize = 1 << 20;

/// Why the merge ended early.
pub(super) enum MergeEnded {
    /// A file cannot be read.
    Damaged(WdiffFileError),
    /// Nobody takes the bytes any more: the transfer ended first and knows why.
    NotWanted,
    /// Anything else.
    Other(WriteWdiffError),
}

/// Merges the files, oldest first, into the bytes of a sorted wdiff. Blocks. A single file, or one that is already
/// compressed as wanted, is copied record by record without unpacking: writes of indexed files that are whole, too.
pub(super) fn merge(
    files: Vec<(String, File)>,
    uuid: Uuid,
    setting: CompressionSetting,
    frames: mpsc::Sender<Bytes>,
) -> Result<(), MergeEnded> {
    let open =
        |(name, file): (String, File)| WdiffReader::from_file(file, name).map(WdiffReader::joining_pieces);
    let readers = files
        .into_iter()
        .map(open)
        .collect::<Result<Vec<_>, _>>()
        .map_err(MergeEnded::Damaged)?;
    let out = FrameWriter {
        frame: BytesMut::with_capacity(FRAME),
        frames,
    };
    match merge_to_sorted(readers, out, uuid, setting, DEFAULT_MAX_IO) {
        Ok((mut out, _)) => out.pass_on().map_err(|_| MergeEnded::NotWanted),
        Err(MergeError::Read(error)) => Err(MergeEnded::Damaged(error)),
        Err(MergeError::Write(WriteWdiffError::Io { .. })) => Err(MergeEnded::NotWanted),
        Err(MergeError::Write(error)) => Err(MergeEnded::Other(error)),
    }
}

struct FrameWriter {
    frame: BytesMut,
    frames: mpsc::Sender<Bytes>,
}

impl FrameWriter {
    fn pass_on(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let frame = std::mem::replace(&mut self.frame, BytesMut::with_capacity(FRAME));
        self.frames
            .blocking_send(frame.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for FrameWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(FRAME - self.frame.len());
        self.frame.extend_from_slice(&bytes[..taken]);
        if self.frame.len() == FRAME {
            self.pass_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
