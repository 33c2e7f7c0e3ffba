//! Names of images: `wb_VOL` is a volume's base image, `wr_VOL_GID` a restored one, `wr_VOL_GID_tmp` one being made.

use crate::types::{Gid, VolumeName};

/// The base image of a volume.
pub fn base(volume: &VolumeName) -> String {
    format!("wb_{volume}")
}

/// The restored image of a snapshot.
pub fn restored(volume: &VolumeName, gid: Gid) -> String {
    format!("wr_{volume}_{gid}")
}

/// What a restored image is called while it is being made.
pub fn unfinished(volume: &VolumeName, gid: Gid) -> String {
    format!("wr_{volume}_{gid}_tmp")
}

/// Volume, gid, and whether it is unfinished, of `wr_VOL_GID[_tmp]`.
pub fn parse_restored(name: &str) -> Option<(VolumeName, Gid, bool)> {
    let rest = name.strip_prefix("wr_")?;
    let (rest, unfinished) = rest
        .strip_suffix("_tmp")
        .map_or((rest, false), |rest| (rest, true));
    let (volume, gid) = rest.split_once('_')?;
    Some((VolumeName::new(volume).ok()?, gid.parse().ok()?, unfinished))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_restored_images_are_told_from_others() {
        let volume = VolumeName::new("vol-0").unwrap();
        assert_eq!(base(&volume), "wb_vol-0");
        let (made, unmade) = (restored(&volume, Gid(12)), unfinished(&volume, Gid(12)));
        assert_eq!(
            (made.as_str(), unmade.as_str()),
            ("wr_vol-0_12", "wr_vol-0_12_tmp")
        );
        assert_eq!(parse_restored(&made), Some((volume.clone(), Gid(12), false)));
        assert_eq!(parse_restored(&unmade), Some((volume, Gid(12), true)));
        for other in [
            "wb_vol0",
            "wr_vol0",
            "wr_vol0_",
            "wr_vol0_x",
            "wr__1",
            "lost+found",
            "wr_vol0_1_tmp_tmp",
        ] {
            assert_eq!(parse_restored(other), None, "{other}");
        }
    }
}
