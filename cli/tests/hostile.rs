//! Peers that mean harm: guests that abuse the memory which they share with the server, and a server gone mad. Whoever
//! misbehaves is cut off or cleaned up alone; two other guests talk all the time, every byte checked, and notice nothing.

#[allow(dead_code)]
#[path = "crash/blows.rs"]
mod blows;
mod support;
#[allow(dead_code)]
#[path = "crash/talk.rs"]
mod talk;

use blows::{Network, Random, now_ns, quiet};
use std::time::Duration;
use support::{Guest, PATIENCE, alone, compile, eventually};
use talk::{Talk, run, talker};

/// The address of the one who misbehaves.
const ADDRESS: &str = "10.0.2.99";

fn of(network: &Network, name: &str) -> serde_json::Value {
    let status = network.status();
    status["guests"].as_array().unwrap().iter().find(|g| g["name"] == name).cloned().unwrap_or_default()
}

/// Starts a guest that does this for so long.
fn misbehave(network: &Network, mode: &str, ms: u64) -> Guest {
    let program = compile("hostile-guest", include_str!("hostile/guest.c"), &[]);
    let ms = ms.to_string();
    let head = ["--cpus", "1", "--net", &network.0, "--name", "hostile", "--ip", ADDRESS];
    let guest = Guest::start(&[&head[..], &[program.to_str().unwrap(), mode, &ms, ADDRESS]].concat());
    assert!(eventually(PATIENCE, || guest.output().contains("ready")), "{}", guest.output());
    guest
}

/// What was its serves the next one: the address, the name, a port, and a ring that works.
fn is_free_again(network: &Network, client: &str) {
    assert!(eventually(PATIENCE, || of(network, "hostile").is_null()), "{}", network.status());
    let talker = talker();
    let talker = talker.to_str().unwrap();
    let head = ["--cpus", "1", "--net", &network.0, "--name", "hostile", "--ip", ADDRESS];
    let heir = Guest::start(&[&head[..], &[talker, "echo", "7"]].concat());
    assert!(eventually(PATIENCE, || heir.output().contains("ready")), "{}", heir.output());
    let mut asker = run(network, client, &[talker, "ping", ADDRESS, "7", "50"]);
    assert!(asker.wait().success(), "{}", asker.output());
    let counts = of(network, "hostile");
    assert_eq!(counts["cut_off"], false, "{counts}");
    assert!(counts["drops"]["foreign_mac"] == 0 && counts["drops"]["malformed"] == 0, "{counts}");
}

#[test]
fn a_guest_that_misbehaves_is_alone_in_it() {
    let _alone = alone();
    let network = Network::start("hostile");
    let mut talk = Talk::start(&network, "ping", 120_000);
    let calm = quiet(500, &mut Random(1));
    let mut moments = Vec::new();
    let mut act = |mode: &str, ms: u64, seen: &dyn Fn(&serde_json::Value) -> bool| {
        let guest = misbehave(&network, mode, ms);
        let begin = now_ns();
        let noticed = eventually(PATIENCE, || seen(&of(&network, "hostile")));
        assert!(noticed, "{mode}: {}\n{}", network.status(), guest.output());
        std::thread::sleep(Duration::from_millis(ms.min(300)));
        let mut random = Random(begin);
        moments.extend((0..50).map(|_| begin + random.below(now_ns() - begin)).map(|at| (at, at)));
        // Killed in the middle of whatever it does.
        drop(guest);
        is_free_again(&network, &format!("asker-{mode}"));
    };
    act("garbage", 5_000, &|counts| counts["cut_off"] == true);
    act("foreign", 5_000, &|counts| {
        let some = |why: &str| counts["drops"][why].as_u64().unwrap_or(0) > 0;
        some("foreign_mac") && some("foreign_address") && some("malformed")
    });
    act("flood", 60_000, &|counts| counts["frames_from"].as_u64().unwrap_or(0) > 5_000);
    act("flood", 60_000, &|counts| counts["frames_from"].as_u64().unwrap_or(0) > 1_000);
    assert_eq!(network.restarts(), 0, "the server was replaced: {}", network.status());
    let silences = talk.end_now();
    silences.report("neighbours, nothing happens", &calm);
    silences.report("neighbours of one who misbehaves", &moments);
}

#[test]
fn a_guest_cannot_take_another_ones_port() {
    let _alone = alone();
    let network = Network::start("thief");
    let talker = talker();
    let talker = talker.to_str().unwrap();
    let _talk = Talk::start(&network, "ping", 120_000);
    let head = ["--cpus", "1", "--net", &network.0, "--name", "owner", "--ip", ADDRESS];
    let owner = Guest::start(&[&head[..], &[talker, "echo", "80"]].concat());
    assert!(eventually(PATIENCE, || owner.output().contains("ready")), "{}", owner.output());
    let thief = misbehave(&network, "foreign", 5_000);
    let caught = || of(&network, "hostile")["drops"]["foreign_port"].as_u64().unwrap_or(0) > 0;
    assert!(eventually(PATIENCE, caught), "{}\n{}", network.status(), thief.output());
    let mut asker = run(&network, "asker", &[talker, "ping", ADDRESS, "80", "50"]);
    assert!(asker.wait().success(), "{}", asker.output());
}

#[test]
fn a_server_gone_mad_is_survived() {
    let _alone = alone();
    let network = Network::start("mad");
    let talk = Talk::start(&network, "ping", 3_000);
    let mut times = Vec::new();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(150));
        let (begin, before) = (now_ns(), network.restarts());
        network.say(&["fault", "scribble"]);
        times.push((begin, now_ns()));
        assert!(eventually(PATIENCE, || network.restarts() > before), "{}", network.status());
    }
    talk.end().report("ping, servers gone mad", &times);
}
