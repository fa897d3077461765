//! Log lines on standard error, in the shape and at the level that were set.

use crate::config::{LogFormat, ServeArgs};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Begins to write log lines. Where something writes them already, as in tests,
/// that goes on.
pub(super) fn begin(args: &ServeArgs) {
    // The filter was held against its kind when it was read.
    let filter = EnvFilter::try_new(&args.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let begun = match args.log_format {
        LogFormat::Human => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    drop(begun);
}
