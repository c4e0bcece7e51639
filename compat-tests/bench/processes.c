/* What processes cost: microseconds by case, a line each. `cargo xtask bench processes` runs it natively and as a guest.
 *
 * A figure is the median of many single times, so that a moment's interruption does not count. An argument names
 * a part of the cases. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void need(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int by_size(const void *one, const void *two)
{
    double a = *(const double *)one, b = *(const double *)two;
    return (a > b) - (a < b);
}

static void tell(const char *name, double *times, int count)
{
    qsort(times, (size_t)count, sizeof *times, by_size);
    printf("%s\t%.3f\n", name, times[count / 2]);
    fflush(stdout);
}

static void reap(pid_t child)
{
    int status;
    need(waitpid(child, &status, 0) == child && status == 0, "waitpid");
}

/* The call alone, as the parent sees it, and until the child has been waited for. */
static void forks(const char *name, int count)
{
    double call[1000], all[1000];
    for (int at = 0; at < count; at++) {
        double begin = now();
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        call[at] = now() - begin;
        need(child > 0, "fork");
        reap(child);
        all[at] = now() - begin;
    }
    char text[100];
    snprintf(text, sizeof text, "fork, %s: the call", name);
    tell(text, call, count);
    snprintf(text, sizeof text, "fork, exit, wait, %s", name);
    tell(text, all, count);
}

static char *program[] = {"/bin/true", NULL};

static void spawns(const char *name, int count)
{
    double times[1000];
    for (int at = 0; at < count; at++) {
        double begin = now();
        pid_t child;
        need(posix_spawn(&child, program[0], NULL, NULL, program, environ) == 0, "posix_spawn");
        reap(child);
        times[at] = now() - begin;
    }
    tell(name, times, count);
}

static void execs(int count)
{
    double times[1000];
    for (int at = 0; at < count; at++) {
        double begin = now();
        pid_t child = fork();
        if (child == 0) {
            execv(program[0], program);
            _exit(1);
        }
        reap(child);
        times[at] = now() - begin;
    }
    tell("fork, exec /bin/true, wait", times, count);
}

static char *memory(size_t size)
{
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED, "mmap");
    /* Ordinary pages: huge ones would leave a fork nothing to copy. */
    madvise(at, size, MADV_NOHUGEPAGE);
    madvise(at, size, 23 /* MADV_POPULATE_WRITE */);
    return at;
}

/* ---- round trips ---- */

static int there[2], back[2];

static void answer(void)
{
    char byte;
    while (read(there[0], &byte, 1) == 1)
        if (write(back[1], &byte, 1) != 1)
            break;
}

static void *answering(void *argument)
{
    answer();
    return argument;
}

static void ask(const char *name)
{
    enum { PASSES = 21, TURNS = 1000 };
    double times[PASSES];
    char byte = 'x';
    for (int pass = 0; pass < PASSES; pass++) {
        double begin = now();
        for (int turn = 0; turn < TURNS; turn++)
            need(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "a round trip");
        times[pass] = (now() - begin) / TURNS;
    }
    tell(name, times, PASSES);
}

static void open_ends(int sockets)
{
    if (!sockets) {
        need(pipe(there) == 0 && pipe(back) == 0, "pipe");
        return;
    }
    int pair[2];
    need(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    there[1] = back[0] = pair[0];
    there[0] = back[1] = pair[1];
}

static void round_trips(const char *kind, int sockets, int processes)
{
    char name[100];
    snprintf(name, sizeof name, "round trip, %s, two %s", kind, processes ? "processes" : "threads");
    open_ends(sockets);
    pthread_t thread;
    pid_t child = 0;
    if (processes) {
        child = fork();
        if (child == 0) {
            close(there[1]);
            if (!sockets)
                close(back[0]);
            answer();
            _exit(0);
        }
        close(there[0]);
        if (!sockets)
            close(back[1]);
    } else {
        need(pthread_create(&thread, NULL, answering, NULL) == 0, "pthread_create");
    }
    ask(name);
    if (sockets)
        shutdown(there[1], SHUT_WR);
    close(there[1]);
    if (processes)
        reap(child);
    else
        pthread_join(thread, NULL);
    if (!sockets)
        close(back[0]);
    if (!processes) {
        close(there[0]);
        if (!sockets)
            close(back[1]);
    }
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : "";
#define PART(word) (*only == 0 || strcmp(only, word) == 0)
    if (PART("fork"))
        forks("a small program", 500);
    if (PART("exec"))
        execs(200);
    if (PART("spawn"))
        spawns("posix_spawn /bin/true, wait, a small program", 200);
    if (PART("fork")) {
        char *used = memory(256 << 20);
        forks("256 MiB in use", 30);
        munmap(used, 256 << 20);
    }
    if (PART("spawn")) {
        char *used = memory((size_t)4 << 30);
        spawns("posix_spawn /bin/true, wait, 4 GiB in use", 50);
        munmap(used, (size_t)4 << 30);
    }
    for (int processes = 0; processes < 2; processes++)
        if (PART("trip")) {
            round_trips("pipe", 0, processes);
            round_trips("AF_UNIX", 1, processes);
        }
    return 0;
}
