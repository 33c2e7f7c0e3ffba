//! What is done with wdiffs: applying to an image, merging.

use std::io::{self, Read};
use std::ops::ControlFlow;

use walb_common::convert::{DiscardMode, ImageSource, RestoreStream, apply_wdiffs, merge_to_sorted};
use walb_common::format::read_at::ReadAt;
use walb_common::format::wdiff::WdiffReader;
use walb_common::testing::{MemImage, indexed_wdiff, random_ios, sorted_wdiff};
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};
use walb_fuzz_engine::memory::bounded;

use super::wdiff::{MAX_IMAGE, read, reader};
use super::{Target, seeds};
use crate::naive;
use crate::naive::effect::{Change, Step, apply, assert_same};
use crate::naive::u16_at;

/// Blocks of the image that is applied to: a small one, and one of more than two of the windows that a restore
/// works in.
const IMAGES: [Lb; 2] = [Lb(64), Lb(5000)];
const OLD: u8 = 0xee;
/// A merge of more makes no difference to the code.
const INPUTS_MAX: usize = 3;

/// Input: mode (bits 0-1: discards ignored, zeroed, passed down; bit 2: the larger image), then wdiffs, each behind its
/// length (u16), oldest first.
pub const APPLY: Target = Target {
    name: "apply",
    about: "wdiffs of any layout applied to an image, in place and as a stream",
    seeds: || [all_seeds(IMAGES[0]), all_seeds(IMAGES[1])].concat(),
    repair: |input, deep| repair_all(input, deep),
    run: |input| {
        let Some((&mode, rest)) = input.split_first() else {
            return;
        };
        let wdiffs = split(rest);
        let (Some(first), Some(second)) = (readers(&wdiffs), readers(&wdiffs)) else {
            return;
        };
        let discard =
            [DiscardMode::Ignore, DiscardMode::Zero, DiscardMode::Passdown][usize::from(mode & 3) % 3];
        let size = IMAGES[usize::from(mode >> 2 & 1)];
        let image = MemImage::filled(size, OLD);
        // What is read, what waits to be merged, batches on their way.
        let limit = (2 + wdiffs.len()) * 4 * MAX_IMAGE + 64 * input.len() + (16 << 20);
        let applied = bounded(limit, || {
            apply_wdiffs(first, &image, discard, &mut |_| ControlFlow::Continue(()))
        });
        let old = vec![OLD; size.bytes() as usize];
        let mut restored = Vec::new();
        let streamed = bounded(limit + 4 * old.len(), || {
            RestoreStream::new(Base(&old), second, discard)
                .map_err(io::Error::other)
                .and_then(|mut stream| stream.read_to_end(&mut restored))
        });
        match (
            &applied,
            expected_image(&wdiffs, &old, discard == DiscardMode::Ignore),
        ) {
            (Ok(_), Some(expected)) => assert!(*image.bytes() == expected, "the image"),
            (Ok(_), None) => panic!("applied what the naive reader cannot apply"),
            (Err(_), _) => {}
        }
        assert_eq!(
            applied.is_ok(),
            streamed.is_ok(),
            "in place {applied:?}, as a stream {streamed:?}"
        );
        assert!(
            applied.is_err() || *image.bytes() == restored,
            "the streamed image"
        );
    },
    max_len: 24 << 10,
};

/// A base image in memory.
struct Base<'a>(&'a [u8]);

impl ReadAt for Base<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

impl ImageSource for Base<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

fn expected_image(wdiffs: &[&[u8]], old: &[u8], ignore_discards: bool) -> Option<Vec<u8>> {
    apply(&all_steps(wdiffs)?, old, ignore_discards)
}

/// What the naive reader makes of the wdiffs, oldest first. None if bytes are missing.
fn all_steps(wdiffs: &[&[u8]]) -> Option<Vec<Step>> {
    let all: Option<Vec<_>> = wdiffs.iter().map(|wdiff| naive::wdiff::read(wdiff)).collect();
    Some(
        all?.into_iter()
            .flatten()
            .filter(|step| step.blocks > 0)
            .collect(),
    )
}

/// Input: largest piece (one byte: blocks, 0 for none, 255 for the default), then wdiffs as for applying.
pub const MERGE: Target = Target {
    name: "merge",
    about: "two or three wdiffs of any layout merged",
    seeds: || all_seeds(Lb(96)),
    repair: |input, deep| repair_all(input, deep),
    run: |input| {
        let Some((&max_io, rest)) = input.split_first() else {
            return;
        };
        let wdiffs = split(rest);
        let Some(readers) = readers(&wdiffs) else { return };
        let mut max_io = if max_io == 255 {
            Lb(2048)
        } else {
            Lb(max_io.into())
        };
        let naive = all_steps(&wdiffs);
        let widest = naive.iter().flatten().map(|s| s.blocks).max().unwrap_or(0);
        // Cut into pieces, a discard of 2 TiB is millions of them: right, but too slow to do each time.
        if max_io.0 > 0 && widest / max_io.0 > 100 {
            max_io = Lb(widest / 100 + 1);
        }
        let setting = CompressionSetting::of(Compression::Lz4);
        let limit = (2 + wdiffs.len()) * 4 * MAX_IMAGE + 64 * input.len() + (2 << 20);
        let merged = bounded(limit + 2000 * 512, || {
            merge_to_sorted(readers, Vec::new(), Uuid::NIL, setting, max_io)
        });
        let Ok((merged, stats)) = merged else { return };
        assert_eq!(stats.wdiff.bytes, merged.len() as u64);
        let expected = naive.expect("what was merged was all there");
        // Data that nothing decompressed are passed on as they are, and reading them fails as it would have before.
        let Some(found) = read(&merged) else {
            let broken = expected.iter().any(|step| step.change == Change::Broken);
            return assert!(broken, "a merge of readable wdiffs is readable");
        };
        assert_same("merged", &found, &expected);
        if max_io.0 > 0 {
            assert!(
                found.iter().all(|step| step.blocks <= max_io.0),
                "pieces are bounded"
            );
        }
    },
    max_len: 24 << 10,
};

fn all_seeds(size: Lb) -> Vec<Vec<u8>> {
    let uuid = Uuid([7; 16]);
    let mut all = Vec::new();
    for (n, kind) in Compression::ALL.into_iter().enumerate() {
        let wdiff = |seed: u64, indexed: bool| {
            let mut ios = random_ios(seed * 10 + n as u64, size, 5);
            for io in &mut ios {
                if let walb_common::testing::Io::Write { data, .. } = io {
                    data.truncate(1024);
                }
            }
            if indexed {
                indexed_wdiff(&ios, uuid, kind, Lb(4))
            } else {
                sorted_wdiff(&ios, uuid, kind, Lb(4))
            }
        };
        let n = n as u8 | if size > IMAGES[0] { 4 } else { 0 };
        all.push(join(n, &[wdiff(1, false)]));
        all.push(join(n, &[wdiff(1, true), wdiff(2, false)]));
        all.push(join(n + 1, &[wdiff(3, false), wdiff(2, true), wdiff(5, true)]));
    }
    for ios in seeds::ios(size) {
        let one = |ios| indexed_wdiff(ios, uuid, Compression::Lz4, Lb(0));
        all.push(join(255, &[one(&ios), one(&ios[..1])]));
    }
    all
}

fn join(first: u8, wdiffs: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![first];
    for wdiff in wdiffs {
        input.extend_from_slice(&(wdiff.len() as u16).to_le_bytes());
        input.extend_from_slice(wdiff);
    }
    input
}

/// The ranges of the wdiffs in an input.
fn parts(rest: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut all) = (0, Vec::new());
    while let Some(length) = u16_at(rest, at)
        && all.len() < INPUTS_MAX
    {
        let end = (at + 2 + usize::from(length)).min(rest.len());
        all.push(at + 2..end);
        at = end;
    }
    all
}

fn split(rest: &[u8]) -> Vec<&[u8]> {
    parts(rest).into_iter().map(|range| &rest[range]).collect()
}

fn repair_all(input: &mut [u8], deep: bool) {
    let Some((_, rest)) = input.split_first_mut() else {
        return;
    };
    for range in parts(rest) {
        naive::wdiff::repair(&mut rest[range], deep);
    }
}

fn readers(wdiffs: &[&[u8]]) -> Option<Vec<WdiffReader>> {
    wdiffs.iter().map(|wdiff| reader(wdiff)).collect()
}
