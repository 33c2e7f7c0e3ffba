//! Status texts, to the byte.

use super::fixtures;
use super::{archive, proxy, storage};

const STORAGE_ALL: &str = "\
-----StorageGlobal-----
nodeId s0
baseDir /var/walb/s0
maxWlogSendMb 128
minDelaySecForRetry 1
maxDelaySecForRetry 300
maxConnections 10
maxForegroundTasks 2
maxBackgroundTasks 1
socketTimeout 10
keepAlive OFF
fullScanLbPerSec 0
healOverflow 1
-----Archive-----
host 127.0.0.1:10200
-----Proxy-----
host 127.0.0.1:10100 isAvailable 1 timeToNextCheck 9
-----TaskQueue-----
volume vol0 timeDiffMs 953
-----Volume-----
volume vol0 state Target logUsagePb 0 logCapacityPb 24566 oldestGid 3 latestGid 5 oldestLsid 77 permanentLsid 99
";

const STORAGE_ONE: &str = "\
hostType storage
volId vol0
state Target
action WlogSend 0 WlogRemove 0
stopState NotStopping
isUnderMonitoring 1
wdevPath /dev/walb/vol0
sizeLb 24576
size 12m
isOverflow 0
logUsagePb 0
logCapacityPb 24566
uuid c0687f35edb8cff893c2df0d327116b3
pbs 512
salt 5a40c2be
-----DoneFile-----
LsidGid timestamp 2026-11-22T14:07:00 isMergeable 1 lsid 77 gid 3
-----QueueFile-----
LsidGid timestamp 2026-11-22T14:08:00 isMergeable 0 lsid 99 gid 5
";

const PROXY_ALL: &str = "\
-----ProxyGlobal-----
nodeId p0
baseDir /var/walb/p0
maxWdiffSendMb 128
minDelaySecForRetry 1
maxDelaySecForRetry 300
retryTimeout 1800
maxConnections 10
maxForegroundTasks 2
maxBackgroundTasks 1
socketTimeout 10
keepAlive OFF
-----TaskQueue 1-----
volume vol0 archive a0 timeDiffMs 953
-----Volume-----
volume vol0 state Started numDiff 0 totalSize 0 timestamp ---
  archive a0 action None numDiff 2 totalSize 642112 minGid 20 maxGid 22 2026-11-22T14:53:25
";

const PROXY_ONE: &str = "\
hostType proxy
volume vol0
state Started
sizeLb 98304
size 48m
numDiff 0
totalSize 0
lastWlogReceivedTime ---
totalNumAction 0
-----Archive-----
  archive a0
  host localhost:10200
  compression snappy:0:1
  wdiffSendDelay 0
  action None
  numDiff 2
  lastWdiffSentTime 2026-11-22T14:53:25
  isWdiffSendError 0
  wdiffTotalSize 642112
  wdiffSendDelayMeasured 2067
";

const ARCHIVE_VOLUME_LINE: &str = "volume vol0 state Archived totalNumAction 0 stopState NotStopping lastSyncTime --- \
lastWdiffReceivedTime 2026-11-22T14:51:37 numDiff 1 latestSnapshot |9| size 32m";

const ARCHIVE_GLOBAL: &str = "\
-----ArchiveGlobal-----
nodeId a0
baseDir /var/walb/a0
volumeGroup ---
maxConnections 10
maxForegroundTasks 2
socketTimeout 10
keepAlive OFF
doAutoResize 0
keepOneColdSnapshot 0
imageDir /var/walb/a0/images
discard zero
-----Volume-----
";

const ARCHIVE_ONE: &str = "\
hostType archive
volume vol0
state Archived
action Merge 0 Apply 0 Restore 0 ReplSyncAsClient 0 Resize 0
stopState NotStopping
lastSyncTime ---
lastWdiffReceivedTime 2026-11-22T14:51:37
progressLb 0
sizeLb 65536
size 32m
uuid ab16acf9d3ccd6dfea6c5f2db9e027c7
archiveUuid 00000000000000000000000000000000
base <|2|>
latest |9|
numCold 0
numRestored 0
numRestorable 2
numRestorableAll 2
numDiff 1
wdiffTotalSize 857632
fullReplState None
";

#[test]
fn a_storage_and_its_volume_are_shown_as_documented() {
    assert_eq!(storage::all(&fixtures::storage()), STORAGE_ALL);
    assert_eq!(storage::one(&fixtures::storage_volume()), STORAGE_ONE);
}

#[test]
fn a_proxy_and_its_volume_are_shown_as_documented() {
    assert_eq!(proxy::all(&fixtures::proxy()), PROXY_ALL);
    assert_eq!(proxy::one(&fixtures::proxy_volume()), PROXY_ONE);
}

#[test]
fn an_archive_and_its_volume_are_shown_as_documented() {
    assert_eq!(
        archive::all(&fixtures::archive()),
        format!("{ARCHIVE_GLOBAL}{ARCHIVE_VOLUME_LINE}\n")
    );
    assert_eq!(archive::one(&fixtures::archive_volume()), ARCHIVE_ONE);
}

#[test]
fn a_clear_volume_ends_after_its_state() {
    let mut volume = fixtures::storage_volume();
    volume.state = "Clear".into();
    assert_eq!(
        storage::one(&volume),
        "hostType storage\nvolId vol0\nstate Clear\n"
    );
    let mut volume = fixtures::proxy_volume();
    volume.state = "Clear".into();
    assert_eq!(proxy::one(&volume), "hostType proxy\nvolume vol0\nstate Clear\n");
    let mut volume = fixtures::archive_volume();
    volume.state = "Clear".into();
    assert_eq!(
        archive::one(&volume),
        "hostType archive\nvolume vol0\nstate Clear\n"
    );
}

#[test]
fn a_storage_volume_without_a_backup_shows_the_largest_numbers() {
    let mut status = fixtures::storage();
    let volume = &mut status.volumes[0];
    (volume.state, volume.done) = ("SyncReady".into(), None);
    volume.queue.clear();
    let text = storage::all(&status);
    assert!(
        text.contains("oldestGid 18446744073709551615 latestGid 18446744073709551615 oldestLsid 77"),
        "{text}"
    );
    let text = storage::one(&status.volumes[0]);
    let done = "-----DoneFile-----\nLsidGid timestamp --- isMergeable 0 lsid 18446744073709551615 gid \
                18446744073709551615\n-----QueueFile-----\n";
    assert!(text.ends_with(done), "{text}");
}

#[test]
fn an_archive_volume_without_a_base_image_says_so() {
    let mut volume = fixtures::archive_volume();
    (volume.state, volume.size) = ("SyncReady".into(), None);
    assert!(archive::one(&volume).ends_with("progressLb 0\nbaseLv NOT FOUND\n"));
    let mut status = fixtures::archive();
    status.volumes = vec![volume];
    assert!(archive::all(&status).ends_with("numDiff 1 baseLv NOT FOUND\n"));
}

#[test]
fn a_failed_volume_shows_its_reason_in_one_line_and_hides_no_other() {
    let reason = || Some("device is gone:\nwdev:vol1".to_owned());
    let mut status = fixtures::storage();
    let mut failed = fixtures::storage_volume();
    (failed.name, failed.failed, failed.log) = ("vol1".into(), reason(), None);
    status.volumes.insert(0, failed.clone());
    let text = storage::all(&status);
    assert!(
        text.contains(
            "\nvolume vol1 state Target failed device is gone: wdev:vol1\nvolume vol0 state Target log"
        ),
        "{text}"
    );
    let text = storage::one(&failed);
    assert!(
        text.contains("state Target\nfailed device is gone: wdev:vol1\naction"),
        "{text}"
    );
    assert!(
        text.contains("wdevPath /dev/walb/vol0\nuuid c0687f35edb8cff893c2df0d327116b3\n-----DoneFile-----"),
        "{text}"
    );

    let mut status = fixtures::proxy();
    let mut failed = fixtures::proxy_volume();
    (failed.name, failed.failed) = ("vol1".into(), reason());
    status.volumes.insert(0, failed);
    assert!(
        proxy::all(&status)
            .contains("\nvolume vol1 state Started failed device is gone: wdev:vol1\nvolume vol0 state")
    );

    let mut status = fixtures::archive();
    let mut failed = fixtures::archive_volume();
    (failed.name, failed.failed) = ("vol1".into(), reason());
    status.volumes.insert(0, failed);
    assert!(
        archive::all(&status)
            .contains("\nvolume vol1 state Archived failed device is gone: wdev:vol1\nvolume vol0 state")
    );
}

#[test]
fn warnings_are_shown_a_line_each() {
    let mut volume = fixtures::archive_volume();
    volume.warnings = vec!["a gap".into(), "and\nanother".into()];
    assert!(archive::one(&volume).ends_with("fullReplState None\nwarning a gap\nwarning and another\n"));
    let mut volume = fixtures::proxy_volume();
    volume.warnings = vec!["a gap".into()];
    assert!(proxy::one(&volume).contains("\nwarning a gap\n-----Archive-----\n"));
}

#[test]
fn errors_of_transfers_are_shown_and_a_proxy_archive_without_diffs_has_no_gids() {
    let mut volume = fixtures::storage_volume();
    volume.last_error = Some("no proxy took it".into());
    assert!(storage::one(&volume).contains("salt 5a40c2be\nlastError no proxy took it\n-----DoneFile-----"));
    let mut status = fixtures::proxy();
    let archive = &mut status.volumes[0].archives[0];
    (archive.min_gid, archive.max_gid, archive.sending) = (None, None, true);
    archive.last_error = Some("connection refused".into());
    archive.damaged = vec!["x.wdiff.bad".into()];
    let text = proxy::all(&status);
    assert!(text.contains(
        "action WdiffSend numDiff 2 totalSize 642112 minGid 18446744073709551615 maxGid 18446744073709551615 "
    ));
    let text = proxy::one(&status.volumes[0]);
    assert!(
        text.contains("totalNumAction 1\n")
            && text.ends_with("  lastError connection refused\n  damaged x.wdiff.bad\n")
    );
}
