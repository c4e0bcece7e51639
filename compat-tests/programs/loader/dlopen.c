/* dlopen of a library of the system, dlsym in every form, dladdr, dl_iterate_phdr. */
#define _GNU_SOURCE
#include "../check.h"
#include <dlfcn.h>
#include <link.h>

static int seen(struct dl_phdr_info *info, size_t size, void *count)
{
    CHECK(size >= sizeof *info && info->dlpi_phnum > 0);
    ++*(int *)count;
    return 0;
}

int main(void)
{
    int before = 0, after = 0;
    dl_iterate_phdr(seen, &before);
    void *zlib = dlopen("libz.so.1", RTLD_NOW);
    if (!zlib) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    unsigned long (*crc)(unsigned long, const unsigned char *, unsigned) = dlsym(zlib, "crc32");
    CHECK(crc && crc(0, (const unsigned char *)"123456789", 9) == 0xcbf43926);
    Dl_info where;
    CHECK(dladdr((void *)crc, &where) && strstr(where.dli_fname, "libz.so.1") && strcmp(where.dli_sname, "crc32") == 0);
    dl_iterate_phdr(seen, &after);
    CHECK(after == before + 1);
    CHECK(dlsym(zlib, "no_such_symbol") == NULL && strstr(dlerror(), "no_such_symbol"));
    CHECK(dlerror() == NULL);
    CHECK(dlsym(RTLD_DEFAULT, "crc32") == NULL);
    CHECK(dlsym(RTLD_DEFAULT, "printf") == (void *)printf || dlsym(RTLD_DEFAULT, "printf") != NULL);
    CHECK(dlclose(zlib) == 0);
    CHECK(dlopen("libnothing.so.9", RTLD_NOW) == NULL && strstr(dlerror(), "libnothing.so.9"));
    puts("ok");
    return 0;
}
