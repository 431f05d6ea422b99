use std::os::unix::fs::PermissionsExt;

use photondb_plugin_sdk::PluginError;
use serde_json::{Value, json};

use super::*;
use crate::admin::status::{Changing, LogLine, PluginEvent, PluginStatus};
use crate::plugins::audit::Confined;
use crate::plugins::permissions::PermissionsStatus;

/// One plugin, `stats`, whose state is the last change that was asked for.
struct Fake;

impl PluginControl for Fake {
    fn list(&self) -> Vec<PluginStatus> {
        vec![PluginStatus { name: "stats".into(), state: "ready".into(), ..PluginStatus::default() }]
    }

    fn events(&self) -> Vec<PluginEvent> {
        Vec::new()
    }

    fn logs(&self, _: Option<&str>) -> Vec<LogLine> {
        (1..=2).map(|id| LogLine { id, text: format!("line {id}"), ..LogLine::default() }).collect()
    }

    fn permissions(&self, _: &str) -> Option<PermissionsStatus> {
        None
    }

    fn confined(&self, _: &str) -> Option<Arc<Confined>> {
        None
    }

    fn change<'a>(&'a self, change: Change, name: &'a str) -> Changing<'a> {
        Box::pin(async move {
            if name != "stats" {
                return Err(PluginError::init("there is no such plugin").of(name));
            }
            let state = format!("{change:?}");
            Ok(PluginStatus { name: name.into(), state, ..PluginStatus::default() })
        })
    }
}

/// Sends `request` as it is and collects what comes back until the end of the answer.
async fn ask(data: &Path, request: &Value) -> Vec<Reply> {
    let path = data.join(SOCKET_NAME);
    let stream = Stream::connect(path.as_path().to_fs_name::<GenericFilePath>().unwrap()).await.unwrap();
    (&stream).write_all(format!("{request}\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(&stream).lines();
    let mut replies = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        replies.push(serde_json::from_str(&line).unwrap());
        if !matches!(replies.last(), Some(Reply::Item(_))) {
            break;
        }
    }
    replies
}

fn state(replies: &[Reply]) -> &str {
    match replies {
        [Reply::Item(item), Reply::Done] => item["state"].as_str().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_are_answered_with_items_and_an_end() {
    let data = tempfile::tempdir().unwrap();
    let server = tokio::spawn(AdminSocket::open(data.path()).unwrap().serve(Arc::new(Fake)));
    let ask = async |request| ask(data.path(), &request).await;

    assert_eq!(state(&ask(json!({"command": "plugin_list"})).await), "ready");
    assert_eq!(state(&ask(json!({"command": "plugin_info", "name": "stats"})).await), "ready");
    for (command, expected) in [
        ("plugin_enable", "Enable"),
        ("plugin_disable", "Disable"),
        ("plugin_reload", "Reload"),
        ("plugin_unload", "Unload"),
    ] {
        assert_eq!(state(&ask(json!({"command": command, "name": "stats"})).await), expected);
    }
    assert_eq!(ask(json!({"command": "plugin_logs", "follow": false})).await.len(), 3);
    for (request, expected) in [
        (json!({"command": "plugin_info", "name": "geo"}), "there is no plugin `geo`; there are stats"),
        (json!({"command": "plugin_logs", "name": "geo", "follow": true}), "there is no plugin `geo`"),
        (json!({"command": "plugin_reload", "name": "geo"}), "there is no such plugin"),
        (json!({"command": "format_disk"}), "the request cannot be read"),
        (json!([1]), "the request cannot be read"),
    ] {
        let replies = ask(request).await;
        assert!(matches!(&replies[..], [Reply::Error(message)] if message.contains(expected)), "{replies:?}");
    }
    server.abort();
}

#[tokio::test]
async fn only_the_owner_may_connect_and_the_file_goes_with_the_server() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join(SOCKET_NAME);
    let socket = AdminSocket::open(data.path()).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(AdminSocket::open(data.path()), Err(SocketError::InUse { .. })));
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_socket_of_a_dead_server_is_replaced() {
    let data = tempfile::tempdir().unwrap();
    // Dropping a listener of the standard library leaves the file behind, as a killed server does.
    drop(std::os::unix::net::UnixListener::bind(data.path().join(SOCKET_NAME)).unwrap());
    AdminSocket::open(data.path()).unwrap();
}

#[tokio::test]
async fn a_path_that_is_too_long_says_so() {
    let data = tempfile::tempdir().unwrap();
    let error = AdminSocket::open(&data.path().join("x".repeat(200))).err().unwrap().to_string();
    assert!(error.contains("shorter than 90 bytes"), "{error}");
}
