//! What the archive takes from its peers, and what it does not.

use crate::backed_up;
use crate::support::{
    LOG, Model, Operator, SIZE, Sent, Site, begin_backup, diff, full_backup, send_diff, send_wdiff, vol,
    wdiff,
};
use walb_common::rest::{ErrorCode, JobState};
use walb_common::types::{Lb, Uuid};
use walb_common::wire::identity::Role;
use walb_common::wire::message::{RefusalReason, StreamKind, WdiffBegin};
use walb_common::wire::stream::Bulk;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_told_why_its_diff_is_not_taken_and_nothing_changes() {
    use RefusalReason as R;
    let site = Site::new();
    let running = site.start().await;
    let address = &running.address;
    let operator = Operator::at(&site, address);
    let records = Model::new(0).change(1);
    let send =
        async |volume: &str, from, to| send_diff(&site, address, volume, diff(from, to), &records).await;
    assert_eq!(send("nobody", 4, 5).await.refusal(), R::BadState);
    operator.command("vol1", "init").await.unwrap();
    assert_eq!(send("vol1", 4, 5).await.refusal(), R::BadState);
    backed_up(&site, address, "vol0").await;
    assert_eq!(send("vol0", 3, 4).await.refusal(), R::TooOldDiff);
    assert_eq!(send("vol0", 5, 6).await.refusal(), R::TooNewDiff);
    let begin = |uuid, size| WdiffBegin {
        uuid,
        size,
        diff: diff(4, 5),
    };
    let bytes = wdiff(LOG, &records);
    let other = send_wdiff(&site, address, "vol0", &begin(Uuid([8; 16]), SIZE), &bytes).await;
    assert_eq!(other.refusal(), R::DifferentUuid);
    let larger = send_wdiff(&site, address, "vol0", &begin(LOG, Lb(SIZE.0 + 1)), &bytes).await;
    assert_eq!(larger.refusal(), R::SmallerSize);
    let huge = WdiffBegin {
        diff: diff(4, 5).with_size(1 << 60),
        ..begin(LOG, SIZE)
    };
    assert_eq!(
        send_wdiff(&site, address, "vol0", &huge, &bytes).await.refusal(),
        R::NoSpace
    );
    // While one diff is being received another one is not.
    let mut first = site
        .proxy
        .open_stream(address, Role::Archive, StreamKind::Wdiff, &vol("vol0"))
        .await
        .unwrap();
    first.send(&begin(LOG, SIZE)).await.unwrap();
    let _: walb_common::wire::message::Answer = first.recv().await.unwrap();
    assert_eq!(send("vol0", 4, 5).await.refusal(), R::WdiffRecv);
    drop(first);
    // Its peer has gone: the volume comes back by itself and takes the same diff.
    loop {
        match send("vol0", 4, 5).await {
            Sent::Done => break,
            Sent::Refused(refusal) if refusal.reason == R::WdiffRecv => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
    let job = operator.stop("vol0", "graceful").await.unwrap();
    assert_eq!(operator.job(job).await.unwrap().state, JobState::Succeeded);
    assert_eq!(send("vol0", 5, 6).await.refusal(), R::Stopped);
    operator.command("vol0", "start").await.unwrap();
    assert!(matches!(send("vol0", 5, 6).await, Sent::Done));
    assert_eq!(operator.status("vol0").await.num_diff, 6);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_foreign_diff_leaves_nothing() {
    let site = Site::new();
    let running = site.start().await;
    let address = &running.address;
    backed_up(&site, address, "vol0").await;
    let records = Model::new(0).change(9);
    let good = wdiff(LOG, &records);
    let begin = WdiffBegin {
        uuid: LOG,
        size: SIZE,
        diff: diff(4, 5),
    };
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(site.data("vol0"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    let mut bad: Vec<(&str, Vec<u8>)> = vec![
        ("cut short", good[..good.len() - 1].to_vec()),
        ("without an end", good[..good.len() - 4096].to_vec()),
        ("trailing byte", [&good[..], &[0]].concat()),
        ("another log's", wdiff(Uuid([9; 16]), &records)),
        ("empty", Vec::new()),
    ];
    let beyond = walb_common::format::wdiff::WdiffRecord {
        address: Lb(SIZE.0 - 1),
        ..records[0].clone()
    };
    bad.push(("beyond the end", wdiff(LOG, &[beyond])));
    for at in [5, 40, 5000, good.len() - 10] {
        let mut flipped = good.clone();
        flipped[at] ^= 4;
        bad.push(("flipped bit", flipped));
    }
    for (what, bytes) in bad {
        let sent = send_wdiff(&site, address, "vol0", &begin, &bytes).await;
        assert!(matches!(sent, Sent::Failed(_)), "{what}: {sent:?}");
        assert_eq!(names(), before, "{what}");
    }
    assert!(matches!(
        send_wdiff(&site, address, "vol0", &begin, &good).await,
        Sent::Done
    ));
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_backup_that_does_not_end_leaves_sync_ready_and_no_image() {
    use RefusalReason as R;
    let site = Site::new();
    let running = site.start().await;
    let address = &running.address;
    let operator = Operator::at(&site, address);
    let refused = begin_backup(&site, address, "vol0").await.unwrap().err().unwrap();
    let Sent::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (refusal.reason, refusal.message.as_str()),
        (R::BadState, "bad state:Clear, expected SyncReady")
    );
    operator.command("vol0", "init").await.unwrap();
    let until_ready = async || {
        while operator.status("vol0").await.state != "SyncReady" {
            tokio::task::yield_now().await;
        }
        assert!(!site.image("wb_vol0").exists());
        assert_eq!(operator.status("vol0").await.progress, Lb(0));
    };

    // Cut in the middle.
    let mut stream = begin_backup(&site, address, "vol0").await.unwrap().unwrap();
    stream
        .send_bulk(Bulk::raw(0, vec![1; 65536].into()))
        .await
        .unwrap();
    while operator.status("vol0").await.progress != Lb(128) {
        tokio::task::yield_now().await;
    }
    assert_eq!(operator.status("vol0").await.state, "FullSync");
    assert_eq!(
        send_diff(&site, address, "vol0", diff(0, 1), &[]).await.refusal(),
        R::Syncing
    );
    let again = begin_backup(&site, address, "vol0").await.unwrap().err().unwrap();
    assert_eq!(again.refusal(), R::BadState);
    drop(stream);
    until_ready().await;

    // A bulk out of place.
    let mut stream = begin_backup(&site, address, "vol0").await.unwrap().unwrap();
    stream
        .send_bulk(Bulk::raw(64, vec![1; 65536].into()))
        .await
        .unwrap();
    let error = stream.recv_bulk().await.unwrap_err();
    assert!(error.to_string().contains("from block 0 on"), "{error}");
    until_ready().await;

    // Stopped by force: the backup ends, and the stop fails because there is nothing to stop any more.
    let mut stream = begin_backup(&site, address, "vol0").await.unwrap().unwrap();
    stream.send_bulk(Bulk::zeros(0, 65536)).await.unwrap();
    let job = operator.stop("vol0", "force").await.unwrap();
    let error = stream.recv_bulk().await.unwrap_err();
    assert!(error.to_string().contains("stopped by force"), "{error}");
    let job = operator.job(job).await.unwrap();
    assert_eq!(
        (job.state, job.error.unwrap().code),
        (JobState::Failed, ErrorCode::WrongState)
    );
    until_ready().await;

    let sent = full_backup(&site, address, "vol0", &Model::new(3).bytes, 0).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    assert_eq!(operator.restorable("vol0").await, [0]);
    assert_eq!(operator.image_of("vol0", 0).await, Model::new(3).bytes);
    running.stop(&site).await;
}
