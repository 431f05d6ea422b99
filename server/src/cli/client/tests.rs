use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use serde_json::json;

use super::*;

/// What a server does once a client has authenticated.
enum Step {
    /// Waits for a query.
    Hear,
    /// Sends a response with this token.
    Say(u64, Value),
}

/// A server for one connection, and what it will have heard.
fn server(password: &'static str, steps: Vec<Step>) -> (String, JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        if !authenticate(&mut stream, password) {
            return Vec::new();
        }
        let mut heard = Vec::new();
        for step in steps {
            match step {
                Step::Hear => heard.push(hear(&mut stream)),
                Step::Say(token, answer) => {
                    let body = answer.to_string();
                    let length = u32::try_from(body.len()).unwrap();
                    let frame = [&token.to_le_bytes()[..], &length.to_le_bytes(), body.as_bytes()].concat();
                    stream.get_mut().write_all(&frame).unwrap();
                }
            }
        }
        heard
    };
    (address, thread::spawn(serve))
}

fn authenticate(stream: &mut BufReader<TcpStream>, password: &str) -> bool {
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), V1_0);
    let mut message = |answer: Option<Value>| {
        if let Some(answer) = answer {
            stream.get_mut().write_all(format!("{answer}\0").as_bytes()).unwrap();
            return String::new();
        }
        let mut text = Vec::new();
        stream.read_until(0, &mut text).unwrap();
        text.pop();
        serde_json::from_slice::<Value>(&text).unwrap()["authentication"].as_str().unwrap().to_owned()
    };
    message(Some(json!({"success": true, "server_version": "test"})));
    let first = message(None);
    let exchange = scram::Exchange::resumed(&first);
    let nonce = first.split_once("r=").unwrap().1;
    let challenge = format!("r={nonce}more,s=c2FsdA==,i=2");
    message(Some(json!({"success": true, "authentication": challenge})));
    // The client's own arithmetic; the example of the RFC pins that down.
    let expected = exchange.answer(&challenge, password).unwrap();
    let knows_it = message(None) == expected.message;
    message(Some(match knows_it {
        true => json!({"success": true, "authentication": expected.verdict()}),
        false => json!({"success": false, "error": "Wrong password", "error_code": 12}),
    }));
    knows_it
}

fn hear(stream: &mut impl Read) -> Value {
    let (mut token, mut length) = ([0; 8], [0; 4]);
    stream.read_exact(&mut token).unwrap();
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_sequence_is_fetched_to_its_end() {
    let partial = Step::Say(1, json!({"t": 3, "r": [1, 2], "n": []}));
    let last = Step::Say(1, json!({"t": 2, "r": [3], "n": []}));
    let (address, server) = server("secret", vec![Step::Hear, partial, Step::Hear, last]);
    let mut client = Client::connect(&address, "admin", "secret").unwrap();
    assert_eq!(client.run(b"[59]").unwrap(), json!([1, 2, 3]));
    assert_eq!(server.join().unwrap(), [json!([1, [59], {}]), json!([2])]);
}

#[test]
fn answers_carry_the_token_of_their_query_in_any_order() {
    let answer = |token, value| Step::Say(token, json!({"t": 1, "r": [value]}));
    let (address, _) = server("", vec![Step::Hear, Step::Hear, answer(2, "second"), answer(1, "first")]);
    let mut client = Client::connect(&address, "admin", "").unwrap();
    assert_eq!((client.send(b"1").unwrap(), client.send(b"2").unwrap()), (1, 2));
    for expected in [(2, json!("second")), (1, json!("first"))] {
        let (token, response) = client.receive().unwrap();
        assert_eq!((token, response.into_value().unwrap()), expected);
    }
}

#[test]
fn what_goes_wrong_is_told_apart() {
    let failure = Step::Say(1, json!({"t": 18, "e": 4_100_000, "r": ["Table `test.t` does not exist."], "b": []}));
    let (address, _) = server("", vec![Step::Hear, failure]);
    let mut client = Client::connect(&address, "admin", "").unwrap();
    assert!(matches!(client.run(b"[59]"), Err(ClientError::Query(message)) if message.contains("does not exist")));
    assert!(matches!(client.run(b"[59]"), Err(ClientError::Broken(_))));

    let (address, _) = server("secret", Vec::new());
    let refused = Client::connect(&address, "admin", "guess").err().unwrap().to_string();
    assert_eq!(refused, "the server refused the user `admin`: Wrong password");

    // Bound, but closed before anybody connects.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert!(matches!(Client::connect(&address, "admin", ""), Err(ClientError::Connect { .. })));
}

#[test]
fn a_server_of_another_kind_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.write_all(b"ERROR: who are you?\n\0").unwrap();
        // Until the client hangs up: closing with unread bytes would take the answer back.
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let error = Client::connect(&address, "admin", "").err().unwrap().to_string();
    assert!(error.contains("not a ReQL server") && error.contains("who are you?"), "{error}");
    other.join().unwrap();
}
