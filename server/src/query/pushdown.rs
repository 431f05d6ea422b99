//! What a query needs of a table, told to the table's engine.
//!
//! A scan of a table that an engine of a plugin stores does not begin before its first document is asked for. Until then, the
//! operations that its documents go through say what they are about: `filter` in which ranges fields must lie, operations
//! on fields which ones they read. What they say is never more than a hint: each operation still does all that it does, and a
//! field that was not read is read when it is needed (`storage/document.rs`). So what has to be right here is one thing: that
//! a document which is left out would have been left out in silence.
//!
//! A predicate is a conjunction. Its leading comparisons of a top-level field with a constant become ranges: where one does not
//! hold, or the field is not there, the row is out, and nothing behind it is evaluated. Behind a part that may fail nothing
//! becomes a range, since the failure has to be seen. With another `default` than to leave rows out, nothing does either.

use std::fmt::Write;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;
use photondb_plugin_sdk::kinds::storage::{FieldRange, Selection};

use super::compile::{CallNode, Node};
use super::eval::Bindings;
use super::function::{Function, Missing};
use super::paths::Path;
use super::pseudo;
use super::row::Row;
use super::terms;

/// A scan that has not begun, and what is known of what it is for.
#[derive(Debug, Default)]
pub struct Scan(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    filter: Vec<FieldRange>,
    /// Whether rows that are left out would have been left out in silence.
    is_closed: bool,
    /// Fields that were read on the way; `None`: any.
    read: Fields,
    /// Fields that are needed in the end; nobody has said so yet at first.
    used: Option<Fields>,
}

/// Top-level fields that an operation reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Any, or all.
    All,
    /// These.
    Only(Vec<Arc<str>>),
}

impl Default for Fields {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl Fields {
    fn with(&mut self, others: Self) {
        match (&mut *self, others) {
            (Self::Only(known), Self::Only(others)) => {
                for field in others {
                    if !known.contains(&field) {
                        known.push(field);
                    }
                }
            }
            _ => *self = Self::All,
        }
    }

    /// Those that a path names.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let mut fields = Vec::new();
        path.add_fields(&mut fields);
        Self::Only(fields)
    }

    /// Those that a predicate reads.
    fn of_predicate(function: &Function) -> Self {
        let mut fields = Self::of_function(function);
        // A pattern is compared with fields of the document.
        let pattern: Vec<Arc<str>> = match function {
            Function::Constant(Datum::Object(pattern)) => return Self::Only(names(pattern)),
            Function::Closure { term, .. } => match &term.body {
                Node::Constant { value: Datum::Object(pattern), .. } => names(pattern),
                Node::Object(parts) => parts.iter().map(|(name, _)| name.clone()).collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        fields.with(Self::Only(pattern));
        fields
    }

    /// Those that a function of one document reads.
    #[must_use]
    pub fn of_function(function: &Function) -> Self {
        match function {
            Function::Field(field) => Self::Only(vec![field.clone()]),
            Function::Closure { term, .. } if term.params.len() == 1 => {
                let mut fields = Self::default();
                read_by(&term.body, 0, &mut fields);
                fields
            }
            _ => Self::All,
        }
    }
}

fn names(object: &Object) -> Vec<Arc<str>> {
    object.iter().map(|(name, _)| name.clone()).collect()
}

/// Adds what a node within `inside` further functions reads of the document.
fn read_by(node: &Node, inside: usize, fields: &mut Fields) {
    match node {
        Node::Constant { .. } => {}
        Node::Variable { up, .. } if *up != inside => {}
        Node::Variable { .. } => *fields = Fields::All,
        Node::Function(term) => read_by(&term.body, inside + 1, fields),
        Node::Object(parts) => parts.iter().for_each(|(_, part)| read_by(part, inside, fields)),
        Node::Call(call) => match field_of(node, inside) {
            Some(field) => fields.with(Fields::Only(vec![field.clone()])),
            None => {
                call.args.iter().for_each(|arg| read_by(arg, inside, fields));
                call.options.iter().for_each(|(_, option)| read_by(option, inside, fields));
            }
        },
    }
}

/// The field that a node takes of the document.
fn field_of(node: &Node, inside: usize) -> Option<&Arc<str>> {
    let Node::Call(call) = node else { return None };
    let is_access = call.op.number == terms::BRACKET || call.op.number == terms::GET_FIELD;
    match call.args.as_slice() {
        [Node::Variable { up, position: 0, .. }, Node::Constant { value: Datum::String(field), .. }]
            if is_access && *up == inside && call.options.is_empty() =>
        {
            Some(field)
        }
        _ => None,
    }
}

/// What a predicate needs to hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Conditions {
    ranges: Vec<FieldRange>,
    /// There may be more to it, and that may fail.
    may_fail: bool,
}

impl Conditions {
    fn of(function: &Function, missing: &Missing) -> Self {
        let mut conditions = Self::default();
        if !matches!(missing, Missing::Value(false)) {
            conditions.may_fail = true;
            return conditions;
        }
        match function {
            Function::Constant(Datum::Object(pattern)) => conditions.pattern(pattern),
            Function::Closure { term, around } if term.params.len() <= 1 => match &term.body {
                // A longer array may be longer than the query allows.
                Node::Constant { value: Datum::Object(pattern), longest_array: 0..=1 } => conditions.pattern(pattern),
                Node::Object(parts) => {
                    let value = |node| constant(node, around.as_ref());
                    let parts = parts.iter().map(|(field, node)| Some((field.clone(), value(node)?)));
                    match parts.collect::<Option<Object>>() {
                        Some(pattern) => conditions.pattern(&pattern),
                        None => conditions.may_fail = true,
                    }
                }
                body => conditions.conjunct(body, around.as_ref()),
            },
            _ => conditions.may_fail = true,
        }
        conditions
    }

    fn add(&mut self, field: &Arc<str>, lower: Bound<Datum>, upper: Bound<Datum>) {
        self.ranges.push(FieldRange { field: field.clone(), lower, upper });
    }

    /// Each field has to be there, and to equal the value or to have what it has.
    fn pattern(&mut self, pattern: &Object) {
        if pseudo::special(pattern).is_some() {
            self.may_fail = true;
            return;
        }
        for (field, value) in pattern.iter() {
            let bound = || if FieldRange::takes(value) { Bound::Included(value.clone()) } else { Bound::Unbounded };
            self.add(field, bound(), bound());
        }
    }

    fn conjunct(&mut self, node: &Node, around: Option<&Arc<Bindings>>) {
        const AND: u32 = 67;
        match node {
            _ if self.may_fail => {}
            Node::Call(call) if call.op.number == AND && !call.splices => {
                call.args.iter().for_each(|arg| self.conjunct(arg, around));
            }
            Node::Call(call) if !call.splices => self.comparison(call, around),
            _ => self.may_fail = true,
        }
    }

    fn comparison(&mut self, call: &CallNode, around: Option<&Arc<Bindings>>) {
        const EQ: u32 = 17;
        const NE: u32 = 18;
        const LT: u32 = 19;
        const LE: u32 = 20;
        const GT: u32 = 21;
        const GE: u32 = 22;
        let [left, right] = call.args.as_slice() else {
            self.may_fail = true;
            return;
        };
        let (field, value, number) = match (field_of(left, 0), field_of(right, 0)) {
            (Some(field), None) => (field, constant(right, around), call.op.number),
            (None, Some(field)) => {
                let number = match call.op.number {
                    LT => GT,
                    LE => GE,
                    GT => LT,
                    GE => LE,
                    other => other,
                };
                (field, constant(left, around), number)
            }
            _ => {
                self.may_fail = true;
                return;
            }
        };
        let Some(value) = value.filter(FieldRange::takes) else {
            self.may_fail = true;
            return;
        };
        let (lower, upper) = match number {
            EQ => (Bound::Included(value.clone()), Bound::Included(value)),
            // The field has to be there.
            NE => (Bound::Unbounded, Bound::Unbounded),
            LT => (Bound::Unbounded, Bound::Excluded(value)),
            LE => (Bound::Unbounded, Bound::Included(value)),
            GT => (Bound::Excluded(value), Bound::Unbounded),
            GE => (Bound::Included(value), Bound::Unbounded),
            _ => {
                self.may_fail = true;
                return;
            }
        };
        self.add(field, lower, upper);
    }
}

/// The value that a node has in each row.
fn constant(node: &Node, around: Option<&Arc<Bindings>>) -> Option<Datum> {
    match node {
        Node::Constant { value, longest_array: 0..=1 } => Some(value.clone()),
        Node::Variable { up, position, .. } if *up > 0 => {
            let mut frame = around?;
            for _ in 1..*up {
                frame = frame.around.as_ref()?;
            }
            match frame.args.get(*position)? {
                Row::Value(value) => Some(value.clone()),
                _ => None,
            }
        }
        _ => None,
    }
}

impl Scan {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only rows go on that the predicate accepts, whole.
    pub fn filtered(&self, function: &Function, missing: &Missing) {
        let mut known = self.lock();
        known.read.with(Fields::of_predicate(function));
        if !known.is_closed {
            let Conditions { ranges, may_fail } = Conditions::of(function, missing);
            known.filter.extend(ranges);
            known.is_closed = may_fail;
        }
    }

    /// Some rows go on, whole, and which ones depends on how many there are.
    pub fn counted_out(&self) {
        self.lock().is_closed = true;
    }

    /// Nothing but these fields is needed of what comes.
    pub fn used(&self, fields: Fields) {
        self.lock().used = Some(fields);
    }

    /// Nothing but this field is needed, and rows without it are passed over.
    pub fn used_where_present(&self, field: &Arc<str>) {
        let mut known = self.lock();
        if !known.is_closed {
            known.filter.push(FieldRange { field: field.clone(), lower: Bound::Unbounded, upper: Bound::Unbounded });
        }
        known.used = Some(Fields::Only(vec![field.clone()]));
    }

    /// What the engine is told.
    #[must_use]
    pub fn selection(&self) -> Selection {
        let known = self.lock();
        let fields = known.used.clone().and_then(|mut used| {
            used.with(known.read.clone());
            match used {
                Fields::All => None,
                Fields::Only(fields) => Some(fields),
            }
        });
        Selection { fields, filter: known.filter.clone() }
    }
}

/// A selection, for people: what was left to the engine.
#[must_use]
pub fn describe(selection: &Selection) -> String {
    let mut text = match &selection.fields {
        None => "all fields".to_owned(),
        Some(fields) if fields.is_empty() => "no fields".to_owned(),
        Some(fields) => {
            format!("fields {}", fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", "))
        }
    };
    for (number, FieldRange { field, lower, upper }) in selection.filter.iter().enumerate() {
        text.push_str(if number == 0 { " where " } else { " and " });
        let bound = |bound: &Bound<Datum>, closed: &str, open: &str| match bound {
            Bound::Unbounded => None,
            Bound::Included(value) => Some(format!("`{field}` {closed} {}", value.to_json_string())),
            Bound::Excluded(value) => Some(format!("`{field}` {open} {}", value.to_json_string())),
        };
        let bounds: Vec<String> = match (lower, upper) {
            (Bound::Included(low), Bound::Included(high)) if low == high => {
                vec![format!("`{field}` = {}", low.to_json_string())]
            }
            _ => [bound(lower, ">=", ">"), bound(upper, "<=", "<")].into_iter().flatten().collect(),
        };
        let _ = if bounds.is_empty() {
            write!(text, "`{field}` is there")
        } else {
            write!(text, "{}", bounds.join(" and "))
        };
    }
    text
}

#[cfg(test)]
mod tests;
