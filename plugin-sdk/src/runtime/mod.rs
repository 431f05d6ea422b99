//! The process side of a plugin: handshake, lanes, and errors out of panics.
//!
//! A plugin process has one control thread, which answers RPC, and one worker thread for each lane, which answers
//! calls in order. It ends when the server closes the control socket.

mod control;
mod instance;
mod remote;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use photondb_ipc_schema::descriptors::{self, Bell, Inherited};
use photondb_ipc_schema::lane::Worker;
use photondb_ipc_schema::region::{self, OwnRegion, TrustedRegion};

use crate::registry::Plugin;
use crate::services::Services;
use crate::{Cause, Datum, PluginError};
pub use instance::{Instance, guard};

/// Runs the plugin until its server goes. The whole `main`, by way of [`main!`](crate::main).
pub fn run(plugin: impl Plugin + 'static) -> ExitCode {
    let Some(inherited) = descriptors::inherited() else {
        eprintln!(
            "{} {}: a PhotonDB plugin, which the server starts: put its folder into a directory of [plugins] paths",
            plugin.name(),
            plugin.version()
        );
        return ExitCode::from(2);
    };
    match serve(plugin, inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the plugin cannot serve: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(plugin: impl Plugin + 'static, inherited: Inherited) -> std::io::Result<()> {
    let bytes = region::size(inherited.server_region.as_fd())?;
    let workers = Worker::all(
        TrustedRegion::map(inherited.server_region.as_fd(), bytes)?,
        OwnRegion::map(inherited.plugin_region.as_fd(), bytes)?,
    )
    .ok_or_else(|| std::io::Error::other("the shared memory has a layout of another version"))?;
    instance::remember_panics();
    control::run(Unstarted { plugin: Box::new(plugin), workers }, inherited.control, inherited.descriptors)
}

/// A plugin before its handshake.
struct Unstarted {
    plugin: Box<dyn Plugin>,
    workers: Vec<Worker>,
}

impl Unstarted {
    /// Configures the plugin, and serves its lanes from then on.
    fn start(self, services: Services, settings: &Datum, bell: Bell) -> Result<Instance, PluginError> {
        let instance = Instance::new(self.plugin, services, settings)?;
        let bell = Arc::new(bell);
        for worker in self.workers {
            let mut worker = worker.with_bell(Arc::clone(&bell));
            let instance = instance.clone();
            let serve = move || loop {
                worker.serve_next(|call| {
                    remote::answering(call.lane, call.number);
                    instance.serve(call)
                });
            };
            thread::Builder::new()
                .name("lane".into())
                .spawn(serve)
                .map_err(|error| PluginError::runtime(Cause::Limit, format!("starting a worker thread: {error}")))?;
        }
        Ok(instance)
    }
}
