//! `--trace`: lines as strace(1) writes them. The expected ones are strace's own for the same program, but for what
//! strace leaves out on purpose (`...` in structures) and for addresses.

mod support;

use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    int one = 1, fds[2];
    char text[32];
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(4711), .sin_addr.s_addr = htonl(0x7f000001)};
    struct sockaddr_in peer;
    socklen_t len = sizeof peer;
    struct linger linger = {1, 7};
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(server, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    bind(server, (void *)&at, sizeof at);
    listen(server, 5);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    connect(client, (void *)&at, sizeof at);
    int accepted = accept4(server, (void *)&peer, &len, SOCK_NONBLOCK);
    len = sizeof peer;
    getpeername(client, (void *)&peer, &len);
    struct iovec parts[2] = {{"he", 2}, {"llo\n", 4}};
    writev(client, parts, 2);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = 0x1234};
    epoll_ctl(epoll, EPOLL_CTL_ADD, accepted, &event);
    epoll_wait(epoll, &event, 4, -1);
    recvfrom(accepted, text, sizeof text, 0, NULL, NULL);
    recvfrom(accepted, text, sizeof text, 0, NULL, NULL);
    struct sockaddr_un path = {.sun_family = AF_UNIX, .sun_path = "/no/such/socket"};
    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&path, sizeof path);
    pipe2(fds, O_CLOEXEC);
    struct pollfd asked[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLOUT, 0}};
    poll(asked, 2, 1000);
    struct timespec nap = {0, 1000};
    nanosleep(&nap, NULL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGHUP, SIG_IGN);
    struct stat state;
    fstatat(AT_FDCWD, "/", &state, 0);
    pid_t child = fork();
    if (child == 0) _exit(3);
    int status;
    waitpid(child, &status, 0);
    char *words[] = {"none", "a\tb", NULL}, *none[] = {NULL};
    execve("/no/such/program", words, none);
    char big[400];
    memset(big, 'x', sizeof big);
    struct iovec many[20];
    for (int i = 0; i < 20; i++) many[i] = (struct iovec){big, sizeof big};
    int null = open("/dev/null", O_WRONLY);
    writev(null, many, 20);
    return 0;
}
"#;

/// Without thread ids.
fn lines(stderr: &str) -> Vec<String> {
    stderr
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("] "))
        .map(|(_, l)| l.to_owned())
        .collect()
}

#[test]
fn lines_are_as_strace_writes_them() {
    let program = compile("traced", PROGRAM, &[]);
    let output = run_limited(attacca().args(["run", "--net", "none", "--trace"]).arg(&program), LIMIT);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    let lines = lines(&stderr);
    let loopback = "{sa_family=AF_INET, sin_port=htons(4711), sin_addr=inet_addr(\"127.0.0.1\")}";
    let expected = [
        "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0) = 3",
        "setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0",
        "setsockopt(3, SOL_SOCKET, SO_LINGER, {1, 7}, 8) = 0",
        "setsockopt(3, SOL_TCP, TCP_NODELAY, [1], 4) = 0",
        &format!("bind(3, {loopback}, 16) = 0"),
        "listen(3, 5) = 0",
        &format!("connect(4, {loopback}, 16) = 0"),
        "accept4(3, {sa_family=AF_INET, sin_port=htons(*), sin_addr=inet_addr(\"127.0.0.1\")}, [16], SOCK_NONBLOCK) = 5",
        &format!("getpeername(4, {loopback}, [16]) = 0"),
        "writev(4, [{iov_base=\"he\", iov_len=2}, {iov_base=\"llo\\n\", iov_len=4}], 2) = 6",
        "epoll_create1(O_CLOEXEC) = 6",
        "epoll_ctl(6, EPOLL_CTL_ADD, 5, {events=EPOLLIN|EPOLLET, data=0x1234}) = 0",
        "epoll_wait(6, [{events=EPOLLIN, data=0x1234}], 4, -1) = 1",
        "recvfrom(5, \"hello\\n\", 32, 0, NULL, NULL) = 6",
        "recvfrom(5, 0x*, 32, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)",
        "connect(7, {sa_family=AF_UNIX, sun_path=\"/no/such/socket\"}, 110) = -1 ENOENT (No such file or directory)",
        "pipe2([8, 9], O_CLOEXEC) = 0",
        "poll([{fd=8, events=POLLIN}, {fd=9, events=POLLOUT}], 2, 1000) = 1 ([{fd=9, revents=POLLOUT}])",
        "clock_nanosleep(CLOCK_REALTIME, 0, {tv_sec=0, tv_nsec=1000}, NULL) = 0",
        "rt_sigprocmask(SIG_BLOCK, [USR1 CHLD], NULL, 8) = 0",
        "newfstatat(AT_FDCWD, \"/\", {st_mode=S_IFDIR|0*, st_size=*, ...}, 0) = 0",
        "wait4(*, [{WIFEXITED(s) && WEXITSTATUS(s) == 3}], 0, NULL) = *",
        "execve(\"/no/such/program\", [\"none\", \"a\\tb\"], 0x* /* 0 vars */) = -1 ENOENT (No such file or directory)",
    ];
    for pattern in expected {
        assert!(lines.iter().any(|line| matches(pattern, line)), "no line is\n{pattern}\nin\n{stderr}");
    }
    assert!(lines.iter().any(|l| l.starts_with("clone(") && l.contains("|SIGCHLD, ")), "{stderr}");
    let action = lines.iter().find(|l| l.starts_with("rt_sigaction(SIGHUP, {sa_handler=SIG_IGN, sa_mask="));
    assert!(action.is_some_and(|line| line.contains("SA_RESTART")), "{stderr}");
    // A line that is too long loses arguments, never its result.
    let long = lines.iter().find(|line| line.ends_with(" = 8000")).unwrap_or_else(|| panic!("{stderr}"));
    assert!(long.starts_with("writev(") && long.len() < 1100 && long.contains("..."), "{long}");
}

/// Whether the pieces between `*` are in the line, in this order, from its beginning to its end.
fn matches(pattern: &str, line: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = line.strip_prefix(pieces.next().unwrap_or("")) else { return false };
    let mut last = pattern.len();
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        last = piece.len();
    }
    rest.is_empty() || last == 0
}
