use super::*;
use crate::format::read_at::ReadAt;
use crate::testing::wdiff_reader;
use crate::types::Compression;

fn image(bytes: usize) -> Vec<u8> {
    // Zeros, what compresses, and noise, a few blocks each.
    (0..bytes)
        .map(|at| match at / 2048 % 3 {
            0 => 0,
            1 => (at / 100) as u8,
            _ => rand::random(),
        })
        .collect()
}

/// The image as the records have it; they cover it without a gap.
fn put_together(stored: Vec<u8>) -> Vec<u8> {
    let mut reader = wdiff_reader(stored);
    let mut image = vec![];
    while let Some(record) = reader.next_record().unwrap() {
        assert_eq!(record.address.bytes(), image.len() as u64);
        image.extend_from_slice(&record.raw_data().unwrap().expect("all of it is data"));
    }
    image
}

#[test]
fn an_image_of_any_size_comes_back_from_either_layout() {
    for kind in Compression::ALL {
        for blocks in [0, 1, 7, 8, 9, 24, 29] {
            let image = image(blocks * 512);
            let setting = CompressionSetting::of(kind);
            let sorted = image_to_sorted(&image[..], Vec::new(), Uuid::NIL, setting, Lb(8)).unwrap();
            assert!(put_together(sorted.0) == image, "{kind:?}, {blocks} blocks");
            let indexed = image_to_indexed(&image[..], Vec::new(), Uuid::NIL, setting, Lb(8)).unwrap();
            assert!(put_together(indexed.0) == image, "{kind:?}, {blocks} blocks");
        }
    }
}

#[test]
fn records_of_an_indexed_wdiff_are_aligned_for_any_io_size() {
    let setting = CompressionSetting::of(Compression::None);
    for io_size in 1..20 {
        let image = image(61 * 512);
        let (stored, _) = image_to_indexed(&image[..], Vec::new(), Uuid::NIL, setting, Lb(io_size)).unwrap();
        let mut reader = crate::format::wdiff::IndexedReader::open(&stored[..], stored.len() as u64).unwrap();
        assert_eq!(u64::from(reader.index().n_data), 61_u64.div_ceil(io_size));
        while let Some(record) = reader.next_index_record().unwrap() {
            assert!(record.blocks.0.is_power_of_two() && record.address.0.is_multiple_of(record.blocks.0));
        }
        assert!(put_together(stored) == image, "{io_size}");
    }
}

/// Fails beyond its 6000 bytes.
struct Failing(u64);
impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        vec![0; 6000].read_exact_at(buf, self.0)?;
        self.0 += buf.len() as u64;
        Ok(buf.len())
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let setting = CompressionSetting::of(Compression::Snappy);
    let of = |bytes: usize, io_size| {
        image_to_sorted(&image(bytes)[..], Vec::new(), Uuid::NIL, setting, Lb(io_size)).unwrap_err()
    };
    assert_eq!(
        of(5000, 8).to_string(),
        "the image has 5000 bytes, expected a multiple of 512"
    );
    assert_eq!(
        of(512, 0).to_string(),
        "cut the image into records of 0 logical blocks: expected 1 to 131072"
    );
    assert!(matches!(of(512, 131_073), ImageToWdiffError::IoSize { .. }));

    let error = image_to_sorted(Failing(0), Vec::new(), Uuid::NIL, setting, Lb(8)).unwrap_err();
    assert_eq!(error.to_string(), "read the image at byte 4096");
}
