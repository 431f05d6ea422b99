//! `photondb`: arguments -> command -> exit code.

use std::process::ExitCode;

use clap::Parser;
use photondb_server::cli::Arguments;

fn main() -> ExitCode {
    Arguments::parse().run()
}
