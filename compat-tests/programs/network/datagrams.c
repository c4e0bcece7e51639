/* What goes with datagrams on the loopback: control messages, segments, error queues, many at once. */
#define _GNU_SOURCE
#include "../check.h"
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static void turn_on(int fd, int level, int name)
{
    int on = 1, told = 0;
    socklen_t len = sizeof told;
    CHECK(setsockopt(fd, level, name, &on, sizeof on) == 0);
    CHECK(getsockopt(fd, level, name, &told, &len) == 0 && told == 1);
}

static int server(int family, struct sockaddr_in6 *name)
{
    int fd = socket(family, SOCK_DGRAM, 0);
    socklen_t len = sizeof *name;
    memset(name, 0, sizeof *name);
    if (family == AF_INET) {
        struct sockaddr_in *in = (void *)name;
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK(bind(fd, (void *)name, sizeof *in) == 0);
    } else {
        name->sin6_family = AF_INET6;
        name->sin6_addr = in6addr_loopback;
        CHECK(bind(fd, (void *)name, sizeof *name) == 0);
    }
    CHECK(getsockname(fd, (void *)name, &len) == 0);
    return fd;
}

static struct cmsghdr *find(struct msghdr *message, int level, int type)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == level && c->cmsg_type == type)
            return c;
    return NULL;
}

static int as_int(struct cmsghdr *c)
{
    int value;
    CHECK(c && c->cmsg_len == CMSG_LEN(sizeof value));
    memcpy(&value, CMSG_DATA(c), sizeof value);
    return value;
}

static char data[65536], control[512];

static struct msghdr receive(int fd, int flags, ssize_t want)
{
    static struct iovec piece;
    static struct sockaddr_in6 from;
    piece = (struct iovec){data, sizeof data};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &piece, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &message, flags);
    CHECK(got == want);
    return message;
}

static void infos(void)
{
    struct sockaddr_in6 to;
    int fd = server(AF_INET, &to), client = socket(AF_INET, SOCK_DGRAM, 0), ttl = 33, tos = 0x10;
    turn_on(fd, IPPROTO_IP, IP_PKTINFO);
    turn_on(fd, IPPROTO_IP, IP_RECVTTL);
    turn_on(fd, IPPROTO_IP, IP_RECVTOS);
    turn_on(fd, SOL_SOCKET, SO_TIMESTAMP);
    CHECK(setsockopt(client, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl) == 0);
    CHECK(setsockopt(client, IPPROTO_IP, IP_TOS, &tos, sizeof tos) == 0);
    CHECK(sendto(client, "abc", 3, 0, (void *)&to, sizeof(struct sockaddr_in)) == 3);
    struct msghdr message = receive(fd, 0, 3);
    struct in_pktinfo info;
    struct cmsghdr *c = find(&message, IPPROTO_IP, IP_PKTINFO);
    CHECK(c && c->cmsg_len == CMSG_LEN(sizeof info));
    memcpy(&info, CMSG_DATA(c), sizeof info);
    CHECK(info.ipi_ifindex == 1 && info.ipi_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK(as_int(find(&message, IPPROTO_IP, IP_TTL)) == 33);
    c = find(&message, IPPROTO_IP, IP_TOS);
    CHECK(c && *CMSG_DATA(c) == 0x10);
    struct timeval stamp, now;
    c = find(&message, SOL_SOCKET, SO_TIMESTAMP);
    CHECK(c && c->cmsg_len == CMSG_LEN(sizeof stamp));
    memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
    gettimeofday(&now, NULL);
    CHECK(now.tv_sec - stamp.tv_sec >= -1 && now.tv_sec - stamp.tv_sec < 60);
    close(fd);
    close(client);

    fd = server(AF_INET6, &to), client = socket(AF_INET6, SOCK_DGRAM, 0);
    int hops = 7;
    turn_on(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO);
    turn_on(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT);
    turn_on(fd, IPPROTO_IPV6, IPV6_RECVTCLASS);
    CHECK(setsockopt(client, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &hops, sizeof hops) == 0);
    CHECK(setsockopt(client, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof tos) == 0);
    CHECK(sendto(client, "abcd", 4, 0, (void *)&to, sizeof to) == 4);
    message = receive(fd, 0, 4);
    struct in6_pktinfo info6;
    c = find(&message, IPPROTO_IPV6, IPV6_PKTINFO);
    CHECK(c && c->cmsg_len == CMSG_LEN(sizeof info6));
    memcpy(&info6, CMSG_DATA(c), sizeof info6);
    CHECK(info6.ipi6_ifindex == 1 && memcmp(&info6.ipi6_addr, &in6addr_loopback, 16) == 0);
    CHECK(as_int(find(&message, IPPROTO_IPV6, IPV6_HOPLIMIT)) == 7);
    CHECK(as_int(find(&message, IPPROTO_IPV6, IPV6_TCLASS)) == 0x10);
    close(fd);
    close(client);
}

/* IP_PKTINFO chooses the source. */
static void source(void)
{
    struct sockaddr_in6 to;
    int fd = server(AF_INET, &to), client = socket(AF_INET, SOCK_DGRAM, 0);
    struct iovec piece = {"hi", 2};
    char space[CMSG_SPACE(sizeof(struct in_pktinfo))] = {0};
    struct msghdr message = {.msg_name = &to, .msg_namelen = sizeof(struct sockaddr_in), .msg_iov = &piece,
                             .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
    struct in_pktinfo info = {.ipi_spec_dst.s_addr = htonl(0x7f000009)};
    memcpy(CMSG_DATA(c), &info, sizeof info);
    CHECK(sendmsg(client, &message, 0) == 2);
    message = receive(fd, 0, 2);
    CHECK(((struct sockaddr_in *)message.msg_name)->sin_addr.s_addr == htonl(0x7f000009));
    close(fd);
    close(client);
}

static void segments(int family)
{
    struct sockaddr_in6 to;
    int fd = server(family, &to), client = socket(family, SOCK_DGRAM, 0), size = 1000, on = 1;
    socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof to;
    CHECK(setsockopt(client, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size) == 0);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i * 7);
    CHECK(sendto(client, data, 4500, 0, (void *)&to, len) == 4500);
    for (int i = 0; i < 5; i++) {
        CHECK(recv(fd, data + 8192, 2000, 0) == (i < 4 ? 1000 : 500));
        CHECK(memcmp(data + 8192, data + i * 1000, i < 4 ? 1000 : 500) == 0);
    }
    CHECK(setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on) == 0);
    CHECK(sendto(client, data, 4500, 0, (void *)&to, len) == 4500);
    struct msghdr message = receive(fd, 0, 4500);
    CHECK(as_int(find(&message, IPPROTO_UDP, UDP_GRO)) == 1000);
    close(fd);
    close(client);
}

static void errors(int family)
{
    struct sockaddr_in6 to;
    int gone = server(family, &to), client = socket(family, SOCK_DGRAM, 0);
    socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof to;
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
    int name = family == AF_INET ? IP_RECVERR : IPV6_RECVERR;
    close(gone);
    turn_on(client, level, name);
    CHECK(recv(client, data, 10, MSG_ERRQUEUE) == -1 && errno == EAGAIN);
    CHECK(sendto(client, "lost", 4, 0, (void *)&to, len) == 4);
    struct pollfd wait = {client, POLLIN, 0};
    CHECK(poll(&wait, 1, 5000) == 1 && (wait.revents & POLLERR));
    struct msghdr message = receive(client, MSG_ERRQUEUE, 4);
    CHECK(message.msg_flags & MSG_ERRQUEUE);
    CHECK(memcmp(data, "lost", 4) == 0);
    CHECK(((struct sockaddr_in *)message.msg_name)->sin_port == ((struct sockaddr_in *)&to)->sin_port);
    struct cmsghdr *c = find(&message, level, name);
    struct sock_extended_err error;
    CHECK(c);
    memcpy(&error, CMSG_DATA(c), sizeof error);
    CHECK(error.ee_errno == ECONNREFUSED);
    CHECK(error.ee_origin == (family == AF_INET ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6));
    CHECK(error.ee_type == (family == AF_INET ? 3 : 1) && error.ee_code == (family == AF_INET ? 3 : 4));
    CHECK(recv(client, data, 10, MSG_ERRQUEUE) == -1 && errno == EAGAIN);
    close(client);
    /* Without the option, only a connected socket hears of it. */
    client = socket(family, SOCK_DGRAM, 0);
    CHECK(sendto(client, "lost", 4, 0, (void *)&to, len) == 4);
    CHECK(recv(client, data, 10, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    CHECK(connect(client, (void *)&to, len) == 0);
    CHECK(send(client, "lost", 4, 0) == 4);
    CHECK(recv(client, data, 10, 0) == -1 && errno == ECONNREFUSED);
    close(client);
}

static void many(void)
{
    struct sockaddr_in6 to;
    int fd = server(AF_INET, &to), client = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(connect(client, (void *)&to, sizeof(struct sockaddr_in)) == 0);
    struct mmsghdr out[64] = {0}, in[64] = {0};
    struct iovec pieces[128];
    static char words[64][8], read_words[64][8];
    for (int i = 0; i < 64; i++) {
        snprintf(words[i], sizeof words[i], "w%d", i);
        pieces[i] = (struct iovec){words[i], strlen(words[i])};
        pieces[64 + i] = (struct iovec){read_words[i], sizeof read_words[i]};
        out[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
        in[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[64 + i], .msg_iovlen = 1};
    }
    CHECK(sendmmsg(client, out, 64, 0) == 64);
    CHECK(recvmmsg(fd, in, 64, MSG_WAITFORONE, NULL) == 64);
    for (int i = 0; i < 64; i++)
        CHECK(in[i].msg_len == strlen(words[i]) && memcmp(read_words[i], words[i], in[i].msg_len) == 0);
    CHECK(sendto(client, data, 65508, 0, NULL, 0) == -1 && errno == EMSGSIZE);
    int mtu;
    socklen_t len = sizeof mtu;
    CHECK(getsockopt(client, IPPROTO_IP, IP_MTU, &mtu, &len) == 0 && mtu >= 16384);
    CHECK(getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &len) == -1 && errno == ENOTCONN);
    close(fd);
    close(client);
}

int main(void)
{
    infos();
    source();
    segments(AF_INET);
    segments(AF_INET6);
    errors(AF_INET);
    errors(AF_INET6);
    many();
    puts("datagrams carry what they should");
    return 0;
}
