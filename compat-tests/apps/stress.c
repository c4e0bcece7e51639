/* Processes under stress (cli/tests/stress.rs): workers that do all that shares kernel state, and may be killed at any
 * moment by the host or by each other. The parent starts new ones as they die; when its standard input ends, it ends
 * them, waits until it has no child, and compares what the guest holds then with what it held after a first round. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 10, PORT = 7000 };

extern char **environ;

static uint64_t state;

static unsigned rnd(unsigned limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 11) % limit;
}

/* What all processes share. */
struct shared {
    pthread_mutex_t robust;
    unsigned counter, again;
    pid_t workers[WORKERS];
    volatile unsigned turns[16];
};

static struct shared *shared;
static int listener;
static const char *self;

static void fail(const char *what)
{
    printf("%s (errno %d)\n", what, errno);
    fflush(stdout);
    _exit(99);
}

#define NEED(holds) ((holds) ? (void)0 : fail(#holds))

/* A child may have been killed by anybody. */
static void reap(pid_t child, int status)
{
    int got;
    pid_t pid;
    while ((pid = waitpid(child, &got, 0)) == -1 && errno == EINTR)
        ;
    NEED(pid == child && (got == status || (WIFSIGNALED(got) && WTERMSIG(got) == SIGKILL)));
}

static void forks(void)
{
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        pid_t deeper = fork();
        if (deeper == 0)
            _exit(0);
        if (deeper > 0)
            reap(deeper, 0);
        _exit(3);
    }
    reap(child, 3 << 8);
}

static void spawns(void)
{
    char *words[] = {(char *)self, "0", NULL};
    pid_t child;
    NEED(posix_spawn(&child, self, NULL, NULL, words, environ) == 0);
    reap(child, 5 << 8);
    child = vfork();
    if (child == 0) {
        execve(self, words, environ);
        _exit(127);
    }
    NEED(child > 0);
    reap(child, 5 << 8);
}

/* Bytes through a pipe to a child and back. The other end may die on us. */
static void pipes(void)
{
    int there[2], back[2];
    NEED(pipe(there) == 0 && pipe2(back, O_CLOEXEC) == 0);
    pid_t child = fork();
    NEED(child >= 0);
    char bytes[3000];
    if (child == 0) {
        close(there[1]), close(back[0]);
        ssize_t got;
        while ((got = read(there[0], bytes, sizeof bytes)) > 0)
            if (write(back[1], bytes, (size_t)got) != got)
                break;
        _exit(0);
    }
    close(there[0]), close(back[1]);
    memset(bytes, 'x', sizeof bytes);
    for (unsigned turn = 0; turn < 20; turn++) {
        size_t len = 1 + rnd(sizeof bytes);
        if (write(there[1], bytes, len) != (ssize_t)len)
            break;
        while (len > 0) {
            ssize_t got = read(back[0], bytes, len);
            if (got <= 0)
                goto over;
            len -= (size_t)got;
        }
    }
over:
    close(there[1]), close(back[0]);
    reap(child, 0);
}

/* Descriptors of all kinds on the way to a process that may never take them. */
static void passes(void)
{
    int pair[2];
    NEED(socketpair(AF_UNIX, rnd(2) ? SOCK_STREAM : SOCK_SEQPACKET, 0, pair) == 0);
    pid_t child = fork();
    NEED(child >= 0);
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(3 * sizeof(int))];
    } control;
    char byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    if (child == 0) {
        close(pair[0]);
        while (recvmsg(pair[1], &message, 0) == 1) {
            int *fds = (int *)CMSG_DATA(&control.header);
            if (message.msg_controllen >= sizeof control.room)
                close(fds[0]), close(fds[1]), close(fds[2]);
            message.msg_controllen = sizeof control.room;
        }
        _exit(0);
    }
    for (unsigned turn = 0; turn < 5; turn++) {
        int fds[3] = {eventfd(turn, 0), epoll_create1(0), open("/dev/null", O_RDWR)};
        struct epoll_event event = {.events = EPOLLIN};
        NEED(epoll_ctl(fds[1], EPOLL_CTL_ADD, fds[0], &event) == 0);
        control.header = (struct cmsghdr){CMSG_LEN(sizeof fds), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), fds, sizeof fds);
        ssize_t sent = sendmsg(pair[0], &message, MSG_NOSIGNAL);
        close(fds[0]), close(fds[1]), close(fds[2]);
        if (sent != 1)
            break;
    }
    close(pair[0]), close(pair[1]);
    reap(child, 0);
}

/* TCP over the loopback to whoever accepts on the shared listener. */
static void connects(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    NEED(fd >= 0);
    struct timeval limit = {.tv_usec = 50000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    char bytes[64] = "a question";
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 && send(fd, bytes, 10, MSG_NOSIGNAL) == 10)
        (void)!read(fd, bytes, sizeof bytes);
    close(fd);
}

static void accepts(void)
{
    struct pollfd ready = {.fd = listener, .events = POLLIN};
    if (poll(&ready, 1, (int)rnd(20)) != 1)
        return;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    char bytes[64];
    ready.fd = fd;
    if (poll(&ready, 1, 10) == 1) {
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got > 0)
            (void)!send(fd, bytes, (size_t)got, MSG_NOSIGNAL);
    }
    close(fd);
}

/* The counters are equal whenever nobody holds the lock, or its holder has died between them. */
static void locks(void)
{
    for (unsigned turn = 0; turn < 50; turn++) {
        int got = pthread_mutex_lock(&shared->robust);
        NEED(got == 0 || got == EOWNERDEAD);
        if (got == EOWNERDEAD) {
            shared->again = shared->counter;
            NEED(pthread_mutex_consistent(&shared->robust) == 0);
        }
        NEED(shared->counter == shared->again);
        shared->counter++;
        if (turn % 16 == 0)
            sched_yield();
        shared->again++;
        NEED(pthread_mutex_unlock(&shared->robust) == 0);
    }
}

static void *computes(void *argument)
{
    volatile unsigned sum = 0;
    for (unsigned at = 0; at < 200000; at++)
        sum += at;
    return argument;
}

static void threads(void)
{
    pthread_t some[4];
    for (unsigned at = 0; at < 4; at++)
        NEED(pthread_create(&some[at], NULL, computes, NULL) == 0);
    for (unsigned at = 0; at < 4; at++)
        pthread_join(some[at], NULL);
}

static void memory(void)
{
    size_t len = 4096 * (1 + rnd(300));
    char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(at != MAP_FAILED);
    for (size_t touched = 0; touched < len; touched += 4096 * 8)
        at[touched] = 1;
    munmap(at, len);
    at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(at != MAP_FAILED);
    pid_t child = fork();
    if (child == 0) {
        at[0] = 'x';
        _exit(0);
    }
    reap(child, 0);
    munmap(at, 4096);
}

/* Names: what a killed process leaves under one is overwritten by the next that comes to it. */
static void files(void)
{
    char name[64];
    snprintf(name, sizeof name, "/stress-%u", rnd(8));
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    NEED(fd >= 0);
    (void)!ftruncate(fd, 4096 * (1 + rnd(8)));
    (void)!write(fd, name, sizeof name);
    struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
    (void)!fcntl(fd, F_SETLK, &lock);
    close(fd);
    if (rnd(2))
        shm_unlink(name);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "stress-%u", rnd(4));
    int end = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (bind(end, (struct sockaddr *)&address, sizeof address) == 0) {
        (void)!sendto(end, name, sizeof name, MSG_DONTWAIT, (struct sockaddr *)&address, sizeof address);
    }
    close(end);
}

static void semaphores(void)
{
    int id = semget(0x57e55, 1, IPC_CREAT | 0600);
    if (id < 0)
        return;
    struct sembuf up = {0, 1, SEM_UNDO}, down = {0, -1, SEM_UNDO};
    (void)!semop(id, &up, 1);
    (void)!semop(id, &down, 1);
}

static void on_alarm(int signal)
{
    (void)signal;
}

static void signals(void)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGUSR1, on_alarm);
        struct timespec some = {.tv_nsec = 2000000};
        for (unsigned at = 0; at < 5; at++)
            nanosleep(&some, NULL);
        _exit(0);
    }
    for (unsigned at = 0; at < 5; at++) {
        kill(child, SIGSTOP);
        kill(child, SIGCONT);
    }
    struct itimerval soon = {.it_value.tv_usec = 500};
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &soon, NULL);
    struct timespec some = {.tv_nsec = 1000000};
    nanosleep(&some, NULL);
    reap(child, 0);
}

/* Kill(2) from inside, of some worker: perhaps oneself. */
static void kills(void)
{
    pid_t victim = shared->workers[rnd(WORKERS)];
    if (victim > 0 && rnd(3) == 0)
        kill(victim, SIGKILL);
}

/* A grandchild that nobody waits for. */
static void orphans(void)
{
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            struct timespec some = {.tv_nsec = 1000000};
            nanosleep(&some, NULL);
        }
        _exit(0);
    }
    reap(child, 0);
}

static void (*const acts[])(void) = {forks,   spawns,  pipes, passes,     connects, accepts, accepts, locks,
                                     threads, memory, files, semaphores, signals,  kills,   orphans};

static void work(unsigned number)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    state ^= (uint64_t)getpid() << 20 ^ (uint64_t)number << 3;
    for (;;) {
        unsigned act = rnd(sizeof acts / sizeof *acts);
        shared->turns[act]++;
        acts[act]();
    }
}

static void start(unsigned number)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        work(number);
    shared->workers[number] = child;
    state += 0x9e3779b97f4a7c15u;
}

/* ---- what is left ---- */

static unsigned entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned count = 0;
    if (dir == NULL)
        return 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static unsigned processes(void)
{
    DIR *dir = opendir("/proc");
    unsigned count = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] >= '0' && entry->d_name[0] <= '9';
    closedir(dir);
    return count;
}

/* Ends all workers and waits until nobody is left but this process. */
static void quiesce(void)
{
    for (unsigned at = 0; at < WORKERS; at++)
        if (shared->workers[at] > 0)
            kill(shared->workers[at], SIGKILL);
    /* Orphans of workers are reaped by us: children that have not ended are killed by their parent's death. */
    for (unsigned round = 0; round < 2000; round++) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (processes() == 1)
            return;
        /* One may be stopped whose parent was killed before it let it go on (signals). */
        kill(0, SIGCONT);
        struct timespec some = {.tv_nsec = 10000000};
        nanosleep(&some, NULL);
    }
    DIR *dir = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') {
            char path[300], text[200];
            snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
            int fd = open(path, O_RDONLY);
            ssize_t got = read(fd, text, sizeof text - 1);
            close(fd);
            printf("still there: %.*s\n", got > 0 ? (int)got : 0, text);
        }
    fail("processes are left");
}

/* ---- what the guest holds ---- */

enum { ROWS = 64 };

/* Rows of /proc/slabinfo, which only a guest's is exact: sizes and objects in use; and rows of /proc/net. */
struct holding {
    unsigned rows;
    unsigned long size[ROWS], active[ROWS], bytes;
    unsigned descriptors, tcp, udp, local;
};

/* TCP's rows without connections that only wait for late segments (06: TIME_WAIT). */
static unsigned sockets(const char *path, int tcp)
{
    FILE *file = fopen(path, "re");
    char line[512], state[3];
    unsigned count = 0;
    if (file == NULL)
        return 0;
    (void)!fgets(line, sizeof line, file);
    while (fgets(line, sizeof line, file) != NULL)
        count += !tcp || (sscanf(line, "%*s %*s %*s %2s", state) == 1 && strcmp(state, "06") != 0);
    fclose(file);
    return count;
}

static void look(struct holding *held)
{
    memset(held, 0, sizeof *held);
    held->descriptors = entries("/proc/self/fd");
    held->tcp = sockets("/proc/net/tcp", 1) + sockets("/proc/net/tcp6", 1);
    held->udp = sockets("/proc/net/udp", 0) + sockets("/proc/net/udp6", 0);
    held->local = sockets("/proc/net/unix", 0);
    FILE *file = fopen("/proc/slabinfo", "re");
    char line[512];
    while (file != NULL && fgets(line, sizeof line, file) != NULL && held->rows < ROWS) {
        unsigned at = held->rows;
        if (sscanf(line, "%*s %lu %*u %lu", &held->active[at], &held->size[at]) == 2) {
            held->bytes += held->active[at] * held->size[at];
            held->rows++;
        }
    }
    if (file != NULL)
        fclose(file);
}

static void compare(const struct holding *before, const struct holding *now)
{
    printf("kernel memory: %lu KiB before, %lu KiB now;", before->bytes >> 10, now->bytes >> 10);
    for (unsigned at = 0; at < now->rows; at++) {
        unsigned long was = 0;
        for (unsigned other = 0; other < before->rows; other++)
            if (before->size[other] == now->size[at])
                was = before->active[other];
        if (was != now->active[at])
            printf(" %lu: %+ld", now->size[at], (long)(now->active[at] - was));
    }
    printf("\nsockets: tcp %u %u, udp %u %u, unix %u %u\n", before->tcp, now->tcp, before->udp, now->udp,
           before->local, now->local);
    if (now->tcp > before->tcp) {
        FILE *file = fopen("/proc/net/tcp", "re");
        char line[512];
        while (file != NULL && fgets(line, sizeof line, file) != NULL)
            fputs(line, stdout);
        if (file != NULL)
            fclose(file);
    }
}

/* Connections that no worker came to accept. */
static void turn_away(void)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;)
        close(fd);
}

static void forget_names(void)
{
    char name[64];
    for (unsigned at = 0; at < 8; at++) {
        snprintf(name, sizeof name, "/stress-%u", at);
        shm_unlink(name);
    }
}

/* A word from the test that runs us: 0 at the end of the input. */
static int word(void)
{
    char byte;
    return read(0, &byte, 1) == 1;
}

static void run(int until_input_ends, unsigned rounds)
{
    for (unsigned at = 0; at < WORKERS; at++)
        start(at);
    for (unsigned round = 0; until_input_ends || round < rounds; round++) {
        int status;
        pid_t dead;
        while ((dead = waitpid(-1, &status, WNOHANG)) > 0) {
            if (status != SIGKILL && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
                for (unsigned at = 0; at < WORKERS; at++)
                    if (shared->workers[at] == dead) {
                        printf("a worker ended with status %x\n", status);
                        fail("worker");
                    }
            }
            for (unsigned at = 0; at < WORKERS; at++)
                if (shared->workers[at] == dead)
                    start(at);
        }
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, until_input_ends ? 1 : 0, 5) > 0)
            break;
    }
    quiesce();
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "0") == 0)
        return 5;
    self = argv[0];
    state = argc > 1 ? strtoull(argv[1], NULL, 10) | 1 : 12345;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(shared != MAP_FAILED);
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->robust, &how);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    NEED(bind(listener, (struct sockaddr *)&own, sizeof own) == 0 && listen(listener, 100) == 0);
    run(0, 200);
    struct holding before, now;
    forget_names();
    turn_away();
    look(&before);
    puts("ready");
    fflush(stdout);
    (void)word();
    run(1, 0);
    (void)word();
    NEED(pthread_mutex_lock(&shared->robust) != ENOTRECOVERABLE);
    pthread_mutex_unlock(&shared->robust);
    forget_names();
    /* What late segments and acknowledgements are awaited for ends by itself. */
    for (unsigned round = 0; round < 3000; round++) {
        turn_away();
        look(&now);
        if (now.tcp <= before.tcp)
            break;
        struct timespec some = {.tv_nsec = 10000000};
        nanosleep(&some, NULL);
    }
    compare(&before, &now);
    printf("turns:");
    for (unsigned at = 0; at < sizeof acts / sizeof *acts; at++)
        printf(" %u", shared->turns[at]);
    int left = (int)now.descriptors - (int)before.descriptors;
    int names = (int)(now.tcp + now.udp + now.local) - (int)(before.tcp + before.udp + before.local);
    printf("\nleft: descriptors %d, sockets %d, processes %u, in /dev/shm %u, kernel memory %ld\n", left, names,
           processes() - 1, entries("/dev/shm"), (long)(now.bytes - before.bytes));
    fflush(stdout);
    /* Until the test has looked at us from outside. */
    (void)word();
    return left != 0 || names > 0 || processes() != 1 || entries("/dev/shm") != 0;
}
