//! What the guest tells the host, line by line.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

const PASSED: &str = "passed";
const FAILED: &str = "FAILED";
const DURABLE: &str = "durable";

/// The guest's end.
pub struct Report(File);

impl Report {
    /// To a serial line.
    pub fn to(port: File) -> Self {
        Self(port)
    }

    /// Anything for a reader.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.0, "{text}")
    }

    /// The writes to a device up to this one must survive a loss of power.
    pub fn durable(&mut self, device: &str, number: u32) -> io::Result<()> {
        writeln!(self.0, "{DURABLE} {device} {number}")
    }

    /// How a scenario ended.
    pub fn ended(&mut self, name: &str, after: Duration, result: &Result<(), String>) -> io::Result<()> {
        let seconds = after.as_secs_f32();
        match result {
            Ok(()) => writeln!(self.0, "{PASSED} {name} ({seconds:.1} s)"),
            Err(reason) => {
                // The console has all of it.
                let reason: String = reason.replace(['\n', '\r'], " ").chars().take(1000).collect();
                writeln!(self.0, "{FAILED} {name} ({seconds:.1} s) {reason}")
            }
        }
    }
}

/// A line that counts, at the host's end.
pub enum Line {
    /// A scenario ended.
    Ended {
        /// Which one.
        name: String,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// A flush of a device was answered.
    Durable {
        /// Which device.
        device: String,
        /// The last write before it.
        number: u32,
    },
}

impl Line {
    /// Understands a line; `None` for one that only a reader is to see.
    pub fn parse(line: &str) -> Option<Self> {
        let (verdict, rest) = line.trim_end().split_once(' ')?;
        if verdict == DURABLE {
            let (device, number) = rest.split_once(' ')?;
            return Some(Self::Durable {
                device: device.to_owned(),
                number: number.parse().ok()?,
            });
        }
        let (name, rest) = rest.split_once(" (")?;
        let (_, reason) = rest.split_once(')')?;
        let result = match verdict {
            PASSED => Ok(()),
            FAILED => Err(reason.trim().to_owned()),
            _ => return None,
        };
        let name = name.to_owned();
        Some(Self::Ended { name, result })
    }
}
