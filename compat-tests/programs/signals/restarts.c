/* Every blocking call, interrupted by a handler: EINTR, or goes on with SA_RESTART (signal(7)). A call that goes on
 * is left in the end by a handler that does not return. Prints what happens, to be compared. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static sigjmp_buf out;
static volatile sig_atomic_t taken;
static pthread_t caller;
static sem_t begin, done;
static volatile int finished;

static void on_signal(int signal) { (void)signal; taken++; }
static void leave(int signal) { (void)signal; siglongjmp(out, 1); }

/* Signals the caller until it is out of its call: one may come before it sleeps. */
static void *interrupter(void *unused)
{
    (void)unused;
    for (;;) {
        while (sem_wait(&begin) != 0) {}
        for (int i = 0; i < 7 && !finished; i++) {
            usleep(25 * 1000);
            if (!finished) pthread_kill(caller, SIGUSR1);
        }
        usleep(25 * 1000);
        if (!finished) pthread_kill(caller, SIGUSR2);
        sem_post(&done);
    }
    return NULL;
}

static int empty[2], full[2], pair[2], crowded[2], listener, busy, dir, locked = -1, queue, semaphores;
static mqd_t none, filled;
static char block[1 << 16], path[64], fifo[80], lockfile[80];
static struct timespec later = {100, 0}, never;
static struct { long type; char text[8]; } message = {1, "hello"};

static int f_read(void) { return read(empty[0], block, 1); }
static int f_readv(void) { struct iovec v = {block, 1}; return readv(empty[0], &v, 1); }
static int f_write(void) { return write(full[1], block, sizeof block); }
static int f_writev(void) { struct iovec v = {block, sizeof block}; return writev(full[1], &v, 1); }
static int f_splice(void) { return splice(empty[0], NULL, full[1], NULL, 10, 0); }
static int f_recv(void) { return recv(pair[0], block, 1, 0); }
static int f_recvmsg(void) { struct iovec v = {block, 1}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1}; return recvmsg(pair[0], &m, 0); }
static int f_send(void) { return send(crowded[0], block, sizeof block, 0); }
static int f_sendmsg(void) { struct iovec v = {block, sizeof block}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1}; return sendmsg(crowded[0], &m, 0); }
static int f_accept(void) { return accept(listener, NULL, NULL); }
static int f_open(void) { return open(fifo, O_RDONLY); }
static int f_wait(void) { return wait(NULL); }
static int f_waitid(void) { siginfo_t info; return waitid(P_ALL, 0, &info, WEXITED); }
static int f_flock(void) { return flock(locked, LOCK_EX); }
static int f_setlkw(void) { struct flock l = {.l_type = F_WRLCK}; return fcntl(locked, F_SETLKW, &l); }
static int f_ofd(void) { struct flock l = {.l_type = F_WRLCK}; return fcntl(locked, F_OFD_SETLKW, &l); }
static int f_mq_receive(void) { return mq_receive(none, block, sizeof block, NULL); }
static int f_mq_timedreceive(void) { return mq_timedreceive(none, block, sizeof block, NULL, &never); }
static int f_mq_send(void) { return mq_send(filled, "x", 1, 0); }
static int f_msgrcv(void) { return msgrcv(queue, &message, 8, 2, 0); }
static int f_semop(void) { struct sembuf b = {0, -1, 0}; return semop(semaphores, &b, 1); }
static int f_semtimedop(void) { struct sembuf b = {0, -1, 0}; return semtimedop(semaphores, &b, 1, &later); }
static int f_eventfd(void) { return read(busy, block, 8); }
static int f_timerfd(void) { return read(dir, block, 8); }
static int inotify, signals;
static int f_inotify(void) { return read(inotify, block, 1024); }
static int f_signalfd(void) { return read(signals, block, 128); }
static int f_poll(void) { struct pollfd p = {empty[0], POLLIN, 0}; return poll(&p, 1, -1); }
static int f_ppoll(void) { struct pollfd p = {empty[0], POLLIN, 0}; return ppoll(&p, 1, &later, NULL); }
static int f_select(void) { fd_set s; FD_ZERO(&s); FD_SET(empty[0], &s); return select(empty[0] + 1, &s, NULL, NULL, NULL); }
static int f_pselect(void) { fd_set s; FD_ZERO(&s); FD_SET(empty[0], &s); return pselect(empty[0] + 1, &s, NULL, NULL, &later, NULL); }
static int epoll;
static int f_epoll(void) { struct epoll_event e; return epoll_wait(epoll, &e, 1, -1); }
static int f_epoll_pwait(void) { struct epoll_event e; return epoll_pwait(epoll, &e, 1, 100000, NULL); }
static int f_pause(void) { return pause(); }
static int f_sigsuspend(void) { sigset_t s; sigemptyset(&s); return sigsuspend(&s); }
static int f_sigtimedwait(void) { sigset_t s; sigemptyset(&s); sigaddset(&s, SIGHUP); return sigtimedwait(&s, NULL, &later); }
static int f_sigwaitinfo(void) { sigset_t s; sigemptyset(&s); sigaddset(&s, SIGHUP); return sigwaitinfo(&s, NULL); }
static int f_nanosleep(void) { return nanosleep(&later, NULL); }
static int f_clock(void) { errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &later, NULL); return errno ? -1 : 0; }
static int f_absolute(void) { errno = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &never, NULL); return errno ? -1 : 0; }
static int f_usleep(void) { return usleep(90 * 1000 * 1000); }
static sem_t zero;
static int f_sem_wait(void) { return sem_wait(&zero); }
static int f_sem_timedwait(void) { return sem_timedwait(&zero, &never); }
static int word;
static int f_futex(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0); }
static int f_futex_timed(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &later, NULL, 0); }
static int timed[2];
static int f_rcvtimeo(void) { return recv(timed[0], block, 1, 0); }

static const struct { const char *name; int (*call)(void); } calls[] = {
#define CALL(name) {#name, f_##name}
    CALL(read), CALL(readv), CALL(write), CALL(writev), CALL(splice), CALL(recv), CALL(recvmsg), CALL(send), CALL(sendmsg),
    CALL(accept), CALL(open), CALL(wait), CALL(waitid), CALL(flock), CALL(setlkw), CALL(ofd), CALL(mq_receive),
    CALL(mq_timedreceive), CALL(mq_send), CALL(msgrcv), CALL(semop), CALL(semtimedop), CALL(eventfd), CALL(timerfd),
    CALL(inotify), CALL(signalfd), CALL(poll), CALL(ppoll), CALL(select), CALL(pselect), CALL(epoll), CALL(epoll_pwait),
    CALL(pause), CALL(sigsuspend), CALL(sigtimedwait), CALL(sigwaitinfo), CALL(nanosleep), CALL(clock), CALL(absolute),
    CALL(usleep), CALL(sem_wait), CALL(sem_timedwait), CALL(futex), CALL(futex_timed), CALL(rcvtimeo),
};

static void fill(int fd)
{
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (write(fd, block, sizeof block) > 0) {}
    while (write(fd, block, 1) > 0) {}
    CHECK(errno == EAGAIN);
    fcntl(fd, F_SETFL, 0);
}

static pid_t prepare(void)
{
    CHECK(pipe(empty) == 0 && pipe(full) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, crowded) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, timed) == 0);
    fill(full[1]);
    fill(crowded[0]);
    struct timeval limit = {100, 0};
    CHECK(setsockopt(timed[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    snprintf(path, sizeof path, "/tmp/restarts.XXXXXX");
    CHECK(mkdtemp(path) != NULL);
    snprintf(fifo, sizeof fifo, "%s/fifo", path);
    snprintf(lockfile, sizeof lockfile, "%s/lock", path);
    CHECK(mkfifo(fifo, 0600) == 0);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    CHECK(bind(listener, (void *)&name, sizeof(sa_family_t)) == 0 && listen(listener, 1) == 0);
    struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 16};
    none = mq_open("/restarts-none", O_CREAT | O_RDWR, 0600, &attr);
    filled = mq_open("/restarts-full", O_CREAT | O_RDWR, 0600, &attr);
    CHECK(none != (mqd_t)-1 && filled != (mqd_t)-1 && mq_send(filled, "x", 1, 0) == 0);
    mq_unlink("/restarts-none");
    mq_unlink("/restarts-full");
    queue = msgget(IPC_PRIVATE, 0600);
    semaphores = semget(IPC_PRIVATE, 1, 0600);
    busy = eventfd(0, 0);
    dir = timerfd_create(CLOCK_MONOTONIC, 0);
    inotify = inotify_init();
    sigset_t hup;
    sigemptyset(&hup);
    sigaddset(&hup, SIGHUP);
    CHECK(sigprocmask(SIG_BLOCK, &hup, NULL) == 0);
    signals = signalfd(-1, &hup, 0);
    epoll = epoll_create1(0);
    CHECK(queue >= 0 && semaphores >= 0 && busy >= 0 && dir >= 0 && inotify >= 0 && signals >= 0 && epoll >= 0);
    clock_gettime(CLOCK_REALTIME, &never);
    never.tv_sec += 100;
    sem_init(&zero, 0, 0);
    /* A child that holds the locks, and that wait() waits for. */
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(lockfile, O_RDWR | O_CREAT, 0600);
        struct flock l = {.l_type = F_WRLCK};
        CHECK(flock(fd, LOCK_EX) == 0 && fcntl(fd, F_SETLK, &l) == 0);
        CHECK(write(ready[1], "x", 1) == 1);
        for (;;) pause();
    }
    CHECK(read(ready[0], block, 1) == 1);
    locked = open(lockfile, O_RDWR);
    CHECK(locked >= 0);
    return child;
}

static const char *outcome(int (*call)(void), int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    static const char *said;
    taken = 0;
    finished = 0;
    if (sigsetjmp(out, 1) == 0) {
        sem_post(&begin);
        int result = call();
        said = result >= 0 ? "succeeded" : errno == EINTR ? "EINTR" : strerror(errno);
    } else {
        said = "goes on";
    }
    finished = 1;
    while (sem_wait(&done) != 0) {}
    CHECK(taken > 0);
    return said;
}

int main(void)
{
    struct sigaction action = {.sa_handler = leave};
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    pid_t child = prepare();
    caller = pthread_self();
    sem_init(&begin, 0, 0);
    sem_init(&done, 0, 0);
    pthread_t thread;
    sigset_t both, before;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &both, &before);
    CHECK(pthread_create(&thread, NULL, interrupter, NULL) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        const char *plain = outcome(calls[i].call, 0);
        printf("%s: %s, ", calls[i].name, plain);
        printf("with SA_RESTART: %s\n", outcome(calls[i].call, SA_RESTART));
    }
    kill(child, SIGKILL);
    msgctl(queue, IPC_RMID, NULL);
    semctl(semaphores, 0, IPC_RMID);
    unlink(fifo);
    unlink(lockfile);
    rmdir(path);
    return 0;
}
