//! `attacca pull debian:PACKAGE...`: fetches packages into the cache and prints their root folders.

use crate::debian;
use crate::error::{Failure, Result};
use std::process::ExitCode;

/// Arguments of `attacca pull`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fetch again even if the cache has them
    #[arg(long)]
    fresh: bool,
    /// debian:PACKAGE
    #[arg(required = true, value_name = "debian:PACKAGE")]
    images: Vec<String>,
}

/// Fetches each package.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    for image in &args.images {
        let package = image
            .strip_prefix("debian:")
            .ok_or_else(|| Failure::new(format_args!("'{image}': only debian:PACKAGE can be pulled")))?;
        println!("{}", debian::root(package, args.fresh)?.display());
    }
    Ok(ExitCode::SUCCESS)
}
