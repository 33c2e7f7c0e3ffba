use super::{MetaDiff, Snapshot};
use crate::format::wdiff::WdiffFileName;
use crate::types::ParseError;

/// The name of a stored diff carries all of its metadata but the size. Its form: [`WdiffFileName`].
impl MetaDiff {
    /// The name of its file: `20261122140300-M--2-3.wdiff`.
    pub fn file_name(&self) -> String {
        let pair = |at: Snapshot| (at.begin(), at.end());
        WdiffFileName {
            timestamp: self.timestamp(),
            mergeable: self.is_mergeable(),
            compare: self.is_compared(),
            before: pair(self.begin()),
            after: pair(self.end()),
        }
        .to_string()
    }

    /// Reads the name of a file of `size` bytes. Exactly the names [`MetaDiff::file_name`] makes are accepted, so that a
    /// name stands for one diff and back.
    pub fn from_file_name(name: &str, size: u64) -> Result<Self, ParseError> {
        let WdiffFileName {
            timestamp,
            mergeable,
            compare,
            before,
            after,
        } = name.parse()?;
        let bad = || ParseError::new("wdiff file name", name, "gids that move forward");
        let begin = Snapshot::new(before.0, before.1).map_err(|_| bad())?;
        let end = Snapshot::new(after.0, after.1).map_err(|_| bad())?;
        Ok(Self::new(begin, end)
            .map_err(|_| bad())?
            .with_mergeable(mergeable)
            .with_compared(compare)
            .with_timestamp(timestamp)
            .with_size(size))
    }
}
