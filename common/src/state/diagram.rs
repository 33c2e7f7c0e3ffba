//! The tables as diagrams, for docs/states.md.

use std::fmt::Write as _;

use super::{Move, Named, archive, proxy, storage};

/// A Mermaid state diagram of a role's moves: `from --> to: command (state while it runs)`.
pub fn render<S: Named, D: Named, C: Named>(moves: &[Move<S, D, C>]) -> String {
    let mut text = format!("stateDiagram-v2\n    [*] --> {}\n", S::ALL[0].name());
    for m in moves {
        let (from, to) = (m.from.name(), m.to.name());
        let (by, through) = (m.by.name(), m.through.name());
        writeln!(text, "    {from} --> {to}: {by} ({through})").expect("writing to a string");
    }
    text
}

/// The whole of docs/states.md.
pub fn render_page() -> String {
    let mut page = String::from(INTRODUCTION);
    for (role, diagram) in [
        ("Storage", render(storage::MOVES)),
        ("Proxy", render(proxy::MOVES)),
        ("Archive", render(archive::MOVES)),
    ] {
        write!(page, "\n## {role}\n\n```mermaid\n{diagram}```\n").expect("writing to a string");
    }
    page.push_str("\n### What the commands of an archive need\n\n");
    page.push_str("| Command | Accepted states | Refused while any of these actions runs |\n|:--|:--|:--|\n");
    for rule in archive::RULES {
        let accepted: Vec<_> = rule.accepted.iter().map(super::State::name).collect();
        let refused: Vec<_> = rule.refused_while.iter().map(Named::name).collect();
        let refused = if refused.is_empty() {
            "none".to_owned()
        } else {
            refused.join(", ")
        };
        writeln!(page, "| {} | {} | {refused} |", rule.command, accepted.join(", "))
            .expect("writing to a string");
    }
    page
}

const INTRODUCTION: &str = "\
# States of a volume

This page is rendered from the tables in `common/src/state/`; a test keeps the two equal.

A volume has one state in each daemon that knows it. The boxes are the *static* states: at rest, stored, what a restart
finds. An arrow is a command; the name in brackets is the *dynamic* state shown while it runs. A command that fails, or a
daemon that dies meanwhile, leaves the volume where the arrow starts. What runs in the background beside the state is
called an *action*.
";
