//! What can be wrong with a configuration, each in one line.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A configuration that cannot be used. The message is one line: which key, in which file, and what to write instead.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {file}: {problem}; check --config", file = file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        problem: io::Error,
    },
    /// The file is not TOML.
    #[error("{file}:{line}: not valid TOML: {problem}", file = file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// There is no such key.
    #[error(
        "{file}:{line}: unknown key `{key}`; the nearest known key is `{nearest}` (known here: {known})",
        file = file.display()
    )]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// The key with the names of its tables.
        key: String,
        /// The known key of the same table that is spelled most like it.
        nearest: String,
        /// All known keys of that table.
        known: String,
    },
    /// A key has a value that it cannot have.
    #[error("{file}:{line}: `{key}` is {found}; write {expected}", file = file.display())]
    BadValue {
        /// The file.
        file: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// The key with the names of its tables.
        key: String,
        /// What was found.
        found: String,
        /// What to write instead.
        expected: String,
    },
    /// A table is named after a plugin, and the name cannot be a plugin's.
    #[error(
        "{file}:{line}: `{key}` is not the name of a plugin; write a small letter, then up to 31 small letters, digits \
         or underscores",
        file = file.display()
    )]
    BadName {
        /// The file.
        file: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// The key with the names of its tables.
        key: String,
    },
}
