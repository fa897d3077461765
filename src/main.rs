//! The `espalier` binary: arguments in, exit code out.

use clap::Parser;
use espalier::app;
use espalier::config::{Cli, Environment};
use std::io::Write;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match app::run(Cli::parse(), &Environment::of_process()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to try when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "espalier: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
