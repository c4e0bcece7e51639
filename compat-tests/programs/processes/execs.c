// execve(2) and its family, vfork(2), posix_spawn(3): what is kept, what goes, what fails before it is too late.
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *self;

static int wait_for(pid_t child)
{
    int status;
    assert(child > 0 && waitpid(child, &status, 0) == child);
    return status;
}

// What the executed program finds: told by its exit status.
static int inner(int argc, char **argv)
{
    if (!strcmp(argv[1], "chain")) {
        int left = atoi(argv[2]);
        char next[16];
        snprintf(next, sizeof next, "%d", left - 1);
        if (left > 0)
            execl(self, self, "chain", next, (char *)NULL);
        return 33;
    }
    if (!strcmp(argv[1], "fds")) {
        // 100 kept, 101 closed; more than the standard three and 100 are an error.
        int open_fds = 0;
        for (int fd = 3; fd < 300; fd++)
            open_fds += fcntl(fd, F_GETFD) != -1;
        return fcntl(100, F_GETFD) == 0 && fcntl(101, F_GETFD) == -1 && open_fds == 1 ? 0 : open_fds + 1;
    }
    if (!strcmp(argv[1], "signals")) {
        struct sigaction usr1, usr2;
        sigset_t mask, pending;
        sigaction(SIGUSR1, NULL, &usr1);
        sigaction(SIGUSR2, NULL, &usr2);
        sigprocmask(SIG_BLOCK, NULL, &mask);
        sigpending(&pending);
        return usr1.sa_handler == SIG_DFL && usr2.sa_handler == SIG_IGN && sigismember(&mask, SIGHUP)
            && sigismember(&pending, SIGHUP) && !sigismember(&mask, SIGTERM) ? 0 : 1;
    }
    if (!strcmp(argv[1], "ids"))
        return getpid() == atoi(argv[2]) && gettid() == getpid() ? 0 : 1;
    if (!strcmp(argv[1], "env"))
        return argc == 4 && !strcmp(argv[3], "") && getenv("A") && !strcmp(getenv("A"), "1") && !getenv("PATH") ? 0 : 1;
    if (!strcmp(argv[1], "group"))
        return getpgrp() == getpid() ? 0 : 1;
    if (!strcmp(argv[1], "mask")) {
        sigset_t mask;
        sigprocmask(SIG_BLOCK, NULL, &mask);
        struct sigaction pipe_action;
        sigaction(SIGPIPE, NULL, &pipe_action);
        return sigismember(&mask, SIGUSR2) && pipe_action.sa_handler == SIG_DFL ? 0 : 1;
    }
    if (!strcmp(argv[1], "cat")) {
        char text[64];
        ssize_t n = read(0, text, sizeof text);
        return write(1, text, n) == n ? 0 : 1;
    }
    return 99;
}

static pid_t run(char *const argv[], char *const envp[])
{
    pid_t child = fork();
    if (child == 0) {
        execve(self, argv, envp);
        _exit(90);
    }
    return child;
}

static void handler(int signal) { (void)signal; }

static void what_is_kept(void)
{
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 100);
    dup3(null, 101, O_CLOEXEC);
    for (int fd = 110; fd < 200; fd++)
        dup3(null, fd, O_CLOEXEC);
    fcntl(null, F_SETFD, FD_CLOEXEC);
    char *fds[] = {self, "fds", NULL};
    assert(wait_for(run(fds, environ)) == 0);
    closefrom(3);
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    pid_t child = fork();
    if (child == 0) {
        sigprocmask(SIG_BLOCK, &set, &old);
        raise(SIGHUP);
        execl(self, self, "signals", (char *)NULL);
        _exit(90);
    }
    assert(wait_for(child) == 0);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    char *env[] = {self, "env", "x", "", NULL}, *one[] = {"A=1", NULL};
    assert(wait_for(run(env, one)) == 0);
    char *chain[] = {self, "chain", "20", NULL};
    assert(WEXITSTATUS(wait_for(run(chain, environ))) == 33);
}

static void *executes(void *unused)
{
    char pid[16];
    (void)unused;
    snprintf(pid, sizeof pid, "%d", getpid());
    execl(self, self, "ids", pid, (char *)NULL);
    _exit(90);
}

static void *waits(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void from_a_thread(void)
{
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            for (int k = 0; k < 3; k++)
                pthread_create(&thread, NULL, waits, NULL);
            pthread_create(&thread, NULL, executes, NULL);
            for (volatile long n = 0;; n++)
                ;
        }
        assert(wait_for(child) == 0);
    }
}

static void fails(const char *path, int error)
{
    errno = 0;
    char *argv[] = {"x", NULL};
    assert(execve(path, argv, environ) == -1);
    if (errno != error)
        printf("%s: %s\n", path, strerror(errno));
}

static void errors(void)
{
    char dir[] = "/tmp/execsXXXXXX", path[64];
    assert(mkdtemp(dir));
    fails("/no/such/file", ENOENT);
    fails("", ENOENT);
    fails(dir, EACCES);
    fails("/dev/null/x", ENOTDIR);
    snprintf(path, sizeof path, "%s/text", dir);
    FILE *f = fopen(path, "w");
    fputs("no program\n", f);
    fclose(f);
    fails(path, EACCES);
    chmod(path, 0755);
    fails(path, ENOEXEC);
    f = fopen(path, "w");
    fputs("#!/no/such/interpreter\n", f);
    fclose(f);
    fails(path, ENOENT);
    f = fopen(path, "w");
    fprintf(f, "#!%s\n", path);
    fclose(f);
    fails(path, ELOOP);
    f = fopen(path, "w");
    fprintf(f, "#! /bin/sh -e\nexit $#\n");
    fclose(f);
    pid_t child = fork();
    if (child == 0) {
        execl(path, "ignored", "a", "b", (char *)NULL);
        _exit(90);
    }
    assert(WEXITSTATUS(wait_for(child)) == 2);
    // Without a line of its own execvp takes the shell.
    f = fopen(path, "w");
    fputs("exit 5\n", f);
    fclose(f);
    child = fork();
    if (child == 0) {
        execlp(path, path, (char *)NULL);
        _exit(90);
    }
    assert(WEXITSTATUS(wait_for(child)) == 5);
    unlink(path);
    rmdir(dir);
    char *large = malloc(200 << 10);
    memset(large, 'x', 200 << 10);
    large[(200 << 10) - 1] = 0;
    char *argv[] = {"x", large, NULL};
    assert(execve(self, argv, environ) == -1 && errno == E2BIG);
    free(large);
}

static void by_descriptor(void)
{
    int fd = open(self, O_RDONLY | O_CLOEXEC);
    pid_t child = fork();
    char pid[16];
    if (child == 0) {
        snprintf(pid, sizeof pid, "%d", getpid());
        char *argv[] = {self, "ids", pid, NULL};
        fexecve(fd, argv, environ);
        _exit(90);
    }
    assert(wait_for(child) == 0);
    close(fd);
}

static void vforks(void)
{
    volatile int seen = 1;
    for (volatile int i = 0; i < 20; i++) {
        pid_t child = vfork();
        if (child == 0) {
            seen++;
            execl(self, self, "chain", "0", (char *)NULL);
            _exit(90);
        }
        assert(WEXITSTATUS(wait_for(child)) == 33);
    }
    pid_t child = vfork();
    if (child == 0)
        _exit(4);
    assert(WEXITSTATUS(wait_for(child)) == 4 && seen == 21);
}

static char stack[256 << 10] __attribute__((aligned(16)));
static int shared_word;
static int on_its_stack(void *argument)
{
    shared_word = *(int *)argument;
    return 6;
}

static void clones(void)
{
    int value = 77;
    pid_t child = clone(on_its_stack, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &value);
    assert(shared_word == 77 && WEXITSTATUS(wait_for(child)) == 6);
    shared_word = 0;
    child = clone(on_its_stack, stack + sizeof stack, SIGCHLD, &value);
    assert(WEXITSTATUS(wait_for(child)) == 6 && shared_word == 0);
    child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(8);
    assert(WEXITSTATUS(wait_for(child)) == 8);
    child = (pid_t)syscall(SYS_fork);
    if (child == 0)
        _exit(9);
    assert(WEXITSTATUS(wait_for(child)) == 9);
}

static void spawns(void)
{
    pid_t child;
    char *ids[] = {self, "group", NULL}, *mask[] = {self, "mask", NULL}, *cat[] = {self, "cat", NULL};
    posix_spawnattr_t attr;
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
    assert(posix_spawn(&child, self, NULL, &attr, ids, environ) == 0);
    assert(wait_for(child) == 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    posix_spawnattr_setsigmask(&attr, &set);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    posix_spawnattr_setsigdefault(&attr, &set);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    signal(SIGPIPE, SIG_IGN);
    assert(posix_spawn(&child, self, NULL, &attr, mask, environ) == 0);
    signal(SIGPIPE, SIG_DFL);
    assert(wait_for(child) == 0);
    posix_spawnattr_destroy(&attr);
    int in[2], out[2];
    char text[16];
    assert(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addclose(&actions, in[1]);
    posix_spawn_file_actions_addchdir_np(&actions, "/");
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    assert(posix_spawnp(&child, self, &actions, NULL, cat, environ) == 0);
    assert(write(in[1], "through", 7) == 7);
    assert(read(out[0], text, sizeof text) == 7 && memcmp(text, "through", 7) == 0);
    assert(wait_for(child) == 0);
    posix_spawn_file_actions_addopen(&actions, 9, "/no/such", O_RDONLY, 0);
    assert(posix_spawn(&child, self, &actions, NULL, cat, environ) == ENOENT);
    posix_spawn_file_actions_destroy(&actions);
    assert(posix_spawnp(&child, "no-such-program", NULL, NULL, cat, environ) == ENOENT);
    assert(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
    closefrom(3);
    assert(WEXITSTATUS(system("exit 6")) == 6);
    assert(WTERMSIG(system("kill -TERM $$")) == SIGTERM);
    FILE *f = popen("read x; echo got $x", "w");
    fputs("it\n", f);
    assert(pclose(f) == 0);
}

int main(int argc, char **argv)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    assert(n > 0);
    path[n] = 0;
    self = path;
    if (argc > 1)
        return inner(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    closefrom(3);
    what_is_kept();
    from_a_thread();
    errors();
    by_descriptor();
    vforks();
    clones();
    spawns();
    puts("ok");
    return 0;
}
