//! Changing bytes: small accidents, large ones, and numbers that the code was seen to compare with.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

use super::coverage::compared;

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    7,
    127,
    128,
    511,
    512,
    4096,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Mutates inputs, the same way for the same seed.
#[derive(Debug)]
pub struct Mutator {
    /// Its source of chance; the search uses it too.
    pub rng: SmallRng,
    max_len: usize,
}

impl Mutator {
    /// A mutator that makes no input longer than `max_len` bytes.
    pub fn new(seed: u64, max_len: usize) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            max_len,
        }
    }

    /// Changes `input` a little or a lot; parts may come from `other`.
    pub fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let steps = 1 << self.rng.random_range(0..5);
        for _ in 0..self.rng.random_range(1..=steps) {
            self.step(input, other);
        }
        input.truncate(self.max_len);
    }

    fn step(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        if input.is_empty() {
            input.extend_from_slice(other);
            input.push(self.rng.random());
            return;
        }
        let at = self.place(input.len());
        match self.rng.random_range(0..12) {
            0 => input[at] ^= 1 << self.rng.random_range(0..8),
            1 => input[at] = self.rng.random(),
            2 | 3 => self.number(input, at),
            4 | 5 => self.compared(input),
            6 => {
                let end = self.end_of_range(at, input.len());
                input.drain(at..end);
            }
            7 => {
                let count = self.rng.random_range(1..=64);
                let byte: u8 = self.rng.random();
                input.splice(at..at, std::iter::repeat_n(byte, count));
            }
            8 => {
                // A part of itself, elsewhere: records swapped or doubled.
                let from = self.place(input.len());
                let part = input[from..self.end_of_range(from, input.len())].to_vec();
                self.put(input, at, &part);
            }
            9 if !other.is_empty() => {
                let from = self.place(other.len());
                let part = &other[from..self.end_of_range(from, other.len())];
                self.put(input, at, part);
            }
            10 => {
                let end = self.end_of_range(at, input.len());
                let byte = [0, 0xff, self.rng.random()].choose(&mut self.rng).copied();
                input[at..end].fill(byte.unwrap_or(0));
            }
            _ => {
                let end = self.end_of_range(at, input.len());
                self.rng.fill_bytes(&mut input[at..end]);
            }
        }
    }

    /// Anywhere, but often near the start, where the structure is, and often where fields are aligned.
    fn place(&mut self, len: usize) -> usize {
        let reach = if self.rng.random() { len } else { len.min(256) };
        let at = self.rng.random_range(0..reach);
        if self.rng.random() { at & !3 } else { at }
    }

    fn end_of_range(&mut self, at: usize, len: usize) -> usize {
        let longest = 1 << self.rng.random_range(0..10);
        at + self.rng.random_range(1..=longest).min(len - at)
    }

    fn put(&mut self, input: &mut Vec<u8>, at: usize, part: &[u8]) {
        if self.rng.random() {
            let end = (at + part.len()).min(input.len());
            input[at..end].copy_from_slice(&part[..end - at]);
        } else {
            input.splice(at..at, part.iter().copied());
        }
    }

    /// Replaces a number, or moves it a little, in either byte order.
    fn number(&mut self, input: &mut [u8], at: usize) {
        let width = *[1, 2, 4, 8].choose(&mut self.rng).unwrap_or(&1);
        let Some(field) = input.get_mut(at..at + width) else {
            return;
        };
        let big = self.rng.random_ratio(1, 6);
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(field);
        if big {
            bytes[..width].reverse();
        }
        let old = u64::from_le_bytes(bytes);
        let near = self.rng.random_range(0..16);
        let new = match self.rng.random_range(0..4) {
            0 => old.wrapping_add(near),
            1 => old.wrapping_sub(near),
            2 => EDGES
                .choose(&mut self.rng)
                .map_or(0, |edge| edge.wrapping_add(near)),
            _ => EDGES
                .choose(&mut self.rng)
                .map_or(0, |edge| edge.wrapping_sub(near)),
        };
        bytes = new.to_le_bytes();
        if big {
            bytes[..width].reverse();
        }
        field.copy_from_slice(&bytes[..width]);
    }

    /// Puts one side of a comparison where the other one stands in the input.
    fn compared(&mut self, input: &mut [u8]) {
        let Some((mut found, mut wanted)) = compared(self.rng.random_range(0..1 << 16)) else {
            return;
        };
        if self.rng.random() {
            std::mem::swap(&mut found, &mut wanted);
        }
        if self.rng.random_ratio(1, 4) {
            wanted = wanted.wrapping_add(self.rng.random_range(0..3)).wrapping_sub(1);
        }
        let widths: &[usize] = match found {
            0..=0xff => &[2, 4],
            0x100..=0xffff => &[2, 4, 8],
            0x1_0000..=0xffff_ffff => &[4, 8],
            _ => &[8],
        };
        let width = *widths.choose(&mut self.rng).unwrap_or(&8);
        let (mut from, mut to) = (found.to_le_bytes(), wanted.to_le_bytes());
        if self.rng.random_ratio(1, 6) {
            from[..width].reverse();
            to[..width].reverse();
        }
        let places = input
            .windows(width)
            .enumerate()
            .filter(|(_, w)| *w == &from[..width]);
        let places: Vec<usize> = places.map(|(at, _)| at).take(64).collect();
        if let Some(&at) = places.choose(&mut self.rng) {
            input[at..at + width].copy_from_slice(&to[..width]);
        }
    }
}
