//! MurmurHash3_x64_128 by Austin Appleby (public domain), several inputs of one length at a time: the sums of one input
//! wait for each other, those of two do not.

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// Both halves of a hash, in the order they are stored.
pub(super) type Halves = [u64; 2];

/// The hashes of inputs of one length, each with its seed.
pub(super) fn hash<const N: usize>(inputs: [&[u8]; N], seeds: [u32; N]) -> [Halves; N] {
    let length = inputs[0].len();
    let mut h = seeds.map(start);
    let blocks = inputs.map(|input| input.as_chunks::<16>().0);
    let count = length / 16;
    assert!(
        blocks.iter().all(|b| b.len() == count),
        "inputs hashed together have one length"
    );
    for n in 0..count {
        for (h, blocks) in h.iter_mut().zip(&blocks) {
            let block = u128::from_le_bytes(blocks[n]);
            #[expect(clippy::cast_possible_truncation, reason = "the two halves of a block")]
            mix(h, block as u64, (block >> 64) as u64);
        }
    }
    for lane in 0..N {
        let mut tail = [0; 16];
        let rest = &inputs[lane][count * 16..];
        tail[..rest.len()].copy_from_slice(rest);
        let [k1, k2] = halves(tail);
        h[lane][1] ^= scramble(k2, C2, 33, C1);
        h[lane][0] ^= scramble(k1, C1, 31, C2);
    }
    h.map(|h| end(h, length as u64))
}

/// The hashes of `length` zeros with each of the seeds.
pub(super) fn hash_zeros<const N: usize>(length: u64, seeds: [u32; N]) -> [Halves; N] {
    let mut h = seeds.map(start);
    for _ in 0..length / 16 {
        for h in &mut h {
            // Zeros scramble to zero.
            turn(h);
        }
    }
    h.map(|h| end(h, length))
}

fn start(seed: u32) -> Halves {
    [u64::from(seed); 2]
}

fn halves(block: [u8; 16]) -> Halves {
    let half = |n: usize| u64::from_le_bytes(std::array::from_fn(|i| block[8 * n + i]));
    [half(0), half(1)]
}

fn scramble(k: u64, first: u64, by: u32, second: u64) -> u64 {
    k.wrapping_mul(first).rotate_left(by).wrapping_mul(second)
}

fn mix(h: &mut Halves, k1: u64, k2: u64) {
    let (k1, k2) = (scramble(k1, C1, 31, C2), scramble(k2, C2, 33, C1));
    h[0] = fold(h[0] ^ k1, 27, h[1], 0x52dc_e729);
    h[1] = fold(h[1] ^ k2, 31, h[0], 0x3849_5ab5);
}

fn turn(h: &mut Halves) {
    h[0] = fold(h[0], 27, h[1], 0x52dc_e729);
    h[1] = fold(h[1], 31, h[0], 0x3849_5ab5);
}

fn fold(h: u64, by: u32, other: u64, add: u64) -> u64 {
    h.rotate_left(by)
        .wrapping_add(other)
        .wrapping_mul(5)
        .wrapping_add(add)
}

fn end(h: Halves, length: u64) -> Halves {
    let (a, b) = (h[0] ^ length, h[1] ^ length);
    let a = a.wrapping_add(b);
    let b = b.wrapping_add(a);
    let (a, b) = (finish(a), finish(b));
    let a = a.wrapping_add(b);
    [a, b.wrapping_add(a)]
}

fn finish(mut k: u64) -> u64 {
    k = (k ^ (k >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ (k >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(h: Halves) -> Vec<u8> {
        h.iter().flat_map(|half| half.to_le_bytes()).collect()
    }

    #[test]
    fn the_reference_values_come_out() {
        // Published test values of this function, as bytes in order.
        let seed = 0x9747_b28c;
        for (input, expected) in [
            ("", "b3bbaa1d8a202b397a9502e38f60b093"),
            (
                "The quick brown fox jumps over the lazy dog",
                "213163d23b7f8a73e516c07e727345f9",
            ),
            (
                "The quick brown fox jumps over the lazy cog",
                "94618270b057cdb83cf873585b456f55",
            ),
        ] {
            let expected = u128::from_str_radix(expected, 16).unwrap();
            let found = stored(hash([input.as_bytes()], [seed])[0]);
            assert_eq!(found, expected.to_be_bytes(), "{input}");
        }
    }

    /// The way the function's own test suite, SMHasher, verifies an implementation: 256 keys of every length, and the hash
    /// of all their hashes.
    #[test]
    fn the_verification_value_of_the_reference_suite_comes_out() {
        let keys: Vec<u8> = (0..=255).collect();
        let mut hashes = Vec::new();
        for length in 0..256usize {
            hashes.extend(stored(hash([&keys[..length]], [256 - length as u32])[0]));
        }
        let all = stored(hash([&hashes], [0])[0]);
        assert_eq!(all[..4], 0x6384_ba69u32.to_le_bytes());
    }

    #[test]
    fn lanes_and_zeros_give_what_one_input_gives() {
        let data: Vec<u8> = (0..4000u32).map(|n| ((n * n) >> 3) as u8).collect();
        for length in (0..100).chain([1000, 1024, 1999]) {
            let (a, b) = (&data[..length], &data[2000..][..length]);
            let both = hash([a, b], [7, u32::MAX]);
            assert_eq!(both, [hash([a], [7])[0], hash([b], [u32::MAX])[0]]);
            let zeros = vec![0; length];
            assert_eq!(
                hash_zeros(length as u64, [5, 6]),
                hash([&zeros[..], &zeros], [5, 6])
            );
        }
    }
}
