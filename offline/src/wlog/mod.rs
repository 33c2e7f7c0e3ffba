//! Logs as files: show, verify, to-wdiff, redo.

mod chain;
mod headers;
mod redo;
mod show;
mod to_wdiff;
mod verify;

pub(crate) use headers::{header_json, header_text, stored_checksum};
pub(crate) use redo::Applied;

use clap::Subcommand;

use crate::{Outcome, Output};

/// `walbc offline wlog`.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  walbc offline wlog show a.wlog")]
pub enum WlogCommand {
    /// Print the headers and records of a log
    Show(show::Show),
    /// Check every byte of a log that can be checked
    Verify(verify::Verify),
    /// Convert logs that follow each other into one diff
    ToWdiff(to_wdiff::ToWdiff),
    /// Apply a log to an image
    Redo(redo::Redo),
}

impl WlogCommand {
    /// Runs it.
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        match self {
            Self::Show(command) => command.run(output),
            Self::Verify(command) => command.run(output),
            Self::ToWdiff(command) => command.run(output),
            Self::Redo(command) => command.run(output),
        }
    }
}
