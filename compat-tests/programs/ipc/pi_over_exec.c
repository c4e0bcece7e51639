/* Who executes another program lets go of its robust mutexes, priority-inheriting or not: their waiters go on while it
 * still runs (futex_exec_release of Linux). */
#define _GNU_SOURCE
#include "../check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char *self;

static void handed_over(int protocol)
{
    pthread_mutexattr_t how;
    int told[2], waited = 0;
    pthread_mutex_t *lock = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(lock != MAP_FAILED && pipe(told) == 0);
    pthread_mutexattr_init(&how);
    CHECK(pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutexattr_setprotocol(&how, protocol) == 0);
    CHECK(pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(lock, &how) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(pthread_mutex_lock(lock) == 0 && write(told[1], "", 1) == 1);
        /* Until somebody waits: FUTEX_WAITERS. */
        while (!(*(volatile unsigned *)lock & 0x80000000u))
            usleep(1000);
        usleep(20000);
        execl(self, self, "sleeps", (char *)NULL);
        _exit(127);
    }
    char byte;
    CHECK(read(told[0], &byte, 1) == 1);
    int got = pthread_mutex_lock(lock);
    CHECK(waitpid(child, NULL, WNOHANG) == 0);
    CHECK(got == EOWNERDEAD && pthread_mutex_consistent(lock) == 0);
    CHECK(pthread_mutex_unlock(lock) == 0 && pthread_mutex_trylock(lock) == 0);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &waited, 0) == child && WIFSIGNALED(waited));
    close(told[0]), close(told[1]);
}

int main(int argc, char **argv)
{
    self = argv[0];
    if (argc > 1)
        sleep(60);
    else
        handed_over(PTHREAD_PRIO_NONE), handed_over(PTHREAD_PRIO_INHERIT);
    return 0;
}
