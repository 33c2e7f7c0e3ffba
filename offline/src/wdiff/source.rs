//! Diffs as inputs: files or stdin, looked at record by record or by their structure only.

use std::fs::{File, Metadata};
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use walb_common::format::wdiff::{
    Content, INDEX_RECORD_SIZE, IndexRecord, IndexSuper, IndexedReader, Layout, MAX_IMAGE_BYTES,
    PACK_HEADER_SIZE, PackHeader, PackRecord, ReadWdiffError, ReaderMemory, RecordKind, RecordSource,
    SortedReader, WDIFF_HEADER_SIZE, WdiffFileHeader, WdiffReader, WdiffRecord,
};
use walb_common::types::Lb;

use crate::input::{self, Input, fill};
use crate::progress::Progress;

/// Opens stdin as a diff. An indexed one must be a file, since its index is at the end.
pub fn from_stdin() -> anyhow::Result<WdiffReader> {
    let input = Input::open(Path::new("-"), "read")?.silently();
    let name = input.name().to_owned();
    let mut input = BufReader::with_capacity(16 << 10, input);
    let header = read_header(&mut input).with_context(|| name.clone())?.0;
    match header.layout {
        Layout::Sorted => {
            let reader = SortedReader::after_header(input, header).nothing_follows();
            Ok(WdiffReader::from_source(reader, header, name))
        }
        Layout::Indexed => match input.into_inner().into_file() {
            Some(file) => Ok(WdiffReader::from_file(file, name)?),
            None => {
                bail!("an indexed wdiff cannot be read from a pipe: its index is at its end. Name the file")
            }
        },
    }
}

/// Opens several diffs and shows progress over all of them while they are read.
pub fn open_all(paths: &[PathBuf], verb: &str) -> anyhow::Result<Vec<WdiffReader>> {
    input::check_stdin_once(paths)?;
    allow_open_files(paths.len() as u64);
    let mut total = Some(0);
    for path in paths {
        let size = path.metadata().ok().filter(Metadata::is_file).map(|m| m.len());
        total = total.zip(size).map(|(total, size)| total + size);
    }
    let what = match paths {
        [one] => format!("{verb} {}", one.display()),
        several => format!("{verb} {} diffs", several.len()),
    };
    let watch = Arc::new(Mutex::new((Progress::new(what, total), 0)));
    paths
        .iter()
        .map(|path| {
            let reader = input::open_wdiff(path)?;
            let (header, name) = (*reader.header(), reader.name().to_owned());
            let watch = Arc::clone(&watch);
            Ok(WdiffReader::from_source(Watched { reader, watch }, header, name))
        })
        .collect()
}

/// Each diff of a merge is an open file, and the usual limit is a thousand. Up to the hard limit it is ours to raise.
fn allow_open_files(diffs: u64) {
    const OTHERS: u64 = 64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < diffs + OTHERS) {
        // Where it cannot be raised, opening fails and names the diff.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        );
    }
}

/// A diff whose progress is shown, together with that of others.
struct Watched {
    reader: WdiffReader,
    watch: Arc<Mutex<(Progress, u64)>>,
}

impl RecordSource for Watched {
    fn next_range(&mut self) -> Result<Option<Range<u64>>, ReadWdiffError> {
        self.reader.next_range().map_err(|error| error.source)
    }

    fn skip_record(&mut self) -> Result<(), ReadWdiffError> {
        self.reader.skip_record().map_err(|error| error.source)
    }

    fn next_record(&mut self) -> Result<Option<WdiffRecord>, ReadWdiffError> {
        let record = self.reader.next_record().map_err(|error| error.source)?;
        if let Some(WdiffRecord {
            content: Content::Normal(data),
            ..
        }) = &record
        {
            // Pieces of one image count by their share; the index and the headers do not count at all.
            let image = data.image();
            let share = image.stored_bytes().len() as u64 * data.blocks().0 / image.blocks().0.max(1);
            let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
            watch.1 += share;
            let done = watch.1;
            watch.0.at(done);
        }
        Ok(record)
    }

    fn share(&mut self, memory: &ReaderMemory) {
        self.reader.share(memory);
    }

    fn join_pieces(&mut self) {
        self.reader.join_pieces();
    }
}

/// A record as it is stored.
#[derive(Debug, Clone, Copy)]
pub enum StoredRecord {
    /// Of a sorted diff.
    Sorted(PackRecord),
    /// Of an indexed diff, with its own checksum.
    Indexed(IndexRecord, u32),
}

impl StoredRecord {
    /// Its kind.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Sorted(record) => record.kind,
            Self::Indexed(record, _) => record.kind,
        }
    }

    /// The first block after it.
    pub fn end(&self) -> Lb {
        let (address, blocks) = match self {
            Self::Sorted(record) => (record.address, record.blocks),
            Self::Indexed(record, _) => (record.address, record.blocks),
        };
        Lb(address.0.saturating_add(blocks.0))
    }
}

/// Something met on the way through a diff's structure.
#[derive(Debug)]
pub enum Part<'a> {
    /// The file header and its checksum as stored; comes first.
    Header(WdiffFileHeader, u32),
    /// The index super of an indexed diff; comes second.
    Index(IndexSuper),
    /// A pack header of a sorted diff; its records follow. The end pack is the last one.
    Pack(&'a PackHeader),
    /// A record.
    Record(StoredRecord),
}

/// Walks through the structure of a diff without a look at its data.
pub fn walk(
    path: &Path,
    input: Input,
    mut see: impl FnMut(Part<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name = input.name().to_owned();
    let mut input = input;
    let (header, checksum) = read_header(&mut input).with_context(|| name.clone())?;
    see(Part::Header(header, checksum))?;
    match header.layout {
        Layout::Sorted => walk_sorted(&name, &mut input, &mut see),
        Layout::Indexed => match input.into_file() {
            Some(file) => walk_indexed(&name, &file, &mut see),
            None => bail!(
                "{}: an indexed wdiff cannot be read from a pipe: its index is at its end. Name the file",
                path.display()
            ),
        },
    }
}

fn walk_sorted(
    name: &str,
    input: &mut Input,
    see: &mut impl FnMut(Part<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut from = Lb(0);
    loop {
        let pack = next_pack(input, from).with_context(|| name.to_owned())?;
        see(Part::Pack(&pack))?;
        for &record in pack.records() {
            let record = StoredRecord::Sorted(record);
            from = record.end();
            see(Part::Record(record))?;
        }
        if pack.is_end() {
            return Ok(());
        }
    }
}

fn next_pack(input: &mut Input, from: Lb) -> Result<PackHeader, ReadWdiffError> {
    let position = input.position();
    let io = |source| ReadWdiffError::Io { position, source };
    let mut bytes = [0; PACK_HEADER_SIZE];
    match fill(input, &mut bytes).map_err(io)? {
        0 => return Err(ReadWdiffError::MissingEndPack { position }),
        PACK_HEADER_SIZE => {}
        _ => {
            return Err(ReadWdiffError::Truncated {
                position: input.position(),
                part: "pack header",
            });
        }
    }
    let pack = PackHeader::decode(&bytes, position, from, MAX_IMAGE_BYTES)?;
    let size = u64::from(pack.total_size());
    if input.skip(size).map_err(io)? < size {
        return Err(ReadWdiffError::Truncated {
            position: input.position(),
            part: "data",
        });
    }
    if pack.is_end() {
        let position = input.position();
        if fill(input, &mut [0]).map_err(io)? != 0 {
            return Err(ReadWdiffError::Trailing { position });
        }
    }
    Ok(pack)
}

fn walk_indexed(
    name: &str,
    file: &File,
    see: &mut impl FnMut(Part<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    /// Records whose checksums are read at once.
    const CHUNK: usize = 1024;
    let in_file = || name.to_owned();
    let size = file.metadata().with_context(in_file)?.len();
    let mut reader = IndexedReader::open(file, size).with_context(in_file)?;
    let index = *reader.index();
    see(Part::Index(index))?;
    let mut position = index.index_offset;
    let mut left = index.n_records as usize;
    let (mut chunk, mut at) = (Vec::new(), 0);
    while let Some(record) = reader.next_index_record().with_context(in_file)? {
        if at == chunk.len() {
            chunk.resize(left.min(CHUNK) * INDEX_RECORD_SIZE, 0);
            file.read_exact_at(&mut chunk, position).with_context(in_file)?;
            (left, position, at) = (left - left.min(CHUNK), position + chunk.len() as u64, 0);
        }
        at += INDEX_RECORD_SIZE;
        let checksum = chunk[..at]
            .last_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        see(Part::Record(StoredRecord::Indexed(record, checksum)))?;
    }
    Ok(())
}

fn read_header(input: &mut impl Read) -> Result<(WdiffFileHeader, u32), ReadWdiffError> {
    let mut bytes = [0; WDIFF_HEADER_SIZE];
    let found = fill(input, &mut bytes).map_err(|source| ReadWdiffError::Io { position: 0, source })?;
    let header = WdiffFileHeader::decode(&bytes[..found])?;
    let checksum = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    Ok((header, checksum))
}
