//! The plugin `encrypted` as a program.

photondb_plugin_sdk::main!(photondb_plugin_encrypted::Encrypted::default());
