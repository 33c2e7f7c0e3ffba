//! Goal: one flipped bit never makes a whole operation succeed with a wrong image. Method: flip the bits of a small file of
//! each kind, one at a time, and run the commands an operator would: redo, to-wdiff, apply, merge, cat. The image is
//! compared with IOs done one by one.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Parser;
use tempfile::TempDir;
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{Logpack, SUPER_SECTOR_OFFSET, SuperSector};
use walb_common::testing::{Io, MemImage, indexed_wdiff, logpacks, sorted_wdiff, wlog};
use walb_common::types::{Compression, Lb, Lsid, PhysicalBlockSize, Uuid};
use walb_offline::Offline;

const SIZE: Lb = Lb(48);
const OLD: u8 = 0xee;
const B512: PhysicalBlockSize = PhysicalBlockSize::B512;
const SALT: Salt = Salt(0x1234_5678);
const FIRST: Lsid = Lsid(13);

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    offline: Offline,
}

/// A directory in memory, and the commands run there.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn fresh_image(&self) {
        self.write("image", &vec![OLD; SIZE.bytes() as usize]);
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.path("image")).unwrap()
    }

    /// Whether `walbc offline LINE` succeeds; words in capitals name files here.
    fn succeeds(&self, line: &str) -> bool {
        let word = |word: &str| {
            let is_file = word.chars().all(char::is_uppercase);
            if is_file {
                self.path(&word.to_lowercase())
            } else {
                PathBuf::from(word)
            }
        };
        let words = std::iter::once(PathBuf::from("walbc")).chain(line.split(' ').map(word));
        Command::try_parse_from(words).unwrap().offline.run(false).is_ok()
    }

    /// The image that applying file OUT to a fresh one gives; the file is whole, so it must succeed.
    fn image_of(&self, line: &str) -> Vec<u8> {
        self.fresh_image();
        assert!(self.succeeds(line), "{line}: what a command made is good");
        fs::remove_file(self.path("out")).unwrap();
        self.image()
    }
}

/// The commands' answers go nowhere meanwhile: there are tens of thousands.
struct Quiet(i32);

impl Quiet {
    fn new() -> Self {
        let nowhere = File::options().write(true).open("/dev/null").unwrap();
        // SAFETY: descriptors of our own.
        unsafe {
            let saved = libc::dup(1);
            libc::dup2(nowhere.as_raw_fd(), 1);
            Self(saved)
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: saved above.
        unsafe {
            libc::dup2(self.0, 1);
            libc::close(self.0);
        }
    }
}

fn ios() -> Vec<Io> {
    let write = |address, byte, blocks: usize| Io::Write {
        address: Lb(address),
        data: Bytes::from(
            (0..blocks * 512)
                .map(|n| byte + (n / 100) as u8)
                .collect::<Vec<_>>(),
        ),
    };
    let zeros = Io::Write {
        address: Lb(20),
        data: Bytes::from(vec![0; 512]),
    };
    let discard = Io::Discard {
        address: Lb(2),
        blocks: Lb(2),
    };
    vec![write(1, 10, 2), zeros, write(2, 40, 1), discard, write(40, 90, 1)]
}

/// The image after the first `count` IOs.
fn image_after(count: usize) -> Vec<u8> {
    let image = MemImage::filled(SIZE, OLD);
    for io in &ios()[..count] {
        image.apply(io, false);
    }
    image.bytes().to_vec()
}

fn packs() -> Vec<Logpack> {
    logpacks(&ios(), B512, SALT, FIRST, 3)
}

/// Every input that differs from `whole` in one bit; `step` 1 takes every bit, 8 one of each byte, another one each
/// time.
fn flips(whole: &[u8], step: usize) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..whole.len() * 8 / step).map(move |n| {
        let (byte, bit) = (n * step / 8, if step == 8 { n % 7 } else { n % 8 });
        let mut flipped = whole.to_vec();
        flipped[byte] ^= 1 << bit;
        (byte, flipped)
    })
}

fn wlogs_are_refused(bench: &Bench) {
    let whole = wlog(&packs(), B512, SALT, Uuid([7; 16]), FIRST);
    bench.write("file", &whole);
    bench.fresh_image();
    assert!(bench.succeeds("wlog redo FILE IMAGE"));
    assert_eq!(bench.image(), image_after(5));
    for (byte, flipped) in flips(&whole, 1) {
        bench.write("file", &flipped);
        assert!(!bench.succeeds("wlog redo FILE IMAGE"), "redone, byte {byte}");
    }
    for (byte, flipped) in flips(&whole, 8) {
        bench.write("file", &flipped);
        assert!(!bench.succeeds("wlog verify FILE"), "verified, byte {byte}");
        assert!(
            !bench.succeeds("wlog to-wdiff FILE -o OUT"),
            "converted, byte {byte}"
        );
        assert!(!bench.path("out").exists(), "half a wdiff, byte {byte}");
    }
}

fn wdiffs_are_refused_or_the_same(bench: &Bench, whole: &[u8]) {
    let other = sorted_wdiff(&ios()[4..], Uuid([7; 16]), Compression::Lz4, Lb(0));
    bench.write("other", &other);
    let mut accepted = 0;
    for (byte, flipped) in flips(whole, 1) {
        bench.write("file", &flipped);
        bench.fresh_image();
        if bench.succeeds("wdiff apply FILE IMAGE") {
            accepted += 1;
            assert_eq!(bench.image(), image_after(5), "byte {byte}");
        }
    }
    // The bytes between the images and the index of an indexed file mean nothing.
    assert!(accepted < 64, "{accepted} flipped bits went unnoticed");
    for (byte, flipped) in flips(whole, 8) {
        bench.write("file", &flipped);
        if bench.succeeds("wdiff merge FILE OTHER -o OUT") {
            assert_eq!(
                bench.image_of("wdiff apply OUT IMAGE"),
                image_after(5),
                "byte {byte}"
            );
        }
        assert!(!bench.path("out").exists(), "half a wdiff, byte {byte}");
    }
}

/// A log device with the packs at its beginning.
fn log_device() -> Vec<u8> {
    let mut device = vec![0; SUPER_SECTOR_OFFSET as usize + 34 * 512];
    let sector = SuperSector::format(B512, device.len() as u64, SIZE, "v", Uuid([7; 16]), SALT).unwrap();
    let sector = sector.with_oldest(FIRST);
    device[SUPER_SECTOR_OFFSET as usize..][..512].copy_from_slice(&sector.encode());
    for pack in packs() {
        let at = sector.ring().offset_of(pack.header().lsid()) as usize;
        let bytes = [&pack.block()[..], pack.data()].concat();
        device[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    device
}

/// How many IOs are left if the byte at this position of the device is damaged. None if nothing is to be believed.
fn ios_before(position: usize) -> Option<usize> {
    let start = SUPER_SECTOR_OFFSET as usize;
    if (start..start + 512).contains(&position) {
        return None;
    }
    let ring = SuperSector::decode(&log_device()[start..start + 512], B512)
        .unwrap()
        .ring();
    let mut before = 0;
    for pack in packs() {
        let header = pack.header();
        let at = ring.offset_of(header.lsid()) as usize;
        if (at..at + 512).contains(&position) {
            return Some(before);
        }
        for record in header.records() {
            let data = header.data_range(record);
            if (at + 512 + data.start..at + 512 + data.end).contains(&position) {
                return Some(before);
            }
            before += 1;
        }
    }
    Some(before)
}

fn log_devices_are_refused_or_end_before_the_damage(bench: &Bench) {
    let whole = log_device();
    assert_eq!(ios_before(whole.len()), Some(5));
    // In front of the super sector nothing is ever read.
    let from = SUPER_SECTOR_OFFSET as usize;
    for (byte, flipped) in flips(&whole[from..], 8) {
        let flipped = [&whole[..from], &flipped].concat();
        let expected = ios_before(from + byte).map(image_after);
        bench.write("device", &flipped);
        let copied = bench.succeeds("log-device cat DEVICE -o OUT");
        let copy = copied.then(|| bench.image_of("wlog redo OUT IMAGE"));
        assert_eq!(copy, expected, "copied, byte {}", from + byte);
        bench.fresh_image();
        let redone = bench.succeeds("log-device redo DEVICE IMAGE");
        assert_eq!(
            redone.then(|| bench.image()),
            expected,
            "redone, byte {}",
            from + byte
        );
        if redone {
            // Done again from the stored super sector it stays.
            assert!(bench.succeeds("log-device redo DEVICE IMAGE"));
            assert_eq!(
                Some(bench.image()),
                expected,
                "redone twice, byte {}",
                from + byte
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let quiet = Quiet::new();
    let (uuid, kind) = (Uuid([7; 16]), Compression::Snappy);
    let sorted = sorted_wdiff(&ios(), uuid, kind, Lb(0));
    let indexed = indexed_wdiff(&ios(), uuid, kind, Lb(0));
    std::thread::scope(|scope| {
        scope.spawn(|| wlogs_are_refused(&Bench::new()));
        scope.spawn(|| wdiffs_are_refused_or_the_same(&Bench::new(), &sorted));
        scope.spawn(|| wdiffs_are_refused_or_the_same(&Bench::new(), &indexed));
        scope.spawn(|| log_devices_are_refused_or_end_before_the_damage(&Bench::new()));
    });
    drop(quiet);
}
