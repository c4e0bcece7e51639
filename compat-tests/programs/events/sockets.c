/* TCP and UDP over loopback inside the program: blocking, non-blocking, half-close, poll, options. */
#define _GNU_SOURCE
#include "../check.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TOTAL = 8 * 1024 * 1024 };
static struct sockaddr_in address;

static void *client(void *unused)
{
    (void)unused;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (void *)&address, sizeof address) == 0);
    static char buffer[65536];
    for (size_t sent = 0; sent < TOTAL;) {
        for (size_t i = 0; i < sizeof buffer; i++)
            buffer[i] = (char)((sent + i) * 31 >> 3);
        ssize_t n = send(fd, buffer, sizeof buffer, 0);
        CHECK(n == sizeof buffer);
        sent += n;
    }
    CHECK(shutdown(fd, SHUT_WR) == 0);
    char answer[16] = "";
    CHECK(recv(fd, answer, 4, MSG_WAITALL) == 4 && memcmp(answer, "done", 4) == 0);
    close(fd);
    return NULL;
}

int main(void)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    CHECK(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    CHECK(bind(listener, (void *)&address, len) == 0 && listen(listener, 8) == 0);
    CHECK(getsockname(listener, (void *)&address, &len) == 0 && address.sin_port != 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, client, NULL) == 0);
    struct sockaddr_in peer;
    len = sizeof peer;
    int fd = accept4(listener, (void *)&peer, &len, SOCK_CLOEXEC);
    CHECK(fd >= 0 && peer.sin_family == AF_INET);
    static char buffer[100000];
    size_t got = 0;
    ssize_t n;
    while ((n = read(fd, buffer, sizeof buffer)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            CHECK(buffer[i] == (char)((((got + i) % 65536) + (got + i) / 65536 * 65536) * 31 >> 3));
        got += n;
    }
    CHECK(n == 0 && got == TOTAL && write(fd, "done", 4) == 4);
    CHECK(pthread_join(thread, NULL) == 0);
    struct tcp_info info;
    len = sizeof info;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && len == sizeof info);
    close(fd);
    /* Nobody listens: refused, blocking and not. */
    close(listener);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (void *)&address, sizeof address) == -1 && errno == ECONNREFUSED);
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int result = connect(fd, (void *)&address, sizeof address);
    if (result == -1 && errno == EINPROGRESS) {
        struct pollfd poller = {.fd = fd, .events = POLLOUT};
        CHECK(poll(&poller, 1, 5000) == 1);
        int error = 0;
        len = sizeof error;
        CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == ECONNREFUSED);
    } else {
        CHECK(result == -1 && errno == ECONNREFUSED);
    }
    close(fd);
    int udp[2];
    for (int i = 0; i < 2; i++)
        CHECK((udp[i] = socket(AF_INET, SOCK_DGRAM, 0)) >= 0);
    address.sin_port = 0;
    CHECK(bind(udp[0], (void *)&address, sizeof address) == 0);
    len = sizeof address;
    CHECK(getsockname(udp[0], (void *)&address, &len) == 0);
    CHECK(sendto(udp[1], "datagram", 8, 0, (void *)&address, sizeof address) == 8);
    CHECK(sendto(udp[1], "", 0, 0, (void *)&address, sizeof address) == 0);
    struct pollfd poller = {.fd = udp[0], .events = POLLIN};
    CHECK(poll(&poller, 1, 5000) == 1);
    CHECK(recv(udp[0], buffer, 4, MSG_PEEK | MSG_TRUNC) == 8);
    int waiting = 0;
    CHECK(ioctl(udp[0], FIONREAD, &waiting) == 0 && waiting == 8);
    len = sizeof peer;
    CHECK(recvfrom(udp[0], buffer, sizeof buffer, 0, (void *)&peer, &len) == 8 && memcmp(buffer, "datagram", 8) == 0);
    CHECK(recv(udp[0], buffer, sizeof buffer, 0) == 0);
    CHECK(recv(udp[0], buffer, sizeof buffer, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    puts("ok");
    return 0;
}
