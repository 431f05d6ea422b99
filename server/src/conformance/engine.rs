//! Storage engines.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{Durability, StorageEngine, WriteBatch};
use photondb_plugin_sdk::testing::engine::crash::{self, STEPS, Told};
use photondb_plugin_sdk::testing::engine::{CHECKS, Persistence};
use uuid::Uuid;

use super::{Part, Subject};
use crate::engines::{ClosedOnDrop, EngineManager};
use crate::storage::{EngineDefinition, OpenEngine, StorageEngines};

/// A storage engine under test: one table of its own.
struct Tested {
    engines: Arc<EngineManager>,
    definition: EngineDefinition,
    table: Uuid,
}

impl Tested {
    fn open(&self) -> Result<Arc<dyn OpenEngine>, String> {
        self.engines.open(&self.definition, self.table)
    }

    fn opened(&self) -> Box<dyn StorageEngine> {
        Box::new(ClosedOnDrop(self.open().unwrap_or_else(|error| panic!("it does not open: {error}"))))
    }

    fn remove(&self) -> Result<(), String> {
        self.engines.remove(&self.definition.kind, self.table)
    }

    /// Whether what was written is there when it is opened again.
    fn persistence(&self) -> Result<Persistence, String> {
        let said = |error: photondb_plugin_sdk::kinds::storage::StorageError| error.to_string();
        let mut batch = WriteBatch::default();
        batch.put("kept", *b"k", *b"v");
        let engine = self.opened();
        engine.commit(&batch, Durability::Hard).map_err(said)?;
        drop(engine);
        let found = self.opened().get("kept", b"k").map_err(said)?;
        Ok(if found.is_some() { Persistence::Durable } else { Persistence::Volatile })
    }
}

impl Subject<'_> {
    /// The suite; then what is left of the engine when its process is killed in the middle of a write.
    pub(super) fn check_engine(&self, name: &str, part: &mut Part<'_>) {
        let engines = Arc::new(EngineManager::new(Arc::clone(self.manager.registry()), self.data.clone()));
        let status = self.plugin.status();
        let tested = || Tested {
            engines: Arc::clone(&engines),
            definition: EngineDefinition {
                kind: name.to_owned(),
                options: Datum::object::<&str, Datum>([]),
                plugin: status.name.clone(),
                version: status.version.clone(),
            },
            table: Uuid::new_v4(),
        };
        part.check("an unknown option is refused by name", || {
            let options = Datum::object([("no_such_option", 1)]);
            let refused = engines.validate(name, &options).map(drop);
            match refused.map_err(|error| error.to_string()) {
                Err(message) if message.contains("`no_such_option`") => Ok(()),
                Err(message) => Err(format!("the error does not name it: {message}")),
                Ok(()) => Err("`no_such_option` is accepted".to_owned()),
            }
        });
        let mut persistence = Persistence::Durable;
        let opens = part.check("it opens, and tells what it keeps", || {
            let tested = tested();
            persistence = tested.persistence()?;
            tested.remove()
        });
        if !opens {
            return;
        }
        let suite = tested();
        for check in CHECKS {
            part.check(check.name, || {
                check.run(persistence, &mut || suite.opened());
                Ok(())
            });
        }
        part.check("it is removed", || suite.remove());
        if !self.plugin.is_built_in() {
            for step in (3..STEPS).step_by(9) {
                part.check(&format!("it is whole after its process was killed at step {step}"), || {
                    self.kill_while_it_writes(&tested(), persistence, step)
                });
            }
        }
    }

    fn kill_while_it_writes(&self, tested: &Tested, persistence: Persistence, step: u32) -> Result<(), String> {
        let engine = tested.open()?;
        let (reached, is_reached) = (Barrier::new(2), AtomicBool::new(false));
        let told = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut told = Vec::new();
                crash::write(&*engine, &mut |number, what| {
                    told.push((number, what));
                    if number == step && what == Told::Begun {
                        is_reached.store(true, Ordering::Relaxed);
                        reached.wait();
                    }
                });
                if !is_reached.load(Ordering::Relaxed) {
                    // It failed before: nobody may wait for more.
                    reached.wait();
                }
                told
            });
            reached.wait();
            let killed = self.kill();
            writer.join().map_err(|_| "writing panicked".to_owned()).and_then(|told| killed.map(|()| told))
        })?;
        drop(engine);
        let possible = match persistence {
            Persistence::Durable => crash::possible(&told),
            Persistence::Volatile => 0..=0,
        };
        {
            let again = ClosedOnDrop(tested.open()?);
            crash::check(&again, possible)?;
        }
        tested.remove()
    }
}
