//! getent(1), the C library's own window on its databases: every one of them, natively and in a guest, over an `/etc`
//! with netgroups, aliases and ethers, which Debian comes without.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

/// What is asked, a getent each. Of hosts there are numbers only: a guest has a file of its own for them.
const QUESTIONS: &[&str] = &[
    "aliases",
    "aliases ROOT list hash none",
    "netgroup all",
    "netgroup three",
    "netgroup nonesuch",
    "netgroup one h2 u9 d2",
    "netgroup one h1 u1 d2",
    "ethers ann",
    "ethers 0:1:2:3:4:5 zoe",
    "rpc",
    "rpc nfs portmap 100005 99",
    "gshadow",
    "gshadow wheel nope",
    "shadow",
    "shadow root nope",
    "networks",
    "networks loopback 169.254",
    "passwd",
    "passwd root 1 nope",
    "group",
    "group 0 daemon",
    "initgroups root daemon",
    "protocols",
    "protocols tcp 17",
    "services",
    "services http 53/udp ssh/tcp",
    "ahosts 127.0.0.1",
    "-s files passwd root",
    "-s nonesuch passwd root",
    "-s hosts:files ahosts 127.0.0.1",
    "-s foo:files passwd root",
    "-s netgroup:nis netgroup one",
    "-s rpc:db rpc nfs",
    "nodb",
    "ethers",
];

/// The host's /etc and more, in a folder.
fn etc() -> std::path::PathBuf {
    let dir = scratch("getent").join("etc");
    let _ = fs::remove_dir_all(&dir);
    let copied = Command::new("cp").args(["-a", "/etc"]).arg(&dir).status().expect("cp runs");
    assert!(copied.success());
    let add = |name: &str, text: &str| fs::write(dir.join(name), text).expect("a file of ours");
    add(
        "netgroup",
        "# sets\nall one two (last,,)\none (h1,u1,d1)( h2 , , d2 )\\\n  three\ntwo (,u3,) one all none\nthree (h4,u4)\n",
    );
    add(
        "aliases",
        "# comment: no\nroot: ann, bob\n\tcarl\n\npostmaster:root\n  more\nlist: x,:include:/etc/members,y\nbad\n \
         nor: this\n:no\nhash: a, b # c, d\n",
    );
    add("members", "one, two\n three\n\n# com\nfour # five\n");
    add("ethers", "00:11:22:33:44:55 ann # x\n# no\n0:1:2:3:4:5 bob\n");
    let text = fs::read_to_string("/etc/nsswitch.conf").expect("there is one");
    let lines = text.lines().map(|line| if line.starts_with("netgroup") { "netgroup: files" } else { line });
    add("nsswitch.conf", &(lines.collect::<Vec<&str>>().join("\n") + "\n"));
    let mut groups = fs::read_to_string("/etc/gshadow").expect("tests run as root");
    groups += "wheel:!:ann, bob:carl\n";
    add("gshadow", &groups);
    dir
}

fn script() -> String {
    let asked =
        QUESTIONS.iter().map(|words| format!("echo '== {words}'; getent {words} 2>&1; echo \"rc $?\"\n"));
    asked.collect()
}

/// In a mount namespace of its own, with that folder as /etc.
fn natively(etc: &Path) -> String {
    let mut command = Command::new("sh");
    let mount = format!("mount --bind {} /etc && {}", etc.display(), script());
    command.args(["-c", &mount]);
    let alone = || {
        // SAFETY: plain calls between fork and exec; nothing is mounted outside of the namespace.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    std::ptr::null(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes async-signal-safe calls alone.
    let output = run_limited(unsafe { command.pre_exec(alone) }, LIMIT);
    text(output)
}

#[test]
fn every_database_answers_as_natively() {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: shadowed databases cannot be read");
        return;
    }
    let etc = etc();
    let native = natively(&etc);
    // It went through what it is about.
    for line in [
        "all                   (last,,) ( ,u3,) (h1,u1,d1) (h2,,d2)",
        "list:           x, one, two, three, four , y",
    ] {
        assert!(native.lines().any(|found| found == line), "{native}");
    }
    let volume = format!("{}:/etc:ro", etc.display());
    let guest =
        run_limited(attacca().args(["run", "--net", "none", "-v", &volume, "sh", "-c", &script()]), LIMIT);
    let guest = text(guest);
    let differ = native.lines().zip(guest.lines()).find(|(native, guest)| native != guest);
    assert_eq!(differ, None, "natively and in a guest");
    assert_eq!(guest.len(), native.len());
}
