/* Prints a large table; the test compares it with glibc's, byte for byte. */
#include "../check.h"
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <wchar.h>

static const char *float_formats[] = {"%f", "%.0f", "%.1f", "%.17g", "%g", "%#g", "%e", "%.3e", "%+.10E", "%a", "%.2a",
                                      "%20.5f", "%-20.5f|", "%020.5f", "% g", "%#.0f", "%.40f", "%G", "%A", "%.0e"};
static const char *long_formats[] = {"%Lf", "%.0Lf", "%.21Lg", "%Le", "%La", "%30.10Lf", "%-30Lg|", "%+.3LE", "%.60Lf"};
static const char *int_formats[] = {"%lld", "%llu", "%llx", "%#llx", "%llo", "%#llo", "%+lld", "% lld", "%30lld",
                                    "%-30lld|", "%030lld", "%.25lld", "%30.25lld", "%llX", "%#30llX"};

int main(void)
{
    double specials[] = {0.0, -0.0, 1.0, -1.0, 0.1, 0.5, 1.5, 2.5, 1e10, 1e22, 1e23, 123456789.125, DBL_MAX, DBL_MIN,
                         4.9e-324, INFINITY, -INFINITY, NAN, M_PI, 9.999999e9, 0.000123456};
    for (unsigned i = 0; i < sizeof specials / sizeof *specials; i++)
        for (unsigned f = 0; f < sizeof float_formats / sizeof *float_formats; f++) {
            printf(float_formats[f], specials[i]);
            putchar('\n');
        }
    for (int round = 0; round < 2000; round++) {
        union { unsigned long long bits; double value; } number = {check_random()};
        const char *format = float_formats[check_random() % (sizeof float_formats / sizeof *float_formats)];
        printf(format, number.value);
        putchar('\n');
        long double extended = (long double)number.value * (long double)(check_random() % 1000003) / 7.0L;
        printf(long_formats[check_random() % (sizeof long_formats / sizeof *long_formats)], extended);
        putchar('\n');
        long long whole = (long long)check_random() >> (check_random() % 64);
        printf(int_formats[check_random() % (sizeof int_formats / sizeof *int_formats)], whole);
        putchar('\n');
    }
    printf("%3$s %1$d %2$*4$d|\n", 1, 2, "three", 8);
    printf("%s %.3s %10s %-10s| %c %%\n", "string", "truncated", "right", "left", 'c');
    printf("%p %p\n", (void *)0, (void *)0x1234);
    printf("%ls %lc %5.2ls|\n", L"wide \u00e4\u20ac", L'w', L"cut");
    printf("%hhd %hd %jd %zd %td\n", 300, 70000, (intmax_t)-5, (size_t)7, (ptrdiff_t)-9);
    int count = 0;
    printf("count%n", &count);
    printf(" %d\n", count);
    char buffer[10];
    CHECK(snprintf(buffer, sizeof buffer, "%s", "longer than ten") == 15 && strlen(buffer) == 9);
    printf("%s %d\n", (char *)NULL, snprintf(NULL, 0, "%d", 12345));
    return 0;
}
