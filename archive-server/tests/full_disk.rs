//! A disk that is really full, not by a fault point: needs root for its small file system, and fails without.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use support::{LOG, Model, Operator, SIZE, Sent, Site, diff, full_backup, send_wdiff, wdiff};
use walb_common::format::wdiff::WdiffRecord;
use walb_common::rest::ErrorCode;
use walb_common::types::Lb;
use walb_common::wire::message::{RefusalReason, WdiffBegin};

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"size=16m"))
            .expect("run as root, to mount a small file system");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Fills the disk but for `left` bytes.
fn fill(path: &Path, left: u64) {
    let mut ballast = std::fs::File::create(path).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let length = ballast.metadata().unwrap().len();
    ballast.set_len(length - left).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_leaves_nothing_and_the_diff_arrives_once_there_is_room() {
    let site = Site::new();
    let _disk = SmallDisk::mount(&site.data(""));
    let running = site.start().await;
    let address = &running.address;
    let operator = Operator::at(&site, address);
    operator.command("vol0", "init").await.unwrap();
    let mut image = Model::new(1).bytes;
    let sent = full_backup(&site, address, "vol0", &image, 0).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");

    // Nothing compresses it.
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let noise: Vec<u8> = words.flatten().take(image.len()).collect();
    image.clone_from(&noise);
    let noise = Bytes::from(noise);
    let record = |n: u64| {
        WdiffRecord::normal(
            Lb(n * 64),
            noise.slice(usize::try_from(n).unwrap() * 32768..).slice(..32768),
        )
    };
    let records: Vec<_> = (0..SIZE.0 / 64).map(record).collect();
    let bytes = wdiff(LOG, &records);
    let begin = |size| WdiffBegin {
        uuid: LOG,
        size: SIZE,
        diff: diff(0, 1).with_size(size),
    };
    let ballast = site.data("ballast");
    fill(&ballast, 100 << 10);

    // Announced: refused before a byte is sent. Not announced: found while writing.
    let sent = send_wdiff(&site, address, "vol0", &begin(bytes.len() as u64), &bytes).await;
    assert_eq!(sent.refusal(), RefusalReason::NoSpace);
    let sent = send_wdiff(&site, address, "vol0", &begin(0), &bytes).await;
    let Sent::Failed(error) = sent else {
        panic!("{sent:?}")
    };
    assert_eq!(error.peer().unwrap().code, ErrorCode::NoSpace, "{error}");
    let status = operator.status("vol0").await;
    assert_eq!((status.state.as_str(), status.num_diff), ("Archived", 0));
    let left = std::fs::read_dir(site.data("vol0")).unwrap().count();
    assert_eq!(left, 5, "state, base, uuid, archive_uuid, size");

    std::fs::remove_file(&ballast).unwrap();
    let sent = send_wdiff(&site, address, "vol0", &begin(0), &bytes).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    assert!(operator.image_of("vol0", 1).await == image);

    // A backup that does not fit leaves nothing either.
    operator.command("vol1", "init").await.unwrap();
    operator.delete_restored("vol0", 1).await.unwrap();
    fill(&ballast, 100 << 10);
    // Nor does a restore; it is seen before the first byte, so that nobody else is short of room meanwhile.
    let job = operator.restore("vol0", 1).await.unwrap();
    let error = operator.job(job).await.unwrap().error.unwrap();
    assert_eq!(error.code, ErrorCode::NoSpace, "{error}");
    assert!(error.message.ends_with(" free"), "{error}");
    assert!(!site.image("wr_vol0_1_tmp").exists());
    let sent = full_backup(&site, address, "vol1", &image, 0).await;
    let Sent::Failed(error) = sent else {
        panic!("{sent:?}")
    };
    assert_eq!(error.peer().unwrap().code, ErrorCode::NoSpace, "{error}");
    assert!(!site.image("wb_vol1").exists());
    std::fs::remove_file(&ballast).unwrap();
    let sent = full_backup(&site, address, "vol1", &image, 0).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    running.stop(&site).await;
}
