use super::{MetaDiff, Snapshot};
use crate::types::{Gid, ParseError, Timestamp};

const FORM: &str =
    "YYYYMMDDhhmmss-[M|-][C|-]-B-E.wdiff or ...-Bb-Be-Eb-Ee.wdiff, gids decimal without leading zeros";

/// The name of a stored diff carries all of its metadata but the size. Form: docs/formats/wdiff.md.
impl MetaDiff {
    /// The name of its file: `20261122140300-M--2-3.wdiff`.
    pub fn file_name(&self) -> String {
        let mergeable = if self.is_mergeable() { 'M' } else { '-' };
        let compared = if self.is_compared() { 'C' } else { '-' };
        let (begin, end) = (self.begin(), self.end());
        let gids = if self.is_clean() {
            format!("{}-{}", begin.begin(), end.begin())
        } else {
            format!("{}-{}-{}-{}", begin.begin(), begin.end(), end.begin(), end.end())
        };
        format!(
            "{}-{mergeable}{compared}-{gids}.wdiff",
            self.timestamp().compact()
        )
    }

    /// Reads the name of a file of `size` bytes. Strict: exactly the names [`MetaDiff::file_name`] makes are accepted,
    /// so that a name maps to one diff and back.
    pub fn from_file_name(name: &str, size: u64) -> Result<Self, ParseError> {
        let bad = || ParseError::new("wdiff file name", name, FORM);
        let stem = name.strip_suffix(".wdiff").ok_or_else(bad)?;
        let (time, rest) = stem.split_at_checked(14).ok_or_else(bad)?;
        let timestamp = Timestamp::from_compact(time).map_err(|_| bad())?;
        let rest = rest.strip_prefix('-').ok_or_else(bad)?;
        let (flags, rest) = rest.split_at_checked(2).ok_or_else(bad)?;
        let (mergeable, compared) = match flags {
            "--" => (false, false),
            "M-" => (true, false),
            "-C" => (false, true),
            "MC" => (true, true),
            _ => return Err(bad()),
        };
        let gids: Vec<Gid> = rest
            .strip_prefix('-')
            .ok_or_else(bad)?
            .splitn(5, '-')
            .map(|gid| gid.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let (begin, end) = match gids[..] {
            [b, e] => (Snapshot::clean(b), Snapshot::clean(e)),
            [bb, be, eb, ee] => (
                Snapshot::new(bb, be).map_err(|_| bad())?,
                Snapshot::new(eb, ee).map_err(|_| bad())?,
            ),
            _ => return Err(bad()),
        };
        let diff = Self::new(begin, end)
            .map_err(|_| bad())?
            .with_mergeable(mergeable)
            .with_compared(compared)
            .with_timestamp(timestamp)
            .with_size(size);
        // Leading zeros, or four gids where two would do.
        if diff.file_name() != name {
            return Err(bad());
        }
        Ok(diff)
    }
}
