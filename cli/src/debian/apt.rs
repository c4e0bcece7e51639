//! `apt-get` with lists, state and cache of our own: no root, and the host's apt is left alone.
//! The host's sources and keys are read, so a machine with a mirror or a proxy works as it does for apt.

use crate::error::{Failure, OrFail, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// Lists older than this are asked for anew before something is fetched.
const LISTS_FRESH_FOR: Duration = Duration::from_secs(24 * 3600);

/// Packages that every Debian system has and others count on without saying so: dash is /bin/sh, which
/// system(3) and popen(3) start.
const BASE: [&str; 4] = ["base-files", "base-passwd", "dash", "netbase"];

/// Fetches a package and its dependencies; answers the package files.
pub(super) fn fetch(state: &Path, package: &str) -> Result<Vec<PathBuf>> {
    let apt = Apt::open(state)?;
    apt.update()?;
    let packages = apt.resolve(package)?;
    apt.download(&packages)
}

struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn open(dir: &Path) -> Result<Apt> {
        for part in ["lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(dir.join(part)).or_fail(dir.display())?;
        }
        fs::write(dir.join("status"), "").or_fail(dir.display())?;
        Ok(Apt { dir: dir.into() })
    }

    fn command(&self) -> Command {
        let mut apt = Command::new("apt-get");
        let dir = self.dir.display();
        for option in [
            format!("Dir::State={dir}"),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}/cache"),
            "APT::Sandbox::User=root".into(),
            "APT::Get::Always-Include-Phased-Updates=1".into(),
            "Debug::NoLocking=1".into(),
        ] {
            apt.arg("-o").arg(option);
        }
        apt.env("LC_ALL", "C").stdin(Stdio::null()).current_dir(self.dir.join("debs"));
        apt
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        // Away from the package files: `download --print-uris` leaves out what it finds beside itself.
        let output = self.command().current_dir(&self.dir).args(args).output();
        let output = output.or_fail("cannot run apt-get (is this Debian?)")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let line = stderr.lines().find(|l| l.starts_with("E:")).unwrap_or("no reason given");
        Err(Failure::new(format_args!("apt-get {}: {}", args.join(" "), line.trim_start_matches("E: "))))
    }

    fn update(&self) -> Result<()> {
        let stamp = self.dir.join("lists-updated");
        let age = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|m| SystemTime::now().duration_since(m).ok());
        if age.is_some_and(|age| age < LISTS_FRESH_FOR) {
            return Ok(());
        }
        let spinner = ProgressBar::new_spinner().with_message("reading Debian's package lists");
        spinner.enable_steady_tick(Duration::from_millis(100));
        let result = self.run(&["update", "-q", "-o", "APT::Update::Error-Mode=any"]);
        spinner.finish_and_clear();
        result?;
        fs::write(&stamp, "").or_fail(stamp.display())
    }

    /// Names and versions of the package, its dependencies and the base.
    fn resolve(&self, package: &str) -> Result<Vec<String>> {
        let mut args = vec!["--simulate", "--no-install-recommends", "install", package];
        args.extend(BASE);
        let plan = self.run(&args)?;
        let packages: Vec<String> = plan.lines().filter_map(parse_plan_line).collect();
        if packages.is_empty() {
            return Err(Failure::new(format_args!("apt-get has no plan for '{package}'")));
        }
        Ok(packages)
    }

    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let mut args = vec!["download", "--print-uris"];
        args.extend(packages.iter().map(String::as_str));
        let files = self.run(&args)?.lines().filter_map(parse_uri_line).collect::<Vec<_>>();
        let total = files.iter().map(|(_, size)| size).sum();
        let bar = ProgressBar::new(total).with_style(
            ProgressStyle::with_template("attacca: {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
                .expect("a valid template"),
        );
        let paths: Vec<PathBuf> = files.iter().map(|(name, _)| self.dir.join("debs").join(name)).collect();
        let done = || paths.iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum();
        let mut child = self
            .command()
            .arg("download")
            .arg("-q")
            .args(packages)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .or_fail("cannot run apt-get")?;
        let status = loop {
            if let Some(status) = child.try_wait().or_fail("apt-get")? {
                break status;
            }
            bar.set_position(done());
            std::thread::sleep(Duration::from_millis(100));
        };
        bar.finish_and_clear();
        for ((name, size), path) in files.iter().zip(&paths) {
            if !status.success() || fs::metadata(path).map(|m| m.len()).ok() != Some(*size) {
                return Err(Failure::new(format_args!(
                    "cannot fetch {name}: check the network and run again"
                )));
            }
        }
        Ok(paths)
    }
}

/// `Inst nginx (1.22.1-9 Debian:12 [amd64])` -> `nginx=1.22.1-9`.
fn parse_plan_line(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("Inst ")?.split_ascii_whitespace();
    let name = words.next()?;
    let version = words.find_map(|w| w.strip_prefix('('))?;
    Some(format!("{name}={version}"))
}

/// `'URI' FILE SIZE HASH` -> file and size.
fn parse_uri_line(line: &str) -> Option<(String, u64)> {
    let mut words = line.strip_prefix('\'')?.split_ascii_whitespace().skip(1);
    Some((words.next()?.into(), words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{parse_plan_line, parse_uri_line};

    #[test]
    fn reads_apts_words() {
        let line = "Inst nginx (1.22.1-9+deb12u10 Debian:12.15/oldstable [amd64]) []";
        assert_eq!(parse_plan_line(line).as_deref(), Some("nginx=1.22.1-9+deb12u10"));
        assert_eq!(parse_plan_line("Conf nginx (1.22.1-9 Debian:12 [amd64])"), None);
        let line = "'some://where/nginx_1.22.deb' nginx_1.22.deb 531468 SHA256:00";
        assert_eq!(parse_uri_line(line), Some(("nginx_1.22.deb".into(), 531_468)));
    }
}
