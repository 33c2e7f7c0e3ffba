//! Diffs: show, verify, merge, apply, recompress.

mod apply;
mod layout;
mod merge;
mod recompress;
mod show;
mod source;
mod verify;

pub use source::from_stdin;

use clap::Subcommand;

use crate::{Outcome, Output};

/// `walbc offline wdiff`.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  walbc offline wdiff show 20260102030405-M--0-1.wdiff")]
pub enum WdiffCommand {
    /// Print the header and the records of a diff
    Show(show::Show),
    /// Check every byte of a diff that can be checked
    Verify(verify::Verify),
    /// Make one diff of several
    Merge(merge::Merge),
    /// Apply diffs to an image
    Apply(apply::Apply),
    /// Write a diff again, compressed otherwise
    Recompress(recompress::Recompress),
}

impl WdiffCommand {
    /// Runs it.
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        match self {
            Self::Show(command) => command.run(output),
            Self::Verify(command) => command.run(output),
            Self::Merge(command) => command.run(output),
            Self::Apply(command) => command.run(output),
            Self::Recompress(command) => command.run(output),
        }
    }
}
