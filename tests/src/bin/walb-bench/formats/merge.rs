//! Overlapping wdiffs become one.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::table::{Output, Reference, Table};
use super::walbc::{self, LAYOUTS};
use super::yardstick;
use crate::generate::{Data, Io, WlogSpec};

/// Ten and a hundred wdiffs of whole blocks, a hundred whose records overlap in part, and a hundred of large images across
/// each other, which their readers would all like to keep.
pub fn tables(dir: &Path, size: u64) -> Result<Vec<Table>> {
    let [sorted, indexed] = LAYOUTS;
    [
        (10, Io::Blocks, sorted),
        (100, Io::Blocks, sorted),
        (100, Io::Mixed, sorted),
        (100, Io::Large, indexed),
    ]
    .into_iter()
    .map(|(count, io, layout)| table(dir, size, count, io, layout))
    .collect()
}

/// Wdiffs made of logs of `size` bytes together, each all over a volume of `range` bytes; oldest first.
pub fn make_wdiffs(
    dir: &Path,
    size: u64,
    range: u64,
    count: u64,
    io: Io,
    layout: &str,
) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let mut paths = Vec::new();
    for at in 0..count {
        crate::interrupt::check()?;
        let path = dir.join(format!("{at:03}.wdiff"));
        let spec = WlogSpec {
            seed: 1 + at,
            size: size / count,
            range,
            io,
            data: Data::Half,
        };
        walbc::make_wdiff(spec, layout, "lz4", &path)?;
        paths.push(path);
    }
    Ok(paths)
}

fn table(dir: &Path, size: u64, count: u64, io: Io, layout: &str) -> Result<Table> {
    let writes = match io {
        Io::Blocks => "4 KiB writes",
        Io::Mixed => "mixed writes",
        Io::Large => "1 MiB writes",
    };
    let inputs = make_wdiffs(
        &dir.join(format!("{count} of {writes}")),
        size,
        size,
        count,
        io,
        layout,
    )?;
    let all = dir.join(format!("{count} of {writes}.all"));
    yardstick::concatenated(&inputs, &all)?;
    let mut cases = vec![
        yardstick::lz4(&all)?,
        yardstick::synced_copy(&all, dir.join("copy"))?,
    ];
    for (compression, cpu) in [("lz4", Some(0.5)), ("zstd", None)] {
        let arguments = [
            "wdiff",
            "merge",
            "--layout",
            "sorted",
            "--compression",
            compression,
        ];
        let out = Output::File(dir.join("out.wdiff"));
        let mut case = walbc::case(&format!("lz4 to {compression}"), &arguments, &inputs, out)?;
        case.reference = Reference {
            existing: "0.9-1.2".into(),
            wall: None,
            cpu,
            peak_bytes: Some(64 << 20),
        };
        cases.push(case);
    }
    Ok(Table {
        work: "merge",
        title: format!("merge of {count} {layout} wdiffs, {writes}, beside lz4 of the wdiffs as stored"),
        size,
        cases,
    })
}
