//! The plugin `columnar` as a program.

photondb_plugin_sdk::main!(photondb_plugin_columnar::Columnar);
