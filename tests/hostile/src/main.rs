//! A plugin that attacks, or lies about itself: which way depends on the name that it is installed under.
//!
//! It comes by the same road as every plugin: a static executable with a manifest, started and confined by the host. A
//! plugin named after an attack provides one function of the same name, which makes the attack when it is called.

#[expect(unsafe_code, reason = "attackers do not keep to safe Rust")]
mod attacks;
mod client;
mod distance;
mod index;
#[expect(unsafe_code, reason = "filters of system calls have no safe interface")]
mod kernel_without;
mod liar;
mod querier;
mod slow;

use std::process::ExitCode;

use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::Services;

use attacks::{Attack, BadResults};
use distance::LyingDistance;
use index::LyingIndex;
use querier::Querier;
use slow::Slow;

/// A plugin of the given name.
struct Hostile {
    /// The name of the manifest, which the host passes as the name of the process.
    installed_as: String,
    services: Services,
}

impl Plugin for Hostile {
    fn name(&self) -> &str {
        match self.installed_as.as_str() {
            "wrong_name" => "somebody_else",
            name => name,
        }
    }

    fn version(&self) -> &str {
        match self.installed_as.as_str() {
            "wrong_version" => "9.9.9",
            _ => env!("CARGO_PKG_VERSION"),
        }
    }

    fn connect(&mut self, services: Services) {
        self.services = services;
    }

    fn register(&self, registry: &mut PluginRegistry) {
        match self.installed_as.as_str() {
            "exit_at_start" => std::process::exit(7),
            "attack_at_start" => drop(std::fs::File::open("/etc/passwd")),
            "sleep_at_start" => loop {
                std::thread::park();
            },
            // Declares one function in its manifest, and has two.
            "more_than_declared" => {
                registry.function(Innocent("declared")).function(Innocent("undeclared"));
            }
            // Declares two functions in its manifest, and has one.
            "less_than_declared" => {
                registry.function(Innocent("declared"));
            }
            // Names that the plugin `stats` has as well.
            "greedy" => {
                registry.function(Innocent("harmless")).function(Innocent("approx"));
            }
            "querier" => {
                registry.function(Querier(self.services.query.clone()));
            }
            "innocent" => {
                registry.function(Innocent("innocent"));
            }
            _ => {}
        }
        if let Some(attack) = Attack::named(&self.installed_as, &self.services) {
            registry.function(attack);
        }
        if let Some(function) = Slow::named(&self.installed_as) {
            registry.function(function);
        }
        if let Some(function) = BadResults::named(&self.installed_as) {
            registry.function(function);
        }
        if let Some(index) = LyingIndex::named(&self.installed_as) {
            registry.vector_index(index);
        }
        if let Some(distance) = LyingDistance::named(&self.installed_as) {
            registry.distance(distance);
        }
    }
}

/// A function that gives back what it gets.
struct Innocent(&'static str);

impl QueryFunctionPlugin for Innocent {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure(self.0, 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        Ok(args[0].clone())
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let installed_as = arguments.next().unwrap_or_default();
    let first = arguments.next();
    if first.as_deref() == Some("--kernel-without") {
        let mut rest = std::env::args_os().skip(2);
        let (Some(missing), Some(command)) = (rest.next(), rest.next()) else { return ExitCode::from(2) };
        return kernel_without::run(&missing.to_string_lossy(), &command, rest);
    }
    if first.as_deref() == Some("--list") {
        Attack::names().chain(LyingIndex::names()).chain(LyingDistance::names()).for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    Attack::start(&installed_as);
    match installed_as.as_str() {
        "other_protocol" => liar::run(&installed_as),
        name if name.starts_with("client") => photondb_plugin_sdk::runtime::run(client::Client::new(installed_as)),
        _ => photondb_plugin_sdk::runtime::run(Hostile { installed_as, services: Services::default() }),
    }
}
