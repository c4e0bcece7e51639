/* A program that abuses the memory which its runtime shares with the network server: `MODE MS`.
 *
 * garbage   random words all over the link, positions first
 * foreign   frames from another Ethernet address, another address, another's port, and of no kind at all
 * flood     records as fast as they fit, and never a proper end: it is to be killed in the middle of one
 *
 * The link lies at a fixed address (platform/src/layout.rs); net/src/ring/ says what is in it.
 */
#define _GNU_SOURCE
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINK ((volatile unsigned char *)0x7d2000000000)
#define PAGE 4096

static uint64_t state = 88172645463325252u;

static uint32_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 20);
}

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static volatile uint32_t *word(size_t at) { return (volatile uint32_t *)(LINK + at); }

/* Puts a frame into our sending ring where its positions say, if there is room. */
static int put(const unsigned char *frame, uint32_t len, uint32_t says) {
    uint32_t capacity = *word(16), tail = *word(PAGE), head = *word(PAGE + 128);
    uint32_t need = (len + 8 + 15) & ~15u, offset = tail & (capacity - 1);
    if (tail - head + need > capacity / 2 || offset + need > capacity) return 0;
    volatile unsigned char *record = LINK + 2 * PAGE + offset;
    *(volatile uint32_t *)record = says;
    *(volatile uint32_t *)(record + 4) = 2; /* checksums are done */
    for (uint32_t i = 0; i < len; i++) record[8 + i] = frame[i];
    __atomic_store_n((uint32_t *)word(PAGE), tail + need, __ATOMIC_RELEASE);
    return 1;
}

/* An IPv4 frame with ports. */
static void build(unsigned char *f, const unsigned char *from, const unsigned char *source, int port) {
    static const unsigned char gateway[6] = {2, 0xa7, 0xac, 0xca, 0, 2}, target[4] = {10, 0, 2, 15};
    memset(f, 0, 60);
    memcpy(f, gateway, 6);
    memcpy(f + 6, from, 6);
    memcpy(f + 12, "\x08\x00\x45\x00\x00\x2e\x00\x01\x00\x00\x40\x11", 12);
    memcpy(f + 26, source, 4);
    memcpy(f + 30, target, 4);
    f[34] = port >> 8, f[35] = port, f[37] = 9, f[39] = 26;
}

int main(int argc, char **argv) {
    if (argc < 4) return 9;
    setvbuf(stdout, NULL, _IONBF, 0);
    unsigned char mac[6], address[4], other[4], wrong[6] = {2, 9, 9, 9, 9, 9}, frame[60];
    sscanf(argv[3], "%hhu.%hhu.%hhu.%hhu", &address[0], &address[1], &address[2], &address[3]);
    struct ifreq interface = {0};
    strcpy(interface.ifr_name, "eth0");
    if (ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCGIFHWADDR, &interface)) {
        perror("SIOCGIFHWADDR");
        return 8;
    }
    memcpy(mac, interface.ifr_hwaddr.sa_data, 6);
    memcpy(other, address, 4);
    other[3] ^= 1;
    uint32_t capacity = *word(16);
    size_t ring = PAGE + capacity, words = (PAGE + 2 * ring) / 4;
    printf("ready\n");
    for (long end = now_ms() + atol(argv[2]); now_ms() < end;) {
        if (!strcmp(argv[1], "garbage")) {
            size_t places[] = {PAGE / 4 + next() % 64, (PAGE + ring) / 4 + next() % 64, next() % words};
            uint32_t values[] = {next() & ~15u, next() % (2 * capacity), 0xffffffff, next()};
            *word(4 * places[next() % 3]) = values[next() % 4];
        } else if (!strcmp(argv[1], "foreign")) {
            build(frame, wrong, address, 5000);
            while (!put(frame, 60, 60) && now_ms() < end) usleep(100);
            build(frame, mac, other, 5000);
            while (!put(frame, 60, 60) && now_ms() < end) usleep(100);
            build(frame, mac, address, 80); /* a port of the address's other owner, if it is shared */
            while (!put(frame, 60, 60) && now_ms() < end) usleep(100);
            memset(frame, 0xa5, 60);
            while (!put(frame, 60, 60) && now_ms() < end) usleep(100);
        } else {
            build(frame, mac, address, 5000);
            put(frame, 60, 60);
        }
    }
    printf("done\n");
    pause();
}
