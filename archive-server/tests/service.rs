//! An archive with real TLS, driven over REST and streams by hand-made peers, restarted, and looked at on disk.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::{
    ARCHIVE, LOG, Model, Operator, SIZE, Sent, Site, api_error, begin_backup, diff, full_backup, send_diff,
    send_wdiff, vol, wdiff,
};
use walb_common::rest::archive::Diffs;
use walb_common::rest::{ErrorCode, JobState, VolumeBrief};
use walb_common::types::{Lb, Uuid};
use walb_common::wire::identity::Role;
use walb_common::wire::message::{RefusalReason, StreamKind, WdiffBegin};
use walb_common::wire::stream::Bulk;

/// A volume with a base image `<|0,2|>` and diffs 0-1, 1-2, 2-3, 3-4; the model after each.
async fn backed_up(site: &Site, address: &str, volume: &str) -> Vec<Vec<u8>> {
    let operator = Operator::at(site, address);
    operator.command(volume, "init").await.unwrap();
    let mut model = Model::new(1);
    let mut images = vec![Vec::new()];
    let sent = full_backup(site, address, volume, &model.bytes, 2).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    for n in 1..=4 {
        let records = model.change(u8::try_from(n).unwrap());
        let sent = send_diff(
            site,
            address,
            volume,
            diff(n - 1, n).with_mergeable(n != 4),
            &records,
        )
        .await;
        assert!(matches!(sent, Sent::Done), "{sent:?}");
        images.push(model.bytes.clone());
    }
    images
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_snapshot_restores_byte_for_byte_also_after_a_restart() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    let operator = Operator::at(&site, &running.address);
    let status = operator.status("vol0").await;
    assert_eq!(
        (status.state.as_str(), status.base.as_str()),
        ("Archived", "<|0,2|>-20231114221320")
    );
    assert_eq!((status.size, status.uuid, status.num_diff), (Some(SIZE), LOG, 4));
    assert_eq!(status.latest.unwrap().to_string(), "|4|");
    assert_ne!(status.archive_uuid, Uuid::NIL);
    // The base |0,2| is dirty until 2; 3 is explicit because the diff that starts there is not mergeable.
    assert_eq!(operator.restorable("vol0").await, [2, 3, 4]);
    assert_eq!(operator.image_of("vol0", 3).await, images[3]);
    assert_eq!((status.num_restorable, status.num_restorable_all), (2, 3));
    let error = api_error(operator.restore("vol0", 3).await);
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::AlreadyExists, "already restored:vol0:3")
    );
    let error = api_error(operator.restore("vol0", 1).await);
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::NotFound, "bad gid to restore:vol0:1")
    );

    let before = operator.status("vol0").await;
    running.stop(&site).await;
    // Without the index everything is still there: the files say what they are.
    std::fs::remove_file(site.data("metadata.sqlite")).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let after = operator.status("vol0").await;
    assert_eq!(
        (after.base, after.latest, after.uuid),
        (before.base, before.latest, before.uuid)
    );
    assert_eq!(
        (after.archive_uuid, after.num_diff, after.num_restored),
        (before.archive_uuid, 4, 1)
    );
    for gid in [2, 4] {
        assert_eq!(
            operator.image_of("vol0", gid).await,
            images[usize::try_from(gid).unwrap()]
        );
    }
    let listed: Vec<u64> = operator.restored("vol0").await.iter().map(|r| r.gid.0).collect();
    assert_eq!(listed, [2, 3, 4]);
    operator.delete_restored("vol0", 3).await.unwrap();
    assert!(!site.image("wr_vol0_3").exists());
    assert_eq!(
        api_error(operator.delete_restored("vol0", 3).await).message,
        "volume not found:vol0:3:restored"
    );
    let diffs: Diffs = operator.get("vol0/diffs?gid0=1&gid1=3").await.unwrap();
    assert_eq!(
        diffs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["|1|-->|2|", "|2|-->|3|"]
    );
    let diffs: Diffs = operator.get("vol0/applicable-diffs?max=2").await.unwrap();
    assert_eq!(diffs.len(), 2);
    assert_eq!(
        api_error(operator.get::<Diffs>("vol0/diffs?gid0=3&gid1=3").await).code,
        ErrorCode::BadRequest
    );
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_over_more_diffs_than_are_opened_at_once_is_right() {
    let site = Site::new();
    let running = site.start().await;
    Operator::at(&site, &running.address)
        .command("vol0", "init")
        .await
        .unwrap();
    let mut model = Model::new(1);
    let sent = full_backup(&site, &running.address, "vol0", &model.bytes, 0).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    running.stop(&site).await;
    // Sent one by one they would be the same files, only later.
    let mut images = vec![model.bytes.clone()];
    for n in 1..=600 {
        let records = model.change(u8::try_from(n % 251).unwrap());
        let path = site.data("vol0").join(diff(n - 1, n).file_name());
        std::fs::write(path, wdiff(LOG, &records)).unwrap();
        images.push(model.bytes.clone());
    }
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    for gid in [600, 257, 256] {
        let image = operator.image_of("vol0", gid).await;
        assert!(image == images[usize::try_from(gid).unwrap()], "{gid}");
    }
    running.stop(&site).await;
}

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
async fn a_damaged_stored_diff_fails_the_restore_by_name_and_no_image_appears() {
    let site = Site::new();
    let running = site.start().await;
    backed_up(&site, &running.address, "vol0").await;
    let operator = Operator::at(&site, &running.address);
    let path = site.data("vol0").join(diff(2, 3).file_name());
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[4096 + 40] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let job = operator
        .job(operator.restore("vol0", 4).await.unwrap())
        .await
        .unwrap();
    let error = job.error.unwrap();
    assert_eq!(error.code, ErrorCode::Corrupt);
    assert!(
        error.message.contains(path.to_str().unwrap()),
        "{}",
        error.message
    );
    assert!(!site.image("wr_vol0_4").exists() && !site.image("wr_vol0_4_tmp").exists());
    std::fs::write(&path, &good).unwrap();
    operator.image_of("vol0", 4).await;
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_image_that_was_cut_is_named_and_never_restored_from() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    let base = std::fs::File::options()
        .write(true)
        .open(site.image("wb_vol0"))
        .unwrap();
    let length = base.metadata().unwrap().len();
    base.set_len(length - 4096).unwrap();
    let operator = Operator::at(&site, &running.address);
    let job = operator
        .job(operator.restore("vol0", 4).await.unwrap())
        .await
        .unwrap();
    let error = job.error.unwrap();
    assert_eq!(error.code, ErrorCode::Corrupt);
    let told = format!("has {} bytes, expected {length}", length - 4096);
    assert!(
        error.message.contains("wb_vol0") && error.message.contains(&told),
        "{}",
        error.message
    );
    assert!(!site.image("wr_vol0_4").exists() && !site.image("wr_vol0_4_tmp").exists());
    running.stop(&site).await;

    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let failed = operator.status("vol0").await.failed.unwrap();
    assert!(failed.contains(&told), "{failed}");
    running.stop(&site).await;

    // The image comes back whole, and so does the volume.
    base.set_len(length).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    assert_eq!(operator.status("vol0").await.failed, None);
    assert_eq!(operator.image_of("vol0", 4).await.len(), images[4].len());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_and_clear_remove_everything_and_commands_in_the_wrong_state_say_so() {
    let site = Site::new();
    let running = site.start().await;
    let address = &running.address;
    let operator = Operator::at(&site, address);
    for command in ["clear", "reset", "start", "stop"] {
        let error = api_error(operator.command("vol0", command).await);
        assert_eq!(error.code, ErrorCode::WrongState, "{command}");
        assert!(
            error.message.starts_with("bad state:Clear, expected "),
            "{command}: {}",
            error.message
        );
        assert_eq!(error.hint.as_deref(), Some("no volume vol0 here"));
    }
    operator.command("vol1", "init").await.unwrap();
    for mode in ["graceful", "force"] {
        let error = api_error(operator.stop("vol1", mode).await);
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::WrongState, "bad state:SyncReady, expected Archived")
        );
    }
    assert_eq!(operator.status("vol1").await.stop_state, "NotStopping");
    backed_up(&site, address, "vol0").await;
    operator.image_of("vol0", 4).await;
    assert_eq!(
        api_error(operator.command("vol0", "init").await).message,
        "bad state:Archived, expected Clear"
    );
    assert_eq!(
        api_error(operator.command("images", "init").await).code,
        ErrorCode::AlreadyExists
    );
    assert_eq!(
        api_error(operator.stop("vol0", "empty").await).message,
        "stop empty is not allowed."
    );
    operator
        .job(operator.stop("vol0", "graceful").await.unwrap())
        .await
        .unwrap();
    operator.command("vol0", "reset").await.unwrap();
    let status = operator.status("vol0").await;
    assert_eq!(
        (
            status.state.as_str(),
            status.num_diff,
            status.size,
            status.num_restored
        ),
        ("SyncReady", 0, None, 0)
    );
    assert_eq!(status.uuid, Uuid::NIL);
    assert_eq!(std::fs::read_dir(site.data("images")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(site.data("vol0")).unwrap().count(), 1);
    let sent = full_backup(&site, address, "vol0", &Model::new(3).bytes, 0).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    operator
        .job(operator.stop("vol0", "force").await.unwrap())
        .await
        .unwrap();
    operator.command("vol0", "clear").await.unwrap();
    assert_eq!(operator.status("vol0").await.state, "Clear");
    assert!(!site.data("vol0").exists() && !site.image("wb_vol0").exists());
    operator.command("vol0", "init").await.unwrap();
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_volume_is_shown_with_its_reason_and_keeps_no_other_down() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "good").await;
    backed_up(&site, &running.address, "bad").await;
    running.stop(&site).await;
    std::fs::remove_file(site.image("wb_bad")).unwrap();
    // Leftovers of interrupted work, and a stranger.
    std::fs::write(site.data("good").join("20261122140300-M--9-10.wdiff.tmp"), "x").unwrap();
    std::fs::write(site.image("wr_good_2_tmp"), "x").unwrap();
    std::fs::create_dir(site.data("half.init")).unwrap();
    std::fs::create_dir(site.data("lost+found")).unwrap();
    // A leftover that cannot be removed as such.
    std::fs::create_dir(site.image("wr_other_4_tmp")).unwrap();
    std::fs::create_dir(site.data("pki")).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let list: Vec<VolumeBrief> = site
        .viewer
        .get(&running.address, ARCHIVE, "/v1/volumes")
        .await
        .unwrap();
    assert_eq!(
        list.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(),
        ["bad", "good"]
    );
    assert!(list[0].failed.as_ref().unwrap().contains("wb_bad"));
    let error = api_error(operator.restore("bad", 4).await);
    assert_eq!(error.code, ErrorCode::Corrupt);
    let sent = send_diff(&site, &running.address, "bad", diff(4, 5), &[]).await;
    assert_eq!(sent.refusal(), RefusalReason::Other);
    assert_eq!(operator.image_of("good", 4).await, images[4]);
    assert!(!site.data("half.init").exists() && !site.image("wr_good_2_tmp").exists());
    assert!(
        !site
            .data("good")
            .join("20261122140300-M--9-10.wdiff.tmp")
            .exists()
    );
    // What failed can be reset.
    operator.command("bad", "reset").await.unwrap();
    assert_eq!(operator.status("bad").await.failed, None);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_cannot_be_written_keeps_no_volume_down() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    let operator = Operator::at(&site, &running.address);
    operator.image_of("vol0", 3).await;
    running.stop(&site).await;
    // As on a full disk: the index is behind the files, and no row can be added.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(site.data("metadata.sqlite"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    for sql in [
        "DELETE FROM diff",
        "CREATE TRIGGER full BEFORE INSERT ON diff BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let status = operator.status("vol0").await;
    assert_eq!((status.state.as_str(), status.num_diff), ("Archived", 4));
    // What makes room again works, and what needs no row.
    operator.delete_restored("vol0", 3).await.unwrap();
    assert_eq!(operator.image_of("vol0", 4).await, images[4]);
    let records = Model::new(0).change(1);
    let sent = send_diff(&site, &running.address, "vol0", diff(4, 5), &records).await;
    assert!(matches!(sent, Sent::Failed(_)), "{sent:?}");
    assert_eq!(operator.status("vol0").await.num_diff, 4);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_diffs_is_shown_with_its_gids() {
    let site = Site::new();
    let running = site.start().await;
    backed_up(&site, &running.address, "vol0").await;
    let operator = Operator::at(&site, &running.address);
    let records = Model::new(0).change(1);
    let sent = send_diff(&site, &running.address, "vol0", diff(6, 7), &records).await;
    assert_eq!(sent.refusal(), RefusalReason::TooNewDiff);
    let warnings = operator.status("vol0").await.warnings;
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("gap: the diffs from gid 4 to gid 6 have not come"),
        "{warnings:?}"
    );
    let sent = send_diff(&site, &running.address, "vol0", diff(4, 6), &records).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    assert_eq!(operator.status("vol0").await.warnings, [""; 0]);
    running.stop(&site).await;
    // A diff that is lost here.
    let lost = std::fs::read_dir(site.data("vol0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with("-2-3.wdiff"))
        .unwrap();
    std::fs::remove_file(lost).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    assert_eq!(
        operator.status("vol0").await.warnings,
        ["gap: no diff leads from gid 2 to gid 3; 2 diffs beyond it cannot be used"]
    );
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_decide_who_may_do_what() {
    let site = Site::new();
    let running = site.start().await;
    let address = &running.address;
    let none = walb_common::rest::Empty {};
    for client in [&site.viewer, &site.storage, &site.proxy] {
        let result = client
            .post::<_, walb_common::rest::Empty>(address, ARCHIVE, "/v1/volumes/vol0/init", &none)
            .await;
        assert_eq!(api_error(result).code, ErrorCode::Forbidden);
    }
    let kind = StreamKind::FullBackup;
    let error = site
        .proxy
        .open_stream(address, Role::Archive, kind, &vol("vol0"))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("expected storage"), "{error}");
    let error = site
        .storage
        .open_stream(address, Role::Archive, StreamKind::Wdiff, &vol("vol0"))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("expected proxy"), "{error}");
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_archives_never_share_a_data_directory() {
    let site = Site::new();
    let running = site.start().await;
    let config = walb_archive_server::Config::load(&site.config_path()).unwrap();
    let life = walb_common::daemon::lifecycle::Lifecycle::new(Duration::from_secs(1));
    let error = walb_archive_server::ArchiveServer::open(config, life)
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("in use by another walb-archive"),
        "{error}"
    );
    running.stop(&site).await;
}

fn fsck(site: &Site, args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_walb-archive"))
        .args(["fsck", "--config"])
        .arg(site.config_path())
        .args(args)
        .env("WALB_LOG", "error")
        .output()
        .unwrap();
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsck_names_every_contradiction_once_and_rebuilds_the_index() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    running.stop(&site).await;
    assert_eq!(fsck(&site, &["--read"]), (true, String::new()));

    let lost = diff(3, 4).with_mergeable(false).file_name();
    std::fs::remove_file(site.data("vol0").join(&lost)).unwrap();
    let damaged = site.data("vol0").join(diff(2, 3).file_name());
    let good = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &good[..good.len() - 1]).unwrap();
    std::fs::write(site.data("vol0").join("strange.wdiff"), "x").unwrap();
    let (clean, told) = fsck(&site, &["--read"]);
    let lines: Vec<&str> = told.lines().collect();
    assert!(!clean && lines.len() == 3, "{told}");
    assert!(lines[0].contains("strange.wdiff is left alone"), "{told}");
    assert!(
        lines[1].contains(&format!("{lost} is in the index, but the file is gone")),
        "{told}"
    );
    assert!(lines[2].contains(damaged.to_str().unwrap()), "{told}");

    std::fs::write(&damaged, good).unwrap();
    std::fs::remove_file(site.data("vol0").join("strange.wdiff")).unwrap();
    assert_eq!(fsck(&site, &["--read"]), (true, String::new()));
    // Without an index, it is made anew.
    std::fs::remove_file(site.data("metadata.sqlite")).unwrap();
    let (clean, told) = fsck(&site, &[]);
    assert!(
        !clean && told.lines().count() == 3 && told.contains("taken up"),
        "{told}"
    );
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    assert_eq!(operator.restorable("vol0").await, [2, 3]);
    assert_eq!(operator.image_of("vol0", 3).await, images[3]);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diffs_that_no_snapshot_needs_go_at_the_start_but_none_beyond_a_gap() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    running.stop(&site).await;
    // 1-3 merged by hand makes 1-2 and 2-3 superfluous; 6-7 lies beyond a gap.
    let dir = site.data("vol0");
    let records = Model::new(0).change(2);
    let whole = walb_common::format::wdiff::WdiffRecord::normal(Lb(0), images[3].clone().into());
    std::fs::write(dir.join(diff(1, 3).file_name()), wdiff(LOG, &[whole])).unwrap();
    std::fs::write(dir.join(diff(6, 7).file_name()), wdiff(LOG, &records)).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let diffs: Diffs = operator.get("vol0/diffs").await.unwrap();
    let shown: Vec<String> = diffs.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["|0|-->|1|", "|1|-->|3|", "|3|-->|4|", "|6|-->|7|"]);
    assert!(!dir.join(diff(1, 2).file_name()).exists() && dir.join(diff(6, 7).file_name()).exists());
    assert_eq!(operator.restorable("vol0").await, [3, 4]);
    assert_eq!(operator.image_of("vol0", 4).await, images[4]);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_restore_leaves_no_image_and_the_volume_free() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    let operator = Operator::at(&site, &running.address);
    // The restore is as quick as the request; one of many is caught in time.
    for _ in 0..200 {
        let id = operator.restore("vol0", 4).await.unwrap();
        let path = format!("/v1/jobs/{id}/cancel");
        let none = walb_common::rest::Empty {};
        let _ = site
            .operator
            .post::<_, walb_common::rest::Job>(&running.address, ARCHIVE, &path, &none)
            .await;
        let job = operator.job(id).await.unwrap();
        if job.state == JobState::Cancelled {
            assert_eq!(job.error.unwrap().code, ErrorCode::Cancelled);
            assert!(!site.image("wr_vol0_4").exists() && !site.image("wr_vol0_4_tmp").exists());
            assert_eq!(operator.status("vol0").await.num_restored, 0);
            assert_eq!(operator.image_of("vol0", 4).await, images[4]);
            return running.stop(&site).await;
        }
        assert_eq!(job.state, JobState::Succeeded);
        operator.delete_restored("vol0", 4).await.unwrap();
    }
    panic!("no restore could be cancelled in 200 attempts");
}
