// fork(2): what a child copies and what it shares; many at once; from a thread while others allocate.
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int wait_for(pid_t child)
{
    int status;
    assert(waitpid(child, &status, 0) == child);
    assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void memory_is_copied(void)
{
    static int data = 1;
    int local = 2, *heap = malloc(sizeof *heap);
    *heap = 3;
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        data = local = *heap = 10;
        *shared = 42;
        _exit(data + local + *heap);
    }
    assert(wait_for(child) == 30);
    assert(data == 1 && local == 2 && *heap == 3 && *shared == 42);
    free(heap);
    munmap(shared, 4096);
}

static void offsets_and_pipes_are_shared(void)
{
    char name[] = "/tmp/forksXXXXXX";
    int file = mkstemp(name);
    unlink(name);
    assert(write(file, "0123456789", 10) == 10);
    lseek(file, 2, SEEK_SET);
    int ends[2];
    assert(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        char two[2];
        close(ends[0]);
        assert(read(file, two, 2) == 2 && memcmp(two, "23", 2) == 0);
        assert(write(ends[1], "done", 4) == 4);
        _exit(0);
    }
    close(ends[1]);
    char text[8];
    assert(read(ends[0], text, 8) == 4);
    assert(read(ends[0], text, 8) == 0);
    assert(wait_for(child) == 0);
    assert(lseek(file, 0, SEEK_CUR) == 4);
    close(ends[0]);
    close(file);
}

static void sockets_and_epoll_are_shared(void)
{
    int pair[2], epoll = epoll_create1(0), event = eventfd(0, 0);
    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 7};
    assert(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &ev) == 0);
    pid_t child = fork();
    if (child == 0) {
        struct epoll_event got;
        assert(epoll_wait(epoll, &got, 1, 5000) == 1 && got.data.u32 == 7);
        char c;
        assert(read(pair[0], &c, 1) == 1 && c == 'x');
        uint64_t one = 5;
        assert(write(event, &one, 8) == 8);
        _exit(3);
    }
    usleep(1000);
    assert(write(pair[1], "x", 1) == 1);
    uint64_t sum;
    assert(read(event, &sum, 8) == 8 && sum == 5);
    assert(wait_for(child) == 3);
    // A listener is shared, and a connection goes on when the process that accepted it hands it on.
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr addr = {.sa_family = AF_INET};
    socklen_t len = sizeof addr;
    assert(bind(listener, &addr, sizeof addr) == 0 && listen(listener, 5) == 0);
    assert(getsockname(listener, &addr, &len) == 0);
    child = fork();
    if (child == 0) {
        int one = accept(listener, NULL, NULL);
        if (fork() == 0) {
            char c;
            while (read(one, &c, 1) == 1)
                assert(write(one, &c, 1) == 1);
            _exit(0);
        }
        close(one);
        _exit(0);
    }
    int client = socket(AF_INET, SOCK_STREAM, 0);
    assert(connect(client, &addr, sizeof addr) == 0);
    assert(wait_for(child) == 0);
    for (int i = 0; i < 100; i++) {
        char c = (char)i, back;
        assert(write(client, &c, 1) == 1 && read(client, &back, 1) == 1 && back == c);
    }
    close(client);
    close(listener);
    close(epoll);
    close(event);
    close(pair[0]);
    close(pair[1]);
}

static volatile int stop;

static void *allocates(void *seed)
{
    unsigned s = (unsigned)(long)seed;
    while (!stop) {
        void *blocks[64];
        for (int i = 0; i < 64; i++)
            memset(blocks[i] = malloc(rand_r(&s) % 5000 + 1), 1, 1);
        for (int i = 0; i < 64; i++)
            free(blocks[i]);
    }
    return NULL;
}

static void *forks(void *unused)
{
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        assert(child >= 0);
        if (child == 0) {
            void *blocks[200];
            for (int k = 0; k < 200; k++)
                blocks[k] = malloc(k * 37 + 1);
            for (int k = 0; k < 200; k++)
                free(blocks[k]);
            _exit(42);
        }
        assert(wait_for(child) == 42);
    }
    return unused;
}

static void threads_fork(void)
{
    pthread_t threads[5];
    for (long i = 0; i < 5; i++)
        assert(pthread_create(&threads[i], NULL, i < 3 ? allocates : forks, (void *)i) == 0);
    pthread_join(threads[3], NULL);
    pthread_join(threads[4], NULL);
    stop = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

static void many_at_once(void)
{
    int gate[2];
    assert(pipe(gate) == 0);
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        assert(child >= 0);
        if (child == 0) {
            char c;
            close(gate[1]);
            _exit(read(gate[0], &c, 1));
        }
    }
    close(gate[1]);
    int ended = 0;
    while (wait(NULL) > 0)
        ended++;
    assert(ended == 200 && errno == ECHILD);
    close(gate[0]);
}

static int order[6], steps;
static void prepare_a(void) { order[steps++] = 1; }
static void prepare_b(void) { order[steps++] = 2; }
static void after_a(void) { order[steps++] = 3; }
static void after_b(void) { order[steps++] = 4; }

static void handlers_run(void)
{
    pthread_atfork(prepare_a, after_a, after_a);
    pthread_atfork(prepare_b, after_b, after_b);
    pid_t child = fork();
    assert(steps == 4 && order[0] == 2 && order[1] == 1 && order[2] == 3 && order[3] == 4);
    if (child == 0)
        _exit(9);
    assert(wait_for(child) == 9);
}

static volatile sig_atomic_t alarms;
static void on_alarm(int signal) { alarms += signal == SIGALRM; }

static void timers_and_pending_signals_stay(void)
{
    signal(SIGALRM, on_alarm);
    signal(SIGUSR1, on_alarm);
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    struct itimerval timer = {.it_value = {0, 30000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    pid_t child = fork();
    if (child == 0) {
        struct itimerval now;
        getitimer(ITIMER_REAL, &now);
        sigpending(&pending);
        assert(now.it_value.tv_sec == 0 && now.it_value.tv_usec == 0);
        assert(!sigismember(&pending, SIGUSR1));
        sigprocmask(SIG_BLOCK, NULL, &pending);
        assert(sigismember(&pending, SIGUSR1));
        _exit(1);
    }
    assert(wait_for(child) == 1);
    sigpending(&pending);
    assert(sigismember(&pending, SIGUSR1));
    while (!alarms)
        pause();
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void streams_are_copied_with_their_buffers(void)
{
    printf("once ");
    fflush(stdout);
    printf("twice ");
    pid_t child = fork();
    if (child == 0)
        exit(0);
    assert(wait_for(child) == 0);
    printf("\n");
    fflush(stdout);
}

int main(void)
{
    memory_is_copied();
    offsets_and_pipes_are_shared();
    sockets_and_epoll_are_shared();
    threads_fork();
    many_at_once();
    handlers_run();
    timers_and_pending_signals_stay();
    streams_are_copied_with_their_buffers();
    puts("ok");
    return 0;
}
