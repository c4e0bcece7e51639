/* Controlling terminals and job control between processes: forkpty, foreground and background groups, stops,
   hang-up, signals from the keyboard. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int master;

/* Reads from the master until the text has come. */
static void expect(const char *text)
{
    static char seen[65536];
    static size_t len;
    for (;;) {
        char *at = memmem(seen, len, text, strlen(text));
        if (at) {
            len -= at + strlen(text) - seen;
            memmove(seen, at + strlen(text), len);
            return;
        }
        struct pollfd asked = {.fd = master, .events = POLLIN};
        if (poll(&asked, 1, 10000) != 1) {
            fprintf(stderr, "waiting for %s, have %.*s\n", text, (int)len, seen);
            exit(1);
        }
        ssize_t got = read(master, seen + len, sizeof seen - len);
        CHECK(got > 0);
        len += got;
    }
}

static void type(const char *text) { CHECK(write(master, text, strlen(text)) == (ssize_t)strlen(text)); }

static volatile int winches;
static void on_winch(int signal)
{
    (void)signal;
    winches++;
}

static volatile int hung;
static void on_hup(int signal)
{
    (void)signal;
    hung++;
}

static void session(int report)
{
    char text[256];
    pid_t self = getpid();
    CHECK(getsid(0) == self && getpgrp() == self && tcgetpgrp(0) == self && tcgetsid(0) == self);
    int tty = open("/dev/tty", O_RDWR);
    CHECK(tty >= 0 && isatty(tty) && tcgetpgrp(tty) == self);
    close(tty);
    /* Linux sends a key's signal first and empties the terminal's queues then: what we write as soon as the signal has
       done its work could be lost. */
    struct termios keep;
    CHECK(tcgetattr(0, &keep) == 0);
    keep.c_lflag |= NOFLSH;
    CHECK(tcsetattr(0, TCSANOW, &keep) == 0);
    signal(SIGWINCH, on_winch);
    puts("ready");
    CHECK(fgets(text, sizeof text, stdin) && strcmp(text, "a line\n") == 0);
    struct winsize size;
    CHECK(ioctl(0, TIOCGWINSZ, &size) == 0 && size.ws_row == 33 && winches == 1);
    /* A child in the foreground gets the keyboard's signals; we do not. */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        setpgid(0, 0);
        signal(SIGTTOU, SIG_IGN);
        CHECK(tcsetpgrp(0, getpid()) == 0);
        signal(SIGTTOU, SIG_DFL);
        puts("child waits");
        for (;;)
            pause();
    }
    setpgid(child, child);
    int status;
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
    CHECK(tcgetpgrp(0) == child);
    signal(SIGTTOU, SIG_IGN);
    CHECK(tcsetpgrp(0, self) == 0);
    CHECK(kill(-child, SIGCONT) == 0 && waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    CHECK(tcsetpgrp(0, child) == 0);
    puts("now interrupt");
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    CHECK(tcsetpgrp(0, self) == 0);
    signal(SIGTTOU, SIG_DFL);
    /* A child in the background: reading stops it, writing with TOSTOP stops it, so does tcsetattr. */
    child = fork();
    if (child == 0) {
        setpgid(0, 0);
        CHECK(write(1, "background writes\n", 18) == 18);
        ssize_t got = read(0, text, sizeof text);
        _exit(got == 5 ? 0 : 1);
    }
    setpgid(child, child);
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
    signal(SIGTTOU, SIG_IGN);
    CHECK(tcsetpgrp(0, child) == 0 && kill(-child, SIGCONT) == 0);
    puts("type to it");
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(tcsetpgrp(0, self) == 0);
    struct termios t;
    CHECK(tcgetattr(0, &t) == 0);
    t.c_lflag |= TOSTOP;
    CHECK(tcsetattr(0, TCSADRAIN, &t) == 0);
    child = fork();
    if (child == 0) {
        setpgid(0, 0);
        /* Deaf to SIGTTIN: EIO instead of a stop; to SIGTTOU: allowed. */
        signal(SIGTTIN, SIG_IGN);
        CHECK(read(0, text, 1) == -1 && errno == EIO);
        CHECK(write(1, "deaf\n", 5) == 5);
        signal(SIGTTOU, SIG_DFL);
        CHECK(write(1, "stopped first\n", 14) == 14);
        _exit(0);
    }
    setpgid(child, child);
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTOU);
    CHECK(tcsetpgrp(0, child) == 0 && kill(child, SIGCONT) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(tcsetpgrp(0, self) == 0);
    CHECK(tcsetpgrp(0, 99999999) == -1 && errno == ESRCH);
    CHECK(setsid() == -1 && errno == EPERM);
    /* Hang-up: the master goes. */
    signal(SIGHUP, on_hup);
    puts("hang up");
    while (!hung)
        pause();
    CHECK(read(0, text, 1) == 0 && write(1, "x", 1) == -1 && errno == EIO);
    CHECK(open("/dev/tty", O_RDWR) == -1 && errno == ENXIO);
    CHECK(write(report, "fine", 4) == 4);
    exit(0);
}

int main(void)
{
    int report[2], status;
    char text[16];
    CHECK(pipe(report) == 0);
    struct winsize size = {.ws_row = 20, .ws_col = 80};
    pid_t leader = forkpty(&master, NULL, NULL, &size);
    CHECK(leader >= 0);
    if (leader == 0) {
        setvbuf(stdout, NULL, _IONBF, 0);
        close(report[0]);
        session(report[1]);
    }
    close(report[1]);
    expect("ready");
    size.ws_row = 33;
    CHECK(ioctl(master, TIOCSWINSZ, &size) == 0);
    CHECK(tcgetpgrp(master) == leader);
    type("a line\n");
    expect("child waits");
    type("\032");
    expect("^Z");
    expect("now interrupt");
    type("\003");
    expect("^C");
    expect("background writes");
    expect("type to it");
    type("five\n");
    expect("deaf");
    expect("stopped first");
    expect("hang up");
    usleep(20000);
    close(master);
    CHECK(read(report[0], text, sizeof text) == 4);
    CHECK(waitpid(leader, &status, 0) == leader && status == 0);
    /* A leader that ends hangs its session up. */
    leader = forkpty(&master, NULL, NULL, NULL);
    CHECK(leader >= 0);
    if (leader == 0) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGHUP, on_hup);
            if (write(1, "up", 2) != 2)
                _exit(1);
            while (!hung)
                pause();
            _exit(0);
        }
        char c;
        if (read(0, &c, 1) != 1)
            _exit(1);
        _exit(0);
    }
    expect("up");
    type("\n");
    CHECK(waitpid(leader, &status, 0) == leader && status == 0);
    struct pollfd asked = {.fd = master, .events = POLLIN};
    while (poll(&asked, 1, 10000) == 1 && read(master, text, sizeof text) > 0)
        ;
    CHECK(errno == EIO);
    puts("ok");
    return 0;
}
