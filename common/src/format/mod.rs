//! Bytes to values and back, one folder per stage of the flow. Pure: no clocks, no async, nothing of a role.
//!
//! ```text
//!  log_device  super sector, logpacks in a ring      docs/formats/log-device.md
//!  wlog        a stretch of that log as a stream     docs/formats/wlog.md
//!  wdiff       the net effect of a stretch of log    docs/formats/wdiff.md
//! ```
//!
//! Every decoder checks length, checksum, kind and meaning, in that order, and bounds every count and size it was
//! given before using it; a value in hand is therefore one that was believed.

#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts are 64-bit (asserted in format); what is narrowed further was bounded first"
)]

const _: () = assert!(usize::BITS == 64, "sizes of the formats are used as usize");

pub mod checksum;
pub mod compress;

pub mod log_device;
pub mod read_at;

pub mod wdiff;
pub mod wlog;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

/// Reads until `buf` is full or the input ends; tells how much came.
pub(crate) fn fill(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match input.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
