//! A small blocking client of the ReQL protocol (V1_0), for commands that move data.
//!
//! Terms are given as their wire form, JSON text. Several queries can be on their way at once: [`Client::send`] as many
//! as wanted, then [`Client::receive`] the answers, which carry the token that `send` gave.

mod scram;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// The magic number of protocol version V1_0.
const V1_0: u32 = 0x34c2_bdc3;
/// The longest handshake message, its zero byte included.
const HANDSHAKE_LIMIT: u64 = 2048;
/// Only for the handshake: a query takes as long as it takes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

const START: u8 = 1;
const CONTINUE: &str = "[2]";
const SUCCESS_ATOM: u8 = 1;
const SUCCESS_SEQUENCE: u8 = 2;
const SUCCESS_PARTIAL: u8 = 3;

/// An authenticated connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    next_token: u64,
}

/// The answer to one query.
#[derive(Debug, Deserialize)]
pub struct Response {
    #[serde(rename = "t")]
    kind: u8,
    #[serde(rename = "r")]
    values: Vec<Value>,
    #[serde(rename = "e", default)]
    error: Option<u32>,
}

/// Why a query could not be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to {address}: {problem}; is the server running, and is this its ReQL port?")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        problem: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the server broke: {0}; see the server's log")]
    Broken(io::Error),
    /// The server refused the user or the password.
    #[error("the server refused the user `{user}`: {message}")]
    Refused {
        /// The user.
        user: String,
        /// What the server says.
        message: String,
    },
    /// The peer does not speak the protocol as it should.
    #[error("this is not a ReQL server, or one that is too new for this client: {0}")]
    Protocol(String),
    /// The server ran the query and it failed.
    #[error("{0}")]
    Query(String),
}

impl From<io::Error> for ClientError {
    fn from(problem: io::Error) -> Self {
        Self::Broken(problem)
    }
}

#[derive(Serialize)]
struct First<'a> {
    protocol_version: u32,
    authentication_method: &'a str,
    authentication: &'a str,
}

#[derive(Serialize)]
struct Final<'a> {
    authentication: &'a str,
}

/// A message of the server during the handshake.
#[derive(Deserialize)]
struct Greeting {
    success: bool,
    #[serde(default)]
    authentication: String,
    #[serde(default)]
    error: String,
}

impl Client {
    /// Connects to `HOST:PORT` and authenticates.
    ///
    /// # Errors
    /// Nobody listens, the user is refused, or the peer is not a ReQL server.
    pub fn connect(address: &str, user: &str, password: &str) -> Result<Self, ClientError> {
        let unreachable = |problem| ClientError::Connect { address: address.into(), problem };
        let stream = TcpStream::connect(address).map_err(unreachable)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        let mut client = Self { stream: BufReader::new(stream), next_token: 1 };
        client.authenticate(user, password)?;
        client.stream.get_ref().set_read_timeout(None)?;
        Ok(client)
    }

    fn authenticate(&mut self, user: &str, password: &str) -> Result<(), ClientError> {
        let exchange = scram::Exchange::new(user)?;
        self.stream.get_mut().write_all(&V1_0.to_le_bytes())?;
        self.greet(&First {
            protocol_version: 0,
            authentication_method: "SCRAM-SHA-256",
            authentication: &exchange.first(),
        })?;
        self.greeting(user)?;
        let challenge = self.greeting(user)?.authentication;
        let proof = exchange.answer(&challenge, password).map_err(ClientError::Protocol)?;
        self.greet(&Final { authentication: &proof.message })?;
        let verified = proof.is_signed_by(&self.greeting(user)?.authentication);
        // A server that does not know the password cannot sign, so it is not the one that it says it is.
        verified.then_some(()).ok_or_else(|| ClientError::Protocol("its signature is wrong".into()))
    }

    /// Sends a message of the handshake.
    fn greet(&mut self, message: &impl Serialize) -> Result<(), ClientError> {
        let mut bytes = serde_json::to_vec(message).map_err(io::Error::from)?;
        bytes.push(0);
        Ok(self.stream.get_mut().write_all(&bytes)?)
    }

    /// Receives a message of the handshake.
    fn greeting(&mut self, user: &str) -> Result<Greeting, ClientError> {
        let mut bytes = Vec::new();
        (&mut self.stream).take(HANDSHAKE_LIMIT).read_until(0, &mut bytes)?;
        let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        let greeting: Greeting = serde_json::from_slice(text)
            .map_err(|_| ClientError::Protocol(format!("it says `{}`", String::from_utf8_lossy(text).trim())))?;
        if greeting.success {
            Ok(greeting)
        } else {
            Err(ClientError::Refused { user: user.into(), message: greeting.error })
        }
    }

    /// The socket, for whoever wants to say something else than this client would. Between two answers.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    /// Sends a query without waiting, and gives the token that its answer will carry.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, term: &[u8]) -> Result<u64, ClientError> {
        let token = self.next_token;
        self.next_token += 1;
        let mut body = Vec::with_capacity(term.len() + 8);
        write!(body, "[{START},")?;
        body.extend_from_slice(term);
        body.extend_from_slice(b",{}]");
        self.frame(token, &body)?;
        Ok(token)
    }

    fn frame(&mut self, token: u64, body: &[u8]) -> Result<(), ClientError> {
        let length = u32::try_from(body.len())
            .map_err(|_| ClientError::Query("a query is larger than the protocol allows; send less at once".into()))?;
        let mut frame = Vec::with_capacity(12 + body.len());
        frame.extend_from_slice(&token.to_le_bytes());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(body);
        Ok(self.stream.get_mut().write_all(&frame)?)
    }

    /// Waits for the next answer, whichever query it belongs to.
    ///
    /// # Errors
    /// The connection broke, or the answer is no valid response.
    pub fn receive(&mut self) -> Result<(u64, Response), ClientError> {
        let (mut token, mut length) = ([0; 8], [0; 4]);
        self.stream.read_exact(&mut token)?;
        self.stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        let mut body = Vec::new();
        // Not `vec![0; length]`: memory is taken only as bytes arrive.
        (&mut self.stream).take(length.into()).read_to_end(&mut body)?;
        let response = serde_json::from_slice(&body)
            .map_err(|problem| ClientError::Protocol(format!("its response cannot be read: {problem}")))?;
        Ok((u64::from_le_bytes(token), response))
    }

    /// Runs a query to its end: its value, or the list of all elements of a sequence.
    ///
    /// # Errors
    /// The connection broke or the query failed.
    pub fn run(&mut self, term: &[u8]) -> Result<Value, ClientError> {
        let token = self.send(term)?;
        let mut elements = Vec::new();
        loop {
            let (answered, response) = self.receive()?;
            if answered != token {
                return Err(ClientError::Protocol(format!("it answered query {answered}, which was not asked")));
            }
            match response.kind {
                SUCCESS_SEQUENCE => {
                    elements.extend(response.values);
                    return Ok(Value::Array(elements));
                }
                SUCCESS_PARTIAL => {
                    elements.extend(response.values);
                    self.frame(token, CONTINUE.as_bytes())?;
                }
                _ => return response.into_value(),
            }
        }
    }
}

impl Response {
    /// The type of the response, as the protocol numbers it: 1 for a value, 18 for a runtime error, ...
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The type of the error, as the protocol numbers it: 4,100,000 for OP_FAILED, ...
    #[must_use]
    pub fn error(&self) -> Option<u32> {
        self.error
    }

    /// The one value of the answer, or the error that it reports.
    ///
    /// # Errors
    /// The query failed.
    pub fn into_value(self) -> Result<Value, ClientError> {
        let value = self.values.into_iter().next().unwrap_or_default();
        match (self.kind, value) {
            (SUCCESS_ATOM, value) => Ok(value),
            (_, Value::String(message)) => Err(ClientError::Query(message)),
            (kind, _) => Err(ClientError::Protocol(format!("it sent a response of type {kind}, which was not asked"))),
        }
    }
}

#[cfg(test)]
mod tests;
