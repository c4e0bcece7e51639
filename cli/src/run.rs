//! `attacca run`: prepares root, network and configuration, then becomes the guest.

use crate::error::{Failure, OrFail, Result};
use crate::guest::{self, Config};
use crate::guests::{self, Guest};
use crate::{debian, exec, nic, publish, server};
use netserver::direct::NicSpec;
use netserver::{Attached, GuestRequest, Limits, Publish, Want6};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Arguments of `attacca run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the guest [default: the program's name and process id]
    #[arg(long)]
    name: Option<String>,
    /// Network to join, or "none" for loopback only [default: a network of its own]
    #[arg(long, value_name = "NAME|none")]
    net: Option<String>,
    /// Limit of what the guest sends: frames in a second
    #[arg(long, value_name = "N")]
    net_frames: Option<u64>,
    /// Limit of what the guest sends: bytes in a second (for example 10M)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    net_rate: Option<u64>,
    /// Publish a guest's port on the host: [ADDR:]HOST:GUEST[/udp]; may be repeated
    #[arg(short, long = "publish", value_name = "[ADDR:]HOST:GUEST", value_parser = publish::parse)]
    publish: Vec<Publish>,
    /// Give the guest a NIC queue of its own instead of a network: xdp:IF[,queue=K], tap:NAME[,queue=K]
    /// or wire:NAME (another guest with the same wire)
    #[arg(long, value_name = "NIC", conflicts_with_all = ["net", "publish"], requires = "ip")]
    nic: Option<NicSpec>,
    /// How the guest reaches its network: over the network server, or over a queue of its own
    #[arg(long, value_name = "MODE", value_parser = ["server", "direct"], default_value = "server")]
    mode: String,
    /// The guest's address: in its network, where one that another guest has is shared with it
    /// [default: the next free one], or on its NIC, with the length of the network's prefix; or what a DHCP server
    /// behind that NIC says
    #[arg(long, value_name = "ADDR[/LEN]|dhcp", value_parser = parse_ip)]
    ip: Option<Ip>,
    /// The way out of that network
    #[arg(long, value_name = "A", requires = "ip")]
    gateway: Option<Ipv4Addr>,
    /// The guest's IPv6 address; what routers behind a TAP device or NIC say; or none
    /// [default: one of the network's prefix, behind tap: what routers say]
    #[arg(long, value_name = "ADDR[/LEN]|auto|none", value_parser = parse_ip6)]
    ip6: Option<Want6>,
    /// The way out by IPv6 on a NIC of the guest's own [default: what routers say]
    #[arg(long, value_name = "A", requires = "nic", requires = "ip6")]
    gateway6: Option<Ipv6Addr>,
    /// Virtual CPUs, each a host thread [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// TCP engines among which connections are spread, for programs of many threads; see ARCHITECTURE.md [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: Option<u32>,
    /// Memory for the kernel's state: sockets, buffers, tmpfs (for example 512M, 4G)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Folder that the guest sees as "/" [default: the host's]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show a host folder or file inside the guest; may be repeated
    #[arg(short, long, value_name = "SRC:DST[:ro]", value_parser = parse_volume)]
    volume: Vec<Volume>,
    /// Mount an empty file system in memory; may be repeated
    #[arg(long, value_name = "DST", value_parser = parse_absolute)]
    tmpfs: Vec<PathBuf>,
    /// Let the guest write to volumes and tmpfs only
    #[arg(long)]
    read_only: bool,
    /// Set or pass an environment variable; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Run as this user of the guest's /etc/passwd, or number[:group]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory in the guest
    #[arg(short, long, value_name = "DIR", value_parser = parse_absolute)]
    workdir: Option<PathBuf>,
    /// Host name that the guest sees
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Write system calls to stderr as strace does; SET names calls or families (network, file, ...)
    #[arg(long, value_name = "SET", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    trace: Option<String>,
    /// Start although functions are missing; the program stops by name when it calls one
    #[arg(long)]
    lazy: bool,
    /// How an idle vCPU waits: a bounded spin and then sleep, or never sleep
    #[arg(long, value_name = "HOW", value_parser = ["adaptive", "busy"], default_value = "adaptive")]
    poll: String,
    /// Ask for newer Debian packages even if the cache has some
    #[arg(long)]
    pull: bool,
    /// A path, or debian:PACKAGE[:PROGRAM], and its arguments: all that follows is the program's
    #[arg(value_names = ["PROGRAM", "ARG"], required = true, num_args = 1.., trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// `--ip`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ip {
    Address(Ipv4Addr, Option<u8>),
    Dhcp,
}

/// A host path shown inside the guest.
#[derive(Clone, Debug)]
struct Volume {
    source: PathBuf,
    target: PathBuf,
    read_only: bool,
}

/// What is run, where, with what.
struct Program {
    root: Option<PathBuf>,
    path: OsString,
    args: Vec<OsString>,
    user: Option<String>,
    /// Folders in memory, unless volumes are given for them.
    scratch: &'static [&'static str],
    /// Environment variables that its service would have.
    environment: &'static [(&'static str, &'static str)],
    /// The working directory, where another root chooses it.
    workdir: Option<&'static str>,
}

/// Runs a program in a new guest. On success this process is the guest.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let program = find_program(&args)?;
    let mut config = Config::default();
    describe_program(&mut config, &args, &program)?;
    describe_files(&mut config, &args, &program)?;
    let name = choose_name(&args, &program)?;
    config.add("name", &name)?;
    let attached = match &args.nic {
        Some(_) => None,
        None => attach(&args, &name)?,
    };
    // The door first: who finds the record may knock.
    config.add_fd("exec_fd", exec::open_door(&name)?)?;
    write_record(&args, &name, &program, attached.as_ref())?;
    if let Some(attached) = attached {
        announce(&attached);
        describe_network(&mut config, &args, attached)?;
    }
    if let (Some(spec), Some(ip)) = (&args.nic, args.ip) {
        let address = match ip {
            Ip::Dhcp => None,
            Ip::Address(address, Some(length)) => Some((address, length)),
            Ip::Address(address, None) => {
                return Err(Failure::new(format_args!("--ip {address}: with --nic write {address}/LENGTH")));
            }
        };
        let place = nic::Place {
            spec: spec.clone(),
            name: name.clone(),
            address,
            gateway: args.gateway,
            address6: args.ip6.unwrap_or_default(),
            gateway6: args.gateway6,
            busy: args.poll == "busy",
        };
        nic::describe(&mut config, &place)?;
    }
    match guest::become_guest(&config)? {}
}

fn find_program(args: &Args) -> Result<Program> {
    let text = args.command[0].to_string_lossy();
    if let Some(spec) = text.strip_prefix("debian:") {
        if args.root.is_some() {
            return Err(Failure::new(
                "--root and debian:PACKAGE exclude each other: the package is the root",
            ));
        }
        let image = debian::image(spec, args.pull)?;
        return Ok(Program {
            args: image.arguments(&args.command[1..]),
            scratch: image.scratch(),
            environment: image.environment(),
            workdir: Some(image.workdir()),
            root: Some(image.root),
            path: image.program.into(),
            user: image.user,
        });
    }
    let root = match &args.root {
        Some(root) => Some(
            fs::canonicalize(root)
                .ok()
                .filter(|r| r.is_dir())
                .ok_or_else(|| Failure::new(format_args!("--root {}: no such folder", root.display())))?,
        ),
        None => None,
    };
    let path = search_path(root.as_deref(), &args.volume, &args.command[0])?;
    let workdir = root.is_some().then_some("/");
    let args = args.command[1..].to_vec();
    Ok(Program { root, path, args, user: None, scratch: &[], environment: &[], workdir })
}

/// Finds a program as a shell would, in the guest's files.
fn search_path(root: Option<&Path>, volumes: &[Volume], program: &OsStr) -> Result<OsString> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let path = match (root, std::env::var("PATH")) {
        (None, Ok(path)) => path,
        _ => DEFAULT_PATH.into(),
    };
    let mut denied = None;
    for dir in path.split(':').filter(|d| !d.is_empty()) {
        let candidate = Path::new(dir).join(program);
        let Ok(meta) = fs::metadata(on_host(root, volumes, &candidate)) else { continue };
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            return Ok(candidate.into());
        }
        denied = denied.or(Some(candidate));
    }
    match denied {
        Some(path) => Err(Failure::cannot_run(format_args!("{}: not an executable file", path.display()))),
        None => Err(Failure::not_found(format_args!(
            "{}: no such program in {path}: give its path, or debian:PACKAGE",
            program.display()
        ))),
    }
}

/// Where a guest's path lies on the host, as far as that can be said without walking links.
fn on_host(root: Option<&Path>, volumes: &[Volume], path: &Path) -> PathBuf {
    let volume = volumes.iter().rev().find_map(|v| Some(v.source.join(path.strip_prefix(&v.target).ok()?)));
    let below_root = || root.unwrap_or(Path::new("/")).join(path.strip_prefix("/").unwrap_or(path));
    volume.unwrap_or_else(below_root)
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn describe_program(config: &mut Config, args: &Args, program: &Program) -> Result<()> {
    config.add("path", &program.path)?;
    config.add("arg", &program.path)?;
    for arg in &program.args {
        config.add("arg", arg)?;
    }
    for variable in environment(args, program) {
        config.add("env", variable)?;
    }
    let cpus =
        args.cpus.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
    config.add("cpus", cpus.to_string())?;
    // The variable is for whole test suites: `ATTACCA_SHARDS=2 cargo test -p attacca ...`.
    let shards = args.shards.map(|shards| shards.to_string().into());
    if let Some(shards) = shards.or_else(|| std::env::var_os("ATTACCA_SHARDS")) {
        config.add("shards", shards)?;
    }
    if let Some(memory) = args.memory {
        config.add("memory", memory.to_string())?;
    }
    if args.lazy {
        config.add("lazy", "1")?;
    }
    if let Some(set) = &args.trace {
        config.add("trace", set)?;
        config.add("trace_fd", "2")?;
    }
    config.add("poll", &args.poll)?;
    if let Some(user) = args.user.as_ref().or(program.user.as_ref()) {
        let (uid, gid) = resolve_user(program.root.as_deref(), user)?;
        config.add("uid", uid.to_string())?;
        config.add("gid", gid.to_string())?;
    }
    Ok(())
}

/// A program of this machine gets the caller's environment; one from another root a clean one.
fn environment(args: &Args, program: &Program) -> Vec<OsString> {
    let mut variables: Vec<(OsString, OsString)> = if program.root.is_none() {
        std::env::vars_os().collect()
    } else {
        [("PATH", DEFAULT_PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]
            .map(|(k, v)| (k.into(), v.into()))
            .into()
    };
    variables.extend(program.environment.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))));
    for setting in &args.env {
        let (name, value) = match setting.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (setting.as_str(), std::env::var_os(setting)),
        };
        variables.retain(|(n, _)| n != name);
        variables.extend(value.map(|v| (name.into(), v)));
    }
    let join = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    variables.into_iter().map(join).collect()
}

/// `USER`, `USER:GROUP`, or numbers, by the guest's own /etc/passwd and /etc/group.
pub(crate) fn resolve_user(root: Option<&Path>, text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let etc = root.unwrap_or(Path::new("/")).join("etc");
    let field = |file: &str, name: &str, column: usize| -> Option<u32> {
        let text = fs::read_to_string(etc.join(file)).ok()?;
        let line = text.lines().find(|l| l.split(':').next() == Some(name))?.to_owned();
        line.split(':').nth(column)?.parse().ok()
    };
    let uid = user.parse().ok().or_else(|| field("passwd", user, 2));
    let uid = uid.ok_or_else(|| {
        Failure::new(format_args!("--user {user}: not in {}", etc.join("passwd").display()))
    })?;
    let gid = match group {
        None => field("passwd", user, 3).or(Some(uid)),
        Some(group) => group.parse().ok().or_else(|| field("group", group, 2)),
    };
    let gid =
        gid.ok_or_else(|| Failure::new(format_args!("--user {text}: no such group in {}", etc.display())))?;
    Ok((uid, gid))
}

fn describe_files(config: &mut Config, args: &Args, program: &Program) -> Result<()> {
    if let Some(root) = &program.root {
        config.add("root", root)?;
        // A package's root is everybody's: what this guest changes in it is the guest's alone.
        if args.root.is_none() {
            config.add("layer", "1")?;
        }
        // What a boot would have mounted, and what a container image would have a volume for.
        let given = |dir: &str| args.volume.iter().any(|v| v.target == Path::new(dir));
        for fresh in ["/run", "/tmp"].iter().chain(program.scratch.iter().filter(|dir| !given(dir))) {
            config.add("tmpfs", fresh)?;
        }
    }
    for volume in &args.volume {
        let source = fs::canonicalize(&volume.source).and_then(|source| {
            // Opening it now names the fault before anything runs.
            fs::File::open(&source).map(|_| source)
        });
        let source = source.or_fail(format_args!("--volume {}: cannot read", volume.source.display()))?;
        let mut value = source.into_os_string();
        value.push(":");
        value.push(&volume.target);
        value.push(if volume.read_only { ":ro" } else { ":rw" });
        config.add("volume", value)?;
    }
    for target in &args.tmpfs {
        config.add("tmpfs", target)?;
    }
    if args.read_only {
        config.add("read_only", "1")?;
    }
    let cwd = match (&args.workdir, program.workdir) {
        (Some(dir), _) => dir.clone(),
        (None, Some(dir)) => dir.into(),
        (None, None) => std::env::current_dir().or_fail("cannot tell the working directory")?,
    };
    config.add("cwd", cwd)?;
    if let Some(hostname) = &args.hostname {
        config.add("hostname", hostname)?;
    }
    Ok(())
}

/// A guest ends with the last process of its family, a moment after `attacca run` returned for the first: its name is
/// waited for so long.
const ENDING: Duration = Duration::from_millis(500);

fn choose_name(args: &Args, program: &Program) -> Result<String> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => default_name(&program.path),
    };
    let fits = !name.is_empty()
        && name.len() <= NAME_MAX
        && name.chars().all(fits_in_name)
        && !name.starts_with('.');
    if !fits {
        return Err(Failure::new(format_args!(
            "--name {name}: use up to {NAME_MAX} letters, digits, '-', '_' and '.'"
        )));
    }
    let deadline = Instant::now() + ENDING;
    while guests::running()?.iter().any(|g| g.name == name) {
        if Instant::now() >= deadline {
            return Err(Failure::new(format_args!(
                "a guest called '{name}' is running: choose another --name"
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(name)
}

/// After the program, whatever its file is called ('[' is one of coreutils), and the process.
fn default_name(program: &OsStr) -> String {
    let base = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pid = format!("-{}", std::process::id());
    let fitting = base.trim_start_matches('.').chars().map(|c| if fits_in_name(c) { c } else { '_' });
    fitting.take(NAME_MAX - pid.len()).collect::<String>() + &pid
}

/// A guest's name is part of file names.
const NAME_MAX: usize = 64;

fn fits_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

fn attach(args: &Args, name: &str) -> Result<Option<Attached>> {
    let limits = Limits {
        frames: args.net_frames.unwrap_or(0),
        bytes: args.net_rate.unwrap_or(0),
        ..Limits::default()
    };
    let request = GuestRequest {
        name: name.into(),
        publish: args.publish.clone(),
        address: match args.ip {
            Some(Ip::Address(address, _)) => Some(address.into()),
            _ => None,
        },
        dhcp: args.ip == Some(Ip::Dhcp),
        address6: args.ip6.unwrap_or_default(),
        gateway: args.gateway.map(IpAddr::V4),
        queues: 1,
        direct: args.mode == "direct",
        limits,
    };
    let dir = guests::runtime_dir()?;
    match args.net.as_deref() {
        Some("none") if !args.publish.is_empty() => {
            Err(Failure::new("-p needs a network: leave --net none away"))
        }
        Some("none") if args.ip6.is_some() => {
            Err(Failure::new("--ip6 needs a network: leave --net none away"))
        }
        Some("none") if args.ip.is_some() => Err(Failure::new("--ip needs a network: leave --net none away")),
        Some("none") => Ok(None),
        Some(net) => {
            server::check_name(net)?;
            netserver::client::join(&dir, net, &request).map(Some).map_err(Failure::new)
        }
        None if args.mode == "direct" => {
            Err(Failure::new("--mode direct goes with --net NAME (or give --nic)"))
        }
        None if args.ip.is_some() => Err(Failure::new("--ip goes with --net NAME or --nic")),
        None => netserver::client::private_network(&dir, name, &request).map(Some).map_err(Failure::new),
    }
}

/// "10.0.2.20", "10.0.2.20/24" or "dhcp".
fn parse_ip(text: &str) -> std::result::Result<Ip, String> {
    if text == "dhcp" {
        return Ok(Ip::Dhcp);
    }
    if text.contains('/') {
        return nic::parse_prefix(text).map(|(address, length)| Ip::Address(address, Some(length)));
    }
    let address = text.parse().map_err(|_| format!("'{text}': write ADDRESS, ADDRESS/LENGTH or dhcp"))?;
    Ok(Ip::Address(address, None))
}

/// "fd00::20", "fd00::20/64", "auto" or "none".
fn parse_ip6(text: &str) -> std::result::Result<Want6, String> {
    let wrong = || format!("'{text}': write ADDRESS, ADDRESS/LENGTH, auto or none");
    let (address, length) = match text {
        "auto" => return Ok(Want6::Auto),
        "none" => return Ok(Want6::Off),
        _ => text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length))),
    };
    let length = match length {
        None => None,
        Some(digits) => Some(digits.parse().ok().filter(|&l| l <= 128).ok_or_else(wrong)?),
    };
    Ok(Want6::Address(address.parse().map_err(|_| wrong())?, length))
}

fn describe_network(config: &mut Config, args: &Args, attached: Attached) -> Result<()> {
    let mac = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
    config.add("net.mac", mac(attached.mac))?;
    if attached.dhcp {
        config.add("net.dhcp", "1")?;
    } else {
        config.add("net.ip", format!("{}/{}", attached.address.0, attached.address.1))?;
    }
    if let Some((address, length)) = attached.address6 {
        config.add("net.ip6", format!("{address}/{length}"))?;
    }
    if let Some(gateway) = attached.gateway6 {
        config.add("net.gateway6", gateway.to_string())?;
    }
    if attached.auto6 {
        config.add("net.auto6", "1")?;
    }
    if let Some(gateway) = attached.gateway {
        config.add("net.gateway", gateway.to_string())?;
    }
    if let Some(dns) = attached.dns {
        config.add("net.dns", dns.to_string())?;
    }
    if attached.peer_mac.is_none() {
        config.add("net.bridged", "1")?;
    }
    config.add("net.mtu", attached.mtu.to_string())?;
    let (first, last) = attached.ephemeral;
    config.add("net.ephemeral", format!("{first}-{last}"))?;
    if let (true, Some(network)) = (attached.claims, &args.net) {
        config.add("net.claims", "1")?;
        let dir = netserver::client::network_dir(&guests::runtime_dir()?, network);
        config.add("net.control", dir.join("control"))?;
    }
    config.add_fd("net.ring_fd", attached.link)?;
    config.add_fd("net.doorbell_out", attached.to_server)?;
    config.add_fd("net.doorbell_in", attached.to_guest)?;
    config.add_fd("control_fd", attached.control)
}

fn announce(attached: &Attached) {
    for publish in &attached.publish {
        let proto = if publish.udp { "udp" } else { "tcp" };
        eprintln!("attacca: {proto} {} -> {}:{}", publish.host, attached.address.0, publish.guest_port);
    }
}

fn write_record(args: &Args, name: &str, program: &Program, attached: Option<&Attached>) -> Result<()> {
    let pid = std::process::id() as i32;
    // Those of the network, not of the arguments: there the host has chosen for port 0.
    let published = attached.map_or(&[][..], |a| &a.publish);
    let proto = |p: &Publish| if p.udp { "udp" } else { "tcp" };
    let ports = published.iter().map(|p| format!("{}->{}/{}", p.host, p.guest_port, proto(p)));
    let command = std::iter::once(&program.path).chain(&program.args);
    guests::write(Guest {
        name: name.into(),
        pid,
        processes: Vec::new(),
        lock_fd: -1,
        started_ticks: guests::started_ticks(pid).unwrap_or(0),
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        command: command.map(|c| c.to_string_lossy().into_owned()).collect(),
        network: args
            .nic
            .as_ref()
            .map(NicSpec::to_string)
            .or(args.net.clone())
            .unwrap_or_else(|| guests::OWN.into()),
        mode: match (attached, &args.nic) {
            (Some(_), _) => "server",
            (None, Some(_)) => "direct",
            (None, None) => "none",
        }
        .into(),
        address: attached.filter(|a| !a.dhcp).map(|a| a.address.0.to_string()).or(match args.ip {
            Some(Ip::Address(address, _)) => Some(address.to_string()),
            _ => None,
        }),
        root: program.root.clone(),
        ports: ports.collect(),
    })
}

fn parse_volume(text: &str) -> std::result::Result<Volume, String> {
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    let (source, target) = rest.split_once(':').ok_or("give SRC:DST, for example /srv/www:/var/www")?;
    if source.is_empty() {
        return Err("the source is empty".into());
    }
    Ok(Volume { source: source.into(), target: parse_absolute(target)?, read_only })
}

pub(crate) fn parse_absolute(text: &str) -> std::result::Result<PathBuf, String> {
    if text.starts_with('/') { Ok(text.into()) } else { Err(format!("'{text}' does not start with /")) }
}

/// "512M", "4G", "65536".
pub(crate) fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        other => return Err(format!("'{other}' is no unit (K, M or G)")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is no size (try 512M)"))?;
    number.checked_mul(unit).filter(|&n| n > 0).ok_or_else(|| format!("'{text}' is out of range"))
}

#[cfg(test)]
mod tests {
    use super::{Ip, Want6, parse_ip, parse_ip6, parse_size, parse_volume};

    #[test]
    fn reads_addresses() {
        assert_eq!(parse_ip("dhcp"), Ok(Ip::Dhcp));
        assert_eq!(parse_ip("10.0.2.20/24"), Ok(Ip::Address([10, 0, 2, 20].into(), Some(24))));
        let one = "fd00::20".parse().unwrap();
        assert_eq!(parse_ip6("fd00::20"), Ok(Want6::Address(one, None)));
        assert_eq!(parse_ip6("fd00::20/64"), Ok(Want6::Address(one, Some(64))));
        assert_eq!((parse_ip6("auto"), parse_ip6("none")), (Ok(Want6::Auto), Ok(Want6::Off)));
        for bad in ["", "10.0.0.1", "fd00::/129", "fd00::/x", "Auto"] {
            assert!(parse_ip6(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_sizes() {
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        for bad in ["", "0", "x", "1T", "99999999999G", "-1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_volumes() {
        let volume = parse_volume("/srv:/data:ro").unwrap();
        assert!(volume.read_only && volume.target.as_os_str() == "/data");
        for bad in ["/srv", ":/data", "/srv:data"] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
    }
}
