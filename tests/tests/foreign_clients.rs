//! Goal: what clients of other projects write arrives at the archive as they read it back. Oracle: nbdcopy.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use walb_tests::image::digest_file;
use walb_tests::wait::PATIENCE;
use walb_tests::{Cluster, VolumeSpec};

/// Runs a tool; a missing one fails the test.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.with_context(|| format!("run {program}: install the packages `cargo xtask test` installs"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}: {stderr}",
        output.status
    );
    Ok(())
}

struct Device<'a> {
    cluster: &'a Cluster,
    uri: String,
}

impl Device<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    /// Snapshot, restore and nbdcopy agree.
    fn check(&self, what: &str) -> Result<()> {
        let image = self.path("copied.img");
        let _ = std::fs::remove_file(&image);
        run("nbdcopy", &[&self.uri, text(&image)?])?;
        let copied = digest_file(&image)?;
        let gid = self.cluster.snapshot("vol0")?;
        self.cluster.until_restorable("vol0", gid, PATIENCE)?;
        let restored = self.cluster.restored_digest("vol0", gid)?;
        ensure!(
            restored == copied,
            "{what}: snapshot {gid} is {restored:?}, nbdcopy read {copied:?}"
        );
        Ok(())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

fn all_clients(pbs: u32, size: u64) -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size,
        pbs,
        log_size: 512 << 20,
        ..VolumeSpec::default()
    })?;
    let socket = cluster.nbd_socket("vol0");
    let uri = format!("nbd+unix:///vol0?socket={}", text(&socket)?);
    let device = Device {
        cluster: &cluster,
        uri: uri.clone(),
    };

    // An image with data, zeros and holes, with requests as large as nbdcopy likes.
    let mut random = StdRng::seed_from_u64(u64::from(pbs));
    let mut image = vec![0; usize::try_from(size)?];
    for _ in 0..40 {
        let start = random.random_range(0..image.len() - (1 << 20));
        let length = random.random_range(1..1 << 20);
        random.fill_bytes(&mut image[start..start + length]);
    }
    let source = device.path("source.img");
    std::fs::write(&source, &image)?;
    run("nbdcopy", &["--request-size=33554432", text(&source)?, &uri])?;
    ensure!(
        digest_file(&source)? == {
            let back = device.path("back.img");
            run("nbdcopy", &[&uri, text(&back)?])?;
            digest_file(&back)?
        }
    );
    device.check("nbdcopy")?;

    let half = (size / 2 / 512 * 512).to_string();
    let tail = (size - 512).to_string();
    for command in [
        "write -P 0x5a 512 1536",
        "write -f -P 0xa5 4096 1M",
        &format!("discard 0 {half}"),
        "write -P 0x11 3584 9728",
        "write -z 1M 4M",
        "write -z -u 6M 4M",
        &format!("write -P 0x77 {tail} 512"),
        "flush",
    ] {
        run("qemu-io", &["-f", "raw", "-c", command, &uri]).with_context(|| command.to_owned())?;
    }
    device.check("qemu-io")?;

    let target = format!("--uri={uri}");
    #[rustfmt::skip]
    run("fio", &[
        "--name=mixed", "--ioengine=nbd", &target, "--rw=randtrimwrite", "--bsrange=4k-256k", "--iodepth=16", "--size=24m",
        "--io_size=48m", "--randseed=7", "--fsync=16",
    ])?;
    #[rustfmt::skip]
    run("fio", &[
        "--name=verified", "--ioengine=nbd", &target, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=16m",
        "--verify=crc32c", "--randseed=8",
    ])?;
    device.check("fio")
}

#[test]
fn clients_of_other_projects_get_back_what_they_wrote_pbs_512() -> Result<()> {
    all_clients(512, (48 << 20) + 512)
}

#[test]
fn clients_of_other_projects_get_back_what_they_wrote_pbs_4096() -> Result<()> {
    all_clients(4096, 48 << 20)
}
