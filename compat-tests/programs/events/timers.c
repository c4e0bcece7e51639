/* Sleeping, timerfd, interval timers, POSIX timers, poll timeouts. */
#define _GNU_SOURCE
#include "../check.h"
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t alarms;
static void on_alarm(int signal) { (void)signal; alarms++; }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }

int main(void)
{
    double start = now();
    struct timespec nap = {0, 30 * 1000 * 1000};
    CHECK(nanosleep(&nap, NULL) == 0 && now() - start >= 0.03);
    start = now();
    CHECK(poll(NULL, 0, 25) == 0 && now() - start >= 0.025);
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec spec = {.it_value = {0, 10 * 1000 * 1000}, .it_interval = {0, 10 * 1000 * 1000}};
    CHECK(fd >= 0 && timerfd_settime(fd, 0, &spec, NULL) == 0);
    uint64_t ticks;
    CHECK(read(fd, &ticks, sizeof ticks) == -1 && errno == EAGAIN);
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poller, 1, 2000) == 1 && read(fd, &ticks, sizeof ticks) == 8 && ticks >= 1);
    usleep(45 * 1000);
    CHECK(read(fd, &ticks, sizeof ticks) == 8 && ticks >= 3);
    struct sigaction action = {.sa_handler = on_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval interval = {.it_value = {0, 10000}, .it_interval = {0, 10000}};
    CHECK(setitimer(ITIMER_REAL, &interval, NULL) == 0);
    start = now();
    while (alarms < 5)
        pause();
    CHECK(now() - start >= 0.045);
    interval = (struct itimerval){0};
    CHECK(setitimer(ITIMER_REAL, &interval, NULL) == 0);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    alarms = 0;
    spec = (struct itimerspec){.it_value = {0, 20 * 1000 * 1000}};
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    nap = (struct timespec){5, 0};
    struct timespec rest;
    CHECK(nanosleep(&nap, &rest) == -1 && errno == EINTR && alarms == 1 && rest.tv_sec == 4);
    CHECK(timer_delete(timer) == 0);
    puts("ok");
    return 0;
}
