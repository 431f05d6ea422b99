//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// `n,,` in base64: no channel binding.
const NO_BINDING: &str = "biws";
/// More would keep this side computing for minutes at the wish of the other.
const MOST_ITERATIONS: u32 = 1_000_000;

/// An exchange that has begun.
pub(super) struct Exchange {
    user: String,
    nonce: String,
}

/// The last message of the client, and what the server has to answer to it.
pub(super) struct Proof {
    pub(super) message: String,
    signature: [u8; 32],
}

impl Exchange {
    pub(super) fn new(user: &str) -> io::Result<Self> {
        let mut nonce = [0; 18];
        getrandom::fill(&mut nonce).map_err(io::Error::from)?;
        Ok(Self { user: user.replace('=', "=3D").replace(',', "=2C"), nonce: BASE64.encode(nonce) })
    }

    /// The first message.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.first_bare())
    }

    fn first_bare(&self) -> String {
        format!("n={},r={}", self.user, self.nonce)
    }

    /// The last message, given the server's challenge `r=NONCE,s=SALT,i=ITERATIONS`; or what is wrong with that.
    pub(super) fn answer(&self, challenge: &str, password: &str) -> Result<Proof, String> {
        let field = |name| challenge.split(',').find_map(|field| field.strip_prefix(name));
        let broken = || format!("its challenge `{challenge}` cannot be understood");
        let nonce = field("r=").filter(|nonce| nonce.starts_with(&self.nonce)).ok_or_else(broken)?;
        let salt = field("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or_else(broken)?;
        let iterations = field("i=").and_then(|text| text.parse().ok()).ok_or_else(broken)?;
        if !(1..=MOST_ITERATIONS).contains(&iterations) {
            return Err(broken());
        }

        let mut salted = [0; 32];
        pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), &salt, iterations, &mut salted)
            .map_err(|problem| problem.to_string())?;
        let unproved = format!("c={NO_BINDING},r={nonce}");
        let exchanged = format!("{},{challenge},{unproved}", self.first_bare());
        let mut proof = hmac(&salted, b"Client Key")?;
        let stored: [u8; 32] = Sha256::digest(proof).into();
        for (byte, mask) in proof.iter_mut().zip(hmac(&stored, exchanged.as_bytes())?) {
            *byte ^= mask;
        }
        let signature = hmac(&hmac(&salted, b"Server Key")?, exchanged.as_bytes())?;
        Ok(Proof { message: format!("{unproved},p={}", BASE64.encode(proof)), signature })
    }
}

#[cfg(test)]
impl Exchange {
    /// The exchange that a client has begun with the message `first`.
    pub(super) fn resumed(first: &str) -> Self {
        let (user, nonce) = first.trim_start_matches("n,,n=").split_once(",r=").unwrap_or_default();
        Self { user: user.into(), nonce: nonce.into() }
    }
}

#[cfg(test)]
impl Proof {
    /// What a server that knows the password answers.
    pub(super) fn verdict(&self) -> String {
        format!("v={}", BASE64.encode(self.signature))
    }
}

impl Proof {
    /// Whether `verdict`, the server's last message, is the signature of a server that knows the password.
    pub(super) fn is_signed_by(&self, verdict: &str) -> bool {
        verdict.strip_prefix("v=").is_some_and(|signature| signature == BASE64.encode(self.signature))
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Result<[u8; 32], String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|problem| problem.to_string())?;
    mac.update(message);
    Ok(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let exchange = Exchange { user: "user".into(), nonce: "rOprNGfwEbeRWgbNEkqO".into() };
        assert_eq!(exchange.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = exchange.answer(challenge, "pencil").unwrap();
        assert_eq!(
            proof.message,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(proof.is_signed_by("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!proof.is_signed_by("v=AAAA"));
    }

    #[test]
    fn a_challenge_that_is_not_ours_or_makes_no_sense_is_refused() {
        let exchange = Exchange { user: "u".into(), nonce: "abc".into() };
        for challenge in ["", "r=xyz,s=AAAA,i=1", "r=abcd,s=?,i=1", "r=abcd,s=AAAA,i=0", "r=abcd,s=AAAA,i=99999999"] {
            assert!(exchange.answer(challenge, "").is_err(), "{challenge}");
        }
    }

    #[test]
    fn commas_and_equals_signs_in_names_are_escaped() {
        let exchange = Exchange::new("a,b=c").unwrap();
        assert!(exchange.first().starts_with("n,,n=a=2Cb=3Dc,r="));
    }
}
