//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side, without channel binding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Rounds of PBKDF2.
const ITERATIONS: u32 = 4096;
/// The channel binding header `n,,` of clients that don't bind.
const NO_BINDING: &str = "biws";

type Key = [u8; 32];

/// What the server keeps of a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    salt: [u8; 16],
    iterations: u32,
    stored_key: Key,
    server_key: Key,
}

fn hmac(key: &[u8], message: &[u8]) -> Key {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

impl Credentials {
    /// The credentials of a password.
    #[must_use]
    pub fn new(password: &str, salt: [u8; 16]) -> Self {
        let mut salted: Key = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, ITERATIONS, &mut salted);
        let client_key = hmac(&salted, b"Client Key");
        Self {
            salt,
            iterations: ITERATIONS,
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, b"Server Key"),
        }
    }

    /// Credentials that no password fits, for users that don't exist: their handshake goes on like any other.
    #[must_use]
    pub fn unusable(secret: &[u8; 32], user: &str) -> Self {
        let salt = hmac(secret, user.as_bytes());
        let stored_key = hmac(secret, &salt);
        let server_key = hmac(secret, &stored_key);
        let mut short = [0; 16];
        short.copy_from_slice(&salt[..16]);
        Self { salt: short, iterations: ITERATIONS, stored_key, server_key }
    }
}

/// Why a client is not let in, with the number that the protocol gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramError {
    /// The number.
    pub code: u32,
    /// The text.
    pub message: &'static str,
}

const fn invalid(message: &'static str) -> ScramError {
    ScramError { code: 10, message }
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// Who the client says it is.
    pub user: String,
    nonce: String,
    bare: String,
}

impl ClientFirst {
    /// Reads `n,,n=USER,r=NONCE`.
    pub fn parse(message: &str) -> Result<Self, ScramError> {
        let mut parts = message.splitn(3, ',');
        match parts.next() {
            Some("n" | "y") => {}
            Some(binding) if binding.starts_with("p=") => {
                return Err(ScramError { code: 15, message: "Channel binding is not supported" });
            }
            _ => return Err(invalid("Invalid encoding")),
        }
        if parts.next() != Some("") {
            return Err(ScramError { code: 20, message: "Authorization identities are not supported" });
        }
        let bare = parts.next().ok_or(invalid("Invalid encoding"))?;
        let mut attributes = bare.split(',');
        let user = match attributes.next() {
            Some(attribute) if attribute.starts_with("m=") => {
                return Err(ScramError { code: 11, message: "SCRAM extensions are not supported" });
            }
            attribute => attribute.and_then(|attribute| attribute.strip_prefix("n=")),
        };
        let user = decode_user(user.ok_or(invalid("Invalid encoding"))?)?;
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| !nonce.is_empty()).ok_or(invalid("Invalid encoding"))?.to_owned();
        Ok(Self { user, nonce, bare: bare.to_owned() })
    }
}

fn decode_user(encoded: &str) -> Result<String, ScramError> {
    const ERROR: ScramError = ScramError { code: 18, message: "Invalid encoding of the user name" };
    let mut user = String::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((plain, escape)) = rest.split_once('=') {
        user.push_str(plain);
        match escape.get(..2) {
            Some("2C") => user.push(','),
            Some("3D") => user.push('='),
            _ => return Err(ERROR),
        }
        rest = escape.get(2..).ok_or(ERROR)?;
    }
    user.push_str(rest);
    Ok(user)
}

/// A handshake that waits for the client's proof.
pub struct Exchange {
    credentials: Credentials,
    client_first: ClientFirst,
    nonce: String,
    server_first: String,
}

impl Exchange {
    /// Answers the client's first message; `server_nonce` is random.
    #[must_use]
    pub fn new(client_first: ClientFirst, credentials: Credentials, server_nonce: [u8; 18]) -> Self {
        let nonce = format!("{}{}", client_first.nonce, STANDARD.encode(server_nonce));
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(credentials.salt), credentials.iterations);
        Self { credentials, client_first, nonce, server_first }
    }

    /// The server's first message.
    #[must_use]
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks `c=biws,r=NONCE,p=PROOF` and gives the server's last message.
    pub fn finish(&self, client_final: &str) -> Result<String, ScramError> {
        const WRONG: ScramError = ScramError { code: 12, message: "Wrong password" };
        let (without_proof, proof) = client_final.rsplit_once(",p=").ok_or(invalid("Invalid encoding"))?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|attribute| attribute.strip_prefix("c="));
        if !matches!(binding, Some(NO_BINDING | "eSws")) {
            return Err(ScramError { code: 15, message: "Channel binding is not supported" });
        }
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        if nonce != Some(self.nonce.as_str()) {
            return Err(ScramError { code: 20, message: "Invalid nonce from client" });
        }
        let proof: Key = STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok()).ok_or(WRONG)?;
        let message = format!("{},{},{without_proof}", self.client_first.bare, self.server_first);
        let signature = hmac(&self.credentials.stored_key, message.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let stored_key: Key = Sha256::digest(client_key).into();
        if !same(&stored_key, &self.credentials.stored_key) {
            return Err(WRONG);
        }
        let signature = hmac(&self.credentials.server_key, message.as_bytes());
        Ok(format!("v={}", STANDARD.encode(signature)))
    }
}

/// Compares in a time that does not tell where the difference is.
fn same(left: &Key, right: &Key) -> bool {
    left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let credentials = Credentials::new("pencil", salt);
        let first = ClientFirst::parse("n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(first.user, "user");
        let mut exchange = Exchange::new(first, credentials, [0; 18]);
        // The RFC's nonce is no base64 of 18 bytes.
        exchange.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
        exchange.server_first = format!("r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", exchange.nonce);
        let client_final = format!("c=biws,r={},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", exchange.nonce);
        assert_eq!(exchange.finish(&client_final).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let other = client_final.replace("p=d", "p=e");
        assert_eq!(exchange.finish(&other).unwrap_err().code, 12);
    }

    #[test]
    fn bad_first_messages_have_their_codes() {
        for (message, code) in [
            ("", 10),
            ("p=tls-unique,,n=u,r=x", 15),
            ("n,a=x,n=u,r=x", 20),
            ("n,,m=x,n=u,r=x", 11),
            ("n,,n=a=41,r=x", 18),
            ("n,,n=u,r=", 10),
        ] {
            assert_eq!(ClientFirst::parse(message).unwrap_err().code, code, "{message}");
        }
        assert_eq!(ClientFirst::parse("n,,n=a=2Cb=3D,r=x").unwrap().user, "a,b=");
    }
}
