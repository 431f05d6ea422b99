//! Values on their way out: checked for what no client can read, then written as JSON.

use photondb_plugin_sdk::Datum;

use super::error::{ReqlError, Result};
use super::pseudo::{self, Limits, MAX_DEPTH, Obstacle};

/// Most bytes of JSON that one value may take. A response has to stay below 4 GiB.
const MAX_BYTES: usize = 1 << 30;
/// Most bytes of a string that a query makes of others. A few terms that double it could fill any memory otherwise.
const MAX_STRING: usize = 128 << 20;

/// Checks that a string that is being made may have this length.
///
/// # Errors
/// When it may not.
pub fn check_length(bytes: usize) -> Result<()> {
    if bytes <= MAX_STRING {
        return Ok(());
    }
    Err(ReqlError::limit(format!("A string would take more than {MAX_STRING} bytes, which is the most it may take.")))
}

/// Checks that a client can read the value.
///
/// # Errors
/// When there is `r.minval`, `r.maxval` or a stray literal in it, or it is too deep or too large.
pub fn check(datum: &Datum) -> Result<()> {
    check_within(datum, MAX_BYTES)
}

/// The same, with another limit to the bytes of JSON.
///
/// # Errors
/// As [`check`].
pub fn check_within(datum: &Datum, bytes: usize) -> Result<()> {
    let limits = Limits { depth: MAX_DEPTH + 1, array: usize::MAX, bytes };
    match pseudo::obstacle(datum, &limits) {
        None | Some(Obstacle::LongArray) => Ok(()),
        Some(Obstacle::Min) => Err(ReqlError::logic("Cannot convert `r.minval` to JSON.")),
        Some(Obstacle::Max) => Err(ReqlError::logic("Cannot convert `r.maxval` to JSON.")),
        Some(Obstacle::Literal) => Err(ReqlError::logic(
            "Stray literal keyword found: literal is only legal inside of the object passed to merge or update and cannot \
             nest inside another literal.",
        )),
        Some(Obstacle::Depth) => Err(pseudo::too_deep()),
        Some(Obstacle::Size) => Err(ReqlError::limit(format!(
            "A value takes more than {bytes} bytes as JSON; leave parts of it out, or return it as a stream."
        ))),
    }
}

/// The value as JSON text.
///
/// # Errors
/// As [`check`].
pub fn text(datum: &Datum) -> Result<String> {
    check_within(datum, MAX_STRING)?;
    Ok(datum.to_json_string())
}
