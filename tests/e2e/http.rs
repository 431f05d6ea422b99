//! The HTTP port: is it alive, what does it count.

use std::io::{Read, Write};
use std::net::TcpStream;

use photondb_tests::place::Place;
use photondb_tests::reql;
use photondb_tests::server::Server;
use photondb_tests::wait::WATCHDOG;
use serde_json::json;

fn get(server: &Server<'_>, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.http_port())).expect("a connection");
    stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn health_metrics_and_a_page_are_served() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    server.query(&reql::to_array(&reql::map(&reql::range(5000), &reql::function("approx"))));
    server.query(&reql::call("approx", &[json!(1)]));

    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200"));
    let page = get(&server, "/");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("stats") && page.contains("hnsw"), "{page}");
    assert!(get(&server, "/no/such/page").starts_with("HTTP/1.1 404"));

    let metrics = get(&server, "/metrics");
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains("stats"));
        let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    // Every number that the plugin was given went through shared memory.
    assert!(value("photondb_plugin_bytes_shared_total") >= 5000.0 * 8.0);
    assert!(value("photondb_plugin_bytes_copied_total") >= 5000.0 * 8.0);
    assert!(value("photondb_plugin_calls_total") >= 2.0);
}
