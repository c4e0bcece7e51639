//! Families of processes that programs make: `xargs -P`, `make -j`, git and its helpers, CGI, and logins by `sshd`
//! and `dropbear`. Debian's packages; what they do natively is what they have to do in a guest.
//!
//! A package's root has what it depends on, which leaves out what Debian takes for granted (coreutils): scripts
//! find busybox's tools in /usr/local/bin.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(90);
/// The host's loopback as guests see it.
const HOST: &str = "10.0.2.2";

fn run(args: &[&str]) -> Output {
    run_limited(attacca().arg("run").args(args), LIMIT)
}

/// An empty folder for one test.
fn fresh(name: &str) -> PathBuf {
    let dir = scratch(&format!("services-{name}"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder with busybox under the names of its applets.
fn tools(dir: &Path) -> String {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(debian_root("busybox").join("bin/busybox"), bin.join("busybox")).unwrap();
    for name in ["awk", "cat", "sleep", "tty", "stty", "seq", "cp", "mkdir", "chmod", "id"] {
        symlink("busybox", bin.join(name)).unwrap();
    }
    format!("{}:/usr/local/bin:ro", bin.display())
}

#[test]
fn xargs_runs_many_at_once() {
    let command = "seq 1 200 | xargs -P 8 -n 1 sh -c 'echo $(($0*$0))' | sort -n; seq 3 | xargs -P 2 -I% sh -c 'exit %'; echo $?; \
                   seq 2 | xargs -n 1 sh -c 'kill -9 $$' 2>&1; echo $?";
    let native = text(run_limited(Command::new("sh").args(["-c", command]), LIMIT));
    assert_eq!(text(run(&["--net", "none", "sh", "-c", command])), native);
}

#[test]
fn make_builds_a_tree() {
    let makefile = "SHELL = /bin/sh\nall: $(patsubst %,o.%,1 2 3 4 5 6 7 8 9 10 11 12)\n\tcat $^ | sort -n > all\n\t+$(MAKE) sub\n\
                    o.%: ; @sleep 0.05; echo $$(($**7)) > $@\nsub: s1 s2 s3\n\t@echo sub done\ns%: ; @echo x > $@\n\
                    bad: b1 b2\nb1: ; @exit 3\nb2: ; @kill -TERM $$$$\n";
    let make = debian_root("make").join("usr/bin/make").display().to_string();
    let outcome = |name: &str, guest: bool| {
        let dir = fresh(name);
        fs::write(dir.join("Makefile"), makefile).unwrap();
        let dir = dir.display().to_string();
        let mut words = vec![make.as_str(), "--no-print-directory", "-C", &dir];
        if guest {
            words.splice(0..0, [env!("CARGO_BIN_EXE_attacca"), "run", "--net", "none"]);
        }
        let made = |target: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(target).env("XDG_RUNTIME_DIR", runtime_dir());
            let output = run_limited(&mut command, LIMIT);
            let seen = [output.stdout, output.stderr]
                .map(|bytes| String::from_utf8(bytes).unwrap().replace(&dir, "DIR"));
            (seen, shell_status(output.status))
        };
        let outcomes = [made(&["-j4"]), made(&["-j4"]), made(&["-k", "bad"])];
        (outcomes, fs::read_to_string(Path::new(&dir).join("all")).unwrap())
    };
    let native = outcome("make-native", false);
    assert_eq!(native.0.each_ref().map(|made| made.1), [0, 0, 2], "{native:?}");
    assert_eq!(outcome("make-guest", true), native);
}

/// Commits have the same names wherever they are made: a repository is its content.
#[test]
fn git_clones_a_path() {
    const SCRIPT: &str = "set -e\nexport HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE=2024-01-02T03:04:05Z GIT_COMMITTER_DATE=2024-01-02T03:04:05Z\n\
        git config --global user.name A; git config --global user.email a@b; git config --global init.defaultBranch main\n\
        git init -q one; cd one; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done > big\n\
        mkdir d; while [ $i -gt 1940 ]; do i=$((i-1)); echo file $i > d/f$i; done\n\
        git add .; git commit -qm first; echo more >> big; git commit -qam second; git log --oneline; git diff HEAD~1 --stat\n\
        cd ..; git clone -q file://$PWD/one two; cd two; git log --oneline; git fsck --full --strict; git hash-object big ../one/big\n\
        git gc -q; git fsck; git checkout -qb br HEAD~1; echo z > z; git add z; git commit -qm third; git merge -q main -m m\n\
        git push -q origin br; git log --graph --oneline; git archive HEAD | git hash-object --stdin; git repack -adq\n\
        git count-objects -v | while read -r what count; do case $what in in-pack:|packs:) echo $what $count;; esac; done\n\
        cd ../one; git branch -a; git fsck; git rebase -q main br; git log --oneline; git status --short\n";
    let dir = fresh("git");
    let tools = tools(&dir);
    fs::write(dir.join("script"), SCRIPT).unwrap();
    let volume = format!("{0}:{0}", dir.display());
    let mut outcomes = [fresh("git/a"), fresh("git/b")].map(|place| {
        let place = place.display().to_string();
        let script = dir.join("script").display().to_string();
        text(run(&[
            "--net",
            "none",
            "-v",
            &volume,
            "-v",
            &tools,
            "-w",
            &place,
            "debian:git:/bin/sh",
            &script,
        ]))
    });
    // The names of the first two commits, as any git gives them.
    assert!(outcomes[0].lines().count() > 20, "{}", outcomes[0]);
    assert_eq!(outcomes[0], outcomes[1]);
    // The natively made repository has the same commits.
    let place = fresh("git/native").display().to_string();
    let git = debian_root("git");
    let lib = git.join("usr/lib/x86_64-linux-gnu");
    let wrapped = dir.join("native-bin");
    fs::create_dir_all(&wrapped).unwrap();
    executable(
        &wrapped.join("git"),
        &format!(
            "#!/bin/sh\nexec {}/ld-linux-x86-64.so.2 --library-path {0} {1}/usr/bin/git --exec-path={1}/usr/lib/git-core \"$@\"\n",
            lib.display(),
            git.display()
        ),
    );
    let path = format!("{}:{}", wrapped.display(), std::env::var("PATH").unwrap());
    let mut native = Command::new("sh");
    native.arg(dir.join("script")).current_dir(&place).env("PATH", path).env("LD_LIBRARY_PATH", &lib);
    native.env("GIT_TEMPLATE_DIR", git.join("usr/share/git-core/templates"));
    assert_eq!(std::mem::take(&mut outcomes[0]), text(run_limited(&mut native, LIMIT)));
}

const CGI: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\necho \"$REQUEST_METHOD $QUERY_STRING\"\n\
                   if [ \"${CONTENT_LENGTH:-0}\" != 0 ]; then read -r line; echo \"body $line\"; fi\n";

/// A process for each request: by lighttpd, and by busybox, which forks for each connection before.
#[test]
fn cgi() {
    let dir = fresh("cgi");
    fs::create_dir_all(dir.join("cgi-bin")).unwrap();
    executable(&dir.join("cgi-bin/x.cgi"), CGI);
    fs::write(
        dir.join("lighttpd.conf"),
        "server.modules = (\"mod_cgi\")\nserver.document-root = \"/www\"\nserver.port = 80\ncgi.assign = (\".cgi\" => \"/bin/sh\")\n",
    )
    .unwrap();
    let volume = format!("{}:/www:ro", dir.display());
    let servers: [&[&str]; 2] = [
        &["debian:lighttpd", "-D", "-f", "/www/lighttpd.conf"],
        &["debian:busybox", "httpd", "-f", "-p", "80", "-h", "/www"],
    ];
    for server in servers {
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:80");
        let mut guest = Guest::start(&[&["-p", &publish, "-v", &volume], server].concat());
        assert!(eventually(PATIENCE, || listens(port)), "{}", guest.output());
        let up = || !http(port, "GET /cgi-bin/x.cgi HTTP/1.0\r\nHost: x\r\n\r\n").is_empty();
        assert!(eventually(PATIENCE, up), "{}", guest.output());
        let clients: Vec<_> = (0..4)
            .map(|client| {
                std::thread::spawn(move || {
                    for i in 0..25 {
                        let answer = http(
                            port,
                            &format!("GET /cgi-bin/x.cgi?{client}={i} HTTP/1.0\r\nHost: x\r\n\r\n"),
                        );
                        let (head, body) = split_http(&answer);
                        assert!(head.contains(" 200 "), "{head}");
                        assert_eq!(String::from_utf8_lossy(body), format!("GET {client}={i}\n"));
                    }
                })
            })
            .collect();
        for client in clients {
            assert!(client.join().is_ok(), "{server:?}: {}", guest.output());
        }
        let post = "POST /cgi-bin/x.cgi HTTP/1.0\r\nHost: x\r\nContent-Length: 6\r\n\r\nhello\n";
        let answer = http(port, post);
        assert_eq!(
            String::from_utf8_lossy(split_http(&answer).1),
            "POST \nbody hello\n",
            "{}",
            guest.output()
        );
        // As `attacca kill` would end it natively, too: no child stays behind.
        guest.signal(libc::SIGTERM);
        guest.wait();
    }
}

/// What nginx needs for CGI: fcgiwrap, which runs a process for each request behind a socket.
fn fcgiwrap(dir: &Path) {
    let root = debian_root("fcgiwrap");
    let to = dir.join("fcgi");
    fs::create_dir_all(&to).unwrap();
    fs::copy(root.join("usr/sbin/fcgiwrap"), to.join("fcgiwrap")).unwrap();
    // Its libraries, and theirs: those that nginx's root does not have.
    for entry in fs::read_dir(root.join("usr/lib/x86_64-linux-gnu")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let wanted = [
            "libfcgi.",
            "libsystemd.",
            "libcap.",
            "libgcrypt.",
            "liblzma.",
            "libzstd.",
            "liblz4.",
            "libgpg-error.",
        ];
        if wanted.iter().any(|start| name.starts_with(start)) {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// nginx in front of fcgiwrap with four workers, in one guest: each request forks and executes a script.
#[test]
fn cgi_behind_nginx() {
    let dir = fresh("fcgi");
    fcgiwrap(&dir);
    fs::create_dir_all(dir.join("cgi-bin")).unwrap();
    executable(&dir.join("cgi-bin/x.cgi"), CGI);
    executable(
        &dir.join("cgi-bin/fails.cgi"),
        "#!/bin/sh\nprintf 'Status: 418 Teapot\\r\\n\\r\\n'; kill -9 $$\n",
    );
    fs::write(
        dir.join("nginx.conf"),
        "worker_processes 2;\ndaemon off;\nevents {}\nhttp {\n access_log off;\n server {\n  listen 80;\n  root /www;\n  \
         location /cgi-bin/ {\n   include /etc/nginx/fastcgi_params;\n   \
         fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;\n   \
         fastcgi_pass unix:/run/fcgi.sock;\n  }\n }\n}\n",
    )
    .unwrap();
    let volume = format!("{}:/www:ro", dir.display());
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let start = "(umask 0; LD_LIBRARY_PATH=/www/fcgi exec /www/fcgi/fcgiwrap -c 4 -s unix:/run/fcgi.sock) & exec nginx -c /www/nginx.conf";
    let mut guest = Guest::start(&["-p", &publish, "-v", &volume, "debian:nginx:/bin/sh", "-c", start]);
    let get = |path: &str| http(port, &format!("GET /cgi-bin/{path} HTTP/1.0\r\nHost: x\r\n\r\n"));
    // fcgiwrap may come later than nginx, which says 502 until then.
    let up = || listens(port) && split_http(&get("x.cgi")).0.contains(" 200 ");
    assert!(eventually(PATIENCE, up), "{}", guest.output());
    std::thread::scope(|scope| {
        for client in 0..4 {
            scope.spawn(move || {
                for i in 0..25 {
                    let answer = get(&format!("x.cgi?{client}={i}"));
                    let (head, body) = split_http(&answer);
                    assert!(head.contains(" 200 "), "{head}");
                    assert_eq!(String::from_utf8_lossy(body), format!("GET {client}={i}\n"));
                }
            });
        }
    });
    let post = "POST /cgi-bin/x.cgi HTTP/1.0\r\nHost: x\r\nContent-Length: 6\r\n\r\nhello\n";
    assert_eq!(String::from_utf8_lossy(split_http(&http(port, post)).1), "POST \nbody hello\n");
    // Headers, then a script that is killed; one that is not there; and it goes on.
    assert!(split_http(&get("fails.cgi")).0.contains(" 418 "), "{}", guest.output());
    assert!(split_http(&get("none.cgi")).0.contains(" 403 "), "{}", guest.output());
    assert!(split_http(&get("x.cgi")).0.contains(" 200 "), "{}", guest.output());
    guest.signal(libc::SIGTERM);
    guest.wait();
}

/// Keys and accounts for a server of logins: /w in the guest.
struct Logins {
    dir: PathBuf,
    tools: String,
}

impl Logins {
    fn new(name: &str) -> Logins {
        let dir = fresh(name);
        let tools = tools(&dir);
        let key = |file: &str| {
            let mut keygen = native("openssh-client", "ssh-keygen");
            text(run_limited(
                keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(file)),
                LIMIT,
            ));
        };
        key("host");
        key("id");
        fs::create_dir_all(dir.join("home/.ssh")).unwrap();
        fs::copy(dir.join("id.pub"), dir.join("home/.ssh/authorized_keys")).unwrap();
        for path in ["home", "home/.ssh"] {
            fs::set_permissions(dir.join(path), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let passwd = "root:x:0:0:root:/w/home:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n";
        fs::write(dir.join("passwd"), passwd).unwrap();
        fs::write(
            dir.join("sshd_config"),
            "Port 22\nHostKey /w/host\nAuthorizedKeysFile /w/home/.ssh/authorized_keys\nStrictModes no\nPermitRootLogin yes\n\
             UsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n",
        )
        .unwrap();
        let root = debian_root("openssh-client");
        let lib = root.join("usr/lib/x86_64-linux-gnu");
        executable(
            &dir.join("ssh"),
            &format!(
                "#!/bin/sh\nexec {0}/ld-linux-x86-64.so.2 --library-path {0} {1}/usr/bin/ssh \"$@\"\n",
                lib.display(),
                root.display()
            ),
        );
        fs::write(dir.join("sent"), pattern(3_000_000)).unwrap();
        Logins { dir, tools }
    }

    fn serve(&self, port: u16, program: &[&str]) -> Guest {
        let publish = format!("127.0.0.1:{port}:22");
        let (work, passwd) = (
            format!("{}:/w", self.dir.display()),
            format!("{}:/etc/passwd:ro", self.dir.join("passwd").display()),
        );
        let options = ["-p", &publish, "-v", &work, "-v", &passwd, "-v", &self.tools];
        let mut guest = Guest::start(&[&options, program].concat());
        guest.wait_for_port(port);
        guest
    }

    fn options(&self, dir: &str) -> Vec<String> {
        let given =
            ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"];
        let mut options = vec!["-i".to_string(), format!("{dir}/id")];
        options.extend(given.iter().flat_map(|option| ["-o".to_string(), (*option).to_string()]));
        options
    }

    /// A native `ssh` to the port.
    fn ssh(&self, port: u16, more: &[&str]) -> Output {
        let mut ssh = native("openssh-client", "ssh");
        ssh.args(self.options(&self.dir.display().to_string())).args(["-p", &port.to_string()]).args(more);
        run_limited(&mut ssh, LIMIT)
    }

    /// Commands with their status, a terminal, and a megabyte through a pipe.
    fn log_in(&self, port: u16, guest: &Guest) {
        let output = self.ssh(port, &["root@127.0.0.1", "echo $USER on $0; echo err >&2; exit 5"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let seen = (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code());
        assert_eq!(seen, ("root on sh\n".into(), Some(5)), "{errors}\n{}", guest.output());
        assert_eq!(errors, "err\n", "{}", guest.output());
        let output = self.ssh(port, &["-tt", "root@127.0.0.1", "tty; test -t 0 && test -t 1 && exit 6"]);
        assert_eq!(output.status.code(), Some(6), "{}", guest.output());
        assert!(String::from_utf8_lossy(&output.stdout).contains("/dev/pts/"), "{}", guest.output());
        let output = self.ssh(port, &["root@127.0.0.1", "cat /w/sent"]);
        assert!(output.stdout == pattern(3_000_000), "{} bytes\n{}", output.stdout.len(), guest.output());
    }
}

#[test]
fn sshd_logins_and_scp() {
    let logins = Logins::new("sshd");
    let port = free_port();
    let guest = logins.serve(
        port,
        &[
            "debian:openssh-server:/bin/sh",
            "-c",
            "mkdir -p /run/sshd; chmod 755 /run/sshd; exec /usr/sbin/sshd -D -e -f /w/sshd_config",
        ],
    );
    logins.log_in(port, &guest);
    // By sftp, and by the older protocol.
    for (name, protocol) in [("by-sftp", &[][..]), ("by-scp", &["-O"])] {
        let mut scp = native("openssh-client", "scp");
        scp.arg("-S").arg(logins.dir.join("ssh")).args(protocol);
        scp.args(logins.options(&logins.dir.display().to_string())).args(["-P", &port.to_string()]);
        scp.arg(logins.dir.join("sent")).arg(format!("root@127.0.0.1:/w/{name}"));
        text(run_limited(&mut scp, LIMIT));
        assert!(fs::read(logins.dir.join(name)).unwrap() == pattern(3_000_000), "{name}: {}", guest.output());
    }
    // A guest as the client of a guest.
    let work = format!("{}:/w", logins.dir.display());
    let options = logins.options("/w").join(" ");
    let script = format!(
        "ssh {options} -p {port} root@{HOST} 'echo from guest to guest; exit 4'; echo $?; scp {options} -P {port} root@{HOST}:/w/sent /w/back"
    );
    let words =
        text(run(&["-v", &work, "-v", &logins.tools, "debian:openssh-client:/bin/sh", "-c", &script]));
    assert_eq!(words, "from guest to guest\n4\n", "{}", guest.output());
    assert!(fs::read(logins.dir.join("back")).unwrap() == pattern(3_000_000), "{}", guest.output());
    // OpenSSH asks for the interface that a connection is bound to, which is none.
    assert!(!guest.output().contains("VRF"), "{}", guest.output());
}

#[test]
fn dropbear_logins() {
    let logins = Logins::new("dropbear");
    let mut key = native("dropbear-bin", "dropbearkey");
    text(run_limited(key.args(["-t", "ed25519", "-f"]).arg(logins.dir.join("hostkey")), LIMIT));
    let port = free_port();
    let guest =
        logins.serve(port, &["debian:dropbear-bin:dropbear", "-F", "-E", "-r", "/w/hostkey", "-p", "22"]);
    logins.log_in(port, &guest);
}
