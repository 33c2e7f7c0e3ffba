//! The offline tools: WalB's files and devices read, checked, converted and restored by this process alone. No server, no
//! configuration, no network. `walbc offline ...` is this crate's [`Offline`].
//!
//! ```text
//!  log_device   show, verify, cat (-> wlog), redo (-> data device)
//!  wlog         show, verify, to-wdiff, redo (-> image)
//!  wdiff        show, verify, merge, apply (-> image), recompress
//!  image        hash, diff
//!  archive      restore, list, verify: an archive's directory without its daemon
//!
//!  input, out_file, target   what a command reads, makes anew, changes in place
//!  output, progress          what a person or a program sees of it
//! ```
//!
//! What all commands keep to:
//!
//! - stdout has the answer and nothing else: plain text, or one JSON object with `--json`. With `-o -` the answer is the
//!   stream. An error is one line on stderr, with its whole chain.
//! - Exit status 0 for a positive answer, else 1. A closed stdout ends an answer quietly with 0, since its reader has
//!   seen enough; it ends a stream (`-o -`) quietly with 1, since what the reader has is not whole.
//! - A file that is made appears under its name whole and durable, or not at all. What is changed in place is synced
//!   before the command succeeds.
//! - Memory does not grow with the files, an index of an indexed wdiff being made excepted.

pub mod archive;
pub mod image;
pub mod input;
pub mod log_device;
pub mod options;
pub mod out_file;
pub mod output;
pub mod progress;
pub mod target;
pub mod wdiff;
pub mod wlog;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub use output::{Outcome, Output};

/// `walbc offline`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wdiff show 20260102030405-M--0-1.wdiff\n\nNo server, no configuration and no network \
is used. Of the options above only --json means anything here."
)]
pub struct Offline {
    #[command(subcommand)]
    command: OfflineCommand,
}

/// What to work on.
#[derive(Debug, Subcommand)]
pub enum OfflineCommand {
    /// Logs as files: show, verify, convert, redo
    #[command(subcommand)]
    Wlog(wlog::WlogCommand),
    /// Diffs: show, verify, merge, apply, recompress
    #[command(subcommand)]
    Wdiff(wdiff::WdiffCommand),
    /// Log devices that nobody has open: show, verify, copy the log, redo
    #[command(subcommand)]
    LogDevice(log_device::LogDeviceCommand),
    /// Images of volumes: hash, compare
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Make the image of a snapshot from an archive's directory
    Restore(archive::Restore),
    /// List the volumes of an archive's directory, and what of them can be restored
    List(archive::List),
    /// Check an archive's directory: every file, every checksum, every gap
    Verify(archive::Verify),
}

/// Why a command did not succeed, for whoever prints it.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The words on the command line make no sense together.
    #[error("{0}")]
    Usage(String),
    /// Anything else: one line, the whole chain.
    #[error("{0}")]
    Failed(String),
}

impl Offline {
    /// Runs the command. Blocks; prints the answer, leaves the error to the caller.
    pub fn run(self, json: bool) -> Result<ExitCode, OfflineError> {
        let output = Output::new(json);
        let result = match self.command {
            OfflineCommand::Wlog(command) => command.run(&output),
            OfflineCommand::Wdiff(command) => command.run(&output),
            OfflineCommand::LogDevice(command) => command.run(&output),
            OfflineCommand::Image(command) => command.run(&output),
            OfflineCommand::Restore(command) => command.run(&output),
            OfflineCommand::List(command) => command.run(&output),
            OfflineCommand::Verify(command) => command.run(&output),
        };
        match result {
            Ok(Outcome::Positive) => Ok(ExitCode::SUCCESS),
            Ok(Outcome::Negative) => Ok(ExitCode::FAILURE),
            Err(error) => output::closed_pipe(&error)
                .map(output::ClosedPipe::exit_code)
                .ok_or_else(|| match error.downcast::<output::Usage>() {
                    Ok(usage) => OfflineError::Usage(usage.to_string()),
                    Err(error) => OfflineError::Failed(walb_common::daemon::chain(error.as_ref())),
                }),
        }
    }
}
