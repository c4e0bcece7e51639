/* Synchronous faults: signal, si_code and si_addr of each kind, and a way out of the handler by siglongjmp. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static siginfo_t seen;
static volatile sig_atomic_t got, trap;
static long cause, error_code;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    const ucontext_t *c = context;
    got = signal;
    seen = *info;
    trap = c->uc_mcontext.gregs[REG_TRAPNO];
    error_code = c->uc_mcontext.gregs[REG_ERR];
    cause = c->uc_mcontext.gregs[REG_RIP];
    siglongjmp(back, 1);
}

#define FAULT(name, where, statement)                                                               \
    do {                                                                                            \
        void *volatile at = (void *)(where);                                                        \
        got = 0;                                                                                    \
        if (sigsetjmp(back, 1) == 0) { statement; }                                                 \
        printf("%s: signal %d code %d trap %d error %ld, %s\n", name, (int)got, seen.si_code, (int)trap,     \
               error_code, seen.si_addr == at ? "that address" : seen.si_addr ? "another address" : "no address"); \
    } while (0)

int main(void)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    CHECK(sigaltstack(&alternate, NULL) == 0);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) CHECK(sigaction(signals[i], &action, NULL) == 0);

    char *page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && munmap(page + 4096, 4096) == 0);
    FAULT("read of nothing", page + 4096, (void)*(volatile char *)(page + 4096));
    FAULT("write to nothing", page + 4100, *(volatile char *)(page + 4100) = 1);
    FAULT("write to a page to read", page + 5, *(volatile char *)(page + 5) = 1);
    CHECK(mprotect(page, 4096, PROT_NONE) == 0);
    FAULT("read of a page without rights", page, (void)*(volatile char *)page);
    FAULT("null", NULL, (void)*(volatile char *)NULL);
    FAULT("no canonical address", NULL, (void)*(volatile char *)0x8000000000000000);
    CHECK(mprotect(page, 4096, PROT_READ) == 0);
    FAULT("call of data", page, ((void (*)(void))page)());

    char name[] = "/tmp/faults.XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    char *file = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(file != MAP_FAILED);
    FAULT("beyond the end of a file", file + 9, (void)*(volatile char *)(file + 9));

    volatile int zero = 0, one = 1;
    FAULT("division by zero", cause, one /= zero);
    volatile int least = -2147483647 - 1, minus = -1;
    FAULT("quotient too large", cause, one = least / minus);
    volatile double nought = 0.0, result;
    feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
    FAULT("floating-point division by zero", cause, result = 1.0 / nought);
    feclearexcept(FE_ALL_EXCEPT);
    feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
    FAULT("invalid floating-point operation", cause, result = nought / nought);
    feclearexcept(FE_ALL_EXCEPT);
    feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
    volatile double large = 1e308;
    FAULT("floating-point overflow", cause, result = large * large);
    fedisableexcept(FE_ALL_EXCEPT);
    feclearexcept(FE_ALL_EXCEPT);
    (void)result;
    FAULT("undefined instruction", cause, __asm__ volatile("ud2"));
    FAULT("breakpoint", cause, __asm__ volatile("int3"));
    FAULT("privileged instruction", NULL, __asm__ volatile("hlt"));
    /* A handler for a signal that is blocked: the program ends, natively by the signal. Not shown here. */
    return 0;
}
