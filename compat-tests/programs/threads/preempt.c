/* Threads that compute without a call must share the processors, and keep every register. */
#define _GNU_SOURCE
#include "../check.h"
#include <pthread.h>
#include <unistd.h>

static volatile int stop;
static long progress[6];

static void *spinner(void *argument)
{
    long me = (long)argument;
    double x = me + 1.0, y = x;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        for (int i = 0; i < 1000; i++) {
            y = y * 1.0000001 + x;
            y = y / 1.0000001 - x / 1.0000001;
        }
        /* A lost floating-point register would show as a wild value. */
        CHECK(y > x * 0.9 && y < x * 1.1);
        progress[me]++;
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[6];
    for (long i = 0; i < 6; i++)
        CHECK(pthread_create(&threads[i], NULL, spinner, (void *)i) == 0);
    usleep(600 * 1000);
    stop = 1;
    for (int i = 0; i < 6; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(progress[i] > 0);
    }
    puts("ok");
    return 0;
}
