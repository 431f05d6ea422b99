//! The protocol against a server on a port of its own.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::frame;
use super::{Users, serve_reql};
use crate::query::{Engine, EngineParts, Identity, NoPlugins, NoSearch, index_functions};
use crate::storage::{NoStorageEngines, NoVectorIndexes, Store, StoreOptions};

const V1_0: [u8; 4] = 0x34c2_bdc3_u32.to_le_bytes();

struct Server {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Server {
    async fn start(password: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            cache_bytes: 1 << 20,
            functions: index_functions(),
            vectors: Arc::new(NoVectorIndexes),
            engines: Arc::new(NoStorageEngines),
            upkeep: Duration::from_secs(3600),
        };
        let engine = Engine::new(EngineParts {
            store: Store::open(directory.path(), &options).unwrap(),
            plugins: Arc::new(NoPlugins),
            nearest: Arc::new(NoSearch),
            system: Vec::new(),
            identity: Identity { id: "id".to_owned(), name: "test".to_owned() },
        });
        let users = Users::in_memory().unwrap();
        users.set_password("admin", password).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { stopped.await.unwrap_or_default() };
        let task = tokio::spawn(serve_reql(listener, engine, Arc::new(users), stopped));
        Self { address, stop, task, _directory: directory }
    }

    async fn connect(&self) -> Client {
        let mut client = Client(TcpStream::connect(self.address).await.unwrap());
        client.0.set_nodelay(true).unwrap();
        assert_eq!(client.greet("admin", "").await["success"], true);
        client
    }

    async fn refusal(&self, greeting: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

struct Client(TcpStream);

impl Client {
    async fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        loop {
            match self.0.read_u8().await.unwrap() {
                0 => return serde_json::from_slice(&bytes).unwrap(),
                byte => bytes.push(byte),
            }
        }
    }

    async fn say(&mut self, message: Value) {
        self.0.write_all(message.to_string().as_bytes()).await.unwrap();
        self.0.write_all(&[0]).await.unwrap();
    }

    /// The whole handshake; the server's last message.
    async fn greet(&mut self, user: &str, password: &str) -> Value {
        self.0.write_all(&V1_0).await.unwrap();
        assert_eq!(self.message().await["min_protocol_version"], 0);
        let bare = format!("n={user},r=nonce");
        let first = json!({
            "protocol_version": 0, "authentication_method": "SCRAM-SHA-256", "authentication": format!("n,,{bare}"),
        });
        self.say(first).await;
        let answer = self.message().await;
        let server_first = answer["authentication"].as_str().unwrap().to_owned();
        let parts: Vec<&str> = server_first.splitn(3, ',').collect();
        let salt = STANDARD.decode(&parts[1][2..]).unwrap();
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, parts[2][2..].parse().unwrap(), &mut salted);
        let hmac = |key: &[u8], message: &str| {
            let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
            mac.update(message.as_bytes());
            mac.finalize().into_bytes()
        };
        let client_key = hmac(&salted, "Client Key");
        let without_proof = format!("c=biws,{}", parts[0]);
        let signature = hmac(&Sha256::digest(client_key), &format!("{bare},{server_first},{without_proof}"));
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, mask)| key ^ mask).collect();
        let proof = STANDARD.encode(proof);
        self.say(json!({"authentication": format!("{without_proof},p={proof}")})).await;
        self.message().await
    }

    async fn send(&mut self, token: u64, body: &str) {
        frame::write(&mut self.0, token, body.as_bytes()).await.unwrap();
    }

    async fn receive(&mut self) -> (u64, Value) {
        let header = frame::read_header(&mut self.0).await.unwrap().unwrap();
        let body = frame::read_body(&mut self.0, header.length).await.unwrap();
        (header.token, serde_json::from_slice(&body).unwrap())
    }

    async fn ask(&mut self, token: u64, body: &str) -> Value {
        self.send(token, body).await;
        let (answered, response) = self.receive().await;
        assert_eq!(answered, token);
        response
    }
}

#[tokio::test]
async fn old_and_unknown_versions_are_refused_in_plain_text() {
    let server = Server::start("").await;
    for magic in [0x3f61_ba36_u32, 0x7230_81e1, 0x5f75_e83e, 0x400c_2d20, u32::from_le_bytes(*b"GET ")] {
        let text = server.refusal(&magic.to_le_bytes()).await;
        assert!(
            text.starts_with("ERROR: Received an unsupported protocol version.") && text.ends_with("\n\0"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn passwords_are_checked() {
    let server = Server::start("secret").await;
    let greet = async |user: &str, password: &str| {
        Client(TcpStream::connect(server.address).await.unwrap()).greet(user, password).await
    };
    assert_eq!(greet("admin", "secret").await["success"], true);
    assert_eq!(greet("admin", "").await["error_code"], 12);
    assert_eq!(greet("nobody", "secret").await["error_code"], 17);
}

#[tokio::test]
async fn bad_handshakes_have_their_codes() {
    let server = Server::start("").await;
    let long = format!("\"{}\"\0", "x".repeat(3000));
    for (message, code) in [
        (&*long, 7),
        ("{\0", 8),
        ("[]\0", 9),
        ("{}\0", 1),
        ("{\"protocol_version\":1}\0", 2),
        ("{\"protocol_version\":0}\0", 3),
        ("{\"protocol_version\":0,\"authentication_method\":\"PLAIN\"}\0", 4),
        ("{\"protocol_version\":0,\"authentication_method\":\"SCRAM-SHA-256\"}\0", 5),
    ] {
        let mut client = Client(TcpStream::connect(server.address).await.unwrap());
        client.0.write_all(&V1_0).await.unwrap();
        client.message().await;
        client.0.write_all(message.as_bytes()).await.unwrap();
        assert_eq!(client.message().await["error_code"], code, "{message}");
    }
}

#[tokio::test]
async fn streams_go_on_until_they_are_stopped() {
    let server = Server::start("").await;
    let mut client = server.connect().await;
    let first = client.ask(1, r#"[1,[173,[]],{"max_batch_rows":2}]"#).await;
    assert_eq!((&first["t"], &first["r"]), (&json!(3), &json!([0, 1])));
    assert_eq!(client.ask(1, "[2]").await["r"], json!([2, 3]));
    assert_eq!(client.ask(1, "[1,5]").await["r"][0], "ERROR: duplicate token 1");
    assert_eq!(client.ask(1, "[3]").await, json!({"t": 2, "r": [], "n": []}));
    assert_eq!(client.ask(1, "[2]").await["r"][0], "Token 1 not in stream cache.");
    assert_eq!(client.ask(1, "[1,5]").await["r"], json!([5]));
}

#[tokio::test]
async fn every_request_gets_one_answer_whatever_is_in_it() {
    let server = Server::start("").await;
    let mut client = server.connect().await;
    for (token, body) in [(1, ""), (2, "x"), (3, "[]"), (4, "[9]"), (5, "[1]"), (6, "[1,[]]"), (7, "[1,5,[]]")] {
        assert_eq!(client.ask(token, body).await["t"], 16, "{body}");
    }
    assert_eq!(client.ask(8, "[5]").await["r"][0], json!({"id": "id", "name": "test", "proxy": false}));
    client.send(9, r#"[1,[57,["d"]],{"noreply":true}]"#).await;
    assert_eq!(client.ask(10, "[4]").await, json!({"t": 4, "r": []}));
    assert_eq!(client.ask(11, "[1,[59,[]]]").await["r"][0], json!(["d", "rethinkdb", "test"]));
}

#[tokio::test]
async fn a_query_beyond_the_limit_is_answered_before_the_connection_closes() {
    let server = Server::start("").await;
    let mut client = server.connect().await;
    client.0.write_all(&1_u64.to_le_bytes()).await.unwrap();
    client.0.write_all(&(128_u32 << 20).to_le_bytes()).await.unwrap();
    assert_eq!(client.receive().await.1["t"], 16);
    assert_eq!(frame::read_header(&mut client.0).await.unwrap(), None);
}

#[tokio::test]
async fn a_disconnect_ends_the_queries_of_the_connection() {
    let server = Server::start("").await;
    let mut client = server.connect().await;
    // Would count for hours.
    client.send(1, "[1,[43,[[173,[0,9007199254740992]]]]]").await;
    assert_eq!(client.ask(2, "[1,5]").await["r"], json!([5]));
    drop(client);
    server.stop.send(()).unwrap();
    // The server stops when its last query has ended.
    tokio::time::timeout(Duration::from_secs(60), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_that_stop_within_a_long_query_hold_up_nobody() {
    let server = Server::start("").await;
    let mut stuck = Vec::new();
    for _ in 0..10 {
        let mut client = server.connect().await;
        client.0.write_all(&1_u64.to_le_bytes()).await.unwrap();
        client.0.write_all(&(127_u32 << 20).to_le_bytes()).await.unwrap();
        stuck.push(client);
    }
    let mut client = server.connect().await;
    let answer = tokio::time::timeout(Duration::from_secs(60), client.ask(1, "[1,5]")).await;
    assert_eq!(answer.unwrap()["r"], json!([5]));
}

#[tokio::test]
async fn streams_that_are_left_open_are_bounded() {
    let server = Server::start("").await;
    let mut client = server.connect().await;
    for token in 0..16_384 {
        assert_eq!(client.ask(token, r#"[1,[173,[]],{"max_batch_rows":1}]"#).await["t"], 3);
    }
    let refused = client.ask(20_000, r#"[1,[173,[]],{"max_batch_rows":1}]"#).await;
    assert!(refused["r"][0].as_str().unwrap().contains("16384"), "{refused}");
    client.ask(7, "[3]").await;
    assert_eq!(client.ask(20_000, "[1,5]").await["r"], json!([5]));
}

/// A client that asks for much, says that it will ask no more, and does not read.
#[tokio::test]
async fn a_client_that_does_not_read_is_left_in_the_end() {
    let server = Server::start("").await;
    let mut client = server.connect().await;
    let long =
        format!("[1,[38,[[173,[60]],[69,[[2,[1]],\"{}\"]]]],{{\"max_batch_bytes\":67108864}}]", "x".repeat(1 << 20));
    client.send(1, &long).await;
    // The response has begun: the server is stuck in sending it.
    client.0.readable().await.unwrap();
    client.0.shutdown().await.unwrap();
    let address = client.0.local_addr().unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while knows(address.port()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the server has closed its side");
}

/// Whether a socket of this process is connected to the local port.
fn knows(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    // Field 2 is the other side's address; the inode, field 9, is 0 once no process has the socket.
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[2].ends_with(&remote) && fields[9] != "0"
    })
}
