//! `attacca server`: networks with a name, and the servers that carry their frames.

use crate::error::{Failure, OrFail, Result};
use crate::{guests, nic};
use netserver::direct::NicSpec;
use netserver::{Fault, Limits, NetworkConfig, UplinkSpec, client};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `attacca server`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Bring a network up; it is up when this comes back
    Start(Start),
    /// Let the standby take over from the server; guests and their connections stay
    Restart(Which),
    /// Let another attacca program serve; guests and their connections stay
    Upgrade(Upgrade),
    /// Take a network down; its guests run on without, its processes have ended when this comes back
    Stop(Which),
    /// Say how a network is: server, guests, counters
    Status(Status),
    /// Have the server do something bad (for tests)
    #[command(hide = true)]
    Fault {
        /// What
        #[arg(value_parser = parse_fault)]
        fault: Fault,
        #[command(flatten)]
        which: Which,
    },
    /// Serve, as the supervisor's child (internal)
    #[command(hide = true)]
    Serve {
        /// Descriptor of the orders
        orders: i32,
    },
}

#[derive(clap::Args)]
struct Which {
    /// The network's name
    #[arg(long, value_name = "NAME", default_value = "default")]
    net: String,
}

#[derive(clap::Args)]
struct Start {
    #[command(flatten)]
    which: Which,
    /// What the network uses as its NIC: host sockets (no privileges), a TAP device, an interface by AF_XDP (all
    /// queues that it receives on, or one)
    #[arg(long, value_name = "host|tap:NAME|xdp:IF[,queue=K]", default_value = "host", value_parser = parse_uplink)]
    uplink: UplinkSpec,
    /// First address for guests and the network's length (for example 10.9.0.10/24)
    #[arg(long, value_name = "ADDR/LEN", value_parser = parse_prefix)]
    ip: Option<(Ipv4Addr, u8)>,
    /// The way out [default behind host sockets: the network's first address]
    #[arg(long, value_name = "ADDR")]
    gateway: Option<Ipv4Addr>,
    /// The network's IPv6 prefix (for example fd12:3456:789a::/64): guests get addresses of it
    /// [default: behind host sockets a unique local one; else what the link's routers say]
    #[arg(long, value_name = "ADDR/LEN", value_parser = parse_prefix6)]
    ip6: Option<(Ipv6Addr, u8)>,
    /// Queues of the NIC for guests in direct mode
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=63))]
    direct_queues: u32,
    /// Give those queues to the guests that gain most by them
    #[arg(long, requires = "direct_queues")]
    auto: bool,
    /// Have all frames between guests go through the network server. (Two guests that exchange many are given a link of
    /// their own else, unless they have a limit or share an address.)
    #[arg(long)]
    no_shortcuts: bool,
    /// Limit for each guest: frames sent in a second
    #[arg(long, value_name = "N", default_value_t = 0)]
    guest_frames: u64,
    /// Limit for each guest: bytes sent in a second (for example 100M)
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_rate)]
    guest_rate: u64,
    /// Limit for each guest: bytes of each ring (128K to 8M)
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_rate)]
    guest_ring: u64,
    /// Limit for each guest: ports that it binds at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    guest_ports: u32,
}

#[derive(clap::Args)]
struct Upgrade {
    #[command(flatten)]
    which: Which,
    /// The program [default: this one]
    program: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Status {
    /// The network's name [default: all that run]
    #[arg(long, value_name = "NAME")]
    net: Option<String>,
    /// As JSON, for programs: an object for one network, else an array
    #[arg(long)]
    json: bool,
}

/// Does what is asked for.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let dir = guests::runtime_dir();
    match args.action {
        Action::Start(start) => begin(start),
        Action::Restart(which) => done(client::restart(&dir?, checked(&which)?)),
        Action::Fault { fault, which } => done(client::fault(&dir?, checked(&which)?, fault)),
        Action::Upgrade(upgrade) => {
            let name = checked(&upgrade.which)?;
            let program = match &upgrade.program {
                Some(path) => std::fs::canonicalize(path).or_fail(path.display())?,
                None => std::env::current_exe().or_fail("cannot tell which program this is")?,
            };
            done(client::upgrade(&dir?, name, &program))
        }
        Action::Stop(which) => done(client::stop(&dir?, checked(&which)?)),
        Action::Status(status) => tell(&status),
        Action::Serve { orders } => netserver::serve_as_program(orders),
    }
}

fn parse_fault(word: &str) -> std::result::Result<Fault, String> {
    match word {
        "panic" => Ok(Fault::Panic),
        "loop" => Ok(Fault::Loop),
        "block" => Ok(Fault::Block),
        "scribble" => Ok(Fault::Scribble),
        _ => Err("panic, loop, block or scribble".into()),
    }
}

fn done(outcome: std::result::Result<(), netserver::Error>) -> Result<ExitCode> {
    outcome.map(|()| ExitCode::SUCCESS).map_err(Failure::new)
}

fn checked(which: &Which) -> Result<&str> {
    check_name(&which.net)?;
    Ok(&which.net)
}

/// A network's name is a folder's.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fits = (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !name.starts_with('.');
    // Those two stand for something else in a guest's record.
    if fits && name != "none" && name != guests::OWN {
        return Ok(());
    }
    Err(Failure::new(format_args!("--net {name}: use up to 32 letters, digits, '-', '_' and '.'")))
}

fn begin(start: Start) -> Result<ExitCode> {
    let name = checked(&start.which)?.to_owned();
    let limits = Limits {
        frames: start.guest_frames,
        bytes: start.guest_rate,
        ring: u32::try_from(start.guest_ring).unwrap_or(u32::MAX),
        ports: start.guest_ports,
    };
    let several = matches!(
        &start.uplink,
        UplinkSpec::Nic(NicSpec::Tap(..) | NicSpec::Xdp(_, netserver::direct::ALL_QUEUES))
    );
    if start.direct_queues != 0 && !several {
        return Err(Failure::new(
            "--direct-queues: a TAP device or all queues of an AF_XDP interface can be given away: use --uplink tap:NAME or \
             --uplink xdp:IF, or give a guest a NIC of its own with 'attacca switch GUEST direct --nic xdp:IF'",
        ));
    }
    if let UplinkSpec::Nic(spec) = &start.uplink {
        nic::warn_of_queues(spec);
    }
    let config = NetworkConfig {
        name,
        uplink: start.uplink,
        address: start.ip,
        gateway: start.gateway,
        address6: start.ip6,
        direct_queues: start.direct_queues,
        auto: start.auto,
        limits,
        no_shortcuts: start.no_shortcuts,
    };
    done(client::start(&guests::runtime_dir()?, &config))
}

fn tell(status: &Status) -> Result<ExitCode> {
    let dir = guests::runtime_dir()?;
    let names = match &status.net {
        Some(name) => {
            check_name(name)?;
            vec![name.clone()]
        }
        None => client::networks(&dir),
    };
    let texts = names.iter().map(|name| client::status(&dir, name).map_err(Failure::new));
    let texts = texts.collect::<Result<Vec<String>>>()?;
    match (status.json, &status.net) {
        (true, Some(_)) => println!("{}", texts[0]),
        (true, None) => println!("[{}]", texts.join(",")),
        (false, _) => texts.iter().try_for_each(|text| print(text))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// For people: a line for the network and its server, one for each guest.
fn print(text: &str) -> Result<()> {
    let status: serde_json::Value = serde_json::from_str(text).or_fail("the network says nonsense")?;
    let word = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "-".into(),
        other => other.to_string(),
    };
    let of = |key: &str| word(&status[key]);
    println!(
        "{}: {}, server {} (standby {}), supervisor {}, uplink {}, {} via {}, generation {}, {} restarts{}",
        of("name"),
        of("state"),
        of("pid"),
        of("standby"),
        of("supervisor"),
        of("uplink"),
        of("network"),
        of("gateway"),
        of("generation"),
        of("restarts"),
        if status["last_end"].is_null() { String::new() } else { format!(" (last: {})", of("last_end")) },
    );
    for guest in status["guests"].as_array().into_iter().flatten() {
        let of = |key: &str| word(&guest[key]);
        let drops: u64 =
            guest["drops"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        let shortcuts: Vec<&str> =
            guest["shortcuts"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
        println!(
            "  {} ({}) {}{} {}{}: sent {} frames, {} bytes; got {} frames, {} bytes; {} dropped",
            of("name"),
            of("pid"),
            of("address"),
            if guest["shared"] == true { " shared" } else { "" },
            of("mode"),
            if shortcuts.is_empty() {
                String::new()
            } else {
                format!(", shortcut to {}", shortcuts.join(", "))
            },
            of("frames_from"),
            of("bytes_from"),
            of("frames_to"),
            of("bytes_to"),
            drops,
        );
    }
    Ok(())
}

fn parse_uplink(text: &str) -> std::result::Result<UplinkSpec, String> {
    match text {
        "host" => Ok(UplinkSpec::Host),
        nic => nic.parse().map(|spec| match spec {
            // Frames come to any queue of an interface.
            NicSpec::Xdp(name, 0) if !nic.contains(",queue=") => {
                UplinkSpec::Nic(NicSpec::Xdp(name, netserver::direct::ALL_QUEUES))
            }
            spec => UplinkSpec::Nic(spec),
        }),
    }
}

fn parse_prefix(text: &str) -> std::result::Result<(Ipv4Addr, u8), String> {
    let wrong = || format!("'{text}': write ADDRESS/LENGTH, for example 10.9.0.10/24");
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let length = length.parse().ok().filter(|&l| l <= 32).ok_or_else(wrong)?;
    Ok((address.parse().map_err(|_| wrong())?, length))
}

fn parse_prefix6(text: &str) -> std::result::Result<(Ipv6Addr, u8), String> {
    let wrong = || format!("'{text}': write ADDRESS/LENGTH, for example fd12:3456:789a::/64");
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let length = length.parse().ok().filter(|&l| l <= 128).ok_or_else(wrong)?;
    Ok((address.parse().map_err(|_| wrong())?, length))
}

/// "10M"; 0 for no limit.
fn parse_rate(text: &str) -> std::result::Result<u64, String> {
    if text == "0" { Ok(0) } else { crate::run::parse_size(text) }
}
