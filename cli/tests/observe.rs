//! Watching guests on the network: `attacca pcap`, `attacca top`, `attacca ps --modes`, over switches between server
//! and direct mode and the death of a server.

mod direct;
mod support;

use direct::namespace::inside;
use direct::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::*;

/// A block of a pcapng file that matters to us.
#[derive(Debug, Default)]
struct Block {
    kind: u32,
    interface: u32,
    frame: Vec<u8>,
    time: u64,
    /// epb_flags: 1 received, 2 sent.
    flags: u32,
    comments: Vec<String>,
}

/// Reads a file strictly: lengths, padding, options.
fn parse(path: &Path) -> Vec<Block> {
    let bytes = std::fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    let (mut at, mut blocks) = (0, Vec::new());
    while at < bytes.len() {
        let (kind, len) = (word(at), word(at + 4) as usize);
        assert!(len % 4 == 0 && len >= 12 && at + len <= bytes.len(), "a block of {len} at {at}");
        assert_eq!(word(at + len - 4) as usize, len, "the length at the end");
        let mut block = Block { kind, ..Block::default() };
        let mut option = at
            + match kind {
                0x0a0d_0d0a => {
                    assert_eq!((word(at + 8), half(at + 12)), (0x1a2b_3c4d, 1));
                    24
                }
                1 => {
                    assert_eq!(half(at + 8), 1, "Ethernet");
                    16
                }
                5 => 20,
                6 => {
                    block.interface = word(at + 8);
                    block.time = u64::from(word(at + 12)) << 32 | u64::from(word(at + 16));
                    let (captured, length) = (word(at + 20) as usize, word(at + 24) as usize);
                    assert_eq!(captured, length);
                    block.frame = bytes[at + 28..at + 28 + captured].to_vec();
                    28 + captured.next_multiple_of(4)
                }
                other => panic!("a block of kind {other}"),
            };
        while option < at + len - 4 {
            let (code, size) = (half(option), half(option + 2) as usize);
            let value = &bytes[option + 4..option + 4 + size];
            match (code, kind) {
                (1, _) => block.comments.push(String::from_utf8(value.to_vec()).unwrap()),
                (2, 6) => block.flags = u32::from_le_bytes(value.try_into().unwrap()),
                _ => {}
            }
            option += 4 + size.next_multiple_of(4);
            if code == 0 {
                break;
            }
        }
        assert_eq!(option, at + len - 4, "options end where the block does");
        blocks.push(block);
        at += len;
    }
    blocks
}

#[test]
fn a_capture_shows_frames_switches_and_crashes() {
    inside_with(&["tcpdump"], "a_capture_shows_frames_switches_and_crashes", || {
        let peer = peer();
        let network = Network::start(&[]);
        let words = ["--name", "g", "--net", NET, "--cpus", "1", "--ip", "10.9.0.61"];
        let guest = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
        wait_for("10.9.0.61:7000");
        let file = scratch("pcap").join(format!("{}.pcapng", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let mut capture = attacca();
        capture.args(["pcap", "g", "-o"]).arg(&file).stderr(Stdio::piped());
        let mut capture = capture.spawn().unwrap();
        assert!(eventually(PATIENCE, || file.metadata().is_ok_and(|m| m.len() > 0)));
        // One at a time.
        let refused = attacca().args(["pcap", "g", "-o", "/dev/null"]).output().unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("another capture"));
        let mut stream = connect("10.9.0.61:7000");
        stream.write_all(b"E").unwrap();
        ask(&mut stream, b"over the ring", b"over the ring");
        switch_by(&["g", "direct"]);
        ask(&mut stream, b"over the queue", b"over the queue");
        let server = network.status()["pid"].as_i64().unwrap() as i32;
        // SAFETY: the server of a network that this test started.
        assert_eq!(unsafe { libc::kill(server, libc::SIGKILL) }, 0);
        let replaced = || network.guest("g")["counters"]["recoveries"] == 1;
        assert!(eventually(PATIENCE, replaced), "{}", network.status());
        switch_by(&["g", "server"]);
        ask(&mut stream, b"over the ring again", b"over the ring again");
        std::thread::sleep(Duration::from_millis(50));
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::kill(capture.id() as i32, libc::SIGINT) }, 0);
        let mut words = String::new();
        capture.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert!(capture.wait().unwrap().success(), "{words}; {}", guest.output());
        assert!(words.contains("frames captured"), "{words}");

        let blocks = parse(&file);
        let comments: Vec<&str> =
            blocks.iter().skip(1).flat_map(|b| &b.comments).map(String::as_str).collect();
        for words in
            ["begins in server mode", "wanted to watch", "to direct mode", "was replaced", "to server mode"]
        {
            assert!(comments.iter().any(|c| c.contains(words)), "{words}: {comments:?}");
        }
        let has = |interface: u32, flags: u32, words: &[u8]| {
            let of = |b: &&Block| b.kind == 6 && b.interface == interface && b.flags == flags;
            blocks.iter().filter(of).any(|b| b.frame.windows(words.len()).any(|w| w == words))
        };
        for (interface, words) in
            [(0, &b"over the ring"[..]), (1, b"over the queue"), (0, b"over the ring again")]
        {
            for flags in [1, 2] {
                assert!(has(interface, flags, words), "{} {flags}", words.escape_ascii());
            }
        }
        let times: Vec<u64> = blocks.iter().filter(|b| b.kind == 6).map(|b| b.time).collect();
        assert!(times.is_sorted());
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(now - times[0] < 60_000_000_000, "wall-clock time");
        // Others read it, too.
        let read = native("tcpdump", "tcpdump").args(["-n", "-Z", "root", "-r"]).arg(&file).output().unwrap();
        let (lines, errors) = (String::from_utf8_lossy(&read.stdout), String::from_utf8_lossy(&read.stderr));
        assert!(read.status.success(), "{errors}");
        assert_eq!(
            lines.lines().filter(|l| l.contains("IP") || l.contains("ARP")).count(),
            times.len(),
            "{lines}"
        );
        assert!(lines.contains("10.9.0.61.7000"), "{lines}");
        // The guest goes on, and can be captured again.
        let again =
            attacca().args(["pcap", "g", "-c", "2", "-o", "-"]).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..20 {
            ask(&mut stream, b"more", b"more");
        }
        assert!(again.wait_with_output().unwrap().stdout.len() > 200);
        std::fs::remove_file(&file).unwrap();
    });
}

/// A guest's own network can be asked as well.
#[test]
fn a_guest_of_its_own_network_is_watched() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:7000");
    let words = ["--name", "alone", "--cpus", "1", "-p", &publish];
    let guest = Guest::start(&[&words[..], &[peer().to_str().unwrap(), "7000"]].concat());
    wait_for(&format!("127.0.0.1:{port}"));
    let file = scratch("pcap").join(format!("alone-{}.pcapng", std::process::id()));
    let mut capture = attacca();
    let mut capture = capture.args(["pcap", "alone", "-c", "3", "-o"]).arg(&file).spawn().unwrap();
    assert!(eventually(PATIENCE, || file.metadata().is_ok_and(|m| m.len() > 0)), "{}", guest.output());
    let mut stream = connect(&format!("127.0.0.1:{port}"));
    stream.write_all(b"E").unwrap();
    ask(&mut stream, b"through host sockets", b"through host sockets");
    assert!(eventually(PATIENCE, || matches!(capture.try_wait(), Ok(Some(_)))));
    assert!(capture.wait().unwrap().success());
    assert_eq!(parse(&file).iter().filter(|block| block.kind == 6).count(), 3);
    std::fs::remove_file(&file).unwrap();
    assert!(explain("alone").contains("alone: server"), "{}", explain("alone"));
    let list = text(attacca().args(["ps", "--json"]).output().unwrap());
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let known = list.as_array().unwrap().iter().find(|known| known["name"] == "alone").unwrap();
    assert!(known["counters"]["server"]["frames_received"].as_u64().unwrap() > 0, "{list}");
    // The gateway is its only neighbour, and known without a question.
    let table = text(attacca().args(["run", "--cpus", "1", "/bin/cat", "/proc/net/arp"]).output().unwrap());
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("IP address       HW type     Flags "), "{table}");
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!((words[1], words[2], words[4], words[5]), ("0x1", "0x6", "*", "eth0"), "{table}");
    assert_eq!((lines.len(), lines[1].find("0x1")), (2, Some(17)), "{table}");
}

/// A terminal of 30 rows and 140 columns, and a child on its other side.
fn on_a_terminal(command: &mut Command) -> (File, std::process::Child) {
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 30, ws_col: 140, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: two descriptors and a size of ours.
    let opened =
        unsafe { libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(opened, 0);
    // SAFETY: fresh descriptors that nobody else owns.
    let (ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let child = command.env("TERM", "xterm").stdin(end()).stdout(end()).spawn().unwrap();
    (ours, child)
}

#[test]
fn top_shows_guests_on_a_terminal() {
    inside("top_shows_guests_on_a_terminal", || {
        let peer = peer();
        let _network = Network::start(&[]);
        let words = ["--name", "web-1", "--net", NET, "--cpus", "1", "--ip", "10.9.0.62"];
        let _guest = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
        wait_for("10.9.0.62:7000");
        switch_by(&["web-1", "direct"]);
        let mut stream = connect("10.9.0.62:7000");
        stream.write_all(b"E").unwrap();
        let (mut terminal, mut top) = on_a_terminal(attacca().args(["top", "--interval", "0.2"]));
        // SAFETY: a descriptor of ours.
        unsafe { libc::fcntl(terminal.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        let mut screen = Vec::new();
        let shown = eventually(PATIENCE, || {
            let mut bytes = [0; 65536];
            if let Ok(count) = terminal.read(&mut bytes) {
                screen.extend_from_slice(&bytes[..count]);
            }
            ask(&mut stream, b"some frames", b"some frames");
            let words = String::from_utf8_lossy(&screen);
            ["web-1", "direct", "LAST GAP", "1 guests, 1 direct"].iter().all(|w| words.contains(w))
        });
        assert!(shown, "{}", String::from_utf8_lossy(&screen).escape_debug());
        terminal.write_all(b"q").unwrap();
        assert!(eventually(PATIENCE, || {
            // Its last words must be read, or it waits for us.
            let _ = terminal.read(&mut [0; 4096]);
            !matches!(top.try_wait(), Ok(None))
        }));
        assert!(top.wait().unwrap().success());

        let once = text(attacca().args(["top", "--once", "--interval", "0.2"]).output().unwrap());
        let row = once.lines().find(|line| line.starts_with("web-1")).unwrap_or_else(|| panic!("{once}"));
        assert!(row.contains("direct") && row.split_whitespace().nth(10) == Some("1"), "{once}");
        let refused = attacca().arg("top").stdout(Stdio::null()).output().unwrap();
        assert!(!refused.status.success());

        let modes = text(attacca().args(["ps", "--modes"]).output().unwrap());
        assert!(modes.contains("direct") && modes.contains("the user said so"), "{modes}");
        let list = text(attacca().args(["ps", "--json"]).output().unwrap());
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list[0]["mode"], "direct", "{list}");
        assert_eq!(list[0]["switching"]["why"], "the user said so", "{list}");
        assert!(list[0]["switching"]["since_ms"].as_u64().is_some(), "{list}");
        assert!(list[0]["counters"]["direct"]["frames_received"].as_u64().unwrap() > 0, "{list}");
        let explained = explain("web-1");
        assert!(explained.contains("direct: ") && explained.contains("frames received"), "{explained}");
    });
}
