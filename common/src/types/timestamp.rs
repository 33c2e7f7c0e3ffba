use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::ParseError;

/// Seconds since 1970 in UTC; 0 means "none" and prints as `---`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// No time.
    pub const NONE: Self = Self(0);
    /// The end of the year 9999: later times have no text form, so nothing from outside may have them.
    pub const MAX: Self = Self(253_402_300_799);

    /// The wall clock. Callers that decide by time take it as an argument instead.
    pub fn now() -> Self {
        Self(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
        )
    }

    fn date_time(self) -> OffsetDateTime {
        // Nothing from outside is later; a wrong clock of ours prints as the last second there is.
        i64::try_from(self.0.min(Self::MAX.0))
            .ok()
            .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// `YYYYMMDDhhmmss`, as file names and base states carry it.
    pub fn compact(self) -> String {
        self.date_time()
            .format(format_description!("[year][month][day][hour][minute][second]"))
            .expect("every field of the format exists")
    }

    /// Reads `YYYYMMDDhhmmss`.
    pub fn from_compact(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("time", text, "YYYYMMDDhhmmss");
        if text.len() != 14 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let format = format_description!("[year][month][day][hour][minute][second]");
        let parsed = PrimitiveDateTime::parse(text, format).map_err(|_| bad())?;
        u64::try_from(parsed.assume_utc().unix_timestamp())
            .map(Self)
            .map_err(|_| bad())
    }
}

/// From a peer or a file.
impl TryFrom<u64> for Timestamp {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        if seconds > Self::MAX.0 {
            let most = Self::MAX;
            return Err(format!(
                "time {seconds} s after 1970, expected at most {} ({most})",
                most.0
            ));
        }
        Ok(Self(seconds))
    }
}

impl From<Timestamp> for u64 {
    fn from(time: Timestamp) -> Self {
        time.0
    }
}

/// `YYYY-MM-DDThh:mm:ss`, or `---` for none.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("---");
        }
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
        f.write_str(
            &self
                .date_time()
                .format(format)
                .expect("every field of the format exists"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_and_parse_in_utc() {
        let t = Timestamp::from_compact("20261122140300").unwrap();
        assert_eq!(t.to_string(), "2026-11-22T14:03:00");
        assert_eq!(t.compact(), "20261122140300");
        assert_eq!(Timestamp::NONE.to_string(), "---");
    }

    #[test]
    fn a_time_without_a_text_form_is_not_taken_from_outside() {
        let last = "253402300799";
        let taken: Timestamp = serde_json::from_str(last).unwrap();
        assert_eq!(taken.compact(), "99991231235959");
        assert_eq!(serde_json::to_string(&taken).unwrap(), last);
        let error = serde_json::from_str::<Timestamp>("253402300800").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected at most 253402300799 (9999-12-31T23:59:59)"),
            "{error}"
        );
        assert_eq!(Timestamp(u64::MAX).compact(), "99991231235959");
    }

    #[test]
    fn impossible_times_are_refused() {
        for text in [
            "20261322140300",
            "20260230140300",
            "2026112214030",
            "2026112214030x",
            "202611221403000",
            "19691231235959",
        ] {
            assert!(Timestamp::from_compact(text).is_err(), "{text}");
        }
    }
}
