//! Package files into a root folder, as dpkg lays them out on a merged /usr.

use crate::error::{Failure, OrFail, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Top-level folders that are links into /usr since Debian 12 (UsrMerge).
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Unpacks all packages into the new folder `root`.
pub(super) fn unpack(debs: &[PathBuf], root: &Path) -> Result<()> {
    for dir in MERGED {
        fs::create_dir_all(root.join("usr").join(dir)).or_fail(root.display())?;
        symlink(format!("usr/{dir}"), root.join(dir)).or_fail(root.display())?;
    }
    for deb in debs {
        unpack_one(deb, root)?;
    }
    for dir in ["tmp", "run", "var/log", "var/lib", "var/cache", "proc", "sys", "dev", "root", "home"] {
        fs::create_dir_all(root.join(dir)).or_fail(root.display())?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).or_fail(root.display())
}

fn unpack_one(deb: &Path, root: &Path) -> Result<()> {
    let failed = || format!("cannot unpack {}", deb.display());
    let mut packed = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .or_fail("cannot run dpkg-deb (is this Debian?)")?;
    let tar = packed.stdout.take().expect("piped");
    let unpacked = Command::new("tar")
        .args(["--extract", "--keep-directory-symlink", "--no-same-owner", "--file", "-", "--directory"])
        .arg(root)
        .stdin(tar)
        .output()
        .or_fail("cannot run tar")?;
    let packed = packed.wait().or_fail(failed())?;
    if packed.success() && unpacked.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&unpacked.stderr);
    Err(Failure::new(format_args!("{}: {}", failed(), words.lines().next().unwrap_or("dpkg-deb failed"))))
}
