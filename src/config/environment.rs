//! The environment, read once and handed in.
//!
//! An empty variable counts as unset. Kubernetes describes every Service of a
//! namespace in variables named after it, so where one is called `espalier` (or
//! `espalier-something`) there are `ESPALIER_PORT=tcp://10.0.0.1:80`,
//! `ESPALIER_SERVICE_HOST` and the like, none of which was meant for us
//! (kubernetes.io, "Accessing the Service: environment variables"). They are
//! passed over in silence; any other unknown `ESPALIER_*` deserves a warning.

use super::nearest::nearest;
use super::settings::SETTINGS;
use std::collections::BTreeMap;

/// What this program's own variables begin with.
const PREFIX: &str = "ESPALIER_";

/// Names the configuration file; no setting, so not in the table.
pub(super) const CONFIG_VARIABLE: &str = "ESPALIER_CONFIG";

/// The variables of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process. What is not Unicode is no setting of ours
    /// and no path that we could show, so it is left out.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// A variable, unless it is empty or describes a Kubernetes Service.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?;
        (!value.trim().is_empty() && !service_link(name, value)).then_some(value)
    }

    /// Sentences about variables that look like ours and are not.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let known: Vec<String> = SETTINGS
            .iter()
            .map(super::settings::Setting::variable)
            .chain([CONFIG_VARIABLE.to_owned()])
            .collect();
        let stray = |(name, value): &(&String, &String)| {
            name.starts_with(PREFIX) && !known.contains(name) && !service_link(name, value)
        };
        let sentence = |(name, _): (&String, &String)| {
            // The prefix is alike in all of them and would make any two seem alike.
            let own = |name: &'_ str| name.strip_prefix(PREFIX).unwrap_or_default().to_owned();
            let words: Vec<String> = known.iter().map(|name| own(name)).collect();
            let hint = nearest(&own(name), words.iter().map(String::as_str)).map_or_else(
                || "`espalier serve --help` lists them".to_owned(),
                |near| format!("did you mean {PREFIX}{near}?"),
            );
            format!("the environment variable {name} is no setting and was ignored; {hint}")
        };
        self.0.iter().filter(stray).map(sentence).collect()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

/// Whether Kubernetes (or Docker links, whose form it copies) made a variable.
fn service_link(name: &str, value: &str) -> bool {
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let of_port = name.rsplit_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol));
        let detail = parts.next().is_none_or(|detail| ["PROTO", "PORT", "ADDR"].contains(&detail));
        number && protocol && detail && parts.next().is_none()
    });
    name.starts_with(PREFIX)
        && (name.ends_with("_SERVICE_HOST")
            || name.ends_with("_SERVICE_PORT")
            || name.contains("_SERVICE_PORT_")
            || (name.ends_with("_PORT") && address)
            || of_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_kubernetes_service_are_not_ours() {
        let links = Environment::from([
            ("ESPALIER_PORT", "tcp://10.0.0.1:80"),
            ("ESPALIER_SERVICE_HOST", "10.0.0.1"),
            ("ESPALIER_SERVICE_PORT", "80"),
            ("ESPALIER_SERVICE_PORT_HTTP", "80"),
            ("ESPALIER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("ESPALIER_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("ESPALIER_PORT_8080_TCP_PROTO", "tcp"),
            ("ESPALIER_PORT_8080_TCP_PORT", "8080"),
            ("ESPALIER_GATEWAY_PORT", "udp://10.0.0.2:53"),
            ("ESPALIER_GATEWAY_SERVICE_HOST", "10.0.0.2"),
        ]);
        assert_eq!(links.warnings(), Vec::<String>::new());
        for name in links.0.keys() {
            assert_eq!(links.get(name), None, "{name}");
        }
    }

    #[test]
    fn our_own_are_read_and_misspelt_ones_are_named() {
        let own = Environment::from([
            ("ESPALIER_PORT", "8081"),
            ("ESPALIER_HOST", " "),
            ("ESPALIER_CONFIG", "a.toml"),
            ("ESPALIER_KV_MB", "3"),
            ("ESPALIER_PORT_8080_TCP_HUE", "blue"),
            ("ESPALIER_QQQ", "1"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(own.get("ESPALIER_PORT"), Some("8081"));
        assert_eq!(own.get("ESPALIER_HOST"), None, "empty counts as unset");
        let warnings = own.warnings();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("ESPALIER_KV_MB is no setting"), "{warnings:?}");
        assert!(warnings[0].contains("did you mean ESPALIER_KV_MIB?"), "{warnings:?}");
        assert!(warnings[2].contains("ESPALIER_QQQ") && warnings[2].contains("--help"), "{warnings:?}");
    }
}
