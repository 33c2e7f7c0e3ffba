//! The headers of a log, without a look at its data.

use serde_json::{Value, json};
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{LogpackHeader, LogpackHeaderError, RecordKind};
use walb_common::format::wlog::{ReadLogpackError, ReadWlogError, WLOG_HEADER_SIZE, WlogFileHeader};
use walb_common::types::{Lsid, PhysicalBlockSize};

use crate::input::{Input, fill};

/// Reads the file header, if there is one before the end of the input.
pub fn file_header(input: &mut Input) -> Result<Option<WlogFileHeader>, ReadWlogError> {
    let mut bytes = [0; WLOG_HEADER_SIZE];
    match fill(input, &mut bytes).map_err(ReadWlogError::Io)? {
        0 => Ok(None),
        WLOG_HEADER_SIZE => Ok(Some(WlogFileHeader::decode(&bytes)?)),
        found => Err(ReadWlogError::Truncated { found }),
    }
}

/// The pack headers of one log.
#[derive(Debug)]
pub struct Headers {
    pbs: PhysicalBlockSize,
    salt: Salt,
    next: Lsid,
    /// The last pack, whose data have not been passed over yet, and their bytes.
    data: Option<(Lsid, usize)>,
}

impl Headers {
    /// Those behind a file header.
    pub fn after(header: &WlogFileHeader) -> Self {
        Self {
            pbs: header.pbs,
            salt: header.salt,
            next: header.begin,
            data: None,
        }
    }

    /// The next header and its checksum as it is stored. None at the end block. Data that are cut are noticed by the
    /// call after the one that gave their header.
    pub fn next(&mut self, input: &mut Input) -> Result<Option<(LogpackHeader, u32)>, ReadLogpackError> {
        if let Some((lsid, expected)) = self.data.take() {
            let found = input
                .skip(expected as u64)
                .map_err(|source| ReadLogpackError::Io { lsid, source })?;
            if found < expected as u64 {
                return Err(ReadLogpackError::Truncated {
                    lsid,
                    part: "data",
                    found: usize::try_from(found).unwrap_or(usize::MAX),
                    expected,
                });
            }
        }
        let lsid = self.next;
        let mut block = vec![0; self.pbs.bytes()];
        match fill(input, &mut block).map_err(|source| ReadLogpackError::Io { lsid, source })? {
            0 => return Err(ReadLogpackError::MissingEndBlock { lsid }),
            found if found < block.len() => {
                return Err(ReadLogpackError::Truncated {
                    lsid,
                    part: "header",
                    found,
                    expected: block.len(),
                });
            }
            _ => {}
        }
        let header = match LogpackHeader::decode(&block, self.pbs, self.salt, lsid) {
            Ok(header) => header,
            Err(LogpackHeaderError::EndBlock) => return Ok(None),
            Err(source) => return Err(ReadLogpackError::Header { lsid, source }),
        };
        self.data = Some((lsid, header.data_bytes()));
        self.next = header.next_lsid();
        Ok(Some((header, stored_checksum(&block))))
    }

    /// Lsid after the packs so far.
    pub fn next_lsid(&self) -> Lsid {
        self.next
    }
}

/// The checksum field of a header block.
pub fn stored_checksum(block: &[u8]) -> u32 {
    block.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// A pack header as `show --json` has it. Records are `[lsid, lsid_local, offset, io_size, flags, checksum]`.
pub fn header_json(header: &LogpackHeader, checksum: u32) -> Value {
    let records: Vec<Value> = header
        .records()
        .iter()
        .map(|r| {
            let sum = format!("{:08x}", r.checksum);
            json!([r.lsid, r.lsid_local, r.offset, r.size, flags(r.kind), sum])
        })
        .collect();
    json!({
        "lsid": header.lsid(), "total_io_size": header.total_io_pb(), "n_records": records.len(),
        "n_padding": n_padding(header), "checksum": format!("{checksum:08x}"), "records": records,
    })
}

/// The same as text: a line for the pack, one for each record.
pub fn header_text(header: &LogpackHeader, checksum: u32) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "pack {} total_io_size {} n_records {} n_padding {} checksum {checksum:08x}\n",
        header.lsid(),
        header.total_io_pb(),
        header.records().len(),
        n_padding(header)
    );
    for r in header.records() {
        let flags = flags(r.kind);
        let _ = writeln!(
            text,
            "  record lsid {} local {} offset {} size {} {flags} {:08x}",
            r.lsid, r.lsid_local, r.offset, r.size, r.checksum
        );
    }
    text
}

/// What a log's headers add up to.
#[derive(Debug, Default)]
pub struct Stat {
    /// Packs.
    pub packs: u64,
    normal_lb: u64,
    discard_lb: u64,
    padding_pb: u64,
}

impl Stat {
    /// Counts a pack.
    pub fn add(&mut self, header: &LogpackHeader) {
        self.packs += 1;
        for record in header.records() {
            match record.kind {
                RecordKind::Normal => self.normal_lb += record.size.0,
                RecordKind::Discard => self.discard_lb += record.size.0,
                RecordKind::Padding => self.padding_pb += record.data_pbs(header.pbs()),
            }
        }
    }

    /// As `show --json` has it.
    pub fn json(&self) -> Value {
        json!({
            "nrPacks": self.packs, "normalLb": self.normal_lb, "discardLb": self.discard_lb,
            "paddingPb": self.padding_pb,
        })
    }

    /// As a line.
    pub fn text(&self) -> String {
        format!(
            "packs {} normal_lb {} discard_lb {} padding_pb {}\n",
            self.packs, self.normal_lb, self.discard_lb, self.padding_pb
        )
    }
}

fn n_padding(header: &LogpackHeader) -> usize {
    header
        .records()
        .iter()
        .filter(|r| r.kind == RecordKind::Padding)
        .count()
}

fn flags(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Normal => "E--",
        RecordKind::Padding => "EP-",
        RecordKind::Discard => "E-D",
    }
}
