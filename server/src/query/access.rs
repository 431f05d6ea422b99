//! What a query may touch: everything, or the few tables that a plugin was granted.
//!
//! A client's query may do all that there is. A query that a plugin runs (permission `query`) has a [`Scope`]: grants to
//! read or to write single tables, and nothing beside them. No term checks anything of that itself: the server's parts
//! are private to [`Resources`], and whoever wants a table, the catalogue or the system database has to ask here. So a
//! new term can't forget to ask, whichever way it comes by a table's name.
//!
//! What a right is:
//!
//! * **read**: the documents, how many there are, the indexes and their definitions;
//! * **write**: `insert` with `conflict` "error" or "replace", and `delete` of a document by its key. What depends on the
//!   document that is there, or shows it, needs **read** as well: `update`, `replace`, `insert` with another `conflict`,
//!   `return_changes`, and `delete` of a selection. Neither right implies the other.

use std::sync::Arc;

use photondb_plugin_sdk::manifest::{self, Access};

use super::error::{ErrorKind, ReqlError, Result};
use super::plugin::{NoPlugins, PluginFunctions};
use super::vector::{NearestSearch, NoSearch};
use crate::admin::system_tables::SystemTable;
use crate::storage::{DatabaseInfo, Store, Table};

/// The tables that a plugin's queries may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    plugin: String,
    grants: Vec<manifest::Scope>,
}

impl Scope {
    /// The scope of the queries of `plugin`.
    #[must_use]
    pub fn new(plugin: &str, grants: Vec<manifest::Scope>) -> Self {
        Self { plugin: plugin.to_owned(), grants }
    }

    fn allows(&self, access: Access, db: &str, table: &str) -> bool {
        self.grants.iter().any(|grant| grant.allows(access, db, table))
    }

    /// Fails where `plugin` lacks that right to a table.
    ///
    /// # Errors
    /// A PERMISSION error that names the grant.
    pub fn check(&self, access: Access, db: &str, table: &str) -> Result<()> {
        if self.allows(access, db, table) {
            return Ok(());
        }
        let table = format!("{db}.{table}");
        Err(self.refuse(&format!("{} the table `{table}`", verb(access)), &[access], &table))
    }

    /// The error that says what to write so that one of the rights is granted.
    fn refuse(&self, what: &str, wanted: &[Access], tables: &str) -> ReqlError {
        let plugin = &self.plugin;
        let lines = wanted.iter().map(|access| format!("`query = [\"{}:{tables}\"]`", verb(*access)));
        let lines = lines.collect::<Vec<_>>().join(" or ");
        let granted = self.grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        denied(format!(
            "A query of plugin `{plugin}` may not {what}: it was granted {granted}. To allow it, add {lines} to \
             the [permissions] of its manifest and to [plugins.grants.{plugin}] of the server's configuration."
        ))
    }

    fn refuse_always(&self, what: &str) -> ReqlError {
        denied(format!(
            "A query of plugin `{}` may not {what}: no grant allows that. The queries of a plugin read and write \
             documents of the tables that were granted to it, and do nothing else.",
            self.plugin
        ))
    }
}

fn verb(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
    }
}

fn denied(message: String) -> ReqlError {
    ReqlError::new(ErrorKind::Permission, message)
}

/// The server's parts, which only [`Resources`] hands out.
pub struct Shared {
    store: Option<Store>,
    plugins: Arc<dyn PluginFunctions>,
    nearest: Arc<dyn NearestSearch>,
    system: Vec<Box<dyn SystemTable>>,
}

impl Shared {
    /// The parts of a server.
    #[must_use]
    pub fn new(
        store: Store,
        plugins: Arc<dyn PluginFunctions>,
        nearest: Arc<dyn NearestSearch>,
        system: Vec<Box<dyn SystemTable>>,
    ) -> Self {
        Self { store: Some(store), plugins, nearest, system }
    }

    /// What functions see that are called outside of any server: nothing.
    #[must_use]
    pub fn detached() -> Self {
        Self { store: None, plugins: Arc::new(NoPlugins), nearest: Arc::new(NoSearch), system: Vec::new() }
    }

    /// The databases and tables.
    ///
    /// # Errors
    /// Where there are none, as in the function of an index.
    pub fn store(&self) -> Result<&Store> {
        self.store.as_ref().ok_or_else(|| ReqlError::logic("Tables and databases can't be used here."))
    }

    /// The tables of the database `rethinkdb`.
    #[must_use]
    pub fn system(&self) -> &[Box<dyn SystemTable>] {
        &self.system
    }
}

/// The server's parts as far as one query may use them.
#[derive(Clone)]
pub struct Resources {
    shared: Arc<Shared>,
    scope: Option<Arc<Scope>>,
}

impl Resources {
    /// All of a server.
    #[must_use]
    pub fn all(shared: Arc<Shared>) -> Self {
        Self { shared, scope: None }
    }

    /// The tables of a scope.
    #[must_use]
    pub fn within(shared: Arc<Shared>, scope: Arc<Scope>) -> Self {
        Self { shared, scope: Some(scope) }
    }

    /// The scope; nothing where the query may do everything.
    #[must_use]
    pub fn scope(&self) -> Option<&Arc<Scope>> {
        self.scope.as_ref()
    }

    /// Everything, for terms that administer the server or show how it is. `what` is what the term does, as in "may not
    /// create tables".
    ///
    /// # Errors
    /// Where the query has a scope.
    pub fn administer(&self, what: &str) -> Result<&Arc<Shared>> {
        match &self.scope {
            None => Ok(&self.shared),
            Some(scope) => Err(scope.refuse_always(what)),
        }
    }

    /// A database that the query may know of.
    ///
    /// # Errors
    /// Where it does not exist. Under a scope that says nothing of it, that it may not be used, whether it exists or not.
    pub fn database(&self, name: &str) -> Result<DatabaseInfo> {
        if let Some(scope) = &self.scope
            && !scope.grants.iter().any(|grant| grant.database.as_deref().is_none_or(|database| database == name))
        {
            return Err(scope.refuse(&format!("use the database `{name}`"), &[Access::Read], &format!("{name}.*")));
        }
        Ok(self.shared.store()?.database(name)?)
    }

    /// A stored table, to be read or written as the scope allows.
    ///
    /// # Errors
    /// Where it does not exist. Under a scope that says nothing of it, that it may not be used, whether it exists or not.
    pub fn table(&self, db: &str, name: &str) -> Result<Arc<Table>> {
        if let Some(scope) = &self.scope
            && ![Access::Read, Access::Write].into_iter().any(|access| scope.allows(access, db, name))
        {
            let table = format!("{db}.{name}");
            return Err(scope.refuse(&format!("use the table `{table}`"), &[Access::Read, Access::Write], &table));
        }
        Ok(self.shared.store()?.table(db, name)?)
    }

    /// Plugins' functions. Whoever may query may call them: they get nothing but their arguments.
    #[must_use]
    pub fn plugins(&self) -> &dyn PluginFunctions {
        &*self.shared.plugins
    }

    /// Vector search, in tables that the query has opened.
    #[must_use]
    pub fn nearest(&self) -> &dyn NearestSearch {
        &*self.shared.nearest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Vec<manifest::Scope> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn neither_right_implies_the_other() {
        let scope = Scope::new("p", grants(&["read:geo.*", "write:log.entries"]));
        let may = |access, db, table| scope.check(access, db, table).is_ok();
        assert!(may(Access::Read, "geo", "any") && !may(Access::Write, "geo", "any"));
        assert!(may(Access::Write, "log", "entries") && !may(Access::Read, "log", "entries"));
        assert!(!may(Access::Write, "log", "*") && !may(Access::Read, "geox", "any"));
        let error = scope.check(Access::Write, "geo", "any").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.message().contains("query = [\"write:geo.any\"]"), "{error}");
    }
}
