//! What `get` prints, to the byte.

use walb_common::lineage::{BaseState, MetaDiff, Snapshot};
use walb_common::rest::{archive, proxy, storage};
use walb_common::types::{Gid, Timestamp};

use super::super::status::fixtures;
use super::*;

const fn time(text: u64) -> Timestamp {
    Timestamp(text)
}

#[test]
fn latest_snapshots_are_ltsv_lines() {
    let archive = fixtures::archive_volume();
    assert_eq!(
        lines::latest_at_archive(&archive).unwrap(),
        "name:vol0\tkind:archive\tgid:9\ttimestamp:2026-11-22T14:07:00"
    );
    let mut storage = fixtures::storage_volume();
    assert_eq!(
        lines::latest_at_storage(&storage).unwrap(),
        "name:vol0\tkind:storage\tgid:5\tlsid:99\ttimestamp:2026-11-22T14:08:00"
    );
    storage.queue.clear();
    assert_eq!(
        lines::latest_at_storage(&storage).unwrap(),
        "name:vol0\tkind:storage\tgid:3\tlsid:77\ttimestamp:2026-11-22T14:07:00"
    );
    storage.state = "Stopped".into();
    assert_eq!(lines::latest_at_storage(&storage), None);
    let mut proxy = fixtures::proxy_volume();
    proxy.archives.push(proxy::ArchiveStatus {
        name: "a1".into(),
        max_gid: None,
        ..proxy.archives[0].clone()
    });
    assert_eq!(
        lines::latest_at_proxy(&proxy),
        [
            "name:vol0\tkind:proxy\tarchive:a0\tgid:22\ttimestamp:2026-11-22T14:53:00",
            "name:vol0\tkind:proxy\tarchive:a1\tgid:\ttimestamp:"
        ]
    );
}

#[test]
fn log_usage_is_an_ltsv_line() {
    let log = fixtures::storage_volume().log.unwrap();
    let log = storage::DeviceLog { usage_pb: 123, ..log };
    assert_eq!(
        lines::log_usage("vol0", &log),
        "name:vol0\tusage_pb:123\tcapacity_pb:24566\tpbs:512"
    );
}

#[test]
fn a_restorable_snapshot_is_gid_time_flag() {
    let mut snapshot = archive::Restorable {
        gid: Gid(9),
        timestamp: time(1_795_356_420),
        explicit: true,
    };
    assert_eq!(lines::restorable(&snapshot), "9 2026-11-22T14:07:00 1");
    snapshot.explicit = false;
    assert_eq!(lines::restorable(&snapshot), "9 2026-11-22T14:07:00 0");
}

#[test]
fn all_actions_have_sixteen_fields_in_a_fixed_order() {
    let mut volume = fixtures::archive_volume();
    let merge = archive::ActionStatus {
        name: "Merge".into(),
        running: 0,
        last_began: time(1_795_359_112),
    };
    // Out of order and incomplete on purpose.
    volume.actions = vec![
        archive::ActionStatus {
            name: "Resize".into(),
            running: 1,
            last_began: time(0),
        },
        merge,
    ];
    assert_eq!(
        lines::actions(&volume),
        "vol0 Merge 0 2026-11-22T14:51:52 Apply 0 --- Restore 0 --- ReplSyncAsClient 0 --- Resize 1 ---"
    );
    assert_eq!(lines::running(&volume, "Resize"), 1);
    assert_eq!(lines::running(&volume, "Apply"), 0);
}

#[test]
fn base_states_are_listed_with_their_time() {
    assert_eq!(
        lines::base(&fixtures::archive_volume()),
        "name:vol0\tmetastate:<|2|>-20261122140200"
    );
}

#[test]
fn the_chain_leads_from_the_base_to_the_snapshot_printed() {
    let diff = |b: u64, e: u64| MetaDiff::new(Snapshot::clean(Gid(b)), Snapshot::clean(Gid(e))).unwrap();
    let base: BaseState = "<|0,10|>-20261122140000".parse().unwrap();
    assert_eq!(lines::reached(&base, &[]).to_string(), "|0,10|");
    assert_eq!(lines::reached(&base, &[diff(0, 5)]).to_string(), "|5,10|");
    assert_eq!(
        lines::reached(&base, &[diff(0, 5), diff(5, 12)]).to_string(),
        "|12|"
    );
    // A diff that was merged away meanwhile leaves a gap: no panic, and nothing beyond it.
    assert_eq!(lines::reached(&base, &[diff(20, 25)]).to_string(), "|0,10|");
}

#[test]
fn gids_that_make_no_diff_are_refused_here() {
    let gid = Gid;
    assert!(lines::diff_between(gid(2), gid(2), gid(3), gid(3)).is_ok());
    for (bb, be, eb, ee) in [(3, 2, 4, 4), (2, 2, 5, 4), (3, 3, 3, 3)] {
        assert!(lines::diff_between(gid(bb), gid(be), gid(eb), gid(ee)).is_err());
    }
}

#[test]
fn states_that_do_not_fit_name_what_was_found_and_expected() {
    let mut volume = fixtures::archive_volume();
    assert!(active(&volume).is_ok() && active_or_stopped(&volume).is_ok());
    volume.state = "Stopped".into();
    assert!(active_or_stopped(&volume).is_ok());
    let reason = active(&volume).unwrap_err().reason();
    assert_eq!(
        reason,
        "bad state:Stopped, expected Archived or HashSync or WdiffRecv or ReplSyncAsServer:vol0"
    );
    volume.state = "Clear".into();
    let reason = active(&volume).unwrap_err().reason();
    assert!(
        reason.starts_with("bad state:Clear") && reason.ends_with("(no volume vol0 here)"),
        "{reason}"
    );
}
