//! Memory that direct IO takes as it is.

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What addresses are multiples of. Most devices take memory at any multiple of 4 to 512 bytes; a disk that wants more gets a
/// copy (see [`super::file`]).
pub(crate) const ALIGNMENT: usize = 512;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(512))]
struct Sector([u8; ALIGNMENT]);

const ZERO: Sector = Sector([0; ALIGNMENT]);

/// A growing buffer at an aligned address.
#[derive(Default)]
pub(crate) struct AlignedBuf {
    sectors: Vec<Sector>,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            sectors: Vec::with_capacity(bytes.div_ceil(ALIGNMENT)),
            len: 0,
        }
    }

    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::default();
        buffer.resize(len);
        buffer
    }

    /// Grows with zeros or shrinks.
    pub fn resize(&mut self, len: usize) {
        // What is cut off must read as zeros when it comes back.
        let cut = len.min(self.len);
        self.sectors.truncate(cut.div_ceil(ALIGNMENT));
        let kept = self.sectors.len() * ALIGNMENT;
        self.sectors.as_mut_slice().as_mut_bytes()[cut..kept].fill(0);
        self.sectors.resize(len.div_ceil(ALIGNMENT), ZERO);
        self.len = len;
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.len;
        self.resize(start + bytes.len());
        self[start..].copy_from_slice(bytes);
    }

    /// The same memory, shared and not to be changed any more.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        &self.sectors.as_slice().as_bytes()[..self.len]
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.sectors.as_mut_slice().as_mut_bytes()[..self.len]
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_vector_holds_at_an_aligned_address(
            steps in proptest::collection::vec((any::<bool>(), 0..2000usize), 1..20),
        ) {
            let (mut buffer, mut model) = (AlignedBuf::default(), Vec::new());
            for (n, (append, size)) in steps.into_iter().enumerate() {
                if append {
                    let bytes = vec![u8::try_from(n + 1).unwrap(); size];
                    buffer.extend_from_slice(&bytes);
                    model.extend_from_slice(&bytes);
                } else {
                    buffer.resize(size);
                    model.resize(size, 0);
                }
                prop_assert_eq!(&buffer[..], &model[..]);
                prop_assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            }
            prop_assert_eq!(buffer.freeze(), model);
        }
    }
}
