//! A log device and what its log is like.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};
use walb_common::convert::ImageTarget;
use walb_common::format::log_device::{
    DataChecksumError, Logpack, LogpackHeader, SUPER_SECTOR_OFFSET, ScanEnd, Scanner, SuperSector,
    stale_headers,
};
use walb_common::format::read_at::ReadAt;
use walb_common::types::{Lsid, PhysicalBlockSize};

use crate::progress::Progress;

/// An open log device with a believed super sector.
#[derive(Debug)]
pub struct LogDevice<'a> {
    name: String,
    file: &'a File,
    sector: SuperSector,
    checksum: u32,
}

/// Where the log ends, by the rules of redo.
#[derive(Debug)]
pub struct LogEnd {
    /// Packs between the written lsid and the end.
    pub packs: u64,
    /// The end.
    pub latest: Lsid,
    /// The first bad record of a last pack that was not written whole.
    pub torn: Option<DataChecksumError>,
    /// The header that redo stores in its place.
    pub rewrite: Option<LogpackHeader>,
}

/// Opens a device to be read, in use or not.
pub fn open_to_read(path: &Path) -> anyhow::Result<File> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        bail!("{} is a directory, expected a log device", path.display());
    }
    Ok(file)
}

impl<'a> LogDevice<'a> {
    /// Reads and checks the super sector.
    pub fn new(file: &'a File, path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        // A driver writes below the page cache, which may hold what was there before. Advice only.
        let _ = fadvise(file, 0, None, Advice::DontNeed);
        let (sector, checksum) = read_super_sector(file).with_context(|| name.clone())?;
        Ok(Self {
            name,
            file,
            sector,
            checksum,
        })
    }

    /// Its name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The super sector.
    pub fn sector(&self) -> &SuperSector {
        &self.sector
    }

    /// The super sector as it is now.
    pub fn read_sector_again(&self) -> anyhow::Result<SuperSector> {
        let _ = fadvise(self.file, 0, None, Advice::DontNeed);
        Ok(read_super_sector(self.file).with_context(|| self.name.clone())?.0)
    }

    /// A scan of the log from a pack on.
    pub fn scan(&self, from: Lsid) -> Scanner<&'a File> {
        Scanner::new(self.file, self.sector.ring(), self.sector.salt(), from)
    }

    /// Walks from the written lsid to the end of the log, telling each pack.
    pub fn follow(
        &self,
        verb: &str,
        mut see: impl FnMut(&Logpack) -> anyhow::Result<()>,
    ) -> anyhow::Result<LogEnd> {
        let mut progress = self.progress(verb);
        let from = self.sector.written();
        let mut scanner = self.scan(from);
        let mut packs = 0;
        while let Some(pack) = scanner.next_pack().with_context(|| self.name.clone())? {
            see(&pack)?;
            packs += 1;
            progress.at(self.bytes(from, scanner.next_lsid()));
        }
        let latest = scanner.next_lsid();
        let (torn, rewrite) = match scanner.end() {
            Some(ScanEnd::Torn { bad, rewrite, .. }) => (Some(bad.clone()), rewrite.clone()),
            _ => (None, None),
        };
        Ok(LogEnd {
            packs,
            latest,
            torn,
            rewrite,
        })
    }

    /// Whether log that nobody has released was overwritten, as far as the ring shows it.
    pub fn has_overflowed(&self, latest: Lsid) -> anyhow::Result<bool> {
        let oldest = self.sector.oldest();
        if latest.0 - oldest.0 > self.sector.ring_size() {
            return Ok(true);
        }
        Ok(latest > oldest && self.header_at(oldest)?.is_none())
    }

    /// The header of the pack at an lsid, if one is there.
    pub fn header_at(&self, lsid: Lsid) -> anyhow::Result<Option<LogpackHeader>> {
        self.scan(lsid).next_header().with_context(|| self.name.clone())
    }

    /// Lsids behind the end of the log at which intact headers lie that a later start could take for valid; that of a
    /// torn pack of which nothing is left is one of them. All of the ring that is not live log is searched: how much a driver has in flight is a parameter of its own.
    pub fn stale_headers(&self, live_from: Lsid, latest: Lsid) -> anyhow::Result<Vec<Lsid>> {
        let (ring, salt) = (self.sector.ring(), self.sector.salt());
        stale_headers(self.file, &ring, salt, live_from, latest, ring.size())
            .with_context(|| self.name.clone())
    }

    /// Where live log starts: after an overflow nobody needs what is below the written lsid.
    pub fn live_from(&self, overflowed: bool) -> Lsid {
        if overflowed {
            self.sector.written()
        } else {
            self.sector.oldest()
        }
    }

    /// A progress over the ring.
    pub fn progress(&self, verb: &str) -> Progress {
        Progress::new(format!("{verb} {}", self.name), None)
    }

    /// Bytes of log between two lsids.
    pub fn bytes(&self, from: Lsid, to: Lsid) -> u64 {
        to.0.saturating_sub(from.0)
            .saturating_mul(self.sector.pbs().bytes() as u64)
    }

    /// The super sector as `show --json` has it.
    pub fn super_json(&self) -> Value {
        let s = &self.sector;
        json!({
            "pbs": s.pbs(), "salt": s.salt().0, "uuid": s.uuid(), "device_name": s.name(),
            "ring_buffer_size": s.ring_size(), "ring_buffer_offset": s.ring().first_pb(), "oldest_lsid": s.oldest(),
            "written_lsid": s.written(), "device_size_lb": s.device_size(), "version": 2,
            "metadata_size": s.metadata_size(), "checksum": self.checksum,
        })
    }

    /// The same as lines.
    pub fn super_text(&self) -> String {
        let s = &self.sector;
        format!(
            "super version 2 pbs {} salt {} uuid {} name {:?} ring_buffer_size {} ring_buffer_offset {} oldest_lsid {} \
             written_lsid {} device_size_lb {} checksum {:08x}\n",
            s.pbs(),
            s.salt().0,
            s.uuid(),
            s.name(),
            s.ring_size(),
            s.ring().first_pb(),
            s.oldest(),
            s.written(),
            s.device_size(),
            self.checksum
        )
    }
}

/// A torn pack as `--json` has it.
pub fn torn_json(torn: &DataChecksumError) -> Value {
    json!({ "pack_lsid": torn.pack, "record": torn.index })
}

/// The super sector says itself how large physical blocks are: it starts at the same byte for all of them.
fn read_super_sector(file: &File) -> anyhow::Result<(SuperSector, u32)> {
    let size = file.size().context("size")?;
    let mut block = vec![0; 4096];
    if size < SUPER_SECTOR_OFFSET + 4096 {
        bail!("{size} bytes are too few for a log device");
    }
    ReadAt::read_exact_at(file, &mut block, SUPER_SECTOR_OFFSET).context("read the super sector")?;
    let pbs = match block.get(12..16) {
        Some(&[0x00, 0x10, 0, 0]) => PhysicalBlockSize::B4096,
        _ => PhysicalBlockSize::B512,
    };
    block.truncate(pbs.bytes());
    let sector = SuperSector::decode(&block, pbs)?;
    sector.check_fits(size)?;
    let checksum = block
        .get(4..8)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    Ok((sector, checksum))
}
