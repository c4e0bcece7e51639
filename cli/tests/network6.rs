//! IPv6 in networks: guests reach each other, the host and the world by it, ports are published for it, addresses come
//! from the network, from routers or from the user; and leases of DHCP servers. What programs are told of their
//! addresses is compared with what they can do with them.

mod support;

use std::path::PathBuf;
use support::network::Network;
use support::{Guest, PATIENCE, alone, compile, eventually, free_port, run_limited, text};

/// The prefix of networks behind host sockets, and the gateway in it.
const PREFIX: &str = "fd9a:c71d:2f60:";
const GATEWAY: &str = "fd9a:c71d:2f60::2";

impl Network {
    /// A guest that ends by itself: its status and output.
    fn end(&self, name: &str, args: &[&str], program: &[&str]) -> (Option<i32>, String) {
        let mut guest = self.run(name, args, program);
        let status = guest.wait();
        (status.code(), guest.output())
    }

    fn ask(&self, name: &str, args: &[&str], program: &[&str]) -> String {
        let (status, output) = self.end(name, args, program);
        assert_eq!(status, Some(0), "{program:?}: {output}");
        output
    }
}

/// `serve PORT WORD`: answers each connection, of both families, with the word and the client's family.
/// `ask FAMILY HOST PORT`: prints what it hears (FAMILY: 4, 6 or 0 for any, in getaddrinfo's order).
/// `names HOST`: its addresses in getaddrinfo's order, AI_ADDRCONFIG. `own`: the interfaces' addresses by getifaddrs.
/// `bind PORT`: how binding [::]:PORT ends.
fn tool() -> PathBuf {
    static SOURCE: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int listener(int port) {
    int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (bind(fd, (struct sockaddr *)&at, sizeof at)) return -errno;
    return listen(fd, 16) ? -errno : fd;
}

static void show(const struct sockaddr *a) {
    char text[64];
    const void *bytes = a->sa_family == AF_INET ? (void *)&((struct sockaddr_in *)a)->sin_addr
                                                : (void *)&((struct sockaddr_in6 *)a)->sin6_addr;
    printf("%s\n", inet_ntop(a->sa_family, bytes, text, sizeof text));
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc < 2) return 9;
    if (!strcmp(argv[1], "serve")) {
        int fd = listener(atoi(argv[2]));
        if (fd < 0) { printf("bind: %s\n", strerror(-fd)); return 1; }
        printf("ready\n");
        for (;;) {
            struct sockaddr_in6 from;
            socklen_t len = sizeof from;
            int peer = accept(fd, (struct sockaddr *)&from, &len);
            if (peer < 0) return 1;
            dprintf(peer, "%s by %d\n", argv[3], IN6_IS_ADDR_V4MAPPED(&from.sin6_addr) ? 4 : 6);
            close(peer);
        }
    }
    if (!strcmp(argv[1], "bind")) {
        int fd = listener(atoi(argv[2]));
        printf("%s\n", fd < 0 ? strerror(-fd) : "bound");
        return 0;
    }
    if (!strcmp(argv[1], "own")) {
        struct ifaddrs *all;
        if (getifaddrs(&all)) { perror("getifaddrs"); return 2; }
        for (struct ifaddrs *a = all; a; a = a->ifa_next)
            if (a->ifa_addr && (a->ifa_addr->sa_family == AF_INET || a->ifa_addr->sa_family == AF_INET6)) {
                printf("%s %d ", a->ifa_name, if_nametoindex(a->ifa_name));
                show(a->ifa_addr);
            }
        return 0;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *found;
    if (!strcmp(argv[1], "names")) {
        int error = getaddrinfo(argv[2], "80", &hints, &found);
        if (error) { printf("name: %s\n", gai_strerror(error)); return 2; }
        for (; found; found = found->ai_next) show(found->ai_addr);
        return 0;
    }
    hints.ai_family = argv[2][0] == '4' ? AF_INET : argv[2][0] == '6' ? AF_INET6 : AF_UNSPEC;
    int error = getaddrinfo(argv[3], argv[4], &hints, &found);
    if (error) { printf("name: %s\n", gai_strerror(error)); return 2; }
    int fd = -1;
    for (; found; found = found->ai_next) {
        fd = socket(found->ai_family, SOCK_STREAM, 0);
        if (!connect(fd, found->ai_addr, found->ai_addrlen)) break;
    }
    if (!found) { printf("connect: %s\n", strerror(errno)); return 3; }
    char word[256];
    ssize_t got, all = 0;
    while ((got = read(fd, word + all, sizeof word - 1 - all)) > 0) all += got;
    word[all] = 0;
    printf("%s", word);
    return got != 0;
}
"#;
    compile("network6-tool", SOURCE, &[])
}

fn up(guest: &Guest) -> &Guest {
    assert!(eventually(PATIENCE, || guest.output().contains("ready")), "{}", guest.output());
    guest
}

fn on_host(tool: &str, args: &[&str]) -> String {
    text(run_limited(std::process::Command::new(tool).args(args), PATIENCE))
}

#[test]
fn guests_talk_by_name_and_a_crash_of_the_server_is_not_the_end() {
    let _alone = alone();
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("six", &[]);
    let server = network.run("Alpha", &["--ip", "10.0.2.18"], &[tool, "serve", "700", "alpha"]);
    up(&server);
    let address = format!("{PREFIX}:12");
    for (family, host, heard) in [
        ("6", "alpha", "alpha by 6\n"),
        ("6", "alpha.attacca", "alpha by 6\n"),
        ("6", &address, "alpha by 6\n"),
        ("4", "alpha", "alpha by 4\n"),
    ] {
        assert_eq!(network.ask("beta", &[], &[tool, "ask", family, host, "700"]), heard, "{host}");
    }
    // RFC 6724: of two in the same network, IPv6 comes first (precedence 40 against 35 does not hold for a unique
    // local address, whose label is the source's too, so rule 6's precedence 3 against 35 puts IPv4 first).
    let order = network.ask("beta", &[], &[tool, "names", "alpha"]);
    let mut both: Vec<&str> = order.lines().collect();
    both.sort_unstable();
    assert_eq!(both, ["10.0.2.18", &address], "{order}");
    let (status, output) = network.end("beta", &[], &[tool, "ask", "6", "alpha", "701"]);
    assert_eq!((status, output.contains("refused")), (Some(3), true), "{output}");
    network.say("restart");
    assert_eq!(network.ask("beta", &[], &[tool, "ask", "6", "alpha", "700"]), "alpha by 6\n");
}

#[test]
fn the_host_is_reached_and_reaches_published_ports_by_both_families() {
    let _alone = alone();
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("sixhost", &[]);
    // The gateway's address is the host's ::1.
    let port = free_port().to_string();
    let mut host = std::process::Command::new(tool);
    let mut host = host.args(["serve", &port, "host"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    assert!(eventually(PATIENCE, || std::net::TcpStream::connect(format!("[::1]:{port}")).is_ok()));
    let heard = [GATEWAY, "host.attacca.internal"]
        .map(|name| network.ask("client", &[], &[tool, "ask", "6", name, &port]));
    let _ = host.kill();
    let _ = host.wait();
    assert_eq!(heard, ["host by 6\n", "host by 6\n"]);
    let (status, output) = network.end("client", &[], &[tool, "ask", "6", GATEWAY, &port]);
    assert_eq!((status, output.contains("refused")), (Some(3), true), "{output}");
    // And the other way.
    let publish = format!("{port}:80");
    let guest = network.run("served", &["-p", &publish], &[tool, "serve", "80", "guest"]);
    up(&guest);
    assert_eq!(on_host(tool, &["ask", "6", "::1", &port]), "guest by 6\n");
    assert_eq!(on_host(tool, &["ask", "4", "127.0.0.1", &port]), "guest by 4\n");
}

#[test]
fn addresses_are_shared_chosen_and_left_away() {
    let _alone = alone();
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("sixmany", &[]);
    let same = ["--ip", "10.0.2.40"];
    let one = network.run("one", &same, &[tool, "serve", "80", "one"]);
    up(&one);
    let two = network.run("two", &same, &[tool, "serve", "81", "two"]);
    up(&two);
    let shared = format!("{PREFIX}:28");
    for (port, word) in [("80", "one by 6\n"), ("81", "two by 6\n")] {
        assert_eq!(network.ask("client", &[], &[tool, "ask", "6", &shared, port]), word);
    }
    assert_eq!(network.ask("three", &same, &[tool, "bind", "81"]), "Address already in use\n");
    // One of the user's choice, in the network's prefix and nobody's.
    let chosen = format!("{PREFIX}:77");
    let own = network.ask("four", &["--ip6", &chosen], &[tool, "own"]);
    assert!(own.contains(&format!("eth0 2 {chosen}\n")), "{own}");
    for refused in ["2001:db8::1", GATEWAY, &shared, "ff02::1"] {
        let (status, words) = network.end("four", &["--ip6", refused], &[tool, "own"]);
        assert_eq!((status, words.contains("--ip6")), (Some(125), true), "{refused}: {words}");
    }
    let (status, words) = network.end("four", &["--ip6", "auto"], &[tool, "own"]);
    assert_eq!((status, words.contains("no router")), (Some(125), true), "{words}");
    let own = network.ask("four", &["--ip6", "none"], &[tool, "own"]);
    assert!(!own.contains(PREFIX) && own.contains("lo 1 ::1\n"), "{own}");
    // Without an IPv6 address of its own a guest is not given those of others (AI_ADDRCONFIG).
    let names = network.ask("four", &["--ip6", "none"], &[tool, "names", "one"]);
    assert_eq!(names, "10.0.2.40\n");
}

#[test]
fn tools_see_what_there_is() {
    let _alone = alone();
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("sixtools", &[]);
    let other = network.run("other", &["--ip", "10.0.2.18"], &[tool, "serve", "80", "other"]);
    up(&other);
    let here = ["--ip", "10.0.2.33"];
    let own = format!("{PREFIX}:21");
    for program in [&["debian:iproute2:ip", "address"][..], &[tool, "own"]] {
        let words = network.ask("tools", &here, program);
        for address in ["127.0.0.1", "::1", "10.0.2.33", &own, "fe80::"] {
            assert!(words.contains(address), "{address}: {words}");
        }
    }
    let links = network.ask("tools", &here, &["debian:iproute2:ip", "-o", "link", "show", "dev", "eth0"]);
    assert!(links.contains("mtu 65535") && links.contains("LOWER_UP"), "{links}");
    let routes = network.ask("tools", &here, &["debian:iproute2:ip", "route"]);
    assert!(routes.contains("default via 10.0.2.2 dev eth0"), "{routes}");
    assert!(routes.contains("10.0.2.0/24 dev eth0") && routes.contains("src 10.0.2.33"), "{routes}");
    let routes = network.ask("tools", &here, &["debian:iproute2:ip", "-6", "route"]);
    assert!(routes.contains(&format!("default via {GATEWAY} dev eth0")), "{routes}");
    let (status, refused) =
        network.end("tools", &here, &["debian:iproute2:ip", "link", "set", "eth0", "down"]);
    assert!(status != Some(0) && refused.contains("not permitted"), "{status:?} {refused}");
    let table = network.ask("tools", &here, &["/bin/cat", "/proc/net/ipv6_route", "/proc/net/if_inet6"]);
    assert!(table.contains("fd9ac71d2f600000"), "{table}");
    for target in ["other", GATEWAY, "::1"] {
        let words = network.ask("tools", &here, &["debian:iputils-ping:ping", "-6", "-c", "2", target]);
        assert!(words.contains("2 received, 0% packet loss"), "{target}: {words}");
    }
}

/// $1: attacca, $2: the tool, $3: the network's name, $4: dnsmasq's command. In a namespace of its own, whose file
/// system this is: the lease file is a pipe to nowhere.
const LEASED: &str = r#"
attacca=$1 tool=$2 net=$3 dnsmasq=$4
ip link set lo up
pids=
trap '"$attacca" server stop --net "$net" || :; kill $pids || :' EXIT
"$attacca" server start --net "$net" --uplink tap:at0 --ip 10.66.0.10/24 --gateway 10.66.0.1
ip tuntap add at1 mode tap
ip link add v0 type veth peer name v1
for card in at0 at1 v0 v1; do echo 0 > /proc/sys/net/ipv6/conf/$card/accept_dad; ip link set $card up; done
# Checksums that are left to a card are finished by none between these two ends.
ethtool -K v0 tx off >/dev/null 2>&1 || :
n=66
for card in at0 at1 v0; do
    ip addr add 10.$n.0.1/24 dev $card
    ip -6 addr add fd$n::1/64 dev $card nodad
    n=$((n+1))
done
$dnsmasq --keep-in-foreground --log-facility=- --log-dhcp --conf-file=/dev/null --leasefile-ro --no-resolv --no-hosts \
    --no-ping --pid-file= --user=root --group=root --interface=at0,at1,v0 --bind-dynamic --dhcp-authoritative \
    --dhcp-range=10.66.0.100,10.66.0.120,255.255.255.0,2m --dhcp-range=10.67.0.100,10.67.0.120,255.255.255.0,2m \
    --dhcp-range=10.68.0.100,10.68.0.120,255.255.255.0,2m --dhcp-option=option:T1,3 \
    --enable-ra --dhcp-range=fd66::,ra-only,64 --dhcp-range=fd67::,ra-only,64 --dhcp-range=fd68::,ra-only,64 \
    > "$LOG" 2>&1 & pids="$pids $!"
guest() { name=$1; shift; exec "$attacca" run --cpus 1 --name "$name" "$@"; }
leased() { grep -o "DHCPACK([a-z0-9]*) 10\.$1\.0\.1[0-9][0-9]" "$LOG" | tail -1 | grep -o '10\..*' ; }
up() { for i in $(seq 400); do timeout 3 "$tool" ask 0 "$1" "$2" 2>/dev/null && return; sleep 0.05; done; echo "nobody at $1"; return 1; }
address() { for i in $(seq 400); do leased "$1" && return; sleep 0.05; done; echo none; return 1; }
# The address that the guest made of the router's prefix, as it says itself.
made() { for i in $(seq 400); do grep -o "eth0 2 fd$1:[0-9a-f:]*" "$2" | grep -o 'fd.*' && return; sleep 0.05; done; echo none; return 1; }

(guest one --net "$net" --ip dhcp "$tool" serve 80 one) > /dev/null & pids="$pids $!"
echo "network: $(up "$(address 66)" 80)"
(guest own --nic tap:at1 --ip dhcp "$tool" serve 80 own) > /dev/null & pids="$pids $!"
echo "nic: $(up "$(address 67)" 80)"
(guest card --nic xdp:v1 --ip dhcp "$tool" serve 80 card) > /dev/null & pids="$pids $!"
echo "xdp: $(up "$(address 68)" 80)"
# Routers' prefixes make addresses.
for i in $(seq 400); do
    six=$("$attacca" server status --net "$net" --json | grep -o 'fd66:[0-9a-f:]*' | head -1)
    [ -n "$six" ] && break
    sleep 0.05
done
echo "slaac: $("$tool" ask 6 "$six" 80)"
# Name, router and server came with the lease.
echo "resolver: $(guest two --net "$net" --ip dhcp cat /etc/resolv.conf | tail -1)"
echo "byname: $(guest two --net "$net" --ip dhcp "$tool" ask 4 one 80)"
# The lease is renewed while the server is another.
pid=$("$attacca" server status --net "$net" --json | sed 's/^{"pid":\([0-9]*\),.*/\1/')
kill -9 "$pid"
before=$(grep -c 'DHCPACK(at0).* one$' "$LOG")
for i in $(seq 200); do [ "$(grep -c 'DHCPACK(at0).* one$' "$LOG")" -gt "$before" ] && break; sleep 0.05; done
[ "$(grep -c 'DHCPACK(at0).* one$' "$LOG")" -gt "$before" ] && echo "renewed"
echo "after: $(up "$(leased 66)" 80)"
"#;

#[test]
fn addresses_are_leased_and_renewed() {
    let _alone = alone();
    let tool = tool();
    // SAFETY: no preconditions.
    let root = unsafe { libc::getuid() } == 0;
    let log = support::scratch("leases").join(format!("{}.log", std::process::id()));
    std::fs::write(&log, "").unwrap();
    let dnsmasq = support::native("dnsmasq-base", "dnsmasq");
    let words = std::iter::once(dnsmasq.get_program()).chain(dnsmasq.get_args());
    let dnsmasq = words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let inside = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.arg(if root { "-nm" } else { "-rnm" }).args(["sh", "-euc", script, "sh"]);
        command
            .arg(env!("CARGO_BIN_EXE_attacca"))
            .arg(&tool)
            .arg(format!("dhcp-{}", std::process::id()))
            .arg(&dnsmasq);
        command
            .env("XDG_RUNTIME_DIR", support::runtime_dir())
            .env("LOG", &log)
            .stdin(std::process::Stdio::null());
        run_limited(&mut command, PATIENCE * 4)
    };
    let able = inside("ip tuntap add dev at1 mode tap && ip link add v0 type veth peer name v1");
    if !able.status.success() {
        assert!(!root, "root can make devices: {}", String::from_utf8_lossy(&able.stderr));
        eprintln!("skipped: no namespace with devices here: {}", String::from_utf8_lossy(&able.stderr));
        return;
    }
    let output = inside(LEASED);
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let say = || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        format!("{words}\n{}\n{log}", String::from_utf8_lossy(&output.stderr))
    };
    for line in [
        "network: one by 4",
        "nic: own by 4",
        "xdp: card by 4",
        "slaac: one by 6",
        "resolver: nameserver 10.66.0.1",
        "byname: one by 4",
        "renewed",
        "after: one by 4",
    ] {
        assert!(words.lines().any(|l| l == line), "{line}: {}", say());
    }
}
