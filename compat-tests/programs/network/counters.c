/* /proc/net/snmp, netstat and sockstat count what happens on the loopback. */
#define _GNU_SOURCE
#include "../check.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* On Linux in a network of its own, where nobody else is counted. A guest has one anyway. */
static void own_network(void)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) == 0) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(ioctl(fd, SIOCSIFFLAGS, &lo) == 0);
        close(fd);
    }
}

/* The value of a column: names in one line, values in the next. */
static long long value(const char *path, const char *group, const char *column)
{
    static char names[8192], values[8192];
    char *at, *to, *name, *word;
    size_t len = strlen(group);
    FILE *file = fopen(path, "r");
    CHECK(file);
    while (fgets(names, sizeof names, file) && fgets(values, sizeof values, file)) {
        if (strncmp(names, group, len) || names[len] != ':')
            continue;
        name = strtok_r(names, " \n", &at);
        word = strtok_r(values, " \n", &to);
        while (name && word) {
            if (!strcmp(name, column)) {
                fclose(file);
                return atoll(word);
            }
            name = strtok_r(NULL, " \n", &at);
            word = strtok_r(NULL, " \n", &to);
        }
    }
    CHECK(!"no such column");
    return 0;
}

static long long tcp(const char *column)
{
    return value("/proc/net/snmp", "Tcp", column);
}

static long long udp(const char *column)
{
    return value("/proc/net/snmp", "Udp", column);
}

/* A number of /proc/net/sockstat. */
static int sockets(const char *protocol, const char *what)
{
    char line[256], *word;
    int found = -1;
    FILE *file = fopen("/proc/net/sockstat", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, protocol, strlen(protocol)) && (word = strstr(line, what)))
            found = atoi(word + strlen(what));
    fclose(file);
    CHECK(found >= 0);
    return found;
}

int main(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET}, nobody;
    socklen_t len = sizeof to;
    char bytes[4096] = "";
    int listener, client, server, fd;
    long long in, data, opens, resets, delivered, timewaits;

    own_network();
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (void *)&to, sizeof to) == 0 && listen(listener, 8) == 0);
    CHECK(getsockname(listener, (void *)&to, &len) == 0);

    in = tcp("InSegs"), opens = tcp("ActiveOpens"), delivered = value("/proc/net/snmp", "Ip", "InDelivers");
    data = value("/proc/net/netstat", "TcpExt", "TCPOrigDataSent");
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (void *)&to, sizeof to) == 0);
    server = accept(listener, NULL, NULL);
    CHECK(server >= 0);
    CHECK(tcp("ActiveOpens") == opens + 1 && tcp("PassiveOpens") >= 1 && tcp("CurrEstab") == 2);
    CHECK(sockets("TCP:", "inuse ") == 3 && sockets("sockets:", "used ") >= 3);
    for (int i = 0; i < 10; i++) {
        CHECK(write(client, bytes, sizeof bytes) == sizeof bytes);
        CHECK(recv(server, bytes, sizeof bytes, MSG_WAITALL) == sizeof bytes);
        CHECK(write(server, bytes, 1) == 1 && read(client, bytes, 1) == 1);
    }
    /* Three of the handshake, and twenty of data. */
    CHECK(tcp("InSegs") >= in + 23 && tcp("OutSegs") >= 23);
    CHECK(value("/proc/net/snmp", "Ip", "InDelivers") >= delivered + 23);
    CHECK(value("/proc/net/netstat", "TcpExt", "TCPOrigDataSent") >= data + 20);
    CHECK(tcp("RetransSegs") == 0 && tcp("InErrs") == 0);

    timewaits = sockets("TCP:", "tw ");
    close(client);
    CHECK(read(server, bytes, 1) == 0);
    close(server);
    usleep(50000);
    CHECK(sockets("TCP:", "tw ") == timewaits + 1 && tcp("CurrEstab") == 0);

    /* Unread data: a reset. */
    resets = tcp("OutRsts");
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (void *)&to, sizeof to) == 0);
    server = accept(listener, NULL, NULL);
    CHECK(write(client, "x", 1) == 1);
    usleep(10000);
    close(server);
    CHECK(read(client, bytes, 1) == -1 && errno == ECONNRESET);
    close(client);
    CHECK(tcp("OutRsts") == resets + 1 && tcp("EstabResets") >= 1);
    CHECK(value("/proc/net/netstat", "TcpExt", "TCPAbortOnClose") == 1);
    close(listener);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (void *)&to, sizeof to) == -1 && errno == ECONNREFUSED);
    CHECK(tcp("AttemptFails") == 1);
    close(client);

    fd = socket(AF_INET, SOCK_DGRAM, 0);
    to.sin_port = 0, len = sizeof to;
    CHECK(bind(fd, (void *)&to, sizeof to) == 0 && getsockname(fd, (void *)&to, &len) == 0);
    in = udp("InDatagrams");
    for (int i = 0; i < 5; i++)
        CHECK(sendto(fd, bytes, 100, 0, (void *)&to, sizeof to) == 100 && recv(fd, bytes, 200, 0) == 100);
    CHECK(udp("InDatagrams") == in + 5 && udp("OutDatagrams") >= 5 && sockets("UDP:", "inuse ") == 1);
    /* A port that was somebody's. */
    client = socket(AF_INET, SOCK_DGRAM, 0);
    nobody = to, nobody.sin_port = 0, len = sizeof nobody;
    CHECK(bind(client, (void *)&nobody, sizeof nobody) == 0);
    CHECK(getsockname(client, (void *)&nobody, &len) == 0);
    close(client);
    in = udp("NoPorts");
    CHECK(sendto(fd, "x", 1, 0, (void *)&nobody, sizeof nobody) == 1);
    usleep(10000);
    CHECK(udp("NoPorts") == in + 1 && value("/proc/net/snmp", "Icmp", "InDestUnreachs") == 1);
    puts("ok");
    return 0;
}
