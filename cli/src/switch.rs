//! `attacca switch`: moves a running guest between the network's server and a NIC queue of its own.

use crate::error::{Failure, Result};
use crate::guests;
use netserver::client;
use netserver::direct::NicSpec;
use std::process::ExitCode;

/// Arguments of `attacca switch`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Say how the guest reaches the network, since when and why, and change nothing
    #[arg(long, conflicts_with_all = ["nic", "mode"])]
    explain: bool,
    /// A NIC for this guest alone: xdp:IF[,queue=K] or tap:NAME [default: a queue of the network's own]
    #[arg(long, value_name = "NIC")]
    nic: Option<NicSpec>,
    /// The guest
    guest: String,
    /// Where to
    #[arg(value_parser = ["direct", "server"], required_unless_present = "explain")]
    mode: Option<String>,
}

/// Does it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (guest, network, dir) = guests::in_network(&args.guest)?;
    let said = match args.mode.as_deref() {
        Some(mode) => client::switch(&dir, &network, &guest.name, mode == "direct", args.nic.clone()),
        None => client::explain(&dir, &network, &guest.name),
    };
    let said = said.map_err(|error| Failure::new(format_args!("{}: {error}", guest.name)))?;
    if args.explain {
        println!("{said}");
    } else if !said.is_empty() {
        eprintln!("attacca: {}: {said}", guest.name);
    }
    Ok(ExitCode::SUCCESS)
}
