use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use time::OffsetDateTime;
use walb_offline::OfflineError;

use crate::answer::Answer;
use crate::arguments::{self, Arguments};
use crate::command::{Cli, Command, UNSUPPORTED_COMMANDS, UNSUPPORTED_TARGETS};
use crate::error::{self, CommandError};

/// Runs one command; `argv` starts with the program's name. Exit status: 0 for a positive answer, else 1.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = arguments::translate(argv);
    let cli = match Cli::try_parse_from(&arguments.words) {
        Ok(cli) => cli,
        Err(error) => return refuse(&arguments, &error),
    };
    if cli.options.debug {
        walb_common::daemon::logging::init(true);
    }
    let origin = origin(&arguments);
    if let Command::Offline(offline) = cli.command {
        return match offline.run(cli.options.json) {
            Ok(code) => code,
            Err(OfflineError::Usage(reason)) => wrong_usage(&reason),
            Err(OfflineError::Failed(reason)) => fail(&origin, &reason),
        };
    }
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CommandError::Io {
            what: "start the runtime".into(),
            source,
        })
        .and_then(|runtime| runtime.block_on(cli.command.run(&cli.options, &origin)));
    match result {
        Ok(answer) => print(&answer, cli.options.json),
        Err(CommandError::Usage(reason)) => wrong_usage(&reason),
        Err(error) => fail(&origin, &error.reason()),
    }
}

/// The command, with its subcommand if it is of a family.
fn origin(arguments: &Arguments) -> String {
    let command = arguments.command.clone().unwrap_or_default();
    match &arguments.second {
        Some(second) if matches!(command.as_str(), "get" | "archive-info" | "pki" | "offline") => {
            format!("{command} {second}")
        }
        _ => command,
    }
}

fn fail(origin: &str, reason: &str) -> ExitCode {
    eprintln!("{}", error::line(OffsetDateTime::now_utc(), origin, reason));
    ExitCode::FAILURE
}

/// Help is an answer; wrong usage goes to stderr. A value of a wrong form is no matter of usage and gets the one line.
fn refuse(arguments: &Arguments, error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return write(&error.render().to_string());
        }
        ErrorKind::ValueValidation => {
            if let Some(source) = error.source() {
                let named = match error.get(ContextKind::InvalidArg) {
                    Some(ContextValue::String(name)) => format!(":{name}"),
                    _ => String::new(),
                };
                return fail(&origin(arguments), &format!("{source}{named}"));
            }
        }
        ErrorKind::InvalidSubcommand => {
            if let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) {
                let is_target = arguments.command.as_deref() == Some("get");
                let known = if is_target {
                    UNSUPPORTED_TARGETS
                } else {
                    UNSUPPORTED_COMMANDS
                };
                if known.contains(&name.as_str()) {
                    return fail(&origin(arguments), &format!("not yet supported:{name}"));
                }
                if is_target {
                    return fail(
                        "get",
                        &format!("no such target:{name} (`walbc get -h` lists them)"),
                    );
                }
            }
        }
        _ => {}
    }
    // The first paragraph says what is wrong; the usage behind it is one `-h` away, and one error is one line.
    let text = error.render().to_string();
    let reason: Vec<_> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    wrong_usage(reason.join(" ").trim_start_matches("error: "))
}

fn wrong_usage(reason: &str) -> ExitCode {
    eprintln!("OptionError:{reason} (`walbc -h` and `walbc COMMAND -h` tell more)");
    ExitCode::FAILURE
}

fn print(answer: &Answer, json: bool) -> ExitCode {
    if json {
        write(&format!("{}\n", answer.json))
    } else {
        write(&answer.text)
    }
}

/// Writes to stdout. Whoever closed it has seen enough: that is no failure.
fn write(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail("", &format!("write to stdout:{error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}
