//! `image hash` and `image diff`.

use std::fs;

use walb_common::convert::BlockHasher;

use crate::support::walbc;

fn image(length: usize) -> Vec<u8> {
    let word = |n: usize| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(length);
    bytes[length / 3..length / 2].fill(0);
    bytes
}

#[test]
fn an_image_has_the_block_hash_of_its_bytes_for_each_bulk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let name = path.to_str().unwrap();
    for length in [512, 3 << 20, (5 << 20) + 1536] {
        let bytes = image(length);
        fs::write(&path, &bytes).unwrap();
        for (bulk, words) in [
            (256 << 10, &[][..]),
            (512, &["--bulk", "512"]),
            (4096, &["--bulk", "4k"]),
            (4 << 20, &["--bulk", "4m"]),
        ] {
            let mut hasher = BlockHasher::new(bulk);
            hasher.update(&bytes);
            let expected = hasher.finish().to_string();
            let words = [&["image", "hash", name][..], words].concat();
            let text = String::from_utf8(walbc(&words).ok()).unwrap();
            assert_eq!(text, format!("{expected}\n"), "{length} bytes, bulk {bulk}");
            let json = walbc(&[&words[..], &["--json"]].concat()).json();
            assert_eq!(
                (json["hash"].as_str(), json["bulk"].as_u64()),
                (Some(&*expected), Some(u64::from(bulk)))
            );
            assert_eq!(json["size"].as_u64(), Some(length as u64));
        }
    }
    for bad in ["0", "511", "513", "5m", "x", "18446744073709551615"] {
        walbc(&["image", "hash", name, "--bulk", bad]).fails_with(&[bad]);
    }
    walbc(&["image", "hash", "/nonexistent"]).fails_with(&["/nonexistent", "No such file"]);
}

#[test]
fn differing_ranges_are_told_in_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let bytes = image((4 << 20) + 100);
    fs::write(&a, &bytes).unwrap();
    let mut other = bytes.clone();
    // Two neighbours across a chunk's end, one alone, the short last one.
    for at in [(1 << 20) - 1, 1 << 20, 3_000_000, bytes.len() - 1] {
        other[at] ^= 1;
    }
    fs::write(&b, &other).unwrap();
    let words = ["image", "diff", a.to_str().unwrap(), b.to_str().unwrap()];
    let found = walbc(&words);
    assert_eq!(found.status, Some(1));
    assert_eq!(
        String::from_utf8(found.stdout).unwrap(),
        "2047 2\n5859 1\n8192 1\n4 blocks differ, 2048 bytes\n"
    );
    let found = walbc(&[&words[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(
        json["ranges"],
        serde_json::json!([[2047, 2], [5859, 1], [8192, 1]])
    );
    assert_eq!(
        (json["equal"].as_bool(), json["blocks"].as_u64()),
        (Some(false), Some(4))
    );
    assert_eq!(json["a"]["size"].as_u64(), Some(bytes.len() as u64));
    fs::write(&b, &bytes).unwrap();
    assert_eq!(walbc(&words).ok(), b"equal\n");
    // A longer one differs, even where both have the same.
    fs::write(&b, [&bytes[..], &[0; 512]].concat()).unwrap();
    let found = walbc(&[&words[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(
        (found.status, json["equal"].as_bool(), json["blocks"].as_u64()),
        (Some(1), Some(false), Some(0))
    );
}
