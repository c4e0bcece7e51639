/* many COUNT ROUNDS: COUNT connections over the loopback interface between two processes, open at once and idle; then
   ROUNDS questions, each on another one of them, and all are closed. Says what it took, in nanoseconds for each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what) ((what) ? (void)0 : (fprintf(stderr, "line %d: %s: %m\n", __LINE__, #what), exit(1)))

enum { PORTS = 8, FIRST = 7000 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static struct sockaddr_in at(int number)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(FIRST + number % PORTS)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return in;
}

/* Echoes until every connection has come and gone. */
static void serve(const int *listeners, int count)
{
    int poll = epoll_create1(0), accepted = 0, closed = 0;
    CHECK(poll >= 0);
    for (int i = 0; i < PORTS; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = 1ull << 32 | listeners[i]};
        CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, listeners[i], &event) == 0);
    }
    while (closed < count) {
        struct epoll_event events[256];
        int got = epoll_wait(poll, events, 256, 60000);
        CHECK(got > 0);
        for (int i = 0; i < got; i++) {
            int fd = (int)events[i].data.u64;
            if (events[i].data.u64 >> 32) {
                int peer;
                while ((peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    struct epoll_event event = {.events = EPOLLIN, .data.u64 = peer};
                    CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, peer, &event) == 0);
                    accepted++;
                }
                CHECK(errno == EAGAIN);
                continue;
            }
            char bytes[64];
            ssize_t len = read(fd, bytes, sizeof bytes);
            CHECK(len >= 0);
            if (len > 0)
                CHECK(write(fd, bytes, len) == len);
            else
                closed += close(fd) == 0;
        }
    }
    CHECK(accepted == count);
}

static void ask(int count, int rounds)
{
    int *fds = calloc(count, sizeof *fds);
    double begun = now();
    for (int i = 0; i < count; i++) {
        struct sockaddr_in to = at(i);
        CHECK((fds[i] = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
        CHECK(connect(fds[i], (void *)&to, sizeof to) == 0);
    }
    double open = now();
    usleep(500000);
    double idle = now();
    unsigned seed = 1;
    for (int i = 0; i < rounds; i++) {
        int fd = fds[(seed = seed * 1103515245 + 12345) / 7 % count];
        char byte = (char)i, back = 0;
        CHECK(write(fd, &byte, 1) == 1 && read(fd, &back, 1) == 1 && back == byte);
    }
    double asked = now();
    for (int i = 0; i < count; i++)
        CHECK(close(fds[i]) == 0);
    printf("%d connections: connect %.0f ns, question %.0f ns, close %.0f ns\n", count, (open - begun) / count,
           (asked - idle) / rounds, (now() - asked) / count);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int count = atoi(argv[1]), rounds = atoi(argv[2]), listeners[PORTS], status, on = 1;
    struct rlimit most = {count + 1000, count + 1000};
    CHECK(setrlimit(RLIMIT_NOFILE, &most) == 0);
    for (int i = 0; i < PORTS; i++) {
        struct sockaddr_in own = at(i);
        CHECK((listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) >= 0);
        CHECK(setsockopt(listeners[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
        CHECK(bind(listeners[i], (void *)&own, sizeof own) == 0 && listen(listeners[i], 4096) == 0);
    }
    if (fork() == 0) {
        ask(count, rounds);
        return 0;
    }
    serve(listeners, count);
    CHECK(wait(&status) > 0 && status == 0);
    return 0;
}
