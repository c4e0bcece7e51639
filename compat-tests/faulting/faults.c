// Faults of every kind, one for each first argument. cli/tests/faults.rs runs them natively and as guests:
// they end by the same signal, and the guest's report names these functions.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define FRAME __attribute__((noinline, noclone))
#define AFTER __asm__ volatile("" ::: "memory") // no tail calls: each function keeps its frame

static volatile int zero;
static int *volatile nowhere;
static void (*volatile no_function)(void);

FRAME static void write_null(void) { *nowhere = 1; AFTER; }
FRAME static void call_null(void) { no_function(); AFTER; }
FRAME static void divide(void) { zero = 7 / zero; AFTER; }
FRAME static void illegal(void) { __builtin_trap(); }
FRAME static void give_up(void) { abort(); }

FRAME static int overflow(int depth) {
    volatile char room[512];
    room[0] = (char)depth;
    if (zero) return 0;
    return overflow(depth + 1) + room[0];
}

FRAME static void past_the_end(void) {
    char name[] = "/tmp/attacca-fault-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    if (ftruncate(fd, 8192)) exit(90);
    volatile char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    page[4096] = 1;
    if (ftruncate(fd, 4096)) exit(91);
    page[4096] = 2;
    AFTER;
}

FRAME static int compare(const void *a, const void *b) {
    write_null();
    return *(const char *)a - *(const char *)b;
}
FRAME static void in_callback(void) { char some[] = "attacca"; qsort(some, 7, 1, compare); AFTER; }

FRAME static void *thread(void *unused) { (void)unused; write_null(); return 0; }
FRAME static void in_thread(void) {
    pthread_t other;
    pthread_create(&other, 0, thread, 0);
    pthread_join(other, 0);
}

FRAME static void handler(int signal) { (void)signal; write_null(); AFTER; }
FRAME static void in_handler(void) { signal(SIGUSR1, handler); raise(SIGUSR1); AFTER; }
// Interrupts code, not a call: the frame below the handler is not at a call.
FRAME static void spin(void) { for (volatile long i = 0;; i++) {} }
FRAME static void in_timer(void) { signal(SIGALRM, handler); alarm(1); spin(); AFTER; }

// Nothing of the stack above is left; the return address is nonsense.
FRAME static void smash(void) {
    char here[16];
    static void *(*volatile fill)(void *, int, size_t) = memset;
    fill(here, 0x41, 512);
}

// As a library without frame pointers would: %rbp holds a number.
FRAME static void no_frame_pointer(void) {
    __asm__ volatile("push %%rbp; .cfi_adjust_cfa_offset 8; mov $7, %%ebp; movl $1, 0; pop %%rbp;"
                     " .cfi_adjust_cfa_offset -8" ::: "memory");
}

static sigjmp_buf back;
static siginfo_t got;
static void *got_pc;
static void own(int signal, siginfo_t *info, void *context) {
    (void)signal;
    got = *info;
    got_pc = (void *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    siglongjmp(back, 1);
}
// `code` 0: any. The end of a main stack is a gap natively (MAPERR) and a guard in a guest (ACCERR), as it
// is for threads.
static int expect(const char *what, int signal, int code, void *address, void (*fault)(void)) {
    memset(&got, 0, sizeof got);
    if (sigsetjmp(back, 1) == 0) fault();
    int right = got.si_signo == signal && (!code || got.si_code == code) && (!address || got.si_addr == address);
    if (signal == SIGFPE || signal == SIGILL) right = right && got.si_addr == got_pc;
    printf("%s: signal %d code %d %s\n", what, got.si_signo, code ? got.si_code : 0, right ? "right" : "WRONG");
    return !right;
}
static char *read_only;
static void write_read_only(void) { *(volatile char *)read_only = 1; }
static void non_canonical(void) { *(volatile char *)0x8000000000000000 = 1; }
static void run_over(void) { zero = overflow(0); }

// The program's own handlers, on an alternate stack: each fault arrives with its own siginfo.
static int handled(void) {
    static char room[65536];
    stack_t alternate = {.ss_sp = room, .ss_size = sizeof room};
    sigaltstack(&alternate, 0);
    struct sigaction action = {.sa_sigaction = own, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int all[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) sigaction(all[i], &action, 0);
    read_only = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    nowhere = (int *)0x10;
    int wrong = expect("null", SIGSEGV, SEGV_MAPERR, (void *)0x10, write_null);
    wrong += expect("read-only", SIGSEGV, SEGV_ACCERR, read_only, write_read_only);
    wrong += expect("non-canonical", SIGSEGV, SI_KERNEL, 0, non_canonical);
    wrong += expect("divide", SIGFPE, FPE_INTDIV, 0, divide);
    wrong += expect("illegal", SIGILL, ILL_ILLOPN, 0, illegal);
    wrong += expect("past the end", SIGBUS, BUS_ADRERR, 0, past_the_end);
    wrong += expect("overflow", SIGSEGV, 0, 0, run_over);
    return wrong;
}

int main(int argc, char **argv) {
    struct { const char *name; void (*run)(void); } all[] = {
        {"null", write_null}, {"call-null", call_null}, {"overflow", run_over}, {"illegal", illegal},
        {"divide", divide}, {"bus", past_the_end}, {"abort", give_up}, {"callback", in_callback},
        {"thread", in_thread}, {"smash", smash}, {"handler", in_handler}, {"timer", in_timer},
        {"no-frame-pointer", no_frame_pointer},
    };
    // A core file of a native run is of no use to anybody.
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    for (unsigned i = 0; argc > 1 && i < sizeof all / sizeof *all; i++)
        if (!strcmp(argv[1], all[i].name)) { all[i].run(); AFTER; return 92; }
    return argc > 1 && !strcmp(argv[1], "handled") ? handled() : 93;
}
