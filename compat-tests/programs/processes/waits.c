// wait(2) in its forms, SIGCHLD, orphans, process groups, stop and continue, kill.
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t child_that(void (*what)(void))
{
    fflush(stdout);
    pid_t child = fork();
    assert(child >= 0);
    if (child == 0) {
        what();
        _exit(0);
    }
    return child;
}

static void sleeps(void) { for (;;) pause(); }
static void computes(void) { for (volatile long i = 0;; i++) ; }
static void exits_7(void) { _exit(7); }
static void aborts(void) { raise(SIGTERM); }

static void statuses(void)
{
    int status;
    pid_t child = child_that(exits_7);
    assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    child = child_that(aborts);
    assert(wait(&status) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    assert(wait(&status) == -1 && errno == ECHILD);
    assert(waitpid(INT_MIN, &status, 0) == -1 && errno == ESRCH);
    assert(waitpid(-1, &status, 0x10) == -1 && errno == EINVAL);
    child = child_that(sleeps);
    assert(waitpid(child, &status, WNOHANG) == 0);
    assert(waitpid(child + 1, &status, 0) == -1 && errno == ECHILD);
    kill(child, SIGKILL);
    struct rusage usage;
    assert(wait4(-1, &status, 0, &usage) == child && WTERMSIG(status) == SIGKILL);
    child = child_that(computes);
    usleep(20000);
    assert(kill(child, 0) == 0);
    kill(child, SIGKILL);
    assert(waitpid(child, &status, 0) == child && status == SIGKILL);
    assert(kill(child, 0) == -1 && errno == ESRCH);
}

static void waitid_tells_more(void)
{
    siginfo_t info;
    pid_t child = child_that(exits_7);
    assert(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    assert(info.si_pid == child && info.si_code == CLD_EXITED && info.si_status == 7 && info.si_signo == SIGCHLD);
    assert(waitid(P_ALL, 0, &info, WEXITED) == 0 && info.si_pid == child);
    assert(waitid(P_ALL, 0, &info, WEXITED) == -1 && errno == ECHILD);
    assert(waitid(P_ALL, 0, &info, 0) == -1 && errno == EINVAL);
    child = child_that(sleeps);
    info.si_pid = 5;
    assert(waitid(P_PGID, getpgrp(), &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0);
    kill(child, SIGUSR1);
    assert(waitid(P_PID, child, &info, WEXITED) == 0);
    assert(info.si_code == CLD_KILLED && info.si_status == SIGUSR1);
}

static void stop_and_continue(void)
{
    int status;
    pid_t child = child_that(sleeps);
    kill(child, SIGSTOP);
    assert(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    assert(waitpid(child, &status, WUNTRACED | WNOHANG) == 0);
    kill(child, SIGUSR2);
    usleep(5000);
    assert(waitpid(child, &status, WNOHANG) == 0);
    kill(child, SIGCONT);
    assert(waitpid(child, &status, WCONTINUED) == child || WIFSIGNALED(status));
    if (WIFCONTINUED(status))
        assert(waitpid(child, &status, 0) == child);
    assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2);
    child = child_that(computes);
    kill(child, SIGTSTP);
    assert(waitpid(child, &status, WUNTRACED) == child && WSTOPSIG(status) == SIGTSTP);
    kill(child, SIGKILL);
    assert(waitpid(child, &status, 0) == child && status == SIGKILL);
}

/* What proc(5) says of a child: its state, and the name that it keeps as a zombie. */
static char state_of(pid_t child)
{
    char path[64], line[256], name[32], state;
    snprintf(path, sizeof path, "/proc/%d/stat", child);
    FILE *file = fopen(path, "re");
    assert(file != NULL && fgets(line, sizeof line, file) != NULL);
    fclose(file);
    assert(sscanf(line, "%*d (%31[^)]) %c", name, &state) == 2 && strcmp(name, "a-child") == 0);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    file = fopen(path, "re");
    char word = '?';
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        (void)sscanf(line, "State:\t%c", &word);
    fclose(file);
    assert(word == state);
    return state;
}

static void named(void) { prctl(PR_SET_NAME, "a-child"); raise(SIGSTOP); }

static void states(void)
{
    int status;
    siginfo_t info;
    pid_t child = child_that(named);
    assert(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    assert(state_of(child) == 'T');
    kill(child, SIGCONT);
    assert(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    assert(state_of(child) == 'Z');
    assert(waitpid(child, &status, 0) == child && status == 0);
}

static volatile sig_atomic_t told, told_pid, told_code, told_status;
static void on_child(int signal, siginfo_t *info, void *unused)
{
    (void)unused;
    assert(signal == SIGCHLD);
    told_pid = info->si_pid, told_code = info->si_code, told_status = info->si_status;
    told++;
}

static void sigchld(void)
{
    struct sigaction act = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO};
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &old);
    sigaction(SIGCHLD, &act, NULL);
    pid_t child = child_that(exits_7);
    while (!told)
        sigsuspend(&old);
    assert(told_pid == child && told_code == CLD_EXITED && told_status == 7);
    assert(waitpid(child, NULL, 0) == child);
    // Without zombies.
    act.sa_flags |= SA_NOCLDWAIT;
    sigaction(SIGCHLD, &act, NULL);
    told = 0;
    child = child_that(exits_7);
    while (!told)
        sigsuspend(&old);
    assert(waitpid(child, NULL, 0) == -1 && errno == ECHILD);
    signal(SIGCHLD, SIG_IGN);
    child = child_that(exits_7);
    assert(wait(NULL) == -1 && errno == ECHILD);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void orphans(void)
{
    int ends[2], status;
    assert(pipe(ends) == 0);
    assert(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    int is = 0;
    assert(prctl(PR_GET_CHILD_SUBREAPER, &is) == 0 && is == 1);
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            while (getppid() == 0 || getppid() != getpgrp())
                usleep(1000);
            pid_t both[2] = {getpid(), getppid()};
            assert(write(ends[1], both, sizeof both) == sizeof both);
            _exit(11);
        }
        _exit(0);
    }
    // The group is ours and named after us, if nobody has made another.
    assert(waitpid(child, &status, 0) == child);
    pid_t both[2];
    assert(read(ends[0], both, sizeof both) == sizeof both);
    assert(both[1] == getpid());
    assert(waitpid(both[0], &status, 0) == both[0] && WEXITSTATUS(status) == 11);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    // A child that wants to know of its parent's end.
    child = fork();
    if (child == 0) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGUSR1);
            assert(write(ends[1], "r", 1) == 1);
            sleeps();
        }
        char c;
        assert(read(ends[0], &c, 1) == 1);
        _exit(0);
    }
    close(ends[1]);
    assert(waitpid(child, &status, 0) == child && status == 0);
    char c;
    assert(read(ends[0], &c, 1) == 0);
    close(ends[0]);
}

static void groups(void)
{
    int status;
    pid_t one = child_that(sleeps);
    assert(setpgid(one, one) == 0);
    pid_t two = child_that(sleeps);
    assert(setpgid(two, one) == 0);
    assert(getpgid(two) == one && getpgid(0) == getpgrp());
    assert(setpgid(two, INT_MAX) == -1 && errno == EPERM);
    assert(setpgid(-1, 0) == -1 && errno == EINVAL);
    assert(kill(-one, SIGTERM) == 0);
    assert(waitpid(-one, &status, 0) > 0 && WTERMSIG(status) == SIGTERM);
    assert(waitpid(-one, &status, 0) > 0 && WTERMSIG(status) == SIGTERM);
    assert(kill(-one, 0) == -1 && errno == ESRCH);
    pid_t child = fork();
    if (child == 0) {
        assert(setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid());
        assert(setsid() == -1 && errno == EPERM);
        assert(setpgid(0, 0) == -1 && errno == EPERM);
        _exit(0);
    }
    assert(waitpid(child, &status, 0) == child && status == 0);
}

static void usage_is_summed(void)
{
    struct rusage before, after;
    getrusage(RUSAGE_CHILDREN, &before);
    pid_t child = fork();
    if (child == 0) {
        struct timespec t;
        do
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        while (t.tv_nsec < 60000000);
        _exit(0);
    }
    struct rusage own;
    assert(wait4(child, NULL, 0, &own) == child);
    getrusage(RUSAGE_CHILDREN, &after);
    long us = (own.ru_utime.tv_sec + own.ru_stime.tv_sec) * 1000000L + own.ru_utime.tv_usec + own.ru_stime.tv_usec;
    assert(us >= 50000);
    long all = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000L + after.ru_utime.tv_usec
        - before.ru_utime.tv_usec + (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000L
        + after.ru_stime.tv_usec - before.ru_stime.tv_usec;
    assert(all >= 50000);
}

int main(void)
{
    setpgid(0, 0);
    statuses();
    waitid_tells_more();
    stop_and_continue();
    states();
    sigchld();
    orphans();
    groups();
    usage_is_summed();
    puts("ok");
    return 0;
}
