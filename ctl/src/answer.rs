//! What a command found out: the server's JSON, and the text made of it.

use std::fmt;

use serde_json::Value;

/// The answer of a command in both forms; which one is printed is decided at the very end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// For `--json`.
    pub json: Value,
    /// For scripts and people: whole lines, or nothing.
    pub text: String,
}

impl Answer {
    /// An answer that prints nothing unless JSON is asked for.
    pub fn silent(json: Value) -> Self {
        Self {
            json,
            text: String::new(),
        }
    }

    /// An answer of one line.
    pub fn line(json: Value, line: impl fmt::Display) -> Self {
        Self {
            json,
            text: format!("{line}\n"),
        }
    }

    /// An answer of one line per item; nothing at all when there is none.
    pub fn lines<T: fmt::Display>(json: Value, items: impl IntoIterator<Item = T>) -> Self {
        let mut text = Text::default();
        for item in items {
            text.line(item);
        }
        Self {
            json,
            text: text.finish(),
        }
    }
}

/// Text that grows line by line.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Adds a line.
    pub fn line(&mut self, line: impl fmt::Display) {
        self.0.push_str(&line.to_string());
        self.0.push('\n');
    }

    /// Adds a line `KEY VALUE`.
    pub fn pair(&mut self, key: &str, value: impl fmt::Display) {
        self.line(format_args!("{key} {value}"));
    }

    /// Adds a heading.
    pub fn heading(&mut self, name: impl fmt::Display) {
        self.line(format_args!("-----{name}-----"));
    }

    /// The whole.
    pub fn finish(self) -> String {
        self.0
    }
}

/// `0` or `1`, as all bool values are printed.
pub fn bit(value: bool) -> u8 {
    u8::from(value)
}
