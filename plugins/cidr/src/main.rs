//! The plugin `cidr` as a program.

photondb_plugin_sdk::main!(photondb_plugin_cidr::Networks);
