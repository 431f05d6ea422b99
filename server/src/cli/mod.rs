//! The command line: what was typed -> what it means -> a call. One file a command.

mod audit;
mod bench;
pub mod client;
mod conformance;
pub(crate) mod import;
mod permissions;
mod plugin;
mod progress;
mod sandbox;
mod serve;
mod table;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use photondb_sandbox_profiles::ProfileError;
use serde_json::{Value, json};

use self::client::Client;
use crate::config::ConfigError;

/// A document and vector database whose plugins are confined processes.
///
/// It speaks the RethinkDB protocol: connect with any RethinkDB driver.
#[derive(Debug, Parser)]
#[command(
    name = "photondb",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Start a server with `photondb serve --data DIR`, then ask it with `photondb plugin list --data DIR`."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Plugin(plugin::Plugin),
    Sandbox(sandbox::Sandbox),
    Import(import::Import),
    Bench(bench::Bench),
}

impl Arguments {
    /// Runs the command. What it has to say goes to standard output, why it failed to standard error, in one line.
    ///
    /// The result is 0, 2 for wrong usage or configuration, or 1 for anything else.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let done = |()| ExitCode::SUCCESS;
        let result = match self.command {
            Command::Serve(command) => command.run().map(done),
            Command::Plugin(command) => command.run(),
            Command::Sandbox(command) => command.run(),
            Command::Import(command) => command.run().map(done),
            Command::Bench(command) => command.run().map(done),
        };
        let error = match result {
            Ok(code) => return code,
            Err(error) => error,
        };
        if is_broken_pipe(&error) {
            // As with `photondb plugin list | head -1`: the reader has what it wanted.
            return ExitCode::SUCCESS;
        }
        eprintln!("photondb: {error:#}");
        ExitCode::from(if error.is::<ConfigError>() || error.is::<ProfileError>() { 2 } else { 1 })
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// How to reach a server's ReQL port.
#[derive(Debug, Args)]
struct Connection {
    /// The server's host
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The server's ReQL port
    #[arg(long, value_name = "N", default_value_t = 28015)]
    port: u16,
    /// The user
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: String,
    /// A file whose first line is the user's password; empty without it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Connection {
    fn connect(&self) -> anyhow::Result<Client> {
        let password = match &self.password_file {
            // From a file: the arguments of a process are there for everybody to see.
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the password from {}", path.display()))?,
            None => String::new(),
        };
        let password = password.lines().next().unwrap_or_default();
        Ok(Client::connect(&format!("{}:{}", self.host, self.port), &self.user, password)?)
    }
}

/// `DATABASE.TABLE`
#[derive(Clone, Debug, PartialEq, Eq)]
struct TableName {
    database: String,
    table: String,
}

impl TableName {
    /// The term of the table.
    fn term(&self) -> Value {
        json!([15, [[14, [self.database]], self.table]])
    }
}

impl FromStr for TableName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (database, table) = text.split_once('.').unwrap_or(("test", text));
        let valid = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        };
        if valid(database) && valid(table) {
            Ok(Self { database: database.into(), table: table.into() })
        } else {
            Err("write DATABASE.TABLE; names have letters, digits, `_` and `-`".into())
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn tables_are_named_with_or_without_a_database() {
        let name: TableName = "films.actors".parse().unwrap();
        assert_eq!(name.to_string(), "films.actors");
        assert_eq!("actors".parse::<TableName>().unwrap().to_string(), "test.actors");
        assert_eq!(name.term(), json!([15, [[14, ["films"]], "actors"]]));
        for wrong in ["", ".", "a.", ".b", "a.b.c", "a b"] {
            assert!(wrong.parse::<TableName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for wrong in [
            &["photondb", "serv"][..],
            &["photondb", "serve", "--reql-port", "70000"],
            &["photondb", "import", "--table", "a.b.c", "--file", "f"],
            &["photondb", "import", "--table", "t", "--file", "f", "--vectors", "v.npy"],
        ] {
            assert_eq!(Arguments::try_parse_from(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
