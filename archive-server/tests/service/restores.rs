//! Restores: what they give, and what keeps them from giving anything.

use crate::backed_up;
use crate::support::{ARCHIVE, LOG, Model, Operator, SIZE, Sent, Site, api_error, diff, full_backup, wdiff};
use walb_common::rest::archive::Diffs;
use walb_common::rest::{ErrorCode, JobState};
use walb_common::types::Uuid;

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
