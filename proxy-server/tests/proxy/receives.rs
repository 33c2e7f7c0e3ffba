//! Logs that come in: taken, refused, broken off.

use crate::support::archive::{Archive, Whim};
use crate::support::storage::NotSent;
use crate::support::{Site, until};
use crate::volume;
use walb_common::types::Gid;
use walb_common::wire::message::RefusalReason;
use walb_common::wire::stream::Bulk;

#[tokio::test]
async fn a_damaged_log_is_refused_with_its_place_and_nothing_is_stored() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    let log = storage.write(40);
    let good = log.bytes();
    for at in [9, 600, good.len() / 2, good.len() - 1] {
        let mut bad = good.to_vec();
        bad[at] ^= 4;
        let error = storage
            .send_bytes(&proxy.address, &log, bad.into(), 1 << 20)
            .await
            .unwrap_err()
            .text();
        // The padding of the last block of an IO is summed by nobody; the generator fills it, so look for the others.
        assert!(
            error.contains("volume vol0: ") && error.contains("logpack"),
            "at {at}: {error}"
        );
        assert_eq!(site.names("vol0", "received"), [""; 0]);
        assert_eq!(site.names("vol0", "sendto/a0"), [""; 0]);
        assert_eq!(proxy.state("vol0").await, "Started");
    }
    // Cut in the middle of a pack; another end than announced; more than announced; a dirty diff.
    let cut = good.slice(..good.len() - 700);
    let error = storage
        .send_bytes(&proxy.address, &log, cut, 1 << 20)
        .await
        .unwrap_err()
        .text();
    assert!(error.contains("breaks off"), "{error}");
    let mut wrong = log.clone();
    wrong.commit.end.0 += 1;
    let error = storage.send(&proxy.address, &wrong).await.unwrap_err().text();
    assert!(error.contains("the log ends at lsid"), "{error}");
    let mut wrong = log.clone();
    wrong.begin.max_pb /= 2;
    let error = storage.send(&proxy.address, &wrong).await.unwrap_err().text();
    assert!(error.contains("more log than announced"), "{error}");
    let mut wrong = log.clone();
    let dirty = walb_common::lineage::Snapshot::new(Gid(1), Gid(9)).unwrap();
    wrong.commit.diff = walb_common::lineage::MetaDiff::new(wrong.commit.diff.begin(), dirty).unwrap();
    let error = storage.send(&proxy.address, &wrong).await.unwrap_err().text();
    assert!(
        error.contains("expected a clean diff, found |0|-->|1,9|"),
        "{error}"
    );
    assert_eq!(site.names("vol0", "received"), [""; 0]);
    storage.send(&proxy.address, &log).await.unwrap();
    archive.reached(&storage.volume, Gid(1)).await;
    archive.assert_equals(&storage.volume, &storage.image);
}

#[tokio::test]
async fn a_storage_that_goes_away_leaves_nothing_behind() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    let log = storage.write(40);
    let mut stream = storage.offer(&proxy.address, &log).await.unwrap();
    stream
        .send_bulk(Bulk::raw(0, log.bytes().slice(..2000)))
        .await
        .unwrap();
    until("the receive to begin", || async {
        (proxy.state("vol0").await == "WlogRecv").then_some(())
    })
    .await;
    // While one storage sends, another is refused.
    let NotSent::Refused(refusal) = storage.offer(&proxy.address, &log).await.err().unwrap() else {
        panic!()
    };
    assert_eq!(refusal.reason, RefusalReason::BadState);
    assert!(
        refusal.message.contains("bad state:WlogRecv"),
        "{}",
        refusal.message
    );
    drop(stream);
    until("the volume to be at rest", || async {
        (proxy.state("vol0").await == "Started").then_some(())
    })
    .await;
    until("the half file to go", || async {
        site.names("vol0", "received").is_empty().then_some(())
    })
    .await;
    storage.send(&proxy.address, &log).await.unwrap();
    archive.reached(&storage.volume, Gid(1)).await;
}

#[tokio::test]
async fn the_same_range_sent_again_is_taken_without_error_and_delivered_once() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    archive.whim(Whim::Refuse(RefusalReason::Syncing));
    let log = storage.write(20);
    for _ in 0..3 {
        storage.send(&proxy.address, &log).await.unwrap();
    }
    archive.reached(&storage.volume, Gid(1)).await;
    storage.send(&proxy.address, &log).await.unwrap();
    let next = storage.write(20);
    storage.send(&proxy.address, &next).await.unwrap();
    archive.reached(&storage.volume, Gid(2)).await;
    proxy.drained("vol0").await;
    archive.assert_equals(&storage.volume, &storage.image);
    assert_eq!(site.names("vol0", "sendto/a0"), [""; 0]);
}

#[tokio::test]
async fn a_log_that_does_not_fit_the_disk_is_refused_before_anything_is_sent() {
    let site = Site::new();
    let archive = Archive::start(&site, "a0").await;
    let proxy = site.start("").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    let mut log = storage.write(10);
    log.begin.max_pb = u64::MAX / 2;
    let NotSent::Refused(refusal) = storage.offer(&proxy.address, &log).await.err().unwrap() else {
        panic!()
    };
    assert_eq!(refusal.reason, RefusalReason::NoSpace);
    assert!(
        refusal.message.contains("MiB expected") && refusal.message.contains("found free"),
        "{}",
        refusal.message
    );
    assert_eq!(proxy.state("vol0").await, "Started");
}
