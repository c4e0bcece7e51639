/* System V IPC between threads and, where fork is there, processes: layouts, rights, waiting, removal. */
#define _GNU_SOURCE
#include "../check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

static int set, queue;

static void *later(void *what)
{
    usleep(50000);
    struct sembuf up = {.sem_num = 1, .sem_op = 2};
    struct {
        long type;
        char text[8];
    } message = {7, "later"};
    switch ((long)what) {
    case 0: CHECK(semop(set, &up, 1) == 0); break;
    case 1: CHECK(msgsnd(queue, &message, 5, 0) == 0); break;
    case 2: CHECK(semctl(set, 0, IPC_RMID) == 0); break;
    case 3: CHECK(msgctl(queue, IPC_RMID, NULL) == 0); break;
    }
    return NULL;
}

static pthread_t start(long what)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, later, (void *)what) == 0);
    return thread;
}

static void shared_memory(void)
{
    key_t key = 0x5ca1ab1e ^ getpid();
    int id = shmget(key, 5000, IPC_CREAT | IPC_EXCL | 0640);
    CHECK(id >= 0 && shmget(key, 5000, 0) == id && shmget(key, 0, 0) == id);
    CHECK(shmget(key, 1, IPC_CREAT | IPC_EXCL) == -1 && errno == EEXIST);
    CHECK(shmget(key, 5001, 0) == -1 && errno == EINVAL);
    CHECK(shmget(key + 1, 100, 0) == -1 && errno == ENOENT);
    CHECK(shmget(IPC_PRIVATE, 0, 0600) == -1 && errno == EINVAL);
    char *one = shmat(id, NULL, 0), *two = shmat(id, NULL, SHM_RDONLY);
    CHECK(one != (void *)-1 && two != (void *)-1 && one != two);
    strcpy(one, "both");
    CHECK(strcmp(two, "both") == 0);
    struct shmid_ds stat;
    CHECK(shmctl(id, IPC_STAT, &stat) == 0);
    CHECK(stat.shm_segsz == 5000 && stat.shm_nattch == 2 && stat.shm_cpid == getpid() && stat.shm_lpid == getpid());
    CHECK(stat.shm_perm.__key == key && stat.shm_perm.mode == 0640 && stat.shm_atime >= time(NULL) - 5);
    stat.shm_perm.mode = 0600;
    CHECK(shmctl(id, IPC_SET, &stat) == 0 && shmctl(id, IPC_STAT, &stat) == 0 && stat.shm_perm.mode == 0600);
    CHECK(shmat(id, one, 0) == (void *)-1 && errno == EINVAL);
    CHECK(shmat(id, one + 1, 0) == (void *)-1 && errno == EINVAL);
    CHECK(shmat(id, one + 1, SHM_RND | SHM_REMAP) == one);
    CHECK(shmctl(id, IPC_STAT, &stat) == 0 && stat.shm_nattch == 2);
    /* What is left of an attachment goes by the address of the whole. */
    CHECK(munmap(two, 4096) == 0 && shmdt(two + 4096) == -1 && errno == EINVAL && shmdt(two) == 0);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
    CHECK(shmctl(id, IPC_STAT, &stat) == 0 && stat.shm_perm.mode == (0600 | SHM_DEST) && stat.shm_nattch == 1);
    CHECK(shmget(key, 0, 0) == -1 && errno == ENOENT);
    CHECK(strcmp(one, "both") == 0 && shmdt(one) == 0 && shmdt(one) == -1 && errno == EINVAL);
    CHECK(shmctl(id, IPC_STAT, &stat) == -1 && errno == EINVAL);
    CHECK(shmat(id, NULL, 0) == (void *)-1 && errno == EINVAL);
    struct shminfo info;
    CHECK(shmctl(0, IPC_INFO, (void *)&info) >= 0 && info.shmmin == 1 && info.shmmni == 4096);
}

static void on_alarm(int signal) { (void)signal; }

static void semaphores(void)
{
    key_t key = 0x5e3a0000 ^ getpid();
    set = semget(key, 3, IPC_CREAT | 0600);
    CHECK(set >= 0 && semget(key, 3, 0) == set && semget(key, 0, 0) == set);
    CHECK(semget(key, 4, 0) == -1 && errno == EINVAL);
    CHECK(semget(IPC_PRIVATE, 0, 0600) == -1 && errno == EINVAL);
    unsigned short values[3] = {1, 0, 5}, back[3];
    CHECK(semctl(set, 0, SETALL, (union semun){.array = values}) == 0);
    CHECK(semctl(set, 0, GETALL, (union semun){.array = back}) == 0 && memcmp(values, back, sizeof back) == 0);
    CHECK(semctl(set, 2, GETVAL) == 5 && semctl(set, 3, GETVAL) == -1 && errno == EINVAL);
    CHECK(semctl(set, 2, SETVAL, (union semun){.val = 32768}) == -1 && errno == ERANGE);
    struct sembuf down = {.sem_num = 1, .sem_op = -2, .sem_flg = IPC_NOWAIT};
    CHECK(semop(set, &down, 1) == -1 && errno == EAGAIN);
    /* All or nothing. */
    struct sembuf several[2] = {{.sem_num = 2, .sem_op = -3}, {.sem_num = 1, .sem_op = -1, .sem_flg = IPC_NOWAIT}};
    CHECK(semop(set, several, 2) == -1 && errno == EAGAIN && semctl(set, 2, GETVAL) == 5);
    down.sem_flg = 0;
    pthread_t helper = start(0);
    CHECK(semop(set, &down, 1) == 0 && semctl(set, 1, GETVAL) == 0);
    pthread_join(helper, NULL);
    CHECK(semctl(set, 1, GETPID) == getpid());
    struct timespec little = {.tv_nsec = 20000000};
    CHECK(semtimedop(set, &down, 1, &little) == -1 && errno == EAGAIN);
    struct sembuf far = {.sem_num = 9, .sem_op = 1}, high = {.sem_num = 0, .sem_op = 32767};
    CHECK(semop(set, &far, 1) == -1 && errno == EFBIG);
    CHECK(semop(set, &high, 1) == -1 && errno == ERANGE);
    CHECK(semop(set, &high, 0) == -1 && errno == EINVAL);
    struct sembuf zero = {.sem_num = 1};
    CHECK(semop(set, &zero, 1) == 0);
    struct sembuf undone = {.sem_num = 0, .sem_op = 1, .sem_flg = SEM_UNDO};
    CHECK(semop(set, &undone, 1) == 0);
    struct semid_ds stat;
    CHECK(semctl(set, 0, IPC_STAT, (union semun){.buf = &stat}) == 0);
    CHECK(stat.sem_nsems == 3 && stat.sem_perm.mode == 0600 && stat.sem_perm.__key == key && stat.sem_otime >= time(NULL) - 5);
    /* A signal ends the wait, whatever SA_RESTART says. */
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    CHECK(semop(set, &down, 1) == -1 && errno == EINTR);
    helper = start(2);
    CHECK(semop(set, &down, 1) == -1 && errno == EIDRM);
    pthread_join(helper, NULL);
    CHECK(semop(set, &down, 1) == -1 && errno == EINVAL);
}

static void messages(void)
{
    struct {
        long type;
        char text[9000];
    } message;
    key_t key = 0x3e550000 ^ getpid();
    queue = msgget(key, IPC_CREAT | 0600);
    CHECK(queue >= 0 && msgget(key, 0) == queue && msgget(key, IPC_CREAT | IPC_EXCL) == -1 && errno == EEXIST);
    for (long type = 1; type <= 5; type++) {
        message.type = type * 7 % 5 + 1;
        sprintf(message.text, "of %ld", message.type);
        CHECK(msgsnd(queue, &message, 5, 0) == 0);
    }
    CHECK(msgrcv(queue, &message, 100, 2, 0) == 5 && strcmp(message.text, "of 2") == 0);
    CHECK(msgrcv(queue, &message, 100, -3, 0) == 5 && message.type == 1);
    CHECK(msgrcv(queue, &message, 100, 0, 0) == 5 && message.type == 3);
    CHECK(msgrcv(queue, &message, 100, 5, MSG_EXCEPT) == 5 && message.type == 4);
    CHECK(msgrcv(queue, &message, 2, 0, 0) == -1 && errno == E2BIG);
    CHECK(msgrcv(queue, &message, 2, 0, MSG_NOERROR) == 2 && memcmp(message.text, "of", 2) == 0);
    CHECK(msgrcv(queue, &message, 100, 0, IPC_NOWAIT) == -1 && errno == ENOMSG);
    message.type = 0;
    CHECK(msgsnd(queue, &message, 5, 0) == -1 && errno == EINVAL);
    message.type = 1;
    CHECK(msgsnd(queue, &message, 8193, 0) == -1 && errno == EINVAL);
    CHECK(msgsnd(queue, &message, 8192, 0) == 0 && msgsnd(queue, &message, 8192, 0) == 0);
    CHECK(msgsnd(queue, &message, 1, IPC_NOWAIT) == -1 && errno == EAGAIN);
    struct msqid_ds stat;
    CHECK(msgctl(queue, IPC_STAT, &stat) == 0);
    CHECK(stat.msg_qnum == 2 && stat.__msg_cbytes == 16384 && stat.msg_qbytes == 16384 && stat.msg_lspid == getpid());
    CHECK(msgrcv(queue, &message, 9000, 0, 0) == 8192 && msgrcv(queue, &message, 9000, 0, 0) == 8192);
    pthread_t helper = start(1);
    CHECK(msgrcv(queue, &message, 100, 7, 0) == 5 && memcmp(message.text, "later", 5) == 0);
    pthread_join(helper, NULL);
    helper = start(3);
    CHECK(msgrcv(queue, &message, 100, 0, 0) == -1 && errno == EIDRM);
    pthread_join(helper, NULL);
    CHECK(msgctl(queue, IPC_STAT, &stat) == -1 && errno == EINVAL);
}

int main(void)
{
    shared_memory();
    semaphores();
    messages();
    char line[256];
    FILE *table = fopen("/proc/sysvipc/shm", "r");
    CHECK(table && fgets(line, sizeof line, table) && strstr(line, "shmid") && strstr(line, "nattch"));
    puts("ok");
    return 0;
}
