//! Hashes of an image, bulk by bulk: what two sides compare to find out where their images differ.
//!
//! ```text
//!  image of a snapshot --RestoreStream--> data, zeros --BulkHashes--> BLAKE3 of each bulk, in address order
//! ```
//! All 256 bits of BLAKE3: equal hashes are taken for equal data, with nothing behind them that would notice a lie.
//! Ranges of zeros are never hashed: the hash of a bulk of zeros is made once.

use crate::convert::image_source::ImageSource;
use crate::convert::restore_stream::{Chunk, RestoreError, RestoreStream};
use crate::types::Lb;

use std::collections::VecDeque;

/// Bytes of a hash.
pub const BULK_HASH_LEN: usize = 32;

/// Address space that is compared in one go, unless the bulks are very small or very large.
const SECTION_BYTES: u64 = 16 << 20;
/// Hashes of a section: 64 KiB at most, which any connection takes without being read.
const SECTION_BULKS_MAX: u64 = 2048;

/// The hash of a bulk.
pub fn bulk_hash(data: &[u8]) -> [u8; BULK_HASH_LEN] {
    *blake3::hash(data).as_bytes()
}

/// How many bulks the two sides compare in one go.
pub fn section_bulks(bulk: Lb) -> u64 {
    (SECTION_BYTES / bulk.bytes().max(1)).clamp(1, SECTION_BULKS_MAX)
}

/// Hashes of bulks of zeros, made once for each length.
#[derive(Debug, Default)]
pub struct ZeroHashes {
    known: Vec<(u64, [u8; BULK_HASH_LEN])>,
}

impl ZeroHashes {
    /// The hash of so many zeros. Only ever asked for two lengths: that of all bulks, and that of the last.
    pub fn of(&mut self, bytes: u64) -> [u8; BULK_HASH_LEN] {
        if let Some((_, hash)) = self.known.iter().find(|(length, _)| *length == bytes) {
            return *hash;
        }
        let mut hasher = blake3::Hasher::new();
        feed_zeros(&mut hasher, bytes);
        let hash = *hasher.finalize().as_bytes();
        self.known.push((bytes, hash));
        hash
    }
}

fn feed_zeros(hasher: &mut blake3::Hasher, mut bytes: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while bytes > 0 {
        let part = bytes.min(ZEROS.len() as u64) as usize;
        hasher.update(&ZEROS[..part]);
        bytes -= part as u64;
    }
}

/// The hashes of an image's bulks, in address order.
#[derive(Debug)]
pub struct BulkHashes<B> {
    image: RestoreStream<B>,
    bulk: u64,
    /// Bytes to hash; what the image has beyond is read, not hashed.
    size: u64,
    /// Where the next bulk that is not complete begins.
    at: u64,
    hasher: blake3::Hasher,
    /// Bytes given to the hasher.
    hashed: u64,
    /// Zeros at the beginning of the bulk, not given to the hasher while nothing else has come.
    zeros: u64,
    /// Zeros of the last range that belong to later bulks.
    zeros_ahead: u64,
    ready: VecDeque<[u8; BULK_HASH_LEN]>,
    zero_hashes: ZeroHashes,
}

impl<B: ImageSource> BulkHashes<B> {
    /// The bulks of `bulk` blocks from `from` on, which begins one, of the first `size` blocks of `image`. The image must
    /// not be smaller.
    pub fn new(mut image: RestoreStream<B>, from: Lb, size: Lb, bulk: Lb) -> Result<Self, RestoreError> {
        let (found, expected) = (image.size(), size.bytes());
        if found < expected {
            return Err(RestoreError::TargetTooSmall { found, expected });
        }
        image.skip_to(from.bytes())?;
        Ok(Self {
            image,
            bulk: bulk.bytes().max(1),
            size: expected,
            at: from.bytes(),
            hasher: blake3::Hasher::new(),
            hashed: 0,
            zeros: 0,
            zeros_ahead: 0,
            ready: VecDeque::new(),
            zero_hashes: ZeroHashes::default(),
        })
    }

    /// The next hash; None behind the last bulk, when the image was read to its end.
    pub fn next_hash(&mut self) -> Result<Option<[u8; BULK_HASH_LEN]>, RestoreError> {
        loop {
            if let Some(hash) = self.ready.pop_front() {
                return Ok(Some(hash));
            }
            if self.at >= self.size {
                while self.image.next_chunk()?.is_some() {}
                return Ok(None);
            }
            if self.zeros_ahead > 0 {
                let part = self.zeros_ahead.min(self.missing());
                self.zeros_ahead -= part;
                self.take_zeros(part);
                continue;
            }
            // Moved out for the time of the call, as what it gives borrows it.
            match self.image.next_chunk()? {
                Some(Chunk::Zeros { length, .. }) => self.zeros_ahead = length,
                Some(Chunk::Data { data, .. }) => {
                    let mut rest = data;
                    while !rest.is_empty() && self.at < self.size {
                        let missing = self.bulk.min(self.size - self.at) - self.hashed - self.zeros;
                        let (now, later) = rest.split_at(rest.len().min(missing as usize));
                        rest = later;
                        if self.zeros > 0 {
                            feed_zeros(&mut self.hasher, self.zeros);
                            self.hashed += std::mem::take(&mut self.zeros);
                        }
                        self.hasher.update(now);
                        self.hashed += now.len() as u64;
                        if now.len() as u64 == missing {
                            let hash = *self.hasher.finalize().as_bytes();
                            self.hasher.reset();
                            self.at += std::mem::take(&mut self.hashed);
                            self.ready.push_back(hash);
                        }
                    }
                }
                None => {
                    let (found, expected) = (self.at, self.size);
                    return Err(RestoreError::TargetTooSmall { found, expected });
                }
            }
        }
    }

    /// What the bulk at hand still lacks.
    fn missing(&self) -> u64 {
        self.bulk.min(self.size - self.at) - self.hashed - self.zeros
    }

    fn take_zeros(&mut self, part: u64) {
        let complete = part == self.missing();
        if self.hashed == 0 {
            self.zeros += part;
        } else {
            feed_zeros(&mut self.hasher, part);
            self.hashed += part;
        }
        if !complete {
            return;
        }
        let hash = if self.hashed == 0 {
            self.zero_hashes.of(self.zeros)
        } else {
            *self.hasher.finalize().as_bytes()
        };
        self.hasher.reset();
        self.at += std::mem::take(&mut self.hashed) + std::mem::take(&mut self.zeros);
        self.ready.push_back(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::wdiff_to_base_image::DiscardMode;

    /// Data, holes inside bulks, zeros written out, a last bulk that is shorter.
    fn image() -> Vec<u8> {
        let mut image = vec![0_u8; 512 * 1037];
        for (block, data) in image.chunks_exact_mut(512).enumerate() {
            if !matches!(block % 97, 5..40) && block < 700 || block > 1020 {
                data.fill((block % 251) as u8);
            }
        }
        image
    }

    fn hashes(image: &[u8], from: u64, size: u64, bulk: u64) -> Vec<[u8; BULK_HASH_LEN]> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        // Sparse, so that holes come as holes.
        let file = std::fs::File::create_new(&path).unwrap();
        file.set_len(image.len() as u64).unwrap();
        for (index, page) in image.chunks(4096).enumerate() {
            if page.iter().any(|b| *b != 0) {
                std::os::unix::fs::FileExt::write_all_at(&file, page, index as u64 * 4096).unwrap();
            }
        }
        let file = std::fs::File::open(&path).unwrap();
        let stream = RestoreStream::new(file, Vec::new(), DiscardMode::Zero).unwrap();
        let mut hashes = BulkHashes::new(stream, Lb(from), Lb(size), Lb(bulk)).unwrap();
        std::iter::from_fn(|| hashes.next_hash().unwrap()).collect()
    }

    #[test]
    fn each_bulk_has_the_hash_of_its_bytes_wherever_one_starts() {
        let image = image();
        for bulk in [1, 3, 8, 100, 512, 8192] {
            for from in [0, bulk, 4 * bulk] {
                for size in [1037, 1000] {
                    let expected: Vec<_> = image[..size * 512]
                        .get((from * 512) as usize..)
                        .unwrap_or_default()
                        .chunks((bulk * 512) as usize)
                        .map(bulk_hash)
                        .collect();
                    let found = hashes(&image, from.min(size as u64), size as u64, bulk);
                    assert_eq!(found, expected, "bulk {bulk} from {from} size {size}");
                }
            }
        }
    }

    #[test]
    fn an_image_smaller_than_what_is_compared_is_refused() {
        let stream = RestoreStream::new(vec![0_u8; 512], Vec::new(), DiscardMode::Zero).unwrap();
        assert!(BulkHashes::new(stream, Lb(0), Lb(2), Lb(1)).is_err());
    }

    #[test]
    fn sections_fit_a_small_frame() {
        for bulk in [1, 8, 512, 8192] {
            let bulks = section_bulks(Lb(bulk));
            assert!((1..=2048).contains(&bulks), "{bulk}");
        }
        assert_eq!(section_bulks(Lb(512)), 64);
    }
}
