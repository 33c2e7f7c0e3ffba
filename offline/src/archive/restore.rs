//! `walbc offline restore`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::{Outcome, Output};

/// `walbc offline restore`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc offline restore --archive /var/lib/walb-archive")]
pub struct Restore {
    /// Directory of the archive's volumes
    #[arg(long, value_name = "DIR")]
    archive: PathBuf,
}

impl Restore {
    /// Runs it.
    pub fn run(self, _output: &Output) -> anyhow::Result<Outcome> {
        bail!("not yet supported:restore {}", self.archive.display());
    }
}
