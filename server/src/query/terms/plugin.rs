//! PLUGIN: PhotonDB's own term, which calls a plugin's function by name.

use photondb_plugin_sdk::Datum;

use super::{MANY, Op};
use crate::query::error::{Frame, ReqlError, Result};
use crate::query::eval::Call;
use crate::query::plugin::PluginCall;
use crate::query::value::Value;

/// The terms of this family.
pub const OPS: &[Op] = &[Op::new(super::PLUGIN, "plugin", 1, MANY, plugin).with(Op::ANY_OPTIONS)];

fn plugin(call: &Call<'_>) -> Result<Value> {
    let name = call.string(0)?;
    let mut args = call.data(1)?;
    if !call.node.options.is_empty() {
        // Options travel as one object behind the positional arguments.
        let options = call.node.options.iter().map(|(name, node)| match call.env.datum(node) {
            Ok(value) => Ok((name.clone(), value)),
            Err(error) => Err(error.within(Frame::Option(name.clone()))),
        });
        args.push(Datum::Object(std::sync::Arc::new(options.collect::<Result<_>>()?)));
    }
    let function = PluginCall::find(call.ctx(), name.strip_prefix("plugin.").unwrap_or(&name))
        .map_err(|error: ReqlError| error.at(0))?;
    Ok(function.invoke_one(call.ctx(), args)?.into())
}
