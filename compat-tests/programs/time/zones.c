/* Time zones by rule, conversion both ways, strftime, strptime. */
#define _GNU_SOURCE
#include "../check.h"
#include <time.h>

int main(void)
{
    const char *zones[] = {"UTC", "EST5EDT,M3.2.0,M11.1.0", "CET-1CEST,M3.5.0,M10.5.0/3", "<+0530>-5:30", "NZST-12NZDT,M9.5.0,M4.1.0/3"};
    for (unsigned z = 0; z < sizeof zones / sizeof *zones; z++) {
        setenv("TZ", zones[z], 1);
        tzset();
        for (int i = 0; i < 200; i++) {
            time_t when = (time_t)(check_random() % 4102444800ull);
            struct tm parts;
            char text[100];
            CHECK(localtime_r(&when, &parts));
            CHECK(strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S %a %b %j %U %V %G %Z %z %s", &parts));
            puts(text);
            CHECK(mktime(&parts) == when);
        }
    }
    struct tm parsed = {0};
    CHECK(*strptime("2023-02-28 23:59:60", "%Y-%m-%d %H:%M:%S", &parsed) == 0 && parsed.tm_year == 123 && parsed.tm_wday == 2);
    printf("%s", asctime(&parsed));
    return 0;
}
