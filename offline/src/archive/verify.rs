//! `walbc offline verify`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::{Outcome, Output};

/// `walbc offline verify`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc offline verify --archive /var/lib/walb-archive")]
pub struct Verify {
    /// Directory of the archive's volumes
    #[arg(long, value_name = "DIR")]
    archive: PathBuf,
}

impl Verify {
    /// Runs it.
    pub fn run(self, _output: &Output) -> anyhow::Result<Outcome> {
        bail!("not yet supported:verify {}", self.archive.display());
    }
}
