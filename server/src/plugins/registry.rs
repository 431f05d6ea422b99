//! Which plugin provides what. One name belongs to one plugin: the first that registered it, until that one is disabled
//! or given up and another one wants the name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use photondb_plugin_sdk::runtime::Instance as Code;
use photondb_plugin_sdk::{Cause, PluginError};

use super::call::Function;
use super::handshake::Provided;
use super::plugin::Plugin;

/// The names that queries use. Lookups don't wait for changes longer than for a map operation.
#[derive(Default)]
pub struct Registry {
    names: RwLock<Names>,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
}

/// Somebody who keeps something in the processes of plugins, and has to bring it into every new one.
pub trait Watcher: Send + Sync {
    /// A process of some plugin has begun to serve. Called on the thread of all plugins: must not wait.
    fn plugin_started(&self);
}

#[derive(Default)]
struct Names {
    plugins: BTreeMap<String, Arc<Plugin>>,
    functions: BTreeMap<String, Function>,
    kinds: BTreeMap<(Kind, String), Provider>,
}

/// What else has a name that belongs to one plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    VectorIndex,
    StorageEngine,
    Distance,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::VectorIndex => "vector index type",
            Self::StorageEngine => "storage engine",
            Self::Distance => "distance",
        }
    }
}

/// Who provides a kind of something.
#[derive(Clone)]
pub struct Provider {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// Its code, where it is linked in.
    pub code: Option<Code>,
}

impl Names {
    /// Whether `owner` keeps its names from `plugin`.
    fn is_held_against(&self, owner: &str, plugin: &Plugin) -> bool {
        owner != plugin.name() && self.plugins.get(owner).is_some_and(|owner| owner.may_become_ready())
    }
}

impl Registry {
    /// Makes a plugin known; its functions come with [`provide`](Self::provide). `false`: the name is taken.
    pub(crate) fn add(&self, plugin: &Arc<Plugin>) -> bool {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.plugins.contains_key(plugin.name()) {
            return false;
        }
        names.plugins.insert(plugin.name().into(), Arc::clone(plugin));
        true
    }

    /// Tells `watcher` from now on, for as long as it lives.
    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
    }

    /// Tells everybody who watches that a process has begun to serve.
    pub(super) fn tell_started(&self) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.upgrade().inspect(|watcher| watcher.plugin_started()).is_some());
    }

    /// The plugin of that name.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<Arc<Plugin>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).plugins.get(name).cloned()
    }

    /// Every plugin, by name.
    #[must_use]
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).plugins.values().cloned().collect()
    }

    /// Replaces everything that `plugin` provides, all at once.
    ///
    /// # Errors
    /// [`PluginError::CapabilityConflict`] where another plugin has one of the names; then nothing changes.
    pub(super) fn provide(&self, plugin: &Arc<Plugin>, provided: &Provided) -> Result<(), PluginError> {
        let functions = provided.functions.iter().cloned();
        let functions = functions.map(|signature| Function::new(Arc::clone(plugin), signature)).collect();
        self.provide_all(plugin, functions, provided, None)
    }

    /// The same, of a plugin whose `code` is linked in, or is not.
    ///
    /// # Errors
    /// As [`provide`](Self::provide).
    pub(crate) fn provide_all(
        &self,
        plugin: &Arc<Plugin>,
        functions: Vec<Function>,
        provided: &Provided,
        code: Option<&Code>,
    ) -> Result<(), PluginError> {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let conflict = |what: &str, name: &str, owner: &str| PluginError::CapabilityConflict {
            plugin: plugin.name().into(),
            message: format!(
                "the {what} `{name}` is provided by plugin `{owner}` already; disable one of the two, or rename it"
            ),
        };
        for function in &functions {
            let name = &function.signature().name;
            if let Some(taken) = names.functions.get(name)
                && names.is_held_against(taken.plugin(), plugin)
            {
                return Err(conflict(taken.signature().role.name(), name, taken.plugin()));
            }
        }
        let of_kind = |kind: Kind, names: &[String]| names.iter().map(|name| (kind, name.clone())).collect::<Vec<_>>();
        let kinds = [
            of_kind(Kind::VectorIndex, &provided.vector_indexes),
            of_kind(Kind::StorageEngine, &provided.storage_engines),
            of_kind(Kind::Distance, &provided.distances),
        ]
        .concat();
        for key in &kinds {
            if let Some(taken) = names.kinds.get(key)
                && names.is_held_against(taken.plugin.name(), plugin)
            {
                return Err(conflict(key.0.name(), &key.1, taken.plugin.name()));
            }
        }
        names.functions.retain(|_, function| function.plugin() != plugin.name());
        names.kinds.retain(|_, owner| owner.plugin.name() != plugin.name());
        for function in functions {
            names.functions.insert(function.signature().name.clone(), function);
        }
        for key in kinds {
            names.kinds.insert(key, Provider { plugin: Arc::clone(plugin), code: code.cloned() });
        }
        Ok(())
    }

    /// The query function of that name.
    ///
    /// # Errors
    /// When no plugin provides it.
    pub fn function(&self, name: &str) -> Result<Function, PluginError> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.functions.get(name).cloned().ok_or_else(|| nothing("function", name, names.functions.keys()))
    }

    /// Who provides the vector index type of that name.
    ///
    /// # Errors
    /// When no plugin provides it.
    pub fn vector_index(&self, kind: &str) -> Result<Provider, PluginError> {
        self.provider(Kind::VectorIndex, kind)
    }

    /// Who provides the storage engine of that name.
    ///
    /// # Errors
    /// When no plugin provides it.
    pub fn storage_engine(&self, kind: &str) -> Result<Provider, PluginError> {
        self.provider(Kind::StorageEngine, kind)
    }

    /// Who provides the distance of that name.
    ///
    /// # Errors
    /// When no plugin provides it.
    pub fn distance(&self, name: &str) -> Result<Provider, PluginError> {
        self.provider(Kind::Distance, name)
    }

    /// The names of all distances.
    #[must_use]
    pub fn distances(&self) -> Vec<String> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let distances = names.kinds.keys().filter(|(kind, _)| *kind == Kind::Distance);
        distances.map(|(_, name)| name.clone()).collect()
    }

    fn provider(&self, kind: Kind, name: &str) -> Result<Provider, PluginError> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let found = names.kinds.get(&(kind, name.to_owned())).cloned();
        let known = names.kinds.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name);
        found.ok_or_else(|| nothing(kind.name(), name, known))
    }
}

fn nothing<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> PluginError {
    let known = known.map(String::as_str).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "none is provided now".into() } else { format!("there are: {known}") };
    PluginError::runtime(Cause::Argument, format!("no running plugin provides this {what}; {known}")).of(name)
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::kinds::function::{FunctionSignature, Role};
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::FailurePolicy;
    use crate::plugins::life::State;

    fn plugin(name: &str) -> Arc<Plugin> {
        let plugin = Arc::new(Plugin::new(name, FailurePolicy::default(), mpsc::unbounded_channel().0));
        plugin.update(|current| current.state = State::Ready);
        plugin
    }

    fn functions(names: &[&str]) -> Provided {
        let functions = names.iter().map(|name| FunctionSignature::pure(*name, 1, 1)).collect();
        Provided { functions, ..Provided::default() }
    }

    #[test]
    fn the_first_keeps_its_names_and_the_second_registers_nothing() {
        let registry = Registry::default();
        let (first, second) = (plugin("first"), plugin("second"));
        assert!(registry.add(&first) && registry.add(&second) && !registry.add(&plugin("first")));
        registry.provide(&first, &functions(&["a", "b"])).expect("free");
        let error = registry.provide(&second, &functions(&["c", "b"])).expect_err("taken").to_string();
        assert!(error.contains("`b`") && error.contains("`first`") && error.contains("`second`"), "{error}");
        assert!(registry.function("c").is_err());
        registry.provide(&first, &functions(&["a"])).expect("own names");
        registry.provide(&second, &functions(&["c", "b"])).expect("free now");
        assert_eq!(registry.function("b").expect("there").plugin(), "second");
    }

    #[test]
    fn two_plugins_cannot_have_a_type_of_one_name() {
        let registry = Registry::default();
        let (first, second) = (plugin("first"), plugin("second"));
        assert!(registry.add(&first) && registry.add(&second));
        let signature = FunctionSignature { role: Role::DataType, ..FunctionSignature::pure("decimal", 1, 3) };
        let provided = Provided { functions: vec![signature], ..Provided::default() };
        registry.provide(&first, &provided).expect("free");
        let error = registry.provide(&second, &provided).expect_err("taken").to_string();
        let parts = ["data_type `decimal`", "`first`", "`second`"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn two_plugins_cannot_have_a_distance_of_one_name() {
        let registry = Registry::default();
        let (first, second) = (plugin("first"), plugin("second"));
        assert!(registry.add(&first) && registry.add(&second));
        let provided = Provided { distances: vec!["jaccard".into()], ..Provided::default() };
        registry.provide(&first, &provided).expect("free");
        let error = registry.provide(&second, &provided).expect_err("taken").to_string();
        let parts = ["distance `jaccard`", "`first`", "`second`"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(registry.distance("jaccard").expect("there").plugin.name(), "first");
        let error = registry.distance("hamming").err().expect("nobody's").to_string();
        assert!(error.contains("hamming") && error.contains("jaccard"), "{error}");
        assert_eq!(registry.distances(), ["jaccard"]);
    }

    #[test]
    fn who_is_disabled_keeps_its_names_until_another_wants_them() {
        let registry = Registry::default();
        let (first, second) = (plugin("first"), plugin("second"));
        assert!(registry.add(&first) && registry.add(&second));
        registry.provide(&first, &functions(&["a", "b"])).expect("free");
        first.update(|current| current.state = State::Stopped);
        assert_eq!(registry.function("a").expect("there").plugin(), "first");
        registry.provide(&second, &functions(&["b"])).expect("given up");
        assert_eq!(registry.function("b").expect("there").plugin(), "second");
        assert!(registry.provide(&first, &functions(&["a", "b"])).is_err());
    }
}
