//! Families of processes as the host sees them: children killed from outside, a guest that outlives its
//! first process, what `attacca ps` and `attacca kill` say and do then.

mod support;

use std::time::Duration;
use support::*;

/// Workers that allocate, lock, talk over pipes, fork and execute without pause, and a parent that replaces
/// each one that dies: it ends by itself after 15 deaths.
const BUSY: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
static void work(int end)
{
    char text[256];
    for (unsigned i = 0;; i++) {
        free(malloc(i % 9000 + 1));
        if (write(end, "x", 1) != 1)
            _exit(1);
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
            _exit(2);
        memset(text, (int)i, sizeof text);
        if (write(pair[0], text, sizeof text) != sizeof text || read(pair[1], text, sizeof text) != sizeof text)
            _exit(3);
        close(pair[0]);
        close(pair[1]);
        if (i % 50 == 0) {
            pid_t child = fork();
            if (child == 0)
                _exit(7);
            int status;
            // The host may have hit this one.
            if (waitpid(child, &status, 0) != child || (status != 7 << 8 && status != SIGKILL))
                _exit(4);
        }
    }
}
int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    int ends[2];
    if (pipe(ends) != 0)
        return 1;
    pid_t pids[3];
    for (int i = 0; i < 3; i++)
        if ((pids[i] = fork()) == 0) {
            close(ends[0]);
            work(ends[1]);
        }
    puts("ready");
    for (int deaths = 0; deaths < 15;) {
        char text[4096];
        if (read(ends[0], text, sizeof text) <= 0)
            return 2;
        int status;
        pid_t dead = waitpid(-1, &status, WNOHANG);
        if (dead <= 0)
            continue;
        if (status != SIGKILL) {
            printf("a worker ended with %x\n", status);
            return 3;
        }
        printf("dead %d\n", ++deaths);
        for (int i = 0; i < 3; i++)
            if (pids[i] == dead && (pids[i] = fork()) == 0) {
                close(ends[0]);
                work(ends[1]);
            }
    }
    for (int i = 0; i < 3; i++) {
        kill(pids[i], SIGTERM);
        waitpid(pids[i], NULL, 0);
    }
    puts("done");
    return 0;
}
"#;

/// The processes that `attacca ps --json` tells of the guest with this first process.
fn processes(first: i32) -> Option<Vec<i32>> {
    let listed = text(attacca().args(["ps", "--json"]).output().expect("ps runs"));
    let guests: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let all = guests.as_array()?;
    let of = |guest: &serde_json::Value| -> Vec<i32> {
        let pids = guest["processes"].as_array().into_iter().flatten();
        pids.filter_map(|pid| pid.as_i64().map(|pid| pid as i32)).collect()
    };
    all.iter().map(of).find(|pids| pids.contains(&first))
}

#[test]
fn a_family_survives_children_killed_from_outside() {
    let program = compile("busy", BUSY, &["-pthread"]);
    let mut guest = Guest::start(&["--net", "none", program.to_str().unwrap()]);
    assert!(eventually(PATIENCE, || guest.output().contains("ready")), "{}", guest.output());
    for round in 0..300 {
        std::thread::sleep(Duration::from_millis(20 + round * 7 % 30));
        if guest.output().contains("done") {
            break;
        }
        let mut pids = processes(guest.pid()).unwrap_or_default();
        pids.retain(|&pid| pid != guest.pid());
        if let Some(&victim) = pids.get(round as usize % pids.len().max(1)) {
            // SAFETY: a process of the guest that this test started, or one that has just ended.
            unsafe { libc::kill(victim, libc::SIGKILL) };
        }
    }
    assert_eq!(shell_status(guest.wait()), 0, "{}", guest.output());
    assert!(guest.output().ends_with("done\n"), "{}", guest.output());
}

#[test]
fn a_guest_lives_as_long_as_any_of_its_processes() {
    let source = r#"
#include <stdio.h>
#include <unistd.h>
int main(void)
{
    if (fork() == 0) {
        setsid();
        close(0);
        close(1);
        close(2);
        sleep(60);
        return 1;
    }
    return 5;
}
"#;
    let program = compile("daemon", source, &[]);
    let mut run = attacca();
    let mut child = run.args(["run", "--net", "none", "--name", "outlives"]).arg(program).spawn().unwrap();
    let first = child.id() as i32;
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let names = || text(attacca().arg("ps").output().expect("ps runs"));
    assert!(names().contains("outlives"), "{}", names());
    assert!(processes(first).is_none());
    assert!(attacca().args(["kill", "outlives"]).status().unwrap().success());
    assert!(eventually(PATIENCE, || !names().contains("outlives")), "{}", names());
}
