//! Answers the control plane. Runs on the process's first thread until the server closes the socket.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use photondb_ipc_schema::descriptors::{Arrivals, Bell};
use photondb_ipc_schema::plugin_capnp::{Element as WireElement, Metric as WireMetric};
use photondb_ipc_schema::plugin_capnp::{failure, index_options, plugin};
use photondb_ipc_schema::{PROTOCOL_VERSION, control};
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::{Instance, Unstarted, remote};
use crate::column::{ColumnShape, Element, VectorColumn};
use crate::kinds::distance::Traits;
use crate::kinds::function::{Purity, Role};
use crate::kinds::vector::{IndexOptions, Metric};
use crate::services::Services;
use crate::{Cause, Datum, PluginError};

pub(super) fn run(plugin: Unstarted, socket: OwnedFd, descriptors: OwnedFd) -> io::Result<()> {
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let arrivals = Rc::new(RefCell::new(Arrivals::new(descriptors)));
        let server = Service { unstarted: RefCell::new(Some(plugin)), instance: OnceCell::new(), arrivals };
        // Whether the connection ends in peace or by an error: the server is gone.
        let _ = control::plugin(reader.compat(), writer.compat_write(), server).await;
        Ok(())
    })
}

struct Service {
    /// Until the handshake.
    unstarted: RefCell<Option<Unstarted>>,
    /// From the handshake on.
    instance: OnceCell<Instance>,
    arrivals: Rc<RefCell<Arrivals>>,
}

impl Service {
    fn instance(&self) -> capnp::Result<&Instance> {
        self.instance.get().ok_or_else(|| capnp::Error::failed("a call before the handshake".into()))
    }

    fn start(&self, services: Services, settings: &Datum, bell: Bell) -> Result<(), PluginError> {
        let unstarted = self.unstarted.take();
        let unstarted = unstarted.ok_or_else(|| PluginError::runtime(Cause::Protocol, "a second handshake"))?;
        let instance = unstarted.start(services, settings, bell)?;
        // Empty still: only one handshake comes this far.
        let _ = self.instance.set(instance);
        Ok(())
    }
}

fn read_datum(bytes: &[u8]) -> capnp::Result<Datum> {
    match bytes {
        [] => Ok(Datum::Null),
        bytes => Datum::decode(bytes).map_err(|error| capnp::Error::failed(error.to_string())),
    }
}

/// An index type and its options, as they came over the wire.
fn read_options(reader: index_options::Reader<'_>) -> capnp::Result<(String, IndexOptions)> {
    let settings = read_datum(reader.get_settings()?)?;
    let metric = match reader.get_metric()? {
        WireMetric::Cosine => Metric::Cosine,
        WireMetric::L2 => Metric::L2,
        WireMetric::Dot => Metric::Dot,
    };
    Ok((reader.get_kind()?.to_string()?, IndexOptions { dims: reader.get_dims(), metric, settings }))
}

fn report(result: Result<(), PluginError>, mut failure: failure::Builder<'_>) {
    match result {
        Ok(()) => failure.set_none(()),
        Err(error) => {
            let mut wire = failure.init_error();
            wire.set_cause(error.cause() as u8);
            wire.set_message(error.message());
        }
    }
}

impl plugin::Server for Service {
    async fn handshake(
        self: Rc<Self>,
        params: plugin::HandshakeParams,
        mut results: plugin::HandshakeResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let settings = read_datum(params.get_settings()?)?;
        let services = remote::services(params.get_services()?, Rc::clone(&self.arrivals))?;
        let bell = self
            .arrivals
            .borrow_mut()
            .take(params.get_bell())
            .map_err(|error| capnp::Error::failed(format!("the bell did not arrive: {error}")))?;
        let started = self.start(services, &settings, Bell::new(bell));
        let is_started = started.is_ok();
        report(started, results.get().init_failure());
        let mut info = results.get().init_info();
        info.set_protocol(PROTOCOL_VERSION);
        if !is_started {
            return Ok(());
        }
        let instance = self.instance()?;
        info.set_name(instance.name());
        info.set_version(instance.version());
        let registry = instance.registry();
        let mut functions = info.reborrow().init_functions(registry.functions().len() as u32);
        for (at, function) in registry.functions().iter().enumerate() {
            let signature = function.signature();
            let mut wire = functions.reborrow().get(at as u32);
            wire.set_name(&signature.name);
            wire.set_min_args(signature.min_args);
            wire.set_max_args(signature.max_args);
            wire.set_pure(signature.purity == Purity::Pure);
            wire.set_aggregate(signature.role == Role::Aggregate);
            wire.set_data_type(signature.role == Role::DataType);
        }
        let mut kinds = info.reborrow().init_vector_indexes(registry.vector_indexes().len() as u32);
        for (at, kind) in registry.vector_indexes().iter().enumerate() {
            kinds.set(at as u32, kind.index_type());
        }
        let mut engines = info.reborrow().init_storage_engines(registry.storage_engines().len() as u32);
        for (at, kind) in registry.storage_engines().iter().enumerate() {
            engines.set(at as u32, kind.engine_type());
        }
        let mut distances = info.init_distances(registry.distances().len() as u32);
        for (at, distance) in registry.distances().iter().enumerate() {
            distances.set(at as u32, distance.name());
        }
        Ok(())
    }

    async fn ping(self: Rc<Self>, _: plugin::PingParams, _: plugin::PingResults) -> capnp::Result<()> {
        Ok(())
    }

    async fn validate_index(
        self: Rc<Self>,
        params: plugin::ValidateIndexParams,
        mut results: plugin::ValidateIndexResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let (kind, options) = read_options(params.get_options()?)?;
        let distance = if params.has_distance() {
            let distance = params.get_distance()?;
            let traits = Traits::from_datum(&read_datum(distance.get_traits()?)?);
            let traits = traits.ok_or_else(|| capnp::Error::failed("traits of a distance that are none".into()))?;
            Some((distance.get_name()?.to_string()?, traits))
        } else {
            None
        };
        let distance = distance.as_ref().map(|(name, traits)| (name.as_str(), traits));
        report(self.instance()?.validate_index(&kind, &options, distance), results.get().init_failure());
        Ok(())
    }

    async fn open_index(
        self: Rc<Self>,
        params: plugin::OpenIndexParams,
        mut results: plugin::OpenIndexResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let (kind, options) = read_options(params.get_options()?)?;
        let wire = params.get_column()?;
        let element = match wire.get_element()? {
            WireElement::F32 => Element::F32,
            WireElement::F16 => Element::F16,
            WireElement::I8 => Element::I8,
        };
        let shape = ColumnShape::with_segments(options.dims, element, wire.get_rows_per_segment());
        let instance = self.instance()?;
        let opened = shape
            .ok_or_else(|| PluginError::runtime(Cause::Protocol, "an impossible column"))
            .and_then(|shape| instance.open_index(params.get_index(), &kind, &options, VectorColumn::new(shape)));
        results.get().set_parallel_inserts(matches!(opened, Ok(true)));
        report(opened.map(drop), results.get().init_failure());
        Ok(())
    }

    async fn attach_segment(
        self: Rc<Self>,
        params: plugin::AttachSegmentParams,
        mut results: plugin::AttachSegmentResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        // Taken in any case, so that none is left over.
        let received = self.arrivals.borrow_mut().take(params.get_descriptor());
        let failed = |error: io::Error| PluginError::runtime(Cause::Plugin, format!("attaching a segment: {error}"));
        let attached = self
            .instance()?
            .column(params.get_index())
            .and_then(|column| received.and_then(|file| column.attach(params.get_segment(), &file)).map_err(failed));
        report(attached, results.get().init_failure());
        Ok(())
    }

    async fn close_index(
        self: Rc<Self>,
        params: plugin::CloseIndexParams,
        _: plugin::CloseIndexResults,
    ) -> capnp::Result<()> {
        self.instance()?.close_index(params.get()?.get_index());
        Ok(())
    }

    async fn index_statistics(
        self: Rc<Self>,
        params: plugin::IndexStatisticsParams,
        mut results: plugin::IndexStatisticsResults,
    ) -> capnp::Result<()> {
        let statistics = self
            .instance()?
            .index_statistics(params.get()?.get_index())
            .map_err(|error| capnp::Error::failed(error.message().to_owned()))?;
        let mut wire = results.get();
        wire.set_rows(statistics.rows);
        wire.set_removed(statistics.removed);
        wire.set_memory_bytes(statistics.memory_bytes);
        Ok(())
    }
}
