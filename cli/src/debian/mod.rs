//! `debian:PACKAGE[:PROGRAM]`: a Debian package and what it depends on as a guest's root.
//!
//! `apt-get` works on private lists and state under the cache ([`apt`]); packages are unpacked into a
//! folder of their own ([`unpack`]). Nothing is installed or changed on the host, no root is needed,
//! and a second run needs no network. Maintainer scripts are not run: the few effects of them that
//! programs depend on stand in [`recipes`], by package.

mod apt;
mod recipes;
mod unpack;

use crate::error::{Failure, OrFail, Result};
use crate::guest;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A root folder and what to run in it.
pub(crate) struct Image {
    /// Becomes "/" of the guest.
    pub(crate) root: PathBuf,
    /// Path inside.
    pub(crate) program: String,
    recipe: Option<&'static recipes::Recipe>,
    /// The user it runs as, where it refuses root.
    pub(crate) user: Option<String>,
}

/// Fetches (unless it is cached) and prepares `PACKAGE[:PROGRAM]`.
pub(crate) fn image(spec: &str, pull: bool) -> Result<Image> {
    let (package, program) = spec.split_once(':').map_or((spec, None), |(p, q)| (p, Some(q)));
    let root = root(package, pull)?;
    let recipe = recipes::find(package);
    let program = choose_program(package, program, recipe, &root)?;
    // A program that refuses root runs as its own user, as its service file would have it.
    // SAFETY: geteuid has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let user = recipe.and_then(|r| r.user).filter(|_| is_root).map(String::from);
    Ok(Image { root, program, recipe, user })
}

impl Image {
    /// The program's arguments: what it needs to run here comes first, and is said.
    pub(crate) fn arguments(&self, given: &[OsString]) -> Vec<OsString> {
        recipes::arguments(self.recipe, &self.program, given)
    }

    /// Folders that shall be empty and in memory, unless a volume is given for them.
    pub(crate) fn scratch(&self) -> &'static [&'static str] {
        self.recipe.map_or(&[], |r| r.scratch)
    }

    /// Environment variables that the package's service would have.
    pub(crate) fn environment(&self) -> &'static [(&'static str, &'static str)] {
        self.recipe.map_or(&[], |r| r.environment)
    }

    /// The working directory.
    pub(crate) fn workdir(&self) -> &'static str {
        self.recipe.and_then(|r| r.workdir).unwrap_or("/")
    }
}

/// Debian Policy 5.6.1: lower case letters, digits, plus, minus and full stop.
fn check_name(package: &str) -> Result<()> {
    let good = package.len() >= 2
        && package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && package.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    if good { Ok(()) } else { Err(Failure::new(format_args!("debian:{package}: this is no package name"))) }
}

/// The unpacked root of a package: the cached one, or a new one.
pub(crate) fn root(package: &str, pull: bool) -> Result<PathBuf> {
    check_name(package)?;
    let cache = guest::cache_dir().or_fail("cannot use the cache (set ATTACCA_CACHE)")?;
    let roots = cache.join("roots");
    let current = roots.join(package);
    let done = recipes::fingerprint(package);
    if state(&current) == Some(done.clone()) && !pull {
        return Ok(current);
    }
    fs::create_dir_all(&roots).or_fail(roots.display())?;
    let _lock = lock(&roots.join(format!(".{package}.lock")))?;
    if let Some(state) = state(&current).filter(|_| !pull) {
        // Unpacked by an Attacca with another recipe: no reason to fetch it again.
        if state != done {
            recipes::prepare(package, &current)?;
            fs::write(current.join(COMPLETE), done).or_fail(current.display())?;
        }
        return Ok(current);
    }
    eprintln!("attacca: fetching Debian's {package} and what it depends on");
    let debs = apt::fetch(&cache.join("apt"), package)?;
    // Made aside and renamed: a root is there whole or not at all.
    let aside = roots.join(format!(".{package}.new"));
    remove(&aside)?;
    unpack::unpack(&debs, &aside)?;
    recipes::prepare(package, &aside)?;
    fs::write(aside.join(COMPLETE), done).or_fail(aside.display())?;
    remove(&current)?;
    fs::rename(&aside, &current).or_fail(current.display())?;
    Ok(current)
}

/// The file that says that a root is whole, and by what it was prepared.
const COMPLETE: &str = ".attacca-complete";

fn state(root: &Path) -> Option<String> {
    fs::read_to_string(root.join(COMPLETE)).ok()
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).or_fail(format_args!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// An exclusive lock that ends with the returned file: two first runs at once fetch one after the other.
fn lock(path: &Path) -> Result<fs::File> {
    let file = fs::File::create(path).or_fail(path.display())?;
    file.lock().or_fail(path.display())?;
    Ok(file)
}

/// The program asked for, or the one that the recipe names, or the only one of that name.
fn choose_program(
    package: &str,
    program: Option<&str>,
    recipe: Option<&recipes::Recipe>,
    root: &Path,
) -> Result<String> {
    if let Some(path) = program.filter(|p| p.starts_with('/')) {
        return Ok(path.into());
    }
    let name = program.or(recipe.and_then(|r| r.program)).unwrap_or(package);
    let folder = recipe.and_then(|r| r.folder);
    for dir in folder.into_iter().chain(["usr/sbin", "usr/bin", "usr/games"]) {
        if root.join(dir).join(name).symlink_metadata().is_ok() {
            return Ok(format!("/{dir}/{name}"));
        }
    }
    Err(Failure::not_found(format_args!(
        "debian:{package} holds no program '{name}': name one as debian:{package}:PROGRAM"
    )))
}
