//! `wlog to-wdiff`.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use walb_common::convert::wlog_files::Progress as At;
use walb_common::convert::{WdiffForm, WlogFile, convert_wlogs};
use walb_common::types::Lb;

use crate::input::{self, Input};
use crate::options::{self, OutOptions, WdiffOptions};
use crate::out_file::{self, OutFile};
use crate::output::mebibytes;
use crate::progress::Progress;
use crate::{Outcome, Output};

/// The net effect of the logs, which must follow each other without a gap.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wlog to-wdiff a.wlog b.wlog -o 20260102030405-M--0-1.wdiff\n  \
walbc offline wlog to-wdiff - --layout indexed --compression zstd:3 -o -\n\nThe name of a diff in an archive carries its \
snapshots and time: it is for you to give. All cores are used; memory is \
about 100 bytes for each record. A log from stdin is first put aside in a temporary file beside OUT, or in TMPDIR with `-o -`."
)]
pub struct ToWdiff {
    /// Logs, oldest first; `-` for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    out: OutOptions,
    #[command(flatten)]
    wdiff: WdiffOptions,
    /// Largest record, in bytes with an optional suffix (k, m); 0 for no limit
    #[arg(long, value_name = "BYTES", default_value = "1m", value_parser = options::max_io)]
    max_io: Lb,
}

impl ToWdiff {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let out = OutFile::create(&self.out, &self.files, output)?;
        let scratch = out.scratch_dir();
        input::check_stdin_once(&self.files)?;
        let logs = self.files.iter().map(|path| open(path, &scratch));
        let logs = logs.collect::<anyhow::Result<Vec<_>>>()?;
        let form = WdiffForm {
            layout: self.wdiff.layout.into(),
            setting: self.wdiff.compression,
            max_io: self.max_io,
            // As the existing tools do it, so that both give the same records.
            cut_dataless: true,
        };
        let (out, log) = convert_wlogs(&logs, out, form, &mut showing(&logs))?;
        let stats = log.stats;
        let streamed = matches!(out, OutFile::Stream(_));
        out.commit()?;
        if streamed {
            return Ok(Outcome::Positive);
        }
        let (begin, end) = (log.begin, log.end);
        let json = json!({
            "output": self.out.out, "uuid": log.uuid, "begin_lsid": begin, "end_lsid": end, "packs": stats.packs,
            "ios": stats.ios, "written_lb": stats.written, "records": stats.wdiff.records, "bytes": stats.wdiff.bytes,
        });
        let text = format!(
            "{}: {} records, {} bytes, from {} writes and discards of {}, lsid {begin} to {end}\n",
            self.out.out.display(),
            stats.wdiff.records,
            stats.wdiff.bytes,
            stats.ios,
            mebibytes(stats.written.bytes())
        );
        output.answer(&json, &text)?;
        Ok(Outcome::Positive)
    }
}

/// Shows how far both passes are.
fn showing(logs: &[WlogFile]) -> impl FnMut(At) -> ControlFlow<()> + use<> {
    let bytes = logs.iter().map(WlogFile::size).sum();
    let mut survey = Some(Progress::new("read and check", Some(bytes)));
    let mut build = None;
    move |at| {
        match at {
            At::Surveyed(bytes) => survey.iter_mut().for_each(|p| p.at(bytes)),
            At::Built { done, of } => {
                survey = None;
                let progress = build.get_or_insert_with(|| Progress::new("compress and write", Some(of)));
                progress.at(done);
            }
        }
        ControlFlow::Continue(())
    }
}

/// The log as a file. What comes through a pipe is needed twice, so it is put aside first.
fn open(path: &Path, scratch: &Path) -> anyhow::Result<WlogFile> {
    let input = Input::open(path, "read")?;
    let name = input.name().to_owned();
    let file = match input.into_unread_file() {
        Ok(file) => file,
        Err(mut input) => {
            let mut aside = out_file::scratch(scratch)?;
            io::copy(&mut input, &mut aside).with_context(|| format!("put {name} aside"))?;
            aside
        }
    };
    Ok(WlogFile::from_file(file, name)?)
}
