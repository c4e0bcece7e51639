/* Handlers, masks, EINTR and SA_RESTART, siginfo, alternate stacks, longjmp out of a fault. */
#define _GNU_SOURCE
#include "../check.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t count, last_code, on_alternate;
static void *volatile fault_address;
static sigjmp_buf back;
static char alternate[65536];

static void counter(int signal) { (void)signal; count++; }
static void with_info(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    char here;
    last_code = info->si_code;
    on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
    count++;
}
static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)context;
    CHECK(signal == SIGSEGV);
    fault_address = info->si_addr;
    siglongjmp(back, 1);
}
static void *interrupter(void *target)
{
    usleep(30 * 1000);
    CHECK(pthread_kill(*(pthread_t *)target, SIGUSR1) == 0);
    return NULL;
}

int main(void)
{
    struct sigaction action = {.sa_handler = counter};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && raise(SIGUSR1) == 0 && count == 1);
    sigset_t block, old, pending;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &block, &old) == 0 && kill(getpid(), SIGUSR1) == 0 && count == 1);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1);
    CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0 && count == 2);
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    CHECK(sigaltstack(&stack, NULL) == 0);
    struct sigaction info = {.sa_sigaction = with_info, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    CHECK(sigaction(SIGUSR2, &info, NULL) == 0);
    static union sigval value = {.sival_int = 42};
    CHECK(sigqueue(getpid(), SIGUSR2, value) == 0 && count == 3 && last_code == SI_QUEUE && on_alternate);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    pthread_t self = pthread_self(), thread;
    char byte;
    CHECK(pthread_create(&thread, NULL, interrupter, &self) == 0);
    CHECK(read(pipes[0], &byte, 1) == -1 && errno == EINTR && count == 4);
    CHECK(pthread_join(thread, NULL) == 0);
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(write(pipes[1], "x", 1) == 1 && read(pipes[0], &byte, 1) == 1);
    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &fault, NULL) == 0);
    char *guard = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 3; i++) {
        if (sigsetjmp(back, 1) == 0) {
            guard[100 + i] = 1;
            CHECK(!"the write must fault");
        }
        CHECK(fault_address == guard + 100 + i);
    }
    sigset_t wait_for;
    sigemptyset(&wait_for);
    sigaddset(&wait_for, SIGRTMIN + 1);
    CHECK(sigprocmask(SIG_BLOCK, &wait_for, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        value.sival_int = i;
        CHECK(sigqueue(getpid(), SIGRTMIN + 1, value) == 0);
    }
    for (int i = 0; i < 3; i++) {
        siginfo_t got;
        CHECK(sigwaitinfo(&wait_for, &got) == SIGRTMIN + 1 && got.si_value.sival_int == i);
    }
    struct timespec none = {0, 1000};
    CHECK(sigtimedwait(&wait_for, NULL, &none) == -1 && errno == EAGAIN);
    /* A bad address in a call is an error, not a fault. */
    CHECK(write(pipes[1], guard, 10) == -1 && errno == EFAULT);
    puts("ok");
    return 0;
}
