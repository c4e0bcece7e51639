/* IPv4 and IPv6 over one another: who may bind beside whom, what mapped addresses do, what names tell. */
#include "../check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static int bound(int family, int type, int v6only, const char *text, int port, int *error)
{
    int fd = socket(family, type, 0), zero = 0, on = 1;
    CHECK(fd >= 0);
    struct sockaddr_storage address = {0};
    socklen_t len;
    if (family == AF_INET6) {
        struct sockaddr_in6 *in6 = (void *)&address;
        CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6only ? &on : &zero, sizeof on) == 0);
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        CHECK(inet_pton(AF_INET6, text, &in6->sin6_addr) == 1);
        len = sizeof *in6;
    } else {
        struct sockaddr_in *in = (void *)&address;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        CHECK(inet_pton(AF_INET, text, &in->sin_addr) == 1);
        len = sizeof *in;
    }
    *error = bind(fd, (void *)&address, len) ? errno : 0;
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_in6 name;
    socklen_t len = sizeof name;
    CHECK(getsockname(fd, (void *)&name, &len) == 0);
    return ntohs(name.sin6_port);
}

/* Binds one, then another to its port; the second one's error. */
static int beside(int type, int f1, int only1, const char *a1, int f2, int only2, const char *a2)
{
    int error, first = bound(f1, type, only1, a1, 0, &error);
    CHECK(error == 0);
    int second = bound(f2, type, only2, a2, port_of(first), &error);
    close(first);
    close(second);
    return error;
}

static void bind_rules(int type)
{
    CHECK(beside(type, AF_INET6, 0, "::", AF_INET, 0, "0.0.0.0") == EADDRINUSE);
    CHECK(beside(type, AF_INET6, 1, "::", AF_INET, 0, "0.0.0.0") == 0);
    CHECK(beside(type, AF_INET, 0, "0.0.0.0", AF_INET6, 1, "::") == 0);
    CHECK(beside(type, AF_INET, 0, "127.0.0.1", AF_INET6, 0, "::") == EADDRINUSE);
    CHECK(beside(type, AF_INET6, 0, "::1", AF_INET, 0, "127.0.0.1") == 0);
    CHECK(beside(type, AF_INET6, 0, "::ffff:127.0.0.1", AF_INET, 0, "127.0.0.1") == EADDRINUSE);
    CHECK(beside(type, AF_INET6, 0, "::1", AF_INET6, 0, "::") == EADDRINUSE);
    int error;
    close(bound(AF_INET6, type, 1, "::ffff:127.0.0.1", 0, &error));
    CHECK(error == EINVAL);
    close(bound(AF_INET6, type, 0, "2001:db8::77", 0, &error));
    CHECK(error == EADDRNOTAVAIL);
    close(bound(AF_INET6, type, 0, "fe80::1", 0, &error));
    CHECK(error == EINVAL);
}

static void connect_by(int listener, int family, const char *text, const char *seen)
{
    int fd = socket(family, SOCK_STREAM, 0), port = port_of(listener);
    if (family == AF_INET) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
        inet_pton(AF_INET, text, &to.sin_addr);
        CHECK(connect(fd, (void *)&to, sizeof to) == 0);
    } else {
        struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        inet_pton(AF_INET6, text, &to.sin6_addr);
        CHECK(connect(fd, (void *)&to, sizeof to) == 0);
    }
    struct sockaddr_in6 from;
    socklen_t len = sizeof from;
    int peer = accept(listener, (void *)&from, &len);
    CHECK(peer >= 0 && len == sizeof from && from.sin6_family == AF_INET6);
    char name[INET6_ADDRSTRLEN], byte;
    inet_ntop(AF_INET6, &from.sin6_addr, name, sizeof name);
    CHECK(strcmp(name, seen) == 0);
    len = sizeof from;
    CHECK(getsockname(peer, (void *)&from, &len) == 0 && len == sizeof from);
    inet_ntop(AF_INET6, &from.sin6_addr, name, sizeof name);
    CHECK(strcmp(name, seen) == 0);
    CHECK(write(fd, "x", 1) == 1 && read(peer, &byte, 1) == 1 && byte == 'x');
    close(fd);
    close(peer);
}

int main(void)
{
    bind_rules(SOCK_STREAM);
    bind_rules(SOCK_DGRAM);
    int error, listener = bound(AF_INET6, SOCK_STREAM, 0, "::", 0, &error);
    CHECK(error == 0 && listen(listener, 8) == 0);
    connect_by(listener, AF_INET, "127.0.0.1", "::ffff:127.0.0.1");
    connect_by(listener, AF_INET6, "::1", "::1");
    connect_by(listener, AF_INET6, "::", "::1");
    connect_by(listener, AF_INET6, "::ffff:127.0.0.1", "::ffff:127.0.0.1");
    /* A listener of IPv6 alone refuses the other. */
    int only = bound(AF_INET6, SOCK_STREAM, 1, "::", 0, &error);
    CHECK(error == 0 && listen(only, 8) == 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port_of(only))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (void *)&to, sizeof to) == -1 && errno == ECONNREFUSED);
    close(fd);
    connect_by(only, AF_INET6, "::1", "::1");
    int on = 1;
    CHECK(setsockopt(only, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) == -1 && errno == EINVAL);
    /* An IPv6-only socket has no way to mapped addresses. */
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) == 0);
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = to.sin_port};
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
    CHECK(connect(fd, (void *)&mapped, sizeof mapped) == -1 && errno == ENETUNREACH);
    close(fd);
    puts("dual stack holds");
    return 0;
}
