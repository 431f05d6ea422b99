//! Functions: FUNCALL and JAVASCRIPT. FUNC and VAR are compiled away.

use std::sync::Arc;

use super::{MANY, Op};
use crate::query::error::{ReqlError, Result};
use crate::query::eval::Call;
use crate::query::function::Function;
use crate::query::plugin::PluginCall;
use crate::query::value::{Shortcut, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(super::FUNCALL, "funcall", 1, MANY, funcall),
    Op::new(super::JAVASCRIPT, "javascript", 1, 1, javascript).options(&["timeout"]),
];

fn funcall(call: &Call<'_>) -> Result<Value> {
    match call.arg(0)? {
        Value::Function(function) => {
            let args = call.data(1)?;
            function.call(call.ctx(), args).map_err(|error| error.at(0))
        }
        // `r.do(1)`: a plain value stands for the function that gives it.
        value @ Value::Datum(_) => {
            let function = value.into_function(Shortcut::Constant, call.ctx())?;
            function.call(call.ctx(), call.data(1)?).map_err(|error| error.at(0))
        }
        value => {
            call.data(1)?;
            Ok(value)
        }
    }
}

/// There is no JavaScript: the term names a plugin's function, so that unmodified drivers can call it.
fn javascript(call: &Call<'_>) -> Result<Value> {
    let text = call.string(0)?;
    let Some(name) = text.trim().strip_prefix("plugin.") else {
        return Err(ReqlError::logic(
            "This server runs no JavaScript: `r.js` takes the name of a plugin's function, as in `r.js(\"plugin.NAME\")`.",
        ));
    };
    Ok(Value::Function(Arc::new(Function::Plugin(PluginCall::find(call.ctx(), name)?))))
}
