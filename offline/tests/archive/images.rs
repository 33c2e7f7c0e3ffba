//! `image diff`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::offline;

fn differ(a: &Path, b: &Path) -> bool {
    !offline(&["image", "diff", a.to_str().unwrap(), b.to_str().unwrap()]).unwrap()
}

#[test]
fn images_are_compared_to_the_last_byte_holes_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let bytes: u64 = (5 << 20) + 700;
    File::create(&a).unwrap().set_len(bytes).unwrap();
    fs::write(&b, vec![0; bytes as usize]).unwrap();
    assert!(!differ(&a, &b));
    let file = File::options().write(true).open(&b).unwrap();
    for at in [0, 511, 512, (1 << 20) - 1, 1 << 20, 3 << 20, bytes - 1] {
        file.write_all_at(&[1], at).unwrap();
        assert!(differ(&a, &b), "byte {at}");
        assert!(differ(&b, &a), "byte {at}");
        file.write_all_at(&[0], at).unwrap();
        assert!(!differ(&a, &b));
    }
    file.set_len(bytes + 512).unwrap();
    assert!(differ(&a, &b));
    assert!(offline(&["image", "diff", a.to_str().unwrap(), "/nonexistent"]).is_err());
}
