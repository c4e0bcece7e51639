/* What a process may take and how it is scheduled: RLIMIT_AS, nice values, policies, CPU sets, and mutexes with a
 * priority ceiling as an ordinary thread meets them. Needs no privileges. */
#define _GNU_SOURCE
#include "../check.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void *map(size_t bytes)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void address_space(void)
{
    struct rlimit limit = {256 << 20, 256 << 20};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    char *some = map(16 << 20);
    CHECK(some != MAP_FAILED);
    CHECK(map(512 << 20) == MAP_FAILED && errno == ENOMEM);
    CHECK(mremap(some, 16 << 20, 512 << 20, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    CHECK(sbrk(512 << 20) == (void *)-1 && errno == ENOMEM);
    CHECK(malloc(512 << 20) == NULL && errno == ENOMEM);
    /* Until nothing is left, and again when some is given back. */
    size_t blocks = 0;
    while (malloc(64 << 10) != NULL) blocks++;
    CHECK(errno == ENOMEM && blocks > 500 && blocks < 4096);
    CHECK(munmap(some, 16 << 20) == 0 && map(8 << 20) != MAP_FAILED);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(map(512 << 20) == MAP_FAILED ? 0 : 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void scheduling(void)
{
    CHECK(getpriority(PRIO_PROCESS, 0) == 0 && nice(3) == 3 && getpriority(PRIO_PROCESS, 0) == 3);
    pid_t child = fork();
    if (child == 0) _exit(getpriority(PRIO_PROCESS, 0));
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
    errno = 0;
    CHECK(getpriority(PRIO_PROCESS, 1 << 22) == -1 && errno == ESRCH);
    CHECK(setpriority(7, 0, 1) == -1 && errno == EINVAL);

    struct sched_param none = {0}, ten = {10};
    CHECK(sched_setscheduler(0, SCHED_FIFO, &none) == -1 && errno == EINVAL);
    CHECK(sched_setscheduler(0, SCHED_OTHER, &ten) == -1 && errno == EINVAL);
    CHECK(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none) == 0);
    CHECK(sched_getscheduler(0) == (SCHED_BATCH | SCHED_RESET_ON_FORK));
    child = fork();
    if (child == 0) _exit(sched_getscheduler(0));
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == SCHED_BATCH);
    CHECK(sched_getscheduler(-1) == -1 && errno == EINVAL);

    cpu_set_t all, one;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all)) cpu++;
    CPU_ZERO(&one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == -1 && errno == EINVAL);
    CPU_SET(cpu, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0 && CPU_EQUAL(&all, &one));
    CHECK(sched_getaffinity(-1, sizeof all, &all) == -1 && errno == ESRCH);
}

static void ceilings(void)
{
    pthread_mutexattr_t attr;
    pthread_mutex_t mutex;
    int ceiling;
    pthread_mutexattr_init(&attr);
    CHECK(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_PROTECT) == 0);
    CHECK(pthread_mutexattr_setprioceiling(&attr, 0) == EINVAL && pthread_mutexattr_setprioceiling(&attr, 100) == EINVAL);
    CHECK(pthread_mutexattr_setprioceiling(&attr, 20) == 0);
    CHECK(pthread_mutex_init(&mutex, &attr) == 0);
    CHECK(pthread_mutex_getprioceiling(&mutex, &ceiling) == 0 && ceiling == 20);
    /* An ordinary thread cannot have the ceiling. */
    CHECK(pthread_mutex_lock(&mutex) == EINVAL);
    CHECK(pthread_mutex_setprioceiling(&mutex, 0, &ceiling) == EINVAL);
    CHECK(pthread_mutex_setprioceiling(&mutex, 30, &ceiling) == 0 && ceiling == 20);
    CHECK(pthread_mutex_getprioceiling(&mutex, &ceiling) == 0 && ceiling == 30);
    CHECK(pthread_mutex_destroy(&mutex) == 0);
    CHECK(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0);
    CHECK(pthread_mutex_init(&mutex, &attr) == ENOTSUP);
    pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
    CHECK(pthread_mutex_getprioceiling(&plain, &ceiling) == EINVAL);
}

int main(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        address_space();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    scheduling();
    ceilings();
    return 0;
}
