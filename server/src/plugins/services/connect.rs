//! Connections for plugins: the server resolves, decides and dials, and passes on the connected socket.
//!
//! A name is looked up once, and what is dialled is an address of that answer: a name that means something else a moment
//! later changes nothing. Addresses that are not public are refused unless the operator listed the address itself, so
//! that a listed name can't lead to this machine, its neighbours or a cloud's metadata. There is nothing to ask again for
//! a redirect: the plugin has the bytes, and a further host is a further dial.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_ipc_schema::control::TokenBucket;
use photondb_ipc_schema::plugin_capnp::connect;
use photondb_plugin_sdk::calls::quote;
use photondb_plugin_sdk::manifest::{Address, Host};
use photondb_plugin_sdk::{Cause, PluginError};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::fail;
use crate::plugins::instance::Passing;
use crate::plugins::journal::Journal;

/// From the call to the connected socket, the look-up included.
const DEADLINE: Duration = Duration::from_secs(10);
/// Dials a second, successful or not.
const DIALS_PER_SECOND: u32 = 10;
/// Sockets that the plugin may have open, the two that it was born with included.
const MAX_OPEN: usize = 64;
/// Look-ups at a time: each holds a thread for as long as the resolver takes.
const MAX_LOOKUPS: usize = 2;
/// Events about refusals a second; the rest is only counted.
const EVENTS_PER_SECOND: u32 = 1;
/// What the plugin's reads and writes wait for at most, unless it says otherwise.
const READ_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Whose connections these are.
pub(super) struct Dialer {
    pub(super) plugin: String,
    pub(super) pid: u32,
    pub(super) listed: Vec<Address>,
    /// The server's own ports.
    pub(super) ports: Vec<u16>,
    pub(super) passing: Rc<Passing>,
    pub(super) journal: Arc<Journal>,
}

struct Service {
    dialer: Dialer,
    rate: RefCell<TokenBucket>,
    events: RefCell<TokenBucket>,
    /// Refusals of which no event tells.
    untold: Cell<u64>,
    lookups: Arc<Semaphore>,
}

/// The capability.
pub(super) fn client(dialer: Dialer) -> connect::Client {
    let now = Instant::now();
    capnp_rpc::new_client(Service {
        dialer,
        rate: RefCell::new(TokenBucket::new(DIALS_PER_SECOND, now)),
        events: RefCell::new(TokenBucket::new(EVENTS_PER_SECOND, now)),
        untold: Cell::new(0),
        lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
    })
}

impl connect::Server for Service {
    async fn dial(self: Rc<Self>, params: connect::DialParams, mut results: connect::DialResults) -> capnp::Result<()> {
        let params = params.get()?;
        let (host, port) = (params.get_host()?.to_string()?, params.get_port());
        match self.connect(&host, port).await {
            Ok(descriptor) => results.get().set_descriptor(descriptor),
            Err(error) => {
                if error.cause() == Cause::Denied {
                    self.tell(error.message());
                }
                fail(results.get().init_failure(), &error);
            }
        }
        Ok(())
    }
}

impl Service {
    /// The number of the packet with the connected socket.
    async fn connect(&self, host: &str, port: u16) -> Result<u32, PluginError> {
        let Dialer { plugin, listed, .. } = &self.dialer;
        let address = Address::new(host, port).filter(|address| listed.contains(address)).ok_or_else(|| {
            let target = quote(&format!("{host}:{port}"));
            denied(format!(
                "a connection to `{target}` was refused: it is not among those that are declared and granted; to allow it, \
                 list it under `connect` in the plugin's manifest and in [plugins.grants.{plugin}]"
            ))
        })?;
        if !self.rate.borrow_mut().take(1, Instant::now()) {
            return Err(limit(format!("more than {DIALS_PER_SECOND} connections a second; try again later")));
        }
        if open_sockets(self.dialer.pid) >= MAX_OPEN {
            return Err(limit(format!("{MAX_OPEN} sockets are open already; close some")));
        }
        let failed =
            |error: io::Error| PluginError::runtime(Cause::Plugin, format!("connecting to `{address}`: {error}"));
        let connected = timeout(DEADLINE, async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for candidate in self.resolve(&address).await? {
                match TcpStream::connect(candidate).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(failed(last))
        });
        let seconds = DEADLINE.as_secs();
        let late = || PluginError::runtime(Cause::Deadline, format!("`{address}` did not answer within {seconds} s"));
        let stream = connected.await.map_err(|_| late())??;
        let stream = stream.into_std().map_err(failed)?;
        // The plugin's from here on: its mode and its options are of no concern to us, who close our copy.
        stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(READ_WRITE_TIMEOUT)))
            .and_then(|()| stream.set_write_timeout(Some(READ_WRITE_TIMEOUT)))
            .map_err(failed)?;
        self.dialer.passing.pass(stream.as_fd()).map_err(|error| limit(format!("passing the connection: {error}")))
    }

    /// The addresses to dial, each of which is allowed.
    async fn resolve(&self, address: &Address) -> Result<Vec<SocketAddr>, PluginError> {
        let name = match address.host() {
            // Listed as it is.
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, address.port())]),
            Host::Name(name) => (name.clone(), address.port()),
        };
        let failed = |problem: &dyn std::fmt::Display| {
            PluginError::runtime(Cause::Plugin, format!("looking up `{address}`: {problem}"))
        };
        // Kept by the look-up: one that takes longer than we wait for it counts.
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(|error| failed(&error))?;
        let found = tokio::task::spawn_blocking(move || {
            let found = name.to_socket_addrs().map(Vec::from_iter);
            drop(permit);
            found
        });
        let found = found.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let (allowed, refused): (Vec<_>, Vec<_>) =
            found.into_iter().map(canonical).partition(|found| self.may_dial(*found));
        match refused.first().filter(|_| allowed.is_empty()) {
            None => Ok(allowed),
            Some(private) => Err(denied(format!(
                "a connection to `{address}` was refused: the name stands for {ip}, which is not a public address; to allow \
                 it, list \"{private}\" under `connect` as well",
                ip = private.ip()
            ))),
        }
    }

    fn may_dial(&self, found: SocketAddr) -> bool {
        let Dialer { listed, ports, .. } = &self.dialer;
        let is_listed =
            listed.iter().any(|listed| *listed.host() == Host::Ip(found.ip()) && listed.port() == found.port());
        let is_own = ports.contains(&found.port()) && is_this_machine(found.ip());
        is_listed || (is_public(found.ip()) && !is_own)
    }

    /// Tells the operator of a refusal, but not of each of a flood.
    fn tell(&self, message: &str) {
        if !self.events.borrow_mut().take(1, Instant::now()) {
            self.untold.set(self.untold.get() + 1);
            return;
        }
        let message = match self.untold.take() {
            0 => message.to_owned(),
            untold => format!("{message} ({untold} further ones before)"),
        };
        self.dialer.journal.event(&self.dialer.plugin, "connection refused", message);
    }
}

fn denied(message: String) -> PluginError {
    PluginError::runtime(Cause::Denied, message)
}

fn limit(message: String) -> PluginError {
    PluginError::runtime(Cause::Limit, message)
}

/// Sockets that a process has open; as many as can be where that can't be read.
fn open_sockets(pid: u32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return usize::MAX };
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")).count()
}

/// The same address, without the clothes of IPv6 on one of IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the address is one of this machine's: only then can something be bound to it.
fn is_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether everybody on the internet means the same by this address, and nobody means something special.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// As in the IANA registry of special-purpose addresses of IPv4.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let special = match ip.octets() {
        [0 | 10 | 127, ..] | [224..=255, ..] => true,
        [100, second, ..] => second & 0xc0 == 64,
        [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => second & 0xf0 == 16,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => false,
    };
    !special
}

/// As in the IANA registry for IPv6: what is assigned for everybody (2000::/3) without its special parts, among them all
/// that carry an address of IPv4 inside; and public addresses of IPv4 through NAT64 (64:ff9b::/96).
fn is_public_v6(ip: Ipv6Addr) -> bool {
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        // 2001::/23 (Teredo and others), 2001:db8::/32, 6to4, 3fff::/20.
        [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..0x1000, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public_in_any_clothes() {
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.1.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let v4: Ipv4Addr = special.parse().unwrap();
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            let nat64: IpAddr = format!("64:ff9b::{v4}").parse().unwrap();
            let six_to_four: IpAddr = {
                let [a, b, c, d] = v4.octets();
                format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1").parse().unwrap()
            };
            let compatible: IpAddr = format!("::{v4}").parse().unwrap();
            for ip in [IpAddr::V4(v4), mapped, nat64, six_to_four, compatible] {
                assert!(!is_public(ip), "{ip}");
            }
        }
        for special in [
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2001:10::1",
            "3fff::1",
            "64:ff9b:1::a00:1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
        for public in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.1",
            "2606:4700::1111",
            "2a00::1",
            "2001:4860:4860::8888",
            "64:ff9b::1.1.1.1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn this_machine_knows_its_addresses() {
        assert!(is_this_machine(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_this_machine("192.0.2.77".parse().unwrap()));
    }
}
