/* Futexes in shared memory under several addresses; locks that the kernel hands over; robust ones. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long futex(void *word, int op, unsigned value, const void *timeout, void *second, unsigned third)
{
    return syscall(SYS_futex, word, op, value, timeout, second, third);
}

static int *one, *two;

static void *wait_at_one(void *none)
{
    (void)none;
    return (void *)futex(one, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static long wake(int *word, int op)
{
    for (int i = 0; i < 300; i++) {
        long woken = futex(word, op, 1, NULL, NULL, 0);
        if (woken)
            return woken;
        usleep(1000);
    }
    return 0;
}

static void addresses(void)
{
    pthread_t thread;
    void *result;
    int file = memfd_create("shared", 0);
    CHECK(ftruncate(file, 3 * 4096) == 0);
    char *first = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *second = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 2 * 4096);
    one = (int *)(first + 2 * 4096 + 8);
    two = (int *)(second + 8);
    CHECK(pthread_create(&thread, NULL, wait_at_one, NULL) == 0);
    usleep(20000);
    /* A private wake is for another futex, although it is the same memory. */
    CHECK(futex(one, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 0);
    CHECK(futex(second + 12, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
    CHECK(wake(two, FUTEX_WAKE) == 1 && pthread_join(thread, &result) == 0 && result == 0);
    /* Moved memory is the same memory. */
    CHECK(munmap(first, 4096) == 0);
    char *moved = mremap(second, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, first);
    CHECK(moved == first);
    two = (int *)(moved + 8);
    CHECK(pthread_create(&thread, NULL, wait_at_one, NULL) == 0);
    CHECK(wake(two, FUTEX_WAKE) == 1 && pthread_join(thread, &result) == 0 && result == 0);
    /* Anonymous shared memory: two mappings are two objects. */
    one = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    two = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(pthread_create(&thread, NULL, wait_at_one, NULL) == 0);
    usleep(20000);
    CHECK(futex(two, FUTEX_WAKE, 1, NULL, NULL, 0) == 0 && wake(one, FUTEX_WAKE) == 1);
    pthread_join(thread, NULL);
}

static unsigned lock_word;
static volatile int counter;

static void *add(void *rounds)
{
    unsigned self = gettid();
    for (long i = 0; i < (long)rounds; i++) {
        if (!__sync_bool_compare_and_swap(&lock_word, 0, self))
            CHECK(futex(&lock_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
        CHECK((lock_word & FUTEX_TID_MASK) == self);
        counter++;
        if (!__sync_bool_compare_and_swap(&lock_word, self, 0))
            CHECK(futex(&lock_word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
    }
    return NULL;
}

static void *add_by_mutex(void *mutex)
{
    for (int i = 0; i < 2000; i++) {
        CHECK(pthread_mutex_lock(mutex) == 0);
        counter++;
        CHECK(pthread_mutex_unlock(mutex) == 0);
    }
    return NULL;
}

static void *die_with(void *mutex)
{
    CHECK(pthread_mutex_lock(mutex) == 0);
    return NULL;
}

static void handed_over(void)
{
    pthread_t threads[4];
    unsigned self = gettid();
    CHECK(futex(&lock_word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == EPERM);
    CHECK(futex(&lock_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0 && lock_word == self);
    CHECK(futex(&lock_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == EDEADLK);
    CHECK(futex(&lock_word, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == EDEADLK);
    CHECK(futex(&lock_word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0 && lock_word == 0);
    lock_word = 0x3ffffff0;
    CHECK(futex(&lock_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == ESRCH);
    lock_word = 0;
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, add, (void *)3000) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK(counter == 12000 && lock_word == 0);
    /* libc's mutexes with PTHREAD_PRIO_INHERIT, of every type, shared and robust. */
    for (int kind = 0; kind < 16; kind++) {
        pthread_mutexattr_t attr;
        static pthread_mutex_t mutex;
        int type = kind & 3, robust = kind >> 2 & 1, shared = kind >> 3;
        CHECK(pthread_mutexattr_init(&attr) == 0 && pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT) == 0);
        CHECK(pthread_mutexattr_settype(&attr, type) == 0 && pthread_mutexattr_setpshared(&attr, shared) == 0);
        CHECK(pthread_mutexattr_setrobust(&attr, robust) == 0);
        CHECK(pthread_mutex_init(&mutex, &attr) == 0);
        counter = 0;
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, add_by_mutex, &mutex) == 0);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        CHECK(counter == 8000);
        CHECK(pthread_mutex_lock(&mutex) == 0);
        struct timespec past = {.tv_sec = 1};
        int again = type == PTHREAD_MUTEX_RECURSIVE ? 0 : type == PTHREAD_MUTEX_ERRORCHECK ? EDEADLK : EBUSY;
        if (again != EBUSY)
            CHECK(pthread_mutex_lock(&mutex) == again);
        if (again == 0)
            CHECK(pthread_mutex_unlock(&mutex) == 0);
        (void)past;
        CHECK(pthread_mutex_unlock(&mutex) == 0);
        if (type == PTHREAD_MUTEX_ERRORCHECK)
            CHECK(pthread_mutex_unlock(&mutex) == EPERM);
        if (robust) {
            CHECK(pthread_create(&threads[0], NULL, die_with, &mutex) == 0);
            pthread_join(threads[0], NULL);
            CHECK(pthread_mutex_lock(&mutex) == EOWNERDEAD);
            CHECK(pthread_mutex_consistent(&mutex) == 0 && pthread_mutex_unlock(&mutex) == 0);
            CHECK(pthread_create(&threads[0], NULL, die_with, &mutex) == 0);
            pthread_join(threads[0], NULL);
            CHECK(pthread_mutex_trylock(&mutex) == EOWNERDEAD && pthread_mutex_unlock(&mutex) == 0);
            CHECK(pthread_mutex_lock(&mutex) == ENOTRECOVERABLE);
        }
        CHECK(pthread_mutex_destroy(&mutex) == 0);
    }
}

static pthread_mutex_t cond_mutex;
static pthread_cond_t cond;
static int phase;

static void *wait_for_phase(void *none)
{
    (void)none;
    CHECK(pthread_mutex_lock(&cond_mutex) == 0);
    while (phase == 0)
        CHECK(pthread_cond_wait(&cond, &cond_mutex) == 0);
    phase++;
    CHECK(pthread_mutex_unlock(&cond_mutex) == 0);
    return NULL;
}

static void conditions(void)
{
    pthread_mutexattr_t attr;
    pthread_t threads[3];
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    CHECK(pthread_mutex_init(&cond_mutex, &attr) == 0 && pthread_cond_init(&cond, NULL) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, wait_for_phase, NULL) == 0);
    usleep(20000);
    CHECK(pthread_mutex_lock(&cond_mutex) == 0);
    phase = 1;
    CHECK(pthread_cond_broadcast(&cond) == 0 && pthread_mutex_unlock(&cond_mutex) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK(phase == 4);
}

static unsigned condition_word, target;

static void *wait_requeue(void *none)
{
    (void)none;
    long done = futex(&condition_word, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, NULL, &target, 0);
    CHECK(done == 0 && (target & FUTEX_TID_MASK) == (unsigned)gettid());
    CHECK(futex(&target, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
    return NULL;
}

static void requeue(void)
{
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, wait_requeue, NULL) == 0);
    usleep(50000);
    CHECK(futex(&target, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
    CHECK(futex(&condition_word, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)10, &target, 1) == -1 && errno == EAGAIN);
    CHECK(futex(&condition_word, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)10, &target, 0) == 3);
    CHECK(futex(&target, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK(target == 0);
}

int main(void)
{
    addresses();
    handed_over();
    conditions();
    requeue();
    puts("ok");
    return 0;
}
