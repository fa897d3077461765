//! Log lines: for people or as JSON, with request ids, without prompts or keys.
//!
//! Our own lines carry numbers and names from closed sets. What other crates say
//! below `info` is dropped whatever the filter asks for: some of them print
//! headers and bodies there, and nobody here can vouch for them. A panic is
//! logged by its place; its message is logged only where it is a literal, since
//! a formatted one may quote a text (slicing a string does).

use super::AppError;
use crate::config::{LogFormat, log_filter};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Logs to standard error from now on, panics included. A second call changes
/// nothing.
///
/// # Errors
/// When the filter is none.
pub fn init(format: LogFormat, level: &str) -> Result<(), AppError> {
    let subscriber = subscriber(format, level, std::io::stderr)?;
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(panicked));
    }
    Ok(())
}

/// What turns events into lines.
///
/// # Errors
/// When the filter is none.
pub fn subscriber<W>(
    format: LogFormat,
    level: &str,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, AppError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let registry = Registry::default().with(filter(level)?).with(filter_fn(is_vouched_for));
    let layer = fmt::layer().with_writer(writer);
    Ok(match format {
        LogFormat::Human => Box::new(registry.with(layer.with_ansi(std::io::stderr().is_terminal()))),
        LogFormat::Json => Box::new(
            registry.with(layer.json().flatten_event(true).with_current_span(true).with_span_list(false)),
        ),
    })
}

fn filter(level: &str) -> Result<EnvFilter, AppError> {
    log_filter(level).map_err(|cause| AppError::LogLevel { given: level.to_owned(), cause })
}

fn is_vouched_for(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().split("::").next() == Some("espalier");
    ours || *metadata.level() <= Level::INFO
}

fn panicked(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string);
    let message = info.payload().downcast_ref::<&'static str>().copied();
    let thread = std::thread::current();
    tracing::error!(thread = thread.name(), place, message, "panicked");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, level, move || writer.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::error_span!("request", request_id = "r-7");
            tracing::info!(parent: &span, status = 200, "finished");
            tracing::trace!("ours");
            tracing::debug!(target: "hyper::proto", "authorization: Bearer k");
            tracing::debug!(target: "espalier_but_not", "a stranger");
            tracing::info!(target: "hyper::proto", "theirs");
        });
        let bytes = lines.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn lines_are_json_with_the_request_id_or_text_with_it() {
        let json = logged(LogFormat::Json, "info");
        let line: serde_json::Value =
            serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
        assert_eq!((&line["message"], &line["status"]), (&"finished".into(), &200.into()));
        assert_eq!((&line["span"]["request_id"], &line["level"]), (&"r-7".into(), &"INFO".into()));
        let text = logged(LogFormat::Human, "info");
        assert!(text.contains("request_id=\"r-7\"") && text.contains("finished status=200"), "{text}");
    }

    #[test]
    fn strangers_are_heard_from_info_on_whatever_the_filter() {
        for level in ["trace", "hyper=trace,espalier=trace,espalier_but_not=trace"] {
            let text = logged(LogFormat::Human, level);
            assert!(text.contains("ours"), "{text}");
            assert!(!text.contains("Bearer") && !text.contains("stranger"), "{text}");
        }
        assert!(logged(LogFormat::Human, "trace").contains("theirs"));
        assert!(!logged(LogFormat::Human, "info").contains("ours"));
    }

    #[test]
    fn a_filter_that_is_none_is_refused_with_what_would_do() {
        for bad in ["verbose", "", "espalier=loud", "info,,=,"] {
            let error = subscriber(LogFormat::Human, bad, std::io::sink).err().expect(bad).to_string();
            assert!(error.contains(&format!("log-level = '{bad}'")) && error.contains("debug"), "{error}");
        }
    }
}
