//! Every plugin of this project, linked in. Those in processes: `tests/e2e/conformance.rs`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use photondb_plugin_sdk::registry::Plugin as Code;
use tokio::runtime::Runtime;

use super::*;
use crate::config::{PluginsConfig, SandboxConfig};
use crate::plugins::Place;

/// Of the engine `encrypted`: 64 hexadecimal digits.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn failures(code: Box<dyn Code>, samples: Vec<Datum>) -> Vec<String> {
    let data = tempfile::tempdir().unwrap();
    let name = code.name().to_owned();
    let runtime = Runtime::new().unwrap();
    let place = Place { host: "/nonexistent".into(), data: data.path().to_owned(), ports: Vec::new() };
    let key = data.path().join("first.key");
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key).unwrap().write_all(KEY.as_bytes()).unwrap();
    let secrets = [("encrypted".to_owned(), [("first".to_owned(), key)].into())].into();
    let (plugins, sandbox) = (PluginsConfig { secrets, ..PluginsConfig::default() }, SandboxConfig::default());
    let manager = runtime.block_on(PluginManager::start_with(place, plugins, sandbox, vec![code])).unwrap();
    let (mut failures, mut checks) = (Vec::new(), 0);
    Subject::new(&manager, &name, data.path(), samples).unwrap().run(&mut |outcome| {
        checks += 1;
        if let Some(failure) = outcome.failure {
            failures.push(format!("{}: {}: {failure}", outcome.part, outcome.check));
        }
    });
    assert!(checks > 0, "{name}: nothing was checked");
    failures
}

macro_rules! keeps_to_it {
    ($($test:ident: $code:expr;)*) => {$(
        #[test]
        fn $test() {
            assert_eq!(failures(Box::new($code), Vec::new()), Vec::<String>::new());
        }
    )*};
}

keeps_to_it! {
    cidr: photondb_plugin_cidr::Networks;
    columnar: photondb_plugin_columnar::Columnar;
    decimal: photondb_plugin_decimal::Decimals;
    encrypted: photondb_plugin_encrypted::Encrypted::default();
    hnsw: photondb_plugin_hnsw::Hnsw::default();
    ivf: photondb_plugin_ivf::IvfPlugin::default();
    memory: photondb_plugin_memory::Memory;
    redb: photondb_plugin_redb::Redb;
    sketch: photondb_plugin_sketch::Sketches;
    stats: photondb_plugin_stats::Stats;
    timeseries: photondb_plugin_timeseries::TimeSeries;
    vamana: photondb_plugin_vamana::Vamana::default();
}

#[test]
fn distances() {
    let weights = Datum::object([("weights", Datum::array((0..8).map(Datum::from)))]);
    for samples in [vec![weights], Vec::new()] {
        assert_eq!(failures(Box::new(photondb_plugin_distances::Distances), samples), Vec::<String>::new());
    }
}

/// A plugin whose function panics, and whose other one says something else each time.
struct Wrong;

mod wrong {
    use std::sync::atomic::{AtomicU32, Ordering};

    use photondb_plugin_sdk::prelude::*;

    pub(super) struct Panics;
    pub(super) struct Changes(pub(super) AtomicU32);

    impl QueryFunctionPlugin for Panics {
        fn signature(&self) -> FunctionSignature {
            FunctionSignature::pure("panics", 1, 1)
        }

        fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
            Ok(args[0].as_number().expect("a number").into())
        }
    }

    impl QueryFunctionPlugin for Changes {
        fn signature(&self) -> FunctionSignature {
            FunctionSignature::pure("changes", 1, 1)
        }

        fn invoke(&self, _: &[Datum]) -> Result<Datum, PluginError> {
            Ok(self.0.fetch_add(1, Ordering::Relaxed).into())
        }
    }
}

impl Code for Wrong {
    fn name(&self) -> &str {
        "wrong"
    }

    fn version(&self) -> &str {
        "1.0.0"
    }

    fn register(&self, registry: &mut photondb_plugin_sdk::registry::PluginRegistry) {
        registry.function(wrong::Panics);
        registry.function(wrong::Changes(0.into()));
    }
}

#[test]
fn what_is_wrong_is_found() {
    let failures = failures(Box::new(Wrong), Vec::new());
    let [panics, changes] = &failures[..] else { panic!("{failures:?}") };
    assert!(panics.starts_with("function panics: it answers") && panics.contains("a number"), "{panics}");
    assert!(changes.starts_with("function changes: equal arguments") && changes.contains("in a batch"), "{changes}");
}
