//! Runs a plugin without a server: in this process, over the same lanes and the same messages.
//!
//! ```
//! # use photondb_plugin_sdk::prelude::*;
//! # struct Twice;
//! # impl QueryFunctionPlugin for Twice {
//! #     fn signature(&self) -> FunctionSignature { FunctionSignature::pure("twice", 1, 1) }
//! #     fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
//! #         Ok((args[0].as_number().ok_or_else(|| PluginError::argument("a number, please"))? * 2.0).into())
//! #     }
//! # }
//! # struct Maths;
//! # impl Plugin for Maths {
//! #     fn name(&self) -> &str { "maths" }
//! #     fn version(&self) -> &str { "1.0.0" }
//! #     fn register(&self, registry: &mut PluginRegistry) { registry.function(Twice); }
//! # }
//! let harness = photondb_plugin_sdk::testing::Harness::start(Maths);
//! assert_eq!(harness.call("twice", &[21.into()]), Ok(42.into()));
//! assert!(harness.call("twice", &["x".into()]).is_err());
//! ```

pub mod data_type;
pub mod distance;
pub mod engine;
pub mod vector;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use photondb_ipc_schema::lane::{Lane, Operation, Traffic, Worker};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region::{self, OwnRegion, PrivateCopy, TrustedRegion};
use photondb_ipc_schema::wake::Spin;

use crate::calls::{self, Invocation, Search};
use crate::column::VectorColumn;
use crate::distance::{Metric, Query};
use crate::distances::{DistanceCalls, wait_vectors};
use crate::engine::{Connection, RemoteEngine, validate};
use crate::kinds::distance::{Side, Traits};
use crate::kinds::storage::StorageEngine;
use crate::kinds::vector::{IndexOptions, IndexStatistics, RowId};
use crate::registry::Plugin;
use crate::runtime::Instance;
use crate::services::Services;
use crate::{Cause, Datum, PluginError};

/// Long enough for a debug build on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A plugin that runs in this process behind one lane.
pub struct Harness {
    instance: Instance,
    lane: Arc<Lane>,
    /// Numbers of indexes and engines.
    numbers: AtomicU32,
}

impl Harness {
    /// Starts the plugin without settings, with buffers of 1 MiB.
    ///
    /// # Panics
    /// When the plugin refuses to start, or the kernel has no shared memory for us.
    #[must_use]
    pub fn start(plugin: impl Plugin + 'static) -> Self {
        Self::start_with(plugin, &Datum::object::<&str, Datum>([])).expect("the plugin starts without settings")
    }

    /// As [`start`](Self::start), with an operator's settings: an object.
    ///
    /// # Errors
    /// What the plugin has against its settings.
    ///
    /// # Panics
    /// When the kernel has no shared memory for us.
    pub fn start_with(plugin: impl Plugin + 'static, settings: &Datum) -> Result<Self, PluginError> {
        Self::start_granted(plugin, settings, Services::default())
    }

    /// As [`start_with`](Self::start_with), with services: those of a test, made by their `new`.
    ///
    /// # Errors
    /// What the plugin has against its settings.
    ///
    /// # Panics
    /// When the kernel has no shared memory for us.
    pub fn start_granted(
        plugin: impl Plugin + 'static,
        settings: &Datum,
        services: Services,
    ) -> Result<Self, PluginError> {
        let instance = Instance::new(Box::new(plugin), services, settings)?;
        let layout = Layout::new(1, 8, 1 << 20).expect("a valid layout");
        let bytes = layout.region_bytes();
        let (own, own_fd) = region::server_written("harness", bytes).expect("shared memory");
        let (peer, peer_fd) = region::plugin_written("harness", bytes).expect("shared memory");
        let lane = Lane::all(layout, own, peer, Spin::for_this_machine(), &Traffic::default()).remove(0);
        let trusted = TrustedRegion::map(own_fd.as_fd(), bytes).expect("map");
        let owned = OwnRegion::map(peer_fd.as_fd(), bytes).expect("map");
        let workers = Worker::all(trusted, owned).expect("our own header");
        for mut worker in workers {
            let instance = instance.clone();
            thread::spawn(move || {
                loop {
                    worker.serve_next(|call| instance.serve(call));
                }
            });
        }
        Ok(Self { instance, lane, numbers: AtomicU32::new(0) })
    }

    /// The lane, for calls that this harness has no method for.
    #[must_use]
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Calls a function with one row of arguments.
    ///
    /// # Errors
    /// What the function said.
    pub fn call(&self, function: &str, args: &[Datum]) -> Result<Datum, PluginError> {
        let columns: Vec<Vec<Datum>> = args.iter().map(|arg| vec![arg.clone()]).collect();
        self.call_rows(function, &columns, 1).map(|mut results| results.remove(0))
    }

    /// Calls a function with rows of arguments; `args[i][row]` is argument `i`.
    ///
    /// # Errors
    /// What the function said of the first row that failed, or that the number of arguments is wrong.
    pub fn call_rows(&self, function: &str, args: &[Vec<Datum>], rows: usize) -> Result<Vec<Datum>, PluginError> {
        let functions = self.instance.registry().functions();
        let number = functions
            .iter()
            .position(|candidate| candidate.signature().name == function)
            .ok_or_else(|| PluginError::argument(format!("the plugin has no function `{function}`")))?;
        let signature = functions[number].signature();
        if !(usize::from(signature.min_args)..=usize::from(signature.max_args)).contains(&args.len()) {
            return Err(PluginError::argument(format!("{} arguments for `{function}`", args.len())));
        }
        let (deadline, mut reply, mut results) = (self.deadline(), PrivateCopy::default(), Vec::new());
        while results.len() < rows {
            let rest: Vec<&[Datum]> = args.iter().map(|column| &column[results.len()..]).collect();
            let draft = self.lane.begin(deadline)?;
            let sent = Invocation::send(draft, number as u32, &rest, rows - results.len())?;
            results.extend(sent.wait(deadline, &mut reply)?);
        }
        Ok(results)
    }

    /// Makes an index over rows, none of which it contains yet.
    ///
    /// # Errors
    /// What the plugin has against the options.
    pub fn open_index(
        &self,
        kind: &str,
        options: &IndexOptions,
        column: VectorColumn,
    ) -> Result<IndexHarness<'_>, PluginError> {
        self.instance.validate_index(kind, options, None)?;
        let index = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.instance.open_index(index, kind, options, column)?;
        Ok(IndexHarness { harness: self, index, dims: options.dims as usize })
    }

    /// Opens a storage engine, in the directory of that name in the plugin's own one, where it has one. It is closed when
    /// it is dropped.
    ///
    /// # Errors
    /// What the plugin has against the options or the directory.
    pub fn open_engine(
        &self,
        kind: &str,
        directory: &str,
        options: &Datum,
    ) -> Result<Box<dyn StorageEngine>, PluginError> {
        let lane = LaneConnection(Arc::clone(&self.lane));
        validate(&lane, kind, options)?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let engine = RemoteEngine::open(lane, number, kind, directory, 16 << 20, options)?;
        Ok(Box::new(engine.closed_on_drop()))
    }

    /// A distance of vectors of `dims` numbers.
    ///
    /// # Errors
    /// What the plugin has against the options, or that it has no such distance.
    pub fn distance(&self, name: &str, dims: usize, options: &Datum) -> Result<DistanceHarness<'_>, PluginError> {
        let number = self.instance.registry().distances().iter().position(|distance| distance.name() == name);
        let number = number.ok_or_else(|| PluginError::argument(format!("the plugin has no distance `{name}`")))?;
        let mut distance = DistanceHarness {
            harness: self,
            number: number as u32,
            dims,
            options: options.encoded(),
            traits: Traits::of(Metric::L2, dims),
        };
        distance.traits = distance.calls().prepare(&self.lane, self.deadline())?;
        Ok(distance)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + DEADLINE
    }
}

/// The one lane of a harness.
struct LaneConnection(Arc<Lane>);

impl Connection for LaneConnection {
    type Caller<'a> = ();

    fn caller(&self, deadline: Instant) -> ((), Instant) {
        ((), deadline)
    }

    fn read_lane(&self) -> &Arc<Lane> {
        &self.0
    }

    fn write_lane(&self) -> &Arc<Lane> {
        &self.0
    }

    fn judge(&self, error: PluginError) -> PluginError {
        if error.cause() == Cause::Protocol {
            self.0.kill(error.message());
        }
        error
    }

    fn record(&self, _: bool, _: Duration) {}
}

/// A distance of a [`Harness`], called as the server calls it.
pub struct DistanceHarness<'a> {
    harness: &'a Harness,
    number: u32,
    dims: usize,
    options: Vec<u8>,
    traits: Traits,
}

impl DistanceHarness<'_> {
    /// What it is like.
    #[must_use]
    pub fn traits(&self) -> Traits {
        self.traits
    }

    fn calls(&self) -> DistanceCalls<'_> {
        DistanceCalls { number: self.number, dims: self.dims, options: &self.options }
    }

    /// The places of vectors (`[n, dims]`): `[n, traits.dims]`.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn place(&self, side: Side, vectors: &[f32]) -> Result<Vec<f32>, PluginError> {
        if self.traits.is_placed_as_is {
            return Ok(vectors.to_vec());
        }
        let (Harness { lane, .. }, calls, deadline) = (self.harness, self.calls(), self.harness.deadline());
        let mut places = Vec::new();
        for vectors in vectors.chunks(calls.vectors_per_call(lane, self.traits.dims) * self.dims) {
            let pending = calls.send_vectors(lane.begin(deadline)?, side, vectors)?;
            let shape = (vectors.len() / self.dims, self.traits.dims);
            wait_vectors(pending, deadline, shape, &mut PrivateCopy::default(), &mut places)?;
        }
        Ok(places)
    }

    /// The distances from a query to rows (`[n, dims]`), from vector to distance.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn distances(&self, query: &[f32], rows: &[f32]) -> Result<Vec<f32>, PluginError> {
        let (query, rows) = (self.place(Side::Query, query)?, self.place(Side::Row, rows)?);
        if self.traits.is_exact {
            let query = Query::new(self.traits.base, &query);
            return Ok(rows.chunks_exact(self.traits.dims).map(|row| query.distance(row)).collect());
        }
        let (Harness { lane, .. }, calls, deadline) = (self.harness, self.calls(), self.harness.deadline());
        let mut distances = Vec::new();
        let dims = self.traits.dims;
        for rows in rows.chunks(calls.rows_per_call(lane, dims) * dims) {
            let fill = |at: usize, row: &mut [f32]| row.copy_from_slice(&rows[at * dims..(at + 1) * dims]);
            let pending = calls.send_rows(lane.begin(deadline)?, &query, rows.len() / dims, fill)?;
            wait_vectors(pending, deadline, (rows.len() / dims, 1), &mut PrivateCopy::default(), &mut distances)?;
        }
        Ok(distances)
    }
}

/// An open index of a [`Harness`].
pub struct IndexHarness<'a> {
    harness: &'a Harness,
    index: u32,
    dims: usize,
}

impl IndexHarness<'_> {
    /// Inserts rows of the column.
    ///
    /// # Errors
    /// What the index said.
    pub fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        self.maintain(Operation::IndexInsert, rows)
    }

    /// Removes rows.
    ///
    /// # Errors
    /// What the index said.
    pub fn remove(&self, rows: &[RowId]) -> Result<(), PluginError> {
        self.maintain(Operation::IndexRemove, rows)
    }

    fn maintain(&self, operation: Operation, rows: &[RowId]) -> Result<(), PluginError> {
        let Harness { lane, .. } = self.harness;
        rows.chunks(calls::rows_per_call(lane))
            .try_for_each(|rows| calls::maintain(lane, operation, self.index, rows, self.harness.deadline()))
    }

    /// The rows nearest to each of the `queries` (`[n, dims]`), nearest first.
    ///
    /// # Errors
    /// What the index said.
    pub fn search(
        &self,
        queries: &[f32],
        k: usize,
        allow: Option<&[u8]>,
        settings: &Datum,
    ) -> Result<Vec<Vec<RowId>>, PluginError> {
        let search = Search { queries, dims: self.dims, k, allow, settings };
        let per_call = search.queries_per_call(&self.harness.lane);
        if per_call == 0 {
            return Err(PluginError::runtime(Cause::Limit, "one query does not fit into a lane buffer"));
        }
        let (mut found, deadline) = (Vec::new(), self.harness.deadline());
        for part in queries.chunks(per_call * self.dims) {
            let search = Search { queries: part, ..search };
            found.extend(search.run(self.harness.lane.begin(deadline)?, self.index, deadline)?);
        }
        Ok(found)
    }

    /// What the index saves.
    ///
    /// # Errors
    /// What the index said.
    pub fn save(&self) -> Result<Vec<u8>, PluginError> {
        calls::save(&self.harness.lane, self.index, 1 << 30, self.harness.deadline())
    }

    /// Loads what another index saved.
    ///
    /// # Errors
    /// What the index said.
    pub fn load(&self, saved: &[u8]) -> Result<(), PluginError> {
        calls::load(&self.harness.lane, self.index, saved, self.harness.deadline())
    }

    /// Sizes.
    ///
    /// # Errors
    /// When the index panicked.
    pub fn statistics(&self) -> Result<IndexStatistics, PluginError> {
        self.harness.instance.index_statistics(self.index)
    }
}
