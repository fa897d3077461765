//! Why a configuration cannot be used: always one line that names the place,
//! the value and what would do.

use std::path::PathBuf;

/// A mistake in a flag, a variable or a file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag whose value is out of bounds.
    #[error("{flag} is {given} and must be {bound}")]
    Flag {
        /// The flag with its dashes.
        flag: String,
        /// What was given.
        given: String,
        /// What would do.
        bound: String,
    },
    /// A variable or a key of a file whose value is out of bounds.
    #[error("{place} is {given} and must be {bound}")]
    Value {
        /// The variable, or the file's name, line and key.
        place: String,
        /// What was given.
        given: String,
        /// What would do.
        bound: String,
    },
    /// Two settings of one layer, of which only one can count.
    #[error("{one} and {other} say the same thing in different ways; give one of them")]
    Both {
        /// The one, with its layer.
        one: String,
        /// The other.
        other: String,
        /// Whether they are flags.
        flag: bool,
    },
    /// A setting that names a variable which holds no secret that can be used.
    #[error("{place} names the environment variable `{variable}`, {why}")]
    Secret {
        /// The setting, with its layer.
        place: String,
        /// The variable.
        variable: String,
        /// What is wrong with it.
        why: &'static str,
        /// Whether the setting is a flag.
        flag: bool,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`; {hint}")]
    Key {
        /// The file's name and line.
        place: String,
        /// The key, with its sections.
        key: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// A file that is no TOML, or contradicts itself.
    #[error("{place}: {message}")]
    File {
        /// The file's name and line.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A file that cannot be read.
    #[error("cannot read the configuration file '{}': {cause}; give another with --config", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}
