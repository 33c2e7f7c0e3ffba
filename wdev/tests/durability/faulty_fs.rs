//! A file system whose files fail, write short and lose power as they are told: the disks under the real program.
//!
//! It bypasses the page cache, so every write and every sync of the program comes here, one at a time. What a file keeps of
//! them when the power goes: [`crate::platter`]. Without power every call fails.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, Session, WriteFlags,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::platter::{Platter, SECTOR};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Read,
    Write,
    Sync,
}

/// An error to come: at the n-th such act on that file from now on.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub file: &'static str,
    pub act: Act,
    pub after: u64,
    pub errno: i32,
    /// Every later one fails too, as on a disk that is gone or full.
    pub stays: bool,
}

struct State {
    files: Vec<(&'static str, Platter)>,
    random: StdRng,
    powered: bool,
    /// Writes and syncs until the power goes.
    outage: Option<u64>,
    failure: Option<Failure>,
    struck: usize,
    short: bool,
    /// Writes that came short, and sectors that power losses took.
    tally: (usize, usize),
}

impl State {
    fn cut(&mut self) {
        if std::mem::replace(&mut self.powered, false) {
            for (_, platter) in &mut self.files {
                self.tally.1 += platter.lose(&mut self.random);
            }
        }
    }

    /// What is to happen to this act instead of it.
    fn strikes(&mut self, file: usize, act: Act) -> Result<(), Errno> {
        if let (Some(left), true) = (&mut self.outage, act != Act::Read) {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => self.cut(),
            }
        }
        if !self.powered {
            return Err(Errno::EIO);
        }
        let name = self.files[file].0;
        let Some(failure) = self.failure.as_mut().filter(|f| f.file == name && f.act == act) else {
            return Ok(());
        };
        if failure.after > 0 {
            failure.after -= 1;
            return Ok(());
        }
        let errno = Errno::from_i32(failure.errno);
        self.struck += 1;
        if !failure.stays {
            self.failure = None;
        }
        Err(errno)
    }
}

/// A mounted file system. Taken away when dropped.
pub struct FaultyFs {
    state: Arc<Mutex<State>>,
    dir: Utf8PathBuf,
    session: Option<BackgroundSession>,
}

impl FaultyFs {
    /// Mounts files of these names and sizes, all zeros, on `dir`, which is made.
    pub fn mount(dir: &Utf8Path, files: &[(&'static str, u64)], seed: u64) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let platter = |&(name, size): &(&'static str, u64)| {
            let bytes = vec![0; usize::try_from(size).unwrap()];
            (name, Platter::new(bytes))
        };
        let state = Arc::new(Mutex::new(State {
            files: files.iter().map(platter).collect(),
            random: StdRng::seed_from_u64(seed),
            powered: true,
            outage: None,
            failure: None,
            struck: 0,
            short: false,
            tally: (0, 0),
        }));
        let files = Files(Arc::clone(&state));
        let session = Session::new(files, dir.as_std_path(), &Config::default()).and_then(Session::spawn);
        Self {
            state,
            dir: dir.to_owned(),
            session: Some(session.unwrap()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fail(&self, failure: Failure) {
        self.lock().failure = Some(failure);
    }

    /// Takes back what is to come; how often it came.
    pub fn heal(&self) -> usize {
        let mut state = self.lock();
        state.failure = None;
        std::mem::take(&mut state.struck)
    }

    /// Gives a file more room.
    pub fn grow(&self, name: &str, size: u64) {
        let mut state = self.lock();
        let file = state.files.iter_mut().find(|(n, _)| *n == name);
        let (_, platter) = file.expect("a file of this file system");
        for bytes in [&mut platter.durable, &mut platter.cache] {
            bytes.resize(usize::try_from(size).expect("a small file"), 0);
        }
    }

    /// From now on one write in five comes short.
    pub fn write_short(&self) {
        self.lock().short = true;
    }

    /// The power goes now, or after so many more writes and syncs.
    pub fn cut(&self, after: Option<u64>) {
        let mut state = self.lock();
        match after {
            Some(_) => state.outage = after,
            None => state.cut(),
        }
    }

    /// The power is back; only what is durable is there.
    pub fn power_on(&self) {
        let mut state = self.lock();
        state.outage = None;
        state.powered = true;
        for (_, platter) in &mut state.files {
            platter.forget_cache();
        }
    }

    pub fn powered(&self) -> bool {
        self.lock().powered
    }

    /// Writes that came short, and sectors that power losses took.
    pub fn tally(&self) -> (usize, usize) {
        self.lock().tally
    }
}

impl Drop for FaultyFs {
    fn drop(&mut self) {
        // A test that fails may leave a daemon with open files.
        let _ = rustix::mount::unmount(self.dir.as_std_path(), rustix::mount::UnmountFlags::DETACH);
        drop(self.session.take());
    }
}

struct Files(Arc<Mutex<State>>);

impl Files {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = match file_of(inode) {
            Some(file) => {
                let size = self.lock().files[file].1.cache.len() as u64;
                (FileType::RegularFile, 0o600, size)
            }
            None => (FileType::Directory, 0o700, 0),
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Some sectors of a failing or short write arrive, each whole.
    fn write_at(&self, file: usize, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let at = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let mut state = self.lock();
        let State { files, .. } = &*state;
        let room = files[file].1.cache.len().saturating_sub(at);
        if data.len() > room {
            return Err(Errno::ENOSPC);
        }
        let result = state.strikes(file, Act::Write);
        if result.is_err() && !state.powered {
            return Err(Errno::EIO);
        }
        let sectors = data.len() / SECTOR;
        let mut length = data.len();
        if result.is_err() {
            length = SECTOR * state.random.random_range(0..=sectors);
        } else if state.short && sectors > 1 && state.random.random_bool(0.2) {
            length = SECTOR * state.random.random_range(1..sectors);
            state.tally.0 += 1;
        }
        state.files[file].1.write(at, &data[..length]);
        result?;
        u32::try_from(length).map_err(|_| Errno::EINVAL)
    }
}

fn file_of(inode: INodeNo) -> Option<usize> {
    usize::try_from(inode.0).ok()?.checked_sub(2)
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Files {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |nearest| io::Error::other(format!("max_write refused, nearest is {nearest}"));
        config.set_max_write(1 << 20).map(drop).map_err(refused)
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.lock().files.iter().position(|(n, _)| name == OsStr::new(n));
        match found {
            Some(file) => {
                let inode = INodeNo(file as u64 + 2);
                reply.entry(&Duration::ZERO, &self.attributes(inode), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(inode));
    }

    fn open(&self, _req: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = file_of(inode) else {
            return reply.error(Errno::EISDIR);
        };
        let mut state = self.lock();
        if let Err(errno) = state.strikes(file, Act::Read) {
            return reply.error(errno);
        }
        let bytes = &state.files[file].1.cache;
        let from = usize::try_from(offset).map_or(bytes.len(), |o| o.min(bytes.len()));
        let to = (from + size as usize).min(bytes.len());
        reply.data(&bytes[from..to]);
    }

    fn write(
        &self,
        _req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = file_of(inode).ok_or(Errno::EISDIR);
        match file.and_then(|file| self.write_at(file, offset, data)) {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _req: &Request, _inode: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    /// A sync that fails is told once, and what was to be synced may be lost: as the kernel has it.
    fn fsync(&self, _req: &Request, inode: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let Some(file) = file_of(inode) else {
            return reply.ok();
        };
        let mut state = self.lock();
        let result = state.strikes(file, Act::Sync);
        let State {
            files,
            random,
            powered,
            ..
        } = &mut *state;
        match result {
            Ok(()) => files[file].1.sync(),
            Err(_) if *powered => drop(files[file].1.lose(random)),
            Err(_) => {}
        }
        answer(reply, result);
    }

    /// Zeros, as if written.
    fn fallocate(
        &self,
        _req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(file) = file_of(inode) else {
            return reply.error(Errno::EISDIR);
        };
        let zeros = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let mut state = self.lock();
        // An error here would only lead to zeros being written: it waits for that.
        if mode & zeros == 0 || state.short || state.failure.is_some() {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let result = state.strikes(file, Act::Write);
        if result.is_ok() {
            let platter = &mut state.files[file].1;
            let at = usize::try_from(offset).map_or(platter.cache.len(), |o| o.min(platter.cache.len()));
            let end =
                usize::try_from(offset + length).map_or(platter.cache.len(), |e| e.min(platter.cache.len()));
            platter.write(at, &vec![0; end - at]);
        }
        answer(reply, result);
    }
}
