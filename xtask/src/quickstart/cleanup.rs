//! Whatever was set up is torn down in reverse order, also after a failure or Ctrl-C.
//!
//! The list is written to `DIR/teardown` as it grows, one shell command a line, newest last: so that what `--keep` left
//! (or a killed quickstart) can still be torn down.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const LIST: &str = "teardown";

/// The list of commands.
pub struct Cleanup {
    dir: PathBuf,
    commands: Vec<String>,
    done: bool,
}

impl Cleanup {
    /// For a quickstart in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            commands: Vec::new(),
            done: false,
        }
    }

    /// Adds a shell command that undoes what has just been done.
    pub fn add(&mut self, command: String) -> Result<()> {
        let mut list = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(LIST))?;
        writeln!(list, "{command}")?;
        self.commands.push(command);
        Ok(())
    }

    /// Leaves everything as it is.
    pub fn keep(mut self) {
        self.done = true;
    }

    /// Tears down.
    pub fn run(mut self) {
        self.tear_down();
    }

    fn tear_down(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            undo(&self.commands);
            remove(&self.dir);
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.tear_down();
    }
}

fn undo(commands: &[String]) {
    for command in commands.iter().rev() {
        if let Err(error) = crate::run::quietly("sh", &["-c", command]) {
            eprintln!("while cleaning up: {error:#}");
        }
    }
}

fn remove(dir: &Path) {
    // Something may still be mounted below it when a step of the teardown failed: never remove through a mount.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = format!("{}/", dir.display());
    if mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .any(|point| point.starts_with(&prefix))
    {
        eprintln!("something is still mounted below {}: not removed", dir.display());
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("while removing {}: {error}", dir.display());
    }
}

/// Tears down what an earlier `--keep` left in `dir`.
pub fn stop_kept(dir: &Path) -> Result<()> {
    let list = dir.join(LIST);
    let text = std::fs::read_to_string(&list).with_context(|| {
        format!(
            "read {}: is {} the directory of a quickstart?",
            list.display(),
            dir.display()
        )
    })?;
    undo(&text.lines().map(str::to_owned).collect::<Vec<_>>());
    remove(dir);
    Ok(())
}
