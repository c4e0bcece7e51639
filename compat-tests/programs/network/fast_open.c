/* TCP Fast Open over the loopback: off, asked for, used by MSG_FASTOPEN and by TCP_FASTOPEN_CONNECT, refused. */
#define _GNU_SOURCE
#include "../check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TCP_INFO 11
#define TCP_FASTOPEN 23
#define TCP_FASTOPEN_CONNECT 30
#define SYN_DATA 32

static struct sockaddr_in to = {.sin_family = AF_INET};

/* On Linux in a network of its own: the setting is the network's. A guest has one anyway. */
static void own_network(void)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) == 0) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(ioctl(fd, SIOCSIFFLAGS, &lo) == 0);
        close(fd);
    }
}

static void set(const char *value)
{
    char told[16] = "";
    int fd = open("/proc/sys/net/ipv4/tcp_fastopen", O_RDWR);
    CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value));
    close(fd);
    fd = open("/proc/sys/net/ipv4/tcp_fastopen", O_RDONLY);
    CHECK(read(fd, told, sizeof told) > 0 && atoi(told) == atoi(value));
    close(fd);
}

static int tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    return fd;
}

/* Whether data came in a SYN. */
static int syn_data(int fd)
{
    unsigned char info[232];
    socklen_t len = sizeof info;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len) == 0);
    return (info[5] & SYN_DATA) != 0;
}

static void expect(int listener, const char *text, int early)
{
    char buffer[64] = "";
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0);
    CHECK(recv(fd, buffer, strlen(text), MSG_WAITALL) == (ssize_t)strlen(text));
    CHECK(strcmp(buffer, text) == 0);
    CHECK(syn_data(fd) == early);
    close(fd);
}

int main(void)
{
    int value, listener, fd;
    socklen_t len = sizeof to;
    struct pollfd ready = {.events = POLLOUT};

    own_network();
    set("0");
    fd = tcp();
    value = 1;
    CHECK(sendto(fd, "x", 1, MSG_FASTOPEN, (void *)&to, sizeof to) == -1 && errno == EOPNOTSUPP);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &value, sizeof value) == -1 && errno == EOPNOTSUPP);
    close(fd);

    set("3");
    listener = tcp();
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(listener, (void *)&to, sizeof to) == 0);
    CHECK(getsockname(listener, (void *)&to, &len) == 0);
    value = -1;
    CHECK(setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN, &value, sizeof value) == -1 && errno == EINVAL);
    CHECK(listen(listener, 16) == 0);
    value = 16;
    CHECK(setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN, &value, sizeof value) == 0);
    len = sizeof value, value = 0;
    CHECK(getsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN, &value, &len) == 0 && value == 16);

    /* The first one asks for a cookie; without waiting nothing is taken. */
    fd = tcp();
    CHECK(sendto(fd, "first", 5, MSG_FASTOPEN, (void *)&to, sizeof to) == 5);
    CHECK(!syn_data(fd));
    CHECK(sendto(fd, "x", 1, MSG_FASTOPEN, (void *)&to, sizeof to) == -1 && errno == EISCONN);
    expect(listener, "first", 0);
    close(fd);

    fd = tcp();
    CHECK(sendto(fd, "second", 6, MSG_FASTOPEN | MSG_DONTWAIT, (void *)&to, sizeof to) == 6);
    expect(listener, "second", 1);
    ready.fd = fd;
    CHECK(poll(&ready, 1, 5000) == 1 && (ready.revents & POLLOUT) && !(ready.revents & POLLERR));
    CHECK(syn_data(fd));
    close(fd);

    fd = tcp();
    value = 1;
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &value, sizeof value) == 0);
    len = sizeof value, value = 0;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &value, &len) == 0 && value == 1);
    CHECK(connect(fd, (void *)&to, sizeof to) == 0);
    len = sizeof to;
    CHECK(getpeername(fd, (void *)&to, &len) == -1 && errno == ENOTCONN);
    ready.fd = fd, ready.revents = 0;
    CHECK(poll(&ready, 1, 0) == 1 && ready.revents == POLLOUT);
    CHECK(write(fd, "third", 5) == 5);
    expect(listener, "third", 1);
    close(fd);

    /* Nobody there: the error is the call's own. */
    close(listener);
    fd = tcp();
    CHECK(sendto(fd, "gone", 4, MSG_FASTOPEN, (void *)&to, sizeof to) == -1 && errno == ECONNREFUSED);
    close(fd);
    set("0");
    puts("ok");
    return 0;
}
