//! Every setting of the server, once: its flag, its key in the file, its kind,
//! its bounds and its default.
//!
//! Flags, environment variables, the file's schema, `--help`, `espalier config`
//! and the suggestions for misspelt names are all derived from this one table,
//! so that none of them can lag behind. A setting's variable is `ESPALIER_` and
//! the flag in capitals; its key is `section.key`.
//!
//! Length: the table of all settings, with their help.

use crate::engine::tree::quant::Quantize;
use crate::verify::Kind as Format;
use toml::Value;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag without its dashes; unique.
    pub flag: &'static str,
    /// The section of the file.
    pub section: &'static str,
    /// The key within the section.
    pub key: &'static str,
    /// What `--help` calls its value.
    pub value: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Its value where nobody sets it, as a flag would spell it.
    pub default: Option<&'static str>,
    /// What holds where nobody sets it and there is no default.
    pub absent: &'static str,
    /// What it does: one sentence or two.
    pub help: &'static str,
}

/// What a setting may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IP address.
    Address,
    /// A whole number within bounds, both included.
    Number(u64, u64),
    /// A part of a whole: above 0, and at most 1.
    Fraction,
    /// Any text but none.
    Text,
    /// One or more names.
    Names,
    /// Web origins, or `*` for all.
    Origins,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A filter of log lines.
    Filter,
}

/// The largest whole number of a TOML file.
const ANY: u64 = i64::MAX as u64;

/// A day, in seconds: no timeout is longer.
const DAY: u64 = 86_400;

/// All of them, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "host",
        section: "server",
        key: "host",
        value: "ADDRESS",
        kind: Kind::Address,
        default: Some("127.0.0.1"),
        absent: "",
        help: "IP address to listen on; 0.0.0.0 takes requests from everywhere",
    },
    Setting {
        flag: "port",
        section: "server",
        key: "port",
        value: "PORT",
        kind: Kind::Number(0, 65_535),
        default: Some("8080"),
        absent: "",
        help: "Port to listen on; 0 takes a free one",
    },
    Setting {
        flag: "body-limit",
        section: "server",
        key: "body_limit",
        value: "BYTES",
        kind: Kind::Number(1, ANY),
        default: Some("4194304"),
        absent: "",
        help: "Largest request body, in bytes",
    },
    Setting {
        flag: "max-concurrency",
        section: "server",
        key: "max_concurrency",
        value: "N",
        kind: Kind::Number(1, 1 << 20),
        default: Some("256"),
        absent: "",
        help: "Chat requests in flight at once, at most",
    },
    Setting {
        flag: "max-queue",
        section: "server",
        key: "max_queue",
        value: "N",
        kind: Kind::Number(0, 1 << 20),
        default: Some("256"),
        absent: "",
        help: "Chat requests that may wait beyond those in flight; more are refused with 429",
    },
    Setting {
        flag: "request-timeout",
        section: "server",
        key: "request_timeout",
        value: "SECONDS",
        kind: Kind::Number(1, DAY),
        default: Some("600"),
        absent: "",
        help: "Longest that a request may run, in seconds; it then ends with its best answer so far",
    },
    Setting {
        flag: "header-timeout",
        section: "server",
        key: "header_timeout",
        value: "SECONDS",
        kind: Kind::Number(1, DAY),
        default: Some("30"),
        absent: "",
        help: "Longest that a request's head, and then its body, may take to arrive, in seconds; then 408. A \
               client that takes nothing of its answer for as long is cut",
    },
    Setting {
        flag: "idle-timeout",
        section: "server",
        key: "idle_timeout",
        value: "SECONDS",
        kind: Kind::Number(1, DAY),
        default: Some("120"),
        absent: "",
        help: "How long a connection may rest between two requests, in seconds, and no less than \
               --header-timeout; longer than a proxy before the server keeps its own",
    },
    Setting {
        flag: "keep-alive",
        section: "server",
        key: "keep_alive",
        value: "SECONDS",
        kind: Kind::Number(1, DAY),
        default: Some("10"),
        absent: "",
        help: "Silence on a stream, in seconds, after which a comment keeps it open",
    },
    Setting {
        flag: "allow-origin",
        section: "server",
        key: "allow_origins",
        value: "ORIGIN",
        kind: Kind::Origins,
        default: None,
        absent: "none, so that no page of another site can spend this server's compute",
        help: "Origins, separated by commas, whose pages may call the API from a browser (CORS), such as \
               https://app.example; * lets every page that anybody opens do so, without authentication",
    },
    Setting {
        flag: "shutdown-timeout",
        section: "server",
        key: "shutdown_timeout",
        value: "SECONDS",
        kind: Kind::Number(0, DAY),
        default: Some("30"),
        absent: "",
        help: "How long requests may go on after a signal to stop, in seconds",
    },
    Setting {
        flag: "stuck-timeout",
        section: "server",
        key: "stuck_timeout",
        value: "SECONDS",
        kind: Kind::Number(1, DAY),
        default: Some("120"),
        absent: "",
        help: "How long an engine may have work without finishing any, in seconds, before /health is 503",
    },
    Setting {
        flag: "model",
        section: "model",
        key: "name",
        value: "MODEL",
        kind: Kind::Text,
        default: Some("seedling"),
        absent: "",
        help: "What to serve: a bundled model (seedling, seedling-prm), a directory with a checkpoint \
               or a LoRA adapter, a GGUF file, or a Hugging Face id such as org/name, taken from the \
               cache or downloaded",
    },
    Setting {
        flag: "revision",
        section: "model",
        key: "revision",
        value: "REVISION",
        kind: Kind::Text,
        default: Some("main"),
        absent: "",
        help: "Branch, tag or commit of the Hugging Face model that --model names; one that --prm names is \
               taken from its branch main",
    },
    Setting {
        flag: "served-model-name",
        section: "model",
        key: "served_model_name",
        value: "NAME",
        kind: Kind::Names,
        default: None,
        absent: "the model's own name",
        help: "Names that requests may give the model, separated by commas; the first is the one reported",
    },
    Setting {
        flag: "max-model-len",
        section: "model",
        key: "max_model_len",
        value: "TOKENS",
        kind: Kind::Number(1, ANY),
        default: None,
        absent: "the model's own context",
        help: "Longest sequence, prompt included, in tokens; at most the model's own",
    },
    Setting {
        flag: "quantize",
        section: "model",
        key: "quantize",
        value: "MIX",
        kind: Kind::Choice(&Quantize::NAMES),
        default: Some("none"),
        absent: "",
        help: "Quantise the model's matrices that are floats while they are loaded: none, q8_0 or \
               q4_k_m; the process reward model is left as it is",
    },
    Setting {
        flag: "prm",
        section: "model",
        key: "prm",
        value: "MODEL",
        kind: Kind::Text,
        default: None,
        absent: "seedling-prm for seedling, none for other models",
        help: "Process reward model, named like --model, or a server with vLLM's /pooling \
               (http://host:8000/); `judge` has the model judge itself, `none` goes without",
    },
    Setting {
        flag: "prm-format",
        section: "model",
        key: "prm_format",
        value: "FORMAT",
        kind: Kind::Choice(&Format::NAMES),
        default: None,
        absent: "what its prm.json, its head, its name or the name of an adapter's base says",
        help: "How the process reward model is read: tag_logits, math_shepherd, rlhflow, math_psa, \
               versa_prm, qwen_prm or skywork; a server with /pooling is read as qwen_prm, or, where \
               it pools logits with the good token's first, as math_shepherd, math_psa or versa_prm",
    },
    Setting {
        flag: "prm-model",
        section: "model",
        key: "prm_model",
        value: "NAME",
        kind: Kind::Text,
        default: None,
        absent: "the first that the server lists",
        help: "What the process reward model is called where --prm is another server",
    },
    Setting {
        flag: "prm-api-key-env",
        section: "model",
        key: "prm_api_key_env",
        value: "VARIABLE",
        kind: Kind::Text,
        default: None,
        absent: "no key",
        help: "Variable of the environment that holds the API key of the server that --prm names",
    },
    Setting {
        flag: "kv-mib",
        section: "engine",
        key: "kv_mib",
        value: "MIB",
        kind: Kind::Number(1, 1 << 30),
        default: Some("1024"),
        absent: "",
        help: "Memory for KV, in MiB; taken as it is used",
    },
    Setting {
        flag: "kv-fraction",
        section: "engine",
        key: "kv_fraction",
        value: "FRACTION",
        kind: Kind::Fraction,
        default: None,
        absent: "what kv-mib says",
        help: "Memory for KV as a part of what is free when the server starts, such as 0.3, in the place \
               of --kv-mib; the weights need some as well",
    },
    Setting {
        flag: "prm-kv-mib",
        section: "engine",
        key: "prm_kv_mib",
        value: "MIB",
        kind: Kind::Number(1, 1 << 30),
        default: Some("512"),
        absent: "",
        help: "Memory for KV of the process reward model, in MiB; taken as it is used",
    },
    Setting {
        flag: "threads",
        section: "engine",
        key: "threads",
        value: "N",
        kind: Kind::Number(1, 4096),
        default: None,
        absent: "one per core",
        help: "Threads of the forward pass",
    },
    Setting {
        flag: "step-positions",
        section: "engine",
        key: "step_positions",
        value: "N",
        kind: Kind::Number(1, 1 << 20),
        default: Some("512"),
        absent: "",
        help: "Positions computed in one step, at most",
    },
    Setting {
        flag: "log-format",
        section: "log",
        key: "format",
        value: "FORMAT",
        kind: Kind::Choice(&["human", "json"]),
        default: Some("human"),
        absent: "",
        help: "Shape of log lines: human or json",
    },
    Setting {
        flag: "log-level",
        section: "log",
        key: "level",
        value: "FILTER",
        kind: Kind::Filter,
        default: Some("info"),
        absent: "",
        help: "Which log lines are written: error, warn, info, debug, trace, or a filter such as \
               warn,espalier=debug. RUST_LOG counts where no flag, variable of ours or file says it",
    },
];

impl Setting {
    /// The environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("ESPALIER_{}", self.flag.replace('-', "_").to_uppercase())
    }

    /// The field of the resolved settings.
    #[must_use]
    pub fn field(&self) -> String {
        self.flag.replace('-', "_")
    }
}

impl Kind {
    /// What a value must be, to follow "must be".
    #[must_use]
    pub fn bound(self) -> String {
        match self {
            Kind::Address => "an IP address such as 127.0.0.1, 0.0.0.0 or ::1".to_owned(),
            Kind::Number(least, ANY) => format!("a whole number, {least} or more"),
            Kind::Number(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Fraction => "a number above 0 and at most 1, such as 0.3".to_owned(),
            Kind::Text => "a text that is not empty".to_owned(),
            Kind::Names => "one or more names, none of them empty".to_owned(),
            Kind::Origins => "one or more origins as browsers send them, such as https://app.example or \
                              http://localhost:3000 (in lower case, without a path), or *"
                .to_owned(),
            Kind::Choice(words) => words.join(" or "),
            Kind::Filter => "a log level (error, warn, info, debug, trace) or a filter such as \
                             warn,espalier=debug"
                .to_owned(),
        }
    }

    /// The value of a flag or variable; `None` where it is out of bounds.
    #[must_use]
    pub fn read(self, texts: &[String]) -> Option<Value> {
        if matches!(self, Kind::Names | Kind::Origins) {
            let names = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
            let names: Vec<&str> = names.collect();
            return self.fits(Value::from(names));
        }
        // The last one counts, as with every other command.
        let text = texts.last()?.trim();
        self.fits(match self {
            Kind::Number(..) => Value::Integer(text.replace('_', "").parse().ok()?),
            Kind::Fraction => Value::Float(text.parse().ok()?),
            Kind::Address | Kind::Text | Kind::Names | Kind::Origins | Kind::Choice(_) | Kind::Filter => {
                Value::from(text)
            }
        })
    }

    /// The value of a file, if it is within bounds.
    #[must_use]
    pub fn fits(self, value: Value) -> Option<Value> {
        let good = match (self, &value) {
            (Kind::Address, Value::String(text)) => text.parse::<std::net::IpAddr>().is_ok(),
            (Kind::Number(least, most), &Value::Integer(number)) => {
                u64::try_from(number).is_ok_and(|number| (least..=most).contains(&number))
            }
            (Kind::Fraction, &Value::Integer(1)) => return Some(Value::Float(1.0)),
            (Kind::Fraction, &Value::Float(part)) => part > 0.0 && part <= 1.0,
            (Kind::Text, Value::String(text)) => !text.trim().is_empty(),
            (Kind::Names | Kind::Origins, Value::String(text)) => {
                return self.read(std::slice::from_ref(text));
            }
            (Kind::Names, Value::Array(names)) => {
                let named = |name: &Value| name.as_str().is_some_and(|name| !name.trim().is_empty());
                !names.is_empty() && names.iter().all(named)
            }
            (Kind::Origins, Value::Array(origins)) => {
                origins.iter().all(|origin| origin.as_str().is_some_and(is_origin))
            }
            (Kind::Choice(words), Value::String(text)) => words.contains(&text.as_str()),
            (Kind::Filter, Value::String(text)) => log_filter(text).is_ok(),
            _ => false,
        };
        good.then_some(value)
    }
}

/// The filter of log lines that a text says.
///
/// # Errors
/// With what is wrong, when it says none.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    // A word alone would be taken for a module's name, and silence everything.
    let word = !text.contains(['=', ',']);
    if text.trim().is_empty() || word && text.parse::<LevelFilter>().is_err() {
        return Err("no such level".to_owned());
    }
    EnvFilter::try_new(text).map_err(|cause| cause.to_string())
}

/// Whether a text is `*` or an origin as browsers spell it (scheme, host, and a port
/// that is not the scheme's own): they are compared as texts, so that any other
/// spelling would be allowed in vain.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return text == "*";
    };
    // The last colon may be one of an IPv6 address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let made_of = |text: &str, others: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || others.contains(c);
        !text.is_empty() && text.chars().all(plain)
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = address.map_or_else(|| made_of(host, "-._"), |address| made_of(address, ":."));
    let port = port.is_none_or(|port| {
        let own = matches!((scheme, port), ("http", "80") | ("https", "443"));
        !own && port.parse::<u16>().is_ok_and(|number| number.to_string() == port)
    });
    made_of(scheme, "+-.") && host && port
}
