use photondb_plugin_sdk::PluginError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::admin::status::{Change, Changing, LogLine, PluginEvent, PluginStatus};
use crate::plugins::audit::Confined;
use crate::plugins::permissions::PermissionsStatus;

/// A plugin that tries to get out of its table cell.
struct Hostile;

const SCRIPT: &str = "<script>alert(\"1\")</script>";

impl PluginControl for Hostile {
    fn list(&self) -> Vec<PluginStatus> {
        let error = Some(SCRIPT.to_owned());
        let status = PluginStatus { name: "geo\"\n".into(), state: "ready".into(), error, ..PluginStatus::default() };
        vec![PluginStatus {
            calls: 7,
            bytes_copied: 9,
            p99_ms: Some(1.5),
            grade_reasons: vec![SCRIPT.into()],
            ..status
        }]
    }

    fn events(&self) -> Vec<PluginEvent> {
        vec![PluginEvent { id: 1, time: 0.0, plugin: SCRIPT.into(), kind: SCRIPT.into(), message: SCRIPT.into() }]
    }

    fn logs(&self, _: Option<&str>) -> Vec<LogLine> {
        Vec::new()
    }

    fn permissions(&self, _: &str) -> Option<PermissionsStatus> {
        None
    }

    fn confined(&self, _: &str) -> Option<Arc<Confined>> {
        None
    }

    fn change<'a>(&'a self, _: Change, name: &'a str) -> Changing<'a> {
        Box::pin(async move { Err(PluginError::init("not here").of(name)) })
    }
}

/// The head and the body of the answer to `GET path`.
async fn get(path: &str) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let server = tokio::spawn(serve_http(listener, Arc::new(Hostile), std::future::pending()));
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    server.abort();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn the_page_escapes_what_plugins_say() {
    let (head, body) = get("/").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("default-src 'none'"), "{head}");
    assert!(!body.contains("<script"), "{body}");
    assert_eq!(body.matches("&lt;script&gt;alert(&quot;1&quot;)").count(), 5, "{body}");
    assert!(body.contains("1970-01-01T00:00:00"), "{body}");
}

#[tokio::test]
async fn metrics_are_valid_whatever_a_plugin_is_called() {
    let (head, body) = get("/metrics").await;
    assert!(head.contains("application/openmetrics-text"), "{head}");
    for line in [
        "photondb_plugin_ready{plugin=\"geo\\\"\\n\"} 1",
        "photondb_plugin_calls_total{plugin=\"geo\\\"\\n\"} 7",
        "photondb_plugin_bytes_shared_total{plugin=\"geo\\\"\\n\"} 0",
        "photondb_plugin_bytes_copied_total{plugin=\"geo\\\"\\n\"} 9",
        "photondb_plugin_call_seconds{plugin=\"geo\\\"\\n\",quantile=\"0.99\"} 0.0015",
        "# EOF",
    ] {
        assert!(body.lines().any(|found| found == line), "{line}\nis not in\n{body}");
    }
}

#[tokio::test]
async fn plugins_are_json_and_other_paths_say_what_there_is() {
    let (_, body) = get("/api/plugins").await;
    assert_eq!(serde_json::from_str::<Vec<PluginStatus>>(&body).unwrap(), Hostile.list());
    let (head, _) = get("/healthz").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let (head, body) = get("/admin").await;
    assert!(head.starts_with("http/1.1 404") && body.contains("/healthz"), "{head}{body}");
}
