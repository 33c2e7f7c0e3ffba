//! The small files as the existing archive stores them. Byte tables: docs/formats/base-state.md.
//!
//! Neither form can be taken for the other: a text never starts with a byte these start with, or is of another length.

use crate::lineage::{BaseState, Snapshot};
use crate::types::{Gid, ParseError, Timestamp, Uuid};

const SNAPSHOT_MARK: u16 = 0x0311;
const BASE_MARK: u16 = 0x0313;
/// Longest text believed.
const TEXT_MAX: u64 = 64;

/// Text: its length, then its bytes.
pub(super) fn text(stored: &[u8]) -> Option<&str> {
    let mut at = Cursor(stored);
    let length = at.integer()?;
    let text = at.take(usize::try_from(length).ok().filter(|_| length <= TEXT_MAX)?)?;
    at.ended()?;
    std::str::from_utf8(text).ok()
}

/// A uuid: its bytes.
pub(super) fn uuid(stored: &[u8]) -> Option<Uuid> {
    stored.try_into().ok().map(Uuid)
}

/// A base state: mark, whether applying, time, snapshot, target. None if it is something else.
pub(super) fn base_state(stored: &[u8]) -> Option<Result<BaseState, ParseError>> {
    let mut at = Cursor(stored);
    (at.mark()? == BASE_MARK).then(|| {
        at.base_state().ok_or_else(|| {
            ParseError::new(
                "base state",
                &format!("{stored:02x?}"),
                "the bytes of a base state as the existing archive stores it, moving forward if applying",
            )
        })
    })
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn ended(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    fn mark(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }

    /// An integer in as few bytes as hold it: one byte for itself, or a head that tells how many follow and whether they
    /// carry a sign.
    fn integer(&mut self) -> Option<u64> {
        let [head] = self.bytes()?;
        Some(match head {
            0x80 => u64::from(u8::from_le_bytes(self.bytes()?)),
            0x81 => u64::from(u16::from_le_bytes(self.bytes()?)),
            0x82 => u64::from(u32::from_le_bytes(self.bytes()?)),
            0x83 | 0x87 => u64::from_le_bytes(self.bytes()?),
            0x84 => i64::from(i8::from_le_bytes(self.bytes()?)).cast_unsigned(),
            0x85 => i64::from(i16::from_le_bytes(self.bytes()?)).cast_unsigned(),
            0x86 => i64::from(i32::from_le_bytes(self.bytes()?)).cast_unsigned(),
            itself => i64::from(itself.cast_signed()).cast_unsigned(),
        })
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        if self.mark()? != SNAPSHOT_MARK {
            return None;
        }
        let (begin, end) = (Gid(self.integer()?), Gid(self.integer()?));
        Snapshot::new(begin, end).ok()
    }

    fn base_state(&mut self) -> Option<BaseState> {
        let applying = match self.bytes()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let timestamp = Timestamp(self.integer()?);
        let (at, target) = (self.snapshot()?, self.snapshot()?);
        self.ended()?;
        if applying {
            BaseState::applying(at, target, timestamp)
        } else {
            // The target of an earlier apply may still stand there; it means nothing.
            Some(BaseState::idle(at, timestamp))
        }
    }
}
