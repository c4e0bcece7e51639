//! Debian's load generators and proxies as guests against servers as guests, all on one network with a name, found by
//! their names: every frame between them goes from ring to ring. (`clients.rs` has the same programs over published
//! ports and against native peers, and checks more of what they print.)

mod support;

use std::fs;
use std::process::Output;
use std::time::Duration;
use support::network::Network;
use support::*;

const LIMIT: Duration = Duration::from_secs(90);

impl Network {
    fn serve(&self, name: &str, args: &[&str]) -> Guest {
        self.run(name, &[], args)
    }

    /// A guest to its end.
    fn client(&self, args: &[&str]) -> Output {
        let head = ["run", "--net", &self.0, "--cpus", "1"];
        run_limited(attacca().args(head).args(args), LIMIT)
    }

    /// Until a guest answers on its port.
    fn up(&self, guest: &Guest, url: &str) {
        let answers = || {
            self.client(&["debian:curl", "-sk", "-o", "/dev/null", "--http0.9", "-m", "2", url]).status.code()
        };
        // 52, 56: it is there and does not talk HTTP.
        let there = eventually(LIMIT, || matches!(answers(), Some(0 | 1 | 28 | 52 | 56)));
        assert!(there, "{url}: {}", guest.output());
    }
}

fn site(name: &str) -> String {
    let dir = scratch(name);
    fs::create_dir_all(dir.join("www")).unwrap();
    fs::write(dir.join("www/1k"), pattern(1024)).unwrap();
    fs::write(dir.join("www/1m"), pattern(1 << 20)).unwrap();
    fs::write(dir.join("www/index.html"), name).unwrap();
    make_certificate(&dir);
    dir.display().to_string()
}

#[test]
fn web_servers_proxies_and_their_clients() {
    let _alone = alone();
    let network = Network::start("web", &[]);
    let backends = ["back-a", "back-b", "back-c"];
    let mut servers: Vec<Guest> = backends
        .iter()
        .map(|name| {
            let volume = format!("{}/www:/var/www/html:ro", site(name));
            network.serve(name, &["-v", &volume, "debian:nginx"])
        })
        .collect();
    for (name, guest) in backends.iter().zip(&servers) {
        network.up(guest, &format!("http://{name}/"));
    }
    let dir = site("front");
    let lines: String =
        backends.iter().map(|name| format!("  server {name} {name}:80 check inter 500ms fall 2\n")).collect();
    let configuration = format!(
        "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 5s\n  timeout server 5s\n  \
         option redispatch\nfrontend web\n  bind :::80 v4v6\n  default_backend all\nbackend all\n  balance roundrobin\n\
         {lines}"
    );
    fs::write(format!("{dir}/haproxy.cfg"), configuration).unwrap();
    let volume = format!("{dir}:/etc/test:ro");
    let front =
        network.serve("front", &["-v", &volume, "debian:haproxy", "-db", "-f", "/etc/test/haproxy.cfg"]);
    network.up(&front, "http://front/");
    let get =
        |url: &str, family: &str| network.client(&["debian:curl", "-s", "-m", "20", family, url]).stdout;
    let turns = |count: usize, family: &str| {
        let mut seen: Vec<String> =
            (0..count).map(|_| String::from_utf8_lossy(&get("http://front/", family)).into_owned()).collect();
        seen.sort();
        seen.dedup();
        seen
    };
    assert_eq!(turns(6, "-4"), backends);
    assert_eq!(turns(6, "-6"), backends);
    assert!(get("http://front/1m", "-6") == pattern(1 << 20), "other bytes");
    for host in ["front", "back-a"] {
        let url = format!("http://{host}/1k");
        let words = text(network.client(&["debian:wrk", "-t1", "-c20", "-d1", &url]));
        assert!(words.contains("Requests/sec") && !words.contains("Socket errors"), "{words}");
        assert!(!words.contains("Non-2xx"), "{words}");
        let words =
            text(network.client(&["debian:apache2-utils:ab", "-q", "-n", "1000", "-c", "10", "-k", &url]));
        assert!(words.contains("Complete requests:      1000"), "{words}");
        assert!(words.contains("Failed requests:        0"), "{words}");
    }
    drop(servers.remove(1));
    assert!(eventually(LIMIT, || turns(6, "-4") == ["back-a", "back-c"]), "{}", front.output());
}

#[test]
fn http2_and_small_servers() {
    let _alone = alone();
    let network = Network::start("h2", &[]);
    let volume = format!("{}:/w:ro", site("h2"));
    let args = ["-v", &*volume, "debian:nghttp2-server", "-d", "/w/www", "8443", "/w/key.pem", "/w/cert.pem"];
    let h2 = network.serve("h2", &args);
    network.up(&h2, "https://h2:8443/1k");
    let words = text(network.client(&[
        "debian:nghttp2-client",
        "-n",
        "2000",
        "-c",
        "10",
        "-m",
        "10",
        "https://h2:8443/1k",
    ]));
    assert!(words.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{words}\n{}", h2.output());
    let dir = site("small");
    let configuration = "server.document-root = \"/w/www\"\nserver.port = 80\nserver.bind = \"[::]\"\n\
                         server.errorlog = \"/dev/stderr\"\n$SERVER[\"socket\"] == \"0.0.0.0:80\" { }\n";
    fs::write(format!("{dir}/lighttpd.conf"), configuration).unwrap();
    let volume = format!("{dir}:/w:ro");
    let small = network.serve("small", &["-v", &volume, "debian:lighttpd", "-D", "-f", "/w/lighttpd.conf"]);
    network.up(&small, "http://small/1k");
    for family in ["-4", "-6"] {
        let body = network.client(&["debian:curl", "-s", family, "http://small/1m"]).stdout;
        assert!(
            body == pattern(1 << 20),
            "curl {family} gets other bytes: {}\n{}",
            body.len(),
            small.output()
        );
    }
    let words = text(network.client(&["debian:wrk", "-t1", "-c20", "-d1", "http://small/1k"]));
    assert!(!words.contains("Socket errors") && !words.contains("Non-2xx"), "{words}\n{}", small.output());
}

#[test]
fn stores_and_their_clients() {
    let _alone = alone();
    let network = Network::start("stores", &[]);
    let store = network.serve("store", &["debian:memcached", "-u", "root"]);
    network.up(&store, "http://store:11211/");
    let slap = [
        "debian:libmemcached-tools:memcslap",
        "--servers=store:11211",
        "--concurrency=4",
        "--execute-number=500",
    ];
    assert!(text(network.client(&slap)).contains("Time total"));
    let aslap =
        ["debian:libmemcached-tools:memaslap", "-s", "store:11211", "-T", "1", "-c", "16", "-x", "10000"];
    let words = text(network.client(&aslap));
    assert!(words.contains("get_misses: 0"), "{words}");
    for protocol in ["-a", "-b"] {
        let capable =
            ["debian:libmemcached-tools:memcapable", "-h", "store", "-p", "11211", protocol, "-t", "10"];
        let words = text(network.client(&capable));
        assert!(words.contains("All tests passed"), "{words}\n{}", store.output());
    }
    let redis = network.serve(
        "redis",
        &["debian:redis-server", "--save", "", "--protected-mode", "no", "--bind", "*", "-::*"],
    );
    let ping =
        || network.client(&["debian:redis-tools:redis-cli", "-h", "redis", "ping"]).stdout == b"PONG\n";
    assert!(eventually(LIMIT, ping), "{}", redis.output());
    for more in [&["-c", "50"][..], &["-P", "16"]] {
        let args = [
            "debian:redis-tools:redis-benchmark",
            "-h",
            "redis",
            "-n",
            "5000",
            "-q",
            "-t",
            "set,get,lpush,mset",
        ];
        let words = text(network.client(&[&args, more].concat()));
        assert_eq!(words.matches("requests per second").count(), 4, "{words}");
    }
}

#[test]
fn iperf3_in_all_modes() {
    let _alone = alone();
    let network = Network::start("iperf", &[]);
    let server = network.serve("server", &["debian:iperf3", "-s"]);
    let run = |mode: &[&str]| network.client(&[&["debian:iperf3", "-c", "server"], mode].concat());
    assert!(eventually(LIMIT, || run(&["-n", "1"]).status.success()), "{}", server.output());
    let modes: [&[&str]; 10] = [
        &["-6"],
        &["-4"],
        &["-R"],
        &["--bidir"],
        &["-P", "8"],
        &["-6", "-P", "8", "-R"],
        &["-u", "-b", "50M"],
        &["-6", "-u", "-b", "50M"],
        &["-u", "-b", "50M", "-R"],
        &["-6", "--bidir", "-P", "2"],
    ];
    for mode in modes {
        let output = run(&[&["-t", "1", "-J"], mode].concat());
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{mode:?}: {words}\n{errors}\n{}", server.output());
        let report: serde_json::Value = serde_json::from_str(&words).unwrap();
        let end = &report["end"];
        let sums = ["sum_received", "sum_received_bidir_reverse", "sum"];
        let bytes = sums.iter().filter_map(|sum| end[sum]["bytes"].as_u64());
        let bytes: Vec<u64> = bytes.collect();
        assert!(!bytes.is_empty() && bytes.iter().all(|&bytes| bytes > 0), "{mode:?}: {end}");
        let remote = report["start"]["connected"][0]["remote_host"].as_str().unwrap_or_default();
        assert_eq!(remote.contains(':'), !mode.contains(&"-4"), "{mode:?} went to {remote}");
    }
}

#[test]
fn latency_tools() {
    let _alone = alone();
    let network = Network::start("latency", &[]);
    let most = if std::env::var_os("ATTACCA_LONG").is_some() { "67108864" } else { "1048576" };
    let pipe = network.serve("pipe", &["debian:netpipe-tcp"]);
    std::thread::sleep(Duration::from_secs(2));
    let output =
        network.client(&["debian:netpipe-tcp", "-h", "pipe", "-u", most, "-n", "10", "-o", "/dev/null"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = words.lines().filter(|l| l.contains("Mbps in")).count();
    assert!(lines > 90, "{lines} sizes only:\n{words}\n{}", pipe.output());
    for tcp in [&["--tcp"][..], &[]] {
        let name = format!("perf{}", tcp.len());
        let server =
            network.serve(&name, &[&["debian:sockperf", "sr", "-i", "0.0.0.0", "-p", "7000"], tcp].concat());
        std::thread::sleep(Duration::from_secs(2));
        // It takes addresses only.
        let status =
            text(run_limited(attacca().args(["server", "status", "--json", "--net", &network.0]), LIMIT));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let guests = status["guests"].as_array().unwrap();
        let guest = guests.iter().find(|g| g["name"] == name.as_str()).unwrap();
        let address = guest["address"].as_str().unwrap();
        for mode in [&["pp"][..], &["ul", "--mps", "2000"], &["tp"]] {
            let args = [&["debian:sockperf"], mode, &["-i", address, "-p", "7000", "-t", "1"], tcp].concat();
            let words = text(network.client(&args));
            assert!(words.contains("Summary:"), "{mode:?} {tcp:?}: {words}\n{}", server.output());
        }
    }
}
