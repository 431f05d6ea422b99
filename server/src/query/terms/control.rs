//! Control: BRANCH, DEFAULT, ERROR, FOR_EACH, and constants.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::{MANY, Op};
use crate::query::error::{ErrorKind, ReqlError, Result};
use crate::query::eval::Call;
use crate::query::function::{Function, truthy};
use crate::query::pseudo;
use crate::query::stream::Fused;
use crate::query::value::{Shortcut, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(2, "make_array", 0, MANY, make_array).with(Op::UNGROUPED),
    Op::new(12, "error", 0, 1, error),
    Op::new(65, "branch", 3, MANY, branch).with(Op::LAZY),
    Op::new(68, "for_each", 2, 2, for_each),
    // Not group by group: its first argument may fail, which is what it is for.
    Op::new(92, "default", 2, 2, default).with(Op::LAZY | Op::UNGROUPED),
    Op::new(super::ARGS, "args", 1, 1, args),
    Op::new(180, "minval", 0, 0, minval),
    Op::new(181, "maxval", 0, 0, maxval),
    Op::new(169, "uuid", 0, 1, uuid).with(Op::VOLATILE),
];

fn make_array(call: &Call<'_>) -> Result<Value> {
    Ok(call.ctx().array(call.data(0)?)?.into())
}

fn error(call: &Call<'_>) -> Result<Value> {
    if call.count() == 0 {
        return Err(ReqlError::new(ErrorKind::EmptyUser, "Empty ERROR term outside a default block."));
    }
    Err(ReqlError::new(ErrorKind::User, &*call.string(0)?))
}

fn branch(call: &Call<'_>) -> Result<Value> {
    if call.count().is_multiple_of(2) {
        return Err(ReqlError::logic("Cannot call `branch` term with an even number of arguments."));
    }
    for test in (0..call.count() - 1).step_by(2) {
        if truthy(&call.datum(test)?) {
            return call.arg(test + 1);
        }
    }
    call.arg(call.count() - 1)
}

fn default(call: &Call<'_>) -> Result<Value> {
    let caught = match call.arg(0) {
        Ok(value @ (Value::Datum(_) | Value::Single(_))) => match value.into_datum(call.ctx()) {
            Ok(Datum::Null) => None,
            Ok(datum) => return Ok(datum.into()),
            Err(error) if error.kind() == ErrorKind::NonExistence => Some(error.at(0)),
            Err(error) => return Err(error.at(0)),
        },
        Ok(value) => return Ok(value),
        Err(error) if error.kind() == ErrorKind::NonExistence => Some(error),
        Err(error) => return Err(error),
    };
    let instead = call.arg(1).and_then(|value| match value {
        Value::Function(function) => {
            let message = caught.as_ref().map_or(Datum::Null, |error| error.message().into());
            function.call(call.ctx(), vec![message]).map_err(|error| error.at(1))
        }
        value => Ok(value),
    });
    match instead {
        Err(error) if error.kind() == ErrorKind::EmptyUser => caught.map_or_else(|| Ok(Datum::Null.into()), Err),
        other => other,
    }
}

fn for_each(call: &Call<'_>) -> Result<Value> {
    const EXPECTS: &str = "FOR_EACH expects one or more basic write queries.";
    let rows = call.stream(0)?.into_all_rows()?;
    let function = call.function(1, Shortcut::Constant)?;
    if let Function::Constant(datum) = &*function
        && !matches!(datum, Datum::Object(_) | Datum::Array(_))
    {
        let error = ReqlError::wrong_type("ARRAY", datum);
        return Err(ReqlError::logic(format!("{EXPECTS}  {error}")));
    }
    let mut summary = Object::new();
    for row in Fused::new(rows) {
        let result = function.call(call.ctx(), vec![row?]).map_err(|error| error.at(1))?;
        if !matches!(result, Value::Datum(_)) {
            return Err(ReqlError::logic(EXPECTS).at(1));
        }
        match result.into_datum(call.ctx())? {
            Datum::Object(part) => super::write::add_summary(&mut summary, &part, call.ctx()),
            Datum::Array(parts) => {
                for part in parts.iter() {
                    match part {
                        Datum::Object(part) => super::write::add_summary(&mut summary, part, call.ctx()),
                        other => {
                            let error = ReqlError::wrong_type("OBJECT", other);
                            return Err(ReqlError::logic(format!("{EXPECTS}  {error}")).at(1));
                        }
                    }
                }
            }
            other => {
                let error = ReqlError::wrong_type("ARRAY", &other);
                return Err(ReqlError::logic(format!("{EXPECTS}  {error}")).at(1));
            }
        }
    }
    Ok(Datum::from(summary).into())
}

fn args(_call: &Call<'_>) -> Result<Value> {
    Err(ReqlError::logic("`r.args` can only be an argument of another term."))
}

fn minval(_call: &Call<'_>) -> Result<Value> {
    Ok(pseudo::minval().into())
}

fn maxval(_call: &Call<'_>) -> Result<Value> {
    Ok(pseudo::maxval().into())
}

fn uuid(call: &Call<'_>) -> Result<Value> {
    /// RethinkDB's namespace for version 5, so that the same string gives the same UUID as there.
    const NAMESPACE: uuid::Uuid = uuid::uuid!("91461c99-f89d-49d2-af96-d8e2e14e9b58");
    if call.count() == 0 {
        return Ok(Datum::from(uuid::Uuid::new_v4().to_string()).into());
    }
    let name = call.string(0)?;
    Ok(Datum::from(uuid::Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()).into())
}
