//! Values on their way out: checked for what no client can read, then written as JSON.

use photondb_plugin_sdk::Datum;

use super::error::{ReqlError, Result};
use super::pseudo::{self, Limits, MAX_DEPTH, Obstacle};

/// Most bytes of JSON that one value may take. A response has to stay below 4 GiB.
const MAX_BYTES: usize = 1 << 30;

/// Checks that a client can read the value.
///
/// # Errors
/// When there is `r.minval`, `r.maxval` or a stray literal in it, or it is too deep or too large.
pub fn check(datum: &Datum) -> Result<()> {
    let limits = Limits { depth: MAX_DEPTH + 1, array: usize::MAX, bytes: MAX_BYTES };
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
            "A value takes more than {MAX_BYTES} bytes as JSON; leave parts of it out, or return it as a stream."
        ))),
    }
}

/// The value as JSON text.
///
/// # Errors
/// As [`check`].
pub fn text(datum: &Datum) -> Result<String> {
    check(datum)?;
    Ok(datum.to_json_string())
}
