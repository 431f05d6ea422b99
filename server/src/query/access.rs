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

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::error::{ErrorKind, ReqlError, Result};
use super::plugin::{NoPlugins, PluginFunctions};
use super::tables::SYSTEM_DB;
use super::vector::{NearestSearch, NoSearch};
use crate::admin::system_tables::SystemTable;
use crate::storage::{DatabaseInfo, Store, Table};

/// The table's name in a grant for all tables of a database.
const EVERY_TABLE: &str = "*";

/// What may be done with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Read its documents.
    Read,
    /// Write documents.
    Write,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// One right to one table, or to all tables of a database: `read:geo.places`, `write:geo.*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    right: Right,
    db: String,
    table: String,
}

/// A text that is no grant.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{text}` grants nothing: {problem}; write what may be done to which tables, for instance `read:geo.places` or `write:geo.*`"
)]
pub struct GrantError {
    text: String,
    problem: &'static str,
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> std::result::Result<Self, GrantError> {
        let refuse = |problem| GrantError { text: text.to_owned(), problem };
        let (right, tables) = text.split_once(':').ok_or_else(|| refuse("it has no `read:` or `write:`"))?;
        let right = match right {
            "read" => Right::Read,
            "write" => Right::Write,
            _ => return Err(refuse("there are only `read` and `write`")),
        };
        let (db, table) = tables.split_once('.').ok_or_else(|| refuse("it has no database and table"))?;
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        };
        if !is_name(db) {
            return Err(refuse("the database has to be named"));
        }
        if db == SYSTEM_DB {
            return Err(refuse("the system database is never a plugin's"));
        }
        if table != EVERY_TABLE && !is_name(table) {
            return Err(refuse("the table has to be named, or `*`"));
        }
        Ok(Self { right, db: db.to_owned(), table: table.to_owned() })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.right, self.db, self.table)
    }
}

impl Grant {
    /// What both grant, if anything.
    fn and(&self, other: &Self) -> Option<Self> {
        if self.right != other.right || self.db != other.db {
            return None;
        }
        match (self.table.as_str(), other.table.as_str()) {
            (EVERY_TABLE, _) => Some(other.clone()),
            (_, EVERY_TABLE) => Some(self.clone()),
            (one, two) => (one == two).then(|| self.clone()),
        }
    }
}

/// What both sides grant: what a plugin declares AND the operator grants.
#[must_use]
pub fn in_both(declared: &[Grant], granted: &[Grant]) -> Vec<Grant> {
    let mut both: Vec<Grant> =
        declared.iter().flat_map(|one| granted.iter().filter_map(move |other| one.and(other))).collect();
    both.sort();
    both.dedup();
    both
}

/// The tables that a plugin's queries may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    plugin: String,
    grants: Vec<Grant>,
}

impl Scope {
    /// The scope of the queries of `plugin`.
    #[must_use]
    pub fn new(plugin: &str, grants: Vec<Grant>) -> Self {
        Self { plugin: plugin.to_owned(), grants }
    }

    fn allows(&self, right: Right, db: &str, table: &str) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.right == right && grant.db == db && [EVERY_TABLE, table].contains(&grant.table.as_str()))
    }

    /// Fails where `plugin` lacks that right to a table.
    ///
    /// # Errors
    /// A PERMISSION error that names the grant.
    pub fn check(&self, right: Right, db: &str, table: &str) -> Result<()> {
        if self.allows(right, db, table) {
            return Ok(());
        }
        let table = format!("{db}.{table}");
        Err(self.refuse(&format!("{right} the table `{table}`"), &[right], &table))
    }

    /// The error that says what to write so that one of the rights is granted.
    fn refuse(&self, what: &str, rights: &[Right], tables: &str) -> ReqlError {
        let plugin = &self.plugin;
        let lines = rights.iter().map(|right| format!("`query = [\"{right}:{tables}\"]`"));
        let lines = lines.collect::<Vec<_>>().join(" or ");
        let granted = self.grants.iter().map(Grant::to_string).collect::<Vec<_>>().join(", ");
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
            && !scope.grants.iter().any(|grant| grant.db == name)
        {
            return Err(match name {
                SYSTEM_DB => scope.refuse_always("use the system database"),
                _ => scope.refuse(
                    &format!("use the database `{name}`"),
                    &[Right::Read],
                    &format!("{name}.{EVERY_TABLE}"),
                ),
            });
        }
        Ok(self.shared.store()?.database(name)?)
    }

    /// A stored table, to be read or written as the scope allows.
    ///
    /// # Errors
    /// Where it does not exist. Under a scope that says nothing of it, that it may not be used, whether it exists or not.
    pub fn table(&self, db: &str, name: &str) -> Result<Arc<Table>> {
        if let Some(scope) = &self.scope
            && ![Right::Read, Right::Write].into_iter().any(|right| scope.allows(right, db, name))
        {
            let table = format!("{db}.{name}");
            return Err(scope.refuse(&format!("use the table `{table}`"), &[Right::Read, Right::Write], &table));
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

    fn grants(texts: &[&str]) -> Vec<Grant> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_grants_nothing_is_refused() {
        for text in [
            "geo.places",
            "read:geo",
            "read:*.*",
            "read:.places",
            "read:geo.",
            "list:geo.*",
            "read:geo.a.b",
            "read:geo.pl*",
        ] {
            let error = text.parse::<Grant>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("`read:geo.places`"), "{error}");
        }
        assert!("read:rethinkdb.users".parse::<Grant>().unwrap_err().to_string().contains("system database"));
    }

    #[test]
    fn both_sides_have_to_grant() {
        let both = |one: &[&str], two: &[&str]| {
            in_both(&grants(one), &grants(two)).iter().map(Grant::to_string).collect::<Vec<_>>()
        };
        assert_eq!(both(&["read:geo.*"], &["read:geo.places", "write:geo.places"]), ["read:geo.places"]);
        assert_eq!(both(&["read:geo.places", "read:geo.*"], &["read:geo.*"]), ["read:geo.*", "read:geo.places"]);
        assert_eq!(both(&["read:geo.a"], &["read:geo.b", "read:other.a", "write:geo.a"]), [""; 0]);
    }

    #[test]
    fn neither_right_implies_the_other() {
        let scope = Scope::new("p", grants(&["read:geo.*", "write:log.entries"]));
        let may = |right, db, table| scope.check(right, db, table).is_ok();
        assert!(may(Right::Read, "geo", "any") && !may(Right::Write, "geo", "any"));
        assert!(may(Right::Write, "log", "entries") && !may(Right::Read, "log", "entries"));
        assert!(!may(Right::Write, "log", "*") && !may(Right::Read, "geox", "any"));
        let error = scope.check(Right::Write, "geo", "any").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.message().contains("query = [\"write:geo.any\"]"), "{error}");
    }
}
