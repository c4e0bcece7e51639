/* FIFOs in a directory of the host and in memory: opening waits, hang-up, both ends at once. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[128];

static void *open_later(void *flags)
{
    usleep(50000);
    return (void *)(long)open(path, (long)flags);
}

static void on_alarm(int signal) { (void)signal; }

static void try_in(const char *directory)
{
    char text[16];
    pthread_t thread;
    void *other;
    sprintf(path, "%s/attacca-fifo-%d", directory, getpid());
    CHECK(mkfifo(path, 0600) == 0 && mkfifo(path, 0600) == -1 && errno == EEXIST);
    struct stat stat;
    CHECK(lstat(path, &stat) == 0 && S_ISFIFO(stat.st_mode));
    CHECK(open(path, O_WRONLY | O_NONBLOCK) == -1 && errno == ENXIO);
    /* A reader waits for a writer, and a writer for a reader. */
    CHECK(pthread_create(&thread, NULL, open_later, (void *)O_WRONLY) == 0);
    int reader = open(path, O_RDONLY);
    pthread_join(thread, &other);
    int writer = (int)(long)other;
    CHECK(reader >= 0 && writer >= 0 && fstat(reader, &stat) == 0 && S_ISFIFO(stat.st_mode));
    CHECK(write(writer, "through", 7) == 7 && read(reader, text, 16) == 7 && memcmp(text, "through", 7) == 0);
    CHECK(lseek(reader, 0, SEEK_CUR) == -1 && errno == ESPIPE && write(reader, "x", 1) == -1 && errno == EBADF);
    CHECK(write(writer, "left", 4) == 4);
    close(writer);
    struct pollfd asked = {.fd = reader, .events = POLLIN};
    CHECK(poll(&asked, 1, 0) == 1 && asked.revents == (POLLIN | POLLHUP));
    CHECK(read(reader, text, 16) == 4 && read(reader, text, 16) == 0);
    /* A new writer ends the hang-up. */
    writer = open(path, O_WRONLY);
    CHECK(writer >= 0 && poll(&asked, 1, 0) == 0 && write(writer, "again", 5) == 5 && read(reader, text, 16) == 5);
    close(reader);
    signal(SIGPIPE, SIG_IGN);
    CHECK(write(writer, "x", 1) == -1 && errno == EPIPE);
    asked = (struct pollfd){.fd = writer, .events = POLLOUT};
    CHECK(poll(&asked, 1, 0) == 1 && asked.revents & POLLERR);
    close(writer);
    CHECK(pthread_create(&thread, NULL, open_later, (void *)O_RDONLY) == 0);
    writer = open(path, O_WRONLY);
    pthread_join(thread, &other);
    CHECK(writer >= 0 && (int)(long)other >= 0 && write(writer, "w", 1) == 1 && read((int)(long)other, text, 16) == 1);
    close(writer);
    close((int)(long)other);
    /* Without waiting; no hang-up before a first writer. */
    reader = open(path, O_RDONLY | O_NONBLOCK);
    CHECK(reader >= 0 && read(reader, text, 16) == 0);
    asked = (struct pollfd){.fd = reader, .events = POLLIN};
    CHECK(poll(&asked, 1, 0) == 0);
    int both = open(path, O_RDWR | O_NONBLOCK);
    CHECK(both >= 0 && read(reader, text, 16) == -1 && errno == EAGAIN && read(both, text, 16) == -1 && errno == EAGAIN);
    CHECK(write(both, "own", 3) == 3);
    int count = 0;
    CHECK(ioctl(both, FIONREAD, &count) == 0 && count == 3);
    asked = (struct pollfd){.fd = both, .events = POLLIN | POLLOUT};
    CHECK(poll(&asked, 1, 0) == 1 && asked.revents == (POLLIN | POLLOUT) && read(both, text, 16) == 3);
    close(reader);
    CHECK(write(both, "lives", 5) == 5);
    close(both);
    both = open(path, O_RDWR | O_NONBLOCK);
    CHECK(read(both, text, 16) == -1 && errno == EAGAIN);
    close(both);
    /* A signal ends the wait. */
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    ualarm(30000, 0);
    CHECK(open(path, O_RDONLY) == -1 && errno == EINTR);
    ualarm(30000, 0);
    CHECK(open(path, O_WRONLY) == -1 && errno == EINTR);
    CHECK(open(path, O_WRONLY | O_NONBLOCK) == -1 && errno == ENXIO);
    CHECK(unlink(path) == 0);
}

int main(void)
{
    try_in("/tmp");
    try_in("/dev/shm");
    puts("ok");
    return 0;
}
