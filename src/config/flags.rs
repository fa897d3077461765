//! The settings as flags of a command, derived from the table.
//!
//! clap only collects texts here: defaults, variables and the file come in
//! later, and a flag that was not given must be told from one that was. `--help`
//! names each flag's variable and default, under the section of its key.

use super::settings::{Kind, SETTINGS, Setting};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The flags that were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Texts by flag.
    pub values: BTreeMap<&'static str, Vec<String>>,
    /// `--config`.
    pub config: Option<PathBuf>,
}

impl Given {
    fn arguments(command: Command, takes: impl Fn(&Setting) -> bool) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file (TOML); flags and variables come before it [env: ESPALIER_CONFIG]");
        SETTINGS.iter().filter(|setting| takes(setting)).map(argument).fold(command.arg(config), Command::arg)
    }

    fn of(matches: &ArgMatches, takes: impl Fn(&Setting) -> bool) -> Self {
        let given = |setting: &Setting| {
            let texts = matches.get_many::<String>(setting.flag)?;
            Some((setting.flag, texts.cloned().collect()))
        };
        Self {
            values: SETTINGS.iter().filter(|setting| takes(setting)).filter_map(given).collect(),
            config: matches.get_one("config").cloned(),
        }
    }
}

fn argument(setting: &Setting) -> Arg {
    let default = setting.default.unwrap_or(setting.absent);
    let help = format!("{} [env: {}] [default: {default}]", setting.help, setting.variable());
    let argument = Arg::new(setting.flag)
        .long(setting.flag)
        .value_name(setting.value)
        .help(help)
        .help_heading(heading(setting.section));
    match setting.kind {
        Kind::Names | Kind::Origins => argument.action(ArgAction::Append).num_args(1..),
        _ => argument.action(ArgAction::Set),
    }
}

/// What `--help` puts above the flags of a section.
fn heading(section: &str) -> &'static str {
    match section {
        "server" => "Server",
        "model" => "Model",
        "engine" => "Engine",
        _ => "Log",
    }
}

/// Flags of one command: which settings it takes.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident, $takes:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name(pub Given);

        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                Given::arguments(command, $takes)
            }

            fn augment_args_for_update(command: Command) -> Command {
                Given::arguments(command, $takes)
            }
        }

        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(Given::of(matches, $takes)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = Given::of(matches, $takes);
                Ok(())
            }
        }
    };
}

flags!(
    /// Every setting: `espalier serve`, `espalier config`.
    ServeFlags,
    |_| true
);

flags!(
    /// What a command that runs an engine without a public server needs.
    EngineFlags,
    |setting| ["model", "engine", "log"].contains(&setting.section)
);

flags!(
    /// Where a server listens.
    AddressFlags,
    |setting| ["host", "port"].contains(&setting.flag)
);
