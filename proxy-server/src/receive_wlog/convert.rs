//! The converter's thread: bulk frames in, one synced wdiff in a temporary file out.
//!
//! Memory is bounded whatever the log: the data go to the file as they come, and when the index in memory grows too
//! large the file is closed and another begun; at the end the parts are merged, as a stream, into one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use walb_common::convert::{ConvertError, ConvertStats, DEFAULT_MAX_IO, IndexedConverter, merge_to_sorted};
use walb_common::daemon::chain;
use walb_common::disk::fault;
use walb_common::format::checksum::Salt;
use walb_common::format::compress::decompress;
use walb_common::format::log_device::Logpack;
use walb_common::format::wdiff::{WdiffReader, WriteWdiffError};
use walb_common::format::wlog::{LogpackParser, Parsed};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::types::{Compression, CompressionSetting, Lsid, Uuid, VolumeName};
use walb_common::wire::message::WlogBegin;
use walb_common::wire::stream::Bulk;

use crate::volume::directory::at;

/// Pieces of the index held in memory, about 100 bytes each, before a part is closed.
const MAX_PIECES: usize = 1 << 18;
/// Most bytes a compressed frame may stand for.
const FRAME_RAW_MAX: u32 = 64 << 20;
const BUFFER: usize = 256 << 10;

/// What the converter is fed with. A channel that closes without [`Input::End`] means: give it up.
pub(super) enum Input {
    /// Bytes of logpacks.
    Bulk(Bulk),
    /// No more; the log must end here.
    End(Lsid),
}

/// A whole wdiff, durable but for its name.
pub(super) struct Converted {
    pub file: Temporary,
    pub stats: ConvertStats,
}

/// A file that goes away unless it is kept.
pub(super) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn create(dir: &Path) -> Result<(Self, File), ApiError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("receive-{number}{}", walb_common::disk::TEMPORARY_SUFFIX));
        let create = || {
            fault::point("proxy.receive.create")?;
            File::create(&path)
        };
        let file = create()
            .map_err(at("create", &path))
            .map_err(|e| ApiError::internal(&e))?;
        Ok((Self { path }, file))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It has got another name.
    pub fn renamed(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        if !self.path.as_os_str().is_empty()
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "temporary file could not be removed");
        }
    }
}

/// Runs on a blocking thread until the end, an error, or the channel's closing.
pub(super) fn convert(
    dir: &Path,
    volume: &VolumeName,
    begin: &WlogBegin,
    setting: CompressionSetting,
    mut input: mpsc::Receiver<Input>,
) -> Result<Converted, ApiError> {
    let bad = |what: String| ApiError::new(ErrorCode::Corrupt, format!("volume {volume}: {what}"));
    let mut parser = LogpackParser::new(begin.pbs, Salt(begin.salt), begin.begin);
    let mut parts = Parts::new(dir, begin.uuid, setting, MAX_PIECES)?;
    let end = loop {
        match input.blocking_recv() {
            Some(Input::Bulk(bulk)) => parser.push(raw(bulk).map_err(&bad)?),
            Some(Input::End(end)) => break end,
            None => return Err(ApiError::new(ErrorCode::Cancelled, "the receive was given up")),
        }
        loop {
            match parser.next().map_err(|e| bad(chain(&e)))? {
                Parsed::Pack(pack) => parts.add_pack(&pack)?,
                Parsed::NeedMore => break,
                Parsed::End => {
                    return Err(bad(format!(
                        "an end block at lsid {} is no logpack",
                        parser.next_lsid()
                    )));
                }
            }
        }
        let pb = parser.next_lsid().0 - begin.begin.0;
        if pb > begin.max_pb {
            return Err(bad(format!(
                "more log than announced: expected at most {} pb, found {pb}",
                begin.max_pb
            )));
        }
    };
    let found = parser.next_lsid();
    if parser.buffered() > 0 {
        return Err(bad(format!(
            "the log breaks off in the logpack at lsid {found}, {} bytes into it",
            parser.buffered()
        )));
    }
    if found != end {
        return Err(bad(format!("the log ends at lsid {found}, expected {end}")));
    }
    parts.finish()
}

/// The log bytes of a frame.
fn raw(bulk: Bulk) -> Result<Bytes, String> {
    match bulk.codec {
        Compression::None if bulk.payload.len() == bulk.raw_len as usize => Ok(bulk.payload),
        Compression::None => Err(format!(
            "a frame of {} bytes says it has {}",
            bulk.payload.len(),
            bulk.raw_len
        )),
        _ if bulk.raw_len > FRAME_RAW_MAX => Err(format!(
            "a frame stands for {} bytes, at most {FRAME_RAW_MAX} are taken",
            bulk.raw_len
        )),
        codec => match decompress(codec, &bulk.payload, bulk.raw_len as usize) {
            Ok(raw) => Ok(raw.into()),
            Err(error) => Err(chain(&error)),
        },
    }
}

type Writer = BufWriter<File>;

/// Indexed wdiffs one after the other, each with a bounded index.
struct Parts<'a> {
    dir: &'a Path,
    uuid: Uuid,
    setting: CompressionSetting,
    max_pieces: usize,
    done: Vec<Temporary>,
    open: (Temporary, IndexedConverter<Writer>),
    stats: ConvertStats,
}

impl<'a> Parts<'a> {
    fn new(
        dir: &'a Path,
        uuid: Uuid,
        setting: CompressionSetting,
        max_pieces: usize,
    ) -> Result<Self, ApiError> {
        let open = Self::open(dir, uuid, setting)?;
        Ok(Self {
            dir,
            uuid,
            setting,
            max_pieces,
            done: Vec::new(),
            open,
            stats: ConvertStats::default(),
        })
    }

    fn open(
        dir: &Path,
        uuid: Uuid,
        setting: CompressionSetting,
    ) -> Result<(Temporary, IndexedConverter<Writer>), ApiError> {
        let (file, out) = Temporary::create(dir)?;
        let out = BufWriter::with_capacity(BUFFER, out);
        let converter = IndexedConverter::new(out, uuid, setting, DEFAULT_MAX_IO);
        converter.map(|c| (file, c)).map_err(|e| ApiError::internal(&e))
    }

    fn add_pack(&mut self, pack: &Logpack) -> Result<(), ApiError> {
        let mut write = || {
            fault::point("proxy.receive.write")
                .map_err(|source| WriteWdiffError::Io { position: 0, source })?;
            self.open.1.add_pack(pack)
        };
        write().map_err(|e: ConvertError| ApiError::internal(&e))?;
        if self.open.1.pieces() > self.max_pieces {
            self.close()?;
        }
        Ok(())
    }

    /// Completes the open part and begins another.
    fn close(&mut self) -> Result<(), ApiError> {
        let next = Self::open(self.dir, self.uuid, self.setting)?;
        let (file, converter) = std::mem::replace(&mut self.open, next);
        let (out, stats) = converter.finish().map_err(|e| ApiError::internal(&e))?;
        flush(out, file.path())?;
        self.count(stats);
        self.done.push(file);
        Ok(())
    }

    fn count(&mut self, part: ConvertStats) {
        self.stats.packs += part.packs;
        self.stats.ios += part.ios;
        self.stats.written.0 += part.written.0;
        self.stats.wdiff = part.wdiff;
    }

    /// One file with everything, synced.
    fn finish(mut self) -> Result<Converted, ApiError> {
        if !self.done.is_empty() {
            self.close()?;
            return self.merge();
        }
        let (file, converter) = self.open;
        let (out, stats) = converter.finish().map_err(|e| ApiError::internal(&e))?;
        sync(&flush(out, file.path())?, file.path())?;
        Ok(Converted { file, stats })
    }

    fn merge(self) -> Result<Converted, ApiError> {
        let Self {
            dir,
            uuid,
            setting,
            done,
            mut stats,
            ..
        } = self;
        let readers = done
            .iter()
            .map(|part| WdiffReader::open(part.path()).map(WdiffReader::joining_pieces))
            .collect::<Result<_, _>>();
        let readers = readers.map_err(|e| ApiError::internal(&e))?;
        let (file, out) = Temporary::create(dir)?;
        let out = BufWriter::with_capacity(BUFFER, out);
        let merged = merge_to_sorted(readers, out, uuid, setting, DEFAULT_MAX_IO);
        let (out, merged) = merged.map_err(|e| ApiError::internal(&e))?;
        sync(&flush(out, file.path())?, file.path())?;
        stats.wdiff = merged.wdiff;
        Ok(Converted { file, stats })
    }
}

fn flush(mut out: Writer, path: &Path) -> Result<File, ApiError> {
    let flushed = out
        .flush()
        .and_then(|()| out.into_inner().map_err(io::IntoInnerError::into_error));
    flushed
        .map_err(at("write", path))
        .map_err(|e| ApiError::internal(&e))
}

/// Durable: the content of the temporary. Its name becomes so with the rename.
fn sync(file: &File, path: &Path) -> Result<(), ApiError> {
    let synced = fault::point("proxy.receive.sync").and_then(|()| file.sync_all());
    synced
        .map_err(at("sync", path))
        .map_err(|e| ApiError::internal(&e))
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
