//! `wdiff apply`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use walb_common::convert::apply_wdiffs;
use walb_common::format::wdiff::RecordKind;
use walb_common::types::{LB_SIZE, Lb};

use super::source::{Part, open_all, walk};
use crate::input::{self, Input};
use crate::options::Discard;
use crate::output::mebibytes;
use crate::target::Target;
use crate::{Outcome, Output};

/// Changes the image in place, and syncs it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wdiff apply a.wdiff b.wdiff volume.img\n\nDiffs in files are looked through \
first: if the structure of one is damaged, or one does not fit the image, nothing is changed. If damaged data are met \
later, the image is partly changed; applying whole diffs again from the first one mends that."
)]
pub struct Apply {
    /// Diffs, oldest first; one of them may be `-` for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Image file or block device; it does not grow
    #[arg(required = true)]
    image: PathBuf,
    /// What a discard does
    #[arg(long, value_enum, default_value_t = Discard::Zero)]
    discard: Discard,
}

impl Apply {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        input::check_stdin_once(&self.files)?;
        let target = Target::open(&self.image)?;
        let name = target.name();
        for path in self.files.iter().filter(|p| *p != Path::new("-")) {
            self.look_through(path, &target)
                .with_context(|| format!("{name} is unchanged"))?;
        }
        let readers = open_all(&self.files, "apply")?;
        let stats = apply_wdiffs(readers, target.file(), self.discard.into(), &mut |_| {
            ControlFlow::Continue(())
        })
        .with_context(|| format!("{name} may be partly changed"))?;
        output.answer(
            &json!({
                "image": self.image, "diffs": self.files.len(), "records": stats.records, "written": stats.written,
                "zeroed": stats.zeroed,
            }),
            &format!(
                "{name}: {} records, {} written, {} zeroed\n",
                stats.records,
                mebibytes(stats.written),
                mebibytes(stats.zeroed)
            ),
        )?;
        Ok(Outcome::Positive)
    }

    /// Reads the structure only, to refuse before anything is changed.
    fn look_through(&self, path: &Path, target: &Target) -> anyhow::Result<()> {
        let size = Lb(target.size() / LB_SIZE);
        let input = Input::open(path, "look through")?;
        walk(path, input, |part| {
            let Part::Record(record) = part else {
                return Ok(());
            };
            let ignored = record.kind() == RecordKind::Discard && self.discard == Discard::Ignore;
            if record.end() > size && !ignored {
                bail!(
                    "{} has a record that ends at block {}, but the image has {size} blocks",
                    path.display(),
                    record.end()
                );
            }
            Ok(())
        })
    }
}
