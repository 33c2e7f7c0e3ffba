//! Where two images differ.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::{Outcome, Output};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walbc offline image diff a.img b.img")]
pub struct Diff {
    /// A file or a block device
    a: PathBuf,
    /// The other
    b: PathBuf,
}

impl Diff {
    pub fn run(self, _output: &Output) -> anyhow::Result<Outcome> {
        bail!(
            "not yet supported:image diff {} {}",
            self.a.display(),
            self.b.display()
        );
    }
}
