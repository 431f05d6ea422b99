//! Answers calls: finds the function or index, runs it, and turns errors and panics into completions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use photondb_ipc_schema::batch::{Batch as Columns, BatchWriter, Column};
use photondb_ipc_schema::lane::{Call, Completion, Operation, Request};

use crate::batch::{Batch, RowsWriter};
use crate::column::VectorColumn;
use crate::distances::{DistanceCalls, Prepared};
use crate::engine::Engines;
use crate::kinds::distance::{Distance, Traits};
use crate::kinds::vector::VectorIndexPlugin;
use crate::kinds::vector::{
    AllowBitmap, IndexOptions, IndexStatistics, RowId, SearchRequest, SearchResults, VectorIndex,
};
use crate::registry::{Plugin, PluginRegistry};
use crate::services::Services;
use crate::{Cancel, Cause, Datum, PluginError};

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the text of a panic for the error that is made of it, beside what the standard hook prints.
pub(super) fn remember_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("a panic without a text");
        PANIC.set(Some(format!("{text}{place}")));
        print(info);
    }));
}

/// A running plugin: what it provides, and its open indexes. Cheap to clone.
#[derive(Clone)]
pub struct Instance {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    version: String,
    registry: PluginRegistry,
    indexes: RwLock<HashMap<u32, Arc<OpenIndex>>>,
    engines: Engines,
    distances: Prepared,
}

struct OpenIndex {
    index: Box<dyn VectorIndex>,
    column: Arc<VectorColumn>,
    /// The picture that is being read, or the bytes that arrived so far.
    transfer: Mutex<Vec<u8>>,
}

impl Instance {
    /// The plugin, connected and configured, with nothing open.
    ///
    /// # Errors
    /// What the plugin has against its settings.
    pub fn new(mut plugin: Box<dyn Plugin>, services: Services, settings: &Datum) -> Result<Self, PluginError> {
        let engines = Engines::new(services.state.as_ref().map(|state| state.path().to_owned()));
        guard(|| {
            plugin.connect(services);
            Ok(())
        })?;
        guard(|| plugin.configure(settings))?;
        let registry = guard(|| Ok(PluginRegistry::of(&*plugin)))?;
        let (name, version) = (plugin.name().to_owned(), plugin.version().to_owned());
        let (indexes, distances) = (RwLock::default(), Prepared::default());
        Ok(Self { inner: Arc::new(Inner { name, version, registry, indexes, engines, distances }) })
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The plugin's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// What the plugin provides.
    #[must_use]
    pub fn registry(&self) -> &PluginRegistry {
        &self.inner.registry
    }

    fn kind(&self, name: &str) -> Result<&Arc<dyn VectorIndexPlugin>, PluginError> {
        let kinds = self.inner.registry.vector_indexes();
        kinds
            .iter()
            .find(|kind| kind.index_type() == name)
            .ok_or_else(|| PluginError::runtime(Cause::Protocol, format!("no vector index of type `{name}` here")))
    }

    /// Checks the options of an index of the type `kind`, and the name and the traits of the distance that is meant, if it is
    /// one of a plugin.
    ///
    /// # Errors
    /// What the plugin has against them.
    pub fn validate_index(
        &self,
        kind: &str,
        options: &IndexOptions,
        distance: Option<(&str, &Traits)>,
    ) -> Result<(), PluginError> {
        let kind = self.kind(kind)?;
        guard(|| {
            distance.map_or(Ok(()), |(name, traits)| kind.accepts(name, traits))?;
            kind.validate(options)
        })
    }

    /// A distance, prepared, and what it is like: for a server that the plugin is linked into.
    ///
    /// # Errors
    /// What the plugin has against the options, or that it has no such distance.
    pub fn distance(&self, calls: &DistanceCalls<'_>) -> Result<(Arc<dyn Distance>, Traits), PluginError> {
        self.inner.distances.get(self.inner.registry.distances(), calls)
    }

    /// Makes an index over `column` that nobody calls by a number.
    ///
    /// # Errors
    /// What the plugin has against it.
    pub fn create_index(
        &self,
        kind: &str,
        options: &IndexOptions,
        column: Arc<VectorColumn>,
    ) -> Result<Box<dyn VectorIndex>, PluginError> {
        let kind = self.kind(kind)?;
        guard(|| kind.create(options, column))
    }

    /// Makes the index number `index` over `column`. Returns whether [several threads](VectorIndex::takes_parallel_inserts)
    /// may add rows to it at once.
    ///
    /// # Errors
    /// What the plugin has against it.
    pub fn open_index(
        &self,
        index: u32,
        kind: &str,
        options: &IndexOptions,
        column: VectorColumn,
    ) -> Result<bool, PluginError> {
        let (kind, column) = (self.kind(kind)?, Arc::new(column));
        let (created, in_parallel) = guard(|| {
            let created = kind.create(options, Arc::clone(&column))?;
            let in_parallel = created.takes_parallel_inserts();
            Ok((created, in_parallel))
        })?;
        let open = OpenIndex { index: created, column, transfer: Mutex::default() };
        self.inner.indexes.write().unwrap_or_else(PoisonError::into_inner).insert(index, Arc::new(open));
        Ok(in_parallel)
    }

    /// Frees the index; one that is not open is no error.
    pub fn close_index(&self, index: u32) {
        self.inner.indexes.write().unwrap_or_else(PoisonError::into_inner).remove(&index);
    }

    /// The column of an index.
    ///
    /// # Errors
    /// When there is no such index.
    pub fn column(&self, index: u32) -> Result<Arc<VectorColumn>, PluginError> {
        self.index(index).map(|open| Arc::clone(&open.column))
    }

    /// Sizes of an index.
    ///
    /// # Errors
    /// When there is no such index, or it panicked.
    pub fn index_statistics(&self, index: u32) -> Result<IndexStatistics, PluginError> {
        let open = self.index(index)?;
        guard(|| Ok(open.index.statistics()))
    }

    fn index(&self, index: u32) -> Result<Arc<OpenIndex>, PluginError> {
        let indexes = self.inner.indexes.read().unwrap_or_else(PoisonError::into_inner);
        let found = indexes.get(&index).cloned();
        found.ok_or_else(|| PluginError::runtime(Cause::Protocol, format!("index {index} is not open")))
    }

    /// Answers one call of a lane.
    pub fn serve(&self, call: Call<'_>) -> Completion {
        let Call { request, payload, reply, cancellation, .. } = call;
        let cancel = Cancel::of(cancellation);
        // Its caller may have given up while the call waited for its turn.
        match cancel.check().and_then(|()| guard(|| self.answer(&request, payload, reply, cancel))) {
            Ok((payload, value)) => Completion { status: 0, payload, value },
            Err(error) => {
                let message = error.message().as_bytes();
                let len = message.len().min(crate::calls::MAX_MESSAGE).min(reply.len());
                reply[..len].copy_from_slice(&message[..len]);
                Completion { status: 1 + error.cause() as u8, payload: len, value: 0 }
            }
        }
    }

    /// The bytes of the reply, and its value.
    fn answer(
        &self,
        request: &Request,
        payload: &[u8],
        reply: &mut [u8],
        cancel: Cancel<'_>,
    ) -> Result<(usize, u64), PluginError> {
        let unknown = || PluginError::runtime(Cause::Protocol, format!("unknown operation {}", request.operation));
        match Operation::from_number(request.operation).ok_or_else(unknown)? {
            Operation::Nop => Ok((0, 0)),
            Operation::InvokeFunction => self.invoke(request.target, payload, reply, cancel).map(|bytes| (bytes, 0)),
            Operation::IndexInsert => {
                self.index(request.target)?.index.insert(rows(payload)?)?;
                Ok((0, 0))
            }
            Operation::IndexRemove => {
                self.index(request.target)?.index.remove(rows(payload)?)?;
                Ok((0, 0))
            }
            Operation::IndexSearch => self.search(request, payload, reply, cancel).map(|bytes| (bytes, 0)),
            Operation::IndexSave => self.index(request.target)?.save_part(request.argument, reply),
            Operation::IndexLoad => self.index(request.target)?.load_part(payload).map(|()| (0, 0)),
            of_distance @ (Operation::DistancePrepare | Operation::DistancePlace | Operation::DistanceMeasure) => {
                let Inner { registry, distances, .. } = &*self.inner;
                distances.answer(registry.distances(), of_distance, request, payload, reply).map(|bytes| (bytes, 0))
            }
            of_engine => {
                let Inner { registry, engines, .. } = &*self.inner;
                engines.answer(registry.storage_engines(), of_engine, request, payload, reply)
            }
        }
    }

    fn invoke(&self, number: u32, payload: &[u8], reply: &mut [u8], cancel: Cancel<'_>) -> Result<usize, PluginError> {
        let function = self.inner.registry.functions().get(number as usize);
        let function =
            function.ok_or_else(|| PluginError::runtime(Cause::Protocol, format!("no function number {number}")))?;
        let batch = Batch::parse(payload)?.of_call(cancel);
        let mut results = RowsWriter::new(reply, batch.rows());
        function.invoke_batch(&batch, &mut results)?;
        results.finish()
    }

    /// Calls function `number` on this thread, for a server that the plugin is linked into: the request is a batch of rows,
    /// 64-byte aligned as the reply is. Returns the bytes of the reply.
    ///
    /// # Errors
    /// What the function says; a panic is an error too.
    pub fn compute(&self, number: u32, request: &[u8], reply: &mut [u8]) -> Result<usize, PluginError> {
        guard(|| self.invoke(number, request, reply, Cancel::never()))
    }

    fn search(
        &self,
        request: &Request,
        payload: &[u8],
        reply: &mut [u8],
        cancel: Cancel<'_>,
    ) -> Result<usize, PluginError> {
        let malformed = |what: &str| PluginError::runtime(Cause::Protocol, format!("a search without {what}"));
        let open = self.index(request.target)?;
        let batch = Columns::parse(payload).map_err(|error| malformed(&error.to_string()))?;
        let Some(Column::F32 { width, values: queries }) = batch.column(0) else { return Err(malformed("queries")) };
        let Some(Column::Datum(settings)) = batch.column(1) else { return Err(malformed("settings")) };
        let settings = settings.get(0).and_then(|bytes| Datum::decode(bytes).ok());
        let settings = settings.ok_or_else(|| malformed("settings"))?;
        let allow = match batch.column(2) {
            Some(Column::U8(bits)) => Some(AllowBitmap(bits)),
            _ => None,
        };
        if width != open.column.dims() {
            let message = format!("queries of {width} dims for an index of {}", open.column.dims());
            return Err(PluginError::runtime(Cause::Argument, message));
        }
        let (count, k) = (queries.len() / width, request.argument as usize);
        let fits = k.checked_mul(count).is_some_and(|rows| rows * 8 + count * 4 + 512 <= reply.len());
        if !fits {
            let message = format!("{count} queries for {k} rows each are too many for one call");
            return Err(PluginError::runtime(Cause::Limit, message));
        }
        let (mut rows, mut distances, mut counts) = (vec![0; count * k], vec![0.0; count * k], vec![0; count]);
        open.index.search(
            &SearchRequest { queries, k, allow, settings: &settings, cancel },
            &mut SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts },
        )?;
        let full = |_| PluginError::runtime(Cause::Limit, "the results do not fit into one reply");
        let mut writer = BatchWriter::new(reply, 3, count).map_err(full)?;
        writer.u32s(rows.len()).map_err(full)?.copy_from_slice(&rows);
        writer.f32s(k, count).map_err(full)?.copy_from_slice(&distances);
        writer.u32s(count).map_err(full)?.copy_from_slice(&counts);
        Ok(writer.finish())
    }
}

impl OpenIndex {
    fn save_part(&self, offset: u64, reply: &mut [u8]) -> Result<(usize, u64), PluginError> {
        let mut saved = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            saved.clear();
            self.index.save(&mut *saved)?;
        }
        let total = saved.len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(total);
        let part = (total - start).min(reply.len());
        reply[..part].copy_from_slice(&saved[start..start + part]);
        if start + part == total {
            *saved = Vec::new();
        }
        Ok((part, total as u64))
    }

    fn load_part(&self, payload: &[u8]) -> Result<(), PluginError> {
        let batch =
            Columns::parse(payload).map_err(|error| PluginError::runtime(Cause::Protocol, error.to_string()))?;
        let Some(Column::U8(chunk)) = batch.column(0) else {
            return Err(PluginError::runtime(Cause::Protocol, "a part of a saved index without bytes"));
        };
        let mut saved = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        if !chunk.is_empty() {
            saved.extend_from_slice(chunk);
            return Ok(());
        }
        let saved = std::mem::take(&mut *saved);
        self.index.load(&mut saved.as_slice())
    }
}

fn rows(payload: &[u8]) -> Result<&[RowId], PluginError> {
    match Columns::parse(payload).map(|batch| batch.column(0)) {
        Ok(Some(Column::U32(rows))) => Ok(rows),
        _ => Err(PluginError::runtime(Cause::Protocol, "a request without rows")),
    }
}

/// Runs a plugin's code; a panic becomes an error with its text.
///
/// # Errors
/// What the code says, or that it panicked.
pub fn guard<T>(run: impl FnOnce() -> Result<T, PluginError>) -> Result<T, PluginError> {
    // A plugin's own state may be half-changed after a panic: it is the plugin's, and nobody else's, problem.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        // Without the hook, as where the plugin is linked in, the text is all there is.
        let said = || panic.downcast_ref::<String>().cloned().or_else(|| Some((*panic.downcast_ref::<&str>()?).into()));
        let text = PANIC.take().or_else(said).unwrap_or_else(|| "a panic".into());
        Err(PluginError::runtime(Cause::Plugin, format!("panicked: {text}")))
    })
}
