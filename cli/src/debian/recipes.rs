//! What a package's maintainer scripts would have done, as far as its program depends on it, and how
//! the program is started by default. One row for each package; most need none.

use crate::error::{OrFail, Result};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A package's row.
pub(super) struct Recipe {
    package: &'static str,
    /// The program, where its name is not the package's.
    pub(super) program: Option<&'static str>,
    /// The user of the package's service, where the program refuses to run as root.
    pub(super) user: Option<&'static str>,
    /// Arguments to put first, unless `unless` is among the user's; with the reason for the user.
    defaults: Option<Defaults>,
    /// Effects of the package's postinst.
    steps: &'static [Step<'static>],
}

struct Defaults {
    args: &'static [&'static str],
    unless: &'static str,
    said: &'static str,
}

enum Step<'a> {
    /// A system user and group with this number.
    User(&'a str, u32),
    /// A symbolic link (path, target), unless something is there.
    Link(&'a str, &'a str),
    /// A copy (from, to), unless something is there.
    Copy(&'a str, &'a str),
    /// A folder.
    Dir(&'a str),
}

const RECIPES: &[Recipe] = &[
    Recipe {
        package: "nginx",
        program: None,
        user: None,
        defaults: Some(Defaults {
            args: &["-g", "daemon off; master_process off;"],
            unless: "-g",
            said: "nginx runs with 'daemon off; master_process off;' (fork is not there yet)",
        }),
        steps: &[
            Step::Link("etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default"),
            Step::Copy("usr/share/nginx/html/index.html", "var/www/html/index.nginx-debian.html"),
            Step::Dir("var/log/nginx"),
            Step::Dir("var/lib/nginx"),
        ],
    },
    Recipe {
        package: "memcached",
        program: None,
        user: Some("memcache"),
        defaults: None,
        steps: &[Step::User("memcache", 980)],
    },
];

/// The row of a package.
pub(super) fn find(package: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|r| r.package == package)
}

/// The program's arguments: the row's defaults first, unless the user overrides them.
pub(super) fn arguments(recipe: Option<&Recipe>, program: &str, args: &[OsString]) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let default_program = |r: &Recipe| program.ends_with(&format!("/{}", r.program.unwrap_or(r.package)));
    if let Some(defaults) = recipe.filter(|r| default_program(r)).and_then(|r| r.defaults.as_ref()) {
        if !args.iter().any(|a| a == defaults.unless) {
            eprintln!("attacca: {}", defaults.said);
            all.extend(defaults.args.iter().map(OsString::from));
        }
    }
    all.extend(args.iter().cloned());
    all
}

/// Makes a freshly unpacked root ready: what base-passwd does, then the package's own steps.
pub(super) fn prepare(package: &str, root: &Path) -> Result<()> {
    for file in ["passwd", "group"] {
        let master = format!("usr/share/base-passwd/{file}.master");
        apply(&Step::Copy(&master, &format!("etc/{file}")), root)?;
    }
    for step in find(package).map_or(&[][..], |r| r.steps) {
        apply(step, root)?;
    }
    Ok(())
}

fn apply(step: &Step<'_>, root: &Path) -> Result<()> {
    match *step {
        Step::User(name, id) => {
            append(
                &root.join("etc/passwd"),
                &format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n"),
            )?;
            append(&root.join("etc/group"), &format!("{name}:x:{id}:\n"))
        }
        Step::Link(path, target) => {
            let path = parent_made(root, path)?;
            if path.symlink_metadata().is_ok() {
                return Ok(());
            }
            symlink(target, &path).or_fail(path.display())
        }
        Step::Copy(from, to) => {
            let to = parent_made(root, to)?;
            let from = root.join(from);
            if to.exists() || !from.exists() {
                return Ok(());
            }
            fs::copy(&from, &to).map(drop).or_fail(to.display())
        }
        Step::Dir(path) => fs::create_dir_all(root.join(path)).or_fail(path),
    }
}

fn parent_made(root: &Path, path: &str) -> Result<std::path::PathBuf> {
    let path = root.join(path);
    let parent = path.parent().unwrap_or(root);
    fs::create_dir_all(parent).or_fail(parent.display())?;
    Ok(path)
}

fn append(path: &Path, line: &str) -> Result<()> {
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut f| f.write_all(line.as_bytes())).or_fail(path.display())
}
