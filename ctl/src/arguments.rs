//! Single-dash options of existing scripts (`-id`, `-to`, `-debug`, `-retry`) become the double-dash ones clap knows.
//!
//! Only options before the command are touched: what follows the command is the command's own.

use std::ffi::OsString;

/// Options with a value: those whose next word is not the command.
const VALUED: [&str; 8] = [
    "-a",
    "--host",
    "-p",
    "--port",
    "--id",
    "--to",
    "--retry",
    "--timeout",
];

/// The words for clap, and the name of the command among them if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// All words, the program's name first.
    pub words: Vec<OsString>,
    /// The command, and for `get` and other families the word after it: where an error comes from.
    pub command: Option<String>,
    /// The word after the command.
    pub second: Option<String>,
}

/// Translates `argv`.
pub fn translate(argv: impl IntoIterator<Item = OsString>) -> Arguments {
    let mut rest = argv.into_iter();
    let mut words: Vec<OsString> = rest.next().into_iter().collect();
    let (mut command, mut second) = (None, None);
    while let Some(word) = rest.next() {
        let known = word.to_str().unwrap_or_default();
        if !known.starts_with('-') {
            command = Some(known.to_owned());
            words.push(word);
            break;
        }
        let long = match known {
            "-id" => "--id",
            "-to" => "--to",
            "-debug" => "--debug",
            "-retry" => "--retry",
            other => other,
        };
        let valued = VALUED.contains(&long);
        words.push(if long == known { word } else { long.into() });
        if valued {
            words.extend(rest.next());
        }
    }
    for word in rest {
        if second.is_none() {
            second = word.to_str().filter(|w| !w.starts_with('-')).map(str::to_owned);
        }
        words.push(word);
    }
    Arguments {
        words,
        command,
        second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> (String, Option<String>) {
        let arguments = translate(line.split(' ').map(OsString::from));
        let words: Vec<_> = arguments.words.iter().map(|w| w.to_str().unwrap()).collect();
        (words.join(" "), arguments.command)
    }

    #[test]
    fn single_dash_options_before_the_command_become_double_dash_ones() {
        let (words, command) =
            translated("walbc -id ctl -a s0 -p 10000 -to 3 -debug -retry 5 get state vol0");
        assert_eq!(
            words,
            "walbc --id ctl -a s0 -p 10000 --to 3 --debug --retry 5 get state vol0"
        );
        assert_eq!(command.as_deref(), Some("get"));
    }

    #[test]
    fn double_dash_options_stay_and_their_values_are_not_taken_for_the_command() {
        let (words, command) =
            translated("walbc --id status --to 3 --host get --port 1 --timeout 2 --json version");
        assert_eq!(
            words,
            "walbc --id status --to 3 --host get --port 1 --timeout 2 --json version"
        );
        assert_eq!(command.as_deref(), Some("version"));
    }

    #[test]
    fn the_value_of_an_option_is_never_translated() {
        assert_eq!(translated("walbc -id -to status").0, "walbc --id -to status");
    }

    #[test]
    fn what_follows_the_command_is_left_alone() {
        let (words, command) = translated("walbc -a s0 exec ls -id -to -debug");
        assert_eq!(words, "walbc -a s0 exec ls -id -to -debug");
        assert_eq!(command.as_deref(), Some("exec"));
    }

    #[test]
    fn an_option_without_its_value_is_left_for_the_parser_to_refuse() {
        assert_eq!(translated("walbc -id").0, "walbc --id");
        assert_eq!(translated("walbc").1, None);
    }
}
