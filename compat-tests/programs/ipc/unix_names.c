/* A listener's name is its own: connections that were accepted from it come and go without taking it away. */
#include "../check.h"
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int socket_to(const struct sockaddr_un *name, socklen_t len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)name, len) == 0);
    return fd;
}

static void serve(const struct sockaddr_un *name, socklen_t len)
{
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(listener, (const struct sockaddr *)name, len) == 0 && listen(listener, 4) == 0);
    for (int round = 0; round < 3; round++) {
        int client = socket_to(name, len), server = accept(listener, NULL, NULL);
        struct sockaddr_un own;
        socklen_t own_len = sizeof own;
        CHECK(getsockname(server, (struct sockaddr *)&own, &own_len) == 0);
        CHECK(own_len == len && memcmp(own.sun_path, name->sun_path, len - 2) == 0);
        close(server);
        close(client);
    }
    /* The name is free when the listener is gone, and not before. */
    int client = socket_to(name, len), server = accept(listener, NULL, NULL), other = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(other, (const struct sockaddr *)name, len) == -1 && errno == EADDRINUSE);
    close(listener);
    CHECK(connect(other, (const struct sockaddr *)name, len) == -1 && errno == ECONNREFUSED);
    unlink(name->sun_path[0] ? name->sun_path : "/nonexistent");
    CHECK(bind(other, (const struct sockaddr *)name, len) == 0 && listen(other, 4) == 0);
    close(server);
    close(client);
    close(socket_to(name, len));
    close(other);
}

int main(void)
{
    char dir[] = "/tmp/unix_names.XXXXXX";
    CHECK(mkdtemp(dir) != NULL);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int len = snprintf(name.sun_path, sizeof name.sun_path, "%s/s", dir);
    serve(&name, (socklen_t)(2 + len + 1));
    unlink(name.sun_path);
    rmdir(dir);
    memset(name.sun_path, 0, sizeof name.sun_path);
    len = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "unix_names.%d", getpid());
    serve(&name, (socklen_t)(2 + 1 + len));
    puts("ok");
    return 0;
}
