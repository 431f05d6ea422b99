//! Networks and addresses: the type `cidr`.
//!
//! A value is a network such as `10.0.0.0/8` or `2001:db8::/32`, or one address, which is the network of itself and is
//! written without a length. Networks are those of the crate `ipnet`.
//!
//! They are ordered by version, then by first address, then by length: a network stands before everything within it,
//! and what is within it is all that stands between its first and its last address. So an index answers which
//! addresses are in a network, by `between`.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::IpNet;
use photondb_plugin_sdk::prelude::*;

/// The name of the type.
const NAME: &str = "cidr";
/// The longest text that is looked at: an address of version 6 in full, with a part as of version 4, and a length.
const LONGEST: usize = 50;

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Networks;

impl Plugin for Networks {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.data_type(CidrType).function(Contains);
        registry.function(Edge { name: "cidr_first", of: |network| network.network() });
        registry.function(Edge { name: "cidr_last", of: |network| network.broadcast() });
    }
}

/// The type.
#[derive(Clone, Copy, Debug)]
struct CidrType;

impl DataTypePlugin for CidrType {
    fn type_name(&self) -> &str {
        NAME
    }

    fn parse(&self, value: &Datum) -> Result<Typed, PluginError> {
        typed(network(value)?)
    }
}

/// `cidr_contains(network, other)`: whether all of the second is within the first.
struct Contains;

impl QueryFunctionPlugin for Contains {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure("cidr_contains", 2, 2)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        Ok(network(&args[0])?.contains(&network(&args[1])?).into())
    }
}

/// `cidr_first(network)` and `cidr_last(network)`: an address of a network.
struct Edge {
    name: &'static str,
    of: fn(&IpNet) -> IpAddr,
}

impl QueryFunctionPlugin for Edge {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure(self.name, 1, 1)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        typed((self.of)(&network(&args[0])?).into()).map(Datum::from)
    }
}

/// The value of the type. The order key: version, first address, length.
fn typed(network: IpNet) -> Result<Typed, PluginError> {
    let mut key = Vec::with_capacity(18);
    match network.network() {
        IpAddr::V4(address) => {
            key.push(4);
            key.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            key.push(6);
            key.extend_from_slice(&address.octets());
        }
    }
    key.push(network.prefix_len());
    let is_address = network.prefix_len() == network.max_prefix_len();
    let text = if is_address { network.addr().to_string() } else { network.to_string() };
    Ok(Typed::new(NAME, key, text)?)
}

fn network(value: &Datum) -> Result<IpNet, PluginError> {
    let text = match value {
        Datum::Typed(typed) if typed.name() == NAME => typed.text(),
        Datum::String(text) => text,
        other => {
            return Err(PluginError::argument(format!(
                "a network or address is a text like \"10.0.0.0/8\", \"10.1.2.3\" or \"2001:db8::/32\", but found {}",
                other.type_name()
            )));
        }
    };
    let refused = |why: &str| {
        let shown = Datum::from(&text[..text.floor_char_boundary(LONGEST)]).to_json_string();
        PluginError::argument(format!("{shown} is no network or address: {why}"))
    };
    if text.len() > LONGEST {
        return Err(refused("it is too long"));
    }
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let network = parsed.ok_or_else(|| refused("write it as in \"10.0.0.0/8\", \"10.1.2.3\" or \"2001:db8::/32\""))?;
    if network.addr() != network.network() {
        let meant = network.trunc();
        return Err(refused(&format!(
            "it has bits behind its length; the network is \"{meant}\", the address \"{}\"",
            network.addr()
        )));
    }
    Ok(network)
}

#[cfg(test)]
mod tests;
