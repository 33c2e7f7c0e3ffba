//! The second pass for the sorted layout: surviving pieces in address order, pack by pack.

use std::cell::RefCell;
use std::io::Write;

use super::survey::survey;
use super::{ConvertWlogError, ConvertedLog, Place, Progress, Report, WdiffForm, WlogFile};
use crate::convert::in_order::in_order;
use crate::convert::overlay::{Cut, Overlay, Piece, Placed};
use crate::format::compress::Compressor;
use crate::format::wdiff::{
    EncodedPack, PACK_DATA_TARGET, PACK_RECORDS_MAX, PackBuilder, RecordKind, SortedWriter,
};
use crate::types::Lb;

/// Data read at once, unless one piece has more.
const READ_BYTES: usize = 1 << 20;

/// What lies at a piece's range: its kind, or where its data are. One word, as there is one for every piece.
#[derive(Debug, Clone, Copy)]
struct InLog(u64);

impl InLog {
    /// No place: those have 62 bits.
    const ALL_ZERO: Self = Self(1 << 62);
    const DISCARD: Self = Self(2 << 62);

    fn kind(self) -> RecordKind {
        match self.0 >> 62 {
            0 => RecordKind::Normal,
            1 => RecordKind::AllZero,
            _ => RecordKind::Discard,
        }
    }

    /// Of a normal piece.
    fn place(self) -> Place {
        Place(self.0)
    }
}

impl Piece for InLog {
    fn part(&self, skip: u64, _: u64) -> Self {
        match self.kind() {
            RecordKind::Normal => Self(self.place().plus(Lb(skip).bytes()).0),
            RecordKind::AllZero | RecordKind::Discard => *self,
        }
    }
}

pub(super) fn convert<W: Write>(
    logs: &[WlogFile],
    out: W,
    form: WdiffForm,
    report: Report<'_>,
) -> Result<(W, ConvertedLog), ConvertWlogError> {
    let threads = usize::from(form.setting.cpus);
    let mut overlay = Overlay::new(Cut::Chunks(form.max_io.0));
    let mut log = survey(logs, threads, report, |io| {
        let piece = match io.kind {
            RecordKind::Normal => InLog(io.place.0),
            RecordKind::AllZero => InLog::ALL_ZERO,
            RecordKind::Discard => InLog::DISCARD,
        };
        overlay.add(io.address, io.blocks, piece);
        Ok(())
    })?;
    let mut writer = SortedWriter::new(out, log.uuid, form.setting)?;
    let (mut done, of) = (0, overlay.len());
    let spare = RefCell::new(Vec::new());
    let mut write = |pack: Result<EncodedPack, ConvertWlogError>| {
        let pack = pack?;
        writer.write_pack(&pack)?;
        done += pack.records() as u64;
        spare.borrow_mut().push(pack.into_buffer());
        report(Progress::Built { done, of })
    };
    in_order(
        threads,
        || (Compressor::new(form.setting), Vec::new()),
        |(compressor, buf), (pieces, out)| build(logs, pieces, compressor, buf, out),
        |line| {
            let mut pieces = overlay.into_pieces().peekable();
            while let Some(first) = pieces.next() {
                let mut pack = vec![first];
                let mut bytes = data_bytes(&pack[0]);
                while pack.len() < PACK_RECORDS_MAX
                    && let Some(next) = pieces.next_if(|next| bytes + data_bytes(next) <= PACK_DATA_TARGET)
                {
                    bytes += data_bytes(&next);
                    pack.push(next);
                }
                let out = spare.borrow_mut().pop().unwrap_or_default();
                line.give((pack, out)).map_or(Ok(()), &mut write)?;
            }
            while let Some(pack) = line.take() {
                write(pack)?;
            }
            Ok::<_, ConvertWlogError>(())
        },
    )?;
    let (out, wdiff) = writer.finish()?;
    log.stats.wdiff = wdiff;
    Ok((out, log))
}

fn data_bytes(placed: &Placed<InLog>) -> u64 {
    match placed.piece.kind() {
        RecordKind::Normal => Lb(placed.blocks).bytes(),
        RecordKind::AllZero | RecordKind::Discard => 0,
    }
}

/// Reads the data of a pack's pieces and compresses them. Pieces that follow each other in the log too, as sequential
/// writes do, are read together.
fn build(
    logs: &[WlogFile],
    pieces: Vec<Placed<InLog>>,
    compressor: &mut Compressor,
    buf: &mut Vec<u8>,
    out: Vec<u8>,
) -> Result<EncodedPack, ConvertWlogError> {
    let mut pack = PackBuilder::new(out);
    let mut held = 0..0;
    for (index, placed) in pieces.iter().enumerate() {
        let (address, blocks) = (Lb(placed.address), Lb(placed.blocks));
        let kind = placed.piece.kind();
        if kind != RecordKind::Normal {
            pack.add_dataless(address, blocks, kind);
            continue;
        }
        let length = blocks.bytes() as usize;
        if held.is_empty() {
            let run = run_bytes(&pieces[index..]);
            if buf.len() < run {
                buf.resize(run, 0);
            }
            placed.piece.place().read(logs, &mut buf[..run])?;
            held = 0..run;
        }
        pack.add_raw(address, &buf[held.start..held.start + length], compressor);
        held.start += length;
    }
    Ok(pack.finish())
}

/// Bytes of the first piece and of those behind it whose data follow in the log.
fn run_bytes(pieces: &[Placed<InLog>]) -> usize {
    let first = pieces[0].piece.place();
    let mut bytes = 0;
    for placed in pieces {
        let length = data_bytes(placed) as usize;
        let follows =
            placed.piece.kind() == RecordKind::Normal && placed.piece.place() == first.plus(bytes as u64);
        if !follows || (bytes > 0 && bytes + length > READ_BYTES) {
            break;
        }
        bytes += length;
    }
    bytes
}
