/* POSIX message queues between threads: order, limits, waiting, notification by signal and thread, poll. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char name[32];
static mqd_t queue;
static sem_t told;
static volatile int value;

static void by_thread(union sigval v)
{
    value = v.sival_int;
    sem_post(&told);
}

static void by_signal(int signal, siginfo_t *info, void *context)
{
    (void)context;
    CHECK(signal == SIGUSR1 && info->si_code == SI_MESGQ && info->si_pid == getpid());
    value = info->si_value.sival_int;
}

static void *send_later(void *text)
{
    usleep(50000);
    CHECK(mq_send(queue, text, strlen(text), 0) == 0);
    return NULL;
}

static struct timespec in_ms(long ms)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_nsec += ms * 1000000;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    return at;
}

int main(void)
{
    struct mq_attr attr = {.mq_maxmsg = 4, .mq_msgsize = 16}, old;
    char text[16];
    unsigned priority;
    sprintf(name, "/attacca-%d", getpid());
    CHECK(mq_open(name, O_RDWR) == -1 && errno == ENOENT);
    CHECK(mq_open("no-slash", O_RDWR | O_CREAT, 0600, NULL) == -1 && errno == EINVAL);
    CHECK(mq_open("/a/b", O_RDWR | O_CREAT, 0600, NULL) == -1 && errno == EACCES);
    queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
    CHECK(queue >= 0 && mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, NULL) == -1 && errno == EEXIST);
    struct stat stat;
    CHECK(fstat(queue, &stat) == 0 && (stat.st_mode & 0777) == 0600 && stat.st_size == 80);
    for (int i = 0; i < 4; i++) {
        sprintf(text, "message %d", i);
        CHECK(mq_send(queue, text, 9, i % 2) == 0);
    }
    struct pollfd asked = {.fd = queue, .events = POLLIN | POLLOUT};
    CHECK(poll(&asked, 1, 0) == 1 && asked.revents == POLLIN);
    struct timespec at = in_ms(30);
    CHECK(mq_timedsend(queue, "x", 1, 0, &at) == -1 && errno == ETIMEDOUT);
    CHECK(mq_send(queue, text, 17, 0) == -1 && errno == EMSGSIZE);
    CHECK(mq_send(queue, text, 1, 32768) == -1 && errno == EINVAL);
    CHECK(mq_receive(queue, text, 15, NULL) == -1 && errno == EMSGSIZE);
    CHECK(mq_getattr(queue, &old) == 0 && old.mq_curmsgs == 4 && old.mq_maxmsg == 4 && old.mq_msgsize == 16 && !old.mq_flags);
    const char *order = "1302";
    for (int i = 0; i < 4; i++)
        CHECK(mq_receive(queue, text, 16, &priority) == 9 && text[8] == order[i] && priority == (i < 2));
    CHECK(poll(&asked, 1, 0) == 1 && asked.revents == POLLOUT);
    attr.mq_flags = O_NONBLOCK;
    CHECK(mq_setattr(queue, &attr, &old) == 0 && old.mq_flags == 0 && fcntl(queue, F_GETFL) == (O_RDWR | O_NONBLOCK));
    CHECK(mq_receive(queue, text, 16, NULL) == -1 && errno == EAGAIN);
    attr.mq_flags = 0;
    CHECK(mq_setattr(queue, &attr, NULL) == 0);
    /* Waiting. */
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, send_later, "late") == 0);
    CHECK(mq_receive(queue, text, 16, NULL) == 4 && memcmp(text, "late", 4) == 0);
    pthread_join(thread, NULL);
    CHECK(pthread_create(&thread, NULL, send_later, "poll") == 0);
    asked.events = POLLIN;
    CHECK(poll(&asked, 1, 5000) == 1 && asked.revents == POLLIN && mq_receive(queue, text, 16, NULL) == 4);
    pthread_join(thread, NULL);
    /* Notification. */
    struct sigaction action = {.sa_sigaction = by_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
    CHECK(mq_notify(queue, &event) == 0 && mq_notify(queue, &event) == -1 && errno == EBUSY);
    CHECK(mq_send(queue, "n", 1, 0) == 0 && value == 42);
    value = 0;
    CHECK(mq_send(queue, "n", 1, 0) == 0 && value == 0);
    CHECK(mq_notify(queue, &event) == 0 && mq_send(queue, "n", 1, 0) == 0 && value == 0);
    CHECK(mq_notify(queue, NULL) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(mq_receive(queue, text, 16, NULL) == 1);
    sem_init(&told, 0, 0);
    event = (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 43, .sigev_notify_function = by_thread};
    for (int i = 0; i < 3; i++) {
        event.sigev_value.sival_int = 43 + i;
        CHECK(mq_notify(queue, &event) == 0 && mq_send(queue, "t", 1, 0) == 0);
        at = in_ms(5000);
        CHECK(sem_timedwait(&told, &at) == 0 && value == 43 + i && mq_receive(queue, text, 16, NULL) == 1);
    }
    CHECK(mq_notify(queue, &event) == 0 && mq_notify(queue, NULL) == 0);
    mqd_t reader = mq_open(name, O_RDONLY);
    CHECK(mq_send(reader, "x", 1, 0) == -1 && errno == EBADF && mq_close(reader) == 0);
    CHECK(mq_unlink(name) == 0 && mq_unlink(name) == -1 && errno == ENOENT);
    CHECK(mq_send(queue, "still", 5, 0) == 0 && mq_receive(queue, text, 16, NULL) == 5);
    CHECK(mq_close(queue) == 0 && mq_send(queue, "x", 1, 0) == -1 && errno == EBADF);
    puts("ok");
    return 0;
}
