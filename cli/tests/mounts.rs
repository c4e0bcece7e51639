//! Where `..` leads in folders that are mounted: to the mount's place, not to the source's parent. The same script in a
//! guest with volumes and natively with bind mounts, in a mount namespace of its own.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

/// `src` is to be mounted at `root/a/b`, a tmpfs at `root/a/b/in/tmp`, and the file `src/file` at `root/one`.
fn tree(name: &str) -> PathBuf {
    let dir = scratch("mounts").join(name);
    let _ = fs::remove_dir_all(&dir);
    for folder in ["root/a/b", "root/a/c", "src/in/deep", "src/in/tmp"] {
        fs::create_dir_all(dir.join(folder)).expect("a folder of ours");
    }
    let write = |file: &str, text: &str| fs::write(dir.join(file), text).expect("a file of ours");
    write("mark", "the source's parent\n");
    write("root/a/mark", "the mount's parent\n");
    write("root/a/b/hidden", "below the mount\n");
    write("root/one", "below the file\n");
    write("src/file", "in the source\n");
    symlink("../mark", dir.join("src/up")).expect("a link of ours");
    symlink("../../../mark", dir.join("src/in/deep/far")).expect("a link of ours");
    symlink("b/in/deep/../../../mark", dir.join("root/a/around")).expect("a link of ours");
    dir
}

const SCRIPT: &str = r#"
    cd root/a/b && pwd | sed 's|.*/root|root|'; ls; ls ..
    cat ../mark up in/deep/far in/deep/../../../mark ../around ../b/../b/file
    cd in/deep && ls ../../.. && cd ../../.. && /bin/pwd | sed 's|.*/root|root|'
    [ b/.. -ef . ] && echo the same; [ b -ef c ] || echo another; [ b/in/tmp/.. -ef b/in ] && echo the same
    cd b/in/tmp && echo x > y && ls .. . && cat ../../../mark && cd .. && readlink /proc/self/cwd | sed 's|.*/root|root|'
    cd ../.. && exec 3< b && cat /proc/self/fd/3/../mark && cat /proc/self/fd/3/in/../up; exec 3<&-
    cat ../one ../one/../a/mark 2>&1 | sed 's|^cat: [^:]*: ||'
    ln b/file c/link 2>&1 | sed 's|.*: ||'; ln b/file b/in/tmp/link 2>&1 | sed 's|.*: ||'; ln b/file b/in/link && cat b/in/link
    rmdir b 2>&1 | sed 's|.*: ||'; rmdir b/in/tmp 2>&1 | sed 's|.*: ||'; rm ../one 2>&1 | sed 's|.*: ||'; mv b d 2>&1 | sed 's|.*: ||'
    rmdir b/.. b/. 2>&1 | sed 's|.*: ||'; mkdir b/.. 2>&1 | sed 's|.*: ||'; touch b/../made && ls
    (cd / && cd .. && /bin/pwd); ls -d /.. /../tmp/../..
"#;

#[test]
fn two_dots_lead_out_of_a_mount() {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: nothing can be mounted natively");
        return;
    }
    let native = natively(&tree("native"));
    for word in ["the mount's parent", "Invalid cross-device link", "Device or resource busy"] {
        assert!(native.contains(word), "no {word:?}: {native}");
    }
    assert!(!native.contains("the source's parent"), "{native}");
    assert_eq!(in_a_guest(&tree("guest")), native);
}

fn natively(dir: &Path) -> String {
    let mut command = Command::new("sh");
    let mounts =
        "mount --bind src root/a/b && mount -t tmpfs none root/a/b/in/tmp && mount --bind src/file root/one";
    command.current_dir(dir).args(["-c", &format!("{mounts} && {{ {SCRIPT} }}")]);
    let alone = || {
        let (none, flags) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: plain calls between fork and exec; nothing is mounted outside of the namespace.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, flags, std::ptr::null()) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes async-signal-safe calls alone.
    said(unsafe { command.pre_exec(alone) })
}

fn in_a_guest(dir: &Path) -> String {
    let at = |place: &str| dir.join(place).display().to_string();
    let volumes =
        [("src", "root/a/b"), ("src/file", "root/one")].map(|(from, to)| format!("{}:{}", at(from), at(to)));
    let mut command = attacca();
    command.args([
        "run",
        "--net",
        "none",
        "-v",
        &volumes[0],
        "-v",
        &volumes[1],
        "--tmpfs",
        &at("root/a/b/in/tmp"),
    ]);
    said(command.args(["-w", &dir.display().to_string(), "sh", "-c", SCRIPT]))
}

fn said(command: &mut Command) -> String {
    let output = run_limited(command, LIMIT);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + "errors:\n" + &text(&output.stderr)
}
