//! wdiff file names, which carry a diff's metadata: `TTTTTTTTTTTTTT-mc-B-E.wdiff`, or with gid pairs when dirty.

use std::fmt;
use std::str::FromStr;

use crate::types::{Gid, ParseError, Timestamp};

/// What a wdiff's name says. The two-number form is used exactly when both snapshots are clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WdiffFileName {
    /// Of the state after the diff.
    pub timestamp: Timestamp,
    /// May be merged into the diff before it (`M`).
    pub mergeable: bool,
    /// Made by comparing full images (`C`).
    pub compare: bool,
    /// The snapshot before: gids, begin <= end.
    pub before: (Gid, Gid),
    /// The snapshot after.
    pub after: (Gid, Gid),
}

const FORM: &str = "YYYYMMDDhhmmss-[M-][C-]-B-E.wdiff or ...-Bb-Be-Eb-Ee.wdiff with B before E";

impl WdiffFileName {
    /// The file extension, with its dot.
    pub const SUFFIX: &str = ".wdiff";

    /// Whether the numbers are those of a diff.
    pub fn is_valid(&self) -> bool {
        let (before, after) = (self.before, self.after);
        before.0 <= before.1 && after.0 <= after.1 && before.0 < after.0 && before.1 <= after.1
    }
}

impl fmt::Display for WdiffFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |set, letter| if set { letter } else { '-' };
        let (m, c) = (flag(self.mergeable, 'M'), flag(self.compare, 'C'));
        write!(f, "{}-{m}{c}-", self.timestamp.compact())?;
        let (before, after) = (self.before, self.after);
        if before.0 == before.1 && after.0 == after.1 {
            write!(f, "{}-{}.wdiff", before.0, after.0)
        } else {
            write!(f, "{}-{}-{}-{}.wdiff", before.0, before.1, after.0, after.1)
        }
    }
}

impl FromStr for WdiffFileName {
    type Err = ParseError;
    fn from_str(name: &str) -> Result<Self, ParseError> {
        parse(name).ok_or_else(|| ParseError::new("wdiff file name", name, FORM))
    }
}

fn parse(name: &str) -> Option<WdiffFileName> {
    let (time, rest) = name.strip_suffix(WdiffFileName::SUFFIX)?.split_at_checked(14)?;
    let timestamp = Timestamp::from_compact(time).ok()?;
    let (flags, rest) = rest.strip_prefix('-')?.split_at_checked(2)?;
    let flag = |at: usize, letter: u8| match flags.as_bytes()[at] {
        b'-' => Some(false),
        found if found == letter => Some(true),
        _ => None,
    };
    let (mergeable, compare) = (flag(0, b'M')?, flag(1, b'C')?);
    let gids: Vec<Gid> = rest
        .strip_prefix('-')?
        .splitn(5, '-')
        .map(gid)
        .collect::<Option<_>>()?;
    let (before, after) = match gids[..] {
        [b, e] => ((b, b), (e, e)),
        // Two clean snapshots have the short form only: one diff, one name.
        [bb, be, eb, ee] if bb != be || eb != ee => ((bb, be), (eb, ee)),
        _ => return None,
    };
    Some(WdiffFileName {
        timestamp,
        mergeable,
        compare,
        before,
        after,
    })
    .filter(WdiffFileName::is_valid)
}

fn gid(text: &str) -> Option<Gid> {
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if text.is_empty() || leading_zero {
        None
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_as_they_were_read() {
        for name in [
            "20260102030405-M--0-1.wdiff",
            "20260102030405----3-4.wdiff",
            "20260102030405-M--1-3-4-9.wdiff",
            "20260102030405--C-255-4096.wdiff",
            "20260102030405-MC-1-2-3-3.wdiff",
        ] {
            assert_eq!(name.parse::<WdiffFileName>().unwrap().to_string(), name);
        }
        let dirty: WdiffFileName = "20260102030405-M--1-3-4-9.wdiff".parse().unwrap();
        assert_eq!((dirty.before, dirty.after), ((Gid(1), Gid(3)), (Gid(4), Gid(9))));
        assert!(dirty.mergeable && !dirty.compare);
    }

    #[test]
    fn what_is_no_wdiff_name_is_refused() {
        for name in [
            "",
            "20260102030405-M--0-1",
            "20260102030405-M--0-1.wdiff.tmp",
            "20261302030405-M--0-1.wdiff",
            "20260102030405-m--0-1.wdiff",
            "20260102030405-CM-0-1.wdiff",
            "20260102030405-M--1-1.wdiff",
            "20260102030405-M--2-1.wdiff",
            "20260102030405-M--01-2.wdiff",
            "20260102030405-M--0-1-2.wdiff",
            "20260102030405-M--0-0-1-1.wdiff",
            "20260102030405-M--0-1-2-3-4.wdiff",
            "20260102030405-M--3-1-4-9.wdiff",
            "20260102030405-M--1-5-4-4.wdiff",
            "20260102030405-M--0-18446744073709551616.wdiff",
            "20260102030405-M--0-+1.wdiff",
            "20260102030405-é-0-1.wdiff",
        ] {
            assert!(name.parse::<WdiffFileName>().is_err(), "{name}");
        }
    }

    /// A name has no checksum, so another digit is another diff. But nothing is read as what it does not say.
    #[test]
    fn a_damaged_name_is_refused_or_read_as_it_stands() {
        for name in [
            "20260102030405-MC-255-4096.wdiff",
            "20260102030405----1-3-4-19.wdiff",
        ] {
            let sound: WdiffFileName = name.parse().unwrap();
            let mut damaged = name.as_bytes().to_vec();
            for bit in 0..name.len() * 8 {
                damaged[bit / 8] ^= 1 << (bit % 8);
                if let Some(found) = str::from_utf8(&damaged)
                    .ok()
                    .and_then(|n| n.parse::<WdiffFileName>().ok())
                {
                    assert_eq!(found.to_string().as_bytes(), damaged, "of {name}");
                    assert_ne!(found, sound);
                }
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..name.len() {
                assert!(name[..len].parse::<WdiffFileName>().is_err(), "{}", &name[..len]);
            }
        }
    }
}
