//! Goal: recovery at every point between two persisting steps, on the whole system. Method: one daemon is started so that
//! it dies (as by kill -9) when it reaches the point; after a restart without it, the snapshot taken meanwhile is
//! restorable and right. The crates' own tests cover errors (EIO, ENOSPC) at the same points.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use walb_tests::guest::Load;
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Role, VolumeSpec};

/// Reached by any transfer.
const TRANSFER: &[(Role, &str)] = &[
    (Role::Wdev, "wdev.log.before_write"),
    (Role::Wdev, "wdev.log.part_written"),
    (Role::Wdev, "wdev.log.written"),
    (Role::Wdev, "wdev.log.before_sync"),
    (Role::Wdev, "wdev.log.synced"),
    (Role::Wdev, "wdev.data.before_write"),
    (Role::Wdev, "wdev.data.written"),
    (Role::Wdev, "wdev.checkpoint.before_data_sync"),
    (Role::Wdev, "wdev.checkpoint.data_synced"),
    (Role::Wdev, "wdev.super_sector.before_write"),
    (Role::Wdev, "wdev.super_sector.stored"),
    (Role::Storage, "storage.done.storing"),
    (Role::Storage, "storage.done.stored"),
    (Role::Storage, "storage.erase"),
    (Role::Proxy, "proxy.receive.create"),
    (Role::Proxy, "proxy.receive.write"),
    (Role::Proxy, "proxy.receive.sync"),
    (Role::Proxy, "proxy.receive.rename"),
    (Role::Proxy, "proxy.receive.renamed"),
    (Role::Proxy, "proxy.distribute.link"),
    (Role::Proxy, "proxy.distribute.sync"),
    (Role::Proxy, "proxy.distribute.remove"),
    (Role::Proxy, "proxy.distribute.removed"),
    (Role::Proxy, "proxy.sent.remove"),
    (Role::Proxy, "proxy.sent.removed"),
    (Role::Archive, "archive.wdiff.write"),
    (Role::Archive, "archive.wdiff.received"),
    (Role::Archive, "archive.wdiff.synced"),
    (Role::Archive, "disk.rename.before"),
    (Role::Archive, "disk.rename.before_dirsync"),
    (Role::Archive, "archive.wdiff.renamed"),
    (Role::Archive, "archive.wdiff.row_stored"),
    (Role::Archive, "archive.wdiff.taken_up"),
];

/// Reached by a full backup, and whether the archive has committed by then.
const BACKUP: &[(Role, &str, bool)] = &[
    (Role::Storage, "storage.backup-reset.storing", false),
    (Role::Storage, "storage.backup-reset.stored", false),
    (Role::Storage, "storage.backup.commit", false),
    (Role::Storage, "storage.backup-target.storing", true),
    (Role::Storage, "storage.backup-target.stored", true),
    (Role::Wdev, "wdev.reset.before_super_sector", false),
    (Role::Wdev, "wdev.reset.before_zero_block", false),
    (Role::Archive, "archive.full.image_created", false),
    (Role::Archive, "archive.full.write", false),
    (Role::Archive, "archive.full.received", false),
    (Role::Archive, "archive.full.image_synced", false),
    (Role::Archive, "archive.full.base_stored", false),
    (Role::Archive, "archive.full.archive_uuid_stored", false),
    (Role::Archive, "archive.full.uuid_stored", false),
    (Role::Archive, "archive.full.state_stored", true),
    (Role::Archive, "archive.full.taken_up", true),
];

#[test]
fn a_transfer_cut_at_any_point_is_repeated_and_right() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let spec = VolumeSpec {
        size: 8 << 20,
        log_size: 64 << 20,
        ..VolumeSpec::default()
    };
    let load = Load {
        pace: Duration::from_millis(1),
        max_blocks: 32,
    };
    let guest = cluster.protect_and_write(&spec, 41, load)?;
    for (role, point) in TRANSFER {
        let result = (|| {
            cluster.restart(*role, Some(point))?;
            cluster.daemon(*role).wait_for_death(PATIENCE)?;
            cluster.restart(*role, None)?;
            cluster.check_new("vol0", &guest)
        })();
        result.with_context(|| format!("{point}\n{}", cluster.logs()))?;
    }
    guest.stop()?;
    Ok(())
}

#[test]
fn a_full_backup_cut_at_any_point_is_done_or_was_never_begun() -> Result<()> {
    let mut cluster = Cluster::start()?;
    for (number, (role, point, committed)) in BACKUP.iter().enumerate() {
        let name = format!("vol{number}");
        let result = one_backup(&mut cluster, &name, *role, point, *committed);
        result.with_context(|| format!("{point}\n{}", cluster.logs()))?;
    }
    Ok(())
}

fn one_backup(cluster: &mut Cluster, name: &str, role: Role, point: &str, committed: bool) -> Result<()> {
    cluster.create_device(&VolumeSpec {
        name,
        size: 8 << 20,
        log_size: 16 << 20,
        pbs: 512,
    })?;
    let load = Load {
        pace: Duration::from_millis(4),
        max_blocks: 32,
    };
    let guest = cluster.start_guest(name, 43, load)?;
    cluster.register(name)?;
    cluster.restart(role, Some(point))?;
    until("a backup to begin", PATIENCE, || {
        if !cluster.daemon(role).is_running() {
            return Ok(Some(()));
        }
        // Refused while the daemon is still starting; cut off when it dies at the very beginning.
        cluster
            .walbc(Role::Storage, &["full-bkp", name])
            .map(|_| Some(()))
    })?;
    cluster.daemon(role).wait_for_death(PATIENCE)?;
    cluster.restart(role, None)?;
    let states = |cluster: &Cluster| -> Result<(String, String)> {
        let state = |role| cluster.walbc(role, &["get", "state", name]);
        Ok((state(Role::Storage)?, state(Role::Archive)?))
    };
    until("the two sides to agree", PATIENCE, || {
        let (storage, archive) = states(cluster)?;
        let agreed = match storage.as_str() {
            "Target" => matches!(archive.as_str(), "Archived" | "WdiffRecv"),
            "SyncReady" => !committed && archive == "SyncReady",
            _ => false,
        };
        ensure!(agreed, "storage {storage}, archive {archive}");
        Ok(Some(()))
    })?;
    if !committed {
        cluster.walbc(Role::Storage, &["full-bkp", name, "--wait"])?;
    }
    cluster.check_new(name, &guest)?;
    guest.stop()?;
    cluster.wdevc(&["delete-wdev", name, "-f"]).map(drop)
}
