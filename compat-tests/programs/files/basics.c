/* Files and folders: creation, renaming, links, reading folders, offsets, descriptors. */
#define _GNU_SOURCE
#include "../check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

int main(void)
{
    char dir[] = "/tmp/filesXXXXXX";
    CHECK(mkdtemp(dir) && chdir(dir) == 0);
    char here[4096];
    CHECK(getcwd(here, sizeof here) && strcmp(here, dir) == 0);
    int fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(fd >= 0 && open("a", O_CREAT | O_EXCL, 0600) == -1 && errno == EEXIST);
    struct iovec parts[2] = {{"hello ", 6}, {"world", 5}};
    CHECK(writev(fd, parts, 2) == 11 && pwrite(fd, "W", 1, 6) == 1 && lseek(fd, 0, SEEK_CUR) == 11);
    char text[20] = "";
    CHECK(pread(fd, text, 20, 0) == 11 && strcmp(text, "hello World") == 0);
    int copy = dup(fd);
    CHECK(lseek(copy, 3, SEEK_SET) == 3 && lseek(fd, 0, SEEK_CUR) == 3);
    CHECK(fcntl(copy, F_GETFD) == 0 && fcntl(copy, F_SETFD, FD_CLOEXEC) == 0 && fcntl(copy, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) == (O_RDWR | 0100000));
    struct stat status;
    CHECK(fstat(fd, &status) == 0 && status.st_size == 11 && (status.st_mode & 0777) == 0640 && S_ISREG(status.st_mode));
    CHECK(ftruncate(fd, 5) == 0 && fstat(fd, &status) == 0 && status.st_size == 5);
    CHECK(link("a", "b") == 0 && symlink("b", "c") == 0 && stat("c", &status) == 0 && status.st_nlink == 2);
    CHECK(lstat("c", &status) == 0 && S_ISLNK(status.st_mode) && readlink("c", text, sizeof text) == 1 && text[0] == 'b');
    CHECK(rename("b", "d") == 0 && access("c", F_OK) == -1 && errno == ENOENT);
    CHECK(mkdir("sub", 0755) == 0 && mkdir("sub", 0755) == -1 && errno == EEXIST);
    int sub = open("sub", O_DIRECTORY | O_RDONLY);
    CHECK(sub >= 0 && openat(sub, "inner", O_CREAT | O_WRONLY, 0600) >= 0);
    CHECK(rmdir("sub") == -1 && errno == ENOTEMPTY);
    DIR *listing = opendir(".");
    int entries = 0;
    for (struct dirent *entry; (entry = readdir(listing));)
        entries++;
    CHECK(entries == 6 && closedir(listing) == 0);
    CHECK(unlinkat(sub, "inner", 0) == 0 && rmdir("sub") == 0);
    CHECK(unlink("a") == 0 && unlink("c") == 0 && unlink("d") == 0 && chdir("/") == 0 && rmdir(dir) == 0);
    CHECK(open("/nonexistent/x", O_RDONLY) == -1 && errno == ENOENT);
    CHECK(close(fd) == 0 && close(fd) == -1 && errno == EBADF && read(fd, text, 1) == -1 && errno == EBADF);
    puts("ok");
    return 0;
}
