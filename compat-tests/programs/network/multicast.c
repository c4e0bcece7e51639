/* Groups on the loopback interface: join, hear, filter, leave. */
#define _GNU_SOURCE
#include "../check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static char byte[8];

static int hears(int fd)
{
    ssize_t got = recv(fd, byte, sizeof byte, MSG_DONTWAIT);
    CHECK(got == 1 || errno == EAGAIN);
    return got == 1;
}

static void v4(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in name = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    socklen_t len = sizeof name;
    CHECK(bind(fd, (void *)&name, sizeof name) == 0 && getsockname(fd, (void *)&name, &len) == 0);
    to.sin_port = name.sin_port;
    inet_pton(AF_INET, "239.1.2.3", &to.sin_addr);
    struct in_addr lo = {htonl(INADDR_LOOPBACK)};
    CHECK(setsockopt(client, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo) == 0);
#define SEND() CHECK(sendto(client, "x", 1, 0, (void *)&to, sizeof to) == 1)
    SEND();
    CHECK(!hears(fd));
    struct ip_mreq join = {to.sin_addr, lo};
    CHECK(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join) == 0);
    CHECK(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join) == -1 && errno == EADDRINUSE);
    SEND();
    CHECK(hears(fd));
    struct ip_mreq_source block = {to.sin_addr, lo, lo};
    CHECK(setsockopt(fd, IPPROTO_IP, IP_BLOCK_SOURCE, &block, sizeof block) == 0);
    SEND();
    CHECK(!hears(fd));
    CHECK(setsockopt(fd, IPPROTO_IP, IP_UNBLOCK_SOURCE, &block, sizeof block) == 0);
    SEND();
    CHECK(hears(fd));
    CHECK(setsockopt(fd, IPPROTO_IP, IP_DROP_MEMBERSHIP, &join, sizeof join) == 0);
    CHECK(setsockopt(fd, IPPROTO_IP, IP_DROP_MEMBERSHIP, &join, sizeof join) == -1 && errno == EADDRNOTAVAIL);
    SEND();
    CHECK(!hears(fd));
    CHECK(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &block, sizeof block) == 0);
    SEND();
    CHECK(hears(fd));
    /* A socket that joined nothing hears what others joined, unless it says otherwise. */
    int other = socket(AF_INET, SOCK_DGRAM, 0), zero = 0;
    struct sockaddr_in name2 = {.sin_family = AF_INET};
    len = sizeof name2;
    CHECK(bind(other, (void *)&name2, sizeof name2) == 0 && getsockname(other, (void *)&name2, &len) == 0);
    to.sin_port = name2.sin_port;
    SEND();
    CHECK(hears(other));
    CHECK(setsockopt(other, IPPROTO_IP, IP_MULTICAST_ALL, &zero, sizeof zero) == 0);
    SEND();
    CHECK(!hears(other));
    close(other);
    close(fd);
    close(client);
}

static void v6(void)
{
    int fd = socket(AF_INET6, SOCK_DGRAM, 0), client = socket(AF_INET6, SOCK_DGRAM, 0), index = 1;
    struct sockaddr_in6 name = {.sin6_family = AF_INET6}, to = {.sin6_family = AF_INET6};
    socklen_t len = sizeof name;
    CHECK(bind(fd, (void *)&name, sizeof name) == 0 && getsockname(fd, (void *)&name, &len) == 0);
    to.sin6_port = name.sin6_port;
    inet_pton(AF_INET6, "ff11::7", &to.sin6_addr);
    CHECK(setsockopt(client, IPPROTO_IPV6, IPV6_MULTICAST_IF, &index, sizeof index) == 0);
    struct ipv6_mreq join = {to.sin6_addr, 1};
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &join, sizeof join) == 0);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &join, sizeof join) == -1 && errno == EADDRINUSE);
    /* Linux's lo has no route for IPv6 groups unless somebody adds one. */
    int routed = sendto(client, "x", 1, 0, (void *)&to, sizeof to) == 1;
    CHECK(routed || errno == ENETUNREACH);
    CHECK(hears(fd) == routed);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &join, sizeof join) == 0);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &join, sizeof join) == -1 && errno == EADDRNOTAVAIL);
    CHECK(sendto(client, "x", 1, 0, (void *)&to, sizeof to) == (routed ? 1 : -1));
    CHECK(!hears(fd));
    close(fd);
    close(client);
}

int main(void)
{
    v4();
    v6();
    puts("groups are heard");
    return 0;
}
