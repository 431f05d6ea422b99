//! The plugin `decimal` as a program.

photondb_plugin_sdk::main!(photondb_plugin_decimal::Decimals);
