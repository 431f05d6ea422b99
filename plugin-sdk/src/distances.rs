//! Distances over a lane: what each operation carries, and both halves.
//!
//! A distance is not opened: its options travel with every call, so that the next process answers like the last one. The
//! plugin's half keeps what it has [prepared](DistancePlugin::prepare).
//!
//! | operation | argument | request | reply |
//! |---|---|---|---|
//! | prepare | length of vectors | options (one `Datum`) | traits (one `Datum`) |
//! | place | 0: rows, 1: queries | options; vectors (`F32`) | places (`F32`) |
//! | measure | length of vectors | options; the place of a query (`F32`); places of rows (`F32`) | distances (`F32` of one number) |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use photondb_ipc_schema::batch::{Batch, BatchFull, BatchWriter, Column, Kind};
use photondb_ipc_schema::lane::{Draft, Lane, Operation, Pending, Request};
use photondb_ipc_schema::region::PrivateCopy;

use crate::calls::{answer, protocol};
use crate::column::MAX_DIMS;
use crate::kinds::distance::{Distance, DistancePlugin, Side, Traits};
use crate::runtime::guard;
use crate::{Cause, Datum, PluginError};

/// The longest options, encoded: beside them, a message has room for two vectors of any length.
pub const MAX_OPTIONS: usize = 256 << 10;
/// Room that a message needs beside its columns.
const OVERHEAD: usize = 1024;
/// Distances that the plugin's half keeps prepared.
const MAX_PREPARED: usize = 32;

/// One distance of a plugin, as its calls name it.
#[derive(Clone, Copy, Debug)]
pub struct DistanceCalls<'a> {
    /// Its number: the position in what the plugin registered.
    pub number: u32,
    /// The length of the vectors.
    pub dims: usize,
    /// Its options, an encoded datum of at most [`MAX_OPTIONS`] bytes.
    pub options: &'a [u8],
}

impl DistanceCalls<'_> {
    /// What it is like.
    ///
    /// # Errors
    /// What the plugin has against the options, or what happened to it; [`Cause::Protocol`] for traits that can't be.
    pub fn prepare(&self, lane: &Arc<Lane>, deadline: Instant) -> Result<Traits, PluginError> {
        let mut draft = lane.begin(deadline)?;
        let mut writer = BatchWriter::new(draft.buffer(), 1, 1).map_err(too_large)?;
        writer.values(Kind::Datum, 1, |_, out| out.put(self.options)).map_err(too_large)?;
        let sent = writer.finish();
        let pending = draft.send(Operation::DistancePrepare, self.number, sent, self.dims as u64);
        let mut reply = PrivateCopy::default();
        answer(pending, deadline, &mut reply)?;
        let traits = Batch::parse(reply.bytes()).ok().and_then(|batch| match batch.column(0) {
            Some(Column::Datum(values)) => Traits::from_datum(&Datum::decode(values.get(0)?).ok()?),
            _ => None,
        });
        traits
            .filter(|traits| are_possible(traits, self.dims))
            .ok_or_else(|| protocol("traits of a distance that can't be"))
    }

    /// How many vectors, whose places have `place_dims` numbers, fit into one call.
    #[must_use]
    pub fn vectors_per_call(&self, lane: &Lane, place_dims: usize) -> usize {
        let request = lane.buffer_bytes().saturating_sub(OVERHEAD + self.options.len()) / (self.dims * 4).max(1);
        let reply = lane.buffer_bytes().saturating_sub(OVERHEAD) / (place_dims * 4).max(1);
        request.min(reply).max(1)
    }

    /// How many rows, whose places have `place_dims` numbers, fit into one call.
    #[must_use]
    pub fn rows_per_call(&self, lane: &Lane, place_dims: usize) -> usize {
        let place = (place_dims * 4).max(1);
        (lane.buffer_bytes().saturating_sub(OVERHEAD + self.options.len() + place) / place).max(1)
    }

    /// Sends vectors (`[n, dims]`, at most [so many](Self::vectors_per_call)) by a call that has begun.
    ///
    /// # Errors
    /// [`Cause::Limit`] when they don't fit.
    pub fn send_vectors(&self, mut draft: Draft, side: Side, vectors: &[f32]) -> Result<Pending, PluginError> {
        let count = vectors.len() / self.dims.max(1);
        let mut writer = BatchWriter::new(draft.buffer(), 2, count).map_err(too_large)?;
        writer.values(Kind::Datum, 1, |_, out| out.put(self.options)).map_err(too_large)?;
        writer.f32s(self.dims, count).map_err(too_large)?.copy_from_slice(vectors);
        let sent = writer.finish();
        Ok(draft.send(Operation::DistancePlace, self.number, sent, u64::from(side == Side::Query)))
    }

    /// Sends the place of a query, and those of `count` rows (at most [so many](Self::rows_per_call)), which `fill` writes
    /// one by one, by a call that has begun.
    ///
    /// # Errors
    /// [`Cause::Limit`] when they don't fit.
    pub fn send_rows(
        &self,
        mut draft: Draft,
        query: &[f32],
        count: usize,
        mut fill: impl FnMut(usize, &mut [f32]),
    ) -> Result<Pending, PluginError> {
        let mut writer = BatchWriter::new(draft.buffer(), 3, count).map_err(too_large)?;
        writer.values(Kind::Datum, 1, |_, out| out.put(self.options)).map_err(too_large)?;
        writer.f32s(query.len(), 1).map_err(too_large)?.copy_from_slice(query);
        let rows = writer.f32s(query.len(), count).map_err(too_large)?;
        rows.chunks_exact_mut(query.len().max(1)).enumerate().for_each(|(at, row)| fill(at, row));
        let sent = writer.finish();
        Ok(draft.send(Operation::DistanceMeasure, self.number, sent, self.dims as u64))
    }
}

/// Waits for `count` vectors of `width` numbers each: places, or distances, of which each is one number. Appends them to
/// `out` as the plugin said them: they need not be numbers.
///
/// # Errors
/// What the plugin said, or what happened to it; [`Cause::Protocol`] for an answer of another shape.
pub fn wait_vectors(
    pending: Pending,
    deadline: Instant,
    (count, width): (usize, usize),
    reply: &mut PrivateCopy,
    out: &mut Vec<f32>,
) -> Result<(), PluginError> {
    answer(pending, deadline, reply)?;
    let batch = Batch::parse(reply.bytes()).map_err(|error| protocol(error.to_string()))?;
    match batch.column(0) {
        Some(Column::F32 { width: found, values }) if found == width && values.len() == count * width => {
            out.extend_from_slice(values);
            Ok(())
        }
        _ => Err(protocol("an answer of a distance of another size than was asked for")),
    }
}

/// Whether a distance of vectors of `dims` numbers can be like that.
fn are_possible(traits: &Traits, dims: usize) -> bool {
    (1..=MAX_DIMS as usize).contains(&traits.dims) && (!traits.is_placed_as_is || traits.dims == dims)
}

fn too_large(error: BatchFull) -> PluginError {
    let bytes = error.capacity;
    PluginError::runtime(Cause::Limit, format!("the vectors do not fit into a message of {bytes} bytes"))
}

/// The plugin's half: the distances that were asked for, prepared.
#[derive(Default)]
pub(crate) struct Prepared {
    /// The one used last stands last.
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    number: u32,
    dims: usize,
    options: Vec<u8>,
    distance: Arc<dyn Distance>,
    traits: Traits,
}

impl Prepared {
    /// A distance, prepared, and what it is like.
    ///
    /// # Errors
    /// What the plugin has against the options.
    pub(crate) fn get(
        &self,
        distances: &[Arc<dyn DistancePlugin>],
        calls: &DistanceCalls<'_>,
    ) -> Result<(Arc<dyn Distance>, Traits), PluginError> {
        let &DistanceCalls { number, dims, options } = calls;
        let is_it = |kept: &Kept| kept.number == number && kept.dims == dims && kept.options == options;
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = kept.iter().rposition(is_it) {
                let found = (Arc::clone(&kept[at].distance), kept[at].traits);
                kept[at..].rotate_left(1);
                return Ok(found);
            }
        }
        let plugin = distances.get(number as usize).ok_or_else(|| protocol(format!("no distance number {number}")))?;
        let read = Datum::decode(options).map_err(|error| protocol(error.to_string()))?;
        let (distance, traits) = guard(|| {
            let distance: Arc<dyn Distance> = plugin.prepare(dims, &read)?.into();
            let traits = distance.traits();
            Ok((distance, traits))
        })?;
        if !are_possible(&traits, dims) {
            let message =
                format!("the distance `{}` of {dims} numbers has impossible traits: {traits:?}", plugin.name());
            return Err(PluginError::runtime(Cause::Plugin, message));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MAX_PREPARED {
            kept.remove(0);
        }
        kept.push(Kept { number, dims, options: options.to_vec(), distance: Arc::clone(&distance), traits });
        Ok((distance, traits))
    }

    /// Answers a call of a lane: the bytes of the reply.
    pub(crate) fn answer(
        &self,
        distances: &[Arc<dyn DistancePlugin>],
        operation: Operation,
        request: &Request,
        payload: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, PluginError> {
        let malformed = || protocol("a call of a distance without what it takes");
        let batch = Batch::parse(payload).map_err(|error| protocol(error.to_string()))?;
        let Some(Column::Datum(options)) = batch.column(0) else { return Err(malformed()) };
        let (number, options) = (request.target, options.get(0).ok_or_else(malformed)?);
        let vectors = |column| match batch.column(column) {
            Some(Column::F32 { width, values }) if width > 0 => Ok((width, values)),
            _ => Err(malformed()),
        };
        let calls = |dims| DistanceCalls { number, dims, options };
        match operation {
            Operation::DistancePlace => {
                let (width, vectors) = vectors(1)?;
                let (distance, traits) = self.get(distances, &calls(width))?;
                let side = if request.argument == 0 { Side::Row } else { Side::Query };
                let count = vectors.len() / width;
                let mut writer = BatchWriter::new(reply, 1, count).map_err(too_large)?;
                let places = writer.f32s(traits.dims, count).map_err(too_large)?;
                place_all(&*distance, side, (vectors, width), (places, traits.dims));
                Ok(writer.finish())
            }
            Operation::DistanceMeasure => {
                let ((query_dims, query), (width, rows)) = (vectors(1)?, vectors(2)?);
                let (distance, traits) = self.get(distances, &calls(request.argument as usize))?;
                if (query_dims, query.len(), width) != (traits.dims, traits.dims, traits.dims) {
                    return Err(malformed());
                }
                let count = rows.len() / width;
                let mut writer = BatchWriter::new(reply, 1, count).map_err(too_large)?;
                distance.measure(query, rows, writer.f32s(1, count).map_err(too_large)?);
                Ok(writer.finish())
            }
            _ => {
                let (_, traits) = self.get(distances, &calls(request.argument as usize))?;
                let traits = traits.to_datum().encoded();
                let mut writer = BatchWriter::new(reply, 1, 1).map_err(too_large)?;
                writer.values(Kind::Datum, 1, |_, out| out.put(&traits)).map_err(too_large)?;
                Ok(writer.finish())
            }
        }
    }
}

/// Writes the places of vectors; of both, the numbers one behind the other, and how many each has.
pub fn place_all(
    distance: &dyn Distance,
    side: Side,
    (vectors, dims): (&[f32], usize),
    (places, place_dims): (&mut [f32], usize),
) {
    for (vector, place) in vectors.chunks_exact(dims).zip(places.chunks_exact_mut(place_dims)) {
        distance.place(side, vector, place);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Duration;

    use photondb_ipc_schema::lane::{Completion, Traffic, Worker};
    use photondb_ipc_schema::layout::Layout;
    use photondb_ipc_schema::region::{self, OwnRegion, TrustedRegion};
    use photondb_ipc_schema::wake::Spin;

    use super::*;
    use crate::kinds::distance::Metric;

    /// A lane whose other end answers every call with what `lie` writes.
    fn lane(lie: fn(&mut [u8]) -> usize) -> Arc<Lane> {
        let layout = Layout::new(1, 8, 1 << 16).expect("a layout");
        let bytes = layout.region_bytes();
        let (own, own_fd) = region::server_written("test", bytes).expect("memory");
        let (peer, peer_fd) = region::plugin_written("test", bytes).expect("memory");
        let lane = Lane::all(layout, own, peer, Spin::NEVER, &Traffic::default()).remove(0);
        let trusted = TrustedRegion::map(own_fd.as_fd(), bytes).expect("a mapping");
        let owned = OwnRegion::map(peer_fd.as_fd(), bytes).expect("a mapping");
        let mut worker = Worker::all(trusted, owned).expect("a layout").remove(0);
        thread::spawn(move || {
            loop {
                worker.serve_next(|call| Completion { status: 0, payload: lie(call.reply), value: 0 });
            }
        });
        lane
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    const CALLS: DistanceCalls<'_> = DistanceCalls { number: 0, dims: 4, options: &[0] };

    fn floats(reply: &mut [u8], width: usize, count: usize) -> usize {
        let mut writer = BatchWriter::new(reply, 1, count).expect("room");
        writer.f32s(width, count).expect("room").fill(1.0);
        writer.finish()
    }

    fn datum(reply: &mut [u8], datum: &Datum) -> usize {
        let mut writer = BatchWriter::new(reply, 1, 1).expect("room");
        writer.values(Kind::Datum, 1, |_, out| out.put(&datum.encoded())).expect("room");
        writer.finish()
    }

    #[test]
    fn an_answer_of_another_size_is_a_breach() {
        let lies: [fn(&mut [u8]) -> usize; 6] = [
            |_| 0,
            |reply| floats(reply, 3, 4),
            |reply| floats(reply, 3, 6),
            |reply| floats(reply, 5, 3),
            |reply| datum(reply, &Datum::Null),
            |reply| {
                reply.fill(0xff);
                reply.len()
            },
        ];
        for lie in lies {
            let lane = lane(lie);
            let pending = CALLS.send_vectors(lane.begin(soon()).expect("a slot"), Side::Row, &[0.0; 20]);
            let (mut reply, mut out) = (PrivateCopy::default(), Vec::new());
            let error = wait_vectors(pending.expect("room"), soon(), (5, 3), &mut reply, &mut out);
            assert!(error.expect_err("a lie").cause() == Cause::Protocol && out.is_empty());
        }
        let honest = lane(|reply| floats(reply, 3, 5));
        let pending = CALLS.send_vectors(honest.begin(soon()).expect("a slot"), Side::Row, &[0.0; 20]);
        let mut out = Vec::new();
        wait_vectors(pending.expect("room"), soon(), (5, 3), &mut PrivateCopy::default(), &mut out).expect("vectors");
        assert_eq!(out, [1.0; 15]);
    }

    #[test]
    fn traits_that_cannot_be_are_a_breach() {
        let lies: [fn(&mut [u8]) -> usize; 4] = [
            |_| 0,
            |reply| floats(reply, 1, 1),
            |reply| datum(reply, &Datum::object([("base", "l7")])),
            // Vectors of 4 numbers are no places of 5.
            |reply| datum(reply, &Traits::of(Metric::L2, 5).to_datum()),
        ];
        for lie in lies {
            assert_eq!(CALLS.prepare(&lane(lie), soon()).expect_err("a lie").cause(), Cause::Protocol);
        }
        let honest = lane(|reply| datum(reply, &Traits::of(Metric::L2, 4).to_datum()));
        assert_eq!(CALLS.prepare(&honest, soon()), Ok(Traits::of(Metric::L2, 4)));
    }

    #[test]
    fn vectors_and_options_of_any_length_fit_into_a_call() {
        let layout = Layout::new(1, 8, 1 << 20).expect("a layout");
        let bytes = layout.region_bytes();
        let (own, _own_fd) = region::server_written("test", bytes).expect("memory");
        let (peer, _peer_fd) = region::plugin_written("test", bytes).expect("memory");
        let lane = Lane::all(layout, own, peer, Spin::NEVER, &Traffic::default()).remove(0);
        let (dims, options) = (MAX_DIMS as usize, vec![0; MAX_OPTIONS]);
        let calls = DistanceCalls { number: 0, dims, options: &options };
        let count = calls.vectors_per_call(&lane, dims);
        assert!(count >= 2);
        let vectors = vec![0.0; count * dims];
        calls.send_vectors(lane.begin(soon()).expect("a slot"), Side::Row, &vectors).expect("they fit");
        let count = calls.rows_per_call(&lane, dims);
        let sent =
            calls.send_rows(lane.begin(soon()).expect("a slot"), &vectors[..dims], count, |_, row| row.fill(0.0));
        sent.expect("they fit");
    }
}
