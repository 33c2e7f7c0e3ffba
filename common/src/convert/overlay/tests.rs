use super::*;

#[test]
fn aligned_pieces_are_cut_greedily_from_the_front() {
    let cut = |mut from: u64, to: u64, max: u64| {
        let mut sizes = vec![];
        while from < to {
            sizes.push(aligned_size(from, to - from, max));
            from += sizes[sizes.len() - 1];
        }
        sizes
    };
    assert_eq!(cut(0, 7, 0), [4, 2, 1]);
    assert_eq!(cut(3, 17, 0), [1, 4, 8, 1]);
    assert_eq!(cut(8, 32, 6), [4; 6]);
    assert_eq!(cut(0, 1 << 33, 0), [1 << 31; 4]);
}

/// A writer's number and where in its write the piece starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct From(usize, u64);

impl Piece for From {
    fn part(&self, skip: u64, _: u64) -> Self {
        Self(self.0, self.1 + skip)
    }
}

proptest::proptest! {
    #[test]
    fn every_block_belongs_to_the_last_who_wrote_it(
        writes in proptest::collection::vec((0u64..120, 1u64..60), 0..40),
        max in 0u64..20,
        aligned: bool,
    ) {
        let mut overlay = Overlay::new(if aligned { Cut::Aligned(max) } else { Cut::Chunks(max) });
        let mut model = vec![None; 200];
        for (number, (address, blocks)) in writes.into_iter().enumerate() {
            overlay.add(address, blocks, From(number, 0));
            for at in 0..blocks {
                model[(address + at) as usize] = Some(From(number, at));
            }
        }
        let mut found = vec![None; 200];
        for placed in overlay.into_pieces() {
            proptest::prop_assert!(max == 0 || placed.blocks <= max);
            if aligned {
                proptest::prop_assert!(placed.blocks.is_power_of_two());
                proptest::prop_assert!(placed.address.is_multiple_of(placed.blocks));
            }
            for at in 0..placed.blocks {
                let block = &mut found[(placed.address + at) as usize];
                proptest::prop_assert!(block.is_none(), "pieces overlap");
                *block = Some(placed.piece.part(at, 1));
            }
        }
        proptest::prop_assert_eq!(found, model);
    }
}

#[test]
fn one_large_range_is_held_as_one_piece_until_it_is_given_out() {
    for cut in [Cut::Chunks(2048), Cut::Aligned(2048)] {
        let mut overlay = Overlay::new(cut);
        for disk in 0..100 {
            overlay.add(disk << 40, (1 << 32) - 1, From(disk as usize, 0));
        }
        overlay.add(5000, 1, From(100, 0));
        assert!(overlay.held() < 100 * 70, "{cut:?}: {} pieces", overlay.held());
        assert!(overlay.len() > 100 << 21);
        // Cut where it would have been, had it been cut when it came.
        let first: Vec<_> = overlay
            .into_pieces()
            .take(5)
            .map(|p| (p.address, p.blocks))
            .collect();
        let expected = match cut {
            Cut::Chunks(_) => [(0, 2048), (2048, 2048), (4096, 904), (5000, 1), (5001, 1143)],
            Cut::Aligned(_) => [(0, 2048), (2048, 2048), (4096, 512), (4608, 256), (4864, 128)],
        };
        assert_eq!(first, expected);
    }
}
