//! The distance of a plugin, as an index has it: places of vectors, and distances of places.
//!
//! What the plugin says is checked for what its distance promised when the index was created: a place has as many numbers
//! as it should, a distance is in its range. Beyond that it is the plugin's word, and concerns the indexes that use it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use photondb_ipc_schema::lane::{Draft, Pending};
use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::distances::{DistanceCalls, MAX_OPTIONS, place_all, wait_vectors};
use photondb_plugin_sdk::kinds::distance::{Distance, Side, Traits};
use photondb_plugin_sdk::runtime::{Instance as Code, guard};
use photondb_plugin_sdk::{Cause, Datum, PluginError};

use crate::plugins::CALL_DEADLINE;
use crate::plugins::instance::Instance;
use crate::plugins::plugin::{Caller, Plugin};
use crate::plugins::registry::{Provider, Registry};
use crate::query::nested::Origin;
use crate::storage::DistanceDefinition;

/// Fewer vectors than this take less time than another message.
const LEAST_VECTORS: usize = 256;

/// A distance that an index was created with.
pub(super) struct PluginDistance {
    registry: Arc<Registry>,
    definition: DistanceDefinition,
    /// The length of the vectors.
    dims: usize,
    /// Encoded.
    options: Vec<u8>,
    /// The number of the last process whose distance was found to be the one that the index was created with; 0: none yet.
    verified: AtomicU64,
}

impl PluginDistance {
    pub(super) fn new(registry: Arc<Registry>, definition: DistanceDefinition, dims: u32) -> Self {
        let options = definition.options.encoded();
        Self { registry, definition, dims: dims as usize, options, verified: AtomicU64::new(0) }
    }

    /// What an index that is created now has to know of a distance.
    ///
    /// # Errors
    /// There is no such distance, or its plugin refuses the options.
    pub(super) fn define(
        registry: &Registry,
        name: &str,
        dims: u32,
        options: Datum,
        deadline: Instant,
    ) -> Result<DistanceDefinition, PluginError> {
        let Provider { plugin, code } = registry.distance(name)?;
        let encoded = options.encoded();
        if encoded.len() > MAX_OPTIONS {
            let message = format!("`metric_options` take {} bytes; at most {MAX_OPTIONS} are allowed", encoded.len());
            return Err(PluginError::argument(message).of(plugin.name()));
        }
        let calls = |number| DistanceCalls { number, dims: dims as usize, options: &encoded };
        let traits = match code {
            Some(code) => of_code(&code, name, calls).map_err(|error| error.of(plugin.name()))?.1,
            None => {
                let instance = plugin.call().instance(deadline)?;
                let number = number(&instance.provides().distances, name)?;
                let lane = instance.least_busy_lane();
                let prepared = calls(number).prepare(lane, deadline);
                prepared.map_err(|error| instance.judge(error))?
            }
        };
        let (plugin, version) = (plugin.name().to_owned(), plugin.version());
        Ok(DistanceDefinition { name: name.to_owned(), options, traits, plugin, version })
    }

    pub(super) fn traits(&self) -> &Traits {
        &self.definition.traits
    }

    pub(super) fn name(&self) -> &str {
        &self.definition.name
    }

    /// The plugin that provides it, running or not.
    pub(super) fn plugin(&self) -> Option<Arc<Plugin>> {
        self.registry.distance(self.name()).ok().map(|provider| provider.plugin)
    }

    /// Which plugin provides it now, and in which version: those place vectors alike.
    ///
    /// # Errors
    /// When none does.
    pub(super) fn version(&self) -> Result<String, PluginError> {
        let plugin = self.registry.distance(self.name())?.plugin;
        Ok(format!("{} {}", plugin.name(), plugin.version()))
    }

    /// The places of vectors (`[n, dims]`): as many numbers for each as the traits say, which need not be finite.
    ///
    /// # Errors
    /// What the plugin said, or what happened to it.
    pub(super) fn place(&self, side: Side, vectors: &[f32], origin: &Origin<'_>) -> Result<Vec<f32>, PluginError> {
        let (dims, width) = (self.dims, self.traits().dims);
        self.ask(
            origin,
            |distance, places| {
                places.resize(vectors.len() / dims * width, 0.0);
                place_all(distance, side, (vectors, dims), (places, width));
            },
            |process, places| {
                let (lane, calls) = (process.instance.lane(process.origin)?, &process.calls);
                let shape = Shape { count: vectors.len() / dims, per_call: calls.vectors_per_call(lane, width), width };
                let send = |draft, part: Range<usize>| {
                    calls.send_vectors(draft, side, &vectors[part.start * dims..part.end * dims])
                };
                process.in_parts(&shape, send, places)
            },
        )
    }

    /// The distances from the place of a query to those of `count` rows, which `fill` writes one by one.
    ///
    /// # Errors
    /// What the plugin said, or what happened to it; and where a distance is not what it may be.
    pub(super) fn measure(
        &self,
        query: &[f32],
        count: usize,
        fill: impl Fn(usize, &mut [f32]),
        origin: &Origin<'_>,
    ) -> Result<Vec<f32>, PluginError> {
        let width = self.traits().dims;
        let distances = self.ask(
            origin,
            |distance, distances| {
                distances.resize(count, f32::NAN);
                let mut rows = vec![0.0; LEAST_VECTORS.min(count) * width];
                for (part, distances) in distances.chunks_mut(LEAST_VECTORS).enumerate() {
                    let rows = &mut rows[..distances.len() * width];
                    let of_part = rows.chunks_exact_mut(width).enumerate();
                    of_part.for_each(|(at, row)| fill(part * LEAST_VECTORS + at, row));
                    distance.measure(query, rows, distances);
                }
            },
            |process, distances| {
                let (lane, calls) = (process.instance.lane(process.origin)?, &process.calls);
                let shape = Shape { count, per_call: calls.rows_per_call(lane, width), width: 1 };
                let send = |draft, part: Range<usize>| {
                    calls.send_rows(draft, query, part.len(), |at, row| fill(part.start + at, row))
                };
                process.in_parts(&shape, send, distances)
            },
        )?;
        match distances.iter().find(|distance| !self.traits().allows(**distance)) {
            None => Ok(distances),
            Some(found) => {
                let (name, plugin) = (self.name(), &self.definition.plugin);
                let message =
                    format!("`{name}` says that a distance is {found}, which it can't be; its author has to mend that");
                Err(PluginError::runtime(Cause::Plugin, message).of(plugin))
            }
        }
    }

    /// Asks the plugin where it is: in this process, or in its own, where it is asked once more if that one ends. It has so long
    /// as any call, and no longer than the origin.
    fn ask(
        &self,
        origin: &Origin<'_>,
        here: impl Fn(&dyn Distance, &mut Vec<f32>),
        there: impl Fn(&Process<'_>, &mut Vec<f32>) -> Result<(), PluginError>,
    ) -> Result<Vec<f32>, PluginError> {
        let Provider { plugin, code } = self.registry.distance(self.name())?;
        let (started, mut answer) = (Instant::now(), Vec::new());
        let origin = &Origin { deadline: origin.deadline.min(started + CALL_DEADLINE), ..*origin };
        let outcome = match &code {
            Some(code) => of_code(code, self.name(), |number| self.calls(number)).and_then(|(distance, traits)| {
                self.compare(&traits, &plugin)?;
                guard(|| {
                    here(&*distance, &mut answer);
                    Ok(())
                })
            }),
            None => self.ask_process(&plugin, origin, &mut answer, there),
        };
        plugin.counters().record(started.elapsed(), outcome.is_ok());
        outcome.map_err(|error| error.of(plugin.name()))?;
        Ok(answer)
    }

    fn ask_process(
        &self,
        plugin: &Plugin,
        origin: &Origin<'_>,
        answer: &mut Vec<f32>,
        there: impl Fn(&Process<'_>, &mut Vec<f32>) -> Result<(), PluginError>,
    ) -> Result<(), PluginError> {
        let (caller, deadline) = (plugin.call(), origin.deadline);
        let mut tries = 2;
        loop {
            let instance = caller.instance(caller.turn_by(deadline))?;
            tries -= 1;
            answer.clear();
            let calls = self.calls(number(&instance.provides().distances, self.name())?);
            let process = Process { plugin, instance: &instance, caller: &caller, origin, calls };
            let outcome = self.verify(&process).and_then(|()| there(&process, answer));
            match outcome.map_err(|error| instance.judge(error)) {
                Err(error)
                    if tries > 0
                        && (error.cause().is_retryable() || instance.ended_with(&error))
                        && Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }

    fn calls(&self, number: u32) -> DistanceCalls<'_> {
        DistanceCalls { number, dims: self.dims, options: &self.options }
    }

    /// Holds a process to what the index was created with.
    fn verify(&self, process: &Process<'_>) -> Result<(), PluginError> {
        let (origin, number) = (process.origin, process.instance.number());
        if self.verified.load(Ordering::Relaxed) == number {
            return Ok(());
        }
        let traits = process.calls.prepare(process.instance.lane(origin)?, origin.deadline)?;
        process.plugin.answered();
        self.compare(&traits, process.plugin)?;
        self.verified.store(number, Ordering::Relaxed);
        Ok(())
    }

    fn compare(&self, traits: &Traits, plugin: &Plugin) -> Result<(), PluginError> {
        if traits == self.traits() {
            return Ok(());
        }
        let (name, then, now) = (self.name(), &self.definition.version, plugin.version());
        let message = format!(
            "in version {now} `{name}` is not what it was when the index was created with version {then}; drop the index and \
             create it again, or go back to that version"
        );
        Err(PluginError::runtime(Cause::Plugin, message))
    }
}

/// The position of a distance in what a plugin provides.
fn number(distances: &[String], name: &str) -> Result<u32, PluginError> {
    let number = distances.iter().position(|distance| distance == name).and_then(|at| u32::try_from(at).ok());
    number.ok_or_else(|| {
        let message = format!("this version no longer provides the distance `{name}`");
        PluginError::runtime(Cause::Unavailable, message)
    })
}

/// The distance of a plugin that is linked in.
fn of_code<'a>(
    code: &Code,
    name: &str,
    calls: impl Fn(u32) -> DistanceCalls<'a>,
) -> Result<(Arc<dyn Distance>, Traits), PluginError> {
    let names: Vec<String> = code.registry().distances().iter().map(|distance| distance.name().to_owned()).collect();
    code.distance(&calls(number(&names, name)?))
}

/// A process that is asked.
struct Process<'a> {
    plugin: &'a Plugin,
    instance: &'a Instance,
    caller: &'a Caller<'a>,
    origin: &'a Origin<'a>,
    calls: DistanceCalls<'a>,
}

/// How many vectors there are, how many fit into a call, and how many numbers are answered for each.
struct Shape {
    count: usize,
    per_call: usize,
    width: usize,
}

impl Process<'_> {
    /// Sends all in messages that `send` writes, on all lanes that have nothing else to do, and appends the answers to `out`.
    fn in_parts(
        &self,
        shape: &Shape,
        send: impl Fn(Draft, Range<usize>) -> Result<Pending, PluginError>,
        out: &mut Vec<f32>,
    ) -> Result<(), PluginError> {
        let origin = self.origin;
        let lanes = self.instance.idle_lanes(origin)?;
        let share = shape.count.div_ceil(lanes.len()).max(LEAST_VECTORS).min(shape.per_call);
        let mut lanes = lanes.into_iter().cycle().peekable();
        let (mut in_flight, mut reply, mut sent) = (VecDeque::new(), PrivateCopy::default(), 0);
        loop {
            while sent < shape.count
                && let Some(lane) = lanes.peek()
            {
                // Who has a call in flight may not wait for another slot: others might wait for the one that it holds.
                let draft = match in_flight.is_empty() {
                    true => Some(lane.begin(self.caller.turn_by(origin.deadline))?),
                    false => lane.try_begin()?,
                };
                let Some(draft) = draft else { break };
                let part = sent..shape.count.min(sent + share);
                let allowed = self.instance.allow_queries(&draft, origin);
                in_flight.push_back((send(draft, part.clone())?, allowed, part.len()));
                sent = part.end;
                lanes.next();
            }
            let Some((pending, _allowed, count)) = in_flight.pop_front() else { return Ok(()) };
            wait_vectors(pending, origin.deadline, (count, shape.width), &mut reply, out)?;
            self.plugin.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use photondb_plugin_distances::Distances;
    use photondb_plugin_sdk::services::Services;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::FailurePolicy;
    use crate::plugins::handshake::Provided;

    const DIMS: usize = 4;

    /// A registry with the first-party distances linked in.
    fn registry() -> Arc<Registry> {
        let registry = Registry::default();
        let plugin = Arc::new(Plugin::new("distances", FailurePolicy::default(), mpsc::unbounded_channel().0));
        let code =
            Code::new(Box::new(Distances), Services::default(), &Datum::object::<&str, Datum>([])).expect("code");
        assert!(registry.add(&plugin));
        registry.provide_all(&plugin, Vec::new(), &Provided::by(&code), Some(&code)).expect("free names");
        Arc::new(registry)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn defined(registry: &Arc<Registry>, name: &str, options: Datum) -> DistanceDefinition {
        PluginDistance::define(registry, name, DIMS as u32, options, soon()).expect("a distance")
    }

    #[test]
    fn a_distance_that_is_linked_in_places_and_measures() {
        let (registry, origin) = (registry(), Origin::until(soon()));
        let jaccard = defined(&registry, "jaccard", Datum::Null);
        let jaccard = PluginDistance::new(Arc::clone(&registry), jaccard, DIMS as u32);
        // More than are measured at once.
        let rows = LEAST_VECTORS * 2 + 3;
        let fill = |at: usize, row: &mut [f32]| {
            row.copy_from_slice(&[1.0, f32::from(u8::from(at.is_multiple_of(2))), 0.0, 0.0])
        };
        let distances = jaccard.measure(&[1.0, 1.0, 0.0, 0.0], rows, fill, &origin).expect("distances");
        assert!(
            (0..rows).all(|at| distances[at] == if at.is_multiple_of(2) { 0.0 } else { 0.5 })
                && distances.len() == rows
        );

        let weights = Datum::object([("weights", Datum::array([4, 0, 1, 1].map(Datum::from)))]);
        let cosine = PluginDistance::new(Arc::clone(&registry), defined(&registry, "weighted_cosine", weights), 4);
        let places = cosine.place(Side::Row, &[1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 0.0, 2.0], &origin).expect("places");
        assert_eq!(places, [1.0, 1.5, 2.0, 0.0, 0.0, 1.0]);
        let error =
            PluginDistance::define(&registry, "weighted_cosine", 4, Datum::Null, soon()).expect_err("no weights");
        assert!(error.to_string().contains("`distances`") && error.to_string().contains("`weights`"), "{error}");
        let long = Datum::from("x".repeat(MAX_OPTIONS));
        assert!(PluginDistance::define(&registry, "jaccard", 4, long, soon()).is_err());
    }

    #[test]
    fn a_distance_that_is_not_what_it_was_is_not_asked() {
        let (registry, origin) = (registry(), Origin::until(soon()));
        let now = defined(&registry, "jaccard", Datum::Null);
        let traits = Traits { is_symmetric: false, ..now.traits };
        let then = DistanceDefinition { traits, version: "0.0.9".into(), ..now };
        let jaccard = PluginDistance::new(registry, then, DIMS as u32);
        let error = jaccard.measure(&[1.0; DIMS], 1, |_, row| row.fill(1.0), &origin).expect_err("another one");
        assert!(
            ["0.0.9", "`jaccard`", "create it again"].iter().all(|part| error.to_string().contains(part)),
            "{error}"
        );
    }
}
