//! Where an archive keeps what is wanted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use walb_common::archive_files::{VolumeFiles, image_name, volumes};
use walb_common::convert::ImageSource;
use walb_common::lineage::BaseState;
use walb_common::state::archive::Static;
use walb_common::types::{LB_SIZE, Lb, VolumeName};

/// An archive's directories.
#[derive(Debug, Clone, Args)]
pub struct Archive {
    /// The archive's data directory (`data_dir`, for the existing archive `-b`), or a copy of it
    #[arg(long, value_name = "DIR")]
    pub archive: PathBuf,
    /// Where the base images are, unless in DIR/images
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
}

/// A volume's base image, where it is not what the archive's files say.
#[derive(Debug, Clone, Default, Args)]
pub struct Base {
    /// The base image: a file, or a block device such as /dev/VG/wb_VOL
    #[arg(long, value_name = "PATH")]
    pub base: Option<PathBuf>,
    /// What the base image shows, instead of what VOL/base says: for a cold image, `<|GID|>`
    #[arg(long, value_name = "STATE", requires = "base")]
    pub base_state: Option<BaseState>,
}

/// One volume of an archive.
#[derive(Debug)]
pub struct Place {
    /// Its name.
    pub name: VolumeName,
    /// Its directory.
    pub files: VolumeFiles,
    /// Its base image.
    pub image: PathBuf,
    /// What the image shows, if somebody knows better than the files.
    pub base_state: Option<BaseState>,
}

impl Archive {
    /// Every volume, or the one named.
    pub fn places(&self, only: Option<&VolumeName>) -> anyhow::Result<Vec<Place>> {
        if let Some(name) = only {
            return Ok(vec![self.place(name, &Base::default())?]);
        }
        let found = volumes(&self.archive)?;
        if found.is_empty() {
            bail!(
                "{} holds no volume: expected the directory that holds VOL/state",
                self.archive.display()
            );
        }
        let place = |(name, files)| Place {
            image: self.image(&name),
            name,
            files,
            base_state: None,
        };
        Ok(found.into_iter().map(place).collect())
    }

    /// The volume named.
    pub fn place(&self, name: &VolumeName, base: &Base) -> anyhow::Result<Place> {
        let files = VolumeFiles::new(self.archive.join(name.as_str()));
        if !files.path().is_dir() {
            let names: Vec<String> = volumes(&self.archive)?
                .into_iter()
                .map(|(name, _)| name.to_string())
                .collect();
            let there = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(" ")
            };
            bail!(
                "no volume {name} in {}: there are {there}",
                self.archive.display()
            );
        }
        Ok(Place {
            image: base.base.clone().unwrap_or_else(|| self.image(name)),
            name: name.clone(),
            files,
            base_state: base.base_state,
        })
    }

    fn image(&self, name: &VolumeName) -> PathBuf {
        let images = self.images.clone().unwrap_or_else(|| self.archive.join("images"));
        images.join(image_name::base(name))
    }

    /// Refuses an output that lies in one of the archive's directories.
    pub fn refuse_output(&self, out: &Path) -> anyhow::Result<()> {
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // A parent that is not there is told when the output is made.
        let Ok(parent) = fs::canonicalize(parent) else {
            return Ok(());
        };
        for dir in [Some(&self.archive), self.images.as_ref()].into_iter().flatten() {
            if fs::canonicalize(dir).is_ok_and(|dir| parent.starts_with(dir)) {
                bail!(
                    "{} lies in {}, where nothing is written",
                    out.display(),
                    dir.display()
                );
            }
        }
        Ok(())
    }
}

impl Place {
    /// Reads the state; refuses one in which nothing means anything.
    pub fn state_with_data(&self) -> anyhow::Result<Static> {
        let state = self.files.read_state()?;
        if !matches!(state, Static::Archived | Static::Stopped) {
            bail!(
                "volume {} is in state {state}, expected Archived or Stopped: what is there means nothing, as after a \
                 reset, or before a full backup or resync has ended",
                self.name
            );
        }
        Ok(state)
    }

    /// What the base image shows.
    pub fn base(&self) -> anyhow::Result<BaseState> {
        match self.base_state {
            Some(state) => Ok(state),
            None => Ok(self.files.read_base()?),
        }
    }

    /// Opens the base image; tells its size. One of another size than it has to have is refused.
    pub fn open_image(&self) -> anyhow::Result<(File, Lb)> {
        let name = self.image.display();
        let image = File::open(&self.image).with_context(|| {
            format!("open the base image {name} (--images or --base say where else it is)")
        })?;
        let bytes = image
            .size()
            .with_context(|| format!("size the base image {name}"))?;
        if let Some(expected) = self.files.read_size()?.map(Lb::bytes)
            && expected != bytes
        {
            bail!("base image {name} has {bytes} bytes, expected {expected}");
        }
        if bytes == 0 || !bytes.is_multiple_of(LB_SIZE) {
            bail!("base image {name} has {bytes} bytes, expected a multiple of {LB_SIZE}");
        }
        Ok((image, Lb(bytes / LB_SIZE)))
    }
}
