/* Prints the tables of src/{unicode_tables,langinfo_table,strerror_table,charset_tables}.rs from the C library it
   runs on (glibc 2.36): tables unicode|langinfo|strerror|charsets > FILE. */
#define _GNU_SOURCE
#include <errno.h>
#include <iconv.h>
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

static const char *const charsets[] = {
    "ISO-8859-1", "ISO-8859-2", "ISO-8859-3", "ISO-8859-4", "ISO-8859-5", "ISO-8859-6", "ISO-8859-7",
    "ISO-8859-8", "ISO-8859-9", "ISO-8859-10", "ISO-8859-11", "ISO-8859-13", "ISO-8859-14", "ISO-8859-15",
    "ISO-8859-16", "CP1250", "CP1251", "CP1252", "CP1253", "CP1254", "CP1255", "CP1256", "CP1257", "CP1258",
    "KOI8-R", "KOI8-U", "CP437", "CP850", "CP852", "CP866", "MACINTOSH", "TIS-620", 0};

static void eightbit(void)
{
    printf("//! Eight-bit character sets, printed by `tools/tables.c charsets`: names, and the characters of the\n"
           "//! bytes 0x80 to 0xff (0: none). The bytes below are ASCII.\n\n"
           "/// By glibc's name.\n#[rustfmt::skip]\npub static CHARSETS: &[(&str, [u16; 128])] = &[\n");
    for (const char *const *name = charsets; *name; name++) {
        printf("    (\"%s\", [", *name);
        for (int c = 0x80; c < 0x100; c++) {
            iconv_t cd = iconv_open("UCS-4LE", *name);
            char in[2] = {(char)c, 'a'}, out[16], *i = in, *o = out;
            unsigned wide = 0;
            size_t left = 2, room = 16;
            if (cd == (iconv_t)-1) { fprintf(stderr, "no %s\n", *name); break; }
            if (iconv(cd, &i, &left, &o, &room) != (size_t)-1 && o - out == 8) memcpy(&wide, out, 4);
            iconv_close(cd);
            printf("%s0x%x,", (c & 15) ? " " : "\n        ", wide);
        }
        printf("\n    ]),\n");
    }
    printf("];\n\n/// What `//TRANSLIT` makes of characters that a set lacks (glibc's C locale), in ASCII.\n"
           "#[rustfmt::skip]\npub static TRANSLIT: &[(u32, &str)] = &[");
    int n = 0;
    for (unsigned c = 0x80; c < 0x20000; c++) {
        if (c >= 0xd800 && c < 0xe000) continue;
        iconv_t cd = iconv_open("ASCII//TRANSLIT", "UCS-4LE");
        char out[64], *i = (char *)&c, *o = out;
        size_t left = 4, room = 64;
        if (iconv(cd, &i, &left, &o, &room) != (size_t)-1 && iconv(cd, 0, 0, &o, &room) != (size_t)-1
            && !(o == out + 1 && *out == '?')) {
            printf("%s(0x%x, \"", n++ % 6 ? " " : "\n    ", c);
            for (char *p = out; p < o; p++) printf(*p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
            printf("\"),");
        }
        iconv_close(cd);
    }
    printf("\n];\n");
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "unicode")) unicode();
    else if (argc == 2 && !strcmp(argv[1], "langinfo")) langinfo();
    else if (argc == 2 && !strcmp(argv[1], "strerror")) strerr();
    else if (argc == 2 && !strcmp(argv[1], "charsets")) eightbit();
    else return 2;
    return 0;
}
