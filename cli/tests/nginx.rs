//! Debian's nginx, unmodified, as a guest; clients on the host through a published port.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::*;

struct Nginx {
    guest: Guest,
    port: u16,
    tls_port: u16,
    dir: PathBuf,
}

const SIZES: [(&str, usize); 3] = [("1k", 1024), ("128k", 128 * 1024), ("100m", 100 * 1024 * 1024)];

impl Nginx {
    /// nginx with files of several sizes, gzip, TLS with a fresh certificate, and a proxied path.
    fn start(name: &str, proxy_port: u16) -> Nginx {
        let dir = scratch(name);
        let www = dir.join("www");
        fs::create_dir_all(&www).unwrap();
        fs::create_dir_all(dir.join("log")).unwrap();
        for (name, size) in SIZES {
            fs::write(www.join(name), pattern(size)).unwrap();
        }
        fs::write(www.join("text.html"), "<p>all work and no play</p>\n".repeat(2000)).unwrap();
        make_certificate(&dir);
        fs::write(dir.join("nginx.conf"), configuration(proxy_port)).unwrap();
        let (port, tls_port) = (free_port(), free_port());
        let volume = |path: &str, to: &str| format!("{}:{to}", dir.join(path).display());
        let guest = Guest::start(&[
            "-p",
            &format!("127.0.0.1:{port}:80"),
            "-p",
            &format!("127.0.0.1:{tls_port}:443"),
            "-v",
            &volume("www", "/srv/www:ro"),
            "-v",
            &volume("log", "/var/log/nginx"),
            "-v",
            &volume("", "/etc/test:ro"),
            "debian:nginx",
            "-c",
            "/etc/test/nginx.conf",
            "-g",
            "daemon off;",
        ]);
        let mut nginx = Nginx { guest, port, tls_port, dir };
        nginx.guest.wait_for_port(port);
        nginx
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

fn configuration(proxy_port: u16) -> String {
    format!(
        "user root;
worker_processes 1;
error_log /var/log/nginx/error.log;
pid /run/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  include /etc/nginx/mime.types;
  access_log /var/log/nginx/access.log;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  gzip on;
  gzip_min_length 100;
  server {{
    listen 80;
    listen 443 ssl;
    ssl_certificate /etc/test/cert.pem;
    ssl_certificate_key /etc/test/key.pem;
    root /srv/www;
    location /proxy/ {{ proxy_pass http://10.0.2.2:{proxy_port}/; }}
  }}
}}
"
    )
}

fn curl(args: &[&str]) -> Vec<u8> {
    let output =
        run_limited(native("curl", "curl").args(["-sS", "--max-time", "60"]).args(args), PATIENCE * 3);
    assert!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A server on the host for proxy_pass: answers each request with its own request line.
fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0; 1];
                while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    request.push(byte[0]);
                }
                let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
                let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
            });
        }
    });
    port
}

#[test]
fn serves_files_byte_for_byte() {
    let nginx = Nginx::start("nginx-files", 1);
    for (name, size) in SIZES {
        let got = curl(&[&nginx.url(name)]);
        assert_eq!(got.len(), size, "{name}");
        assert!(got == pattern(size), "{name} differs");
    }
    let tls = curl(&["-k", &format!("https://127.0.0.1:{}/128k", nginx.tls_port)]);
    assert!(tls == pattern(128 * 1024));
    let part = curl(&["-r", "1000-2999", &nginx.url("128k")]);
    assert_eq!(part, pattern(128 * 1024)[1000..3000]);
    let plain = curl(&[&nginx.url("text.html")]);
    let packed = curl(&["-H", "Accept-Encoding: gzip", &nginx.url("text.html")]);
    assert!(packed.starts_with(&[0x1f, 0x8b]) && packed.len() < plain.len() / 10);
    assert_eq!(curl(&["--compressed", &nginx.url("text.html")]), plain);
    let (head, _) = {
        let answer = http(nginx.port, "GET /none HTTP/1.0\r\n\r\n");
        let (head, body) = split_http(&answer);
        (head, body.to_vec())
    };
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let log = fs::read_to_string(nginx.dir.join("log/access.log")).unwrap();
    assert!(log.contains("\"GET /128k HTTP/1.1\" 200 131072"), "{log}");
}

#[test]
fn proxies_to_the_host() {
    let nginx = Nginx::start("nginx-proxy", echo_server());
    for i in 0..20 {
        let answer = curl(&[&nginx.url(&format!("proxy/n{i}"))]);
        assert_eq!(String::from_utf8_lossy(&answer), format!("GET /n{i} HTTP/1.0"));
    }
}

#[test]
fn answers_load_without_a_failure() {
    let nginx = Nginx::start("nginx-load", 1);
    for concurrency in ["1", "20", "60"] {
        for keep_alive in [true, false] {
            let mut ab = native("apache2-utils", "ab");
            ab.args(["-n", "10000", "-c", concurrency]);
            if keep_alive {
                ab.arg("-k");
            }
            let words = text(run_limited(ab.arg(nginx.url("1k")), Duration::from_secs(120)));
            assert!(words.contains("Complete requests:      10000"), "{words}");
            assert!(words.contains("Failed requests:        0"), "{words}");
            assert!(!words.contains("Non-2xx"), "{words}");
        }
        wrk(&nginx.url("1k"), concurrency, 10_000);
    }
    // Large answers, too: many segments each, and the windows full.
    wrk(&nginx.url("128k"), "20", 1_000);
}

/// wrk stops by time only: so it runs again until it has made `wanted` requests, none of them failed.
fn wrk(url: &str, concurrency: &str, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut made = 0;
    while made < wanted {
        assert!(Instant::now() < deadline, "{made} of {wanted} requests at concurrency {concurrency}");
        let mut wrk = native("wrk", "wrk");
        wrk.args(["-t1", "-d1s", "--timeout", "30s", "-c", concurrency]).arg(url);
        let words = text(run_limited(&mut wrk, Duration::from_secs(60)));
        // wrk prints these lines only where there is something to count.
        assert!(!words.contains("Socket errors") && !words.contains("Non-2xx"), "{words}");
        let line = words.lines().find(|l| l.contains(" requests in ")).unwrap_or_else(|| panic!("{words}"));
        made += line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap();
    }
}

#[test]
fn ends_by_signals_as_natively() {
    // Natively a single-process nginx ends with status 0 on both.
    for signal in [libc::SIGTERM, libc::SIGQUIT] {
        let mut nginx = Nginx::start("nginx-signals", 1);
        nginx.guest.signal(signal);
        let status = nginx.guest.wait();
        assert_eq!(status.code(), Some(0), "signal {signal}: {status}\n{}", nginx.guest.output());
    }
}

/// As natively: the command returns, nginx goes on in the background, and the guest with it.
#[test]
fn debians_default_page() {
    let port = free_port();
    let mut guest =
        Guest::start(&["-p", &format!("127.0.0.1:{port}:80"), "--name", "default", "debian:nginx"]);
    assert_eq!(shell_status(guest.wait()), 0, "{}", guest.output());
    let page = curl(&[&format!("http://127.0.0.1:{port}/")]);
    assert!(String::from_utf8_lossy(&page).contains("Welcome to nginx!"));
    let names = || text(attacca().arg("ps").output().unwrap());
    assert!(names().contains("default"), "{}", names());
    // To the master, which ends its workers.
    assert!(attacca().args(["kill", "-s", "QUIT", "default"]).status().unwrap().success());
    assert!(eventually(PATIENCE, || !names().contains("default")), "{}", names());
}
