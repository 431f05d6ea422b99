//! Tables as queries see them: stored ones, and those of the database `rethinkdb`.

use std::ops::Bound;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::manifest::Access;
use uuid::Uuid;

use super::access::{Scope, Shared};
use super::determinism;
use super::error::{ErrorKind, ReqlError, Result};
use super::eval::Context;
use super::order::{compare, equal};
use super::pseudo::{self, Special};
use super::pushdown::{self, Scan};
use super::stream::{Fused, Stream};
use super::terms::selection::is_empty_range;
use super::value::{Database, Slice, Value};
use crate::admin::system_tables::SystemTable;
use crate::storage::{DatumRange, Direction, Documents, IndexFunction, KeyEdge, StoreError, Table};

/// The name of the system database.
pub const SYSTEM_DB: &str = "rethinkdb";
/// Most parts of a value that is looked for: a value that holds another one twice, and that twice, and so on, is small
/// until it is written out as a key.
const MAX_KEY_PARTS: u64 = 1 << 20;

/// A direction of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// A table.
#[derive(Clone)]
pub struct TableRef {
    source: Source,
    /// What limits the query that opened it.
    scope: Option<Arc<Scope>>,
}

#[derive(Clone)]
enum Source {
    Stored(Arc<Table>),
    System(SystemRef),
}

/// A table of the database `rethinkdb`.
#[derive(Clone)]
struct SystemRef {
    shared: Arc<Shared>,
    position: usize,
    identifiers: Identifiers,
}

/// How rows of system tables name databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identifiers {
    /// By their names.
    Names,
    /// By their ids.
    Uuids,
}

impl SystemRef {
    fn table(&self) -> Result<&dyn SystemTable> {
        let table = self.shared.system().get(self.position);
        Ok(&**table.ok_or_else(|| ReqlError::internal("A system table is gone."))?)
    }

    fn rows(&self) -> Result<Vec<Datum>> {
        let mut rows = self.table()?.rows();
        if self.identifiers == Identifiers::Uuids {
            rows.iter_mut().for_each(|row| self.name_by_id(row));
        }
        Ok(rows)
    }

    fn name_by_id(&self, row: &mut Datum) {
        let Datum::Object(object) = row else { return };
        let database = object
            .get("db")
            .and_then(Datum::as_str)
            .map(|name| self.shared.store()?.database(name).map_err(ReqlError::from));
        if let Some(Ok(database)) = database {
            Arc::make_mut(object).insert("db", database.id.to_string());
        }
    }
}

/// The id of something of the system database, the same on every server.
fn system_id(name: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

/// The error that a query shows for one of the store.
#[must_use]
pub fn store_error(error: &StoreError) -> ReqlError {
    let kind = match error {
        StoreError::IndexNameIsPrimaryKey(_)
        | StoreError::Name { .. }
        | StoreError::KeyTooLong { .. }
        | StoreError::KeyZeroByte { .. }
        | StoreError::KeyType { .. }
        | StoreError::KeyChanged { .. }
        | StoreError::NotADocument(_)
        | StoreError::IndexIsVector(_)
        | StoreError::IndexIsNotVector(_)
        | StoreError::EngineOptions { .. }
        | StoreError::Vector(_) => ErrorKind::QueryLogic,
        StoreError::TooDeep => ErrorKind::ResourceLimit,
        error if error.is_outcome_unknown() => ErrorKind::OpIndeterminate,
        _ => ErrorKind::OpFailed,
    };
    ReqlError::new(kind, error.to_string())
}

/// The database of this name.
///
/// # Errors
/// When there is none, or the name is no name.
pub fn database(ctx: &Context, name: &str) -> Result<Database> {
    check_name("Database", name)?;
    if name == SYSTEM_DB {
        ctx.resources.administer("use the system database")?;
        return Ok(Database { name: name.into(), id: system_id(SYSTEM_DB) });
    }
    let info = ctx.resources.database(name)?;
    Ok(Database { name: name.into(), id: info.id.to_string() })
}

/// Checks that a database or table can have this name.
///
/// # Errors
/// When there are other characters in it than allowed.
pub fn check_name(kind: &'static str, name: &str) -> Result<()> {
    let valid =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if valid {
        return Ok(());
    }
    Err(ReqlError::logic(format!("{kind} name `{name}` invalid (Use A-Z, a-z, 0-9, _ and - only).")))
}

impl TableRef {
    /// Finds a table.
    ///
    /// # Errors
    /// When there is none, or the name is no name.
    pub fn open(ctx: &Context, db: &str, name: &str, identifiers: Identifiers) -> Result<Self> {
        check_name("Table", name)?;
        let scope = ctx.resources.scope().cloned();
        if db == SYSTEM_DB {
            let shared = ctx.resources.administer("use the system database")?.clone();
            let position =
                shared.system().iter().position(|table| table.name() == name).ok_or_else(|| {
                    store_error(&StoreError::TableMissing { db: db.to_owned(), table: name.to_owned() })
                })?;
            return Ok(Self { source: Source::System(SystemRef { shared, position, identifiers }), scope });
        }
        Ok(Self { source: Source::Stored(ctx.resources.table(db, name)?), scope })
    }

    /// Fails where the query lacks a right to the table.
    ///
    /// # Errors
    /// A PERMISSION error that names the grant.
    pub fn check(&self, access: Access) -> Result<()> {
        match &self.scope {
            None => Ok(()),
            Some(scope) => scope.check(access, &self.database().name, self.name()),
        }
    }

    /// Whether the query has a right to the table.
    #[must_use]
    pub fn allows(&self, access: Access) -> bool {
        self.check(access).is_ok()
    }

    /// Where the documents are, for who reads them.
    fn readable(&self) -> Result<&Source> {
        self.check(Access::Read)?;
        Ok(&self.source)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.source {
            Source::Stored(table) => &table.info().name,
            Source::System(system) => system.table().map_or("", |table| table.name()),
        }
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> Database {
        match &self.source {
            Source::Stored(table) => {
                Database { name: table.info().db.as_str().into(), id: table.info().db_id.to_string() }
            }
            Source::System(_) => Database { name: SYSTEM_DB.into(), id: system_id(SYSTEM_DB) },
        }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> String {
        match &self.source {
            Source::Stored(table) => table.info().id.to_string(),
            Source::System(_) => system_id(self.name()),
        }
    }

    /// The field that documents are stored by.
    #[must_use]
    pub fn primary_key(&self) -> &str {
        match &self.source {
            Source::Stored(table) => &table.info().primary_key,
            Source::System(system) => system.table().map_or("id", |table| table.primary_key()),
        }
    }

    /// The stored table, to read what only stored tables have.
    ///
    /// # Errors
    /// When it is a system table, or the query may not read it.
    pub fn to_read(&self) -> Result<&Arc<Table>> {
        self.check(Access::Read)?;
        self.stored()
    }

    /// The stored table, to write documents.
    ///
    /// # Errors
    /// When it is a system table, or the query may not write to it.
    pub fn to_write(&self) -> Result<&Arc<Table>> {
        self.check(Access::Write)?;
        self.stored()
    }

    /// The stored table, to change what it is. `what` is what the term does, as in "may not create indexes".
    ///
    /// # Errors
    /// When it is a system table, or the query has a scope.
    pub fn to_administer(&self, ctx: &Context, what: &str) -> Result<&Arc<Table>> {
        ctx.resources.administer(what)?;
        self.stored()
    }

    fn stored(&self) -> Result<&Arc<Table>> {
        match &self.source {
            Source::Stored(table) => Ok(table),
            Source::System(_) => Err(ReqlError::failed(format!(
                "It's illegal to write to, index or sync the `{SYSTEM_DB}.{}` table: it shows the server's state, which is \
                 changed by the operations that are about it.",
                self.name()
            ))),
        }
    }

    /// Checks that the value can be a primary key.
    ///
    /// # Errors
    /// When it can't.
    pub fn check_key(&self, key: &Datum) -> Result<()> {
        if matches!(pseudo::special_of(key), Some(Special::Min | Special::Max)) {
            return Err(ReqlError::logic("`r.minval` and `r.maxval` can't be primary keys."));
        }
        Ok(())
    }

    /// The document with this primary key.
    ///
    /// # Errors
    /// When the value can be no key, or the table can't be read.
    pub fn get(&self, key: &Datum) -> Result<Option<Datum>> {
        pseudo::check_parts(key, MAX_KEY_PARTS)?;
        match self.readable()? {
            Source::Stored(table) => Ok(table.get(key)?),
            Source::System(system) => {
                let is_it = |row: &Datum| row.get(self.primary_key()).is_some_and(|value| equal(value, key));
                Ok(system.rows()?.into_iter().find(is_it))
            }
        }
    }

    /// About how many documents there are.
    ///
    /// # Errors
    /// When the table is gone.
    pub fn count_estimate(&self) -> Result<u64> {
        match self.readable()? {
            Source::Stored(table) => Ok(table.count_estimate()),
            Source::System(system) => Ok(system.rows()?.len() as u64),
        }
    }

    /// The name of the storage engine; null for a table that is computed.
    #[must_use]
    pub fn engine(&self) -> Option<String> {
        match &self.source {
            Source::Stored(table) => Some(table.engine_status().engine),
            Source::System(_) => None,
        }
    }

    /// The names of the indexes.
    ///
    /// # Errors
    /// When the query may not read the table.
    pub fn index_names(&self) -> Result<Vec<String>> {
        match self.readable()? {
            Source::Stored(table) => Ok(table.indexes().into_iter().map(|index| index.name).collect()),
            Source::System(_) => Ok(Vec::new()),
        }
    }

    /// Checks that queries can scan an index.
    ///
    /// # Errors
    /// When there is no such index, or it is one of vectors.
    pub fn check_index(&self, name: &str) -> Result<()> {
        let status = match self.readable()? {
            Source::Stored(table) => table.index_status(name)?,
            Source::System(_) => {
                return Err(store_error(&StoreError::IndexMissing {
                    index: name.to_owned(),
                    db: SYSTEM_DB.to_owned(),
                    table: self.name().to_owned(),
                }));
            }
        };
        if status.info.vector.is_some() {
            return Err(store_error(&StoreError::IndexIsVector(name.to_owned())));
        }
        Ok(())
    }

    /// All documents.
    ///
    /// # Errors
    /// When the scan can't start.
    pub fn scan_all(&self, ctx: &Arc<Context>) -> Result<Stream> {
        self.scan(ctx, &super::terms::selection::whole(self.clone()))
    }

    /// The documents of a slice, in its order.
    ///
    /// # Errors
    /// When the scan can't start.
    pub fn scan(&self, ctx: &Arc<Context>, slice: &Slice) -> Result<Stream> {
        let source = self.readable()?;
        if is_empty_range(&slice.low, &slice.high) {
            return Ok(Stream::new(std::iter::empty()));
        }
        let table = match source {
            Source::Stored(table) => table,
            Source::System(system) => return self.scan_system(system, slice),
        };
        let range = range(&slice.low, &slice.high)?;
        let direction = direction(slice.order);
        if slice.index.is_none() && table.takes_selections() {
            return selected_rows(ctx, table, range, direction);
        }
        let documents = match &slice.index {
            None => table.scan(&range, direction)?,
            Some(index) => table.index_scan(index, &range, direction)?,
        };
        Ok(stored_rows(ctx, documents))
    }

    fn scan_system(&self, system: &SystemRef, slice: &Slice) -> Result<Stream> {
        let key = |row: &Datum| row.get(self.primary_key()).cloned().unwrap_or_default();
        let above = |value: &Datum| match &slice.low {
            Bound::Included(low) => compare(low, value).is_le(),
            Bound::Excluded(low) => compare(low, value).is_lt(),
            Bound::Unbounded => true,
        };
        let below = |value: &Datum| match &slice.high {
            Bound::Included(high) => compare(value, high).is_le(),
            Bound::Excluded(high) => compare(value, high).is_lt(),
            Bound::Unbounded => true,
        };
        let mut rows = system.rows()?;
        rows.retain(|row| above(&key(row)) && below(&key(row)));
        rows.sort_by(|left, right| compare(&key(left), &key(right)));
        if slice.order == Some(Order::Descending) {
            rows.reverse();
        }
        Ok(Stream::from_list(rows).with_array(false))
    }

    /// The documents with a value of an index.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn find(&self, ctx: &Arc<Context>, index: &Arc<str>, value: &Datum) -> Result<Stream> {
        self.scan(
            ctx,
            &Slice {
                table: self.clone(),
                index: Some(index.clone()),
                low: Bound::Included(value.clone()),
                high: Bound::Included(value.clone()),
                order: None,
                bounded: true,
            },
        )
    }

    /// The different values of a slice's index.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn index_values(&self, ctx: &Arc<Context>, slice: &Slice) -> Result<Stream> {
        if let (Source::Stored(table), Some(index)) = (self.readable()?, &slice.index) {
            let values = table.index_values(index, &range(&slice.low, &slice.high)?, direction(slice.order))?;
            return Ok(stored_rows(ctx, values));
        }
        let key = self.primary_key().to_owned();
        let keys = move |row: Result<Datum>| row.map(|row| row.get(&key).cloned().unwrap_or_default());
        Ok(self.scan(ctx, slice)?.map_rows(|rows| rows.map(keys)))
    }

    /// The values that an index has for the documents of a selection.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn index_values_of(&self, ctx: &Arc<Context>, source: Value, index: Option<Arc<str>>) -> Result<Stream> {
        let function = self.index_function(ctx, index.as_deref())?;
        let rows = source.into_stream(ctx)?;
        Ok(rows.map_rows(move |rows| {
            let values = rows.flat_map(move |row| match row {
                Ok(row) => function.values(&row).into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            });
            Fused::new(values)
        }))
    }

    /// The function of an index, to compute its values of documents.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn index_function(&self, _ctx: &Context, index: Option<&str>) -> Result<IndexValues> {
        let Some(name) = index else { return Ok(IndexValues::PrimaryKey(self.primary_key().into())) };
        self.check_index(name)?;
        let info = self.to_read()?.index_status(name)?.info;
        let function = determinism::compile_index(&info.source).map_err(ReqlError::internal)?;
        Ok(IndexValues::Index { function, multi: info.multi })
    }
}

/// Computes the values that a document is found by.
#[derive(Clone)]
pub enum IndexValues {
    /// The primary key.
    PrimaryKey(Arc<str>),
    /// A secondary index.
    Index {
        /// Its function.
        function: Arc<dyn IndexFunction>,
        /// Whether each element of an array is a value.
        multi: bool,
    },
}

impl IndexValues {
    /// The value of the index's function.
    #[must_use]
    pub fn value(&self, document: &Datum) -> Option<Datum> {
        match self {
            Self::PrimaryKey(field) => document.get(field).cloned(),
            Self::Index { function, .. } => function.value(document),
        }
    }

    /// Whether each element of an array is a value.
    #[must_use]
    pub fn is_multi(&self) -> bool {
        matches!(self, Self::Index { multi: true, .. })
    }

    /// All values that the document is found by.
    #[must_use]
    pub fn values(&self, document: &Datum) -> Vec<Datum> {
        match self.value(document) {
            Some(Datum::Array(elements)) if self.is_multi() => elements.to_vec(),
            other => other.into_iter().collect(),
        }
    }
}

fn direction(order: Option<Order>) -> Direction {
    match order {
        Some(Order::Descending) => Direction::Backward,
        _ => Direction::Forward,
    }
}

fn range(low: &Bound<Datum>, high: &Bound<Datum>) -> Result<DatumRange> {
    for bound in [low, high] {
        if let Bound::Included(value) | Bound::Excluded(value) = bound {
            pseudo::check_parts(value, MAX_KEY_PARTS)?;
        }
    }
    Ok(DatumRange { lower: low.as_ref().map(edge), upper: high.as_ref().map(edge) })
}

/// A bound as the store takes it, with `r.minval` and `r.maxval` also within arrays.
fn edge(datum: &Datum) -> KeyEdge {
    match pseudo::special_of(datum) {
        Some(Special::Min) => return KeyEdge::Minimum,
        Some(Special::Max) => return KeyEdge::Maximum,
        _ => {}
    }
    match datum {
        Datum::Array(elements) if elements.iter().any(has_edges) => KeyEdge::Array(elements.iter().map(edge).collect()),
        other => KeyEdge::Value(other.clone()),
    }
}

fn has_edges(datum: &Datum) -> bool {
    match datum {
        Datum::Array(elements) => elements.iter().any(has_edges),
        other => matches!(pseudo::special_of(other), Some(Special::Min | Special::Max)),
    }
}

/// The documents of a range, of which the table's engine may be told what they are for.
fn selected_rows(ctx: &Arc<Context>, table: &Arc<Table>, range: DatumRange, direction: Direction) -> Result<Stream> {
    let scan = Arc::new(Scan::default());
    let (known, profiled, name) = (Arc::clone(&scan), ctx.clone(), table.info().name.clone());
    let selection = move || {
        let task = profiled.profile.enter();
        let selection = known.selection();
        profiled.profile.leave(task, || format!("Scan of the table `{name}`: {}", pushdown::describe(&selection)));
        selection
    };
    let documents = table.scan_selected(range, direction, selection)?;
    Ok(stored_rows(ctx, documents).of_scan(Some(scan)))
}

/// Documents as rows, until nobody waits for the query any more.
fn stored_rows(ctx: &Arc<Context>, documents: Documents) -> Stream {
    let ctx = ctx.clone();
    Stream::of_stored(Fused::new(documents.stored().map(move |document| {
        ctx.check_running()?;
        Ok(document?.into())
    })))
    .steady()
}
