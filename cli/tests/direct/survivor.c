/* Holds what must outlive a network server and a change of device: a bound UDP port, a multicast membership, a listening
 * socket, connections. Answers whoever asks. */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 256 };

static int bound(int type, int port)
{
    struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(port) };
    int fd = socket(AF_INET, type, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own)) {
        perror("bind");
        exit(1);
    }
    return fd;
}

static void answer(int fd, const char *before)
{
    char words[4096];
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    size_t start = strlen(before);
    memcpy(words, before, start);
    ssize_t got = recvfrom(fd, words + start, 1024, 0, (struct sockaddr *)&from, &len);
    if (got < 0)
        return;
    if (got >= 0)
        sendto(fd, words, start + got, 0, (struct sockaddr *)&from, len);
}

int main(void)
{
    int udp = bound(SOCK_DGRAM, 7100), group = bound(SOCK_DGRAM, 7101), listener = bound(SOCK_STREAM, 7102);
    struct ip_mreq join = { .imr_multiaddr.s_addr = inet_addr("239.9.9.9") };
    if (setsockopt(group, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join)) {
        puts("no multicast");
    }
    if (listen(listener, 64)) {
        perror("listen");
        return 1;
    }
    struct pollfd all[3 + CONNECTIONS] = { { udp, POLLIN, 0 }, { group, POLLIN, 0 }, { listener, POLLIN, 0 } };
    int count = 3;
    puts("ready");
    fflush(stdout);
    while (poll(all, count, -1) >= 0) {
        if (all[0].revents)
            answer(udp, "");
        if (all[1].revents)
            answer(group, "heard ");
        for (int i = 3; i < count; i++) {
            char bytes[256];
            if (!all[i].revents)
                continue;
            ssize_t got = read(all[i].fd, bytes, sizeof bytes);
            if (got <= 0 || write(all[i].fd, bytes, got) != got) {
                close(all[i].fd);
                all[i--] = all[--count];
            }
        }
        if (all[2].revents && count < 3 + CONNECTIONS)
            all[count++] = (struct pollfd){ accept(listener, 0, 0), POLLIN, 0 };
    }
    return 1;
}
