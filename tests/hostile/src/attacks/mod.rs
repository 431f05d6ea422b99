//! One attack each, in files by the groups of the list of attacks. What an attack gives back is what the caller sees if
//! nobody stops it: `it worked`, or `refused: ` and the kernel's reason.

mod behaviour;
mod control;
mod exhaustion;
mod files;
mod kernel;
mod memory;
mod network;
mod privilege;
mod processes;
mod services;
mod surface;

use std::os::fd::RawFd;

use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::Services;

use kernel::Target;

/// The control socket, the socket for descriptors, the shared regions and the plugin's own file, as the host numbers
/// them.
const CONTROL: RawFd = 3;
const PASSING: RawFd = 4;
const SERVER_REGION: RawFd = 5;
const PLUGIN_REGION: RawFd = 6;
const EXECUTABLE: RawFd = 7;

/// Names that tests of other things than attacks know some of them by.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("abort", "b7_dump_core"),
    ("allocate", "g3_heap_bomb"),
    ("exit", "g13_exit_storm"),
    ("open_file", "a1_open_passwd"),
    ("open_socket", "d1_connect"),
    ("panic", "j5_panic"),
    ("ptrace", "b1_ptrace_attach"),
    ("scribble", "h7_overwrite_everything"),
    ("sleep_for_ever", "j2_never_reply"),
    ("spin_for_ever", "g7_spin"),
];

/// An attack, which is also the name of a plugin and of its one function. Its first word is the row of the list.
pub(crate) struct Attack {
    name: &'static str,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    /// When the function is called.
    Called(fn(&Target) -> String),
    /// In place of the handshake.
    AtStart(fn() -> !),
}

impl Attack {
    const fn new(name: &'static str, run: fn(&Target) -> String) -> Self {
        Self { name, run: Run::Called(run) }
    }

    const fn at_start(name: &'static str, run: fn() -> !) -> Self {
        Self { name, run: Run::AtStart(run) }
    }

    /// Makes the attack, if there is one that is made instead of a handshake.
    pub(crate) fn start(name: &str) {
        if let Some(Self { run: Run::AtStart(run), .. }) = Self::all().find(|attack| attack.name == name) {
            run()
        }
    }

    /// The function that makes the attack, with what the plugin was granted.
    pub(crate) fn named(name: &str, services: &Services) -> Option<AttackFunction> {
        if let Some((short, attack)) = SHORT_NAMES.iter().find(|(short, _)| *short == name) {
            return Self::named(attack, services).map(|function| AttackFunction { name: short, ..function });
        }
        Self::all().find_map(|attack| match attack.run {
            Run::Called(run) if attack.name == name => {
                Some(AttackFunction { name: attack.name, run, services: services.clone() })
            }
            _ => None,
        })
    }

    /// The names of all attacks.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Self::all().map(|attack| attack.name)
    }

    fn all() -> impl Iterator<Item = &'static Self> {
        [
            files::ATTACKS,
            processes::ATTACKS,
            network::ATTACKS,
            privilege::ATTACKS,
            surface::ATTACKS,
            exhaustion::ATTACKS,
            memory::ATTACKS,
            control::ATTACKS,
            behaviour::ATTACKS,
            services::ATTACKS,
        ]
        .into_iter()
        .flatten()
    }
}

/// The function that makes an attack.
pub(crate) struct AttackFunction {
    name: &'static str,
    run: fn(&Target) -> String,
    services: Services,
}

impl QueryFunctionPlugin for AttackFunction {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::volatile(self.name, 0, 4)
    }

    fn invoke(&self, _: &[Datum]) -> Result<Datum, PluginError> {
        Err(PluginError::argument("the server calls invoke_batch"))
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        let outcome = (self.run)(&Target::of(batch, &self.services));
        if let Some(text) = outcome.strip_prefix("error: ") {
            return Err(PluginError::argument(text));
        }
        (0..batch.rows()).try_for_each(|_| results.push(&Datum::from(outcome.clone())))
    }
}

/// Answers that are no answers.
pub(crate) struct BadResults(pub(crate) &'static str);

impl BadResults {
    pub(crate) fn named(name: &str) -> Option<Self> {
        ["not_a_number", "no_results", "too_many_results"].into_iter().find(|known| *known == name).map(Self)
    }
}

impl QueryFunctionPlugin for BadResults {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::volatile(self.0, 1, 1)
    }

    fn invoke(&self, _: &[Datum]) -> Result<Datum, PluginError> {
        Err(PluginError::argument("the server calls invoke_batch"))
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        match self.0 {
            "not_a_number" => results.numbers()?.fill(f64::NAN),
            "no_results" => {}
            _ => (0..=batch.rows()).try_for_each(|_| results.push(&Datum::Null))?,
        }
        Ok(())
    }
}
