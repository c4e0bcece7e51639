/* Both ends' other half in the tests of live switches: a server whose connections are in every state.
 *
 * peer PORT [HOST HOSTPORT]
 * PORT: the first byte of a connection says what it is for. PORT + 1: a listener that accepts late.
 * HOST HOSTPORT: besides, a connection of our own, on which bytes go to and fro. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 65536 };

static uint8_t at(uint32_t i) { return (i * 2654435761u) >> 13; }

static void nap(int ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
    nanosleep(&t, 0);
}

static int put(int fd, const void *p, size_t n)
{
    for (const char *c = p; n;) {
        ssize_t k = write(fd, c, n);
        if (k <= 0)
            return -1;
        c += k;
        n -= k;
    }
    return 0;
}

static int pattern(int fd, uint32_t *from, size_t n)
{
    uint8_t buf[CHUNK];
    for (size_t i = 0; i < n; i++)
        buf[i] = at(*from + i);
    *from += n;
    return put(fd, buf, n);
}

/* Reads to the end and checks; then says how much it was. `pause`: after each piece, so that the window closes. */
static void drain(int fd, int pause)
{
    uint8_t buf[CHUNK];
    uint32_t have = 0;
    char words[64] = "";
    for (;;) {
        ssize_t k = read(fd, buf, sizeof buf);
        if (k == 0)
            break;
        if (k < 0) {
            snprintf(words, sizeof words, "error %d after %u\n", errno, have);
            break;
        }
        for (ssize_t i = 0; i < k; i++)
            if (buf[i] != at(have + i)) {
                snprintf(words, sizeof words, "wrong byte %zd\n", have + i);
                goto out;
            }
        have += k;
        if (pause)
            nap(pause);
    }
    if (!*words)
        snprintf(words, sizeof words, "%u\n", have);
out:
    put(fd, words, strlen(words));
}

static void *connection(void *arg)
{
    int fd = (int)(intptr_t)arg, one = 1;
    uint32_t from = 0;
    char what, buf[4096];
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (read(fd, &what, 1) != 1)
        what = 0;
    switch (what) {
    case 'E': /* echo */
        for (ssize_t k; (k = read(fd, buf, sizeof buf)) > 0;)
            if (put(fd, buf, k))
                break;
        break;
    case 'S': /* source */
        while (!pattern(fd, &from, CHUNK))
            ;
        break;
    case 'D':
        drain(fd, 0);
        break;
    case 'Z':
        drain(fd, 30);
        break;
    case 'H': /* half closed: the other side has ended, we go on */
        while (read(fd, buf, sizeof buf) > 0)
            ;
        for (int i = 0; i < 1000 && !pattern(fd, &from, 64); i++)
            nap(1);
        break;
    }
    close(fd);
    return 0;
}

static int listener(int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 256)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

/* Its backlog is full of connections that nobody has accepted yet. */
static void *late(void *arg)
{
    int fd = listener((int)(intptr_t)arg);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (;;) {
        nap(100);
        for (int c; (c = accept(fd, 0, 0)) >= 0; close(c))
            put(c, "k", 1);
    }
    return 0;
}

struct to { const char *host; int port; };

static void *caller(void *arg)
{
    struct to *to = arg;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(to->port) };
    int one = 1;
    uint32_t i = 0, back;
    inet_pton(AF_INET, to->host, &a.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (void *)&a, sizeof a)) {
        perror("connect");
        return 0;
    }
    for (;; i++) {
        if (put(fd, &i, 4) || recv(fd, &back, 4, MSG_WAITALL) != 4 || back != i) {
            printf("caller: ended after %u\n", i);
            fflush(stdout);
            return 0;
        }
        nap(1);
    }
}

static void begin(void *(*f)(void *), void *arg)
{
    pthread_t t;
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 512 * 1024);
    pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&t, &a, f, arg)) {
        perror("pthread_create");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    int port = atoi(argv[1]);
    struct to to = { argc > 3 ? argv[2] : 0, argc > 3 ? atoi(argv[3]) : 0 };
    signal(SIGPIPE, SIG_IGN);
    begin(late, (void *)(intptr_t)(port + 1));
    if (to.host)
        begin(caller, &to);
    for (int fd = listener(port), c; (c = accept(fd, 0, 0)) >= 0;)
        begin(connection, (void *)(intptr_t)c);
    perror("accept");
    return 1;
}
