//! Base and restored images as sparse files in one directory: `wb_VOL`, `wr_VOL_GID`, and `wr_VOL_GID_tmp` while a
//! restore runs. This is the wall behind which an LVM back end will stand beside the files.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use walb_common::archive_files::image_name;
use walb_common::disk::{fault, remove_durable, rename_durable, sync_dir};
use walb_common::types::{Gid, LB_SIZE, Lb, VolumeName};

use crate::error::{At, FileError};

/// The directory of images.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
}

/// Restored images found in the directory.
pub(crate) type Restored = HashMap<VolumeName, BTreeSet<Gid>>;

impl Images {
    /// Opens (or creates) the directory and removes what interrupted restores left.
    pub fn open(dir: &Path) -> Result<(Self, Restored), FileError> {
        fs::create_dir_all(dir).at("create", dir)?;
        let mut restored = Restored::new();
        for entry in fs::read_dir(dir).at("list", dir)? {
            let entry = entry.at("list", dir)?;
            let name = entry.file_name();
            match name.to_str().and_then(image_name::parse_restored) {
                Some((_, _, true)) => {
                    tracing::info!(image = %entry.path().display(), "removing what an interrupted restore left");
                    if let Err(error) = remove_durable(&entry.path()) {
                        tracing::error!(image = %entry.path().display(), %error, "it stays until the next start");
                    }
                }
                Some((volume, gid, false)) => {
                    restored.entry(volume).or_default().insert(gid);
                }
                None => {}
            }
        }
        Ok((Self { dir: dir.to_owned() }, restored))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The base image of a volume.
    pub fn base(&self, volume: &VolumeName) -> PathBuf {
        self.dir.join(image_name::base(volume))
    }

    /// The restored image of a snapshot.
    pub fn restored(&self, volume: &VolumeName, gid: Gid) -> PathBuf {
        self.dir.join(image_name::restored(volume, gid))
    }

    /// What a restored image is called while it is being made.
    pub fn unfinished(&self, volume: &VolumeName, gid: Gid) -> PathBuf {
        self.dir.join(image_name::unfinished(volume, gid))
    }

    /// Size of the base image, if there is one.
    pub fn base_size(&self, volume: &VolumeName) -> Result<Option<Lb>, FileError> {
        let path = self.base(volume);
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(Lb(found.len() / LB_SIZE))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError {
                act: "look at",
                path,
                source,
            }),
        }
    }

    /// A new base image of zeros. One that is there is removed first: a full backup only comes when it means nothing.
    pub fn create_base(&self, volume: &VolumeName, size: Lb) -> Result<File, FileError> {
        let path = self.base(volume);
        remove_durable(&path).at("remove", &path)?;
        let file = create_image(&path)?;
        file.set_len(size.bytes()).at("set the size of", &path)?;
        // The name is durable before any data, so that the space a crash leaves taken is found again.
        sync_dir(&self.dir).at("sync", &self.dir)?;
        fault::point("archive.full.image_created").at("create", &path)?;
        Ok(file)
    }

    /// Makes a base image larger, with zeros behind its end; durable. It is as large already after a crash in here.
    pub fn grow_base(&self, volume: &VolumeName, size: Lb) -> Result<(), FileError> {
        let path = self.base(volume);
        let file = OpenOptions::new().write(true).open(&path).at("open", &path)?;
        let found = file.metadata().at("look at", &path)?.len();
        if found < size.bytes() {
            file.set_len(size.bytes()).at("grow", &path)?;
        }
        file.sync_all().at("sync", &path)?;
        fault::point("archive.grow.image_grown").at("grow", &path)
    }

    /// Whether a base image has nothing but a hole from a block on.
    pub fn is_hole_from(&self, volume: &VolumeName, from: Lb) -> Result<bool, FileError> {
        let path = self.base(volume);
        let file = File::open(&path).at("open", &path)?;
        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(from.bytes())) {
            Ok(_) => Ok(false),
            Err(rustix::io::Errno::NXIO) => Ok(true),
            Err(error) => Err(io::Error::from(error)).at("look for data in", &path),
        }
    }

    /// Removes the base image, if there is one.
    pub fn remove_base(&self, volume: &VolumeName) -> Result<(), FileError> {
        let path = self.base(volume);
        remove_durable(&path).at("remove", &path)
    }

    /// Removes a restored image.
    pub fn remove_restored(&self, volume: &VolumeName, gid: Gid) -> Result<(), FileError> {
        let path = self.restored(volume, gid);
        remove_durable(&path).at("remove", &path)
    }

    /// Removes every image of a volume: restored ones first, so that none stands without a base.
    pub fn remove_all(&self, volume: &VolumeName) -> Result<(), FileError> {
        for entry in fs::read_dir(&self.dir).at("list", &self.dir)? {
            let entry = entry.at("list", &self.dir)?;
            if entry
                .file_name()
                .to_str()
                .and_then(image_name::parse_restored)
                .is_some_and(|(name, ..)| name == *volume)
            {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
            }
        }
        self.remove_base(volume)?;
        sync_dir(&self.dir).at("sync", &self.dir)
    }

    /// Gives a finished image, already synced, its name.
    pub fn finish_restored(&self, volume: &VolumeName, gid: Gid) -> Result<PathBuf, FileError> {
        let path = self.restored(volume, gid);
        rename_durable(&self.unfinished(volume, gid), &path).at("rename to", &path)?;
        Ok(path)
    }
}

/// A new file, readable by the owner only: it holds everything the volume held.
pub(crate) fn create_image(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("create", path)
}
