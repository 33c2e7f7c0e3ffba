//! The file system: a directory with one file. Answers come from the device's callbacks.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::bytes_io::{BytesIo, Change};
use super::handle::MAX_IO;
use crate::block::IoErrno;

const FILE: INodeNo = INodeNo(2);
/// How long the kernel may remember attributes. Short, since a device can grow.
const TTL: Duration = Duration::from_secs(1);
/// Asynchronous requests the kernel may have with us at once; its own default, 12, would starve a loop device.
const MAX_BACKGROUND: u16 = 128;

/// See the module.
pub struct DeviceFile {
    name: String,
    io: Arc<BytesIo>,
}

impl DeviceFile {
    /// A file system that shows `io` as the file `name`.
    pub fn new(name: &str, io: Arc<BytesIo>) -> Self {
        Self {
            name: name.to_owned(),
            io,
        }
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            FILE => (FileType::RegularFile, 0o600, self.io.size()),
            _ => return None,
        };
        Some(FileAttr {
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
        })
    }
}

fn to_errno(errno: IoErrno) -> Errno {
    Errno::from_i32(errno.0)
}

fn answer(reply: ReplyEmpty) -> impl FnOnce(Result<(), IoErrno>) + Send + 'static {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(to_errno(errno)),
    }
}

impl Filesystem for DeviceFile {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |what: &str, nearest| io::Error::other(format!("{what} refused, nearest is {nearest}"));
        config
            .set_max_write(MAX_IO)
            .map_err(|n| refused("max_write", n))?;
        config
            .set_max_background(MAX_BACKGROUND)
            .map_err(|n| refused("max_background", n.into()))?;
        // Lets one large direct read or write be in flight as several requests. Old kernels do without.
        let _ = config.add_capabilities(fuser::InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(attributes) if parent == INodeNo::ROOT && name == OsStr::new(&self.name) => {
                reply.entry(&TTL, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Times may be "changed"; size, mode and owner are the device's. (Opening with `O_TRUNC` ends here as well.)
    fn setattr(
        &self,
        req: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resizes = size.is_some_and(|size| size != self.io.size());
        if resizes || mode.is_some() || uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        self.getattr(req, inode, fh, reply);
    }

    /// The directory is not a place to keep files. (Creating one also ends here.)
    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, _req: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if inode != FILE {
            return reply.error(Errno::EISDIR);
        }
        // No page cache in between, so that done means done; and closing need not tell us, since it promises nothing.
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.io
            .read(offset, size.min(MAX_IO), move |result| match result {
                Ok(data) => reply.data(&data),
                Err(errno) => reply.error(to_errno(errno)),
            });
    }

    fn write(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let room = self.io.size().saturating_sub(offset);
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX).min(room);
        let (Ok(end), Ok(written)) = (usize::try_from(length), u32::try_from(length)) else {
            return reply.error(Errno::EINVAL);
        };
        if end == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        let data = Bytes::copy_from_slice(&data[..end]);
        let fua = flags.0 & libc::O_DSYNC != 0;
        self.io
            .change(offset, Change::Write { data, fua }, move |result| match result {
                Ok(()) => reply.written(written),
                Err(errno) => reply.error(to_errno(errno)),
            });
    }

    fn flush(&self, _req: &Request, _inode: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _inode: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.io.flush(answer(reply));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let change = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            libc::FALLOC_FL_PUNCH_HOLE => Change::Discard { length },
            libc::FALLOC_FL_ZERO_RANGE => Change::Zero { length },
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        self.io.change(offset, change, answer(reply));
    }

    fn readdir(
        &self,
        _req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, self.name.as_str()),
        ];
        for ((inode, kind, name), next) in entries.into_iter().zip(1_u64..) {
            if next > offset && reply.add(inode, next, kind, name) {
                break; // the reply is full; the kernel asks again from `next`
            }
        }
        reply.ok();
    }
}
