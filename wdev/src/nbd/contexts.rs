//! Metadata contexts: what a client can ask about ranges, and the answers to it.
//!
//! | Context | Says | From |
//! |:--|:--|:--|
//! | `base:allocation` | which ranges are zero, which have no room | pending log, then holes of the data device |
//! | `walb:dirty` | which ranges have changed | the device's bitmap; not offered without one |

use super::exports::Export;
use super::protocol::{CHUNK_BLOCK_STATUS, CHUNK_BYTES, CHUNK_DONE, Errno, STRUCTURED_REPLY_MAGIC, state};
use super::transmission::to_errno;
use crate::block::Holds;

/// Extents of one answer and context. A client asks again from where they end.
const EXTENTS_MAX: usize = 1024;

/// What can be asked about ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Zeros and holes.
    Allocation,
    /// What has changed.
    Dirty,
}

impl Context {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Allocation, Self::Dirty];

    /// The name on the wire, with its namespace.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::Dirty => "walb:dirty",
        }
    }

    /// The number in answers; the same on every connection.
    pub const fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
            Self::Dirty => 2,
        }
    }

    /// Whether a query means this context. A namespace alone (`base:`) only lists, and selects nothing.
    pub fn matches(self, query: &[u8], listing: bool) -> bool {
        let name = self.name().as_bytes();
        let namespace = name.split_inclusive(|b| *b == b':').next();
        query == name || listing && Some(query) == namespace
    }
}

/// The chunks that answer a block status request: one for each context, the last one done.
pub(super) fn block_status(
    export: &Export,
    contexts: &[Context],
    cookie: u64,
    (offset, len): (u64, u32),
    one: bool,
) -> Result<Vec<u8>, Errno> {
    let mut chunks = Vec::new();
    for (nth, context) in contexts.iter().enumerate() {
        let extents = extents(export, *context, offset, len, if one { 1 } else { EXTENTS_MAX })?;
        let flags = if nth + 1 == contexts.len() { CHUNK_DONE } else { 0 };
        let length = u32::try_from(4 + 8 * extents.len()).unwrap_or(u32::MAX);
        chunks.reserve(CHUNK_BYTES + 4 + 8 * extents.len());
        chunks.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        chunks.extend_from_slice(&flags.to_be_bytes());
        chunks.extend_from_slice(&CHUNK_BLOCK_STATUS.to_be_bytes());
        chunks.extend_from_slice(&cookie.to_be_bytes());
        chunks.extend_from_slice(&length.to_be_bytes());
        chunks.extend_from_slice(&context.id().to_be_bytes());
        for (len, flags) in extents {
            chunks.extend_from_slice(&len.to_be_bytes());
            chunks.extend_from_slice(&flags.to_be_bytes());
        }
    }
    Ok(chunks)
}

/// Length and flags of each extent from `offset` on: at least one, none empty, none behind the range.
fn extents(
    export: &Export,
    context: Context,
    offset: u64,
    len: u32,
    most: usize,
) -> Result<Vec<(u32, u32)>, Errno> {
    let device = export.device();
    let range = u64::from(len);
    let found: Vec<(u64, u32)> = match context {
        Context::Allocation => {
            let flags = |holds| match holds {
                Holds::Data => 0,
                Holds::Zeros => state::ZERO,
                Holds::Hole => state::ZERO | state::HOLE,
            };
            let extents = device.allocation(offset, range, most).map_err(to_errno)?;
            extents.iter().map(|e| (e.len, flags(e.holds))).collect()
        }
        Context::Dirty => {
            let flags = |dirty| if dirty { state::DIRTY } else { 0 };
            // It was offered, so it was there; without it nobody knows, and all counts as changed.
            match device.dirty(offset, range, most) {
                Some(extents) => extents.iter().map(|e| (e.len, flags(e.dirty))).collect(),
                None => vec![(range, state::DIRTY)],
            }
        }
    };
    let mut left = len;
    let mut extents = Vec::with_capacity(found.len().min(most));
    for (length, flags) in found.into_iter().take(most) {
        let here = u32::try_from(length).unwrap_or(u32::MAX).min(left);
        left -= here;
        if here > 0 {
            extents.push((here, flags));
        }
    }
    // The protocol wants at least one. A device that says nothing is taken to hold data everywhere.
    if extents.is_empty() {
        extents.push((
            len,
            if context == Context::Dirty {
                state::DIRTY
            } else {
                0
            },
        ));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_selects_by_its_whole_name_and_lists_by_its_namespace_too() {
        for (query, listing, expected) in [
            ("base:allocation", false, true),
            ("base:allocation", true, true),
            ("base:", true, true),
            ("base:", false, false),
            ("base", true, false),
            ("", true, false),
            ("base:alloc", true, false),
            ("walb:", true, false),
        ] {
            let found = Context::Allocation.matches(query.as_bytes(), listing);
            assert_eq!(found, expected, "{query} {listing}");
        }
    }
}
