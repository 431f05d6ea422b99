//! `main!`.

/// The whole `main` of a plugin.
///
/// `main!(MyPlugin)` takes a value of a type that implements [`Plugin`](crate::registry::Plugin).
/// `main!("name", |registry| ...)` is the short form for a plugin without a type of its own; its version is that of the
/// crate.
#[macro_export]
macro_rules! main {
    ($plugin:expr) => {
        fn main() -> std::process::ExitCode {
            $crate::runtime::run($plugin)
        }
    };
    ($name:literal, |$registry:ident| $register:expr) => {
        struct PhotondbPlugin;

        impl $crate::registry::Plugin for PhotondbPlugin {
            fn name(&self) -> &str {
                $name
            }
            fn version(&self) -> &str {
                env!("CARGO_PKG_VERSION")
            }
            fn register(&self, $registry: &mut $crate::registry::PluginRegistry) {
                $register;
            }
        }

        $crate::main!(PhotondbPlugin);
    };
}
