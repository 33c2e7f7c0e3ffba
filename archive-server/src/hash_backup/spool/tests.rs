use bytes::Bytes;
use walb_common::format::wdiff::WdiffReader;
use walb_common::lineage::Snapshot;
use walb_common::types::{Gid, Timestamp, Uuid};

use super::*;

fn start() -> Pending {
    Pending {
        uuid: Uuid([7; 16]),
        from: Snapshot::clean(Gid(5)),
        gid: Gid(6),
        size: Lb(1000),
        bulk: Lb(8),
        timestamp: Timestamp(1),
        address: Lb(0),
        bytes: 0,
        ended: false,
        snapshot: None,
    }
}

fn data(address: u64, blocks: usize) -> Piece {
    let content = u8::try_from(address % 250).unwrap() + 1;
    Piece::Bulk(Bulk::raw(address, Bytes::from(vec![content; blocks * 512])))
}

fn go(dir: &VolumeDir, pending: Pending, pieces: Vec<Piece>) -> (Result<(), SpoolError>, Pending) {
    let (sender, queue) = mpsc::channel(100);
    for piece in pieces {
        sender.try_send(piece).ok().unwrap();
    }
    drop(sender);
    run(dir, pending, queue, |_| {})
}

fn records(dir: &VolumeDir) -> Vec<(u64, u64, bool)> {
    let mut reader = WdiffReader::open(pending::part(dir)).unwrap();
    let next = || reader.next_record().unwrap();
    std::iter::from_fn(next)
        .map(|r| (r.address.0, r.blocks.0, matches!(r.content, Content::AllZero)))
        .collect()
}

#[test]
fn a_backup_cut_between_any_two_pieces_goes_on_from_its_last_section_and_is_the_same_diff() {
    let pieces = || {
        vec![
            data(0, 8),
            Piece::Bulk(Bulk::zeros(8, 4096)),
            Piece::Bulk(Bulk::zeros(16, 4096)),
            Piece::Section(Lb(100)),
            Piece::Section(Lb(200)),
            data(200, 8),
            data(240, 1),
            Piece::Section(Lb(300)),
            data(999, 1),
            Piece::Section(Lb(1000)),
            Piece::End,
        ]
    };
    let keep = tempfile::tempdir().unwrap();
    let whole = VolumeDir::new(keep.path().join("whole"));
    std::fs::create_dir(whole.path()).unwrap();
    let (result, ended) = go(&whole, start(), pieces());
    result.unwrap();
    assert!(ended.ended && ended.address == Lb(1000));
    let expected = records(&whole);
    assert_eq!(
        expected,
        [
            (0, 8, false),
            (8, 16, true),
            (200, 8, false),
            (240, 1, false),
            (999, 1, false)
        ]
    );
    for cut in 0..pieces().len() {
        let dir = VolumeDir::new(keep.path().join(format!("cut{cut}")));
        std::fs::create_dir(dir.path()).unwrap();
        let mut first = pieces();
        first.truncate(cut);
        let (result, at) = go(&dir, start(), first);
        assert!(result.unwrap_err().is_aborted());
        let rest: Vec<_> = pieces()
            .into_iter()
            .filter(|piece| match piece {
                Piece::Bulk(bulk) => bulk.tag >= at.address.0,
                Piece::Section(end) => *end > at.address,
                Piece::End => true,
            })
            .collect();
        let (result, ended) = go(&dir, at, rest);
        result.unwrap();
        assert_eq!(
            (records(&dir), ended.ended),
            (expected.clone(), true),
            "cut {cut}"
        );
        // And once more, after everything had come.
        let (result, again) = go(&dir, ended, vec![Piece::End]);
        result.unwrap();
        assert_eq!(again, ended);
    }
}

#[test]
fn chunks_out_of_order_beyond_the_end_or_of_odd_length_are_refused() {
    let keep = tempfile::tempdir().unwrap();
    let dir = VolumeDir::new(keep.path().to_owned());
    let place = |pieces| matches!(go(&dir, start(), pieces).0, Err(SpoolError::Place { .. }));
    assert!(place(vec![data(8, 8), data(8, 8)]));
    assert!(place(vec![data(8, 8), data(0, 8)]));
    assert!(place(vec![data(999, 2)]));
    assert!(place(vec![Piece::Bulk(Bulk::raw(0, Bytes::from(vec![1; 100])))]));
    assert!(place(vec![Piece::Section(Lb(100)), data(50, 1)]));
    let garbage = Bulk {
        codec: Compression::Lz4,
        raw_len: 4096,
        ..Bulk::raw(0, Bytes::from(vec![0xff; 64]))
    };
    let result = go(&dir, start(), vec![Piece::Bulk(garbage)]).0;
    assert!(matches!(result, Err(SpoolError::Decompress { .. })));
}
