use super::*;

fn images() -> Vec<Vec<u8>> {
    let text: Vec<u8> = (0..40_960u32).map(|i| (i / 7 % 251) as u8).collect();
    vec![vec![0; 512], vec![7; 1 << 20], text]
}

#[test]
fn every_type_and_level_gives_back_what_it_took() {
    for kind in Compression::ALL {
        for level in 0..=9 {
            let mut compressor = Compressor::new(CompressionSetting { kind, level, cpus: 1 });
            for raw in images().into_iter().take(if level == 0 { 3 } else { 1 }) {
                match compressor.compress(&raw) {
                    Some(stored) => assert_eq!(decompress(kind, &stored, raw.len()).as_ref(), Ok(&raw)),
                    None => assert_eq!(kind, Compression::None),
                }
            }
        }
    }
}

#[test]
fn what_does_not_shrink_is_left_raw() {
    let noise: Vec<u8> = (0..512).map(|_| rand::random()).collect();
    for kind in Compression::ALL {
        assert_eq!(
            Compressor::new(CompressionSetting::of(kind)).compress(&noise),
            None,
            "{kind:?}"
        );
    }
}

#[test]
fn a_wrong_size_a_cut_and_trailing_bytes_are_refused() {
    let raw: Vec<u8> = (0..4096u32).map(|i| (i / 9) as u8).collect();
    for kind in Compression::ALL {
        let stored = Compressor::new(CompressionSetting::of(kind))
            .compress(&raw)
            .unwrap_or_else(|| raw.clone());
        assert!(decompress(kind, &stored, 4095).is_err(), "{kind:?} one less");
        assert!(decompress(kind, &stored, 4097).is_err(), "{kind:?} one more");
        assert!(
            decompress(kind, &stored[..stored.len() - 1], 4096).is_err(),
            "{kind:?} cut"
        );
        assert!(decompress(kind, &[], 4096).is_err(), "{kind:?} empty");
        let longer = [&stored[..], &[0]].concat();
        assert!(decompress(kind, &longer, 4096).is_err(), "{kind:?} trailing");
    }
}
