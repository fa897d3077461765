//! The `espalier` binary: arguments in, exit code out.

use clap::Parser;
use espalier::{app, config::Cli};
use std::io::Write;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match app::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to try when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "espalier: {error}");
            ExitCode::FAILURE
        }
    }
}
