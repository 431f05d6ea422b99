//! Plugins that are linked into the server, by Cargo features `builtin-NAME`: the same code as in a process of its own,
//! called with the same batches, in memory that nobody shares.
//!
//! Nothing confines such a plugin. A panic is an error of the call; a loop without end holds the query's thread.

use std::cell::RefCell;
use std::sync::Arc;

use photondb_plugin_sdk::batch::{Cell, read_results};
use photondb_plugin_sdk::calls::write_as_many;
use photondb_plugin_sdk::registry::Plugin as PluginCode;
use photondb_plugin_sdk::runtime::Instance as Code;
use photondb_plugin_sdk::services::Services;
use photondb_plugin_sdk::{Datum, PluginError};
use tokio::sync::mpsc;

use super::call::{Function, ROWS_PER_MESSAGE};
use super::handshake::Provided;
use super::journal::Journal;
use super::life::State;
use super::plugin::{Command, Plugin};
use super::registry::Registry;
use crate::config::PluginsConfig;

/// What an operator reads where a confined plugin has its grade.
const GRADE: &str = "built in: not confined";

/// The plugins that this server was built with.
pub(super) fn linked_in() -> Vec<Box<dyn PluginCode>> {
    vec![
        #[cfg(feature = "builtin-cidr")]
        Box::new(photondb_plugin_cidr::Networks),
        #[cfg(feature = "builtin-columnar")]
        Box::new(photondb_plugin_columnar::Columnar),
        #[cfg(feature = "builtin-decimal")]
        Box::new(photondb_plugin_decimal::Decimals),
        #[cfg(feature = "builtin-encrypted")]
        Box::new(photondb_plugin_encrypted::Encrypted::default()),
        #[cfg(feature = "builtin-distances")]
        Box::new(photondb_plugin_distances::Distances),
        #[cfg(feature = "builtin-hnsw")]
        Box::new(photondb_plugin_hnsw::Hnsw::default()),
        #[cfg(feature = "builtin-ivf")]
        Box::new(photondb_plugin_ivf::IvfPlugin::default()),
        #[cfg(feature = "builtin-memory")]
        Box::new(photondb_plugin_memory::Memory),
        #[cfg(feature = "builtin-redb")]
        Box::new(photondb_plugin_redb::Redb),
        #[cfg(feature = "builtin-sketch")]
        Box::new(photondb_plugin_sketch::Sketches),
        #[cfg(feature = "builtin-stats")]
        Box::new(photondb_plugin_stats::Stats),
        #[cfg(feature = "builtin-timeseries")]
        Box::new(photondb_plugin_timeseries::TimeSeries),
        #[cfg(feature = "builtin-vamana")]
        Box::new(photondb_plugin_vamana::Vamana::default()),
    ]
}

/// Makes the plugins known that are linked in and not turned off. They come before those in directories, and keep their
/// names.
pub(super) fn register(
    linked_in: Vec<Box<dyn PluginCode>>,
    registry: &Registry,
    journal: &Journal,
    config: &PluginsConfig,
) {
    for code in linked_in {
        let name = code.name().to_owned();
        if !config.is_enabled(&name) {
            journal.event(&name, "disabled", "linked into this server, and turned off by [plugins.enabled]");
            continue;
        }
        let version = code.version().to_owned();
        let on_failure = config.grants.get(&name).map(|grant| grant.on_failure).unwrap_or_default();
        let (commands, queue) = mpsc::unbounded_channel();
        let plugin = Arc::new(Plugin::new(&name, on_failure, commands));
        if !registry.add(&plugin) {
            continue;
        }
        let started = config.settings_of(&name).map_err(PluginError::init).and_then(|settings| {
            let code = Code::new(code, Services::default(), &settings)?;
            let provided = Provided::by(&code);
            registry.provide_all(&plugin, BuiltIn::functions(&plugin, &code), &provided, Some(&code))?;
            Ok(provided)
        });
        let outcome = started.map_err(|error| error.of(&name));
        plugin.update(|current| {
            (current.is_built_in, current.version) = (true, version.clone());
            match &outcome {
                Ok(provided) => {
                    current.state = State::Ready;
                    current.provides = provided.lines();
                    current.grade = Some(GRADE.into());
                }
                Err(error) => {
                    current.state = State::Refused;
                    current.error = Some(error.clone());
                }
            }
        });
        match &outcome {
            Ok(_) => journal.event(&name, "ready", format!("version {version}, {GRADE}")),
            Err(error) => journal.event(&name, "refused", error.message()),
        }
        tokio::task::spawn_local(answer(name, queue));
    }
}

/// Answers what an operator asks of a plugin that has no process.
async fn answer(name: String, mut queue: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = queue.recv().await {
        match command {
            Command::Change(_, done) => {
                let message = format!(
                    "it is linked into this server, and neither starts nor stops: `{name} = false` under \
                     [plugins.enabled] turns it off with the next start"
                );
                let _ = done.send(Err(PluginError::init(message).of(&name)));
            }
            Command::Shutdown(done) => drop(done.send(())),
            Command::Wanted | Command::Answered | Command::Slow(_) => {}
        }
    }
}

/// One function of a plugin that is linked in.
#[derive(Clone)]
pub(super) struct BuiltIn {
    code: Code,
    number: u32,
}

/// A request and a reply, as large as those of a lane, and aligned as they have to be.
struct Buffers([Vec<u64>; 2]);

const BUFFER_BYTES: usize = 1 << 20;
const ALIGNMENT: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers([0, 1].map(|_| vec![0; (BUFFER_BYTES + ALIGNMENT) / 8])));
}

impl Buffers {
    fn bytes(&mut self) -> [&mut [u8]; 2] {
        self.0.each_mut().map(|words| {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
            let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
            &mut bytes[start..start + BUFFER_BYTES]
        })
    }
}

impl BuiltIn {
    /// The functions of a plugin, each to be provided under its name.
    fn functions(plugin: &Arc<Plugin>, code: &Code) -> Vec<Function> {
        let signatures = code.registry().functions().iter().map(|function| function.signature());
        let function = |(signature, number)| {
            Function::linked_in(Arc::clone(plugin), signature, Self { code: code.clone(), number })
        };
        signatures.zip(0..).map(function).collect()
    }

    /// Computes the rows that have no result yet. On an error the results so far stay.
    pub(super) fn invoke<C: Cell>(
        &self,
        args: &[&[C]],
        rows: usize,
        results: &mut Vec<Datum>,
    ) -> Result<(), PluginError> {
        BUFFERS.with_borrow_mut(|buffers| {
            let [request, reply] = buffers.bytes();
            while results.len() < rows {
                let next = results.len()..rows.min(results.len() + ROWS_PER_MESSAGE);
                let part: Vec<&[C]> = args.iter().map(|column| &column[next.clone()]).collect();
                let (count, sent) = write_as_many(request, &part, next.len())?;
                let written = self.code.compute(self.number, &request[..sent], reply)?;
                results.extend(read_results(&reply[..written], count)?);
            }
            Ok(())
        })
    }
}
