//! The plugin `memory` as a program.

photondb_plugin_sdk::main!(photondb_plugin_memory::Memory);
