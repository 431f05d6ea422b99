//! Writes: INSERT, UPDATE, REPLACE, DELETE, SYNC.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;
use photondb_plugin_sdk::manifest::Access;

use super::Op;
use crate::query::bulk;
use crate::query::compile::Node;
use crate::query::determinism::{self, Scope};
use crate::query::error::{Frame, ReqlError, Result};
use crate::query::eval::{Call, Context};
use crate::query::function::{Function, Known, Prepared};
use crate::query::order::equal;
use crate::query::paths;
use crate::query::print::pretty;
use crate::query::pseudo::{self, Limits, MAX_DEPTH, Obstacle};
use crate::query::stream::{Fused, Rows, Stream};
use crate::query::tables::TableRef;
use crate::query::value::{Shortcut, Value};
use crate::storage::{Durability, MAX_KEY_STRING, Outcome, StoreError};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(56, "insert", 2, 2, insert).with(Op::WRITES | Op::UNGROUPED | Op::VOLATILE).options(&[
        "conflict",
        "durability",
        "return_changes",
        "ignore_write_hook",
    ]),
    Op::new(53, "update", 2, 2, update)
        .with(Op::WRITES | Op::STREAM_FUNCTION | Op::UNGROUPED | Op::VOLATILE)
        .options(&["non_atomic", "durability", "return_changes", "ignore_write_hook"]),
    Op::new(55, "replace", 2, 2, replace)
        .with(Op::WRITES | Op::STREAM_FUNCTION | Op::UNGROUPED | Op::VOLATILE)
        .options(&["non_atomic", "durability", "return_changes", "ignore_write_hook"]),
    Op::new(54, "delete", 1, 1, delete).with(Op::WRITES | Op::UNGROUPED | Op::VOLATILE).options(&[
        "durability",
        "return_changes",
        "ignore_write_hook",
    ]),
    Op::new(138, "sync", 1, 1, sync).with(Op::WRITES | Op::UNGROUPED | Op::VOLATILE),
];

/// Documents that are written at a time.
const CHUNK: usize = 512;
/// Most elements of an array in a document.
const STORED_ARRAY: usize = 100_000;
/// About the largest document, as bytes of JSON.
const STORED_BYTES: usize = 64 << 20;

/// Which changes the client wants to see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReturnChanges {
    Never,
    Changed,
    Always,
}

/// What a write has done so far.
struct Summary {
    counts: [u64; 6],
    first_error: Option<String>,
    generated_keys: Vec<Datum>,
    return_changes: ReturnChanges,
    changes: Vec<Datum>,
    /// Whether the query may not learn what the documents were.
    is_blind: bool,
    truncated: bool,
    limit: usize,
}

const NAMES: [&str; 6] = ["deleted", "errors", "inserted", "replaced", "skipped", "unchanged"];
const DELETED: usize = 0;
const ERRORS: usize = 1;
const INSERTED: usize = 2;
const REPLACED: usize = 3;
const SKIPPED: usize = 4;
const UNCHANGED: usize = 5;

impl Summary {
    fn new(call: &Call<'_>, table: &TableRef) -> Result<Self> {
        let framed = |error: ReqlError| error.within(Frame::Option("return_changes".into()));
        let return_changes = match call.option_datum("return_changes")? {
            None | Some(Datum::Bool(false)) => ReturnChanges::Never,
            Some(Datum::Bool(true)) => ReturnChanges::Changed,
            Some(Datum::String(text)) if &*text == "always" => ReturnChanges::Always,
            Some(Datum::String(text)) => {
                return Err(framed(ReqlError::logic(format!(
                    "Invalid return_changes value `{text}` (options are `true`, `false`, and `\"always\"`)."
                ))));
            }
            Some(other) => return Err(framed(ReqlError::wrong_type("BOOL", &other))),
        };
        if return_changes != ReturnChanges::Never {
            table.check(Access::Read).map_err(framed)?;
        }
        Ok(Self {
            counts: [0; 6],
            first_error: None,
            generated_keys: Vec::new(),
            return_changes,
            changes: Vec::new(),
            is_blind: !table.allows(Access::Read),
            truncated: false,
            limit: call.ctx().array_limit(),
        })
    }

    fn change(&mut self, old: Option<&Datum>, new: Option<&Datum>, error: Option<&str>) {
        if self.changes.len() >= self.limit {
            self.truncated = true;
            return;
        }
        let side = |datum: Option<&Datum>| datum.cloned().unwrap_or_default();
        let error = error.map(|error| ("error", Datum::from(error)));
        let fields = [("old_val", side(old)), ("new_val", side(new))].into_iter().chain(error);
        self.changes.push(Datum::object(fields));
    }

    fn note_error(&mut self, message: &str) {
        self.first_error.get_or_insert_with(|| message.to_owned());
    }

    /// Counts what became of one document; `old` is the document of a write that failed.
    fn count(&mut self, outcome: Outcome<Refusal>, missing: usize) {
        match outcome {
            Outcome::Unchanged(document) => {
                // That a document is unchanged tells what it was.
                let unchanged = if self.is_blind { REPLACED } else { UNCHANGED };
                self.counts[if document.is_some() { unchanged } else { missing }] += 1;
                if self.return_changes == ReturnChanges::Always {
                    self.change(document.as_ref(), document.as_ref(), None);
                }
            }
            Outcome::Changed { old, new } => {
                self.counts[match (&old, &new) {
                    (None, _) => INSERTED,
                    (Some(_), Some(_)) => REPLACED,
                    (Some(_), None) => DELETED,
                }] += 1;
                if self.return_changes != ReturnChanges::Never {
                    self.change(old.as_ref(), new.as_ref(), None);
                }
            }
            Outcome::Failed(Refusal { error, old }) => self.failed(error.message(), old.as_ref()),
            Outcome::Refused(error) => self.failed(&error.to_string(), None),
        }
    }

    fn failed(&mut self, message: &str, old: Option<&Datum>) {
        self.counts[ERRORS] += 1;
        self.note_error(message);
        if self.return_changes == ReturnChanges::Always {
            self.change(old, old, Some(message));
        }
    }

    fn finish(self) -> Datum {
        let mut summary: Object = NAMES.iter().copied().zip(self.counts).collect();
        if let Some(error) = self.first_error {
            summary.insert("first_error", error);
        }
        if !self.generated_keys.is_empty() {
            summary.insert("generated_keys", self.generated_keys);
        }
        if self.return_changes != ReturnChanges::Never {
            summary.insert("changes", self.changes);
        }
        if self.truncated {
            let warning = format!("Too many changes, array truncated to {}.", self.limit);
            summary.insert("warnings", Datum::array([warning.into()]));
        }
        summary.into()
    }
}

/// Adds the summary of one write to that of several: numbers add up, lists are joined, the first error stays.
pub(super) fn add_summary(summary: &mut Object, part: &Object, ctx: &Context) {
    for (name, value) in part.iter() {
        let sum = match (summary.get(name), value) {
            (Some(Datum::Number(sum)), Datum::Number(value)) => Datum::Number(sum + value),
            (Some(Datum::Array(all)), Datum::Array(more)) => {
                let room = ctx.array_limit().saturating_sub(all.len());
                Datum::array(all.iter().chain(more.iter().take(room)).cloned())
            }
            (Some(first), _) => first.clone(),
            (None, value) => value.clone(),
        };
        summary.insert(name.clone(), sum);
    }
}

/// Why a document was not written, and the one that stays.
struct Refusal {
    error: ReqlError,
    old: Option<Datum>,
}

fn durability(call: &Call<'_>, table: &TableRef) -> Result<Durability> {
    match call.option_string("durability")?.as_deref() {
        None => Ok(table.to_write()?.info().durability),
        Some("hard") => Ok(Durability::Hard),
        Some("soft") => Ok(Durability::Soft),
        Some(other) => Err(bad_durability(other)),
    }
}

/// The error for a durability that there is not.
pub(super) fn bad_durability(name: &str) -> ReqlError {
    ReqlError::logic(format!("Durability option `{name}` unrecognized (options are \"hard\" and \"soft\")."))
}

/// Checks that a document can be stored.
fn check_storable(document: &Datum) -> Result<()> {
    let limits = Limits { depth: MAX_DEPTH, array: STORED_ARRAY, bytes: STORED_BYTES };
    match pseudo::obstacle(document, &limits) {
        None => Ok(()),
        Some(Obstacle::Min | Obstacle::Max) => {
            Err(ReqlError::logic("`r.minval` and `r.maxval` cannot be written to disk."))
        }
        Some(Obstacle::Literal) => Err(ReqlError::logic("`r.literal` cannot be written to disk.")),
        Some(Obstacle::Unread) => Err(pseudo::unread()),
        Some(Obstacle::LongArray) => Err(ReqlError::limit("Array too large for disk writes (limit 100,000 elements).")),
        Some(Obstacle::Depth) => Err(pseudo::too_deep()),
        Some(Obstacle::Size) => Err(ReqlError::limit("Document too large for disk writes (limit 64 MiB).")),
    }
}

/// Checks what a function made of a document.
fn check_replacement(primary_key: &str, old: Option<&Datum>, new: &Datum) -> Result<()> {
    if !matches!(new, Datum::Object(_)) {
        return Err(ReqlError::logic(format!(
            "Inserted value must be an OBJECT (got {}):\n{}",
            pseudo::type_name(new),
            pretty(new)
        )));
    }
    let Some(key) = new.get(primary_key) else {
        let message = format!("Inserted object must have primary key `{primary_key}`:\n{}", pretty(new));
        return Err(ReqlError::logic(message));
    };
    if let Some(old) = old
        && old.get(primary_key).is_some_and(|old| !equal(old, key))
    {
        return Err(ReqlError::logic(format!(
            "Primary key `{primary_key}` cannot be changed (`{}` -> `{}`).",
            pretty(old),
            pretty(new)
        )));
    }
    check_storable(new)
}

/// What an insert does where there is a document already.
enum Conflict {
    Error,
    Replace,
    Update,
    Function(Arc<Function>),
}

fn conflict(call: &Call<'_>) -> Result<Conflict> {
    let framed = |error: ReqlError| error.within(Frame::Option("conflict".into()));
    let function = match call.option("conflict")? {
        None => return Ok(Conflict::Error),
        Some(Value::Function(function)) => function,
        Some(value) => {
            let name = crate::query::eval::string(&value.into_datum(call.ctx())?).map_err(framed)?;
            return match &*name {
                "error" => Ok(Conflict::Error),
                "replace" => Ok(Conflict::Replace),
                "update" => Ok(Conflict::Update),
                other => Err(ReqlError::logic(format!(
                    "Conflict option `{other}` unrecognized (options are \"error\", \"replace\" and \"update\")."
                ))),
            };
        }
    };
    if function.arity() != Some(3) {
        return Err(ReqlError::logic("The conflict function passed to `insert` should expect 3 arguments."));
    }
    if !is_deterministic(call.ctx(), &function) {
        return Err(ReqlError::logic("The conflict function passed to `insert` must be deterministic."));
    }
    Ok(Conflict::Function(function))
}

fn is_deterministic(ctx: &Context, function: &Function) -> bool {
    match function {
        Function::Closure { term, .. } => determinism::is_deterministic(ctx, &term.body, Scope::Query),
        Function::Argument { node, position, .. } => {
            node.args.get(*position).is_some_and(|arg| determinism::is_deterministic(ctx, arg, Scope::Query))
        }
        Function::Plugin(plugin) => plugin.is_pure(),
        _ => true,
    }
}

fn insert(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let stored = table.to_write()?.clone();
    let durability = durability(call, &table)?;
    let conflict = conflict(call)?;
    if matches!(conflict, Conflict::Update | Conflict::Function(_)) {
        table.check(Access::Read)?;
    }
    let mut summary = Summary::new(call, &table)?;
    let rows: Rows = match call.arg(1)? {
        Value::Single(single) => Box::new(std::iter::once(single.read())),
        Value::Datum(datum @ Datum::Object(_)) => Box::new(std::iter::once(Ok(datum))),
        Value::Datum(datum) if !matches!(datum, Datum::Array(_)) => {
            return Err(ReqlError::wrong_type("OBJECT", &datum).at(1));
        }
        other => other.into_stream(call.ctx()).and_then(Stream::into_all_rows).map_err(|error| error.at(1))?,
    };
    let mut rows = Fused::new(rows);
    loop {
        let chunk = kept(call.ctx(), &mut rows)?;
        if chunk.is_empty() {
            break;
        }
        insert_chunk(call.ctx(), &stored, durability, &conflict, chunk, &mut summary)?;
    }
    Ok(summary.finish().into())
}

/// The next documents to write.
fn kept(ctx: &Context, rows: &mut Fused<Rows>) -> Result<Vec<Datum>> {
    rows.take(CHUNK).map(|row| row.and_then(|row| ctx.keep(&row).map(|()| row))).collect()
}

fn insert_chunk(
    ctx: &Arc<Context>,
    table: &crate::storage::Table,
    durability: Durability,
    conflict: &Conflict,
    documents: Vec<Datum>,
    summary: &mut Summary,
) -> Result<()> {
    let primary_key = table.info().primary_key.as_str();
    // What can be said without looking at the table comes first, as in RethinkDB: also in `first_error`.
    let mut ready = Vec::with_capacity(documents.len());
    let mut keys = Vec::with_capacity(documents.len());
    for document in documents {
        let document = with_key(document, primary_key, summary).and_then(|document| {
            check_replacement(primary_key, None, &document)?;
            let key = document.get(primary_key).cloned().unwrap_or_default();
            check_primary_key(&key)?;
            Ok((key, document))
        });
        ready.push(document.map(|(key, document)| {
            keys.push(key);
            document
        }));
    }
    for refused in ready.iter().filter_map(|document| document.as_ref().err()) {
        summary.note_error(refused.message());
    }
    let accepted: Vec<&Datum> = ready.iter().filter_map(|document| document.as_ref().ok()).collect();
    let is_blind = summary.is_blind;
    let outcomes = table.replace(&keys, durability, &mut |position, old| {
        let new = accepted.get(position).copied().cloned().unwrap_or_default();
        let running = ctx.check_call();
        let replacement = running.and_then(|()| match old {
            Some(old) => replacement(ctx, primary_key, conflict, old, new, is_blind),
            None => Ok(Some(new)),
        });
        replacement.map_err(|error| Refusal { error, old: old.cloned() })
    })?;
    let mut outcomes = outcomes.into_iter();
    for document in &ready {
        match document {
            Err(error) => summary.failed(error.message(), None),
            Ok(_) => summary.count(outcomes.next().unwrap_or(Outcome::Unchanged(None)), SKIPPED),
        }
    }
    Ok(())
}

/// What can be said of a key without the store, which says the rest.
fn check_primary_key(key: &Datum) -> Result<()> {
    match key {
        Datum::Null | Datum::Object(_) => Err(StoreError::KeyType { found: key.clone() }.into()),
        Datum::String(text) if text.len() > MAX_KEY_STRING => Err(StoreError::KeyTooLong { key: key.clone() }.into()),
        _ => Ok(()),
    }
}

/// The document, with a new UUID as its primary key if it has none.
fn with_key(document: Datum, primary_key: &str, summary: &mut Summary) -> Result<Datum> {
    let document = paths::merge(&Datum::Object(Arc::default()), &document);
    let Datum::Object(object) = &document else { return Err(ReqlError::wrong_type("OBJECT", &document)) };
    if object.get(primary_key).is_some() {
        return Ok(document);
    }
    let key = Datum::from(uuid::Uuid::new_v4().to_string());
    let mut object = (**object).clone();
    object.insert(primary_key, key.clone());
    if summary.generated_keys.len() < summary.limit {
        summary.generated_keys.push(key);
    }
    Ok(object.into())
}

/// What an insert makes of the document that has the new one's key.
fn replacement(
    ctx: &Arc<Context>,
    primary_key: &str,
    conflict: &Conflict,
    old: &Datum,
    new: Datum,
    is_blind: bool,
) -> Result<Option<Datum>> {
    let replacement = match conflict {
        Conflict::Error if is_blind => {
            return Err(ReqlError::logic(format!("Duplicate primary key `{primary_key}`:\n{}", pretty(&new))));
        }
        Conflict::Error => {
            return Err(ReqlError::logic(format!(
                "Duplicate primary key `{primary_key}`:\n{}\n{}",
                pretty(old),
                pretty(&new)
            )));
        }
        Conflict::Replace => new,
        Conflict::Update => paths::merge(old, &new),
        Conflict::Function(function) => {
            let key = new.get(primary_key).cloned().unwrap_or_default();
            match function.call_datum(ctx, vec![key, old.clone(), new])? {
                Datum::Null => return Ok(None),
                replacement => replacement,
            }
        }
    };
    check_replacement(primary_key, Some(old), &replacement)?;
    Ok(Some(replacement))
}

/// What a write makes of each document of a selection.
enum Change {
    Update(Arc<Function>),
    Replace(Arc<Function>),
    Delete,
}

fn update(call: &Call<'_>) -> Result<Value> {
    // An object is evaluated for each document, so that what fails in it fails for that document only.
    let function = match call.arg_node(1) {
        Some(Node::Function(_)) | None => call.function(1, Shortcut::Constant)?,
        Some(_) => {
            Arc::new(Function::Argument { node: call.node.clone(), position: 1, around: call.env.frame.clone() })
        }
    };
    check_atomic(call, &function)?;
    write_selection(call, Change::Update(function))
}

fn replace(call: &Call<'_>) -> Result<Value> {
    let function = call.function(1, Shortcut::Constant)?;
    check_atomic(call, &function)?;
    write_selection(call, Change::Replace(function))
}

fn delete(call: &Call<'_>) -> Result<Value> {
    write_selection(call, Change::Delete)
}

fn check_atomic(call: &Call<'_>, function: &Function) -> Result<()> {
    if call.option_flag("non_atomic")? || is_deterministic(call.ctx(), function) {
        return Ok(());
    }
    Err(ReqlError::logic("Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?").at(1))
}

fn write_selection(call: &Call<'_>, change: Change) -> Result<Value> {
    let selection = call.arg(0)?;
    let Some(table) = selection.table() else { return Err(selection.wrong_kind("SELECTION").at(0)) };
    let stored = table.to_write()?.clone();
    if !matches!(change, Change::Delete) {
        table.check(Access::Read)?;
    }
    let durability = durability(call, &table)?;
    let mut summary = Summary::new(call, &table)?;
    let writer = Writer { ctx: call.ctx(), table: &stored, durability, change: &change };
    if let Value::Single(single) = selection {
        let outcomes = writer.write(vec![single.key.clone()], Vec::new())?;
        outcomes.into_iter().for_each(|outcome| summary.count(outcome, SKIPPED));
        return Ok(summary.finish().into());
    }
    let mut rows = Fused::new(selection.into_stream(call.ctx()).and_then(Stream::into_all_rows).map_err(|e| e.at(0))?);
    loop {
        let rows = kept(call.ctx(), &mut rows).map_err(|error| error.at(0))?;
        if rows.is_empty() {
            break;
        }
        let keys = rows.iter().filter_map(|row| row.get(table.primary_key()).cloned()).collect();
        let outcomes = writer.write(keys, rows)?;
        outcomes.into_iter().for_each(|outcome| summary.count(outcome, SKIPPED));
    }
    Ok(summary.finish().into())
}

/// Writes chunks of one selection.
struct Writer<'a> {
    ctx: &'a Arc<Context>,
    table: &'a crate::storage::Table,
    durability: Durability,
    change: &'a Change,
}

impl Writer<'_> {
    /// `seen`: the documents of the keys as the selection read them, for plugins to work on in one batch.
    fn write(&self, keys: Vec<Datum>, seen: Vec<Datum>) -> Result<Vec<Outcome<Refusal>>> {
        let mut prepared: Vec<Option<Prepared>> = self.prepare(&seen).into_iter().map(Some).collect();
        let apply = &mut |position: usize, old: Option<&Datum>| {
            let known = prepared.get_mut(position).and_then(Option::take).filter(|call| {
                // Somebody may have changed the document since: then its results are computed again.
                matches!(call.known, Known::Nothing)
                    || call.row().datum().ok().zip(old).is_some_and(|(seen, old)| equal(seen, old))
            });
            let running = self.ctx.check_call();
            running.and_then(|()| self.apply(old, known)).map_err(|error| Refusal { error, old: old.cloned() })
        };
        Ok(self.table.replace(&keys, self.durability, apply)?)
    }

    fn prepare(&self, seen: &[Datum]) -> Vec<Prepared> {
        match self.change {
            Change::Update(function) | Change::Replace(function) if bulk::batches(function) => {
                bulk::prepare(function, self.ctx, seen.iter().map(|row| vec![row.clone().into()]).collect())
            }
            _ => Vec::new(),
        }
    }

    fn apply(&self, old: Option<&Datum>, known: Option<Prepared>) -> Result<Option<Datum>> {
        let primary_key = self.table.info().primary_key.as_str();
        let document = old.cloned().unwrap_or_default();
        let call = match known {
            Some(Prepared { known, .. }) => Prepared { args: vec![document.clone().into()], known },
            None => Prepared::of(document.clone()),
        };
        let new = match self.change {
            Change::Delete => return Ok(None),
            Change::Update(_) if old.is_none() => return Ok(None),
            Change::Update(function) => {
                match function.finish(self.ctx, call).and_then(|value| value.into_datum(self.ctx))? {
                    Datum::Null => return Ok(Some(document)),
                    change @ Datum::Object(_) => paths::merge(&document, &change),
                    other => other,
                }
            }
            Change::Replace(function) => {
                match function.finish(self.ctx, call).and_then(|value| value.into_datum(self.ctx))? {
                    Datum::Null => return Ok(None),
                    new => paths::merge(&Datum::Object(Arc::default()), &new),
                }
            }
        };
        check_replacement(primary_key, old, &new)?;
        Ok(Some(new))
    }
}

fn sync(call: &Call<'_>) -> Result<Value> {
    call.table(0)?.to_administer(call.ctx(), "sync tables")?.sync()?;
    Ok(Datum::object([("synced", 1)]).into())
}
