//! What crosses a lane, and how a call can end.

use std::sync::Arc;

use thiserror::Error;

use crate::layout::DESCRIPTOR_WORDS;
use crate::region::UntrustedRegion;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Nothing: measures the lane.
    Nop = 0,
    /// Function `target` over a batch of rows, one argument a column; the reply is a batch of one column.
    InvokeFunction = 1,
    /// Index `target`: insert the rows of a `U32` column.
    IndexInsert = 2,
    /// Index `target`: remove the rows of a `U32` column.
    IndexRemove = 3,
    /// Index `target`: the `argument` nearest rows. Request: queries (`F32`), settings (one `Datum`) and, where rows
    /// are excluded, an allow-bitmap (`U8`). Reply: rows (`U32`), distances (`F32`), counts (`U32`).
    IndexSearch = 4,
    /// Index `target`: one chunk of its saved form, from byte `argument` on; value: all bytes of it. Offset 0 takes
    /// a new picture of the index.
    IndexSave = 5,
    /// Index `target`: one chunk (`U8`) of what was saved, from byte `argument` on; an empty chunk ends it.
    IndexLoad = 6,
    /// Checks the options of a storage engine. What engine operations carry is in the SDK's `engine` module.
    EngineValidate = 7,
    /// Opens the engine number `target`. The number is the server's, and never used twice by one process.
    EngineOpen = 8,
    /// Closes engine `target`, if it is open.
    EngineClose = 9,
    /// Removes the directory of an engine that is not open.
    EngineRemove = 10,
    /// Engine `target`: the values of keys, in the snapshot `argument`, or now if that is 0; value: how many were answered.
    EngineGet = 11,
    /// Engine `target`: bytes of a batch that does not fit into one message, from byte `argument` on.
    EngineStage = 12,
    /// Engine `target`: the rest of a batch, which is committed; argument 1: to the disk.
    EngineCommit = 13,
    /// Engine `target`: takes the snapshot number `argument`.
    EngineSnapshot = 14,
    /// Engine `target`: frees snapshots and scans.
    EngineRelease = 15,
    /// Engine `target`: begins the scan number `argument`; the reply is its first page.
    EngineScan = 16,
    /// Engine `target`: the next page of the scan `argument`.
    EnginePage = 17,
    /// Engine `target`: puts every commit so far on the disk.
    EngineFlush = 18,
    /// Engine `target`: removes a keyspace.
    EngineDropKeyspace = 19,
    /// Engine `target`: sizes and counts, an encoded datum.
    EngineStatistics = 20,
    /// Engine `target`: which documents it wants changed; value: 0: none ever, 1: these, 2: these, and more later.
    EngineUpkeep = 21,
    /// Distance `target`, of vectors of `argument` numbers: what it is like, with these options (one `Datum`). What operations
    /// of distances carry is in the SDK's `distances` module.
    DistancePrepare = 22,
    /// Distance `target`: the places of vectors; argument 1: of queries.
    DistancePlace = 23,
    /// Distance `target`, of vectors of `argument` numbers: the distances from the place of a query to those of rows.
    DistanceMeasure = 24,
}

impl Operation {
    /// The operation of that number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Nop,
            1 => Self::InvokeFunction,
            2 => Self::IndexInsert,
            3 => Self::IndexRemove,
            4 => Self::IndexSearch,
            5 => Self::IndexSave,
            6 => Self::IndexLoad,
            7 => Self::EngineValidate,
            8 => Self::EngineOpen,
            9 => Self::EngineClose,
            10 => Self::EngineRemove,
            11 => Self::EngineGet,
            12 => Self::EngineStage,
            13 => Self::EngineCommit,
            14 => Self::EngineSnapshot,
            15 => Self::EngineRelease,
            16 => Self::EngineScan,
            17 => Self::EnginePage,
            18 => Self::EngineFlush,
            19 => Self::EngineDropKeyspace,
            20 => Self::EngineStatistics,
            21 => Self::EngineUpkeep,
            22 => Self::DistancePrepare,
            23 => Self::DistancePlace,
            24 => Self::DistanceMeasure,
            _ => return None,
        })
    }
}

/// A request without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The number of an [`Operation`].
    pub operation: u16,
    /// Which function, index or engine.
    pub target: u32,
    /// Bytes of payload in the slot's buffer.
    pub payload: usize,
    /// Meaning depends on the operation.
    pub argument: u64,
}

/// A completion without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// 0: success; else 1 + the number of the cause, and the payload is a UTF-8 message.
    pub status: u8,
    /// Bytes of payload in the slot's buffer.
    pub payload: usize,
    /// Meaning depends on the operation.
    pub value: u64,
}

/// Why a call ended without an answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneError {
    /// No free slot, or no answer, before the deadline.
    #[error("no answer before the deadline")]
    Deadline,
    /// No free slot before the deadline: more calls than the plugin can answer.
    #[error("too many calls wait for it: none of its slots came free in time; try again later")]
    Full,
    /// The process behind the lane ended.
    #[error("the plugin process ended: {0}")]
    Dead(Arc<str>),
    /// The plugin wrote what no honest one would.
    #[error("the plugin broke the protocol: {0}")]
    Violation(&'static str),
}

/// The descriptor of a completion as the plugin wrote it, in private memory: each word was loaded once. There is nothing
/// to be done with it but to check it.
pub(super) struct UntrustedCompletion([u64; DESCRIPTOR_WORDS]);

/// What a completion has to keep to.
pub(super) struct Limits {
    /// What the request said.
    pub(super) nonce: u64,
    /// The window for the payload.
    pub(super) buffer_bytes: usize,
}

impl UntrustedCompletion {
    /// Loads the descriptor words behind the sequence word at `at`.
    pub(super) fn load(region: &UntrustedRegion, at: usize) -> Self {
        Self(std::array::from_fn(|index| region.load_u64(at + 8 + index * 8)))
    }

    pub(super) fn validate(self, limits: &Limits) -> Result<Completion, LaneError> {
        let [status, nonce, payload, value] = self.0;
        if nonce != limits.nonce {
            return Err(LaneError::Violation("a completion with a wrong nonce"));
        }
        let status = u8::try_from(status).map_err(|_| LaneError::Violation("a completion with an unknown status"))?;
        match usize::try_from(payload) {
            Ok(payload) if payload <= limits.buffer_bytes => Ok(Completion { status, payload, value }),
            _ => Err(LaneError::Violation("a completion longer than its buffer")),
        }
    }
}
