//! Goodput and latency when packets are lost, in virtual time: `cargo run --release -p net --example loss [SECONDS]`.
//!
//! Two engines over an emulated path of 1 Gbit/s with a queue of 10 ms, in which every frame of either
//! direction may be lost. Beside them Linux's figures under the same rules (its CUBIC; two namespaces and an emulator on
//! TUN, real time), as far as they were measured.

use std::net::Ipv4Addr;

use net::device::{Capabilities, Fault, FaultPlan, Pair, PairEnd};
use net::{Algorithm, Bind, Config, Endpoint, Error, Shard, SocketId, TcpFlags, TcpOption};
use platform::time::{Instant, MILLISECOND};

const SECOND: u64 = 1000 * MILLISECOND;
/// The emulator moves frames in steps of so much, as an interrupt-driven host does.
const STEP: u64 = 10_000;

struct Path {
    client: Shard,
    server: Shard,
    client_device: Fault<PairEnd>,
    server_device: Fault<PairEnd>,
    listener: SocketId,
    now: Instant,
}

impl Path {
    fn new(rtt_ms: f64, loss: u32, seed: u64) -> Path {
        let plan = FaultPlan {
            loss,
            delay: (rtt_ms * MILLISECOND as f64 / 2.0) as u64,
            rate: 1_000_000_000,
            queue: 10 * MILLISECOND,
            ..FaultPlan::default()
        };
        let end = |last: u8| {
            let mut config = Config::new([2, 0, 0, 0, 0, last], [last; 32])
                .address(Ipv4Addr::new(10, 0, 0, last).into(), 24);
            config.peer_mac = Some([2, 0, 0, 0, 0, 3 - last]);
            config.limits.rcvbuf.1 = 8 << 20;
            config.limits.sndbuf.1 = 8 << 20;
            Shard::new(config)
        };
        let (left, right) = Pair::new(Capabilities::plain(1500), 1 << 14);
        let mut server = end(2);
        let listener = server.tcp_open().unwrap();
        server.tcp_bind(listener, Endpoint::new(Ipv4Addr::UNSPECIFIED, 80), Bind::default()).unwrap();
        server.tcp_listen(listener, 16).unwrap();
        Path {
            client: end(1),
            server,
            client_device: Fault::new(left, plan, seed),
            server_device: Fault::new(right, plan, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            listener,
            now: Instant(1_000 * SECOND),
        }
    }

    fn settle(&mut self) {
        loop {
            self.client_device.set_now(self.now);
            self.server_device.set_now(self.now);
            self.client.poll(self.now, &mut self.client_device);
            self.server.poll(self.now, &mut self.server_device);
            self.client_device.pump();
            self.server_device.pump();
            if self.next().is_none_or(|at| at > self.now) {
                return;
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        let all = [
            self.client.deadline(),
            self.server.deadline(),
            self.client_device.deadline(),
            self.server_device.deadline(),
        ];
        all.into_iter().flatten().min()
    }

    fn step(&mut self) {
        let next = self.next().expect("something is going to happen");
        self.now = self.now.after(STEP).max(next);
        self.settle();
    }

    fn connect(&mut self, algorithm: Algorithm) -> (SocketId, SocketId) {
        let client = self.client.tcp_open().unwrap();
        let to = Endpoint::new(Ipv4Addr::new(10, 0, 0, 2), 80);
        assert_eq!(self.client.tcp_connect(client, to, self.now), Err(Error::InProgress));
        self.client.tcp_set(client, TcpOption::Congestion(algorithm)).unwrap();
        self.settle();
        loop {
            if let Ok((server, _)) = self.server.tcp_accept(self.listener) {
                return (client, server);
            }
            self.step();
        }
    }

    /// Mbit/s over `seconds`, and the segments that were sent again.
    fn bulk(&mut self, algorithm: Algorithm, seconds: u64) -> (f64, u32) {
        let (from, to) = self.connect(algorithm);
        let (data, mut buffer) = (vec![7; 1 << 16], vec![0; 1 << 16]);
        let (begin, mut received) = (self.now, 0u64);
        while self.now.0 - begin.0 < seconds * SECOND {
            while self.client.tcp_send(from, &data, TcpFlags::empty()).is_ok() {}
            while let Ok(count @ 1..) = self.server.tcp_recv(to, &mut buffer, TcpFlags::empty()) {
                received += count as u64;
            }
            self.settle();
            self.step();
        }
        let again = self.client.tcp_info(from).unwrap().total_retransmits;
        (received as f64 * 8.0 / (seconds as f64 * 1e6), again)
    }

    /// Milliseconds from sending `request` bytes to having read `reply` bytes.
    fn exchange(&mut self, client: SocketId, server: SocketId, request: usize, reply: usize) -> f64 {
        let (begin, mut buffer) = (self.now, vec![0; 1 << 16]);
        self.client.tcp_send(client, &vec![1; request], TcpFlags::empty()).unwrap();
        self.settle();
        let (mut asked, mut answered, mut got) = (0, 0, 0);
        loop {
            while let Ok(count @ 1..) = self.server.tcp_recv(server, &mut buffer, TcpFlags::empty()) {
                asked += count;
            }
            if asked == request && answered < reply {
                if let Ok(count) = self.server.tcp_send(server, &vec![2; reply - answered], TcpFlags::empty())
                {
                    answered += count;
                }
                self.settle();
            }
            while let Ok(count @ 1..) = self.client.tcp_recv(client, &mut buffer, TcpFlags::empty()) {
                got += count;
            }
            if got == reply {
                return (self.now.0 - begin.0) as f64 / MILLISECOND as f64;
            }
            self.step();
        }
    }
}

fn bulk_table(seconds: u64) {
    println!("bulk, 1 Gbit/s, Mbit/s (segments sent again), {seconds} s each");
    println!("RTT ms  loss %     cubic            reno             Linux cubic");
    let linux = [(10.0, 0, 934.0), (10.0, 100, 232.0), (10.0, 1_000, 61.0), (10.0, 10_000, 11.9)];
    for rtt in [1.0, 10.0] {
        for loss in [0, 100, 1_000, 10_000] {
            let run = |algorithm| {
                // Several seeds: at 0.01 % a single run sees few losses.
                let runs: Vec<(f64, u32)> =
                    (1..=3).map(|seed| Path::new(rtt, loss, seed * 77).bulk(algorithm, seconds)).collect();
                let mean = runs.iter().map(|run| run.0).sum::<f64>() / runs.len() as f64;
                format!("{mean:7.1} ({})", runs.iter().map(|run| run.1).sum::<u32>() / runs.len() as u32)
            };
            let known = linux.iter().find(|row| (row.0, row.1) == (rtt, loss)).map(|row| row.2);
            println!(
                "{rtt:6}  {:6}  {:16} {:16} {}",
                f64::from(loss) / 1e4,
                run(Algorithm::Cubic),
                run(Algorithm::NewReno),
                known.map_or("-".into(), |mbit| mbit.to_string()),
            );
        }
    }
}

fn request_table(count: usize) {
    println!("\n64 B request, 64 B reply, RTT 1 ms, {count} exchanges, ms");
    println!("loss %    mean    p50     p99    p99.9     Linux");
    for (loss, linux) in [(0, "-"), (1_000, "mean 1.55, p99.9 208"), (10_000, "mean 5.5, p99 208")] {
        let mut path = Path::new(1.0, loss, 5);
        let (client, server) = path.connect(Algorithm::Cubic);
        let mut times: Vec<f64> = (0..count).map(|_| path.exchange(client, server, 64, 64)).collect();
        let mean = times.iter().sum::<f64>() / count as f64;
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((count as f64 * part) as usize).min(count - 1)];
        println!(
            "{:6} {mean:7.2} {:6.2} {:7.2} {:8.2}     {linux}",
            f64::from(loss) / 1e4,
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
}

fn first_reply_table() {
    println!("\nfirst reply on a new connection, RTT 10 ms, in RTTs");
    for (kib, linux) in [(4, 1.0), (16, 2.0), (64, 3.1), (128, 4.2)] {
        let mut path = Path::new(10.0, 0, 5);
        let (client, server) = path.connect(Algorithm::Cubic);
        let ms = path.exchange(client, server, 64, kib << 10);
        println!("{kib:4} KiB   {:.1}     Linux {linux}", ms / 10.0);
    }
}

fn main() {
    let seconds = std::env::args().nth(1).map_or(10, |word| word.parse().expect("seconds"));
    bulk_table(seconds);
    request_table(20_000);
    first_reply_table();
}
