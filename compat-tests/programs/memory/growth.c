/* Deep stacks, large heaps, mremap, realloc in every direction, aligned blocks. */
#define _GNU_SOURCE
#include "../check.h"
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

static int deep(int level)
{
    volatile char frame[1024];
    memset((char *)frame, level, sizeof frame);
    return level == 0 ? frame[0] : deep(level - 1) + (frame[5] != (char)level);
}
static void *deep_thread(void *unused) { (void)unused; CHECK(deep(6000) == 0); return NULL; }

int main(void)
{
    CHECK(deep(6000) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, deep_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    enum { BLOCKS = 2000 };
    static unsigned char *blocks[BLOCKS];
    static size_t sizes[BLOCKS];
    for (int round = 0; round < 200000; round++) {
        int i = check_random() % BLOCKS;
        size_t size = check_random() % (check_random() % 20 == 0 ? 300000 : 500);
        if (blocks[i]) {
            CHECK(sizes[i] == 0 || (blocks[i][0] == (unsigned char)i && blocks[i][sizes[i] - 1] == (unsigned char)i));
            CHECK(malloc_usable_size(blocks[i]) >= sizes[i]);
        }
        if (check_random() % 3 == 0) {
            free(blocks[i]);
            blocks[i] = NULL;
            continue;
        }
        size_t kept = sizes[i] < size ? sizes[i] : size;
        int had = blocks[i] != NULL && kept;
        blocks[i] = realloc(blocks[i], size ? size : 1);
        CHECK(blocks[i] && ((uintptr_t)blocks[i] & 15) == 0);
        if (had)
            CHECK(blocks[i][0] == (unsigned char)i);
        memset(blocks[i], i, size);
        sizes[i] = size;
    }
    for (size_t alignment = 16; alignment <= 65536; alignment *= 2) {
        void *block = NULL;
        CHECK(posix_memalign(&block, alignment, 100) == 0 && ((uintptr_t)block & (alignment - 1)) == 0);
        free(block);
    }
    unsigned char *zeroed = calloc(1000, 1000);
    for (int i = 0; i < 1000000; i++)
        CHECK(zeroed[i] == 0);
    free(zeroed);
    volatile size_t most = PTRDIFF_MAX;
    CHECK(malloc(most) == NULL && errno == ENOMEM);
    volatile size_t half = SIZE_MAX / 2;
    CHECK(calloc(half, 3) == NULL);
    char *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(mapped, "moves");
    mapped = mremap(mapped, 8192, 1 << 20, MREMAP_MAYMOVE);
    CHECK(mapped != MAP_FAILED && strcmp(mapped, "moves") == 0 && munmap(mapped, 1 << 20) == 0);
    puts("ok");
    return 0;
}
