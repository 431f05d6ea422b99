//! `HOST:PORT`: where a plugin may have connections to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// A host and a port, as in `connect = ["api.example.com:443", "[2001:db8::1]:80"]`. Nothing stands for several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

/// A host, by its name or by its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name that is looked up; in lower case.
    Name(String),
    /// An address; never one of IPv4 in the clothes of IPv6.
    Ip(IpAddr),
}

/// What an address must be.
pub const ADDRESS: &str = "a host and a port as \"api.example.com:443\", \"192.0.2.1:80\" or \"[2001:db8::1]:80\"";

impl Address {
    /// The address of `port` on `host`, a name or an IP address; `None` if it is neither.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => Host::Ip(ip.to_canonical()),
            Err(_) => Host::Name(name(host)?),
        };
        (port != 0).then_some(Self { host, port })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A host name in lower case. What resolvers take for a number, as `127.1` or `0x7f000001`, is none.
fn name(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = text.rsplit('.').next()?;
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
    (text.len() <= 253 && text.split('.').all(is_label) && !is_number).then(|| text.to_ascii_lowercase())
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(ADDRESS)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit())).ok_or(ADDRESS)?;
        let address = Self::new(bare.unwrap_or(host), port.parse().map_err(|_| ADDRESS)?).ok_or(ADDRESS)?;
        // An IPv6 address needs the brackets, or its last group would be a port; nothing else may have them.
        let is_v6 = bare.unwrap_or(host).contains(':');
        if is_v6 == bare.is_some() { Ok(address) } else { Err(ADDRESS) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("API.Example.com:443", "api.example.com:443"),
            ("localhost:1", "localhost:1"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:65535", "[::1]:65535"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), written);
        }
    }

    #[test]
    fn what_is_no_single_address_is_refused() {
        for text in [
            "example.com",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+80",
            ":80",
            "*.example.com:443",
            "example.com.:443",
            "exa mple.com:80",
            "127.1:80",
            "2130706433:80",
            "0x7f.1:80",
            "example.0x1:80",
            "::1:80",
            "[example.com]:80",
            "[127.0.0.1]:80",
            "fe80::1%eth0:80",
            "[fe80::1%eth0]:80",
            "a..b:80",
            "http://a:80",
            "exämple.com:80",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
