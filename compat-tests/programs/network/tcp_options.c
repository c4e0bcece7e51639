// Urgent data (tcp(7), recv(2) MSG_OOB, sockatmark(3)), TCP_INFO and the TCP_* options, over the loopback.
#include "../check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int client, server;

static void open_pair(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(listener, 4) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &len) == 0);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (struct sockaddr *)&address, sizeof address) == 0);
    server = accept(listener, NULL, NULL);
    CHECK(server >= 0);
    close(listener);
}

static void urgent(void) {
    char buffer[16];
    int at_mark, one = 1;
    CHECK(recv(server, buffer, 1, MSG_OOB) == -1 && errno == EINVAL);
    CHECK(send(client, "abX", 3, MSG_OOB) == 3);
    CHECK(send(client, "cd", 2, 0) == 2);
    struct pollfd ready = {.fd = server, .events = POLLPRI};
    CHECK(poll(&ready, 1, 2000) == 1 && (ready.revents & POLLPRI));
    CHECK(recv(server, buffer, sizeof buffer, 0) == 2 && memcmp(buffer, "ab", 2) == 0);
    CHECK(ioctl(server, SIOCATMARK, &at_mark) == 0 && at_mark == 1);
    CHECK(recv(server, buffer, sizeof buffer, MSG_OOB) == 1 && buffer[0] == 'X');
    CHECK(recv(server, buffer, sizeof buffer, MSG_OOB) == -1 && errno == EINVAL);
    CHECK(recv(server, buffer, 2, MSG_WAITALL) == 2 && memcmp(buffer, "cd", 2) == 0);
    CHECK(ioctl(server, SIOCATMARK, &at_mark) == 0 && at_mark == 0);
    CHECK(setsockopt(server, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one) == 0);
    CHECK(send(client, "Z", 1, MSG_OOB) == 1);
    CHECK(recv(server, buffer, 1, MSG_WAITALL) == 1 && buffer[0] == 'Z');
}

static int get(int name) {
    int value = -7;
    socklen_t len = sizeof value;
    CHECK(getsockopt(client, IPPROTO_TCP, name, &value, &len) == 0);
    return value;
}

static int set(int name, int value) {
    return setsockopt(client, IPPROTO_TCP, name, &value, sizeof value) == 0 ? 0 : errno;
}

static void options(void) {
    CHECK(set(TCP_DEFER_ACCEPT, 5) == 0 && get(TCP_DEFER_ACCEPT) == 7);
    CHECK(set(TCP_LINGER2, -1) == 0 && get(TCP_LINGER2) == -1);
    CHECK(set(TCP_LINGER2, 30) == 0 && get(TCP_LINGER2) == 30);
    CHECK(set(TCP_MAXSEG, 87) == EINVAL);
    CHECK(set(TCP_KEEPIDLE, 0) == EINVAL && set(TCP_KEEPIDLE, 32768) == EINVAL);
    CHECK(set(TCP_KEEPCNT, 128) == EINVAL);
    CHECK(set(TCP_SYNCNT, 128) == EINVAL);
    CHECK(set(TCP_USER_TIMEOUT, -1) == EINVAL);
    CHECK(set(TCP_USER_TIMEOUT, 1234) == 0 && get(TCP_USER_TIMEOUT) == 1234);
    CHECK(set(TCP_THIN_DUPACK, 2) == EINVAL && set(TCP_THIN_LINEAR_TIMEOUTS, 1) == 0);
    CHECK(get(TCP_THIN_LINEAR_TIMEOUTS) == 1);
    CHECK(setsockopt(client, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
    char name[16] = "";
    socklen_t len = sizeof name;
    CHECK(getsockopt(client, IPPROTO_TCP, TCP_CONGESTION, name, &len) == 0 && strcmp(name, "reno") == 0);
    CHECK(setsockopt(client, IPPROTO_TCP, TCP_CONGESTION, "none", 4) == -1 && errno == ENOENT);
}

static void info(void) {
    struct tcp_info info;
    memset(&info, 0xff, sizeof info);
    socklen_t len = 232;
    CHECK(getsockopt(client, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && len == 232);
    CHECK(info.tcpi_state == 1 && info.tcpi_ca_state == 0);
    CHECK((info.tcpi_options & 7) == 7);
    CHECK(info.tcpi_snd_mss > 500 && info.tcpi_snd_cwnd >= 10);
    CHECK(info.tcpi_bytes_sent == 6 && info.tcpi_total_retrans == 0 && info.tcpi_bytes_retrans == 0);
    CHECK(info.tcpi_data_segs_out >= 3 && info.tcpi_data_segs_in == 0);
    CHECK(info.tcpi_notsent_bytes == 0 && info.tcpi_snd_wnd > 1000);
}

int main(void) {
    open_pair();
    urgent();
    options();
    info();
    puts("done");
    return 0;
}
