//! Log devices: show, verify, cat, redo.

mod cat;
mod device;
mod redo;
mod show;
mod verify;

use clap::Subcommand;

use crate::{Outcome, Output};

/// `walbc offline log-device`.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  walbc offline log-device show /dev/vg0/log0")]
pub enum LogDeviceCommand {
    /// Print the super sector and the headers of the log
    Show(show::Show),
    /// Check a log device
    Verify(verify::Verify),
    /// Copy the log into a file
    Cat(cat::Cat),
    /// Apply the log to the data device, as a start of the device would
    Redo(redo::Redo),
}

impl LogDeviceCommand {
    /// Runs it.
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        match self {
            Self::Show(command) => command.run(output),
            Self::Verify(command) => command.run(output),
            Self::Cat(command) => command.run(output),
            Self::Redo(command) => command.run(output),
        }
    }
}
