use walb_common::convert::{DiscardMode, apply_wdiffs};
use walb_common::testing::{MemImage, logpacks, random_ios};
use walb_common::types::{Lb, PhysicalBlockSize};

use super::*;

#[test]
fn a_log_with_more_pieces_than_memory_may_hold_becomes_one_wdiff_all_the_same() {
    let size = Lb(4096);
    let ios = random_ios(11, size, 400);
    let image = MemImage::filled(size, 0);
    for io in &ios {
        image.apply(io, false);
    }
    let packs = logpacks(&ios, PhysicalBlockSize::B512, Salt(1), Lsid(0), 5);
    for max_pieces in [5, 50, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let setting = CompressionSetting::of(Compression::Lz4);
        let mut parts = Parts::new(dir.path(), Uuid([3; 16]), setting, max_pieces).unwrap();
        for pack in &packs {
            parts.add_pack(pack).unwrap();
        }
        let converted = parts.finish().unwrap();
        assert_eq!(converted.stats.packs, packs.len() as u64);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "parts go away");
        let reader = WdiffReader::open(converted.file.path()).unwrap();
        assert_eq!(reader.uuid(), Uuid([3; 16]));
        let found = MemImage::filled(size, 0);
        let mut go_on = |_| std::ops::ControlFlow::Continue(());
        apply_wdiffs(vec![reader], &found, DiscardMode::Zero, &mut go_on).unwrap();
        assert!(*found.bytes() == *image.bytes());
        drop(converted);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "and so does what was not renamed"
        );
    }
}
