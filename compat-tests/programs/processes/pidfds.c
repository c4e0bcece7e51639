/* Processes as files: pidfd_open(2), CLONE_PIDFD, waitid(P_PIDFD), poll and epoll, signals, descriptors of another. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static int refuses(long result, int error)
{
    return result == -1 && errno == error;
}

static void opening(void)
{
    CHECK(refuses(pidfd_open(0, 0), EINVAL));
    CHECK(refuses(pidfd_open(-5, 0), EINVAL));
    CHECK(refuses(pidfd_open(getpid(), 1), EINVAL));
    CHECK(refuses(pidfd_open(4194303, 0), ESRCH));
    int fd = pidfd_open(getpid(), 0);
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(refuses(read(fd, &fd, 0), EINVAL) || refuses(read(fd, &fd, 4), EINVAL));
    CHECK(pidfd_send_signal(fd, 0, NULL, 0) == 0);
    CHECK(refuses(pidfd_send_signal(0, 0, NULL, 0), EBADF));
    CHECK(refuses(pidfd_send_signal(fd, 99, NULL, 0), EINVAL));
    /* Not a child. */
    siginfo_t info;
    CHECK(refuses(waitid(P_PIDFD, fd, &info, WEXITED), ECHILD));
    CHECK(refuses(waitid(P_PIDFD, 99, &info, WEXITED), EBADF));
    close(fd);
}

static void waiting(void)
{
    int go[2];
    CHECK(pipe(go) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        _exit(read(go[0], &byte, 1) == 1 ? 7 : 8);
    }
    int fd = pidfd_open(child, 0), lazy = pidfd_open(child, PIDFD_NONBLOCK);
    CHECK(fd >= 0 && lazy >= 0);
    struct pollfd one = {.fd = fd, .events = POLLIN};
    CHECK(poll(&one, 1, 0) == 0);
    siginfo_t info = {0};
    CHECK(refuses(waitid(P_PIDFD, lazy, &info, WEXITED), EAGAIN));
    CHECK(waitid(P_PIDFD, lazy, &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0);
    int many = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = 4};
    CHECK(epoll_ctl(many, EPOLL_CTL_ADD, fd, &event) == 0);
    CHECK(epoll_wait(many, &event, 1, 0) == 0);
    CHECK(write(go[1], "x", 1) == 1);
    CHECK(epoll_wait(many, &event, 1, 10000) == 1 && event.events & EPOLLIN && event.data.u32 == 4);
    CHECK(poll(&one, 1, -1) == 1 && one.revents == POLLIN);
    /* A zombie can be signalled, and is waited for twice if it is left. */
    CHECK(pidfd_send_signal(fd, SIGKILL, NULL, 0) == 0);
    CHECK(waitid(P_PIDFD, fd, &info, WEXITED | WNOWAIT) == 0 && info.si_status == 7);
    CHECK(waitid(P_PIDFD, lazy, &info, WEXITED) == 0);
    CHECK(info.si_pid == child && info.si_status == 7 && info.si_code == CLD_EXITED && info.si_signo == SIGCHLD);
    CHECK(refuses(waitid(P_PIDFD, fd, &info, WEXITED), ECHILD));
    CHECK(refuses(pidfd_send_signal(fd, 0, NULL, 0), ESRCH));
    CHECK(poll(&one, 1, 0) == 1 && one.revents & POLLIN);
    close(fd), close(lazy), close(many), close(go[0]), close(go[1]);
}

static volatile sig_atomic_t got, from, value;

static void on_signal(int signal, siginfo_t *info, void *context)
{
    (void)context;
    got = signal, from = info->si_pid, value = info->si_value.sival_int;
}

static void signals(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    int fd = pidfd_open(getpid(), 0);
    CHECK(pidfd_send_signal(fd, SIGUSR1, NULL, 0) == 0 && got == SIGUSR1 && from == getpid());
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    info.si_pid = 77, info.si_value.sival_int = 1234;
    CHECK(pidfd_send_signal(fd, SIGUSR1, &info, 0) == 0 && from == 77 && value == 1234);
    CHECK(refuses(pidfd_send_signal(fd, SIGUSR2, &info, 0), EINVAL));
    CHECK(refuses(pidfd_send_signal(fd, SIGUSR1, NULL, 0x100), EINVAL));
    close(fd);
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    fd = pidfd_open(child, 0);
    info.si_code = SI_USER;
    CHECK(refuses(pidfd_send_signal(fd, SIGUSR1, &info, 0), EPERM));
    CHECK(pidfd_send_signal(fd, SIGTERM, NULL, 0) == 0);
    CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_code == CLD_KILLED && info.si_status == SIGTERM);
    close(fd);
}

static void cloned(void)
{
    /* clone(2) puts it where the parent's thread id would go. */
    int fd = -1;
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &fd, NULL, 0);
    if (child == 0)
        _exit(fcntl(3, F_GETFD) == -1 ? 5 : 6);
    CHECK(child > 0 && fd == 3);
    siginfo_t info;
    CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_pid == child && info.si_status == 5);
    close(fd);
    CHECK(refuses(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, NULL, &fd, NULL, 0), EINVAL));
    pid_t tid = 0;
    struct clone_args args = {
        .flags = CLONE_PIDFD | CLONE_PARENT_SETTID, .pidfd = (uintptr_t)&fd, .parent_tid = (uintptr_t)&tid, .exit_signal = SIGCHLD};
    child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (child == 0)
        _exit(9);
    CHECK(child > 0 && tid == child && fd == 3);
    CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_status == 9);
    close(fd);
    args.pidfd = 8;
    CHECK(refuses(syscall(SYS_clone3, &args, sizeof args), EFAULT));
    CHECK(refuses(fcntl(3, F_GETFD), EBADF));
}

static void descriptors(void)
{
    int ready[2], kept[2];
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(pipe(kept) == 0 && dup2(kept[0], 50) == 50 && write(kept[1], "deep", 4) == 4);
        CHECK(write(ready[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    char bytes[8];
    CHECK(read(ready[0], bytes, 1) == 1);
    int fd = pidfd_open(child, 0), copy = pidfd_getfd(fd, 50, 0);
    CHECK(copy >= 0 && fcntl(copy, F_GETFD) == FD_CLOEXEC && read(copy, bytes, 8) == 4 && memcmp(bytes, "deep", 4) == 0);
    CHECK(refuses(pidfd_getfd(fd, 51, 0), EBADF));
    CHECK(refuses(pidfd_getfd(fd, 50, 1), EINVAL));
    CHECK(refuses(pidfd_getfd(ready[0], 50, 0), EBADF));
    kill(child, SIGKILL);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(refuses(pidfd_getfd(fd, 50, 0), ESRCH));
    close(fd), close(copy), close(ready[0]), close(ready[1]);
}

int main(void)
{
    opening();
    waiting();
    signals();
    cloned();
    descriptors();
    puts("ok");
    return 0;
}
