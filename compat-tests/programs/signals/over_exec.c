/* What of a process's signals execve(2) keeps, and what it resets (signal(7), execve(2), POSIX exec): pending ones of
 * process and thread with their values, the mask, what is ignored (SIGCHLD, too), a running alarm; but no handlers, flags,
 * alternate stack, POSIX timers or signalfd that closes. */
#define _GNU_SOURCE
#include "../check.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char *self;
static sigset_t set;

static int is(char *const *argv, const char *what)
{
    return strcmp(argv[1], what) == 0;
}

static siginfo_t next(int signal)
{
    siginfo_t info;
    struct timespec none = {0, 0};
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signal);
    memset(&info, 0, sizeof info);
    if (sigtimedwait(&one, &info, &none) != signal)
        info.si_signo = 0;
    return info;
}

/* All that the executed program finds. */
static int inner(char **argv)
{
    struct sigaction action;
    sigset_t mask, pending;
    CHECK(sigprocmask(SIG_BLOCK, NULL, &mask) == 0 && sigpending(&pending) == 0);
    if (is(argv, "pending")) {
        int real = SIGRTMIN + 3;
        CHECK(sigismember(&mask, SIGUSR1) && sigismember(&mask, real) && !sigismember(&mask, SIGUSR2));
        CHECK(sigismember(&pending, SIGUSR1) && sigismember(&pending, SIGHUP) && sigismember(&pending, real));
        CHECK(!sigismember(&pending, SIGUSR2) && !sigismember(&pending, SIGTERM));
        /* In the order that they were sent, each with its value; a standard signal once. */
        for (int value = 1; value <= 5; value++) {
            siginfo_t info = next(real);
            CHECK(info.si_signo == real && info.si_code == SI_QUEUE && info.si_value.sival_int == value);
            CHECK(info.si_pid == getpid() && info.si_uid == getuid());
        }
        CHECK(next(real).si_signo == 0);
        siginfo_t thread = next(SIGHUP), process = next(SIGUSR1);
        /* libc tells SI_TKILL as SI_USER. */
        CHECK(thread.si_signo == SIGHUP && thread.si_code == SI_USER);
        CHECK(process.si_signo == SIGUSR1 && process.si_code == SI_USER && next(SIGUSR1).si_signo == 0);
    } else if (is(argv, "ignored")) {
        for (int signal = 1; signal < 32; signal++) {
            if (signal == SIGKILL || signal == SIGSTOP)
                continue;
            CHECK(sigaction(signal, NULL, &action) == 0);
            int kept = signal == SIGUSR2 || signal == SIGCHLD || signal == SIGPIPE;
            CHECK((action.sa_handler == SIG_IGN) == kept && (kept || action.sa_handler == SIG_DFL));
            CHECK(kept || (action.sa_flags & ~0x04000000) == 0);
        }
        /* Children are not waited for, as SIGCHLD is ignored. */
        pid_t child = fork();
        if (child == 0)
            _exit(3);
        CHECK(waitpid(child, NULL, 0) == -1 && errno == ECHILD);
        CHECK(kill(getpid(), SIGUSR2) == 0 && kill(getpid(), SIGPIPE) == 0);
    } else if (is(argv, "stack")) {
        stack_t stack;
        CHECK(sigaltstack(NULL, &stack) == 0 && stack.ss_flags == SS_DISABLE);
    } else if (is(argv, "alarm")) {
        struct itimerval left;
        CHECK(getitimer(ITIMER_REAL, &left) == 0 && left.it_value.tv_sec > 1000 && left.it_interval.tv_sec == 7);
        CHECK(alarm(0) > 1000);
        CHECK(timer_delete((timer_t)(long)atoi(argv[2])) == -1 && errno == EINVAL);
    } else if (is(argv, "comes")) {
        /* Unblocked here, it ends us. */
        sigprocmask(SIG_UNBLOCK, &set, NULL);
        return 8;
    }
    return 0;
}

static void handler(int signal)
{
    (void)signal;
}

static int executed(void (*before)(void), const char *what, const char *more)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        before();
        execl(self, self, what, more, (char *)NULL);
        _exit(90);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void names(void)
{
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGRTMIN + 3);
}

static void blocks(void)
{
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

static void sends(void)
{
    blocks();
    for (int value = 1; value <= 5; value++)
        CHECK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = value}) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0 && kill(getpid(), SIGUSR1) == 0);
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGHUP) == 0);
}

static void *executes(void *none)
{
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGHUP) == 0);
    execl(self, self, "pending", "", (char *)NULL);
    _exit(91);
    return none;
}

/* The same by a thread that is not the first: what was sent to the first alone is lost with it. */
static void sends_to_threads(void)
{
    pthread_t thread;
    blocks();
    for (int value = 1; value <= 5; value++)
        CHECK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = value}) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    CHECK(pthread_sigmask(SIG_BLOCK, &term, NULL) == 0);
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGTERM) == 0);
    CHECK(pthread_create(&thread, NULL, executes, NULL) == 0);
    for (;;)
        pause();
}

static void ignores(void)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_NODEFER | SA_ONSTACK | SA_NOCLDWAIT};
    sigfillset(&action.sa_mask);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
    CHECK(sigaction(SIGTERM, &action, NULL) == 0);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
}

static void has_a_stack(void)
{
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    CHECK(sigaltstack(&stack, NULL) == 0);
}

static timer_t timer;

static void sets_alarms(void)
{
    struct itimerval later = {.it_value.tv_sec = 2000, .it_interval.tv_sec = 7};
    struct itimerspec soon = {.it_value.tv_nsec = 1};
    CHECK(setitimer(ITIMER_REAL, &later, NULL) == 0);
    /* It would end the new program. */
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    signal(SIGUSR1, SIG_IGN);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
    signal(SIGUSR1, SIG_DFL);
    soon.it_value.tv_sec = 1000;
    CHECK(timer_settime(timer, 0, &soon, NULL) == 0);
}

static void is_due(void)
{
    blocks();
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
}

int main(int argc, char **argv)
{
    names();
    if (argc > 1)
        return inner(argv);
    self = argv[0];
    /* Whoever starts us may ignore some. */
    for (int number = 1; number < 32; number++)
        signal(number, SIG_DFL);
    CHECK(executed(sends, "pending", "") == 0);
    CHECK(executed(sends_to_threads, "pending", "") == 0);
    CHECK(executed(ignores, "ignored", "") == 0);
    CHECK(executed(has_a_stack, "stack", "") == 0);
    CHECK(executed(sets_alarms, "alarm", "0") == 0);
    int status = executed(is_due, "comes", "");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
    puts("ok");
    return 0;
}
