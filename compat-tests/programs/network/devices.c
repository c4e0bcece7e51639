/* SO_BINDTODEVICE (socket(7)) as far as every program meets it: a device that is not there, unbinding, asking. Being bound
 * to one is either there with all that follows or refused by its name. */
#include "../check.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

static void asked(int fd, const char *name)
{
    char bound[IFNAMSIZ];
    socklen_t len = sizeof bound;
    memset(bound, 'x', sizeof bound);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, bound, &len) == 0);
    CHECK(*name == 0 ? len == 0 && bound[0] == 'x' : len == strlen(name) + 1 && strcmp(bound, name) == 0);
}

static int set(int fd, const char *name, socklen_t len)
{
    return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, len);
}

/* Bytes still come from the same host. */
static void still_works(int kind)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof own;
    int to = socket(AF_INET, kind, 0), from = socket(AF_INET, kind, 0);
    char byte = 0;
    CHECK(set(from, "", 0) == 0 && set(to, "\0", 1) == 0);
    CHECK(bind(to, (struct sockaddr *)&own, len) == 0 && getsockname(to, (struct sockaddr *)&own, &len) == 0);
    CHECK(kind != SOCK_STREAM || listen(to, 1) == 0);
    CHECK(connect(from, (struct sockaddr *)&own, len) == 0 && write(from, "y", 1) == 1);
    int end = kind == SOCK_STREAM ? accept(to, NULL, NULL) : dup(to);
    CHECK(end >= 0 && read(end, &byte, 1) == 1 && byte == 'y');
    close(end), close(to), close(from);
}

int main(void)
{
    const int kinds[] = {SOCK_STREAM, SOCK_DGRAM};
    for (int at = 0; at < 4; at++) {
        int fd = socket(at / 2 ? AF_INET6 : AF_INET, kinds[at % 2], 0);
        CHECK(fd >= 0);
        asked(fd, "");
        CHECK(set(fd, "nonesuch0", 9) == -1 && errno == ENODEV);
        CHECK(set(fd, "nonesuch0\0junk", 14) == -1 && errno == ENODEV);
        /* A name is cut at IFNAMSIZ - 1. */
        CHECK(set(fd, "a-name-that-is-far-too-long-for-one", 35) == -1 && errno == ENODEV);
        CHECK(set(fd, NULL, 4) == -1 && errno == EFAULT);
        asked(fd, "");
        CHECK(set(fd, "", 0) == 0 && set(fd, "\0\0\0\0", 4) == 0);
        asked(fd, "");
        if (set(fd, "lo", 2) == 0) {
            asked(fd, "lo");
            CHECK(set(fd, "nonesuch0", 9) == -1 && errno == ENODEV);
            asked(fd, "lo");
            CHECK(set(fd, "", 0) == 0);
        } else {
            CHECK(errno == ENOPROTOOPT || errno == EPERM);
        }
        asked(fd, "");
        char small[2];
        socklen_t len = sizeof small;
        CHECK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, small, &len) == 0 && len == 0);
        close(fd);
    }
    still_works(SOCK_STREAM);
    still_works(SOCK_DGRAM);
    puts("ok");
    return 0;
}
