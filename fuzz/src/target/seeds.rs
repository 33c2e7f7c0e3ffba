//! Where searches start: the golden files, and what the generators make.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use walb_common::testing::{Io, random_ios};
use walb_common::types::Lb;

/// The golden files with this extension that are no longer than `max_len`.
pub fn golden(extension: &str, max_len: usize) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/tests/golden");
    let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    // The order of a directory is not the same everywhere; the search is to be.
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.extension().is_some_and(|e| e == extension) {
            let file = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if file.len() <= max_len {
                files.push(file);
            }
        }
    }
    assert!(
        !files.is_empty(),
        "no golden files {extension} in {}",
        directory.display()
    );
    files
}

/// Lists of IOs: ordinary ones on a volume of `size`, and ones at the end of the address space.
pub fn ios(size: Lb) -> Vec<Vec<Io>> {
    let small = |seed| {
        let mut ios = random_ios(seed, size, 6);
        for io in &mut ios {
            if let Io::Write { data, .. } = io {
                data.truncate(2048);
            }
        }
        ios
    };
    let last = |before: u64| Lb(u64::MAX - before);
    let far = vec![
        Io::Write {
            address: last(4),
            data: Bytes::from(vec![7; 1024]),
        },
        Io::Discard {
            address: last(70),
            blocks: Lb(3),
        },
        Io::Write {
            address: last(2),
            data: Bytes::from(vec![0; 1024]),
        },
    ];
    let wide = vec![
        Io::Discard {
            address: Lb(0),
            blocks: Lb(u32::MAX.into()),
        },
        Io::Write {
            address: Lb(3),
            data: Bytes::from(vec![9; 512]),
        },
    ];
    vec![small(1), small(2), small(3), far, wide]
}
