use super::*;
use crate::block::{BlockDevice, Extent, Holds};

const SIZE: u64 = 1 << 20;

fn allocation(engine: &Engine, offset: u64, len: u64, most: usize) -> Vec<Extent> {
    engine.allocation(offset, len, most).unwrap()
}

/// Extents fill the range, neighbours differ, and what is not data reads as zeros.
fn check(engine: &Engine, offset: u64, len: u64) {
    let extents = allocation(engine, offset, len, 1 << 20);
    assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), len, "{extents:?}");
    assert!(
        extents.windows(2).all(|w| w[0].holds != w[1].holds),
        "{extents:?}"
    );
    let content = read_all(engine);
    let mut at = offset;
    for extent in extents {
        let part = &content[at as usize..(at + extent.len) as usize];
        assert!(extent.len > 0 && extent.len % LB_SIZE == 0);
        assert!(
            extent.holds == Holds::Data || part.iter().all(|b| *b == 0),
            "{extent:?} at {at}"
        );
        at += extent.len;
    }
}

#[test]
fn what_is_called_zero_reads_as_zeros_wherever_it_is() {
    for seed in 0..8_u64 {
        let place = Place::new(PhysicalBlockSize::B512, 4 << 20, SIZE);
        let engine = place.open();
        let mut random = seed * 2_654_435_761 + 1;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for step in 0..120 {
            let at = next(SIZE / LB_SIZE);
            let len = (1 + next(64)).min(SIZE / LB_SIZE - at);
            let (offset, bytes) = (at * LB_SIZE, len * LB_SIZE);
            match next(4) {
                0 => write(&engine, at, block_of(7, len)).unwrap(),
                1 => drop(
                    submit_and_wait(
                        &*engine,
                        IoOp::Discard {
                            offset,
                            len: bytes,
                            fua: false,
                        },
                    )
                    .unwrap(),
                ),
                kind => {
                    let op = IoOp::WriteZeroes {
                        offset,
                        len: bytes,
                        fua: false,
                        no_hole: kind == 3,
                    };
                    submit_and_wait(&*engine, op).unwrap();
                }
            }
            if step % 16 == 15 {
                engine.checkpoint().unwrap();
            }
            if step % 5 == 0 {
                check(&engine, 0, SIZE);
                check(&engine, offset, bytes);
            }
        }
        engine.checkpoint().unwrap();
        check(&engine, 0, SIZE);
    }
}

#[test]
fn zeros_are_known_before_and_after_they_reach_the_data_device() {
    let place = Place::new(PhysicalBlockSize::B4096, 4 << 20, SIZE);
    let engine = place.open();
    let extent = |len, holds| Extent { len, holds };
    assert_eq!(allocation(&engine, 0, SIZE, 9), [extent(SIZE, Holds::Hole)]);
    write(&engine, 128, block_of(1, 128)).unwrap();
    let expected = [
        extent(65536, Holds::Hole),
        extent(65536, Holds::Data),
        extent(SIZE - 131_072, Holds::Hole),
    ];
    assert_eq!(allocation(&engine, 0, SIZE, 9), expected);
    engine.checkpoint().unwrap();
    assert_eq!(allocation(&engine, 0, SIZE, 9), expected);
    assert_eq!(allocation(&engine, 0, SIZE, 1), expected[..1]);
    let (offset, len) = (65536, 65536);
    submit_and_wait(
        &*engine,
        IoOp::Discard {
            offset,
            len,
            fua: true,
        },
    )
    .unwrap();
    assert_eq!(allocation(&engine, 0, SIZE, 9), [extent(SIZE, Holds::Hole)]);
    engine.checkpoint().unwrap();
    assert_eq!(allocation(&engine, 0, SIZE, 9), [extent(SIZE, Holds::Hole)]);
}
