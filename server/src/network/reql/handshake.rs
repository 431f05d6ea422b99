//! The handshake of version V1_0.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::scram::{ClientFirst, Exchange, ScramError};
use super::users::{self, Users};

/// How long the whole handshake may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest message, with its zero byte.
const MESSAGE_LIMIT: usize = 2048;
/// The only version of the handshake within V1_0.
const PROTOCOL_VERSION: u64 = 0;
/// What drivers take for RethinkDB's version.
const SERVER_VERSION: &str = "2.4.4-photondb";

const V0_1: u32 = 0x3f61_ba36;
const V0_2: u32 = 0x7230_81e1;
const V0_3: u32 = 0x5f75_e83e;
const V0_4: u32 = 0x400c_2d20;
const V1_0: u32 = 0x34c2_bdc3;

/// Lets a client in.
///
/// # Errors
/// When it is not let in (it has been told why), the connection breaks, or time runs out.
pub async fn accept(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), users: &Users) -> io::Result<()> {
    match tokio::time::timeout(DEADLINE, greet(stream, users)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")),
    }
}

async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), users: &Users) -> io::Result<()> {
    let text = match stream.read_u32_le().await? {
        V1_0 => {
            return match authenticate(stream, users).await? {
                Ok(()) => Ok(()),
                Err(Refusal { code, message }) => {
                    send(stream, &json!({"success": false, "error": message, "error_code": code})).await?;
                    Err(io::Error::other(message))
                }
            };
        }
        V0_1 | V0_2 | V0_3 | V0_4 => {
            "ERROR: Received an unsupported protocol version. This server speaks V1_0 only; use a driver of version 2.3 or \
             later.\n\0"
        }
        _ => {
            "ERROR: Received an unsupported protocol version. This port is for RethinkDB queries. Does your client driver \
             version not match the server?\n\0"
        }
    };
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    Err(io::Error::other("the client speaks another protocol"))
}

/// Why a client is not let in.
struct Refusal {
    code: u32,
    message: String,
}

impl Refusal {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ScramError> for Refusal {
    fn from(error: ScramError) -> Self {
        Self::new(error.code, error.message)
    }
}

async fn authenticate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    users: &Users,
) -> io::Result<Result<(), Refusal>> {
    let versions = json!({
        "success": true,
        "min_protocol_version": PROTOCOL_VERSION,
        "max_protocol_version": PROTOCOL_VERSION,
        "server_version": SERVER_VERSION,
    });
    send(stream, &versions).await?;
    let first = match receive(stream).await? {
        Ok(message) => message,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (exchange, exists) = match begin(&first, users) {
        Ok(begun) => begun,
        Err(refusal) => return Ok(Err(refusal)),
    };
    send(stream, &json!({"success": true, "authentication": exchange.server_first()})).await?;
    let last = match receive(stream).await? {
        Ok(message) => message,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let outcome = authentication(&last).and_then(|proof| Ok(exchange.finish(proof)?));
    match outcome {
        // Said only now, so that nobody can ask for names without a proof of something.
        Err(_) if !exists => Ok(Err(Refusal::new(17, "Unknown user"))),
        Err(refusal) => Ok(Err(refusal)),
        Ok(signature) => {
            send(stream, &json!({"success": true, "authentication": signature})).await?;
            Ok(Ok(()))
        }
    }
}

fn begin(message: &Value, users: &Users) -> Result<(Exchange, bool), Refusal> {
    match message.get("protocol_version").map(Value::as_u64) {
        Some(Some(PROTOCOL_VERSION)) => {}
        Some(Some(other)) => return Err(Refusal::new(2, format!("Unsupported `protocol_version`: {other}."))),
        _ => return Err(Refusal::new(1, "Expected a number for `protocol_version`.")),
    }
    match message.get("authentication_method").map(Value::as_str) {
        Some(Some("SCRAM-SHA-256")) => {}
        Some(Some(_)) => return Err(Refusal::new(4, "Unsupported `authentication_method`.")),
        _ => return Err(Refusal::new(3, "Expected a string for `authentication_method`.")),
    }
    let first = ClientFirst::parse(authentication(message)?)?;
    let (credentials, exists) = users.credentials(&first.user);
    let nonce = users::random().map_err(|error| Refusal::new(22, error.to_string()))?;
    Ok((Exchange::new(first, credentials, nonce), exists))
}

fn authentication(message: &Value) -> Result<&str, Refusal> {
    let text = message.get("authentication").and_then(Value::as_str);
    text.ok_or_else(|| Refusal::new(5, "Expected a string for `authentication`."))
}

/// Reads one JSON object and the zero byte behind it.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<Value, Refusal>> {
    let mut message = Vec::new();
    loop {
        match stream.read_u8().await? {
            0 => break,
            byte => message.push(byte),
        }
        if message.len() >= MESSAGE_LIMIT {
            return Ok(Err(Refusal::new(7, "The message is too long.")));
        }
    }
    Ok(match serde_json::from_slice(&message) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Refusal::new(9, "Expected a JSON object.")),
        Err(error) => Err(Refusal::new(8, format!("Invalid JSON: {error}"))),
    })
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &Value) -> io::Result<()> {
    let mut bytes = message.to_string().into_bytes();
    bytes.push(0);
    stream.write_all(&bytes).await?;
    stream.flush().await
}
