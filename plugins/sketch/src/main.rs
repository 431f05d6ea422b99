//! The plugin `sketch` as a program.

photondb_plugin_sdk::main!(photondb_plugin_sketch::Sketches);
