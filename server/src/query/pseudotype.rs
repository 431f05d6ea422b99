//! Objects with the key `$reql_type$`: recognised, checked and turned into native values on input.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::error::{ReqlError, Result};
use super::print::pretty;
use super::pseudo::{self, REQL_TYPE};

/// Most parts of a pseudotype, sixteen bytes of a binary as one.
const MAX_PARTS: u64 = 1 << 24;

/// An object as the value that it stands for.
///
/// # Errors
/// When the object has the reserved key and is no valid pseudotype.
pub fn normalize(object: Object) -> Result<Datum> {
    let Some(kind) = object.get(REQL_TYPE) else { return Ok(object.into()) };
    let Some(name) = kind.as_str() else {
        return Err(ReqlError::logic(format!(
            "Field `{REQL_TYPE}` must be a string (got `{}` of type {}).",
            pretty(kind),
            pseudo::type_name(kind)
        )));
    };
    if name == "LITERAL" {
        return Ok(pseudo::literal(object.get("value").cloned()));
    }
    // The datum's own reader knows the rules of each type; these objects are small, or none of these types.
    pseudo::check_parts(&Datum::from(object.clone()), MAX_PARTS)?;
    let text = Datum::from(object).to_json_string();
    let json = serde_json::from_str(&text).map_err(|error| ReqlError::internal(error.to_string()))?;
    Datum::from_json(&json).map_err(|error| ReqlError::logic(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(&str, &str)]) -> String {
        normalize(fields.iter().copied().collect()).unwrap_err().message().to_owned()
    }

    #[test]
    fn native_values_are_recognised() {
        let object: Object = [(REQL_TYPE, "BINARY"), ("data", "Zm9v")].into_iter().collect();
        assert!(matches!(normalize(object), Ok(Datum::Binary(bytes)) if &*bytes == b"foo"));
    }

    #[test]
    fn bad_pseudotypes_are_explained() {
        assert_eq!(message(&[(REQL_TYPE, "BINARY")]), "Invalid binary pseudotype: lacking `data` key.");
        assert!(message(&[(REQL_TYPE, "BINARY"), ("data", "A^CDEFGH")]).contains("'^'"));
    }

    #[test]
    fn the_bounds_cannot_be_forged() {
        assert!(message(&[(REQL_TYPE, "MINVAL")]).contains("Unknown"));
    }
}
