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
    /// The user of the package's service, where the program refuses to run as root or should not.
    pub(super) user: Option<&'static str>,
    /// Arguments to put first, for the package's own program.
    defaults: Option<Defaults>,
    /// Folders that the program writes to while it runs, each empty at the start: in memory, unless a
    /// volume is given for it. What a container image declares as its volumes, and folders below /run.
    pub(super) scratch: &'static [&'static str],
    /// The working directory, where it is not "/".
    pub(super) workdir: Option<&'static str>,
    /// Effects of the package's postinst.
    steps: &'static [Step<'static>],
    /// Where its programs are, if not only in the usual folders.
    pub(super) folder: Option<&'static str>,
    /// Environment variables that the service would set.
    pub(super) environment: &'static [(&'static str, &'static str)],
}

struct Defaults {
    args: &'static [&'static str],
    unless: Unless,
}

/// When the user's arguments speak for themselves.
enum Unless {
    /// One of these is among them.
    Given(&'static [&'static str]),
    /// The first is no option but a configuration file, or this is among them.
    FileOr(&'static str),
}

impl Unless {
    fn holds(&self, args: &[OsString]) -> bool {
        let given = |name: &str| args.iter().any(|a| a == name);
        match self {
            Unless::Given(names) => names.iter().any(|name| given(name)),
            Unless::FileOr(name) => {
                args.first().is_some_and(|a| !a.as_encoded_bytes().starts_with(b"-")) || given(name)
            }
        }
    }
}

#[derive(Debug)]
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

/// A row to start from: nothing but a name.
const PLAIN: Recipe = Recipe {
    package: "",
    program: None,
    user: None,
    defaults: None,
    scratch: &[],
    workdir: None,
    steps: &[],
    folder: None,
    environment: &[],
};

const RECIPES: &[Recipe] = &[
    Recipe {
        // As Debian runs it: it goes into the background, and the guest lives as long as its master does.
        package: "nginx",
        steps: &[
            Step::Link("etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default"),
            Step::Copy("usr/share/nginx/html/index.html", "var/www/html/index.nginx-debian.html"),
            Step::Dir("var/log/nginx"),
            Step::Dir("var/lib/nginx"),
        ],
        ..PLAIN
    },
    Recipe { package: "memcached", user: Some("memcache"), steps: &[Step::User("memcache", 980)], ..PLAIN },
    Recipe {
        package: "redis-server",
        user: Some("redis"),
        // A published port is the wish to be reached, and the guest is a network of its own; "protected
        // mode" would refuse all who are not on the guest's loopback. As the container images have it.
        defaults: Some(Defaults {
            args: &["--protected-mode", "no"],
            unless: Unless::FileOr("--protected-mode"),
        }),
        scratch: &["/data"],
        workdir: Some("/data"),
        steps: &[
            Step::User("redis", 981),
            Step::Dir("data"),
            Step::Dir("var/lib/redis"),
            Step::Dir("var/log/redis"),
        ],
        ..PLAIN
    },
    Recipe {
        package: "postgresql-15",
        program: Some("postgres"),
        user: Some("postgres"),
        // Where container images have it. A volume for the folder above leaves its ownership to initdb.
        environment: &[("PGDATA", "/var/lib/postgresql/data")],
        scratch: &["/var/run/postgresql", "/var/lib/postgresql"],
        folder: Some("usr/lib/postgresql/15/bin"),
        steps: &[Step::User("postgres", 983), Step::Dir("var/lib/postgresql")],
        ..PLAIN
    },
    Recipe { package: "redis-tools", program: Some("redis-cli"), ..PLAIN },
    Recipe {
        package: "haproxy",
        // The service runs a master and its workers (-Ws); one process in the foreground is what -db asks for.
        defaults: Some(Defaults {
            args: &["-db", "-f", "/etc/haproxy/haproxy.cfg"],
            unless: Unless::Given(&["-f", "-v", "-vv", "-h", "-c"]),
        }),
        scratch: &["/run/haproxy"],
        steps: &[Step::User("haproxy", 982), Step::Dir("var/lib/haproxy/dev")],
        ..PLAIN
    },
    Recipe {
        package: "lighttpd",
        defaults: Some(Defaults {
            args: &["-D", "-f", "/etc/lighttpd/lighttpd.conf"],
            unless: Unless::Given(&["-f", "-v", "-V", "-h"]),
        }),
        // The service runs as www-data, which its postinst gives both to.
        scratch: &["/var/cache/lighttpd", "/var/log/lighttpd"],
        steps: &[
            // What `lighty-enable-mod unconfigured` does, and the page that it serves.
            Step::Link(
                "etc/lighttpd/conf-enabled/99-unconfigured.conf",
                "../conf-available/99-unconfigured.conf",
            ),
            Step::Copy("usr/share/lighttpd/index.html", "var/www/html/index.lighttpd.html"),
            Step::Dir("var/log/lighttpd"),
            Step::Dir("var/cache/lighttpd"),
        ],
        ..PLAIN
    },
    Recipe { package: "apache2-utils", program: Some("ab"), ..PLAIN },
    Recipe {
        package: "libmemcached-tools",
        program: Some("memcslap"),
        // Debian gives these two names of its own; their authors' names work as well.
        steps: &[
            Step::Link("usr/bin/memaslap", "memcaslap"),
            Step::Link("usr/bin/memcapable", "memccapable"),
        ],
        ..PLAIN
    },
    Recipe { package: "netpipe-tcp", program: Some("NPtcp"), ..PLAIN },
    Recipe { package: "nghttp2-client", program: Some("h2load"), ..PLAIN },
    Recipe { package: "nghttp2-server", program: Some("nghttpd"), ..PLAIN },
];

/// The row of a package.
pub(super) fn find(package: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|r| r.package == package)
}

/// The program's arguments: the row's defaults first, unless the user overrides them.
pub(super) fn arguments(recipe: Option<&Recipe>, program: &str, args: &[OsString]) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let default_program = |r: &Recipe| program.ends_with(&format!("/{}", r.program.unwrap_or(r.package)));
    if let Some(defaults) = recipe.filter(|r| default_program(r)).and_then(|r| r.defaults.as_ref())
        && !defaults.unless.holds(args)
    {
        all.extend(defaults.args.iter().map(OsString::from));
    }
    all.extend(args.iter().cloned());
    all
}

/// What [`prepare`] does for a package, as a text: a root that was prepared by other steps is prepared again.
pub(super) fn fingerprint(package: &str) -> String {
    format!("{:?}\n", find(package).map_or(&[][..], |r| r.steps))
}

/// Makes a freshly unpacked root ready: what base-passwd does, then the package's own steps. Doing it
/// again changes nothing.
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

/// Adds a line, unless its name is there.
fn append(path: &Path, line: &str) -> Result<()> {
    let name = line.split_inclusive(':').next().unwrap_or(line);
    if fs::read_to_string(path).is_ok_and(|text| text.lines().any(|l| l.starts_with(name))) {
        return Ok(());
    }
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut f| f.write_all(line.as_bytes())).or_fail(path.display())
}
