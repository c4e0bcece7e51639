//! What a user gets for bad input: exactly one line on stderr that names the thing and says what to do,
//! nothing on stdout, and the exit code of DESIGN's table: 125 Attacca's own failure, 126 a program that
//! cannot be run, 127 one that is not there.

mod support;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `attacca ARGS` and checks its one line.
#[track_caller]
fn refused(args: &[&str], code: i32, words: &[&str]) {
    check(run_limited(attacca().args(args), LIMIT), args, code, words);
}

#[track_caller]
fn check(output: Output, what: &[&str], code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{what:?}: {}\n{stderr}{stdout}", output.status);
    assert_eq!(stdout, "", "{what:?} writes to stdout");
    assert_eq!(stderr.lines().count(), 1, "{what:?}: one line, not\n{stderr}");
    assert!(stderr.starts_with("attacca: "), "{what:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{what:?}: '{word}' is not in\n{stderr}");
    }
}

#[test]
fn direct_queues_without_a_device_that_has_them() {
    let words = ["--direct-queues", "--uplink tap:NAME", "--nic"];
    refused(&["server", "start", "--net", "none-such", "--direct-queues", "2"], 125, &words);
}

/// What a guest without a network cannot be asked, and what one behind host sockets cannot do.
#[test]
fn a_capture_and_a_switch_where_there_is_none() {
    let lonely = Guest::start(&["--name", "lonely", "--net", "none", "--cpus", "1", "/bin/sleep", "1000"]);
    let own = Guest::start(&["--name", "private", "--cpus", "1", "/bin/sleep", "1000"]);
    let listed = |name: &str| text(attacca().arg("ps").output().unwrap()).contains(name);
    assert!(eventually(PATIENCE, || listed("lonely")), "{}", lonely.output());
    assert!(eventually(PATIENCE, || listed("private")), "{}", own.output());
    refused(&["switch", "lonely", "direct"], 125, &["'lonely'", "--net"]);
    refused(&["pcap", "lonely", "-o", "/dev/null"], 125, &["'lonely'", "--net"]);
    refused(&["switch", "private", "direct"], 125, &["private", "host sockets", "--uplink tap:"]);
    refused(&["run", "--net", "own", "/bin/true"], 125, &["--net own"]);
}

/// A file with these bytes, executable.
fn program(name: &str, bytes: &[u8]) -> PathBuf {
    let path = scratch("bad").join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[track_caller]
fn cannot_run(path: &Path, words: &[&str]) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut all = vec![name];
    all.extend(words);
    refused(&["run", "--net", "none", path.to_str().unwrap()], 126, &all);
}

/// A good program to spoil.
fn good() -> Vec<u8> {
    fs::read(compile("good", "int main(void) { return 0; }\n", &[])).unwrap()
}

#[test]
fn a_truncated_elf() {
    let good = good();
    for len in [4, 16, 63, 64, 200, 1000, good.len() / 2] {
        cannot_run(&program(&format!("truncated-{len}"), &good[..len]), &[]);
    }
}

#[test]
fn an_elf_of_another_machine() {
    let good = good();
    // ELFCLASS32, EM_386: what `file` calls "ELF 32-bit LSB executable, Intel 80386".
    let mut i386 = vec![0; 52];
    i386[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    i386[16..24].copy_from_slice(&[2, 0, 3, 0, 1, 0, 0, 0]);
    i386[40..46].copy_from_slice(&[52, 0, 32, 0, 0, 0]);
    cannot_run(&program("i386", &i386), &["x86-64"]);
    let mut aarch64 = good.clone();
    aarch64[18..20].copy_from_slice(&183u16.to_le_bytes());
    cannot_run(&program("aarch64", &aarch64), &["x86-64"]);
    let mut big_endian = good;
    big_endian[5] = 2;
    cannot_run(&program("big-endian", &big_endian), &[]);
}

#[test]
fn no_elf_at_all() {
    cannot_run(&program("text", b"just some words\n"), &["ELF"]);
    cannot_run(&program("empty", b""), &[]);
    cannot_run(&program("zeros", &[0; 4096]), &["ELF"]);
}

#[test]
fn mutilated_headers() {
    let good = good();
    let cases: [(&str, usize, &[u8]); 6] = [
        ("no-program-headers", 56, &[0, 0]),
        ("program-headers-far-away", 32, &[0xff; 8]),
        ("program-headers-too-many", 56, &[0xff, 0xff]),
        ("program-headers-odd-size", 54, &[1, 0]),
        ("type-core", 16, &[4, 0]),
        ("type-object", 16, &[1, 0]),
    ];
    for (name, at, bytes) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        cannot_run(&program(name, &bad), &[]);
    }
}

#[test]
fn a_missing_library() {
    let library =
        shared_library(&scratch("bad-lib"), "libabsent.so.1", "int absent(void) { return 0; }\n", &[]);
    let source = "int absent(void);\nint main(void) { return absent(); }\n";
    let user = compile("wants-library", source, &[library.to_str().unwrap()]);
    fs::remove_file(&library).unwrap();
    cannot_run(&user, &["libabsent.so.1"]);
}

#[test]
fn a_missing_symbol_of_a_library() {
    let library =
        shared_library(&scratch("bad-lib"), "libshrunk.so.1", "int gone(void) { return 0; }\n", &[]);
    let source = "int gone(void);\nint main(void) { return gone(); }\n";
    let path = format!("-Wl,-z,now,-rpath,{}", library.parent().unwrap().display());
    let user = compile("wants-symbol", source, &[library.to_str().unwrap(), &path]);
    shared_library(&scratch("bad-lib"), "libshrunk.so.1", "int other(void) { return 0; }\n", &[]);
    cannot_run(&user, &["gone"]);
}

/// A version of libc.so.6 that ours has not: a program of a later Debian.
#[test]
fn a_missing_version_of_libc() {
    let user = wants_from_libc("wants-version", "from_the_future", "GLIBC_2.99");
    cannot_run(&user, &["GLIBC_2.99", "libc.so.6"]);
}

/// A function that libc.so.6 has not: named with its version. With --lazy the program starts, and is
/// stopped by name only where it calls the function.
#[test]
fn a_missing_function_of_libc() {
    let user = wants_from_libc("wants-function", "in_no_libc", "GLIBC_2.34");
    cannot_run(&user, &["in_no_libc", "GLIBC_2.34", "libc.so.6"]);
    let lazy = |args: &[&str]| {
        run_limited(attacca().args(["run", "--net", "none", "--lazy"]).arg(&user).args(args), LIMIT)
    };
    let output = lazy(&[]);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let stopped = lazy(&["call"]);
    let stderr = String::from_utf8_lossy(&stopped.stderr);
    assert!(stderr.lines().any(|l| l.contains("in_no_libc")), "{stderr}");
    assert!(!stopped.status.success(), "a call of a missing function goes on");
}

/// A program linked against a libc.so.6 that exports `name` under `version`.
fn wants_from_libc(program: &str, name: &str, version: &str) -> PathBuf {
    let map = scratch("bad").join(format!("{program}.map"));
    let nodes = match version {
        "GLIBC_2.34" => format!("GLIBC_2.34 {{ global: __libc_start_main; {name}; }};\n"),
        _ => format!("GLIBC_2.34 {{ global: __libc_start_main; }};\n{version} {{ global: {name}; }};\n"),
    };
    fs::write(&map, nodes).unwrap();
    let script = format!("-Wl,--version-script={}", map.display());
    let source = format!("int __libc_start_main(void) {{ return 0; }}\nint {name}(void) {{ return 0; }}\n");
    let dir = scratch(&format!("bad-lib-{program}"));
    let libc = shared_library(&dir, "libc.so.6", &source, &[&script, "-nostdlib"]);
    let source =
        format!("int {name}(void);\nint main(int c, char **v) {{ (void)v; return c > 1 ? {name}() : 7; }}\n");
    let user = compile(program, &source, &["-nodefaultlibs", libc.to_str().unwrap()]);
    fs::remove_file(&libc).unwrap();
    user
}

fn shared_library(dir: &Path, name: &str, source: &str, args: &[&str]) -> PathBuf {
    let (file, library) = (dir.join(format!("{name}.c")), dir.join(name));
    fs::write(&file, source).unwrap();
    let soname = format!("-Wl,-soname,{name}");
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", &soname, "-o"])
        .arg(&library)
        .arg(&file)
        .args(args)
        .output()
        .expect("gcc runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

#[test]
fn a_program_that_is_not_there() {
    refused(&["run", "--net", "none", "/no/such/program"], 127, &["/no/such/program"]);
    refused(&["run", "no-such-program-anywhere"], 127, &["no-such-program-anywhere"]);
    let root = scratch("bad-root");
    refused(&["run", "--root", root.to_str().unwrap(), "--net", "none", "/bin/true"], 127, &["/bin/true"]);
}

#[test]
fn a_program_that_is_not_executable() {
    let path = program("plain", &good());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    cannot_run(&path, &["not executable", "chmod"]);
    cannot_run(&scratch("bad-folder"), &[]);
}

#[test]
fn volumes() {
    let run = |volume: &str, words: &[&str]| refused(&["run", "-v", volume, "/bin/true"], 125, words);
    run("/no/such/folder:/data", &["--volume", "/no/such/folder"]);
    run("/srv", &["/srv", "SRC:DST"]);
    run(":/data", &["source is empty"]);
    run("/srv:data", &["data", "start with /"]);
    // What its user may not read. (Root may read all.)
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        let secret = scratch("bad").join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
        run(&format!("{}:/data", secret.display()), &["--volume", "secret", "ermission"]);
    }
}

#[test]
fn ports_in_use() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:80");
    refused(&["run", "-p", &publish, "/bin/true"], 125, &[&port.to_string(), "in use"]);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:53/udp");
    refused(&["run", "-p", &publish, "/bin/true"], 125, &[&port.to_string(), "udp", "in use"]);
    let many: Vec<String> = (1..=100).map(|port| format!("127.0.0.1:0:{port}")).collect();
    let mut args = vec!["run"];
    args.extend(many.iter().flat_map(|p| ["-p", p]));
    args.push("/bin/true");
    refused(&args, 125, &["ports at most"]);
    // Nothing is left of the attempts.
    assert!(eventually(PATIENCE, || network_processes(None).is_empty()));
}

#[test]
fn malformed_ports() {
    for publish in ["80", "a:80", "80:b", "80:0", "70000:80", "80:80/sctp", "1.2.3:80:80", ":80", "80:"] {
        refused(&["run", "-p", publish, "/bin/true"], 125, &["--publish", publish]);
    }
    refused(&["run", "--net", "none", "-p", "8080:80", "/bin/true"], 125, &["-p", "--net none"]);
}

#[test]
fn other_arguments() {
    refused(&["run", "--net", "nowhere", "/bin/true"], 125, &["nowhere"]);
    refused(&["run", "--name", "a/b", "/bin/true"], 125, &["--name", "a/b"]);
    refused(&["run", "--user", "nobody-of-that-name", "/bin/true"], 125, &["--user", "nobody-of-that-name"]);
    refused(&["run", "--root", "/no/such/root", "/bin/true"], 125, &["--root", "/no/such/root"]);
    refused(&["run", "--memory", "much", "/bin/true"], 125, &["--memory", "much"]);
    refused(&["run", "--cpus", "0", "/bin/true"], 125, &["--cpus", "0"]);
    refused(&["run", "--tmpfs", "here", "/bin/true"], 125, &["--tmpfs", "here"]);
    refused(&["run", "--no-such-option", "/bin/true"], 125, &["--no-such-option"]);
    refused(&["run", "debian:NO_PACKAGE"], 125, &["NO_PACKAGE"]);
    refused(&["run", "--root", "/", "debian:nginx"], 125, &["--root", "debian:"]);
    refused(&["run"], 125, &["PROGRAM"]);
    refused(&["no-such-command"], 125, &["no-such-command"]);
    refused(&["kill", "no-such-guest"], 125, &["no-such-guest", "attacca ps"]);
    refused(&["kill", "-s", "NOISE", "x"], 125, &["NOISE"]);
}

#[test]
fn check_names_what_it_cannot_read() {
    refused(&["check", "/no/such/program"], 127, &["/no/such/program"]);
    let text = program("checked-text", b"just some words\n");
    refused(&["check", text.to_str().unwrap()], 126, &["checked-text", "ELF"]);
}

/// A program that takes more than the arena holds is told so, or ends by Attacca's word that names the
/// option; it never crashes or hangs.
#[test]
fn no_space_in_the_arena() {
    let source = r#"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
int main(void) {
    struct rlimit many = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_NOFILE, &many);
    static char block[65536];
    for (long i = 0; i < 1 << 18; i++) {
        int fds[2];
        if (pipe2(fds, 0x800) != 0) { printf("pipe %s\n", strerrorname_np(errno)); return 9; }
        if (write(fds[1], block, sizeof block) < 0) { printf("write %s\n", strerrorname_np(errno)); return 9; }
    }
    return 0;
}
"#;
    let greedy = compile("greedy", source, &["-D_GNU_SOURCE"]);
    let args = ["run", "--net", "none", "--memory", "16M"];
    let output = run_limited(attacca().args(args).arg(&greedy), LIMIT);
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(9) {
        let told = ["ENOMEM", "ENOBUFS", "ENFILE", "EMFILE"].iter().any(|e| stdout.contains(e));
        assert!(told, "{stdout}");
    } else {
        check(output, &args, 125, &["--memory", "16 MiB"]);
    }
    // Hardly anything: it starts, or says what it needs.
    let output = run_limited(attacca().args(["run", "--net", "none", "--memory", "4K", "/bin/true"]), LIMIT);
    if !output.status.success() {
        check(output, &["--memory 4K"], 125, &["--memory"]);
    }
}
