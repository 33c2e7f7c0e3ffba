//! Status objects with the values of the documented examples.

use walb_common::rest::{archive, proxy, storage};
use walb_common::types::{Gid, Lb, Lsid, Timestamp};

pub fn storage_volume() -> storage::VolumeStatus {
    let point = |lsid, gid, mergeable, timestamp| storage::LogPoint {
        lsid: Lsid(lsid),
        gid: Gid(gid),
        mergeable,
        timestamp: Timestamp(timestamp),
    };
    storage::VolumeStatus {
        name: "vol0".into(),
        state: "Target".into(),
        failed: None,
        actions: vec![("WlogRemove".into(), 0), ("WlogSend".into(), 0)],
        stop_state: "NotStopping".into(),
        monitored: true,
        device: Some("/dev/walb/vol0".into()),
        log: Some(storage::DeviceLog {
            size: Lb(24576),
            pbs: 512,
            salt: 0x5a40_c2be,
            overflow: false,
            usage_pb: 0,
            capacity_pb: 24566,
            oldest: Lsid(77),
            permanent: Lsid(99),
            latest: Lsid(99),
        }),
        done: Some(point(77, 3, true, 1_795_356_420)),
        queue: vec![point(99, 5, false, 1_795_356_480)],
        uuid: "c0687f35edb8cff893c2df0d327116b3".parse().unwrap(),
        last_error: None,
        healing: None,
        last_hash_backup: None,
    }
}

pub fn storage() -> storage::Status {
    storage::Status {
        global: storage::Global {
            node_id: "s0".into(),
            base_dir: "/var/walb/s0".into(),
            max_wlog_send_mb: 128,
            min_delay_sec_for_retry: 1,
            max_delay_sec_for_retry: 300,
            max_connections: 10,
            max_foreground_tasks: 2,
            max_background_tasks: 1,
            socket_timeout: 10,
            full_scan_lb_per_sec: 0,
            heal_overflow: true,
        },
        archive: "127.0.0.1:10200".into(),
        proxies: vec![storage::ProxyStatus {
            address: "127.0.0.1:10100".into(),
            available: true,
            time_to_next_check: 9,
        }],
        tasks: vec![storage::TaskStatus {
            volume: "vol0".into(),
            time_diff_ms: 953,
        }],
        volumes: vec![storage_volume()],
    }
}

pub fn proxy_volume() -> proxy::VolumeStatus {
    proxy::VolumeStatus {
        name: "vol0".into(),
        state: "Started".into(),
        failed: None,
        stop_state: "NotStopping".into(),
        size: Lb(98304),
        num_diff: 0,
        total_size: 0,
        last_wlog_received: Timestamp::NONE,
        archives: vec![proxy::ArchiveStatus {
            name: "a0".into(),
            info: proxy::ArchiveInfo {
                address: "localhost:10200".into(),
                compression: "snappy:0:1".parse().unwrap(),
                delay_seconds: 0,
            },
            sending: false,
            num_diff: 2,
            total_size: 642_112,
            min_gid: Some(Gid(20)),
            max_gid: Some(Gid(22)),
            newest: Timestamp(1_795_359_180),
            last_sent: Timestamp(1_795_359_205),
            send_error: false,
            last_error: None,
            delay_measured: 2067,
            damaged: Vec::new(),
        }],
        warnings: Vec::new(),
    }
}

pub fn proxy() -> proxy::Status {
    proxy::Status {
        global: proxy::Global {
            node_id: "p0".into(),
            base_dir: "/var/walb/p0".into(),
            max_wdiff_send_mb: 128,
            min_delay_sec_for_retry: 1,
            max_delay_sec_for_retry: 300,
            retry_timeout: 1800,
            max_connections: 10,
            max_foreground_tasks: 2,
            max_background_tasks: 1,
            socket_timeout: 10,
        },
        tasks: vec![proxy::TaskStatus {
            volume: "vol0".into(),
            archive: "a0".into(),
            time_diff_ms: 953,
        }],
        volumes: vec![proxy_volume()],
    }
}

pub fn archive_volume() -> archive::VolumeStatus {
    archive::VolumeStatus {
        name: "vol0".into(),
        state: "Archived".into(),
        failed: None,
        actions: Vec::new(),
        stop_state: "NotStopping".into(),
        last_sync: Timestamp::NONE,
        last_wdiff_received: Timestamp(1_795_359_097),
        progress: Lb(0),
        size: Some(Lb(65536)),
        uuid: "ab16acf9d3ccd6dfea6c5f2db9e027c7".parse().unwrap(),
        archive_uuid: walb_common::types::Uuid::NIL,
        base: "<|2|>-20261122140200".into(),
        latest: Some("|9|".parse().unwrap()),
        latest_timestamp: Timestamp(1_795_356_420),
        num_restored: 0,
        num_restorable: 2,
        num_restorable_all: 2,
        num_diff: 1,
        wdiff_total_size: 857_632,
        warnings: Vec::new(),
    }
}

pub fn archive() -> archive::Status {
    archive::Status {
        global: archive::Global {
            node_id: "a0".into(),
            base_dir: "/var/walb/a0".into(),
            image_dir: "/var/walb/a0/images".into(),
            max_connections: 10,
            max_foreground_tasks: 2,
            socket_timeout: 10,
            discard: "zero".into(),
        },
        volumes: vec![archive_volume()],
    }
}
