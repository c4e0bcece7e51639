/* Many connections at once with chosen and unchosen ports: accept from several threads and processes, one backlog,
   listeners that close with connections waiting, resets against reads, a killed process. What a kernel that spreads
   flows over processors must not let a program see. */
#define _GNU_SOURCE
#include "../check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIENTS = 4, EACH = 60 };

static struct sockaddr_in at(int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return in;
}

static int listener(int backlog, int *port)
{
    struct sockaddr_in in = at(0);
    socklen_t len = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && bind(fd, (void *)&in, sizeof in) == 0 && listen(fd, backlog) == 0);
    CHECK(getsockname(fd, (void *)&in, &len) == 0);
    *port = ntohs(in.sin_port);
    return fd;
}

static int dial(int port)
{
    struct sockaddr_in in = at(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && connect(fd, (void *)&in, sizeof in) == 0);
    return fd;
}

static void set_linger_zero(int fd)
{
    struct linger none = {1, 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none) == 0);
}

static int server, server_port, accepted;

/* Answers each connection's first bytes with its peer's port. */
static void *serve(void *stop)
{
    for (;;) {
        struct sockaddr_in peer;
        socklen_t len = sizeof peer;
        int fd = accept(server, (void *)&peer, &len);
        CHECK(fd >= 0);
        char bytes[64];
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got == 4 && memcmp(bytes, "stop", 4) == 0) {
            close(fd);
            return stop;
        }
        CHECK(got > 0);
        int count = snprintf(bytes, sizeof bytes, "%d", ntohs(peer.sin_port));
        CHECK(write(fd, bytes, count) == count);
        CHECK(read(fd, bytes, 1) == 0);
        close(fd);
        __sync_fetch_and_add(&accepted, 1);
    }
}

/* Half of the connections choose their port themselves: wherever their flows belong, they work. */
static void *ask(void *number)
{
    for (int i = 0; i < EACH; i++) {
        struct sockaddr_in own = at(0), to = at(server_port);
        socklen_t len = sizeof own;
        int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
        if (i % 2)
            CHECK(bind(fd, (void *)&own, sizeof own) == 0);
        CHECK(connect(fd, (void *)&to, sizeof to) == 0);
        CHECK(getsockname(fd, (void *)&own, &len) == 0);
        CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, (socklen_t[]){sizeof on}) == 0 && on == 1);
        CHECK(write(fd, "ask", 3) == 3);
        char bytes[64];
        ssize_t got = read(fd, bytes, sizeof bytes - 1);
        CHECK(got > 0);
        bytes[got] = 0;
        CHECK(atoi(bytes) == ntohs(own.sin_port));
        close(fd);
    }
    return number;
}

static void many_threads(void)
{
    pthread_t servers[2], clients[CLIENTS];
    server = listener(128, &server_port);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&servers[i], NULL, serve, NULL) == 0);
    for (long i = 0; i < CLIENTS; i++)
        CHECK(pthread_create(&clients[i], NULL, ask, (void *)i) == 0);
    for (int i = 0; i < CLIENTS; i++)
        CHECK(pthread_join(clients[i], NULL) == 0);
    for (int i = 0; i < 2; i++) {
        int fd = dial(server_port);
        CHECK(write(fd, "stop", 4) == 4);
        char byte;
        CHECK(read(fd, &byte, 1) == 0);
        close(fd);
    }
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(servers[i], NULL) == 0);
    CHECK(accepted == CLIENTS * EACH);
    close(server);
}

/* The accept queue holds one more than was asked for, whatever flows its connections are. */
static void one_backlog(void)
{
    int port, fd = listener(4, &port), count = 0, clients[16];
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    for (int i = 0; i < 16; i++) {
        struct sockaddr_in in = at(port);
        clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        CHECK(connect(clients[i], (void *)&in, sizeof in) == 0 || errno == EINPROGRESS);
    }
    usleep(50000);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    CHECK(poll(&ready, 1, 1000) == 1);
    int taken[16];
    while (count < 16 && (taken[count] = accept(fd, NULL, NULL)) >= 0)
        count++;
    CHECK(errno == EAGAIN && count == 5);
    CHECK(listen(fd, 64) == 0);
    for (int i = 0; i < count; i++)
        close(taken[i]);
    for (int i = 0; i < 16; i++)
        close(clients[i]);
    close(fd);
}

/* Who waited in the queue of a listener that closes is reset; the port is free at once. */
static void closing(void)
{
    for (int round = 0; round < 10; round++) {
        int port, fd = listener(32, &port), clients[24];
        for (int i = 0; i < 24; i++)
            clients[i] = dial(port);
        if (round % 2)
            CHECK(shutdown(fd, SHUT_RD) == 0);
        close(fd);
        for (int i = 0; i < 24; i++) {
            char byte;
            CHECK(read(clients[i], &byte, 1) < 0 && errno == ECONNRESET);
            close(clients[i]);
        }
        struct sockaddr_in in = at(port);
        int refused = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(refused, (void *)&in, sizeof in) < 0 && errno == ECONNREFUSED);
        close(refused);
    }
}

static int race_port;

static void *resetter(void *count)
{
    for (long i = 0; i < (long)count; i++) {
        int fd = dial(race_port);
        CHECK(write(fd, "x", 1) == 1);
        if (i % 3)
            set_linger_zero(fd);
        close(fd);
    }
    return NULL;
}

/* Connections that are reset while they are accepted, polled and read. */
static void races(void)
{
    enum { COUNT = 150, THREADS = 3 };
    int fd = listener(512, &race_port), poller = epoll_create1(0), over = 0, left = COUNT * THREADS;
    pthread_t threads[THREADS];
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK(poller >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, resetter, (void *)(long)COUNT) == 0);
    while (over < left) {
        struct epoll_event events[16];
        int count = epoll_wait(poller, events, 16, 10000);
        CHECK(count > 0);
        for (int i = 0; i < count; i++) {
            int ready = events[i].data.fd, peer;
            if (ready != fd) {
                char bytes[8];
                ssize_t got = read(ready, bytes, sizeof bytes);
                CHECK(got >= 0 || errno == ECONNRESET || errno == EAGAIN);
                if (got <= 0 && !(got < 0 && errno == EAGAIN)) {
                    close(ready);
                    over++;
                }
                continue;
            }
            while ((peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                struct epoll_event more = {.events = EPOLLIN, .data.fd = peer};
                CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, peer, &more) == 0);
            }
            CHECK(errno == EAGAIN);
        }
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    close(poller);
    close(fd);
}

/* A process that is killed in the middle of its connections takes those along and nothing else. */
static void killed(void)
{
    int port, fd = listener(128, &port);
    for (int round = 0; round < 6; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            char bytes[512];
            for (;;) {
                int peer = accept(fd, NULL, NULL);
                ssize_t got = read(peer, bytes, sizeof bytes);
                if (got > 0 && write(peer, bytes, got) != got)
                    _exit(1);
                close(peer);
            }
        }
        for (int i = 0; i < 40; i++) {
            char bytes[8];
            int peer = dial(port);
            CHECK(write(peer, "echo", 4) == 4 && read(peer, bytes, 8) == 4);
            close(peer);
        }
        /* It is in the middle of these, or has not begun. */
        int open[8];
        for (int i = 0; i < 8; i++) {
            open[i] = dial(port);
            CHECK(write(open[i], "echo", 4) == 4);
        }
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
        for (int i = 0; i < 8; i++)
            close(open[i]);
    }
    /* What it left in the queue is there still. */
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    int peer;
    while ((peer = accept(fd, NULL, NULL)) >= 0)
        close(peer);
    CHECK(errno == EAGAIN && fcntl(fd, F_SETFL, 0) == 0);
    int client = dial(port);
    CHECK((peer = accept(fd, NULL, NULL)) >= 0);
    CHECK(write(client, "still", 5) == 5);
    char bytes[8];
    CHECK(read(peer, bytes, 8) == 5);
    close(client);
    close(peer);
    close(fd);
}

/* accept(2) gives connections in the order in which they were made. */
static void in_order(void)
{
    enum { COUNT = 40 };
    int port, clients[COUNT], fd = listener(COUNT, &port);
    for (int i = 0; i < COUNT; i++)
        clients[i] = dial(port);
    for (int i = 0; i < COUNT; i++) {
        struct sockaddr_in peer, own;
        socklen_t len = sizeof peer, own_len = sizeof own;
        int accepted = accept(fd, (void *)&peer, &len);
        CHECK(accepted >= 0 && getsockname(clients[i], (void *)&own, &own_len) == 0);
        CHECK(peer.sin_port == own.sin_port);
        close(accepted);
        close(clients[i]);
    }
    close(fd);
}

int main(void)
{
    in_order();
    many_threads();
    one_backlog();
    closing();
    races();
    killed();
    puts("spread");
    return 0;
}
