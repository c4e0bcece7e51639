/* The C library's busy functions, each in a loop. Prints "name nanoseconds" for one operation: the least of
 * PASSES passes of at least PASS_NS each, since whoever shares the machine only ever adds. The same binary runs natively (glibc) and as a guest; what is compared is
 * the library that it is bound to. Built with -O2 -fno-builtin, so that every call is made. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PASSES 15
#define PASS_NS 1e6

static volatile uintptr_t sink;
static char *from, *to;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

typedef void body(long times, long arg);

/* malloc */

static void malloc_pair(long times, long size)
{
	for (long i = 0; i < times; i++) {
		char *p = malloc(size);
		*(volatile char *)p = 1;
		free(p);
	}
}

/* A pool of live blocks of mixed sizes, one replaced at a time. */
static void malloc_mixed(long times, long most)
{
	static void *live[1024];
	uint32_t r = 12345;
	for (long i = 0; i < times; i++) {
		r = r * 1664525 + 1013904223;
		void **slot = &live[r >> 22];
		free(*slot);
		*slot = malloc(16 + (r >> 8) % most);
		*(volatile char *)*slot = 1;
	}
}

/* All first, then all again, in the order they came. */
static void malloc_batch(long times, long size)
{
	static void *live[1000];
	for (long i = 0; i < times; i += 1000) {
		for (int j = 0; j < 1000; j++)
			live[j] = malloc(size);
		for (int j = 0; j < 1000; j++)
			free(live[j]);
	}
}

static void calloc_pair(long times, long size)
{
	for (long i = 0; i < times; i++)
		free(calloc(1, size));
}

static void realloc_grow(long times, long most)
{
	for (long i = 0; i < times; i++) {
		char *p = NULL;
		for (long size = 16; size <= most; size *= 2)
			p = realloc(p, size);
		free(p);
	}
}

struct job {
	long times, arg;
};

static void *mixed_thread(void *arg)
{
	struct job *job = arg;
	void *live[256] = {0};
	uint32_t r = (uintptr_t)&live;
	for (long i = 0; i < job->times; i++) {
		r = r * 1664525 + 1013904223;
		void **slot = &live[r >> 24];
		free(*slot);
		*slot = malloc(16 + (r >> 8) % job->arg);
	}
	for (int i = 0; i < 256; i++)
		free(live[i]);
	return NULL;
}

static void malloc_threads(long times, long most)
{
	pthread_t threads[4];
	struct job job = {times / 4, most};
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, mixed_thread, &job);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

/* Blocks made by one thread and freed by another. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static void **handed;

static void *freeing_thread(void *arg)
{
	long batches = *(long *)arg;
	for (long i = 0; i < batches; i++) {
		pthread_mutex_lock(&lock);
		while (!handed)
			pthread_cond_wait(&changed, &lock);
		void **mine = handed;
		handed = NULL;
		pthread_cond_signal(&changed);
		pthread_mutex_unlock(&lock);
		for (int j = 0; j < 10000; j++)
			free(mine[j]);
		free(mine);
	}
	return NULL;
}

static void malloc_handover(long times, long size)
{
	pthread_t thread;
	long batches = (times + 9999) / 10000;
	pthread_create(&thread, NULL, freeing_thread, &batches);
	for (long i = 0; i < batches; i++) {
		void **mine = malloc(10000 * sizeof *mine);
		for (int j = 0; j < 10000; j++)
			mine[j] = malloc(size);
		pthread_mutex_lock(&lock);
		while (handed)
			pthread_cond_wait(&changed, &lock);
		handed = mine;
		pthread_cond_signal(&changed);
		pthread_mutex_unlock(&lock);
	}
	pthread_join(thread, NULL);
}

/* Memory and strings. Offsets move, so that neither side has its favourite alignment alone. */

static void run_memcpy(long times, long size)
{
	for (long i = 0; i < times; i++)
		memcpy(to + (i & 15), from + (i >> 4 & 15), size);
}

static void run_memmove(long times, long size)
{
	for (long i = 0; i < times; i++)
		memmove(to + 32 + (i & 15), to + 16, size);
}

static void run_memset(long times, long size)
{
	for (long i = 0; i < times; i++)
		memset(to + (i & 15), (int)i, size);
}

static void run_memcmp(long times, long size)
{
	for (long i = 0; i < times; i++)
		sink += memcmp(to + (i & 15), from + (i & 15), size);
}

static void run_strlen(long times, long size)
{
	for (long i = 0; i < times; i++)
		sink += strlen(from + (i & 15));
	(void)size;
}

static void run_strchr(long times, long size)
{
	for (long i = 0; i < times; i++)
		sink += (uintptr_t)strchr(from + (i & 15), 'z');
	(void)size;
}

static void run_memchr(long times, long size)
{
	for (long i = 0; i < times; i++)
		sink += (uintptr_t)memchr(from + (i & 15), 'z', size);
}

static void run_strcmp(long times, long size)
{
	for (long i = 0; i < times; i++)
		sink += strcmp(to + (i & 15), from + (i & 15));
	(void)size;
}

static void run_strcpy(long times, long size)
{
	for (long i = 0; i < times; i++)
		strcpy(to + (i & 15), from + (i >> 4 & 15));
	(void)size;
}

static void run_strstr(long times, long size)
{
	for (long i = 0; i < times; i++)
		sink += (uintptr_t)strstr(from + (i & 15), "needle");
	(void)size;
}

static void string_of(long length)
{
	memset(from, 'a', length + 64);
	memset(to, 'a', length + 64);
	/* Ends at the same distance from every offset that is used. */
	from[length + 16] = to[length + 16] = 0;
}

/* Sorting */

static int by_int(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;
	return (x > y) - (x < y);
}

static void run_qsort(long times, long count)
{
	static int numbers[100000];
	for (long i = 0; i < times; i++) {
		uint32_t r = 1;
		for (long j = 0; j < count; j++)
			numbers[j] = (int)((r = r * 1664525 + 1013904223) >> 4);
		qsort(numbers, count, sizeof *numbers, by_int);
	}
}

/* Numbers and text */

static char text[512];
static const double doubles[] = {0.1, 3.14159265358979, 1e10, 1.5, 123456.789, 2.2250738585072014e-308, 1e-5, 98765432.1};

static void run_ints(long times, long arg)
{
	for (long i = 0; i < times; i++)
		snprintf(text, sizeof text, "%d %lu %x", (int)i, (unsigned long)i * 1234567, (unsigned)i);
	(void)arg;
}

static void run_strings(long times, long arg)
{
	for (long i = 0; i < times; i++)
		snprintf(text, sizeof text, "%s: %-10s|%5.3s", "hello", "world", "abcdef");
	(void)arg;
}

static void run_fixed(long times, long digits)
{
	for (long i = 0; i < times; i++)
		snprintf(text, sizeof text, "%.*f", (int)digits, doubles[i & 7]);
}

static void run_general(long times, long digits)
{
	for (long i = 0; i < times; i++)
		snprintf(text, sizeof text, "%.*g", (int)digits, doubles[i & 7]);
}

static void run_exponent(long times, long digits)
{
	for (long i = 0; i < times; i++)
		snprintf(text, sizeof text, "%.*e", (int)digits, doubles[i & 7]);
}

static void run_fprintf(long times, long arg)
{
	static FILE *null;
	if (!null)
		null = fopen("/dev/null", "w");
	for (long i = 0; i < times; i++)
		fprintf(null, "%s %d\n", "line", (int)i);
	(void)arg;
}

static void run_fgets(long times, long arg)
{
	static FILE *file;
	char line[128];
	if (!file) {
		file = tmpfile();
		for (int i = 0; i < 10000; i++)
			fprintf(file, "this is line %d of the file\n", i);
	}
	for (long i = 0; i < times; i++)
		if (!fgets(line, sizeof line, file))
			rewind(file);
	(void)arg;
}

static void run_strtod(long times, long arg)
{
	static const char *const short_ones[] = {"0.1", "3.14159", "1e10", "42", "123456.789", "-7.25", "1e-5", "100"};
	static const char *const long_ones[] = {"0.10000000000000001", "3.1415926535897931", "2.2250738585072014e-308",
		"1.7976931348623157e308", "123456.78901234567", "9007199254740993", "4.9406564584124654e-324", "0.30000000000000004"};
	const char *const *words = arg ? long_ones : short_ones;
	for (long i = 0; i < times; i++)
		sink += (uintptr_t)strtod(words[i & 7], NULL);
}

static void run_strtol(long times, long base)
{
	static const char *const words[] = {"0", "7", "42", "-1000", "123456", "99999999", "2147483647", "-9223372036854775808"};
	for (long i = 0; i < times; i++)
		sink += strtol(words[i & 7], NULL, (int)base);
}

static void run_sscanf(long times, long arg)
{
	int a, b;
	char word[16];
	for (long i = 0; i < times; i++)
		sink += sscanf("12 word 345", "%d %15s %d", &a, word, &b);
	(void)arg;
}

static void run_clock(long times, long arg)
{
	struct timespec t;
	for (long i = 0; i < times; i++)
		clock_gettime((clockid_t)arg, &t);
}

static void run_mutex(long times, long arg)
{
	for (long i = 0; i < times; i++) {
		pthread_mutex_lock(&lock);
		pthread_mutex_unlock(&lock);
	}
	(void)arg;
}

static void measure(const char *name, body *run, long arg)
{
	double least = 1e300;
	/* Some cases work in batches of up to 10,000. */
	long times = run == malloc_batch || run == malloc_handover ? 10000 : 4;
	for (;;) {
		double begin = now();
		run(times, arg);
		if (now() - begin >= PASS_NS)
			break;
		times *= 2;
	}
	for (int i = 0; i < PASSES; i++) {
		double begin = now();
		run(times, arg);
		double each = (now() - begin) / times;
		if (each < least)
			least = each;
	}
	printf("%s\t%.2f\n", name, least);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : "";
	from = aligned_alloc(4096, 16 << 20);
	to = aligned_alloc(4096, 16 << 20);
	memset(from, 'a', 16 << 20);
	memset(to, 'a', 16 << 20);
#define CASE(name, run, arg) \
	do { \
		if (strstr(name, only)) \
			measure(name, run, arg); \
	} while (0)
	CASE("malloc+free 16", malloc_pair, 16);
	CASE("malloc+free 256", malloc_pair, 256);
	CASE("malloc+free 4000", malloc_pair, 4000);
	CASE("malloc+free 100000", malloc_pair, 100000);
	CASE("malloc mixed to 512", malloc_mixed, 512);
	CASE("malloc mixed to 16384", malloc_mixed, 16384);
	CASE("malloc batch of 64", malloc_batch, 64);
	CASE("calloc+free 1024", calloc_pair, 1024);
	CASE("realloc to 65536", realloc_grow, 65536);
	CASE("malloc, 4 threads", malloc_threads, 512);
	CASE("malloc, freed elsewhere", malloc_handover, 64);
	static const long sizes[] = {8, 24, 64, 200, 1000, 8192, 262144};
	char name[64];
	for (int i = 0; i < 7; i++) {
		snprintf(name, sizeof name, "memcpy %ld", sizes[i]);
		CASE(name, run_memcpy, sizes[i]);
	}
	CASE("memcpy 8388608", run_memcpy, 8 << 20);
	CASE("memmove 1000 overlapping", run_memmove, 1000);
	for (int i = 0; i < 7; i++) {
		snprintf(name, sizeof name, "memset %ld", sizes[i]);
		CASE(name, run_memset, sizes[i]);
	}
	for (int i = 0; i < 6; i++) {
		string_of(sizes[i]);
		snprintf(name, sizeof name, "memcmp %ld", sizes[i]);
		CASE(name, run_memcmp, sizes[i]);
		snprintf(name, sizeof name, "strlen %ld", sizes[i]);
		CASE(name, run_strlen, sizes[i]);
		snprintf(name, sizeof name, "strchr %ld", sizes[i]);
		CASE(name, run_strchr, sizes[i]);
		snprintf(name, sizeof name, "memchr %ld", sizes[i]);
		CASE(name, run_memchr, sizes[i]);
		snprintf(name, sizeof name, "strcmp %ld", sizes[i]);
		CASE(name, run_strcmp, sizes[i]);
		snprintf(name, sizeof name, "strcpy %ld", sizes[i]);
		CASE(name, run_strcpy, sizes[i]);
		snprintf(name, sizeof name, "strstr %ld", sizes[i]);
		CASE(name, run_strstr, sizes[i]);
	}
	CASE("qsort 10 ints", run_qsort, 10);
	CASE("qsort 1000 ints", run_qsort, 1000);
	CASE("qsort 100000 ints", run_qsort, 100000);
	CASE("snprintf ints", run_ints, 0);
	CASE("snprintf strings", run_strings, 0);
	CASE("snprintf %.2f", run_fixed, 2);
	CASE("snprintf %.6f", run_fixed, 6);
	CASE("snprintf %.6g", run_general, 6);
	CASE("snprintf %.17g", run_general, 17);
	CASE("snprintf %.16e", run_exponent, 16);
	CASE("fprintf line", run_fprintf, 0);
	CASE("fgets line", run_fgets, 0);
	CASE("strtod short", run_strtod, 0);
	CASE("strtod 17 digits", run_strtod, 1);
	CASE("strtol", run_strtol, 10);
	CASE("strtol base 0", run_strtol, 0);
	CASE("sscanf", run_sscanf, 0);
	CASE("clock_gettime", run_clock, CLOCK_MONOTONIC);
	CASE("mutex lock+unlock", run_mutex, 0);
	return 0;
}
