/* Two ends that check every byte and time every silence.
 *
 * echo PORT                    sends back what comes
 * ping|stream HOST PORT MS     sends numbered bytes so long and checks what comes back: one question at a time, or as
 *                              much as fits. At the end, a line for each silence of 100 microseconds or more: when it
 *                              began and ended (CLOCK_MONOTONIC, which guests and host share).
 *                              (SIGTERM ends it before its time)
 * idle HOST PORT MS            a question, nothing for so long, and another one on the same connection
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static unsigned char byte_at(long i) { return (unsigned char)(i * 31 + (i >> 8) * 7 + (i >> 16)); }

static int echo(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 16)) return 1;
    printf("ready\n");
    static char bytes[65536];
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        ssize_t got;
        while ((got = read(peer, bytes, sizeof bytes)) > 0) {
            for (ssize_t done = 0, n; done < got; done += n)
                if ((n = write(peer, bytes + done, got - done)) < 0) { printf("write: %s\n", strerror(errno)); return 2; }
        }
        if (got < 0) { printf("read: %s\n", strerror(errno)); return 3; }
        close(peer);
    }
}

#define MOST 4000000
static struct { long from, to; } *silences;
static long silent;
static volatile sig_atomic_t told;

static void tell(int signal) { told = signal; }

static void print_silences(void) {
    for (long i = 0; i < silent; i++) printf("gap %ld %ld\n", silences[i].from, silences[i].to);
}

static int ask(int fd, int number) {
    unsigned char byte = (unsigned char)number, back = 0;
    if (write(fd, &byte, 1) != 1 || read(fd, &back, 1) != 1 || back != byte) {
        printf("question %d: %s\n", number, strerror(errno));
        return 1;
    }
    return 0;
}

static int idle(int fd, long ms) {
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    if (ask(fd, 1)) return 10;
    printf("talking\n");
    nanosleep(&pause, NULL);
    if (ask(fd, 2)) return 11;
    printf("checked 2 bytes after %ld ms\n", ms);
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3) return echo(atoi(argv[2]));
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(argv[2], argv[3], &hints, &found)) return 4;
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (connect(fd, found->ai_addr, found->ai_addrlen)) { perror("connect"); return 5; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!strcmp(argv[1], "idle")) return idle(fd, atol(argv[4]));
    if (!(silences = calloc(MOST, sizeof *silences))) return 12;
    signal(SIGTERM, tell);
    int stream = !strcmp(argv[1], "stream");
    long window = stream ? 262144 : 64, sent = 0, got = 0, answers = 0;
    long end = now_ns() + atol(argv[4]) * 1000000L, last = now_ns();
    static unsigned char bytes[65536];
    printf("talking\n");
    for (;;) {
        int more = !told && now_ns() < end;
        if (!more && got == sent) break;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (more && (stream ? sent - got < window : sent == got)) p.events |= POLLOUT;
        int ready = poll(&p, 1, 20000);
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) { printf("silence for ever after %ld bytes\n", got); return 6; }
        if (p.revents & POLLOUT) {
            long len = stream ? window - (sent - got) : window;
            if (len > (long)sizeof bytes) len = sizeof bytes;
            for (long i = 0; i < len; i++) bytes[i] = byte_at(sent + i);
            ssize_t n = send(fd, bytes, len, MSG_DONTWAIT);
            if (n < 0 && errno != EAGAIN) { printf("send: %s\n", strerror(errno)); return 7; }
            if (n > 0) sent += n;
        }
        if (p.revents & (POLLIN | POLLERR | POLLHUP)) {
            ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) { printf("recv: %s\n", n ? strerror(errno) : "end"); return 8; }
            for (ssize_t i = 0; i < n; i++)
                if (bytes[i] != byte_at(got + i)) { printf("byte %ld is wrong\n", got + i); return 9; }
            if (n > 0) {
                long heard = now_ns();
                got += n;
                answers++;
                if (heard - last >= 100000 && silent < MOST) {
                    silences[silent].from = last;
                    silences[silent++].to = heard;
                }
                last = heard;
            }
        }
    }
    setvbuf(stdout, NULL, _IOFBF, 65536);
    print_silences();
    printf("checked %ld bytes, %ld answers\n", got, answers);
    return 0;
}
