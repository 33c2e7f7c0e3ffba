//! Goal: the hash is the one its definition gives, however the image comes. Method: the definition taken literally.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::*;

fn nonstop(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn literally(data: &[u8], bulk: u32) -> BlockHash {
    let mut sum = [0; 2];
    for (index, part) in data.chunks(bulk as usize).enumerate() {
        sum = xor(sum, murmur::hash([part], [index as u32])[0]);
    }
    BlockHash::of(sum)
}

/// An image with holes and an odd size, as a file and as bytes.
fn image(seed: u64) -> (File, Vec<u8>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut data = vec![0; rng.random_range(1..6 << 20)];
    let file = tempfile::tempfile().unwrap();
    file.set_len(data.len() as u64).unwrap();
    for _ in 0..rng.random_range(0..4) {
        let start = rng.random_range(0..data.len());
        let length = rng.random_range(1..700_000).min(data.len() - start);
        rng.fill_bytes(&mut data[start..start + length]);
        file.write_all_at(&data[start..start + length], start as u64)
            .unwrap();
    }
    (file, data)
}

#[test]
fn an_image_has_the_hash_of_the_definition_whatever_its_holes_its_bulks_and_the_threads() {
    for seed in 0..12 {
        let (file, data) = image(seed);
        for bulk in [512, 4096, 100_000, DEFAULT_BULK, 1 << 20, 4 << 20] {
            let expected = literally(&data, bulk);
            for threads in [1, 2, 5] {
                let found = block_hash(&file, bulk, threads, &mut nonstop).unwrap();
                assert_eq!(found, expected, "seed {seed}, bulk {bulk}, {threads} threads");
            }
            assert_eq!(block_hash(&data[..], bulk, 2, &mut nonstop).unwrap(), expected);
        }
    }
}

#[test]
fn a_stream_in_pieces_has_the_hash_of_the_whole() {
    for seed in 0..12 {
        let (_, data) = image(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        for bulk in [512, 100_000, DEFAULT_BULK] {
            let mut hasher = BlockHasher::new(bulk);
            let mut at = 0;
            while at < data.len() {
                let length = rng.random_range(1..900_000).min(data.len() - at);
                let piece = &data[at..at + length];
                if piece.iter().all(|b| *b == 0) {
                    hasher.zeros(length as u64);
                } else {
                    hasher.update(piece);
                }
                at += length;
            }
            assert_eq!(
                hasher.finish(),
                literally(&data, bulk),
                "seed {seed}, bulk {bulk}"
            );
        }
    }
}

#[test]
fn its_text_is_the_bytes_in_order() {
    let hash = BlockHash::of([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
    assert_eq!(hash.to_string(), "000102030405060708090a0b0c0d0e0f");
    assert_eq!(
        BlockHasher::new(512).finish().to_string(),
        "0".repeat(32),
        "of nothing"
    );
}

#[test]
fn a_stop_and_a_failing_image_end_it() {
    let (file, _) = image(3);
    let stopped = block_hash(&file, 4096, 2, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ScanError::Stopped)), "{stopped:?}");
    let unreadable = File::options().write(true).open("/dev/null").unwrap();
    // No bytes: nothing has to be read.
    assert!(block_hash(&unreadable, 4096, 2, &mut nonstop).is_ok());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, [1; 5000]).unwrap();
    let unreadable = File::options().write(true).open(&path).unwrap();
    let error = block_hash(&unreadable, 4096, 2, &mut nonstop).unwrap_err();
    assert_eq!(error.to_string(), "read the image at block 0");
}
