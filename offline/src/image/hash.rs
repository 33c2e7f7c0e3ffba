//! The block hash of an image.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::{Outcome, Output};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc offline image hash volume.img")]
pub struct Hash {
    /// A file or a block device
    image: PathBuf,
}

impl Hash {
    pub fn run(self, _output: &Output) -> anyhow::Result<Outcome> {
        bail!("not yet supported:image hash {}", self.image.display());
    }
}
