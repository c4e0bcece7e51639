//! Debian's load generators, proxies, small servers and tools, unmodified, as guests: against servers in other guests
//! (through ports published on the host; a guest reaches the host's loopback at 10.0.2.2) and against native peers.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(90);
/// The host's loopback as guests see it.
const HOST: &str = "10.0.2.2";

/// `attacca run ARGS` to its end.
fn guest(args: &[&str]) -> Output {
    run_limited(attacca().arg("run").args(args), LIMIT)
}

/// A guest on a published port, whose server of HTTP answers whatever it is told first with a complaint. That it refuses
/// nobody is not enough: on a loaded machine it may not even have begun.
fn serve(port: u16, inner: u16, args: &[&str]) -> Guest {
    let publish = format!("127.0.0.1:{port}:{inner}");
    let mut guest = Guest::start(&[&["-p", &publish], args].concat());
    guest.wait_for_port(port);
    guest
}

/// The same for TLS, which answers a proper greeting only.
fn serve_tls(port: u16, inner: u16, args: &[&str]) -> Guest {
    let publish = format!("127.0.0.1:{port}:{inner}");
    let guest = Guest::start(&[&["-p", &publish], args].concat());
    let greets = || {
        let mut client = native("openssl", "openssl");
        client.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]);
        run_limited(&mut client, Duration::from_secs(5)).status.success()
    };
    assert!(eventually(PATIENCE, greets), "nobody greets:\n{}", guest.output());
    guest
}

/// A folder of files to serve, with a certificate in its parent.
fn site(name: &str) -> PathBuf {
    let dir = scratch(name);
    fs::create_dir_all(dir.join("www")).unwrap();
    fs::write(dir.join("www/1k"), pattern(1024)).unwrap();
    fs::write(dir.join("www/1m"), pattern(1 << 20)).unwrap();
    fs::write(dir.join("www/index.html"), name).unwrap();
    make_certificate(&dir);
    dir
}

fn nginx(name: &str) -> (Guest, u16) {
    let (dir, port) = (site(name), free_port());
    let volume = format!("{}:/var/www/html:ro", dir.join("www").display());
    (serve(port, 80, &["-v", &volume, "debian:nginx", "-g", "daemon off;"]), port)
}

fn last_number(line: &str) -> f64 {
    line.split_whitespace().rev().find_map(|word| word.parse().ok()).unwrap_or(0.0)
}

#[test]
fn every_import_is_bound() {
    for program in [
        "redis-server",
        "redis-tools:redis-cli",
        "redis-tools:redis-benchmark",
        "wrk",
        "apache2-utils:ab",
        "libmemcached-tools:memcslap",
        "libmemcached-tools:memaslap",
        "libmemcached-tools:memcapable",
        "netpipe-tcp:NPtcp",
        "iperf3",
        "sockperf",
        "haproxy",
        "lighttpd",
        "curl",
        "nghttp2-client:h2load",
        "nghttp2-server:nghttpd",
        "python3",
        "openssl",
        "sqlite3",
    ] {
        let output = run_limited(attacca().args(["check", "--missing", &format!("debian:{program}")]), LIMIT);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && words.contains(" 0 missing"), "{program}: {words}");
    }
}

#[test]
fn http_clients() {
    let _alone = alone();
    let (server, port) = nginx("http-clients");
    let url = format!("http://{HOST}:{port}/1k");
    let words = text(guest(&["debian:wrk", "-t2", "-c20", "-d1", &url]));
    assert!(
        words.contains("Requests/sec") && !words.contains("Socket errors"),
        "{words}\n{}",
        server.output()
    );
    assert!(!words.contains("Non-2xx"), "{words}");
    for keep in [&["-k"][..], &[]] {
        let args = [&["debian:apache2-utils:ab", "-q", "-n", "2000", "-c", "10"], keep, &[&url]].concat();
        let words = text(guest(&args));
        let field = |name: &str| words.lines().find(|l| l.starts_with(name)).map(last_number);
        assert_eq!(field("Complete requests:"), Some(2000.0), "{words}");
        assert_eq!(field("Failed requests:"), Some(0.0), "{words}");
    }
    let body = guest(&["debian:curl", "-s", &format!("http://{HOST}:{port}/1m")]);
    assert!(body.stdout == pattern(1 << 20), "curl gets other bytes: {}", body.stdout.len());
    let words =
        text(guest(&["debian:curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("{url}x")]));
    assert_eq!(words, "404");
    // Nobody there: curl's own status for it.
    let refused = guest(&["debian:curl", "-s", &format!("http://{HOST}:1/")]);
    assert_eq!(refused.status.code(), Some(7));
}

#[test]
fn memcached_clients() {
    let _alone = alone();
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:11211");
    let mut server = Guest::start(&["-p", &publish, "debian:memcached", "-t", "2"]);
    server.wait_for_port(port);
    let address = format!("{HOST}:{port}");
    let words = text(guest(&[
        "debian:libmemcached-tools:memcslap",
        &format!("--servers={address}"),
        "--concurrency=8",
        "--execute-number=500",
    ]));
    assert!(words.contains("Time total"), "{words}");
    let args = ["debian:libmemcached-tools:memaslap", "-s", &address, "-T", "2", "-c", "16", "-x", "20000"];
    let words = text(guest(&args));
    assert!(words.contains("get_misses: 0"), "{words}");
    let port = port.to_string();
    for protocol in ["-a", "-b"] {
        let output =
            guest(&["debian:libmemcached-tools:memcapable", "-h", HOST, "-p", &port, protocol, "-t", "10"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = text(output);
        assert!(words.contains("All tests passed"), "{words}\n{errors}\n{}", server.output());
    }
}

/// Every mode in both roles; bytes must arrive.
#[test]
fn iperf3_modes() {
    let _alone = alone();
    let modes: [&[&str]; 8] = [
        &[],
        &["-R"],
        &["--bidir"],
        &["-P", "8"],
        &["-P", "8", "-R"],
        &["-u", "-b", "50M"],
        &["-u", "-b", "50M", "-R"],
        &["-l", "100", "-n", "200K"],
    ];
    let check = |who: &str, mode: &[&str], output: Output| {
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{who} {mode:?}: {words}\n{errors}");
        let received = words.lines().filter(|l| l.ends_with("receiver"));
        let bytes: Vec<&str> = received.filter_map(|l| l.split_whitespace().nth_back(4)).collect();
        assert!(!bytes.is_empty(), "{who} {mode:?}: {words}");
        // With a count, the word that the test is over may overtake the data on their other connection, natively
        // as well: what iperf3's server then has not read it does not count.
        let may_be_nothing = mode.contains(&"-P") || mode.contains(&"-n");
        assert!(!words.contains(" 0.00 bits/sec") || may_be_nothing, "{who} {mode:?}: {words}");
    };
    let port = free_port().to_string();
    let mut command = native("iperf3", "iperf3");
    let _native = Native::spawn(command.args(["-s", "-p", &port]));
    let up = eventually(PATIENCE, || {
        run_limited(native("iperf3", "iperf3").args(["-c", "127.0.0.1", "-p", &port, "-n", "1"]), LIMIT)
            .status
            .success()
    });
    assert!(up, "no native iperf3");
    for mode in modes {
        let args = [&["debian:iperf3", "-c", HOST, "-p", &port, "-t", "1"], mode].concat();
        // It takes either time or an amount.
        let args: Vec<&str> = if mode.contains(&"-n") {
            args.into_iter().filter(|a| !["-t", "1"].contains(a)).collect()
        } else {
            args
        };
        check("guest client", mode, guest(&args));
    }
    let port = free_port();
    let (tcp, udp) = (format!("127.0.0.1:{port}:5201"), format!("127.0.0.1:{port}:5201/udp"));
    let mut server = Guest::start(&["-p", &tcp, "-p", &udp, "debian:iperf3", "-s"]);
    let port = port.to_string();
    let client = |mode: &[&str]| {
        let mut command = native("iperf3", "iperf3");
        command.args(["-c", "127.0.0.1", "-p", &port]).args(mode);
        if !mode.contains(&"-n") {
            command.args(["-t", "1"]);
        }
        run_limited(&mut command, LIMIT)
    };
    assert!(eventually(PATIENCE, || client(&["-n", "1"]).status.success()), "{}", server.output());
    for mode in modes {
        check("guest server", mode, client(mode));
    }
    server.signal(libc::SIGTERM);
    server.wait();
}

/// NetPIPE's ping-pong over its whole range of sizes, as a client and as a server.
#[test]
fn netpipe() {
    let _alone = alone();
    let most = if std::env::var_os("ATTACCA_LONG").is_some() { "67108864" } else { "1048576" };
    let results = |output: Output| {
        // Its figures go to stderr, a line for each size.
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<&str> = words.lines().filter(|l| l.contains("Mbps in")).collect();
        assert!(lines.len() > 90, "{} sizes only:\n{words}", lines.len());
    };
    let port = free_port().to_string();
    let _native = Native::spawn(native("netpipe-tcp", "NPtcp").args(["-P", &port]));
    std::thread::sleep(Duration::from_millis(500));
    let range = ["-u", most, "-n", "10", "-o", "/dev/null"];
    results(guest(&[&["debian:netpipe-tcp", "-h", HOST, "-P", &port], &range[..]].concat()));
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:5002");
    let mut server = Guest::start(&["-p", &publish, "debian:netpipe-tcp"]);
    std::thread::sleep(Duration::from_millis(1500));
    let mut client = native("netpipe-tcp", "NPtcp");
    client.args(["-h", "127.0.0.1", "-P", &port.to_string()]).args(range);
    results(run_limited(&mut client, LIMIT));
    // Its last word may meet a closed connection, natively as well: then it says so and ends with 3.
    let status = shell_status(server.wait());
    assert!(status == 0 || status == 3, "{status}: {}", server.output());
}

#[test]
fn sockperf() {
    let _alone = alone();
    for tcp in [&["--tcp"][..], &[]] {
        let port = free_port().to_string();
        let mut command = native("sockperf", "sockperf");
        let _native = Native::spawn(command.args(["sr", "-i", "127.0.0.1", "-p", &port]).args(tcp));
        std::thread::sleep(Duration::from_millis(500));
        for mode in [&["pp"][..], &["ul", "--mps", "2000"], &["tp"]] {
            let args = [&["debian:sockperf"], mode, &["-i", HOST, "-p", &port, "-t", "1"], tcp].concat();
            let words = text(guest(&args));
            assert!(words.contains("Summary:"), "{mode:?} {tcp:?}: {words}");
        }
    }
    let port = free_port().to_string();
    let publish = format!("127.0.0.1:{port}:11111");
    let mut server = Guest::start(&["-p", &publish, "debian:sockperf", "sr", "--tcp", "-i", "0.0.0.0"]);
    std::thread::sleep(Duration::from_millis(1500));
    let mut client = native("sockperf", "sockperf");
    client.args(["pp", "--tcp", "-i", "127.0.0.1", "-p", &port, "-t", "1"]);
    let words = text(run_limited(&mut client, LIMIT));
    assert!(words.contains("Summary: Latency is"), "{words}\n{}", server.output());
    server.signal(libc::SIGINT);
    assert_eq!(shell_status(server.wait()), 0, "{}", server.output());
}

/// A proxy in front of three servers: each takes its turn, and one that ends is left out.
#[test]
fn haproxy_before_three_nginx() {
    let _alone = alone();
    let servers: Vec<(Guest, u16)> = ["backend-a", "backend-b", "backend-c"].map(nginx).into();
    let dir = scratch("haproxy");
    let lines: String = servers
        .iter()
        .map(|(_, port)| format!("  server s{port} {HOST}:{port} check inter 200ms fall 1\n"))
        .collect();
    let configuration = format!(
        "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 5s\n  timeout server 5s\n  timeout check 5s\n  \
         option redispatch\nfrontend web\n  bind :80\n  default_backend all\nbackend all\n  balance roundrobin\n{lines}"
    );
    fs::write(dir.join("haproxy.cfg"), configuration).unwrap();
    let port = free_port();
    let volume = format!("{}:/etc/test:ro", dir.display());
    let mut proxy = serve(port, 80, &["-v", &volume, "debian:haproxy", "-db", "-f", "/etc/test/haproxy.cfg"]);
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(eventually(PATIENCE, || !http(port, request).is_empty()), "{}", proxy.output());
    let get = || {
        let answer = http(port, request);
        String::from_utf8_lossy(split_http(&answer).1).into_owned()
    };
    let mut seen: Vec<String> = (0..9).map(|_| get()).collect();
    seen.sort();
    let want: Vec<&str> = ["backend-a", "backend-b", "backend-c"].into_iter().flat_map(|n| [n; 3]).collect();
    assert_eq!(seen, want, "{}", proxy.output());
    let words = text(guest(&["debian:wrk", "-t2", "-c20", "-d1", &format!("http://{HOST}:{port}/1k")]));
    assert!(!words.contains("Socket errors") && !words.contains("Non-2xx"), "{words}\n{}", proxy.output());
    // One ends; its turn goes to the others.
    let mut servers = servers;
    drop(servers.remove(1));
    let settled =
        eventually(PATIENCE, || (0..6).all(|_| ["backend-a", "backend-c"].contains(&get().as_str())));
    assert!(settled, "{}", proxy.output());
    proxy.signal(libc::SIGTERM);
    assert_eq!(shell_status(proxy.wait()), 143, "{}", proxy.output());
}

/// Debian's default configuration, which runs two Perl scripts to be read.
#[test]
fn lighttpd_as_debian_configures_it() {
    let _alone = alone();
    let (dir, port) = (site("lighttpd"), free_port());
    let volume = format!("{}:/var/www/html:ro", dir.join("www").display());
    let publish = format!("127.0.0.1:{port}:80");
    let mut server = Guest::start(&["-p", &publish, "-v", &volume, "debian:lighttpd"]);
    // It answers whole requests only.
    let up = eventually(PATIENCE, || serves(port, "GET /1k HTTP/1.0\r\n\r\n"));
    assert!(up, "{}", server.output());
    let answer = http(port, "GET /1m HTTP/1.0\r\n\r\n");
    let (head, body) = split_http(&answer);
    assert!(head.starts_with("HTTP/1.0 200") && body == pattern(1 << 20), "{head}\n{}", server.output());
    let words = text(guest(&["debian:wrk", "-t2", "-c20", "-d1", &format!("http://{HOST}:{port}/1k")]));
    assert!(!words.contains("Socket errors") && !words.contains("Non-2xx"), "{words}\n{}", server.output());
    server.signal(libc::SIGTERM);
    assert_eq!(shell_status(server.wait()), 0, "{}", server.output());
}

#[test]
fn http2_over_tls_between_guests() {
    let _alone = alone();
    let (dir, port) = (site("nghttp"), free_port());
    let volume = format!("{}:/w:ro", dir.display());
    let args = ["-v", &*volume, "debian:nghttp2-server", "-d", "/w/www", "8443", "/w/key.pem", "/w/cert.pem"];
    let server = serve_tls(port, 8443, &args);
    let url = format!("https://{HOST}:{port}/1k");
    for options in
        [&["-n", "2000", "-c", "10", "-m", "10"][..], &["-n", "2000", "-c", "8", "-m", "1", "-t", "2"]]
    {
        let words = text(guest(&[&["debian:nghttp2-client"], options, &[&url]].concat()));
        assert!(
            words.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{words}\n{}",
            server.output()
        );
    }
    let port = free_port();
    let s_server =
        ["-v", &*volume, "-w", "/w/www", "debian:openssl", "s_server", "-WWW", "-key", "/w/key.pem"];
    let server = serve_tls(port, 4433, &[&s_server[..], &["-cert", "/w/cert.pem"]].concat());
    let body = guest(&["debian:curl", "-sk", &format!("https://{HOST}:{port}/1m")]);
    assert!(
        body.stdout == pattern(1 << 20),
        "curl gets other bytes: {}\n{}",
        body.stdout.len(),
        server.output()
    );
}

/// Tools without a network: what they print is what they print natively.
#[test]
fn tools_print_what_they_print_natively() {
    let dir = scratch("tools");
    let sql = "create table t(a, b); with recursive c(x) as (select 1 union all select x+1 from c where x<50000) \
               insert into t select x, printf('%08x', x*2654435761 % 4294967296) from c; create index i on t(b); \
               select count(*), sum(a), printf('%.6f', avg(a*1.1)) from t; select * from t order by b limit 3; \
               pragma integrity_check;";
    let python = "import json, math, hashlib, struct, threading, socket, re, decimal\n\
                  print(0.1 + 0.2, json.dumps({'a': [1, 2.5, None]}), '%.17g %e %r' % (1 / 3, 1e300, 5e-324))\n\
                  print(hashlib.sha256(b'x' * 100000).hexdigest(), struct.pack('>d', math.pi).hex())\n\
                  print(sorted(re.findall(r'\\w+', 'the quick brown fox')), decimal.Decimal(1) / 7)\n\
                  a, b = socket.socketpair()\n\
                  t = threading.Thread(target=lambda: b.sendall(a.recv(9)[::-1]) or None)\n\
                  b.sendall(b'hello'); c = a.recv(9); a.sendall(c.upper()); print(b.recv(9))\n\
                  print(sum(i * i for i in range(300000)), [float(s) for s in ('1e23', '4.9e-324', 'inf')])\n";
    let database = |side: &str| {
        let path = dir.join(side);
        let _ = fs::remove_file(&path);
        path.display().to_string()
    };
    let volume = format!("{0}:{0}", dir.display());
    type Arguments<'a> = Vec<&'a str>;
    let (native_db, guest_db) = (database("native.db"), database("guest.db"));
    let cases: [(&str, &str, Arguments, Arguments); 5] = [
        ("sqlite3", "sqlite3", vec![&native_db, sql], vec![&guest_db, sql]),
        ("openssl", "openssl", vec!["version"], vec!["version"]),
        (
            "openssl",
            "openssl",
            vec!["prime", "-hex", "FFFFFFFFFFFFFFC5"],
            vec!["prime", "-hex", "FFFFFFFFFFFFFFC5"],
        ),
        ("curl", "curl", vec!["--version"], vec!["--version"]),
        ("haproxy", "haproxy", vec!["-v"], vec!["-v"]),
    ];
    for (package, program, at_home, inside) in cases {
        let want = text(run_limited(native(package, program).args(&at_home), LIMIT));
        let name = format!("debian:{package}:{program}");
        let got = text(guest(&[&["--net", "none", "-v", &volume, &name], &inside[..]].concat()));
        assert_eq!(got, want, "{program} {inside:?}");
    }
    let root = debian_root("python3");
    let want = text(run_limited(
        native("python3", "python3").env("PYTHONHOME", root.join("usr")).args(["-c", python]),
        LIMIT,
    ));
    let got = text(guest(&["--net", "none", "debian:python3", "-c", python]));
    assert_eq!(got, want);
}
