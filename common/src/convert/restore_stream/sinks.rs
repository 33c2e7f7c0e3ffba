//! Where a restored image goes: an image that can be written anywhere, or a stream of bytes. The stream is made on
//! another thread meanwhile.

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::{RestoreError, RestoreStream, lb};
use crate::convert::batch::{Batch, pipelined};
use crate::convert::image_source::ImageSource;
use crate::convert::image_target::ImageTarget;
use crate::disk::fault;

/// Zeros are written in parts of at most this size, so that a stop is heard between them.
const ZEROS_BYTES: u64 = 1 << 30;

/// What was restored, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreStats {
    /// Data written.
    pub written: u64,
    /// Zeros: written or, where the target was zero before, left out.
    pub zeros: u64,
}

/// Writes the image to `target` and syncs it. With `is_zero` the target reads as zeros everywhere, as a new file does,
/// and zeros are left out; else they are written. What the target has behind the image stays. `progress` is told up to
/// which byte the image is there, and can stop it.
pub fn restore_to_image<B: ImageSource + Send, T: ImageTarget + ?Sized>(
    stream: RestoreStream<B>,
    target: &T,
    is_zero: bool,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<RestoreStats, RestoreError> {
    let expected = stream.size();
    let found = target.size().map_err(failed("size", 0))?;
    if found < expected {
        return Err(RestoreError::TargetTooSmall { found, expected });
    }
    let stats = run(stream, progress, |piece| match piece {
        Piece::Data(position, data) => target.write_at(data, position).map_err(failed("write", position)),
        Piece::Zeros(..) if is_zero => Ok(()),
        Piece::Zeros(position, length) => target
            .write_zeroes(position, length)
            .map_err(failed("write zeros to", position)),
    })?;
    fault::point("convert.restore.written").map_err(failed("sync", expected))?;
    // Durable before the caller gives the image its name.
    target.sync().map_err(failed("sync", expected))?;
    fault::point("convert.restore.synced").map_err(failed("sync", expected))?;
    Ok(stats)
}

/// Writes the image to `out` from its first byte to its last, and flushes. `progress` is told how many bytes were
/// written, and can stop it.
pub fn restore_to_writer<B: ImageSource + Send>(
    stream: RestoreStream<B>,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<RestoreStats, RestoreError> {
    const ZEROS: &[u8] = &[0; 256 << 10];
    let size = stream.size();
    let stats = run(stream, progress, |piece| match piece {
        Piece::Data(position, data) => out.write_all(data).map_err(failed("write", position)),
        Piece::Zeros(position, length) => {
            let mut left = length;
            while left > 0 {
                let part = left.min(ZEROS.len() as u64);
                out.write_all(&ZEROS[..part as usize])
                    .map_err(failed("write", position))?;
                left -= part;
            }
            Ok(())
        }
    })?;
    out.flush().map_err(failed("flush", size))?;
    Ok(stats)
}

enum Piece<'a> {
    Data(u64, &'a [u8]),
    /// Position and length.
    Zeros(u64, u64),
}

fn run<B: ImageSource + Send>(
    mut stream: RestoreStream<B>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    mut write: impl FnMut(Piece<'_>) -> Result<(), RestoreError>,
) -> Result<RestoreStats, RestoreError> {
    let mut stats = RestoreStats::default();
    let mut done = |end: u64| match progress(end) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(RestoreError::Stopped),
    };
    let use_up = |batch: &Batch| {
        for op in batch.ops() {
            let end = op.position + op.length;
            if let Some(data) = batch.data(op) {
                write(Piece::Data(op.position, data))?;
                stats.written += op.length;
                done(end)?;
                continue;
            }
            let mut at = op.position;
            while at < end {
                let length = (end - at).min(ZEROS_BYTES);
                write(Piece::Zeros(at, length))?;
                at += length;
                stats.zeros += length;
                done(at)?;
            }
        }
        Ok(())
    };
    pipelined(|batch| stream.fill(batch), use_up)?;
    Ok(stats)
}

fn failed(act: &'static str, position: u64) -> impl Fn(io::Error) -> RestoreError {
    let address = lb(position);
    move |source| RestoreError::Target { act, address, source }
}
