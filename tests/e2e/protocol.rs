//! Clients that are wrong, hostile or suddenly gone: they get an answer if there is one, and the server goes on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use photondb_server::cli::client::{Client, ClientError};
use photondb_tests::place::Place;
use photondb_tests::reql::{self, CLIENT_ERROR, COMPILE_ERROR, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use photondb_tests::{driver, wait};
use serde_json::{Value, json};

const V0_3: u32 = 0x5f75_e83e;
const V0_4: u32 = 0x400c_2d20;
const V1_0: u32 = 0x34c2_bdc3;

/// Sends bytes to a port, and gives all that comes back until the server closes.
fn exchange(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(wait::WATCHDOG)).expect("a timeout");
    // An error: the server has closed already.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The server answers others.
fn goes_on(server: &mut Server<'_>) {
    assert!(server.is_running());
    assert_eq!(server.query(&json!([24, [1, 2]])), json!(3));
}

/// A connection that lets a test send what it likes.
struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects and authenticates.
    fn connect(server: &Server<'_>) -> Self {
        // The client of the command line does the handshake; a copy of its socket then sends what it would not.
        let client = server.connect();
        let stream = client.into_stream();
        stream.set_read_timeout(Some(wait::WATCHDOG)).expect("a timeout");
        Self { stream }
    }

    fn send(&mut self, token: u64, body: &[u8]) {
        let length = u32::try_from(body.len()).expect("a short body");
        self.send_header(token, length);
        self.stream.write_all(body).expect("sent");
    }

    fn send_header(&mut self, token: u64, length: u32) {
        self.stream.write_all(&token.to_le_bytes()).expect("sent");
        self.stream.write_all(&length.to_le_bytes()).expect("sent");
    }

    /// The token, the type and the first value of the next response.
    fn receive(&mut self) -> (u64, u64, Value) {
        let (mut token, mut length) = ([0; 8], [0; 4]);
        self.stream.read_exact(&mut token).expect("a response");
        self.stream.read_exact(&mut length).expect("a response");
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.stream.read_exact(&mut body).expect("a response");
        let response: Value = serde_json::from_slice(&body).expect("JSON");
        (u64::from_le_bytes(token), response["t"].as_u64().expect("a type"), response["r"][0].clone())
    }

    /// Whether the server has closed the connection.
    fn is_closed(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0]), Ok(1))
    }
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_refused() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let address = server.address().to_string();
    for (user, password, expected) in [("admin", "guess", "Wrong password"), ("nobody", "", "Unknown user")] {
        match Client::connect(&address, user, password) {
            Err(ClientError::Refused { message, .. }) => assert_eq!(message, expected),
            other => panic!("{user}: {:?}", other.err()),
        }
    }
    let said = driver::run(&server, "refused", json!({}));
    assert_eq!(said["wrong_password"][0], "ReqlAuthError", "{said}");
    assert_eq!(said["unknown_user"][0], "ReqlAuthError", "{said}");
    assert_eq!(said["errors"], json!(["ReqlQueryLogicError", "ReqlOpFailedError", "ReqlNonExistenceError"]), "{said}");
    goes_on(&mut server);
}

#[test]
fn old_versions_are_refused_in_words() {
    let place = Place::new();
    let mut server = Server::start(&place);
    for version in [V0_3, V0_4, 0x3f61_ba36, 0x7230_81e1] {
        let greeting = [&version.to_le_bytes()[..], &0u32.to_le_bytes(), &0x7e69_70c7u32.to_le_bytes()].concat();
        let answer = text(&exchange(server.port(), &greeting));
        assert!(answer.starts_with("ERROR: ") && answer.ends_with("\n\0"), "{version:x}: {answer:?}");
        assert!(answer.contains("V1_0"), "{answer}");
    }
    goes_on(&mut server);
}

#[test]
fn rubbish_instead_of_a_handshake_is_answered_and_forgotten() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let web = text(&exchange(server.port(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert!(web.starts_with("ERROR: ") && web.contains("This port is for RethinkDB queries"), "{web}");
    let greet = |messages: &[&[u8]]| {
        let mut bytes = V1_0.to_le_bytes().to_vec();
        messages.iter().for_each(|message| bytes.extend_from_slice(message));
        text(&exchange(server.port(), &bytes))
    };
    for (messages, code) in [
        (&[&b"not json\0"[..]][..], 8),
        (&[b"[]\0"], 9),
        (&[b"{}\0"], 1),
        (&[b"{\"protocol_version\":7}\0"], 2),
        (&[b"{\"protocol_version\":0,\"authentication_method\":\"PLAIN\"}\0"], 4),
        (&[b"{\"protocol_version\":0,\"authentication_method\":\"SCRAM-SHA-256\",\"authentication\":\"n,,r=abc\"}\0"], 10),
        (&[&[b'x'; 5000]], 7),
        (&[&[0xff; 100], b"\0"], 8),
    ] {
        let answer = greet(messages);
        let last = answer.split('\0').rfind(|part| !part.is_empty()).unwrap_or_default();
        let refusal: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{answer}: {error}"));
        assert_eq!((&refusal["success"], &refusal["error_code"]), (&json!(false), &json!(code)), "{refusal}");
    }
    // Cut off anywhere, and every byte wrong.
    for length in 0..8 {
        exchange(server.port(), &[&V1_0.to_le_bytes()[..], b"{\"pro"].concat()[..length]);
        exchange(server.port(), &vec![0xa5; length * 1000]);
    }
    goes_on(&mut server);
}

#[test]
fn wrong_frames_are_answered_and_the_connection_lives_on() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let mut raw = Raw::connect(&server);
    let deep = format!("[1,{}1{}]", "[2,[".repeat(20_000), "]]".repeat(20_000));
    let cases: [(&[u8], u8); 12] = [
        (b"", CLIENT_ERROR),
        (b"null", CLIENT_ERROR),
        (b"[]", CLIENT_ERROR),
        (b"[1]", CLIENT_ERROR),
        (b"[99]", CLIENT_ERROR),
        (b"[1,", CLIENT_ERROR),
        (b"\xff\xfe\xfd", CLIENT_ERROR),
        (b"[2]", CLIENT_ERROR),
        (b"[3]", CLIENT_ERROR),
        (b"[1,[99999,[]]]", COMPILE_ERROR),
        (b"[1,[24,[1,\"x\"]]]", RUNTIME_ERROR),
        (deep.as_bytes(), 0),
    ];
    for (number, (body, kind)) in cases.into_iter().enumerate() {
        let token = 1000 + number as u64;
        raw.send(token, body);
        let (answered, found, message) = raw.receive();
        assert_eq!(answered, token);
        let is_error = (u64::from(CLIENT_ERROR)..=u64::from(RUNTIME_ERROR)).contains(&found);
        assert!(
            is_error && (kind == 0 || found == u64::from(kind)),
            "{}: {found} {message}",
            text(&body[..body.len().min(40)])
        );
        assert!(
            message.as_str().is_some_and(|message| !message.is_empty() && !message.contains("panicked")),
            "{message}"
        );
    }
    // The same connection still works.
    raw.send(1, b"[1,[24,[1,2]]]");
    assert_eq!(raw.receive(), (1, 1, json!(3)));
    raw.send(2, b"[5]");
    let (token, kind, info) = raw.receive();
    assert!(token == 2 && kind == 5 && info["name"].is_string(), "{info}");
    raw.send(3, b"[4]");
    assert_eq!(raw.receive().1, 4);
    goes_on(&mut server);
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_comes() {
    let place = Place::new();
    let mut server = Server::start(&place);
    for length in [128 << 20, u32::MAX] {
        let mut raw = Raw::connect(&server);
        raw.send_header(7, length);
        let (token, kind, message) = raw.receive();
        assert_eq!((token, kind), (7, u64::from(CLIENT_ERROR)), "{message}");
        assert!(message.as_str().is_some_and(|message| message.contains(&length.to_string())), "{message}");
        assert!(raw.is_closed());
    }
    goes_on(&mut server);
}

#[test]
fn a_token_that_is_in_use_is_refused() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut raw = Raw::connect(&server);
    // A stream with more to come keeps its token.
    raw.send(5, b"[1,[173,[100000]]]");
    assert_eq!((raw.receive().0, 5), (5, 5));
    raw.send(5, b"[1,1]");
    let (_, kind, message) = raw.receive();
    assert_eq!((kind, message), (u64::from(CLIENT_ERROR), json!("ERROR: duplicate token 5")));
    raw.send(5, b"[3]");
    assert_eq!(raw.receive().1, 2);
    raw.send(5, b"[1,1]");
    assert_eq!(raw.receive(), (5, 1, json!(1)));
}

#[test]
fn clients_that_vanish_take_their_queries_with_them() {
    let place = Place::with_first_party_plugins();
    let mut server = Server::start(&place);
    let endless = "[1,[43,[[38,[[173,[1000000000]],[11,[\"plugin.approx\"]]]]]]]";
    for _ in 0..20 {
        let mut raw = Raw::connect(&server);
        raw.send(1, endless.as_bytes());
        raw.send(2, b"[1,[173,[1000000000]]]");
        // In the middle of a frame.
        raw.send_header(3, 1000);
        raw.stream.write_all(b"[1,").expect("sent");
    }
    // Their queries end: otherwise all workers would be busy for hours.
    goes_on(&mut server);
    let calls = || server.plugin("stats").calls;
    wait::until_true("no query called the plugin any more", || {
        let before = calls();
        // Queries of others pass meanwhile.
        (0..20).for_each(|_| drop(server.query(&json!([24, [1, 2]]))));
        calls() == before
    });
    goes_on(&mut server);
}

#[test]
fn many_queries_of_one_connection_run_side_by_side() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut raw = Raw::connect(&server);
    for token in 0..2000 {
        raw.send(token, format!("[1,[24,[{token},1]]]").as_bytes());
    }
    let mut answers: Vec<(u64, u64, Value)> = (0..2000).map(|_| raw.receive()).collect();
    answers.sort_by_key(|(token, ..)| *token);
    for (token, answer) in (0..2000).zip(answers) {
        assert_eq!(answer, (token, 1, json!(token + 1)));
    }
    let failure = reql::run(&mut server.connect(), &json!([12, ["on purpose"]])).expect_err("an error");
    assert!(matches!(failure, Failure::Answered(RUNTIME_ERROR, message) if message == "on purpose"));
}
