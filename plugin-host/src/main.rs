//! `photondb-plugin-host`: confines itself, then becomes a PhotonDB plugin, or a command of `photondb sandbox`.
//!
//! The server starts it with an empty environment and ten descriptors
//! ([`photondb_sandbox_profiles::confinement::fd`]). It has one thread from beginning to end: Landlock and seccomp bind
//! the thread that asks. [`confine_and_become`] is the whole of it, in order; each step is a file in `confine/` or
//! `launch/`. Whatever fails, it refuses: one sentence on the report pipe, exit status 70, and no byte of the plugin
//! has run.

mod confine;
mod launch;
mod refusal;
mod start;
mod weak;

use std::convert::Infallible;
use std::env;
use std::process::ExitCode;

use photondb_plugin_host::probe::program;
use photondb_sandbox_profiles::confinement::REFUSED_STATUS;
use photondb_sandbox_profiles::layers::Report;

use crate::refusal::Refusal;
use crate::start::{Reply, Start};

fn main() -> ExitCode {
    if let Some(script) = program::asked() {
        program::run(&script);
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if arguments.len() != 1 || arguments[0] != "become" {
        println!("photondb-plugin-host {}: started by `photondb serve`, not by hand", env!("CARGO_PKG_VERSION"));
        let asked = arguments.iter().any(|argument| argument == "--version" || argument == "--help");
        return ExitCode::from(if asked { 0 } else { 2 });
    }
    let reply = match confine::descriptors::take_reply() {
        Ok(reply) => reply,
        Err(refusal) => {
            eprintln!("{refusal}");
            return ExitCode::from(2);
        }
    };
    let Err(refusal) = confine_and_become(&reply);
    reply.error(&refusal);
    ExitCode::from(u8::try_from(REFUSED_STATUS).unwrap_or(1))
}

/// The order matters; each line says why it stands where it does.
fn confine_and_become(reply: &Reply) -> Result<Infallible, Refusal> {
    // Nothing else is open from here on, so nothing else can be inherited or reached.
    confine::descriptors::keep_the_protocol()?;
    let start = Start::read()?;
    let asked = &start.message.confinement;
    let mut report = Report { profile: asked.profile.clone(), grade_cap: asked.grade.clone(), ..Report::default() };
    // While /proc is still there and ours: both need to write to files in it.
    confine::limits::die_first_when_memory_is_short();
    confine::namespaces::join_cgroup(asked, &mut report);
    confine::directory::enter_state(&start.message)?;
    // Own session and keyring, no core, no ptrace by others of our user.
    confine::rights::begin_session(&mut report);
    // Root makes namespaces while it may; others need the user namespace first, which comes with their first call.
    confine::namespaces::separate_as_root(&start.message, &mut report);
    // The bounding set must go while we have the right to drop it; changing the user takes that right.
    let user = confine::rights::switch_user(asked, &mut report)?;
    confine::namespaces::separate(&start.message, &mut report);
    confine::directory::settle(&start.message, &report)?;
    // After the last change of credentials, which would clear it; then look whether the server is still there.
    confine::rights::die_with_parent(start.message.server_pid, &mut report)?;
    confine::limits::set(asked, user, &mut report)?;
    // A new user namespace gave us every capability inside it.
    confine::rights::drop_capabilities(&mut report)?;
    // Landlock and seccomp both want this, and it cannot be undone.
    confine::rights::no_new_privileges(&mut report)?;
    confine::rights::no_new_code(asked, &mut report);
    confine::landlock::restrict(asked, &mut report)?;
    // Last: what came before needs calls that the filter refuses.
    let filter = confine::seccomp::install(&start.message, &mut report)?;
    confine::verify::require(&asked.required, &report)?;
    // The plugin may be stopped from its first call on, so the listener must be at the server before it runs.
    filter.send_listener()?;
    reply.report(report)?;
    if start.message.waits {
        reply.wait()?;
    }
    launch::exec::execute(&start, &filter)
}
