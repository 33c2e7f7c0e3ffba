//! `walbc offline restore`.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use rustix::fs::ioctl_ficlone;
use serde_json::json;
use walb_common::convert::{RestoreStream, WdiffMerger, apply_wdiffs, restore_to_image, restore_to_writer};
use walb_common::format::wdiff::{SortedWriter, WdiffReader};
use walb_common::lineage::MetaDiff;
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid, VolumeName};

use super::output::{Out, Sparse, check_room, tell};
use super::place::{Archive, Base};
use super::source::{OpenDiff, Source};
use super::when::When;
use crate::options::{Discard, OutOptions};
use crate::out_file::{OutFile, scratch};
use crate::output::closed_pipe;
use crate::progress::Progress;
use crate::{Outcome, Output};

/// Diffs read at once. More are merged before, into files without a name.
const MAX_READERS: usize = 256;

/// Reads the archive's files only: no server, no database. Writes nothing there; the daemon may run meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline restore --archive /var/lib/walb-archive --volume vol0 --latest -o vol0.img\n  walbc \
offline restore --archive /mnt/copy --volume vol0 --at 2026-11-22T14:03:00 -o -\n  walbc \
offline restore --archive /var/lib/walb --base /dev/vg/wb_vol0 --volume vol0 --gid 12 --force -o /dev/vg/new\n\nA file appears \
under its name whole and synced, or not at all. A block device is overwritten from its start; what it has behind the \
image stays. To another host: `... -o - | ssh HOST 'cat > /dev/vg/vol0'`. `walbc offline list` tells which snapshots there are."
)]
pub struct Restore {
    #[command(flatten)]
    archive: Archive,
    /// Volume
    #[arg(long, value_name = "VOL")]
    volume: VolumeName,
    #[command(flatten)]
    when: When,
    #[command(flatten)]
    base: Base,
    /// File to make, block device to overwrite, or `-` for stdout
    #[arg(short = 'o', long = "output", value_name = "OUT")]
    out: PathBuf,
    /// Replace OUT if it exists; needed for a block device
    #[arg(long)]
    force: bool,
    /// Leave out this wdiff, e.g. because it is damaged: other diffs may lead past it. May be repeated
    #[arg(long, value_name = "FILE")]
    without: Vec<String>,
    /// What discards of the volume do: the range becomes zero, as on the volume; or keeps older data
    #[arg(long, value_enum, default_value_t = Discard::Zero)]
    discard: Discard,
}

impl Restore {
    /// Runs it.
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let options = OutOptions {
            out: self.out.clone(),
            force: self.force,
        };
        if options.out != Path::new("-") {
            self.archive.refuse_output(&options.out)?;
        }
        let place = self.archive.place(&self.volume, &self.base)?;
        let source = Source::open(place, self.when, &self.without)?;
        let bytes = source.size.bytes();
        let mut out = Out::open(&options, &source.place().image, bytes, output)?;
        self.fill(&source, &mut out).map_err(|error| {
            // Quiet, as every stream whose reader has gone.
            if closed_pipe(&error).is_some() {
                return error;
            }
            error.context(format!(
                "{}: restore gid {}",
                out.state_after_failure(&options),
                source.choice.gid
            ))
        })?;
        let path = out.path(&options).cloned();
        if let Out::File(file) = out {
            file.commit()?;
        }
        self.tell(&source, path, began, output)?;
        Ok(Outcome::Positive)
    }

    fn tell(
        &self,
        source: &Source,
        path: Option<PathBuf>,
        began: Instant,
        output: &Output,
    ) -> anyhow::Result<()> {
        let choice = &source.choice;
        let target = path
            .as_ref()
            .map_or("stdout".to_owned(), |path| path.display().to_string());
        let line = format!(
            "{}: gid {} of {} restored to {target}: {} bytes, {} diffs over {}",
            self.volume,
            choice.gid,
            choice.timestamp,
            source.size.bytes(),
            choice.diffs.len(),
            choice.base,
        );
        if path.is_none() {
            tell(&line);
            return Ok(());
        }
        output.answer(
            &json!({
                "volume": self.volume,
                "gid": choice.gid,
                "timestamp": choice.timestamp,
                "time": choice.timestamp.to_string(),
                "output": target,
                "size": source.size.bytes(),
                "base": choice.base.to_string(),
                "diffs": choice.diffs.iter().map(MetaDiff::file_name).collect::<Vec<_>>(),
                "seconds": began.elapsed().as_secs_f64(),
            }),
            &(line + "\n"),
        )
    }

    /// Writes the image, syncs it, and only then is sure that it is one.
    fn fill(&self, source: &Source, out: &mut Out) -> anyhow::Result<()> {
        let made = match out {
            Out::Device(device) => {
                let stream = self.stream(source, &std::env::temp_dir())?;
                let mut progress = self.progress(source.size.bytes());
                restore_to_image(stream, device.file(), false, &mut |done| {
                    go_on(&mut progress, done)
                })
                .map(|_| ())
                .map_err(Into::into)
            }
            Out::File(OutFile::File { file, path, .. }) => {
                let dir = path
                    .parent()
                    .filter(|dir| !dir.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                self.fill_file(source, file.as_file(), dir)
            }
            Out::File(OutFile::Stream(stdout)) => {
                let stream = self.stream(source, &std::env::temp_dir())?;
                let mut progress = self.progress(source.size.bytes());
                restore_to_writer(stream, stdout, &mut |done| go_on(&mut progress, done))
                    .map(|_| ())
                    .map_err(Into::into)
            }
        };
        if let Err(error) = made {
            if closed_pipe(&error).is_some() {
                return Err(error);
            }
            // In a merge a record does not tell which file it came from.
            return Err(match source.what_is_damaged() {
                Some(told) => anyhow!(told).context(error),
                None => error,
            });
        }
        source.still_holds()
    }

    fn fill_file(&self, source: &Source, file: &File, dir: &Path) -> anyhow::Result<()> {
        // Any refusal means "not here"; a real failure will show itself in the copy.
        if ioctl_ficlone(file, &source.base).is_ok() {
            return self.apply(source, file);
        }
        check_room(file, &source.base)?;
        file.set_len(source.size.bytes()).context("set the size")?;
        let stream = self.stream(source, dir)?;
        let mut progress = self.progress(source.size.bytes());
        restore_to_image(stream, &Sparse(file), true, &mut |done| {
            go_on(&mut progress, done)
        })?;
        Ok(())
    }

    /// Applies the diffs to a clone of the base image.
    fn apply(&self, source: &Source, file: &File) -> anyhow::Result<()> {
        let mut progress = self.progress(source.choice.diffs.iter().map(MetaDiff::size).sum());
        let mut before = 0;
        for round in source.diffs.chunks(MAX_READERS) {
            let readers = readers(round)?;
            apply_wdiffs(readers, file, self.discard.into(), &mut |done| {
                go_on(&mut progress, before + done)
            })?;
            before += round.iter().map(|open| open.diff.size()).sum::<u64>();
        }
        // What was not touched by any diff is only as durable as the clone.
        file.sync_all().context("sync")
    }

    fn stream(&self, source: &Source, scratch_dir: &Path) -> anyhow::Result<RestoreStream<File>> {
        let base = source.base.try_clone().context("open the base image again")?;
        let readers = if source.diffs.len() <= MAX_READERS {
            readers(&source.diffs)?
        } else {
            self.merged(source, scratch_dir)?
        };
        Ok(RestoreStream::new(base, readers, self.discard.into())?)
    }

    /// Few readers that give what many diffs do.
    fn merged(&self, source: &Source, scratch_dir: &Path) -> anyhow::Result<Vec<WdiffReader>> {
        let mut progress = Progress::new(
            format!("merge the diffs of {}", self.volume),
            Some(source.choice.diffs.iter().map(MetaDiff::size).sum()),
        );
        let mut done = 0;
        let mut all = Vec::new();
        for round in source.diffs.chunks(MAX_READERS) {
            let file = scratch(scratch_dir)?;
            let name = format!("a merge of {} diffs in {}", round.len(), scratch_dir.display());
            self.merge(readers(round)?, &file)
                .with_context(|| format!("write {name}"))?;
            done += round.iter().map(|open| open.diff.size()).sum::<u64>();
            progress.at(done);
            (&file).rewind().with_context(|| format!("read {name}"))?;
            all.push(WdiffReader::from_file(file, name)?);
        }
        if all.len() > MAX_READERS {
            bail!("{} diffs are more than can be merged at once", source.diffs.len());
        }
        Ok(all)
    }

    fn merge(&self, readers: Vec<WdiffReader>, file: &File) -> anyhow::Result<()> {
        let readers = readers.into_iter().map(WdiffReader::joining_pieces).collect();
        let mut merger = WdiffMerger::new(readers, Lb(0))?;
        if self.discard == Discard::Ignore {
            merger = merger.without_discards();
        }
        let setting = CompressionSetting::of(Compression::Lz4);
        let mut out = SortedWriter::new(BufWriter::with_capacity(1 << 20, file), Uuid::NIL, setting)?;
        while let Some(record) = merger.next_record()? {
            out.write(&record)?;
        }
        out.finish()?.0.flush()?;
        Ok(())
    }

    fn progress(&self, total: u64) -> Progress {
        Progress::new(format!("restore {}", self.volume), Some(total))
    }
}

fn readers(diffs: &[OpenDiff]) -> anyhow::Result<Vec<WdiffReader>> {
    let reader = |open: &OpenDiff| {
        let name = open.path.display().to_string();
        let file = open
            .file
            .try_clone()
            .with_context(|| format!("open {name} again"))?;
        Ok(WdiffReader::from_file(file, name)?)
    };
    diffs.iter().map(reader).collect()
}

fn go_on(progress: &mut Progress, done: u64) -> ControlFlow<()> {
    progress.at(done);
    ControlFlow::Continue(())
}
