/* Opens connections to a redis server, asks each once, and keeps them until its input ends: crowd HOST PORT COUNT. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(condition) do { if (!(condition)) { perror(#condition); exit(1); } } while (0)

int main(int argc, char **argv)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *to;
    int count = argc > 3 ? atoi(argv[3]) : 0;
    struct rlimit files = {count + 100, count + 100};
    char answer[16];
    CHECK(count > 0 && getaddrinfo(argv[1], argv[2], &hints, &to) == 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
    for (int i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen) == 0);
        CHECK(write(fd, "PING\r\n", 6) == 6);
        CHECK(read(fd, answer, sizeof answer) == 7 && !memcmp(answer, "+PONG\r\n", 7));
    }
    printf("open %d\n", count);
    fflush(stdout);
    CHECK(read(0, answer, 1) == 0);
    return 0;
}
