//! The `espalier` binary: arguments in, exit code out.

use clap::Parser;
use espalier::{app, config::Cli};
use std::io::Write;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match app::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to try when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "espalier: {error}");
            ExitCode::FAILURE
        }
    }
}
