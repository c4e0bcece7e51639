/* What processes share: futexes and pthread objects in shared memory, robust mutexes of the dead, System V
   undo and attachments, queues, named semaphores, descriptors and credentials in messages. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared {
    pthread_mutex_t mutex, robust, inherit;
    pthread_cond_t cond;
    pthread_barrier_t barrier;
    pthread_rwlock_t rwlock;
    sem_t sem;
    int count, turn;
};

static struct shared *at;

static void wait_ok(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void pthread_objects(void)
{
    pthread_mutexattr_t attr;
    pthread_condattr_t cond_attr;
    pthread_barrierattr_t barrier_attr;
    pthread_rwlockattr_t rwlock_attr;
    at = mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, 1);
    CHECK(pthread_mutex_init(&at->mutex, &attr) == 0);
    pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    CHECK(pthread_mutex_init(&at->inherit, &attr) == 0);
    pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_NONE);
    pthread_mutexattr_setrobust(&attr, 1);
    CHECK(pthread_mutex_init(&at->robust, &attr) == 0);
    pthread_condattr_init(&cond_attr);
    pthread_condattr_setpshared(&cond_attr, 1);
    CHECK(pthread_cond_init(&at->cond, &cond_attr) == 0);
    pthread_barrierattr_init(&barrier_attr);
    pthread_barrierattr_setpshared(&barrier_attr, 1);
    CHECK(pthread_barrier_init(&at->barrier, &barrier_attr, 3) == 0);
    pthread_rwlockattr_init(&rwlock_attr);
    pthread_rwlockattr_setpshared(&rwlock_attr, 1);
    CHECK(pthread_rwlock_init(&at->rwlock, &rwlock_attr) == 0 && sem_init(&at->sem, 1, 0) == 0);
    pid_t children[2];
    for (int i = 0; i < 2; i++)
        if ((children[i] = fork()) == 0) {
            pthread_barrier_wait(&at->barrier);
            for (int round = 0; round < 1000; round++) {
                pthread_mutex_lock(&at->mutex);
                at->count++;
                pthread_mutex_unlock(&at->mutex);
                pthread_mutex_lock(&at->inherit);
                at->count++;
                pthread_mutex_unlock(&at->inherit);
                pthread_rwlock_wrlock(&at->rwlock);
                at->count++;
                pthread_rwlock_unlock(&at->rwlock);
            }
            for (int round = 0; round < 100; round++) {
                pthread_mutex_lock(&at->mutex);
                while (at->turn % 2 != i)
                    pthread_cond_wait(&at->cond, &at->mutex);
                at->turn++;
                pthread_cond_broadcast(&at->cond);
                pthread_mutex_unlock(&at->mutex);
            }
            sem_post(&at->sem);
            _exit(0);
        }
    pthread_barrier_wait(&at->barrier);
    for (int i = 0; i < 2; i++)
        CHECK(sem_wait(&at->sem) == 0);
    wait_ok(children[0]);
    wait_ok(children[1]);
    CHECK(at->turn == 200);
    /* The owner dies: by exit, and by a signal. */
    for (int how = 0; how < 2; how++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_mutex_lock(&at->robust);
            sem_post(&at->sem);
            if (how)
                raise(SIGTERM);
            _exit(0);
        }
        sem_wait(&at->sem);
        CHECK(pthread_mutex_lock(&at->robust) == EOWNERDEAD && pthread_mutex_consistent(&at->robust) == 0);
        CHECK(pthread_mutex_unlock(&at->robust) == 0);
        waitpid(child, NULL, 0);
    }
}

static void system_v(void)
{
    int segment = shmget(IPC_PRIVATE, 4096, 0600), set = semget(IPC_PRIVATE, 1, 0600), queue = msgget(IPC_PRIVATE, 0600);
    char *memory = shmat(segment, NULL, 0);
    struct shmid_ds stat;
    struct {
        long type;
        char text[8];
    } message;
    struct sembuf up = {.sem_op = 1}, down = {.sem_op = -1}, hold = {.sem_op = 1, .sem_flg = SEM_UNDO};
    pid_t child = fork();
    if (child == 0) {
        CHECK(shmctl(segment, IPC_STAT, &stat) == 0 && stat.shm_nattch == 2);
        CHECK(semop(set, &down, 1) == 0);
        strcpy(memory, "from the child");
        CHECK(semop(set, &hold, 1) == 0 && semop(set, &hold, 1) == 0 && semctl(set, 0, GETVAL) == 2);
        message.type = getpid();
        CHECK(msgsnd(queue, &message, 4, 0) == 0);
        CHECK(msgrcv(queue, &message, 8, 1, 0) == 4);
        _exit(0);
    }
    CHECK(semop(set, &up, 1) == 0 && msgrcv(queue, &message, 8, child, 0) == 4);
    CHECK(strcmp(memory, "from the child") == 0 && semctl(set, 0, GETVAL) == 2 && semctl(set, 0, GETPID) == child);
    message.type = 1;
    CHECK(msgsnd(queue, &message, 4, 0) == 0);
    wait_ok(child);
    CHECK(semctl(set, 0, GETVAL) == 0);
    CHECK(shmctl(segment, IPC_STAT, &stat) == 0 && stat.shm_nattch == 1);
    CHECK(shmctl(segment, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
}

static void names(void)
{
    char name[64], text[64];
    sprintf(name, "/attacca-across-%d", getpid());
    struct mq_attr attr = {.mq_maxmsg = 2, .mq_msgsize = 64};
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
    sem_t *sem = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
    int file = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(queue >= 0 && sem != SEM_FAILED && file >= 0 && ftruncate(file, 4096) == 0);
    pid_t child = fork();
    if (child == 0) {
        sem_t *again = sem_open(name, 0);
        CHECK(again != SEM_FAILED);
        int *number = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shm_open(name, O_RDWR, 0), 0);
        CHECK(number != MAP_FAILED);
        *number = 77;
        CHECK(sem_post(again) == 0);
        CHECK(mq_receive(queue, text, 64, NULL) == 5);
        mqd_t other = mq_open(name, O_WRONLY);
        CHECK(mq_send(other, "answer", 6, 3) == 0);
        _exit(0);
    }
    CHECK(sem_wait(sem) == 0);
    int *number = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(*number == 77 && mq_send(queue, "hello", 5, 0) == 0);
    wait_ok(child);
    CHECK(mq_receive(queue, text, 64, NULL) == 6);
    CHECK(mq_unlink(name) == 0 && sem_unlink(name) == 0 && shm_unlink(name) == 0);
}

static void send_fd(int to, int fd)
{
    char byte = 'f';
    struct iovec iov = {&byte, 1};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    CHECK(sendmsg(to, &message, 0) == 1);
}

static int receive(int from, struct ucred *who)
{
    char byte;
    int fd = -1;
    struct iovec iov = {&byte, 1};
    union {
        char bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    CHECK(recvmsg(from, &message, MSG_CMSG_CLOEXEC) == 1);
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_type == SCM_RIGHTS)
            memcpy(&fd, CMSG_DATA(header), sizeof fd);
        else if (header->cmsg_type == SCM_CREDENTIALS && who)
            memcpy(who, CMSG_DATA(header), sizeof *who);
    return fd;
}

static void messages(void)
{
    int pair[2], on = 1, pipes[2];
    char text[16];
    struct ucred who = {0};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(pipe(pipes) == 0 && write(pipes[1], "in a pipe", 9) == 9);
        send_fd(pair[1], pipes[0]);
        close(pipes[0]);
        close(pipes[1]);
        int queue = socket(AF_UNIX, SOCK_DGRAM, 0);
        send_fd(pair[1], queue);
        _exit(0);
    }
    int fd = receive(pair[0], &who);
    CHECK(fd >= 0 && who.pid == child && who.uid == getuid() && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(read(fd, text, 16) == 9 && read(fd, text, 16) == 0);
    close(fd);
    fd = receive(pair[0], NULL);
    CHECK(fd >= 0);
    wait_ok(child);
    close(fd);
    close(pair[0]);
    close(pair[1]);
    /* Descriptors under way end with their socket, also in a circle. */
    CHECK(pipe(pipes) == 0);
    for (int round = 0; round < 2; round++) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        send_fd(pair[0], pipes[1]);
        if (round == 1) {
            send_fd(pair[0], pair[1]);
            send_fd(pair[1], pair[0]);
        }
        close(pair[0]);
        close(pair[1]);
    }
    close(pipes[1]);
    CHECK(fcntl(pipes[0], F_SETFL, O_NONBLOCK) == 0);
    /* Linux collects circles when the next socket is closed or made to wait. */
    for (int i = 0; i < 200; i++) {
        if (read(pipes[0], text, 1) == 0) {
            close(pipes[0]);
            return;
        }
        close(socket(AF_UNIX, SOCK_STREAM, 0));
        usleep(5000);
    }
    CHECK(!"the circle was not collected");
}

int main(void)
{
    pthread_objects();
    system_v();
    names();
    messages();
    puts("ok");
    return 0;
}
