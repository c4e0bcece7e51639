/* Thread-local storage of the program and of libraries, with initial images and alignment. */
#include "../check.h"
#include <pthread.h>
#include <stdint.h>
#include <time.h>

static __thread int zero;
static __thread int seven = 7;
static __thread char aligned[64] __attribute__((aligned(128))) = "image";

static void *worker(void *argument)
{
    CHECK(zero == 0 && seven == 7 && strcmp(aligned, "image") == 0);
    CHECK(((uintptr_t)aligned & 127) == 0);
    zero = (int)(long)argument;
    seven += zero;
    errno = zero;
    for (int i = 0; i < 1000; i++) {
        CHECK(zero == (int)(long)argument && errno == zero);
        if (i % 100 == 0) { struct timespec nap = {0, 1000}; nanosleep(&nap, NULL); errno = zero; }
    }
    return &zero;
}

int main(void)
{
    pthread_t threads[20];
    for (long i = 0; i < 20; i++)
        CHECK(pthread_create(&threads[i], NULL, worker, (void *)(i + 1)) == 0);
    for (int i = 0; i < 20; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(zero == 0 && seven == 7);
    puts("ok");
    return 0;
}
