//! `wlog redo`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use walb_common::convert::ImageTarget;
use walb_common::disk::fault;
use walb_common::format::log_device::{LogRecord, RecordKind};
use walb_common::format::wlog::Logpack;
use walb_common::types::{LB_SIZE, Lb};

use super::chain::Chain;
use super::headers::{Headers, file_header};
use crate::input::Input;
use crate::options::Discard;
use crate::output::mebibytes;
use crate::target::Target;
use crate::{Outcome, Output};

/// Changes the image in place, and syncs it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wlog redo a.wlog volume.img\n\nA log in a file is looked through first: one whose \
headers are damaged, or that does not fit the image, changes nothing. If damaged data are met later, what precedes \
them has been applied, and the error says so."
)]
pub struct Redo {
    /// A wlog, or several one after the other; `-` for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Image file or block device; it does not grow
    image: PathBuf,
    /// What a discard does
    #[arg(long, value_enum, default_value_t = Discard::Zero)]
    discard: Discard,
    /// Skip writes and discards that reach beyond the end of the image, as the existing tools do, instead of refusing
    #[arg(long)]
    skip_beyond_end: bool,
}

impl Redo {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let target = Target::open(&self.image)?;
        let mut redo = Applied::new(&target, self.discard, self.skip_beyond_end);
        if self.file != Path::new("-") {
            redo.look_through(&self.file)?;
        }
        let mut chain = Chain::open(vec![self.file], "redo")?;
        let result = redo.all(&mut chain);
        // What was written before damage was met is made durable as well: the error tells how far it goes.
        fault::point("offline.redo.before_sync")
            .and_then(|()| target.file().sync())
            .with_context(|| format!("sync {}", target.name()))?;
        let end = chain.next_lsid();
        result.with_context(|| match redo.packs {
            0 => format!("{} is unchanged", target.name()),
            _ => format!(
                "{} has the log up to lsid {end}, but not what follows",
                target.name()
            ),
        })?;
        output.answer(
            &json!({
                "image": self.image, "packs": redo.packs, "end_lsid": end, "written": redo.written,
                "zeroed": redo.zeroed, "skipped_records": redo.skipped,
            }),
            &format!(
                "{}: {} written, {} zeroed, {} records skipped, log applied up to lsid {end}\n",
                target.name(),
                mebibytes(redo.written),
                mebibytes(redo.zeroed),
                redo.skipped
            ),
        )?;
        Ok(Outcome::Positive)
    }
}

/// Applying packs to an image, record by record in the order of the log.
#[derive(Debug)]
pub struct Applied<'a> {
    target: &'a Target,
    size: Lb,
    discard: Discard,
    skip_beyond_end: bool,
    /// Packs of which something was, or would have been, applied.
    pub packs: u64,
    /// Bytes.
    pub written: u64,
    /// Bytes.
    pub zeroed: u64,
    /// Records beyond the end.
    pub skipped: u64,
}

impl<'a> Applied<'a> {
    /// Nothing applied yet.
    pub fn new(target: &'a Target, discard: Discard, skip_beyond_end: bool) -> Self {
        Self {
            target,
            size: Lb(target.size() / LB_SIZE),
            discard,
            skip_beyond_end,
            packs: 0,
            written: 0,
            zeroed: 0,
            skipped: 0,
        }
    }

    /// With the size of a volume that is smaller than its device.
    #[must_use]
    pub fn volume_size(mut self, size: Lb) -> Self {
        self.size = self.size.min(size);
        self
    }

    /// Reads the headers only, to refuse before anything is changed.
    fn look_through(&self, path: &Path) -> anyhow::Result<()> {
        let mut input = Input::open(path, "look through")?;
        let name = input.name().to_owned();
        let mut look = || -> anyhow::Result<()> {
            while let Some(header) = file_header(&mut input)? {
                let mut headers = Headers::after(&header);
                while let Some((pack, _)) = headers.next(&mut input)? {
                    for record in pack.records() {
                        self.is_within(record)?;
                    }
                }
            }
            Ok(())
        };
        look()
            .context(name)
            .with_context(|| format!("{} is unchanged", self.target.name()))
    }

    /// Applies what is left of the logs.
    fn all(&mut self, chain: &mut Chain) -> anyhow::Result<()> {
        while let Some(pack) = chain.next_pack()? {
            self.pack(&pack)?;
        }
        Ok(())
    }

    /// Applies a verified pack.
    pub fn pack(&mut self, pack: &Logpack) -> anyhow::Result<()> {
        self.packs += 1;
        for (record, data) in pack.records() {
            if !self.is_within(record)? {
                self.skipped += 1;
                continue;
            }
            let (position, length) = (record.offset.bytes(), record.size.bytes());
            let done = match (record.kind, self.discard) {
                (RecordKind::Normal, _) => {
                    self.written += length;
                    self.target.file().write_at(&data, position)
                }
                (RecordKind::Discard, Discard::Zero) => {
                    self.zeroed += length;
                    self.target.file().write_zeroes(position, length)
                }
                (RecordKind::Discard, Discard::Ignore) | (RecordKind::Padding, _) => Ok(()),
            };
            done.with_context(|| format!("write {} at byte {position}", self.target.name()))?;
        }
        Ok(())
    }

    /// Whether a record is to be applied; an error if that is refused.
    fn is_within(&self, record: &LogRecord) -> anyhow::Result<bool> {
        let changes_nothing = match record.kind {
            RecordKind::Padding => true,
            RecordKind::Discard => self.discard == Discard::Ignore,
            RecordKind::Normal => false,
        };
        let end = Lb(record.offset.0.saturating_add(record.size.0));
        if changes_nothing || end <= self.size {
            return Ok(true);
        }
        if self.skip_beyond_end {
            return Ok(false);
        }
        bail!(
            "record at lsid {} ends at block {end}, but {} has {} blocks",
            record.lsid,
            self.target.name(),
            self.size
        );
    }
}
