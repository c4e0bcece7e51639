/* inotify on the host's files, and RLIMIT_FSIZE. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int watch;

static void next(int descriptor, unsigned mask, const char *name)
{
    static char buffer[4096] __attribute__((aligned(8)));
    static ssize_t len, at;
    if (at == len) {
        len = read(watch, buffer, sizeof buffer);
        at = 0;
        CHECK(len > 0);
    }
    struct inotify_event *event = (void *)(buffer + at);
    at += sizeof *event + event->len;
    CHECK(event->wd == descriptor && (event->mask & mask) == mask && strcmp(event->len ? event->name : "", name) == 0);
}

static volatile int too_large;
static void on_xfsz(int signal)
{
    (void)signal;
    too_large++;
}

int main(void)
{
    char dir[] = "/tmp/attacca-watch-XXXXXX", path[64];
    CHECK(mkdtemp(dir));
    watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    CHECK(watch >= 0 && read(watch, path, 1) == -1 && errno == EAGAIN);
    int in_dir = inotify_add_watch(watch, dir, IN_CREATE | IN_DELETE | IN_CLOSE_WRITE | IN_ONLYDIR);
    CHECK(in_dir >= 0);
    struct pollfd asked = {.fd = watch, .events = POLLIN};
    CHECK(poll(&asked, 1, 0) == 0);
    sprintf(path, "%s/file", dir);
    CHECK(inotify_add_watch(watch, path, IN_MODIFY) == -1 && errno == ENOENT);
    int file = open(path, O_RDWR | O_CREAT, 0600);
    CHECK(poll(&asked, 1, 5000) == 1);
    next(in_dir, IN_CREATE, "file");
    CHECK(inotify_add_watch(watch, path, IN_MODIFY | IN_ONLYDIR) == -1 && errno == ENOTDIR);
    int on_file = inotify_add_watch(watch, path, IN_MODIFY);
    CHECK(on_file >= 0 && on_file != in_dir && write(file, "x", 1) == 1);
    next(on_file, IN_MODIFY, "");
    /* A limit on size. */
    struct rlimit limit = {100, RLIM_INFINITY};
    char block[64] = {0};
    struct iovec pieces[2] = {{block, 64}, {block, 64}};
    signal(SIGXFSZ, on_xfsz);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(lseek(file, 0, SEEK_SET) == 0 && write(file, block, 64) == 64 && write(file, block, 64) == 36 && !too_large);
    CHECK(write(file, block, 1) == -1 && errno == EFBIG && too_large == 1);
    CHECK(lseek(file, 0, SEEK_SET) == 0 && writev(file, pieces, 2) == 100);
    CHECK(ftruncate(file, 101) == -1 && errno == EFBIG && too_large == 2 && ftruncate(file, 100) == 0);
    CHECK(inotify_rm_watch(watch, on_file) == 0 && inotify_rm_watch(watch, on_file) == -1 && errno == EINVAL);
    CHECK(inotify_add_watch(file, dir, IN_CREATE) == -1 && errno == EINVAL);
    close(file);
    CHECK(unlink(path) == 0 && rmdir(dir) == 0);
    puts("ok");
    return 0;
}
