//! Help is complete: every command says what it does and shows an example.

use clap::{Command, CommandFactory};

use super::Cli;

fn walk(command: &mut Command, path: &str, see: &mut dyn FnMut(&str, &mut Command)) {
    let path = format!("{path} {}", command.get_name());
    see(&path, command);
    for sub in command.get_subcommands_mut() {
        walk(sub, &path, see);
    }
}

#[test]
fn every_command_has_a_sentence_and_an_example_that_parses() {
    let mut seen = 0;
    let mut command = Cli::command();
    command.build();
    walk(&mut command, "", &mut |path, command| {
        seen += 1;
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(about.len() > 10, "{path} has no sentence");
        // Taken before it is wrapped to the width of the terminal.
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let (_, examples) = help
            .split_once("Example:")
            .unwrap_or_else(|| panic!("{path} has no example"));
        let mut lines = 0;
        for line in examples
            .lines()
            .skip(1)
            .map(str::trim)
            .take_while(|l| !l.is_empty())
        {
            lines += 1;
            let words = crate::arguments::translate(line.split(' ').map(Into::into)).words;
            if let Err(error) = <Cli as clap::Parser>::try_parse_from(words) {
                panic!("{path}: the example does not parse: {line}\n{error}");
            }
        }
        assert!(lines > 0, "{path} has an empty example");
    });
    assert!(seen > 50, "{seen}");
}

#[test]
fn help_of_get_lists_every_target_with_a_line_each() {
    let mut command = Cli::command();
    let get = command.find_subcommand_mut("get").unwrap();
    let names: Vec<String> = get.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let help = get.render_help().to_string();
    for name in names {
        let listed = help
            .lines()
            .any(|l| l.split_whitespace().next() == Some(&name) && l.trim().len() > name.len() + 8);
        assert!(listed, "{name} is not listed:\n{help}");
    }
}

#[test]
fn the_parser_is_consistent() {
    Cli::command().debug_assert();
}
