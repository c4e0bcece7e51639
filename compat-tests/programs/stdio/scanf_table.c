/* Parses many texts by scanf and strtod; prints what came out. */
#include "../check.h"
#include <math.h>

int main(void)
{
    const char *numbers[] = {"1", "-1.5", "+.5", "1e10", "1e400", "-1e-400", "0x1.8p3", "0x.8", "inf", "-INFINITY", "nan",
                             "nan(123)", "1e", "1e+", "0x", "0x1p", ".", "-", "  42abc", "4.9e-324", "2.4703282292062327e-324",
                             "1.7976931348623159e308", "9007199254740993", "0.1", "123456789012345678901234567890", "1_000", ""};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char *end;
        errno = 0;
        double d = strtod(numbers[i], &end);
        printf("%s -> %a %td %d\n", numbers[i], isnan(d) ? 0.0 : d, end - numbers[i], errno);
        errno = 0;
        float f = strtof(numbers[i], &end);
        printf("f %a %td %d\n", isnan(f) ? 0.0 : f, end - numbers[i], errno);
        errno = 0;
        long double l = strtold(numbers[i], &end);
        printf("l %La %td %d\n", isnan(l) ? 0.0L : l, end - numbers[i], errno);
        errno = 0;
        long n = strtol(numbers[i], &end, 0);
        printf("n %ld %td %d\n", n, end - numbers[i], errno);
    }
    for (int round = 0; round < 3000; round++) {
        char text[80];
        snprintf(text, sizeof text, "%llu.%llue%d", check_random() >> (check_random() % 60), check_random() >> (check_random() % 60),
                 (int)(check_random() % 640) - 330);
        char *end;
        printf("%s %a %La\n", text, strtod(text, &end), strtold(text, &end));
    }
    int a = 0, b = 0, c = 0, n = 0;
    char word[20] = "", set[20] = "";
    unsigned x = 0;
    printf("%d", sscanf("12 word 0x1f [abc]", "%d %19s %x [%19[a-c]]%n", &a, word, &x, set, &n));
    printf(" %d %s %x %s %d\n", a, word, x, set, n);
    printf("%d", sscanf("1,2,,3", "%d,%d,%d", &a, &b, &c));
    printf(" %d %d %d\n", a, b, c);
    printf("%d\n", sscanf("", "%d", &a));
    printf("%d\n", sscanf("abc", "%d", &a));
    char *made = NULL;
    CHECK(sscanf("allocate me", "%ms", &made) == 1 && strcmp(made, "allocate") == 0);
    free(made);
    printf("%d", sscanf("3 2 1", "%3$d %2$d %1$d", &a, &b, &c));
    printf(" %d %d %d\n", a, b, c);
    double d = 0;
    printf("%d", sscanf("1.5e3xyz", "%lf%2c", &d, word));
    printf(" %g %.2s\n", d, word);
    printf("%d\n", sscanf("077 0b1 09", "%i %i %i", &a, &b, &c));
    printf("%d %d %d\n", a, b, c);
    return 0;
}
