//! Images of volumes: hash, diff.

mod diff;
mod hash;

use clap::Subcommand;

use crate::{Outcome, Output};

/// `walbc offline image`.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  walbc offline image hash volume.img")]
pub enum ImageCommand {
    /// Print the block hash of an image
    Hash(hash::Hash),
    /// Tell where two images differ
    Diff(diff::Diff),
}

impl ImageCommand {
    /// Runs it.
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        match self {
            Self::Hash(command) => command.run(output),
            Self::Diff(command) => command.run(output),
        }
    }
}
