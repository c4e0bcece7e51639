/* Calls that move megabytes at once over the loopback, in both ways of waiting: every byte, in order, and what a peek sees. */
#define _GNU_SOURCE
#include "../check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOTAL (24 << 20)
#define PIECE (5 << 20)

static unsigned char *data;
static int sender;

static void *send_all(void *how)
{
    size_t at = 0;
    int flags = how ? MSG_DONTWAIT : 0;
    while (at < TOTAL) {
        size_t want = TOTAL - at < PIECE ? TOTAL - at : PIECE;
        ssize_t count = send(sender, data + at, want, flags);
        if (count < 0 && errno == EAGAIN) {
            struct pollfd room = {.fd = sender, .events = POLLOUT};
            CHECK(poll(&room, 1, 20000) == 1);
            continue;
        }
        /* A blocking call comes back when everything is taken. */
        CHECK(count > 0 && (how || (size_t)count == want));
        at += count;
    }
    CHECK(shutdown(sender, SHUT_WR) == 0);
    return NULL;
}

static void transfer(int listener, struct sockaddr_in *to, int dont_wait)
{
    static unsigned char got[PIECE + 1];
    pthread_t thread;
    size_t at = 0;
    ssize_t count, seen;
    sender = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(sender, (void *)to, sizeof *to) == 0);
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0 && pthread_create(&thread, NULL, send_all, dont_wait ? "" : NULL) == 0);
    CHECK(recv(fd, got, 300000, MSG_WAITALL) == 300000 && !memcmp(got, data, 300000));
    at = 300000;
    for (;;) {
        seen = recv(fd, got, PIECE, MSG_PEEK);
        CHECK(seen >= 0 && !memcmp(got, data + at, seen));
        memset(got, 0, seen);
        count = recv(fd, got, PIECE, 0);
        CHECK(count >= seen && !memcmp(got, data + at, count));
        if (count == 0)
            break;
        at += count;
    }
    CHECK(at == TOTAL);
    CHECK(pthread_join(thread, NULL) == 0);
    /* A reset behind data: the data first, then the error, once. */
    struct linger hard = {1, 0};
    CHECK(write(fd, data, 1000) == 1000);
    usleep(20000);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard) == 0 && close(fd) == 0);
    usleep(20000);
    count = recv(sender, got, PIECE, 0);
    CHECK(count == 1000 || (count == -1 && errno == ECONNRESET));
    if (count == 1000)
        CHECK(recv(sender, got, PIECE, 0) == -1 && errno == ECONNRESET);
    CHECK(recv(sender, got, PIECE, 0) == 0);
    close(sender);
}

/* What is not there to be read or written ends a call where it is met. */
static void faults(int listener, struct sockaddr_in *to)
{
    long page = sysconf(_SC_PAGESIZE);
    sender = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(sender, (void *)to, sizeof *to) == 0);
    int fd = accept(listener, NULL, NULL);
    CHECK(send(sender, (void *)(page / 2), 300000, 0) == -1 && errno == EFAULT);
    CHECK(send(sender, data, 1000, 0) == 1000);
    CHECK(recv(fd, (void *)(page / 2), 300000, 0) == -1 && errno == EFAULT);
    unsigned char got[1000];
    CHECK(recv(fd, got, 1000, MSG_WAITALL) == 1000 && !memcmp(got, data, 1000));
    close(fd);
    close(sender);
}

int main(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    socklen_t len = sizeof to;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    data = malloc(TOTAL);
    for (size_t i = 0; i < TOTAL; i++)
        data[i] = check_random() >> 32;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(listener, (void *)&to, sizeof to) == 0 && listen(listener, 4) == 0);
    CHECK(getsockname(listener, (void *)&to, &len) == 0);
    transfer(listener, &to, 0);
    transfer(listener, &to, 1);
    faults(listener, &to);
    puts("ok");
    return 0;
}
