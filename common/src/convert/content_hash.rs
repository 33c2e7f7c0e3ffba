//! The content hash of an image: BLAKE3 of all its bytes, as `b3sum` gives for the file.
//!
//! BLAKE3 is a tree, so stripes are hashed on several threads and joined pair by pair.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::convert::image_scan::{ScanError, Stripe, scan};
use crate::convert::image_source::ImageSource;

/// A subtree: a power of two of 1 KiB chunks.
const STRIPE: u32 = 512 << 10;

/// A content hash. Shown in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The content hash of a whole image, on up to `threads` threads, this one included. `progress` is told the bytes hashed
/// so far, and can stop it.
///
/// Memory: 512 KiB for each thread.
pub fn content_hash<S: ImageSource + Sync + ?Sized>(
    image: &S,
    threads: usize,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ContentHash, ScanError> {
    let joiner = Mutex::new(Joiner::default());
    let size = scan(
        image,
        STRIPE,
        threads,
        &|number, stripe| {
            let mut hasher = Hasher::new();
            hasher.set_input_offset(number * u64::from(STRIPE));
            update(&mut hasher, stripe);
            let subtree = Subtree {
                value: hasher.finalize_non_root(),
                root: (number == 0).then(|| hasher.finalize().into()),
            };
            let mut joiner = joiner.lock().unwrap_or_else(PoisonError::into_inner);
            joiner.add(number, subtree);
        },
        progress,
    )?;
    let joiner = joiner.into_inner().unwrap_or_else(PoisonError::into_inner);
    let root = joiner.finish().unwrap_or_else(|| {
        assert_eq!(size, 0, "every stripe was hashed");
        blake3::hash(&[]).into()
    });
    Ok(ContentHash(root))
}

fn update(hasher: &mut Hasher, stripe: Stripe<'_>) {
    const ZEROS: &[u8] = &[0; 64 << 10];
    match stripe {
        Stripe::Data(data) => {
            hasher.update(data);
        }
        Stripe::Zeros(mut left) => {
            while left > 0 {
                let part = left.min(ZEROS.len() as u64);
                hasher.update(&ZEROS[..part as usize]);
                left -= part;
            }
        }
    }
}

/// Of a stripe.
struct Subtree {
    value: ChainingValue,
    /// What it is if nothing follows; only the first stripe can be all there is.
    root: Option<[u8; 32]>,
}

/// Joins stripes, which come in nearly any order.
#[derive(Default)]
struct Joiner {
    /// Came before their turn; as many as there are threads, about.
    early: BTreeMap<u64, Subtree>,
    /// The one that may be the last: it is not joined before another follows, as the last join is the root.
    last: Option<Subtree>,
    /// Stripes in `stack` and `last`.
    taken: u64,
    /// Whole subtrees, each larger than the next.
    stack: Vec<ChainingValue>,
}

impl Joiner {
    fn add(&mut self, number: u64, subtree: Subtree) {
        self.early.insert(number, subtree);
        while let Some(next) = self.early.remove(&self.taken) {
            if let Some(before) = self.last.replace(next) {
                self.push(before.value);
            }
            self.taken += 1;
        }
    }

    /// The stack gets stripe number `taken - 1`, counted from 0: each time a pair is complete, it is joined.
    fn push(&mut self, mut value: ChainingValue) {
        let mut count = self.taken;
        while count.is_multiple_of(2)
            && let Some(left) = self.stack.pop()
        {
            value = merge_subtrees_non_root(&left, &value, Mode::Hash);
            count /= 2;
        }
        self.stack.push(value);
    }

    fn finish(mut self) -> Option<[u8; 32]> {
        let last = self.last?;
        let Some(mut left) = self.stack.pop() else {
            return last.root;
        };
        let mut right = last.value;
        while let Some(further) = self.stack.pop() {
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
            left = further;
        }
        Some(merge_subtrees_root(&left, &right, Mode::Hash).into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn nonstop(_: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn it_is_the_blake3_of_all_bytes_whatever_the_size_and_the_threads() {
        let data: Vec<u8> = (0..9 * STRIPE).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let stripe = STRIPE as usize;
        for size in [
            0,
            1,
            512,
            stripe - 1,
            stripe,
            stripe + 1,
            2 * stripe,
            3 * stripe - 700,
            4 * stripe,
            5 * stripe,
            7 * stripe,
            8 * stripe,
            8 * stripe + 1,
        ] {
            let expected = blake3::hash(&data[..size]).to_hex().to_string();
            for threads in [1, 3] {
                let found = content_hash(&data[..size], threads, &mut nonstop).unwrap();
                assert_eq!(found.to_string(), expected, "{size} bytes");
            }
        }
    }

    #[test]
    fn stripes_may_come_in_any_order() {
        let data: Vec<u8> = (0..7u8).flat_map(|n| vec![n; STRIPE as usize]).collect();
        let expected: [u8; 32] = blake3::hash(&data).into();
        for order in [[6, 5, 4, 3, 2, 1, 0], [1, 0, 6, 2, 4, 3, 5]] {
            let mut joiner = Joiner::default();
            for number in order {
                let mut hasher = Hasher::new();
                hasher.set_input_offset(number * u64::from(STRIPE));
                hasher.update(&data[(number as usize) * STRIPE as usize..][..STRIPE as usize]);
                let value = hasher.finalize_non_root();
                joiner.add(number, Subtree { value, root: None });
            }
            assert_eq!(joiner.finish(), Some(expected));
        }
    }

    #[test]
    fn holes_are_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[7; 5000], 3 << 20).unwrap();
        let mut data = vec![0; 10 << 20];
        data[3 << 20..][..5000].fill(7);
        let found = content_hash::<File>(&file, 2, &mut nonstop).unwrap();
        assert_eq!(found.to_string(), blake3::hash(&data).to_hex().to_string());
    }
}
