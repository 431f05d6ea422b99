//! All terms: their numbers, arguments and functions, in one table.

pub mod aggregation;
pub mod arithmetic;
pub mod arrays;
pub mod comparison;
pub mod control;
pub mod database;
pub mod functions;
pub mod group;
pub mod index;
pub mod joins;
pub mod logic;
pub mod objects;
pub mod order;
pub mod plugin;
pub mod selection;
pub mod sequence;
pub mod strings;
pub mod time;
pub mod types;
pub mod vector;
pub mod write;

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use super::error::{ReqlError, Result};
use super::eval::Call;
use super::value::Value;

/// VAR
pub const VAR: u32 = 10;
/// JAVASCRIPT
pub const JAVASCRIPT: u32 = 11;
/// IMPLICIT_VAR
pub const IMPLICIT_VAR: u32 = 13;
/// DB
pub const DB: u32 = 14;
/// FUNCALL
pub const FUNCALL: u32 = 64;
/// FUNC
pub const FUNC: u32 = 69;
/// ASC
pub const ASC: u32 = 73;
/// DESC
pub const DESC: u32 = 74;
/// LITERAL
pub const LITERAL: u32 = 137;
/// ARGS
pub const ARGS: u32 = 154;
/// GET_FIELD
pub const GET_FIELD: u32 = 31;
/// BRACKET
pub const BRACKET: u32 = 170;
/// GET_NEAREST
pub const GET_NEAREST: u32 = 168;
/// Calls a plugin's function by name; PhotonDB's own.
pub const PLUGIN: u32 = 1000;

/// The function of a term.
pub type Run = fn(&Call<'_>) -> Result<Value>;

/// A term: what it is called, what it takes, what it does.
pub struct Op {
    /// The number on the wire.
    pub number: u32,
    /// The name in messages.
    pub name: &'static str,
    /// The fewest positional arguments.
    pub min: usize,
    /// The most; `usize::MAX` for any number.
    pub max: usize,
    /// The names of the options.
    pub options: &'static [&'static str],
    /// What it does.
    pub run: Run,
    traits: u16,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Any number of arguments.
const MANY: usize = usize::MAX;

impl Op {
    /// Changes data, tables or databases.
    pub const WRITES: u16 = 1;
    /// Its functions may not write.
    pub const STREAM_FUNCTION: u16 = 2;
    /// May give another result next time, so that indexes and atomic updates can't use it.
    pub const VOLATILE: u16 = 4;
    /// Only the first argument is evaluated in any case.
    pub const LAZY: u16 = 8;
    /// Takes grouped data as it is, not group by group.
    pub const UNGROUPED: u16 = 16;
    /// ASC and DESC may be arguments.
    pub const SORTS: u16 = 32;
    /// A group without anything to aggregate is left out.
    pub const DROPS_EMPTY_GROUPS: u16 = 64;
    /// Options of any name.
    pub const ANY_OPTIONS: u16 = 128;
    /// The same throughout a query, but not in the next one.
    pub const PER_QUERY: u16 = 256;

    const fn new(number: u32, name: &'static str, min: usize, max: usize, run: Run) -> Self {
        Self { number, name, min, max, options: &[], run, traits: 0 }
    }

    const fn with(mut self, traits: u16) -> Self {
        self.traits |= traits;
        self
    }

    const fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    /// Whether the term has a trait.
    #[must_use]
    pub fn is(&self, which: u16) -> bool {
        self.traits & which != 0
    }

    /// Which argument may be grouped data, so that the term applies to each group.
    #[must_use]
    pub fn grouped_argument(&self) -> Option<usize> {
        match self.number {
            _ if self.is(Self::UNGROUPED) => None,
            FUNCALL => Some(1),
            _ => Some(0),
        }
    }

    /// Checks the number of arguments.
    ///
    /// # Errors
    /// When there are too few or too many.
    pub fn check_arity(&self, found: usize) -> Result<()> {
        if (self.min..=self.max).contains(&found) {
            return Ok(());
        }
        let expected = match (self.min, self.max) {
            (1, 1) => "1 argument".to_owned(),
            (min, max) if min == max => format!("{min} arguments"),
            (min, MANY) => format!("{min} or more arguments"),
            (min, max) => format!("between {min} and {max} arguments"),
        };
        Err(ReqlError::compile(format!("Expected {expected} but found {found}.")))
    }
}

/// The terms, family by family.
const FAMILIES: [&[Op]; 21] = [
    aggregation::OPS,
    arithmetic::OPS,
    arrays::OPS,
    comparison::OPS,
    control::OPS,
    database::OPS,
    functions::OPS,
    group::OPS,
    index::OPS,
    joins::OPS,
    logic::OPS,
    objects::OPS,
    order::OPS,
    plugin::OPS,
    selection::OPS,
    sequence::OPS,
    strings::OPS,
    time::OPS,
    types::OPS,
    vector::OPS,
    write::OPS,
];

static TABLE: LazyLock<HashMap<u32, &'static Op>> =
    LazyLock::new(|| FAMILIES.into_iter().flatten().map(|op| (op.number, op)).collect());

/// The term of this number.
#[must_use]
pub fn find(number: u32) -> Option<&'static Op> {
    TABLE.get(&number).copied()
}

/// The error for an option that older versions had.
#[must_use]
pub fn obsolete_option(name: &str) -> Option<ReqlError> {
    match name {
        "return_vals" => {
            Some(ReqlError::logic("Error: encountered obsolete optarg `return_vals`.  Use `return_changes` instead."))
        }
        "use_outdated" => Some(ReqlError::logic(
            "The `use_outdated` optarg is no longer supported.  Use the `read_mode` optarg instead.",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_used_once() {
        let count = FAMILIES.iter().map(|family| family.len()).sum::<usize>();
        assert_eq!(count, TABLE.len());
    }

    #[test]
    fn wrong_numbers_of_arguments_are_explained() {
        let message = |number, found| find(number).unwrap().check_arity(found).unwrap_err().message().to_owned();
        assert_eq!(message(39, 1), "Expected 2 arguments but found 1.");
        assert_eq!(message(23, 2), "Expected 1 argument but found 2.");
        assert_eq!(message(64, 0), "Expected 1 or more arguments but found 0.");
        assert_eq!(message(61, 3), "Expected between 1 and 2 arguments but found 3.");
    }
}
