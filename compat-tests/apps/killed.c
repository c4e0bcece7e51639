/* What is left of a process that is killed from outside in the middle of a call (cli/tests/killed.rs): nothing that
 * others have to wait for. In each case a victim, the youngest process, goes to sleep in a call; we print "kill", the test
 * kills it by its host's id, and the others find what it held free. The same natively. */
#define _GNU_SOURCE
#include "../programs/check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct shared {
    pthread_mutex_t mutex, handed_over, plain;
    unsigned word;
    volatile unsigned ready, done;
} *shared;

static void nap(long ms)
{
    struct timespec some = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&some, &some) == -1)
        ;
}

/* Says that a process is about to sleep in a call; waits until `count` have said so, and sleep. */
static void ready(void)
{
    __atomic_add_fetch(&shared->ready, 1, __ATOMIC_SEQ_CST);
}

static void await(unsigned count)
{
    while (shared->ready != count)
        nap(1);
    nap(30);
}

static pid_t start(void (*body)(int), int argument)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        body(argument);
        _exit(0);
    }
    return child;
}

/* Has the test kill the youngest process, and takes its status. */
static void killed(pid_t victim)
{
    int status;
    puts("kill");
    fflush(stdout);
    CHECK(waitpid(victim, &status, 0) == victim && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void ends(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* ---- locks ---- */

static void holds(int none)
{
    (void)none;
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    ready();
    pause();
}

static void waits_for_mutex(int none)
{
    (void)none;
    ready();
    CHECK(pthread_mutex_lock(&shared->mutex) == EOWNERDEAD && pthread_mutex_consistent(&shared->mutex) == 0);
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
}

static void robust(void)
{
    pid_t victim = start(holds, 0);
    await(1);
    killed(victim);
    CHECK(pthread_mutex_trylock(&shared->mutex) == EOWNERDEAD && pthread_mutex_consistent(&shared->mutex) == 0);
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
    victim = start(holds, 0);
    await(2);
    killed(victim);
    CHECK(pthread_mutex_lock(&shared->mutex) == EOWNERDEAD && pthread_mutex_consistent(&shared->mutex) == 0);
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
}

static void *locks_and_ends(void *none)
{
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    ready();
    return none;
}

/* A thread that ends with the lock, in a process that is killed later: its list was walked long before. */
static void holds_by_thread(int none)
{
    pthread_t thread;
    (void)none;
    CHECK(pthread_create(&thread, NULL, locks_and_ends, NULL) == 0 && pthread_join(thread, NULL) == 0);
    pause();
}

static void robust_waiters(void)
{
    /* The waiter must come while the victim lives, and must not be the youngest: it waits for the victim's lock. */
    int gate[2];
    CHECK(pipe(gate) == 0);
    pid_t waiter = fork();
    if (waiter == 0) {
        char byte;
        alarm(60);
        CHECK(read(gate[0], &byte, 1) == 1);
        waits_for_mutex(0);
        _exit(0);
    }
    pid_t victim = start(holds, 0);
    await(1);
    CHECK(write(gate[1], "", 1) == 1);
    await(2);
    killed(victim);
    ends(waiter);
    CHECK(pthread_mutex_lock(&shared->mutex) == 0 && pthread_mutex_unlock(&shared->mutex) == 0);
    close(gate[0]), close(gate[1]);
    victim = start(holds_by_thread, 0);
    await(3);
    CHECK(pthread_mutex_lock(&shared->mutex) == EOWNERDEAD && pthread_mutex_consistent(&shared->mutex) == 0);
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
    killed(victim);
}

/* ---- locks that the kernel hands over ---- */

static long futex(unsigned *word, int op)
{
    return syscall(SYS_futex, word, op, 0, NULL, NULL, 0);
}

static void holds_handed_over(int none)
{
    (void)none;
    CHECK(pthread_mutex_lock(&shared->handed_over) == 0);
    ready();
    pause();
}

/* Each of the waiters gets it in turn; the first is told. */
static void waits_for_hand_over(int none)
{
    (void)none;
    ready();
    int got = pthread_mutex_lock(&shared->handed_over);
    CHECK(got == 0 || got == EOWNERDEAD);
    if (got == EOWNERDEAD) {
        __atomic_add_fetch(&shared->done, 1, __ATOMIC_SEQ_CST);
        CHECK(pthread_mutex_consistent(&shared->handed_over) == 0);
    }
    nap(5);
    CHECK(pthread_mutex_unlock(&shared->handed_over) == 0);
}

static void holds_word(int none)
{
    (void)none;
    CHECK(futex(&shared->word, FUTEX_LOCK_PI) == 0);
    ready();
    pause();
}

static void waits_for_held_word(int none)
{
    (void)none;
    ready();
    CHECK(futex(&shared->word, FUTEX_LOCK_PI) == 0);
    CHECK(shared->word == ((unsigned)getpid() | FUTEX_WAITERS | FUTEX_OWNER_DIED));
    CHECK(futex(&shared->word, FUTEX_UNLOCK_PI) == 0);
    shared->done++;
}

static void waits_for_plain(int none)
{
    (void)none;
    ready();
    pthread_mutex_lock(&shared->plain);
    shared->done++;
}

static void holds_plain(int none)
{
    (void)none;
    CHECK(pthread_mutex_lock(&shared->plain) == 0);
    ready();
    pause();
}

/* Processes that must be older than the victim and wait for it: they begin when it is there. */
static int gate[2];

static pid_t start_behind_gate(void (*body)(int))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        alarm(60);
        CHECK(read(gate[0], &byte, 1) == 1);
        body(0);
        _exit(0);
    }
    return child;
}

static void open_gate(void)
{
    CHECK(write(gate[1], "", 1) == 1);
}

static void handed_over(void)
{
    pthread_mutex_t *mutex = &shared->handed_over;
    pid_t waiters[3];
    CHECK(pipe(gate) == 0);
    /* Nobody waits: the next one is told, by lock and by trylock. */
    pid_t victim = start(holds_handed_over, 0);
    await(1);
    killed(victim);
    CHECK(pthread_mutex_trylock(mutex) == EOWNERDEAD && pthread_mutex_consistent(mutex) == 0);
    CHECK(pthread_mutex_unlock(mutex) == 0);
    victim = start(holds_handed_over, 0);
    await(2);
    killed(victim);
    CHECK(pthread_mutex_lock(mutex) == EOWNERDEAD && pthread_mutex_consistent(mutex) == 0);
    CHECK(pthread_mutex_unlock(mutex) == 0);
    /* Three wait. */
    for (int i = 0; i < 3; i++)
        waiters[i] = start_behind_gate(waits_for_hand_over);
    victim = start(holds_handed_over, 0);
    await(3);
    for (int i = 0; i < 3; i++)
        open_gate();
    await(6);
    killed(victim);
    for (int i = 0; i < 3; i++)
        ends(waiters[i]);
    CHECK(shared->done == 1);
    CHECK(pthread_mutex_lock(mutex) == 0 && pthread_mutex_unlock(mutex) == 0);
    /* One that waits is killed: the others are not kept by it. */
    CHECK(pthread_mutex_lock(mutex) == 0);
    waiters[0] = start_behind_gate(waits_for_hand_over);
    victim = start(waits_for_hand_over, 0);
    await(7);
    open_gate();
    await(8);
    killed(victim);
    CHECK(pthread_mutex_unlock(mutex) == 0);
    ends(waiters[0]);
    CHECK(shared->done == 1);
    close(gate[0]), close(gate[1]);
}

/* The same without a robust list: who waits gets the word with its mark, who comes later ESRCH. */
static void handed_over_plainly(void)
{
    int status;
    CHECK(pipe(gate) == 0);
    pid_t waiter = start_behind_gate(waits_for_held_word), victim = start(holds_word, 0);
    await(1);
    open_gate();
    await(2);
    killed(victim);
    ends(waiter);
    CHECK(shared->done == 1 && shared->word == 0);
    victim = start(holds_word, 0);
    await(3);
    killed(victim);
    CHECK(futex(&shared->word, FUTEX_TRYLOCK_PI) == -1 && errno == ESRCH);
    CHECK(futex(&shared->word, FUTEX_LOCK_PI) == -1 && errno == ESRCH);
    CHECK(shared->word == ((unsigned)victim | FUTEX_WAITERS));
    /* libc gives up with a mutex that cannot tell of it, and waits for ever for one that is lost already. */
    waiter = start_behind_gate(waits_for_plain), victim = start(holds_plain, 0);
    await(4);
    int null = open("/dev/null", O_WRONLY), errors = dup(2);
    dup2(null, 2);
    pid_t quiet = fork();
    if (quiet == 0) {
        waits_for_plain(0);
        _exit(0);
    }
    dup2(errors, 2);
    await(5);
    kill(victim, SIGKILL);
    CHECK(waitpid(victim, &status, 0) == victim && WTERMSIG(status) == SIGKILL);
    CHECK(waitpid(quiet, &status, 0) == quiet && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    open_gate();
    await(6);
    nap(100);
    CHECK(shared->done == 1 && waitpid(waiter, &status, WNOHANG) == 0);
    kill(waiter, SIGKILL);
    CHECK(waitpid(waiter, &status, 0) == waiter);
    close(gate[0]), close(gate[1]), close(null), close(errors);
}

static void waits_for_word(int order)
{
    while (shared->ready != (unsigned)order)
        nap(1);
    nap(20 * order);
    ready();
    CHECK(syscall(SYS_futex, &shared->word, FUTEX_WAIT, 0, NULL, NULL, 0) == 0);
    shared->done++;
}

/* The victim waits first: whoever is woken must not be it. */
static void words(void)
{
    pid_t second = start(waits_for_word, 1), victim = start(waits_for_word, 0);
    await(2);
    nap(50);
    killed(victim);
    CHECK(syscall(SYS_futex, &shared->word, FUTEX_WAKE, 1, NULL, NULL, 0) == 1);
    ends(second);
    CHECK(shared->done == 1);
}

static void waits_for_semaphore(int id)
{
    struct sembuf take = {0, -1, SEM_UNDO}, more = {1, -1, 0};
    CHECK(semop(id, &take, 1) == 0);
    ready();
    semop(id, &more, 1);
}

static void semaphores(void)
{
    int id = semget(IPC_PRIVATE, 2, 0600);
    struct sembuf put = {0, 1, 0}, take = {0, -1, 0};
    CHECK(id >= 0 && semop(id, &put, 1) == 0);
    pid_t victim = start(waits_for_semaphore, id);
    await(1);
    killed(victim);
    CHECK(semop(id, &take, 1) == 0);
    CHECK(semctl(id, 1, GETNCNT) == 0 && semctl(id, 0, IPC_RMID) == 0);
}

static void waits_for_file(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_start = 100, .l_len = 1}, part = {.l_type = F_WRLCK, .l_len = 10};
    CHECK(fcntl(fd, F_SETLK, &whole) == 0);
    ready();
    fcntl(fd, F_SETLKW, &part);
}

static void files(void)
{
    int fd = memfd_create("locked", 0);
    struct flock part = {.l_type = F_WRLCK, .l_len = 10}, whole = {.l_type = F_WRLCK};
    CHECK(fd >= 0 && fcntl(fd, F_SETLK, &part) == 0);
    pid_t victim = start(waits_for_file, fd);
    await(1);
    killed(victim);
    CHECK(fcntl(fd, F_SETLKW, &whole) == 0);
    close(fd);
}

/* ---- files ---- */

static void reads(int fd)
{
    char bytes[100];
    ready();
    while (read(fd, bytes, sizeof bytes) > 0)
        ;
}

static void writes(int fd)
{
    static char bytes[100000];
    ready();
    while (write(fd, bytes, sizeof bytes) > 0)
        ;
}

static void polls(int fd)
{
    struct pollfd asked[2] = {{.fd = fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    ready();
    poll(asked, 2, -1);
}

static void selects(int fd)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    ready();
    select(fd + 1, &set, NULL, NULL, NULL);
}

static void splices(int fd)
{
    int out[2];
    CHECK(pipe(out) == 0);
    ready();
    splice(fd, NULL, out[1], NULL, 4096, 0);
}

static void watches(int fd)
{
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    ready();
    epoll_wait(epoll, &event, 1, -1);
}

/* A pipe whose only reader is killed is broken. */
static void readers(void)
{
    void (*const ways[])(int) = {reads, selects, splices, watches, polls};
    for (unsigned way = 0; way < sizeof ways / sizeof *ways; way++) {
        int ends[2];
        CHECK(pipe(ends) == 0);
        pid_t victim = start(ways[way], ends[0]);
        close(ends[0]);
        await(way + 1);
        killed(victim);
        CHECK(write(ends[1], "x", 1) == -1 && errno == EPIPE);
        close(ends[1]);
    }
}

static void writers(void)
{
    int ends[2];
    char bytes[4096];
    CHECK(pipe(ends) == 0);
    pid_t victim = start(writes, ends[1]);
    close(ends[1]);
    await(1);
    killed(victim);
    while (read(ends[0], bytes, sizeof bytes) > 0)
        ;
    close(ends[0]);
}

static void pairs(void)
{
    int ends[2];
    char byte;
    for (unsigned way = 0; way < 2; way++) {
        CHECK(socketpair(AF_UNIX, way ? SOCK_STREAM : SOCK_SEQPACKET, 0, ends) == 0);
        pid_t victim = start(way ? writes : reads, ends[1]);
        close(ends[1]);
        await(way + 1);
        killed(victim);
        ssize_t got;
        char bytes[4096];
        while ((got = read(ends[0], bytes, sizeof bytes)) > 0)
            ;
        CHECK(got == 0 || errno == ECONNRESET);
        CHECK(send(ends[0], &byte, 1, MSG_NOSIGNAL) == -1);
        close(ends[0]);
    }
}

static void terminals(void)
{
    int slave, master;
    char byte;
    CHECK(openpty(&master, &slave, NULL, NULL, NULL) == 0);
    pid_t victim = start(reads, slave);
    close(slave);
    await(1);
    killed(victim);
    CHECK(read(master, &byte, 1) == -1 && errno == EIO);
    close(master);
}

/* ---- sockets ---- */

static struct sockaddr_in own = {.sin_family = AF_INET};

static int listening(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    socklen_t len = sizeof own;
    CHECK(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    CHECK(bind(fd, (struct sockaddr *)&own, sizeof own) == 0 && listen(fd, 10) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&own, &len) == 0);
    return fd;
}

static int connected(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    if (connect(fd, (struct sockaddr *)&own, sizeof own) == 0)
        return fd;
    close(fd);
    return -1;
}

static void connections(void)
{
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    own.sin_port = 0;
    int listener = listening(), fd = connected(), other = accept(listener, NULL, NULL);
    char byte;
    CHECK(fd >= 0 && other >= 0);
    pid_t victim = start(reads, other);
    close(other);
    await(1);
    killed(victim);
    CHECK(read(fd, &byte, 1) == 0);
    close(fd), close(listener);
}

static void accepts(int fd)
{
    ready();
    int got = accept(fd, NULL, NULL);
    CHECK(got >= 0 && write(got, "x", 1) == 1);
    shared->done++;
}

static void accepts_second(int fd)
{
    await(1);
    accepts(fd);
}

/* Both sleep in accept(2), the victim first: the connection is for the other one. */
static void listeners(void)
{
    char byte;
    own.sin_port = 0;
    int listener = listening();
    pid_t second = start(accepts_second, listener), victim = start(accepts, listener);
    await(2);
    killed(victim);
    int fd = connected();
    CHECK(fd >= 0 && read(fd, &byte, 1) == 1);
    ends(second);
    CHECK(shared->done == 1);
    close(fd), close(listener);
}

static void waits_for_events(int epoll)
{
    struct epoll_event event;
    ready();
    CHECK(epoll_wait(epoll, &event, 1, -1) == 1);
    shared->done++;
}

static void waits_second(int epoll)
{
    await(1);
    waits_for_events(epoll);
}

static void epolls(void)
{
    int epoll = epoll_create1(0), fd = eventfd(0, 0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    pid_t second = start(waits_second, epoll), victim = start(waits_for_events, epoll);
    await(2);
    killed(victim);
    CHECK(eventfd_write(fd, 1) == 0);
    ends(second);
    CHECK(shared->done == 1);
    close(epoll), close(fd);
}

static void serves(int none)
{
    (void)none;
    int fd = listening(), local = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0attacca-killed"};
    CHECK(bind(local, (struct sockaddr *)&name, sizeof name) == 0 && listen(local, 1) == 0);
    ready();
    while (accept(fd, NULL, NULL) >= 0)
        ;
}

/* Addresses that a victim had are free. */
static void names(void)
{
    own.sin_port = 0;
    close(listening());
    pid_t victim = start(serves, 0);
    await(1);
    int fd = connected();
    CHECK(fd >= 0);
    close(fd);
    killed(victim);
    victim = start(serves, 0);
    await(2);
    killed(victim);
    CHECK(connected() == -1 && errno == ECONNREFUSED);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"robust", robust},       {"robust waiters", robust_waiters},
    {"handed over", handed_over},
    {"handed over plainly", handed_over_plainly},
    {"words", words},         {"semaphores", semaphores},
    {"files", files},         {"readers", readers},
    {"writers", writers},     {"pairs", pairs},
    {"terminals", terminals}, {"connections", connections},
    {"listeners", listeners}, {"epolls", epolls},
    {"names", names},
};

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    CHECK(pthread_mutex_init(&shared->mutex, &how) == 0);
    pthread_mutexattr_setprotocol(&how, PTHREAD_PRIO_INHERIT);
    CHECK(pthread_mutex_init(&shared->handed_over, &how) == 0);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_STALLED);
    CHECK(pthread_mutex_init(&shared->plain, &how) == 0);
    for (unsigned at = 0; at < sizeof cases / sizeof *cases; at++) {
        if (argc > 1 && strcmp(argv[1], cases[at].name) != 0)
            continue;
        shared->ready = shared->done = 0;
        shared->word = 0;
        /* What does not come is what is tested: it ends us. */
        alarm(30);
        cases[at].run();
        printf("ok %s\n", cases[at].name);
        fflush(stdout);
    }
    puts("all");
    return 0;
}
