// Record locks of fcntl(2) between processes: exclusion, ranges, waiting, what ends them, deadlock.
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static int file;
static char name[] = "/tmp/locksXXXXXX";

static int lock(int fd, int command, short type, off_t start, off_t len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    return fcntl(fd, command, &l);
}

/* What another process is told: the type of the lock in its way, and its owner. */
static int seen_by_another(off_t start, off_t len, pid_t owner)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
        CHECK(fcntl(file, F_GETLK, &l) == 0);
        CHECK(l.l_type == F_UNLCK || l.l_pid == owner);
        int refused = lock(file, F_SETLK, F_WRLCK, start, len) == -1 && (errno == EAGAIN || errno == EACCES);
        _exit(l.l_type * 2 + refused);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

int main(void)
{
    pid_t own = getpid();
    file = mkstemp(name);
    CHECK(file >= 0);
    CHECK(lock(file, F_SETLK, F_WRLCK, 10, 10) == 0);
    CHECK(seen_by_another(0, 10, own) == F_UNLCK * 2);
    CHECK(seen_by_another(15, 1, own) == F_WRLCK * 2 + 1);
    CHECK(lock(file, F_SETLK, F_RDLCK, 12, 4) == 0);
    CHECK(seen_by_another(13, 1, own) == F_RDLCK * 2 + 1);
    CHECK(lock(file, F_SETLK, F_UNLCK, 10, 2) == 0);
    CHECK(seen_by_another(10, 2, own) == F_UNLCK * 2);
    /* Any descriptor of the file that is closed ends them all. */
    int second = open(name, O_RDWR);
    CHECK(second >= 0);
    close(second);
    CHECK(seen_by_another(10, 10, own) == F_UNLCK * 2);
    CHECK(lock(file, F_SETLK, 77, 0, 1) == -1 && errno == EINVAL);
    int reader = open(name, O_RDONLY);
    CHECK(lock(reader, F_SETLK, F_WRLCK, 0, 1) == -1 && errno == EBADF);
    close(reader);
    /* Waiting, until the holder unlocks; and a holder that is killed. */
    int ends[2];
    char c;
    CHECK(pipe(ends) == 0);
    for (int killed = 0; killed < 2; killed++) {
        pid_t child = fork();
        if (child == 0) {
            CHECK(lock(file, F_SETLKW, F_WRLCK, 0, 0) == 0);
            CHECK(write(ends[1], "x", 1) == 1);
            usleep(30000);
            if (killed)
                for (;;)
                    pause();
            CHECK(lock(file, F_SETLK, F_UNLCK, 0, 0) == 0);
            _exit(0);
        }
        CHECK(read(ends[0], &c, 1) == 1);
        if (killed)
            kill(child, SIGKILL);
        CHECK(lock(file, F_SETLKW, F_WRLCK, 5, 1) == 0);
        CHECK(waitpid(child, NULL, 0) == child);
        CHECK(lock(file, F_SETLK, F_UNLCK, 0, 0) == 0);
    }
    /* Each has one and wants the other's. */
    CHECK(lock(file, F_SETLK, F_WRLCK, 0, 1) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(lock(file, F_SETLK, F_WRLCK, 1, 1) == 0);
        CHECK(write(ends[1], "x", 1) == 1);
        int failed = lock(file, F_SETLKW, F_WRLCK, 0, 1) == -1;
        CHECK(!failed || errno == EDEADLK);
        _exit(failed);
    }
    CHECK(read(ends[0], &c, 1) == 1);
    usleep(20000);
    int failed = lock(file, F_SETLKW, F_WRLCK, 1, 1) == -1, status;
    CHECK(!failed || errno == EDEADLK);
    lock(file, F_SETLK, F_UNLCK, 0, 0);
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) + failed == 1);
    /* flock(2) rides on the open file description: shared over fork, against another one exclusive. */
    CHECK(flock(file, LOCK_EX) == 0);
    child = fork();
    if (child == 0) {
        int other = open(name, O_RDWR);
        CHECK(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
        CHECK(flock(file, LOCK_EX | LOCK_NB) == 0);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unlink(name);
    puts("ok");
    return 0;
}
