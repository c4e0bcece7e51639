/* The line discipline of a pseudo-terminal, by two descriptors of one process: editing, echo, signals,
   output processing, raw mode, packet mode, flow, sizes, names. What is printed is compared. */
#define _GNU_SOURCE
#include "../check.h"
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int master, slave;

/* What the master has to read now, readable. */
static void show(const char *what)
{
    char text[8192];
    printf("%s:", what);
    struct pollfd asked = {.fd = master, .events = POLLIN};
    while (poll(&asked, 1, 30) == 1 && asked.revents & POLLIN) {
        ssize_t got = read(master, text, sizeof text);
        if (got <= 0)
            break;
        for (ssize_t i = 0; i < got; i++)
            if (text[i] >= ' ' && text[i] < 127)
                putchar(text[i]);
            else
                printf("<%02x>", (unsigned char)text[i]);
    }
    putchar('\n');
}

static void type(const char *text)
{
    CHECK(write(master, text, strlen(text)) == (ssize_t)strlen(text));
    usleep(20000);
}

static void take(const char *what, size_t room)
{
    char text[8192];
    ssize_t got = read(slave, text, room);
    printf("%s=%zd:", what, got);
    for (ssize_t i = 0; i < got; i++)
        if (text[i] >= ' ' && text[i] < 127)
            putchar(text[i]);
        else
            printf("<%02x>", (unsigned char)text[i]);
    if (got < 0)
        printf("errno %d", errno);
    putchar('\n');
}

static void set(tcflag_t clear, tcflag_t add, int how)
{
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    t.c_lflag = (t.c_lflag & ~clear) | add;
    CHECK(tcsetattr(slave, how, &t) == 0);
}

static void set_io(tcflag_t in, tcflag_t out)
{
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    t.c_iflag = in;
    t.c_oflag = out;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}

static void timing(int min, int tenths)
{
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    t.c_cc[VMIN] = min;
    t.c_cc[VTIME] = tenths;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}

int main(void)
{
    struct termios t;
    CHECK(openpty(&master, &slave, NULL, NULL, NULL) == 0);
    CHECK(tcgetattr(slave, &t) == 0);
    printf("%o %o %o %o\n", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
    for (int i = 0; i < 17; i++)
        printf("%d ", t.c_cc[i]);
    puts("");
    fcntl(slave, F_SETFL, O_NONBLOCK);
    take("empty", 10);
    type("hello\n");
    show("echo");
    take("line", 100);
    type("abc\177\177xy\n");
    show("erase");
    take("erased", 100);
    type("one two  three\027\027X\n");
    show("werase");
    take("werased", 100);
    type("a\tbc\td\177\177\177\177e\n");
    show("tabs");
    take("tabbed", 100);
    type("ab\001\002c\177\177\177d\n");
    show("controls");
    take("controlled", 100);
    type("killed line\025new\n");
    show("kill");
    take("after kill", 100);
    type("lit\026\003\026\177x\022y\n");
    show("literal, reprint");
    take("literal", 100);
    type("abc\004");
    take("eof", 3);
    take("eof rest", 100);
    type("abc\004\004");
    take("eof2", 100);
    take("end", 100);
    type("\004x\n");
    take("end first", 100);
    take("then", 100);
    type("long line\n");
    take("part", 4);
    take("rest", 100);
    type("two\nlines\n");
    int waiting = 0;
    CHECK(ioctl(slave, FIONREAD, &waiting) == 0);
    take("first", 100);
    take("second", 100);
    show("all");
    set(ECHOE | ECHOK | ECHOKE, 0, TCSANOW);
    type("ab\177c\025d\n");
    show("no echoe");
    take("no echoe", 100);
    set(0, ECHOE | ECHOK | ECHOKE | ECHOPRT, TCSANOW);
    type("abc\177\177de\025f\n");
    show("echoprt");
    take("echoprt", 100);
    set(ECHOPRT | ECHOCTL, 0, TCSANOW);
    type("a\001b\177\177\177c\n");
    show("no echoctl");
    take("no echoctl", 100);
    set(ECHO, ECHONL | ECHOCTL, TCSANOW);
    type("silent\n");
    show("echonl");
    take("silent", 100);
    set(ECHONL, ECHO, TCSAFLUSH);
    /* UTF-8 */
    set_io(ICRNL | IXON | IUTF8, OPOST | ONLCR);
    type("a\303\244\342\202\254\177\177b\n");
    show("utf8");
    take("utf8", 100);
    /* Input mapping. */
    set_io(INLCR | IXON, OPOST);
    type("x\ry\n");
    show("inlcr");
    set_io(IGNCR, OPOST | OCRNL);
    type("p\rq\n");
    show("igncr");
    take("mapped", 100);
    take("mapped", 100);
    set_io(ICRNL | ISTRIP, OPOST | ONLCR | XTABS);
    type("\301\302\r");
    take("istrip", 100);
    show("istrip");
    CHECK(write(slave, "a\tb\r\nc\n\bd\t.", 11) == 11);
    show("xtabs");
    set_io(ICRNL | IXON, OPOST | ONOCR | ONLRET | ONLCR);
    CHECK(write(slave, "\r\rx\ry\nz\r", 8) == 8);
    show("onocr");
    set_io(ICRNL | IXON, OPOST | OLCUC);
    CHECK(write(slave, "Upper\n", 6) == 6);
    show("olcuc");
    set_io(ICRNL | IXON, OPOST | ONLCR);
    /* Flow. */
    type("\023");
    CHECK(write(slave, "held", 4) == -1 && errno == EAGAIN);
    type("q");
    show("stopped");
    type("\021");
    show("started");
    type("\n");
    show("nl");
    take("q", 10);
    CHECK(tcflow(slave, TCOOFF) == 0 && write(slave, "x", 1) == -1 && tcflow(slave, TCOON) == 0);
    CHECK(tcflow(slave, TCIOFF) == 0 && tcflow(slave, TCION) == 0);
    show("tciof");
    /* Raw. */
    set(ICANON | ECHO | ISIG | IEXTEN, 0, TCSANOW);
    timing(1, 0);
    type("raw\003\004\n");
    take("raw", 100);
    take("none", 100);
    timing(0, 0);
    fcntl(slave, F_SETFL, 0);
    take("min0", 100);
    timing(0, 2);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    take("time", 100);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
    CHECK(ms >= 150);
    timing(3, 1);
    type("ab");
    take("between", 100);
    timing(3, 0);
    struct pollfd asked = {.fd = slave, .events = POLLIN};
    type("ab");
    printf("poll %d", poll(&asked, 1, 0));
    type("c");
    printf(" %d\n", poll(&asked, 1, 0));
    take("three", 100);
    type("left over");
    set(0, ICANON, TCSANOW);
    take("pushed", 100);
    /* Packet mode. */
    set(0, ECHO | ISIG | IEXTEN, TCSANOW);
    show("before packets");
    int on = 1, got = 0;
    CHECK(ioctl(master, TIOCPKT, &on) == 0 && ioctl(master, TIOCGPKT, &got) == 0 && got == 1);
    CHECK(write(slave, "data", 4) == 4);
    show("packet");
    CHECK(tcflush(slave, TCIOFLUSH) == 0);
    show("flushed");
    CHECK(tcflow(slave, TCOOFF) == 0);
    show("stop");
    CHECK(tcflow(slave, TCOON) == 0);
    show("start");
    set_io(ICRNL, OPOST | ONLCR);
    show("nostop");
    set_io(ICRNL | IXON, OPOST | ONLCR);
    show("dostop");
    on = 0;
    CHECK(ioctl(master, TIOCPKT, &on) == 0);
    /* Sizes, names, locks, exclusion. */
    struct winsize size = {24, 80, 1, 2}, read_back;
    CHECK(ioctl(slave, TIOCSWINSZ, &size) == 0 && ioctl(master, TIOCGWINSZ, &read_back) == 0);
    CHECK(memcmp(&size, &read_back, sizeof size) == 0);
    struct stat stat;
    CHECK(fstat(slave, &stat) == 0);
    char name[64];
    CHECK(ptsname_r(master, name, sizeof name) == 0 && strcmp(name, ttyname(slave)) == 0);
    struct stat by_name;
    CHECK(lstat(name, &by_name) == 0 && by_name.st_rdev == stat.st_rdev);
    printf("%o\n", stat.st_mode & ~0777);
    CHECK(isatty(slave) && isatty(master));
    int other = open(name, O_RDWR | O_NOCTTY);
    CHECK(other >= 0 && write(other, "again", 5) == 5);
    show("other");
    close(other);
    int second = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(second >= 0 && ptsname_r(second, name, sizeof name) == 0);
    CHECK(open(name, O_RDWR | O_NOCTTY) == -1 && errno == EIO);
    CHECK(grantpt(second) == 0 && unlockpt(second) == 0);
    other = open(name, O_RDWR | O_NOCTTY);
    CHECK(other >= 0);
    asked = (struct pollfd){.fd = second, .events = POLLIN | POLLOUT};
    CHECK(poll(&asked, 1, 0) == 1);
    printf("poll %x", asked.revents);
    CHECK(write(other, "last", 4) == 4);
    close(other);
    poll(&asked, 1, 0);
    printf(" %x", asked.revents);
    char text[16];
    printf(" %zd", read(second, text, sizeof text));
    CHECK(read(second, text, sizeof text) == -1);
    printf(" %d", errno);
    other = open(name, O_RDWR | O_NOCTTY);
    CHECK(other >= 0);
    close(second);
    asked = (struct pollfd){.fd = other, .events = POLLIN | POLLOUT};
    CHECK(poll(&asked, 1, 0) == 1);
    printf(" %x", asked.revents);
    printf(" %zd", read(other, text, sizeof text));
    CHECK(write(other, text, 1) == -1);
    printf(" %d", errno);
    CHECK(tcgetattr(other, &t) == -1);
    printf(" %d\n", errno);
    CHECK(access(name, F_OK) == -1);
    /* What is no terminal. */
    int pipes[2];
    CHECK(pipe(pipes) == 0 && tcgetattr(pipes[0], &t) == -1 && errno == ENOTTY);
    CHECK(tcgetpgrp(slave) == -1 && errno == ENOTTY);
    /* Much. */
    set(ECHO | ICANON, 0, TCSANOW);
    timing(1, 0);
    fcntl(master, F_SETFL, O_NONBLOCK);
    size_t sent = 0, taken = 0;
    char block[1000];
    memset(block, 'm', sizeof block);
    while (taken < 300000) {
        ssize_t step = sent < 300000 ? write(master, block, 300000 - sent < sizeof block ? 300000 - sent : sizeof block) : -1;
        if (step > 0)
            sent += step;
        else
            CHECK(sent >= 300000 || errno == EAGAIN);
        asked = (struct pollfd){.fd = slave, .events = POLLIN};
        if (poll(&asked, 1, 10) == 1 && (step = read(slave, text, sizeof text)) > 0)
            taken += step;
    }
    CHECK(sent == taken);
    puts("done");
    return 0;
}
