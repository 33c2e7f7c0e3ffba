//! `walbc offline list`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::{Outcome, Output};

/// `walbc offline list`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc offline list --archive /var/lib/walb-archive")]
pub struct List {
    /// Directory of the archive's volumes
    #[arg(long, value_name = "DIR")]
    archive: PathBuf,
}

impl List {
    /// Runs it.
    pub fn run(self, _output: &Output) -> anyhow::Result<Outcome> {
        bail!("not yet supported:list {}", self.archive.display());
    }
}
