/* Prints the tables of src/{unicode_tables,langinfo_table,strerror_table}.rs from the C library it
   runs on (glibc 2.36): tables unicode|langinfo|strerror > FILE. */
#define _GNU_SOURCE
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#define LAST 0x110000

static void boundaries(const char *name, const char *doc, int (*in)(wint_t))
{
    int was = 0, n = 0;
    for (wint_t c = 0; c <= LAST; c++) { int is = c < LAST && in(c); n += is != was; was = is; }
    printf("/// %s\n#[rustfmt::skip]\npub static %s: [u32; %d] = [", doc, name, n);
    int k = 0;
    was = 0;
    for (wint_t c = 0; c <= LAST; c++) {
        int is = c < LAST && in(c);
        if (is != was) printf("%s0x%x,", k++ % 12 ? " " : "\n    ", c);
        was = is;
    }
    printf("\n];\n\n");
}
static int wide(wint_t c) { return wcwidth(c) == 2; }
static int zero(wint_t c) { return c && wcwidth(c) == 0; }

static void map(const char *name, const char *doc, wint_t (*to)(wint_t))
{
    /* runs (first, last, step, delta) */
    static int run[4000][4];
    int n = 0;
    for (wint_t c = 0x80; c < LAST; c++) {
        int d = (int)to(c) - (int)c;
        if (!d) continue;
        int *p = n ? run[n - 1] : 0;
        if (p && p[3] == d && (int)c - p[1] <= 2 && (p[0] == p[1] || p[2] == (int)c - p[1])) {
            p[2] = c - p[1];
            p[1] = c;
        } else {
            run[n][0] = run[n][1] = c; run[n][2] = 1; run[n++][3] = d;
        }
    }
    printf("/// %s\n#[rustfmt::skip]\npub static %s: [(u32, u32, u32, i32); %d] = [", doc, name, n);
    for (int i = 0; i < n; i++)
        printf("%s(0x%x, 0x%x, %d, %d),", i % 5 ? " " : "\n    ", run[i][0], run[i][1], run[i][2], run[i][3]);
    printf("\n];\n\n");
}

static void unicode(void)
{
    setlocale(LC_ALL, "C.UTF-8");
    printf("//! Character classes, case and width of glibc 2.36's C.UTF-8, printed by `tools/tables.c unicode`.\n"
           "//!\n//! A class is its sorted boundaries: a character is in it when an odd number of them is not above it.\n"
           "//! A case map is runs (first, last, step, delta) above ASCII.\n\n");
    boundaries("ALPHA", "`iswalpha`", iswalpha);
    boundaries("UPPER", "`iswupper`", iswupper);
    boundaries("LOWER", "`iswlower`", iswlower);
    boundaries("SPACE", "`iswspace`", iswspace);
    boundaries("PRINT", "`iswprint`", iswprint);
    boundaries("GRAPH", "`iswgraph`", iswgraph);
    boundaries("BLANK", "`iswblank`", iswblank);
    boundaries("CNTRL", "`iswcntrl`", iswcntrl);
    boundaries("PUNCT", "`iswpunct`", iswpunct);
    boundaries("WIDE", "`wcwidth` 2", wide);
    boundaries("ZERO_WIDTH", "`wcwidth` 0", zero);
    map("TO_UPPER", "`towupper`", towupper);
    map("TO_LOWER", "`towlower`", towlower);
}

static void quoted(const char *s)
{
    putchar('c'); putchar('"');
    for (; *s; s++)
        if (*s == '"' || *s == '\\') printf("\\%c", *s);
        else if (*s < ' ' || *s > '~') printf("\\x%02x", *s & 255);
        else putchar(*s);
    putchar('"');
}

static void langinfo(void)
{
    static const int last[] = {-1, 2, 0x32, -1, 0x10, 4};
    static const char *names[] = {"", "NUMERIC", "TIME", "", "MONETARY", "MESSAGES"};
    setlocale(LC_ALL, "C.UTF-8");
    printf("//! The strings behind `nl_langinfo`, printed by `tools/tables.c langinfo`: the same in C and C.UTF-8.\n\n"
           "use core::ffi::CStr;\n\n");
    for (int cat = 0; cat < 6; cat++) {
        if (last[cat] < 0) continue;
        printf("/// Category %d by item index.\n#[rustfmt::skip]\npub static %s: [&CStr; %d] = [\n", cat, names[cat], last[cat]);
        for (int i = 0; i < last[cat]; i++) {
            printf("    "); quoted(nl_langinfo(cat << 16 | i)); printf(",\n");
        }
        printf("];\n\n");
    }
}

static void strerr(void)
{
    printf("//! Texts of errors and signals, printed by `tools/tables.c strerror`.\n\nuse core::ffi::CStr;\n\n"
           "/// Name and description by errno.\n#[rustfmt::skip]\npub static ERRORS: [Option<(&CStr, &CStr)>; 134] = [\n");
    for (int i = 0; i < 134; i++)
        if (strerrordesc_np(i)) { printf("    Some(("); quoted(strerrorname_np(i)); printf(", "); quoted(strerrordesc_np(i)); printf(")),\n"); }
        else printf("    None,\n");
    printf("];\n\n/// Abbreviation and description by signal number.\n#[rustfmt::skip]\npub static SIGNALS: [Option<(&CStr, &CStr)>; 32] = [\n");
    for (int i = 0; i < 32; i++)
        if (sigdescr_np(i)) { printf("    Some(("); quoted(sigabbrev_np(i)); printf(", "); quoted(sigdescr_np(i)); printf(")),\n"); }
        else printf("    None,\n");
    printf("];\n");
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "unicode")) unicode();
    else if (argc == 2 && !strcmp(argv[1], "langinfo")) langinfo();
    else if (argc == 2 && !strcmp(argv[1], "strerror")) strerr();
    else return 2;
    return 0;
}
