/* One assertion, for programs that must pass on Linux first and then in a guest. */
#pragma once
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);       \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)

/* A small generator: the same numbers on both sides. */
static unsigned long long check_state = 88172645463325252ull;
static inline unsigned long long check_random(void)
{
    check_state ^= check_state << 13;
    check_state ^= check_state >> 7;
    check_state ^= check_state << 17;
    return check_state;
}
