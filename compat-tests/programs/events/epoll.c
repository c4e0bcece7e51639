/* epoll semantics: level, edge, oneshot, modification, closing, duplicates, nesting, eventfd, pipes. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static int wait_for(int epoll, struct epoll_event *events, int timeout) { return epoll_wait(epoll, events, 8, timeout); }

int main(void)
{
    struct epoll_event event, events[8];
    int epoll = epoll_create1(EPOLL_CLOEXEC), pipes[2];
    CHECK(epoll >= 0 && pipe2(pipes, O_NONBLOCK) == 0);
    event = (struct epoll_event){.events = EPOLLIN, .data.u64 = 0x1122334455667788};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event) == 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event) == -1 && errno == EEXIST);
    CHECK(wait_for(epoll, events, 0) == 0 && wait_for(epoll, events, 10) == 0);
    CHECK(write(pipes[1], "ab", 2) == 2);
    for (int i = 0; i < 3; i++)
        CHECK(wait_for(epoll, events, 0) == 1 && events[0].events == EPOLLIN && events[0].data.u64 == 0x1122334455667788);
    event.events = EPOLLIN | EPOLLET;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, pipes[0], &event) == 0);
    CHECK(wait_for(epoll, events, 0) == 1 && wait_for(epoll, events, 0) == 0);
    CHECK(write(pipes[1], "c", 1) == 1 && wait_for(epoll, events, 0) == 1 && wait_for(epoll, events, 0) == 0);
    event.events = EPOLLIN | EPOLLONESHOT;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, pipes[0], &event) == 0);
    CHECK(wait_for(epoll, events, 0) == 1 && wait_for(epoll, events, 0) == 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, pipes[0], &event) == 0 && wait_for(epoll, events, 0) == 1);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, pipes[0], NULL) == 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, pipes[0], NULL) == -1 && errno == ENOENT);
    int copy = dup(pipes[0]);
    event = (struct epoll_event){.events = EPOLLIN, .data.fd = 1};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event) == 0);
    event.data.fd = 2;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, copy, &event) == 0 && wait_for(epoll, events, 0) == 2);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, copy, NULL) == 0);
    /* The description lives on in the copy: the event stays although its descriptor is closed. */
    CHECK(close(pipes[0]) == 0 && wait_for(epoll, events, 0) == 1 && events[0].data.fd == 1);
    CHECK(close(copy) == 0 && wait_for(epoll, events, 0) == 0);
    close(pipes[1]);
    int counter = eventfd(0, EFD_NONBLOCK);
    event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT, .data.fd = counter};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) == 0);
    CHECK(wait_for(epoll, events, 0) == 1 && events[0].events == EPOLLOUT);
    CHECK(eventfd_write(counter, 5) == 0 && wait_for(epoll, events, 0) == 1 && events[0].events == (EPOLLIN | EPOLLOUT));
    int outer = epoll_create1(0);
    event = (struct epoll_event){.events = EPOLLIN, .data.fd = epoll};
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &event) == 0 && wait_for(outer, events, 0) == 1);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, outer, &event) == -1 && errno == ELOOP);
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    event = (struct epoll_event){.events = EPOLLIN | EPOLLRDHUP, .data.fd = 9};
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, pair[0], &event) == 0);
    CHECK(epoll_ctl(outer, EPOLL_CTL_DEL, epoll, NULL) == 0);
    CHECK(wait_for(outer, events, 0) == 0 && close(pair[1]) == 0);
    CHECK(wait_for(outer, events, 100) == 1 && events[0].events == (EPOLLIN | EPOLLRDHUP | EPOLLHUP));
    int regular = open("/proc/self/exe", O_RDONLY);
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, regular, &event) == -1 && errno == EPERM);
    puts("ok");
    return 0;
}
