//! Following the log: what is read is what the driver wrote, or an error.

use std::time::Duration;

use walb_common::types::Lsid;
use walb_wdev::client::{DeviceError, Refusal, WalDevice};

use crate::images::{capture, cases, load, unpack};
use crate::stand_in::StandIn;

const ALL: [&str; 5] = ["latest", "completed", "flush", "permanent", "written"];

#[tokio::test]
async fn the_log_of_every_recorded_device_is_read_block_by_block() {
    let (mut whole, mut overflowed) = (0, 0);
    for case in cases() {
        let (log, data) = (unpack(&case.ldev), unpack(&case.ddev));
        let driver = StandIn::new(&log, &data);
        let end = case.end_lsid.unwrap();
        driver.change(|state| {
            for name in ALL {
                state.lsids.insert(name, end);
            }
        });
        let device = driver.device();
        let status = device.status().await.unwrap();
        assert_eq!(u32::from(status.pbs), case.pbs, "{}", case.ldev);
        assert_eq!(
            status.salt.to_le_bytes(),
            log[4096 + 20..4096 + 24],
            "{}",
            case.ldev
        );
        assert_eq!(status.uuid.0, log[4096 + 24..4096 + 40], "{}", case.ldev);
        assert_eq!(status.overflow, case.verdict == "overflow", "{}", case.ldev);
        let begin = status.lsids.oldest;
        if status.overflow {
            let gone = device.read_log(begin, Lsid::MAX, 1 << 20).await.unwrap_err();
            assert!(
                matches!(gone, DeviceError::LogGone { oldest, .. } if oldest.0 == end - status.log_capacity_pb),
                "{gone}"
            );
            overflowed += 1;
            continue;
        }
        // In small pieces, and at once.
        for max_bytes in [1, 20_000, 1 << 20] {
            let (mut at, mut bytes) = (begin, Vec::new());
            loop {
                let chunk = device.read_log(at, Lsid::MAX, max_bytes).await.unwrap();
                assert_eq!((chunk.uuid, chunk.salt), (status.uuid, status.salt));
                if chunk.next == at {
                    assert!(chunk.bytes.is_empty());
                    break;
                }
                bytes.extend_from_slice(&chunk.bytes);
                at = chunk.next;
            }
            // A start of the driver would have cut the torn pack; here it is not given out.
            assert!(
                at.0 == end || case.verdict == "torn",
                "{}: up to {at} of {end}",
                case.ldev
            );
            assert!(bytes == capture(&log, case.pbs, begin.0, at.0), "{}", case.ldev);
        }
        whole += usize::from(case.verdict == "ok");
    }
    assert_eq!((whole, overflowed), (17, 2));
}

#[tokio::test]
async fn only_permanent_log_is_read_and_released_log_is_gone() {
    let (case, log, data) = load("d2.crash.p512.ldev.xz");
    let driver = StandIn::new(&log, &data);
    let device = driver.device();
    let end = case.end_lsid.unwrap();
    driver.change(|state| {
        for name in ["latest", "completed"] {
            state.lsids.insert(name, end);
        }
    });
    let from = device.status().await.unwrap().lsids.permanent;
    assert!(from.0 < end);
    assert_eq!(device.read_log(from, Lsid::MAX, 1).await.unwrap().next, from);
    driver.set("permanent", end);
    let first = device.read_log(from, Lsid::MAX, 1).await.unwrap();
    assert!(first.next > from);
    // A limit inside a pack keeps the pack back.
    let inside = Lsid(first.next.0 - 1);
    assert_eq!(device.read_log(from, inside, 1 << 20).await.unwrap().next, from);
    driver.set("oldest", first.next.0);
    let gone = device.read_log(from, Lsid::MAX, 1).await.unwrap_err();
    assert!(
        matches!(gone, DeviceError::LogGone { oldest, .. } if oldest == first.next),
        "{gone}"
    );
}

#[tokio::test]
async fn a_damaged_block_is_an_error_with_its_place() {
    let (case, mut log, data) = load("d1.clean.p512.ldev.xz");
    log[5120] ^= 1;
    let driver = StandIn::new(&log, &data);
    let error = driver.device().read_log(Lsid(0), Lsid::MAX, 1).await.unwrap_err();
    let damaged = Refusal::LogDamaged {
        lsid: Lsid(0),
        reason: String::new(),
    };
    let DeviceError::Refused { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        std::mem::discriminant(&source),
        std::mem::discriminant(&damaged),
        "{source}"
    );
    assert_eq!(case.verdict, "ok");
}

#[tokio::test]
async fn a_super_sector_of_another_log_is_not_used() {
    let (_, log, data) = load("d1.clean.p4096.ldev.xz");
    let driver = StandIn::new(&log, &data);
    driver.change(|state| state.uuid = [9; 16]);
    let error = driver.device().status().await.unwrap_err().to_string();
    assert!(error.contains(&"09".repeat(16)), "{error}");
    let mut damaged = log;
    damaged[4096 + 100] ^= 1;
    let error = StandIn::new(&damaged, &data).device().status().await.unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[tokio::test]
async fn a_follower_is_told_of_new_log_of_none_and_of_a_reset() {
    let (case, log, data) = load("d1.clean.p4096.ldev.xz");
    let driver = StandIn::new(&log, &data);
    let device = driver.device();
    let now = Lsid(case.end_lsid.unwrap());
    let quiet = device.wait_for_log(now, Duration::from_millis(1)).await.unwrap();
    assert_eq!(quiet, now);
    let waiter = tokio::spawn({
        let device = device.clone();
        async move { device.wait_for_log(now, Duration::from_secs(600)).await }
    });
    tokio::task::yield_now().await;
    driver.set("permanent", now.0 + 5);
    assert_eq!(waiter.await.unwrap().unwrap(), Lsid(now.0 + 5));
    let after = device.reset_log().await.unwrap();
    assert_eq!(
        (after.lsids.latest, after.salt, after.uuid.0),
        (Lsid(0), 77, [0x5a; 16])
    );
    let reset = device.wait_for_log(now, Duration::from_secs(600)).await.unwrap();
    assert_eq!(reset, Lsid(0));
}

#[tokio::test]
async fn data_are_read_where_they_are_and_nowhere_else() {
    let (_, log, data) = load("d1.clean.p512.ldev.xz");
    let driver = StandIn::new(&log, &data);
    let device = driver.device();
    let end = data.len();
    for (from, length) in [(0, 512), (512, 4096), (1536, 1 << 20), (end - 512, 512), (0, 0)] {
        let read = device
            .read_data(from as u64, u32::try_from(length).unwrap())
            .await
            .unwrap();
        assert!(read == data[from..from + length], "{length} at {from}");
    }
    for (from, length) in [
        (1, 512),
        (0, 100),
        (0, (4 << 20) + 512),
        (end as u64, 512),
        (u64::MAX - 511, 512),
    ] {
        let error = device.read_data(from, length).await.unwrap_err();
        assert!(
            matches!(
                error,
                DeviceError::Refused {
                    source: Refusal::Bad { .. },
                    ..
                }
            ),
            "{error}"
        );
    }
}
