//! `wdevc`: controls WalB devices of this host, with the commands and outputs of the kernel driver's tool.

mod args;
mod format;
mod run;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use walb_common::daemon::chain;
use walb_common::types::Timestamp;

fn main() -> ExitCode {
    let args = match args::Args::try_parse_from(two_dashes(std::env::args_os())) {
        Ok(args) => args,
        Err(error) => {
            // Help is an answer; everything else is wrong usage, with the exit code scripts know.
            let failed = error.use_stderr();
            // A closed standard output is nothing to complain about.
            let _ = error.print();
            return if failed {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    walb_common::daemon::logging::init(args.debug);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run::run(args)));
    match result {
        Ok(answer) => match write(&answer) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("write to stdout: {error}")),
        },
        Err(error) => fail(&chain(error.as_ref())),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("{} ERROR wdevc:{why}", Timestamp::now());
    ExitCode::FAILURE
}

/// Writes to stdout. Whoever closed it has seen enough: that is no failure.
fn write(answer: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// The existing tool's options have one dash, also those of several letters: `-nd`, `-maxl 32`.
fn two_dashes(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let is_long = |text: &str| {
        text.strip_prefix('-')
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with(|c: char| c.is_ascii_alphabetic()))
    };
    args.enumerate()
        .map(|(n, arg)| match arg.to_str() {
            Some(text) if n > 0 && is_long(text) => OsString::from(format!("-{text}")),
            _ => arg,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn options_of_several_letters_need_only_one_dash() {
        let given = [
            "wdevc",
            "create-wdev",
            "l",
            "d",
            "-n",
            "vol0",
            "-maxl",
            "32",
            "--nbd",
            "/s",
            "-h",
            "-",
        ];
        let expected = [
            "wdevc",
            "create-wdev",
            "l",
            "d",
            "-n",
            "vol0",
            "--maxl",
            "32",
            "--nbd",
            "/s",
            "-h",
            "-",
        ];
        assert_eq!(
            two_dashes(given.iter().map(OsString::from)),
            expected.map(OsString::from)
        );
    }

    #[test]
    fn every_command_has_a_sentence_and_an_example() {
        let command = args::Args::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            let after = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                after.contains(&format!("wdevc {}", sub.get_name())),
                "{}",
                sub.get_name()
            );
        }
    }
}
