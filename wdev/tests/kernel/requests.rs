//! Every request, byte by byte, and every kind of answer.

use std::time::Duration;

use walb_common::types::{Lb, Lsid};
use walb_wdev::client::{DeviceError, Refusal, Remedy, WalDevice};
use walb_wdev::kernel::ctl::{Command, Ctl};
use walb_wdev::kernel::{Driver, KernelDevice};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::images::load;
use crate::stand_in::{NAME, StandIn};

fn stand_in() -> std::sync::Arc<StandIn> {
    let (_, log, data) = load("d1.clean.p512.ldev.xz");
    StandIn::new(&log, &data)
}

/// The struct with a command and the values at their places.
fn request(command: u32, val_u64: u64, val_u32: u32) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..4].copy_from_slice(&command.to_le_bytes());
    bytes[8..16].copy_from_slice(&val_u64.to_le_bytes());
    bytes[16..20].copy_from_slice(&val_u32.to_le_bytes());
    bytes
}

#[test]
fn the_struct_has_its_fields_at_their_places() {
    let bytes: Vec<u8> = (0..120).collect();
    let ctl = Ctl::read_from_bytes(&bytes).unwrap();
    assert_eq!(ctl.as_bytes(), bytes);
    assert_eq!(ctl.val_int.to_le_bytes(), bytes[4..8]);
    assert_eq!(ctl.val_u64.to_le_bytes(), bytes[8..16]);
    assert_eq!(ctl.val_u32.to_le_bytes(), bytes[16..20]);
    assert_eq!(ctl.error.to_le_bytes(), bytes[20..24]);
    for (half, at) in [(ctl.u2k, 24), (ctl.k2u, 72)] {
        let numbers = [
            half.wmajor,
            half.wminor,
            half.lmajor,
            half.lminor,
            half.dmajor,
            half.dminor,
        ];
        for (n, number) in numbers.into_iter().enumerate() {
            assert_eq!(number.to_le_bytes(), bytes[at + 4 * n..at + 4 * n + 4]);
        }
        assert_eq!(half.buf_size.to_le_bytes(), bytes[at + 24..at + 32]);
        assert_eq!(half.buf.to_le_bytes(), bytes[at + 32..at + 40]);
    }
    for (command, number) in [
        (Command::StartDev, 1),
        (Command::StopDev, 2),
        (Command::GetMajor, 3),
        (Command::ListDev, 4),
        (Command::NumOfDev, 5),
        (Command::GetOldestLsid, 6),
        (Command::GetWrittenLsid, 19),
        (Command::GetPermanentLsid, 20),
        (Command::GetCompletedLsid, 21),
        (Command::GetLogUsage, 22),
    ] {
        assert_eq!(Ctl::new(command).as_bytes(), request(number, 0, 0));
    }
}

#[tokio::test]
async fn every_call_makes_the_requests_it_should() {
    let driver = stand_in();
    let device = driver.device();
    let before = device.status().await.unwrap();
    let written = before.lsids.written;
    let (size, grown) = (before.size, Lb(before.size.0 + 8));
    let seen = || std::mem::take(&mut driver.state().seen);
    let status = || [16, 27, 30, 23].map(|command| request(command, 0, 0)).to_vec();
    let check = |what: &str, expected: Vec<Vec<u8>>| {
        let found = seen();
        assert!(
            found
                .iter()
                .all(|(node, code, _)| node == NAME && *code == 0xc078_fe02),
            "{what}"
        );
        let found: Vec<_> = found.into_iter().map(|(_, _, bytes)| bytes).collect();
        assert_eq!(found, expected, "{what}");
    };
    check("status", status());

    device.set_oldest(written).await.unwrap();
    check("set-oldest", vec![request(7, written.0, 0)]);
    device.checkpoint().await.unwrap();
    check("checkpoint", vec![request(17, 0, 0)]);
    device.flush().await.unwrap();
    check("flush", vec![]);
    device.set_checkpoint_interval(1234).await.unwrap();
    check("set-checkpoint-interval", vec![request(18, 0, 1234)]);
    assert!(device.is_flush_capable().await.unwrap());
    check("is-flush-capable", vec![request(24, 0, 0)]);
    for (timeout, seconds) in [
        (None, 0),
        (Some(1), 1),
        (Some(1000), 1),
        (Some(1001), 2),
        (Some(0), 1),
    ] {
        device.freeze(timeout.map(Duration::from_millis)).await.unwrap();
        check("freeze", vec![request(28, seconds, 0)]);
    }
    let frozen = device.status().await.unwrap();
    check("status", status());
    assert_eq!((frozen.frozen, frozen.checkpoint_interval_ms), (true, 1234));
    device.melt().await.unwrap();
    check("melt", vec![request(29, 0, 0)]);
    let resized = device.resize(Some(grown)).await.unwrap();
    check("resize", [vec![request(25, grown.0, 0)], status()].concat());
    assert_eq!(resized.size, grown);
    let largest = device.resize(None).await.unwrap();
    check("resize", [vec![request(25, 0, 0)], status()].concat());
    assert_eq!(largest.size, Lb(1 << 20));
    let shrunk = device.resize(Some(size)).await.unwrap_err();
    check("resize refused", vec![]);
    assert!(shrunk.to_string().contains(&size.to_string()), "{shrunk}");
    device.reset_log().await.unwrap();
    check("reset", [vec![request(26, 0, 0)], status()].concat());
}

#[tokio::test]
async fn status_tells_what_the_driver_tells() {
    let driver = stand_in();
    let device = driver.device();
    let names = [
        "oldest",
        "prev_written",
        "written",
        "permanent",
        "flush",
        "completed",
        "latest",
    ];
    driver.change(|state| {
        for (n, name) in (10..).zip(names) {
            state.lsids.insert(name, n);
        }
        (state.overflow, state.read_only, state.interval_ms) = (true, true, 0);
    });
    let status = device.status().await.unwrap();
    let l = status.lsids;
    assert_eq!(
        [
            l.oldest,
            l.prev_written,
            l.written,
            l.permanent,
            l.flush,
            l.completed,
            l.latest
        ],
        [10, 11, 12, 13, 14, 15, 16].map(Lsid)
    );
    assert_eq!((status.log_usage_pb, status.pending_bytes), (6, 4 * 512));
    assert_eq!(
        (status.overflow, status.read_only, status.frozen),
        (true, true, false)
    );
    assert_eq!((status.name.as_str(), status.checkpoint_interval_ms), ("vol0", 0));
    assert_eq!((status.ldev.as_str(), status.ddev.as_str()), ("8:16", "8:32"));
    assert_eq!(status.log_capacity_pb, driver.state().capacity);
}

#[tokio::test]
async fn lsids_are_found_by_name_and_one_that_lacks_is_named() {
    let driver = stand_in();
    let path = driver.path("sys/walb!vol0/walb/lsids");
    let lines =
        "oldest 1\nsubmitted 9\nwritten 3\nprev_written 2\nlatest 7\nflush 5\ncompleted 6\npermanent 4\n";
    std::fs::write(&path, lines).unwrap();
    let lsids = driver.device().status().await.unwrap().lsids;
    assert_eq!(
        (lsids.oldest, lsids.prev_written, lsids.latest),
        (Lsid(1), Lsid(2), Lsid(7))
    );
    std::fs::write(&path, lines.replace("prev_written 2\n", "")).unwrap();
    let error = driver.device().status().await.unwrap_err().to_string();
    assert!(
        error.contains("prev_written") && error.contains("lsids"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_says_what_was_asked_and_what_helps() {
    let driver = stand_in();
    let device = driver.device();
    let lsids = device.status().await.unwrap().lsids;
    let beyond = device
        .set_oldest(Lsid(lsids.prev_written.0 + 1))
        .await
        .unwrap_err();
    assert!(
        beyond.to_string().contains(&lsids.prev_written.to_string()),
        "{beyond}"
    );
    assert_eq!(beyond.remedy(), Remedy::FixRequest);
    let refuse = |command, errno| driver.state().refuse.insert(command, errno);
    refuse(7, libc::EFAULT);
    let error = device.set_oldest(lsids.prev_written).await.unwrap_err();
    assert!(
        error.to_string().contains("does a logpack begin there"),
        "{error}"
    );
    refuse(26, libc::EFAULT);
    let error = device.reset_log().await.unwrap_err();
    assert!(
        error.to_string().contains("ClearLog") && error.to_string().contains("Bad address"),
        "{error}"
    );
    refuse(17, libc::EFAULT);
    driver.change(|state| state.read_only = true);
    let error = device.checkpoint().await.unwrap_err();
    assert!(
        matches!(
            error,
            DeviceError::Refused {
                source: Refusal::ReadOnly { .. },
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.remedy(), Remedy::RepairDevice);
    refuse(29, libc::ENOTTY);
    let error = device.melt().await.unwrap_err();
    assert!(matches!(error, DeviceError::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_device_a_missing_driver_and_an_unknown_one_are_told_apart() {
    let driver = stand_in();
    let other = KernelDevice::new(driver.driver(), "other");
    let missing = other.status().await.unwrap_err();
    assert!(
        matches!(&missing, DeviceError::Refused { source: Refusal::NoSuchDevice { known }, .. } if known == NAME),
        "{missing}"
    );
    let also = other.read_log(Lsid(0), Lsid::MAX, 1).await.unwrap_err();
    assert_eq!(also.to_string(), missing.to_string());
    driver.change(|state| state.version = 0x0002_0003);
    let unknown = driver.device().status().await.unwrap_err();
    assert!(
        unknown.to_string().contains("driver 2.0.3, expected 1.x"),
        "{unknown}"
    );
    assert_eq!(unknown.remedy(), Remedy::FixRequest);
    std::fs::remove_file(driver.path("dev/control")).unwrap();
    let unloaded = other.status().await.unwrap_err();
    assert!(unloaded.to_string().contains("load walb-mod"), "{unloaded}");
    assert_eq!(unloaded.remedy(), Remedy::Retry);
}

#[test]
fn the_system_refuses_what_is_not_the_drivers() {
    use std::os::fd::AsFd as _;
    let file = std::fs::File::open("/dev/null").unwrap();
    let system = Driver::system().ioctl;
    let call = |request, size: usize| {
        let mut argument = vec![0; size];
        let result = system.ioctl(file.as_fd(), request, &mut argument, &[], &mut []);
        result.unwrap_err().raw_os_error()
    };
    // The real system call: this node is not the driver's.
    for (request, size) in [(0x8004_fe00, 4), (0xc078_fe01, 120), (0xc078_fe02, 120)] {
        assert_eq!(call(request, size), Some(libc::ENOTTY));
    }
    // Not even tried: sizes and codes that would let the kernel write elsewhere.
    for (request, size) in [(0x8004_fe00, 3), (0xc078_fe02, 119), (0x1268, 4)] {
        assert_eq!(call(request, size), None);
    }
}
