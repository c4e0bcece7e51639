// Programs that go into the background: a parent that ends the very moment its child is there, again and again, while other
// processes are made and end, too. (The child must need nothing of a parent that is gone.)
#include "../check.h"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 60, GENERATIONS = 5 };

// Each generation forks the next one and ends at once; the last one says so.
static void go_on(int generation, int out)
{
    for (; generation < GENERATIONS; generation++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child > 0)
            _exit(0);
        CHECK(setsid() == getpid());
    }
    char byte = 'd';
    CHECK(write(out, &byte, 1) == 1);
    _exit(0);
}

int main(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        int ends[2];
        CHECK(pipe(ends) == 0);
        pid_t first = fork();
        CHECK(first >= 0);
        if (first == 0) {
            close(ends[0]);
            go_on(0, ends[1]);
        }
        close(ends[1]);
        // Something takes the memory that the dead leave.
        pid_t other = fork();
        CHECK(other >= 0);
        if (other == 0)
            _exit(3);
        int status;
        CHECK(waitpid(first, &status, 0) == first && status == 0);
        CHECK(waitpid(other, &status, 0) == other && WEXITSTATUS(status) == 3);
        char byte = 0;
        CHECK(read(ends[0], &byte, 1) == 1 && byte == 'd');
        // The last of them is gone as well, or the pipe would have a writer.
        CHECK(read(ends[0], &byte, 1) == 0);
        close(ends[0]);
    }
    puts("ok");
    return 0;
}
