//! `plugin.toml`: what a plugin is, what it provides and what it asks for.

mod address;
mod scope;

use std::str::FromStr;

use bytesize::ByteSize;
use semver::Version;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::datum::is_type_name;
use crate::kinds::distance::Metric;

pub use address::{ADDRESS, Address, Host};
pub use scope::{Access, SCOPE, Scope};

/// The contents of `plugin.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What it is.
    pub plugin: Identity,
    /// What it provides: registering anything else is a conflict.
    #[serde(default)]
    pub provides: Provides,
    /// What it asks for.
    #[serde(default)]
    pub permissions: Permissions,
}

/// `[plugin]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// `[a-z][a-z0-9_]{0,31}`.
    pub name: String,
    /// Semantic version.
    pub version: Version,
    /// The protocol that it speaks.
    pub protocol: u16,
    /// The file name of the executable, beside the manifest.
    pub executable: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// An SPDX expression.
    #[serde(default)]
    pub license: String,
}

/// `[provides]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Provides {
    /// Query functions.
    pub functions: Vec<String>,
    /// Aggregates.
    pub aggregates: Vec<String>,
    /// Types of values.
    pub data_types: Vec<String>,
    /// Kinds of vector index.
    pub vector_indexes: Vec<String>,
    /// Kinds of storage engine.
    pub storage_engines: Vec<String>,
    /// Distances.
    pub distances: Vec<String>,
}

/// `[permissions]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Permissions {
    /// The sandbox profile.
    pub profile: String,
    /// Private memory.
    pub memory: ByteSize,
    /// Worker threads, that is lanes.
    pub threads: u16,
    /// Whether it needs a directory of its own.
    pub state: bool,
    /// Where it connects to.
    pub connect: Vec<Address>,
    /// What it queries.
    pub query: Vec<Scope>,
    /// Whether it reads the server's metrics.
    pub metrics: bool,
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            profile: "strict".into(),
            memory: ByteSize::mib(256),
            threads: 1,
            state: false,
            connect: Vec::new(),
            query: Vec::new(),
            metrics: false,
        }
    }
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not TOML, a key is unknown or missing, or of another type.
    #[error("{0}")]
    Syntax(String),
    /// A value is not allowed.
    #[error("`{key}` is {found}; it must be {wanted}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        wanted: &'static str,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// With the key and what it may be.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            ManifestError::Syntax(format!("line {line}: {}", error.message()))
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let Self { plugin, provides, permissions } = self;
        let reject = |key, found: String, wanted| Err(ManifestError::Value { key, found, wanted });
        if !is_name(&plugin.name, 32) {
            let wanted = "a lower-case letter and up to 31 lower-case letters, digits or _";
            return reject("plugin.name", format!("`{}`", crate::calls::escape(&plugin.name)), wanted);
        }
        let executable = &plugin.executable;
        if executable.is_empty() || executable.contains(['/', '\\', '\0']) || matches!(executable.as_str(), "." | "..")
        {
            let found = format!("`{}`", crate::calls::escape(executable));
            return reject("plugin.executable", found, "the name of a file beside the manifest");
        }
        for (key, names) in [
            ("provides.functions", &provides.functions),
            ("provides.aggregates", &provides.aggregates),
            ("provides.data_types", &provides.data_types),
            ("provides.vector_indexes", &provides.vector_indexes),
            ("provides.storage_engines", &provides.storage_engines),
            ("provides.distances", &provides.distances),
        ] {
            if let Some(name) = names.iter().find(|name| !is_name(name, 64)) {
                let wanted = "a list of names of lower-case letters, digits and _, beginning with a letter";
                return reject(key, format!("a list with `{}`", crate::calls::escape(name)), wanted);
            }
        }
        if let Some(name) = provides.data_types.iter().find(|name| !is_type_name(name)) {
            let wanted = "a list of names that ReQL has no type or special value of";
            return reject("provides.data_types", format!("a list with `{name}`"), wanted);
        }
        if let Some(name) = provides.distances.iter().find(|name| Metric::from_name(name).is_some()) {
            let wanted = "a list of names other than those of the metrics that the server has itself";
            return reject("provides.distances", format!("a list with `{name}`"), wanted);
        }
        if !(1..=64).contains(&permissions.threads) {
            return reject("permissions.threads", permissions.threads.to_string(), "a number from 1 to 64");
        }
        if permissions.memory < ByteSize::mib(8) {
            return reject("permissions.memory", permissions.memory.to_string(), "at least 8MiB");
        }
        Ok(())
    }
}

/// Reads a value that is written as text, and says what it must be where it is not.
fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = &'static str>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |wanted| serde::de::Error::custom(format!("`{}` must be {wanted}", crate::calls::escape(&text)));
    text.parse().map_err(wrong)
}

fn is_name(name: &str, longest: usize) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.len() <= longest
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [plugin]
        name = "approx"
        version = "1.2.0"
        protocol = 1
        executable = "approx"
        [provides]
        functions = ["approx"]
        [permissions]
        memory = "64MiB"
    "#;

    #[test]
    fn a_manifest_is_read_with_defaults() {
        let manifest = Manifest::parse(GOOD).expect("valid");
        assert_eq!(manifest.permissions.memory, ByteSize::mib(64));
        assert_eq!((manifest.permissions.profile.as_str(), manifest.permissions.threads), ("strict", 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, hint) in [
            ("name = \"approx\"", "name = \"Approx\"", "plugin.name"),
            ("executable = \"approx\"", "executable = \"../approx\"", "plugin.executable"),
            ("functions = [\"approx\"]", "functions = [\"a-b\"]", "provides.functions"),
            ("functions =", "data_types = [\"time\"]\nfunctions =", "a list with `time`"),
            ("functions = [\"approx\"]", "storage_engines = [\"A\"]", "provides.storage_engines"),
            ("functions =", "distances = [\"l2\"]\nfunctions =", "a list with `l2`"),
            ("memory = \"64MiB\"", "memory = \"1\"", "permissions.memory"),
            ("memory =", "momory =", "momory"),
            ("version = \"1.2.0\"", "version = \"one\"", "line 4"),
            ("protocol = 1", "", "protocol"),
            (
                "memory = \"64MiB\"",
                "connect = [\"*.example.com:443\"]",
                "`*.example.com:443` must be a host and a port",
            ),
            ("memory = \"64MiB\"", "query = [\"geo.*\"]", "`geo.*` must be what may be done to which tables"),
            ("memory = \"64MiB\"", "state = \"yes\"", "line 10"),
        ] {
            let error = Manifest::parse(&GOOD.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(hint), "{to}: {error}");
        }
    }
}
