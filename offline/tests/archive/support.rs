//! A volume with its whole history, and archive directories made of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use sha2::{Digest, Sha256};
use walb_common::format::wdiff::{SortedWriter, WdiffRecord};
use walb_common::lineage::{BaseState, MetaDiff, Snapshot};
use walb_common::testing::{Io, MemImage, indexed_wdiff, random_ios, sorted_wdiff};
use walb_common::types::{Compression, CompressionSetting, Gid, Lb, Timestamp, Uuid};
use walb_offline::{Offline, OfflineError};

/// Blocks of the volume: 1 MiB.
pub const SIZE: Lb = Lb(2048);
pub const LOG: Uuid = Uuid([7; 16]);
/// The time of gid 0; each gid is a minute later.
pub const EPOCH: u64 = 1_795_356_000;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    offline: Offline,
}

/// Runs `walbc offline WORDS` in this process: whether the answer was positive, or the error.
pub fn offline(words: &[&str]) -> Result<bool, String> {
    let words = std::iter::once("offline").chain(words.iter().copied());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    match cli.offline.run(false) {
        Ok(code) => Ok(code == std::process::ExitCode::SUCCESS),
        Err(OfflineError::Usage(text) | OfflineError::Failed(text)) => Err(text),
    }
}

/// A volume: what was written between each two gids, and its bytes at each.
pub struct History {
    steps: Vec<Vec<Io>>,
    states: Vec<Vec<u8>>,
}

impl History {
    pub fn new(seed: u64, gids: usize) -> Self {
        let image = MemImage::filled(SIZE, 0);
        // Data here and there, so that holes stay between.
        for io in random_ios(seed ^ 0xbace, SIZE, 20) {
            image.apply(&io, false);
        }
        let mut history = Self {
            steps: Vec::new(),
            states: vec![image.bytes().clone()],
        };
        for step in 0..gids as u64 {
            let ios = random_ios(seed.wrapping_mul(1000) + step, SIZE, 8);
            for io in &ios {
                image.apply(io, false);
            }
            history.steps.push(ios);
            history.states.push(image.bytes().clone());
        }
        history
    }

    pub fn at(&self, gid: u64) -> &[u8] {
        &self.states[gid as usize]
    }

    /// An image whose every block shows some instant between two gids.
    pub fn torn(&self, from: u64, to: u64) -> Vec<u8> {
        let mut image = self.at(from).to_vec();
        for (n, block) in image.chunks_mut(512).enumerate() {
            let gid = from + ((n as u64 * 2_654_435_761) >> 7) % (to - from + 1);
            block.copy_from_slice(&self.at(gid)[n * 512..][..512]);
        }
        image
    }

    /// The volume at a gid, had discards left the data since gid 0. What a diff discards it holds no data of, so the data
    /// left are those from before the diff.
    pub fn with_discards_ignored(&self, gid: u64) -> Vec<u8> {
        let mut image = self.at(0).to_vec();
        for step in &self.steps[..gid as usize] {
            let before = image.clone();
            for io in step {
                let (at, data) = match io {
                    Io::Write { address, data } => (address.bytes() as usize, &data[..]),
                    Io::Discard { address, blocks } => {
                        let at = address.bytes() as usize;
                        (at, &before[at..at + blocks.bytes() as usize])
                    }
                };
                image[at..at + data.len()].copy_from_slice(data);
            }
        }
        image
    }

    fn ios(&self, from: u64, to: u64) -> Vec<Io> {
        self.steps[from as usize..to as usize].concat()
    }
}

/// How a wdiff is stored.
#[derive(Clone, Copy)]
pub enum Form {
    Sorted(Compression),
    Indexed(Compression),
    /// Only what differs between its two ends, all of it data.
    Compared,
}

pub const SNAPPY: Form = Form::Sorted(Compression::Snappy);

pub fn clean(gid: u64) -> Snapshot {
    Snapshot::clean(Gid(gid))
}

pub fn dirty(begin: u64, end: u64) -> Snapshot {
    Snapshot::new(Gid(begin), Gid(end)).unwrap()
}

pub fn time_of(gid: u64) -> Timestamp {
    Timestamp(EPOCH + 60 * gid)
}

/// A directory with one volume, `vol0`.
pub struct Archive {
    pub dir: tempfile::TempDir,
}

impl Archive {
    /// As walb-archive leaves it.
    pub fn new(base: &BaseState, image: &[u8]) -> Self {
        let archive = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(archive.volume()).unwrap();
        fs::create_dir(archive.path().join("images")).unwrap();
        archive.put("state", b"Archived\n");
        archive.put("base", format!("{}\n", base.with_time()).as_bytes());
        archive.put("archive_uuid", b"0123456789abcdef0123456789abcdef\n");
        archive.put("uuid", format!("{LOG}\n").as_bytes());
        archive.put("size", b"2048\n");
        fs::write(archive.image(), image).unwrap();
        archive
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn volume(&self) -> PathBuf {
        self.path().join("vol0")
    }

    pub fn image(&self) -> PathBuf {
        self.path().join("images/wb_vol0")
    }

    pub fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.volume().join(name), content).unwrap();
    }

    /// Stores the diff between two snapshots: what was written from the begin gid of the one to the end gid of the other.
    pub fn diff(&self, history: &History, from: Snapshot, to: Snapshot, form: Form) -> PathBuf {
        let ios = history.ios(from.begin().0, to.end().0);
        let stored = match form {
            Form::Sorted(kind) => sorted_wdiff(&ios, LOG, kind, Lb(0)),
            Form::Indexed(kind) => indexed_wdiff(&ios, LOG, kind, Lb(64)),
            Form::Compared => compared(history.at(from.begin().0), history.at(to.begin().0)),
        };
        let diff = MetaDiff::new(from, to)
            .unwrap()
            .with_compared(matches!(form, Form::Compared))
            .with_timestamp(time_of(to.begin().0));
        let path = self.volume().join(diff.file_name());
        fs::write(&path, stored).unwrap();
        path
    }

    /// The words of a command about this archive.
    pub fn run(&self, command: &str, more: &[&str]) -> Result<bool, String> {
        let dir = self.path().to_str().unwrap();
        offline(&[&[command, "--archive", dir][..], more].concat())
    }

    /// Restores into a new file and gives its bytes.
    pub fn restore(&self, more: &[&str]) -> Result<Vec<u8>, String> {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out.img");
        let words = [&["--volume", "vol0", "-o", out.to_str().unwrap()][..], more].concat();
        let restored = self.run("restore", &words);
        let left = fs::read_dir(place.path()).unwrap().count();
        match restored {
            Ok(positive) => {
                assert!(positive && left == 1);
                Ok(fs::read(out).unwrap())
            }
            Err(error) => {
                assert_eq!(left, 0, "something is left of a restore that failed: {error}");
                Err(error)
            }
        }
    }

    /// Everything listed is restored and compared; gives the gids.
    pub fn check_every_gid(&self, history: &History, more: &[&str]) -> Vec<u64> {
        let files = walb_common::archive_files::VolumeFiles::new(self.volume());
        let (base, diffs) = (files.read_base().unwrap(), files.list().unwrap().diffs);
        let list = walb_common::archive_files::Choice::list(&base, &diffs).unwrap();
        let gids: Vec<u64> = list.iter().map(|r| r.gid.0).collect();
        let before = digests(self.path());
        for &gid in &gids {
            let text = gid.to_string();
            let image = self.restore(&[&["--gid", &text][..], more].concat()).unwrap();
            assert!(image == history.at(gid), "gid {gid} differs");
        }
        for gid in (0..history.states.len() as u64).filter(|gid| !gids.contains(gid)) {
            let text = gid.to_string();
            let error = self.restore(&[&["--gid", &text][..], more].concat()).unwrap_err();
            assert!(
                error.contains(&format!("gid {gid} cannot be restored")),
                "{error}"
            );
        }
        assert!(digests(self.path()) == before, "something in the archive changed");
        gids
    }
}

/// A wdiff of the blocks in which two images differ.
fn compared(from: &[u8], to: &[u8]) -> Vec<u8> {
    let setting = CompressionSetting::of(Compression::Zstd);
    let mut writer = SortedWriter::new(Vec::new(), LOG, setting).unwrap();
    for (n, (old, new)) in (0..).zip(from.chunks(512).zip(to.chunks(512))) {
        if old != new {
            let record = WdiffRecord::normal(Lb(n), bytes::Bytes::copy_from_slice(new));
            writer.write(&record).unwrap();
        }
    }
    writer.finish().unwrap().0
}

/// Content, mode and times of everything below a directory.
pub fn digests(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let content = if about.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            format!("{:x}", Sha256::digest(fs::read(&path).unwrap()))
        };
        let line = format!(
            "{:o} {} {} {content}",
            about.mode(),
            about.mtime(),
            about.mtime_nsec()
        );
        found.insert(path, line);
    }
    found
}
