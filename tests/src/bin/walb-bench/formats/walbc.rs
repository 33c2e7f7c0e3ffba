//! The commands under measure: `walbc offline ...`, as an operator calls them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use walb_tests::binaries;

use super::table::{Case, Output};
use super::yardstick::{bytes, text};
use crate::child;
use crate::generate::{self, WlogSpec};

/// Names of the layouts of a wdiff.
pub const LAYOUTS: [&str; 2] = ["sorted", "indexed"];

/// A case that runs `walbc offline` with `arguments` on `inputs`.
pub fn case(name: &str, arguments: &[&str], inputs: &[PathBuf], output: Output) -> Result<Case> {
    let mut bytes_in = 0;
    for input in inputs {
        bytes_in += bytes(input)?;
    }
    let walbc = binaries::path("walbc");
    let mut command = vec![text(&walbc)?, "offline"];
    command.extend(arguments);
    for input in inputs {
        command.push(text(input)?);
    }
    if let Output::File(path) = &output {
        command.extend(["-o", text(path)?]);
    }
    let mut case = Case::new(name, &command, bytes_in);
    case.output = output;
    Ok(case)
}

/// Makes a wlog and of it a wdiff at `to`.
pub fn make_wdiff(spec: WlogSpec, layout: &str, compression: &str, to: &Path) -> Result<generate::Made> {
    let wlog = to.with_extension("wlog");
    let made = generate::wlog(&wlog, spec)?;
    let mut command = Command::new(binaries::path("walbc"));
    command.args(["offline", "wlog", "to-wdiff", "--layout", layout]);
    command.args(["--compression", compression]);
    command.arg(&wlog).arg("-o").arg(to).stdout(Stdio::null());
    child::run(&mut command).context("make a wdiff to work on")?;
    std::fs::remove_file(&wlog)?;
    // It was written past the page cache. All commands are to find it there, the first too.
    std::io::copy(&mut std::fs::File::open(to)?, &mut std::io::sink())?;
    Ok(made)
}
