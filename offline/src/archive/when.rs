//! Which snapshot is wanted, and points in time as people write them.

use std::str::FromStr;

use clap::Args;
use walb_common::archive_files::{Choice, NotRestorable};
use walb_common::lineage::{BaseState, DiffSet};
use walb_common::types::{Gid, ParseError, Timestamp};

/// Which snapshot.
#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = false)]
pub struct When {
    /// The snapshot with this gid
    #[arg(long, value_name = "GID")]
    gid: Option<Gid>,
    /// The newest snapshot
    #[arg(long)]
    latest: bool,
    /// The newest snapshot at or before a time: YYYY-MM-DDThh:mm:ss (UTC), YYYYMMDDhhmmss as in file names, or Unix seconds
    #[arg(long, value_name = "TIME")]
    at: Option<PointInTime>,
}

impl When {
    /// The way to it.
    pub fn choose(self, base: &BaseState, diffs: &DiffSet) -> Result<Choice, NotRestorable> {
        match (self.gid, self.at) {
            (Some(gid), _) => Choice::of_gid(base, diffs, gid),
            (_, Some(PointInTime(time))) => Choice::at_time(base, diffs, time),
            (None, None) => Choice::newest(base, diffs),
        }
    }
}

/// A time of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointInTime(pub Timestamp);

impl FromStr for PointInTime {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || {
            ParseError::new(
                "time",
                text,
                "YYYY-MM-DDThh:mm:ss (UTC), YYYYMMDDhhmmss or Unix seconds",
            )
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let time = match text.len() {
                14 => Timestamp::from_compact(text).map_err(|_| bad())?,
                _ => Timestamp(text.parse().map_err(|_| bad())?),
            };
            return Ok(Self(time));
        }
        let time = text.strip_suffix('Z').unwrap_or(text);
        let form = "dddd-dd-ddTdd:dd:dd";
        let fits = time.len() == form.len()
            && time
                .bytes()
                .zip(form.bytes())
                .all(|(found, expected)| match expected {
                    b'd' => found.is_ascii_digit(),
                    other => found == other,
                });
        if !fits {
            return Err(bad());
        }
        let digits: String = time.chars().filter(char::is_ascii_digit).collect();
        Timestamp::from_compact(&digits).map(Self).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_each_of_its_forms() {
        for text in [
            "2026-11-22T14:03:00",
            "2026-11-22T14:03:00Z",
            "20261122140300",
            "1795356180",
        ] {
            let time: PointInTime = text.parse().unwrap();
            assert_eq!(time.0.compact(), "20261122140300", "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "-1",
            "2026-11-22",
            "2026-11-22 14:03:00",
            "2026-11-22T14:03",
            "2026-11-22T14:03:00+09:00",
            "2026-13-22T14:03:00",
            "20261322140300",
            "2026-11-22T14:03:0\u{664}",
            "99999999999999999999",
        ] {
            assert!(text.parse::<PointInTime>().is_err(), "{text}");
        }
    }
}
