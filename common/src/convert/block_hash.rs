//! The block hash of an image: XOR over all bulks i = 0, 1, 2, ... of MurmurHash3_x64_128 of the bulk with seed i. Only
//! for comparing with values of the existing tools, which print it; [`content_hash`](super::content_hash()) is faster
//! per byte of safety and does not collide by intent.

mod murmur;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::convert::image_scan::{ScanError, Stripe, scan};
use crate::convert::image_source::ImageSource;

/// Bytes of a bulk where nothing else is said. The hash depends on it.
pub const DEFAULT_BULK: u32 = 256 << 10;
/// Bytes a bulk may have.
pub const BULKS: RangeInclusive<u32> = 512..=4 << 20;
/// Read at once, if bulks are smaller.
const STRIPE: u32 = 512 << 10;

/// A block hash. Shown as its 16 bytes in order, in hex.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 16]);

impl BlockHash {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn of(halves: murmur::Halves) -> Self {
        let [a, b] = halves.map(u64::to_le_bytes);
        Self(std::array::from_fn(|n| if n < 8 { a[n] } else { b[n - 8] }))
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The block hash of a whole image, on up to `threads` threads, this one included. `bulk` is one of [`BULKS`].
/// `progress` is told the bytes hashed so far, and can stop it.
///
/// Memory: 512 KiB, or one bulk if that is more, for each thread.
pub fn block_hash<S: ImageSource + Sync + ?Sized>(
    image: &S,
    bulk: u32,
    threads: usize,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<BlockHash, ScanError> {
    assert!(BULKS.contains(&bulk), "the caller has checked the bulk size");
    let per_stripe = (STRIPE / bulk).max(1);
    let sum = [const { AtomicU64::new(0) }; 2];
    let add = |halves: murmur::Halves| {
        // XOR has no order, so neither have the threads.
        sum[0].fetch_xor(halves[0], Ordering::Relaxed);
        sum[1].fetch_xor(halves[1], Ordering::Relaxed);
    };
    scan(
        image,
        per_stripe * bulk,
        threads,
        &|number, stripe| {
            let first = number * u64::from(per_stripe);
            match stripe {
                Stripe::Data(data) => hash_bulks(data, bulk, first, add),
                Stripe::Zeros(length) => hash_zero_bulks(length, bulk, first, add),
            }
        },
        progress,
    )?;
    Ok(BlockHash::of(sum.map(AtomicU64::into_inner)))
}

/// Hashes bulks that follow each other; only the last may be short.
fn hash_bulks(data: &[u8], bulk: u32, first: u64, mut add: impl FnMut(murmur::Halves)) {
    let bulk = bulk as usize;
    for (n, two) in data.chunks(2 * bulk).enumerate() {
        let index = first + 2 * n as u64;
        let seeds = [seed(index), seed(index + 1)];
        let (a, b) = two.split_at(bulk.min(two.len()));
        if a.len() == b.len() {
            murmur::hash([a, b], seeds).into_iter().for_each(&mut add);
            continue;
        }
        add(murmur::hash([a], [seeds[0]])[0]);
        if !b.is_empty() {
            add(murmur::hash([b], [seeds[1]])[0]);
        }
    }
}

/// As [`hash_bulks`], for `length` zeros.
fn hash_zero_bulks(length: u64, bulk: u32, first: u64, mut add: impl FnMut(murmur::Halves)) {
    let bulk = u64::from(bulk);
    let (whole, rest) = (length / bulk, length % bulk);
    let mut index = first;
    while index + 1 < first + whole {
        murmur::hash_zeros(bulk, [seed(index), seed(index + 1)])
            .into_iter()
            .for_each(&mut add);
        index += 2;
    }
    if index < first + whole {
        add(murmur::hash_zeros(bulk, [seed(index)])[0]);
        index += 1;
    }
    if rest > 0 {
        add(murmur::hash_zeros(rest, [seed(index)])[0]);
    }
}

/// The seed of a bulk: the low half of its number, as the function takes no more.
fn seed(index: u64) -> u32 {
    (index & u64::from(u32::MAX)) as u32
}

/// The block hash of an image that comes as a stream, in order. Memory: one bulk.
#[derive(Debug)]
pub struct BlockHasher {
    bulk: u32,
    index: u64,
    sum: murmur::Halves,
    /// The begun bulk.
    buf: Vec<u8>,
}

impl BlockHasher {
    /// A hasher of an empty image. `bulk` is one of [`BULKS`].
    pub fn new(bulk: u32) -> Self {
        assert!(BULKS.contains(&bulk), "the caller has checked the bulk size");
        Self {
            bulk,
            index: 0,
            sum: [0; 2],
            buf: Vec::new(),
        }
    }

    /// Adds what comes next.
    pub fn update(&mut self, mut data: &[u8]) {
        data = self.complete(data.len(), |buf, n| {
            let (part, rest) = data.split_at(n);
            buf.extend_from_slice(part);
            rest
        });
        let bulk = self.bulk as usize;
        let (whole, rest) = data.split_at(data.len() / bulk * bulk);
        hash_bulks(whole, self.bulk, self.index, |h| self.sum = xor(self.sum, h));
        self.index += (whole.len() / bulk) as u64;
        self.buf.extend_from_slice(rest);
    }

    /// Adds zeros.
    pub fn zeros(&mut self, length: u64) {
        let at_hand = usize::try_from(length).unwrap_or(usize::MAX);
        let rest = self.complete(at_hand, |buf, n| {
            buf.resize(buf.len() + n, 0);
            length - n as u64
        });
        let bulk = u64::from(self.bulk);
        let (whole, rest) = (rest / bulk, rest % bulk);
        hash_zero_bulks(whole * bulk, self.bulk, self.index, |h| {
            self.sum = xor(self.sum, h);
        });
        self.index += whole;
        self.buf.resize(self.buf.len() + rest as usize, 0);
    }

    /// Lets `take` put as much of what is at hand into the begun bulk as it lacks, and hashes it if it is whole then.
    fn complete<T>(&mut self, at_hand: usize, take: impl FnOnce(&mut Vec<u8>, usize) -> T) -> T {
        let missing = match self.buf.len() {
            0 => 0,
            begun => self.bulk as usize - begun,
        };
        let rest = take(&mut self.buf, missing.min(at_hand));
        if self.buf.len() == self.bulk as usize {
            self.add_begun();
        }
        rest
    }

    fn add_begun(&mut self) {
        self.sum = xor(self.sum, murmur::hash([&self.buf], [seed(self.index)])[0]);
        self.index += 1;
        self.buf.clear();
    }

    /// The hash of everything added.
    pub fn finish(mut self) -> BlockHash {
        if !self.buf.is_empty() {
            self.add_begun();
        }
        BlockHash::of(self.sum)
    }
}

fn xor(a: murmur::Halves, b: murmur::Halves) -> murmur::Halves {
    [a[0] ^ b[0], a[1] ^ b[1]]
}
