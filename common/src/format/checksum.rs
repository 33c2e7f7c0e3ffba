//! The one checksum of all formats: the negated sum of the data's little-endian words, starting from a salt.
//!
//! A structure that contains its own checksum is summed with that field zero; stored, the whole then sums to 0.
//! It is a plain sum: swapped words go unnoticed. It guards against accidents, not against malice.

use std::fmt;

/// The start value of a sum. Differs per log sequence, so that what an earlier one left is not taken for its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Salt(pub u32);

impl Salt {
    /// Of everything but the log.
    pub const ZERO: Self = Self(0);

    /// A fresh random one.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The checksum of `data`.
pub fn checksum(data: &[u8], salt: Salt) -> u32 {
    let words = data.chunks_exact(4);
    let mut last = [0; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    // A wrapping sum has no order, so the compiler is free to add many words at once.
    words
        .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
        .fold(salt.0, u32::wrapping_add)
        .wrapping_add(u32::from_le_bytes(last))
        .wrapping_neg()
}

/// A checksum over data that comes in pieces, of any lengths.
#[derive(Debug, Clone, Copy)]
pub struct Summer {
    sum: u32,
    /// Bytes of the current word already added: 0 to 3.
    phase: u32,
}

impl Summer {
    /// Starts a sum.
    pub fn new(salt: Salt) -> Self {
        Self {
            sum: salt.0,
            phase: 0,
        }
    }

    /// Adds the next piece.
    pub fn add(&mut self, mut piece: &[u8]) {
        while self.phase != 0
            && let Some((&byte, rest)) = piece.split_first()
        {
            self.sum = self.sum.wrapping_add(u32::from(byte) << (8 * self.phase));
            self.phase = (self.phase + 1) % 4;
            piece = rest;
        }
        if !piece.is_empty() {
            self.sum = checksum(piece, Salt(self.sum)).wrapping_neg();
            self.phase = (piece.len() % 4) as u32;
        }
    }

    /// The checksum of everything added.
    pub fn finish(self) -> u32 {
        self.sum.wrapping_neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums_come_out() {
        let counting = [1, 2, 3, 4, 5, 6, 7, 8];
        let salt = Salt(0x1234_5678);
        assert_eq!(checksum(&[], Salt::ZERO), 0);
        assert_eq!(checksum(&[], salt), 0xedcb_a988);
        assert_eq!(checksum(&[0; 512], salt), 0xedcb_a988);
        assert_eq!(checksum(&counting, Salt::ZERO), 0xf3f5_f7fa);
        assert_eq!(checksum(&counting, salt), 0xe1c1_a182);
        assert_eq!(checksum(&counting[..5], Salt::ZERO), 0xfbfc_fdfa);
        assert_eq!(checksum(&counting[..5], salt), 0xe9c8_a782);
        assert_eq!(checksum(&[0xff; 8], salt), 0xedcb_a98a);
    }

    proptest::proptest! {
        #[test]
        fn a_sum_in_pieces_is_the_sum_of_the_whole(pieces: Vec<Vec<u8>>, salt: u32) {
            let mut summer = Summer::new(Salt(salt));
            for piece in &pieces {
                summer.add(piece);
            }
            proptest::prop_assert_eq!(summer.finish(), checksum(&pieces.concat(), Salt(salt)));
        }
    }
}
