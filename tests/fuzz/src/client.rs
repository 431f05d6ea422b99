//! What clients send.

use std::cell::OnceCell;

use photondb_server::fuzzing;
use photondb_server::network::reql::Users;
use photondb_server::query::{compile, parse};
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: OnceCell<(Runtime, Users)> = const { OnceCell::new() };
}

fn with_runtime(run: impl FnOnce(&Runtime, &Users)) {
    RUNTIME.with(|cell| {
        let (runtime, users) = cell.get_or_init(|| {
            let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
            (runtime, Users::in_memory().expect("random numbers"))
        });
        run(runtime, users);
    });
}

/// A whole handshake of a driver.
pub fn handshake(bytes: &[u8]) {
    with_runtime(|runtime, users| {
        let mut stream = tokio::io::join(bytes, tokio::io::sink());
        let _ = runtime.block_on(fuzzing::accept(&mut stream, users));
    });
}

/// Frames, each with its body.
pub fn frame(mut bytes: &[u8]) {
    with_runtime(|runtime, _| {
        runtime.block_on(async {
            while let Ok(Some(header)) = fuzzing::read_header(&mut bytes).await {
                let Ok(body) = fuzzing::read_body(&mut bytes, header.length).await else { break };
                assert_eq!(body.len(), header.length);
                let _ = parse::request(&body);
            }
        });
    });
}

/// The text of a query, parsed and compiled.
pub fn term(bytes: &[u8]) {
    let _ = parse::request(bytes);
    if let Ok(term) = parse::term(bytes) {
        let _ = compile::query(term);
    }
}
