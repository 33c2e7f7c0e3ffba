//! At every persisting step the archive dies, or the step fails: afterwards a restart alone, or simply going on, heals,
//! and every snapshot that was restorable stays restorable with the same bytes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Model, Operator, Sent, Site, diff, full_backup, send_diff};
use walb_common::rest::archive::VolumeStatus;
use walb_common::rest::{ErrorCode, JobState};
use walb_common::wire::message::RefusalReason;

/// Steps of a diff's way in. The second rename of the process is its own: the first one stores the address.
const WDIFF: &[&str] = &[
    "archive.wdiff.write=ACT@1",
    "archive.wdiff.received=ACT@1",
    "archive.wdiff.synced=ACT@1",
    "disk.rename.before=ACT@2",
    "disk.rename.before_dirsync=ACT@2",
    "archive.wdiff.renamed=ACT@1",
    "archive.wdiff.row_stored=ACT@1",
    "archive.wdiff.taken_up=ACT@1",
];

const FULL: &[&str] = &[
    "archive.full.image_created=ACT@1",
    "archive.full.write=ACT@2",
    "archive.full.received=ACT@1",
    "archive.full.image_synced=ACT@1",
    "disk.rename.before_dirsync=ACT@4",
    "archive.full.base_stored=ACT@1",
    "archive.full.archive_uuid_stored=ACT@1",
    "archive.full.uuid_stored=ACT@1",
    "archive.full.state_stored=ACT@1",
    "archive.full.taken_up=ACT@1",
];

const RESTORE: &[&str] = &[
    "archive.restore.copied=ACT@1",
    // Which of the two is reached depends on whether the file system can share the base's extents.
    "convert.apply.written=ACT@1,convert.restore.written=ACT@1",
    "archive.restore.applied=ACT@1",
    "archive.restore.synced=ACT@1",
    "disk.rename.before=ACT@2",
    "disk.rename.before_dirsync=ACT@2",
    "archive.restore.renamed=ACT@1",
];

/// A volume `vol0` whose model after each gid is known; images are full backups of snapshot |0|.
struct Volume {
    model: Model,
    images: Vec<Vec<u8>>,
}

impl Volume {
    async fn create(site: &Site, address: &str) -> Self {
        let model = Model::new(5);
        Operator::at(site, address).command("vol0", "init").await.unwrap();
        let sent = full_backup(site, address, "vol0", &model.bytes, 0).await;
        assert!(matches!(sent, Sent::Done), "{sent:?}");
        let images = vec![model.bytes.clone()];
        let mut volume = Self { model, images };
        for _ in 0..2 {
            let (next, records) = volume.next();
            assert!(matches!(
                send_diff(site, address, "vol0", next, &records).await,
                Sent::Done
            ));
        }
        volume
    }

    /// The next diff and its records; the model has them already.
    fn next(
        &mut self,
    ) -> (
        walb_common::lineage::MetaDiff,
        Vec<walb_common::format::wdiff::WdiffRecord>,
    ) {
        let gid = self.images.len() as u64;
        let records = self.model.change(u8::try_from(gid).unwrap());
        self.images.push(self.model.bytes.clone());
        (diff(gid - 1, gid).with_mergeable(false), records)
    }

    /// Every snapshot so far is restorable, and the newest, the oldest and one more restore to their bytes.
    async fn check(&self, operator: &Operator<'_>, what: &str) {
        let last = self.images.len() as u64 - 1;
        assert_eq!(
            operator.restorable("vol0").await,
            (0..=last).collect::<Vec<_>>(),
            "{what}"
        );
        for gid in [0, last / 2, last] {
            let listed = operator.restored("vol0").await.iter().any(|r| r.gid.0 == gid);
            if listed {
                operator.delete_restored("vol0", gid).await.unwrap();
            }
            let image = operator.image_of("vol0", gid).await;
            assert!(
                image == self.images[usize::try_from(gid).unwrap()],
                "{what}: snapshot {gid} differs"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_of_receiving_a_diff_it_heals_and_the_diff_arrives() {
    let site = Site::new();
    let process = site.spawn("");
    let mut volume = Volume::create(&site, &process.address).await;
    drop(process);
    for point in WDIFF {
        let (next, records) = volume.next();
        let mut process = site.spawn(&point.replace("ACT", "crash"));
        let sent = send_diff(&site, &process.address, "vol0", next, &records).await;
        assert!(matches!(sent, Sent::Lost), "{point}: {sent:?}");
        process.wait_for_death();
        let process = site.spawn("");
        match send_diff(&site, &process.address, "vol0", next, &records).await {
            Sent::Done => {}
            Sent::Refused(refusal) if refusal.reason == RefusalReason::TooOldDiff => {}
            other => panic!("{point}: {other:?}"),
        }
        volume.check(&Operator::at(&site, &process.address), point).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_any_step_of_receiving_a_diff_is_told_and_it_goes_on_by_itself() {
    let site = Site::new();
    let process = site.spawn("");
    let mut volume = Volume::create(&site, &process.address).await;
    drop(process);
    for point in WDIFF {
        let (next, records) = volume.next();
        let process = site.spawn(&point.replace("ACT", "enospc"));
        let operator = Operator::at(&site, &process.address);
        let sent = send_diff(&site, &process.address, "vol0", next, &records).await;
        let Sent::Failed(error) = sent else {
            panic!("{point}: {sent:?}")
        };
        assert_eq!(error.peer().unwrap().code, ErrorCode::NoSpace, "{point}");
        assert_eq!(operator.status("vol0").await.state, "Archived", "{point}");
        let leftover = std::fs::read_dir(site.data("vol0")).unwrap();
        let leftover = leftover.filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .ends_with(".tmp")
        });
        assert_eq!(leftover.count(), 0, "{point}");
        match send_diff(&site, &process.address, "vol0", next, &records).await {
            Sent::Done => {}
            Sent::Refused(refusal) if refusal.reason == RefusalReason::TooOldDiff => {}
            other => panic!("{point}: {other:?}"),
        }
        volume.check(&operator, point).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_of_a_full_backup_it_is_archived_or_as_if_nothing_had_been() {
    let site = Site::new();
    let image = Model::new(9).bytes;
    for (n, point) in FULL.iter().enumerate() {
        let name = format!("vol{n}");
        // Initialised under another process: the renames counted are those of the backup.
        let process = site.spawn("");
        Operator::at(&site, &process.address)
            .command(&name, "init")
            .await
            .unwrap();
        drop(process);
        let mut process = site.spawn(&point.replace("ACT", "crash"));
        let sent = full_backup(&site, &process.address, &name, &image, 0).await;
        assert!(matches!(sent, Sent::Lost), "{point}: {sent:?}");
        process.wait_for_death();
        let process = site.spawn("");
        let operator = Operator::at(&site, &process.address);
        let status: VolumeStatus = operator.status(&name).await;
        assert_eq!(status.failed, None, "{point}");
        if status.state == "SyncReady" {
            assert!(!site.image(&format!("wb_{name}")).exists(), "{point}");
            assert_eq!(std::fs::read_dir(site.data(&name)).unwrap().count(), 1, "{point}");
            let sent = full_backup(&site, &process.address, &name, &image, 0).await;
            assert!(matches!(sent, Sent::Done), "{point}: {sent:?}");
        } else {
            assert!(
                ["state_stored", "taken_up"].iter().any(|p| point.contains(p)),
                "{point}: {}",
                status.state
            );
        }
        assert!(operator.image_of(&name, 0).await == image, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_at_any_step_of_a_full_backup_rolls_back_and_the_next_one_succeeds() {
    let site = Site::new();
    let image = Model::new(9).bytes;
    for (n, point) in FULL.iter().enumerate() {
        let name = format!("vol{n}");
        let process = site.spawn("");
        Operator::at(&site, &process.address)
            .command(&name, "init")
            .await
            .unwrap();
        drop(process);
        let process = site.spawn(&point.replace("ACT", "eio"));
        let operator = Operator::at(&site, &process.address);
        let sent = full_backup(&site, &process.address, &name, &image, 0).await;
        assert!(!matches!(sent, Sent::Done | Sent::Lost), "{point}: {sent:?}");
        let state = operator.status(&name).await.state;
        if point.contains("taken_up") {
            assert_eq!(state, "Archived", "{point}");
        } else {
            assert_eq!(state, "SyncReady", "{point}");
            let sent = full_backup(&site, &process.address, &name, &image, 0).await;
            assert!(matches!(sent, Sent::Done), "{point}: {sent:?}");
        }
        assert!(operator.image_of(&name, 0).await == image, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_or_failing_at_any_step_of_a_restore_no_wrong_image_is_ever_listed() {
    let site = Site::new();
    let process = site.spawn("");
    let volume = Volume::create(&site, &process.address).await;
    drop(process);
    for point in RESTORE {
        let mut process = site.spawn(&point.replace("ACT", "crash"));
        let operator = Operator::at(&site, &process.address);
        if let Ok(job) = operator.restore("vol0", 1).await {
            let ended = operator.job(job).await;
            assert!(ended.is_none(), "{point}: {ended:?}");
        }
        process.wait_for_death();
        let process = site.spawn("");
        let operator = Operator::at(&site, &process.address);
        let listed = operator.restored("vol0").await;
        assert!(!site.image("wr_vol0_1_tmp").exists(), "{point}");
        for restored in listed {
            let image = std::fs::read(&restored.path).unwrap();
            assert!(
                image == volume.images[usize::try_from(restored.gid.0).unwrap()],
                "{point}"
            );
            operator.delete_restored("vol0", restored.gid.0).await.unwrap();
        }
        drop(process);

        let process = site.spawn(&point.replace("ACT", "enospc"));
        let operator = Operator::at(&site, &process.address);
        let job = operator
            .job(operator.restore("vol0", 1).await.unwrap())
            .await
            .unwrap();
        assert_eq!(
            (job.state, job.error.unwrap().code),
            (JobState::Failed, ErrorCode::NoSpace),
            "{point}"
        );
        assert!(
            !site.image("wr_vol0_1_tmp").exists() && !site.image("wr_vol0_1").exists(),
            "{point}"
        );
        assert!(operator.image_of("vol0", 1).await == volume.images[1], "{point}");
        volume.check(&operator, point).await;
        for restored in operator.restored("vol0").await {
            operator.delete_restored("vol0", restored.gid.0).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_a_command_the_volume_is_as_before_or_as_after() {
    let site = Site::new();
    let steps: &[(&str, &str, &[&str])] = &[
        ("archive.init.made", "init", &["Clear"]),
        ("archive.state.stored", "stop", &["Stopped"]),
        ("archive.state.stored", "start", &["Archived"]),
        ("archive.reset.state_stored", "reset", &["SyncReady"]),
        ("archive.clear.renamed", "clear", &["Clear"]),
        ("archive.clear.images_removed", "clear", &["Clear"]),
    ];
    for (point, command, states) in steps {
        let process = site.spawn("");
        let operator = Operator::at(&site, &process.address);
        if *command != "init" {
            Volume::create(&site, &process.address).await;
            operator.image_of("vol0", 1).await;
            if *command != "stop" {
                operator
                    .job(operator.stop("vol0", "graceful").await.unwrap())
                    .await
                    .unwrap();
            }
        }
        drop(process);
        let mut process = site.spawn(&format!("{point}=crash"));
        let operator = Operator::at(&site, &process.address);
        let _ = operator.command("vol0", command).await;
        process.wait_for_death();
        let process = site.spawn("");
        let operator = Operator::at(&site, &process.address);
        let status = operator.status("vol0").await;
        assert!(
            states.contains(&status.state.as_str()),
            "{point}: {}",
            status.state
        );
        assert_eq!(status.failed, None, "{point}");
        if ["Clear", "SyncReady"].contains(&status.state.as_str()) {
            assert_eq!(
                std::fs::read_dir(site.data("images")).unwrap().count(),
                0,
                "{point}"
            );
        }
        match status.state.as_str() {
            "Archived" => {
                operator
                    .job(operator.stop("vol0", "graceful").await.unwrap())
                    .await
                    .unwrap();
                operator.command("vol0", "clear").await.unwrap();
            }
            "Stopped" | "SyncReady" => {
                operator.command("vol0", "clear").await.unwrap();
            }
            _ => {}
        }
    }
}
