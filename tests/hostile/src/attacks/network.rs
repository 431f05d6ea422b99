//! D: sockets, its own and new ones.

use super::kernel::{Target, attempt, call, outcome};
use super::{Attack, CONTROL, PASSING};

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("d1_connect", |target| outcome(tcp().and_then(|fd| connect(fd, target)))),
    Attack::new("d1_bind", |_| outcome(tcp().and_then(bind))),
    Attack::new("d1_listen", |_| outcome(tcp().and_then(|fd| call(libc::SYS_listen, &[fd, 1])))),
    Attack::new("d2_udp", |target| outcome(socket(libc::AF_INET, libc::SOCK_DGRAM).and_then(|fd| connect(fd, target)))),
    Attack::new("d2_udp6", |_| outcome(socket(libc::AF_INET6, libc::SOCK_DGRAM))),
    Attack::new("d2_raw", |_| outcome(socket(libc::AF_INET, libc::SOCK_RAW))),
    Attack::new("d2_packet", |_| outcome(socket(libc::AF_PACKET, libc::SOCK_RAW))),
    Attack::new("d2_netlink", |_| outcome(socket(libc::AF_NETLINK, libc::SOCK_RAW))),
    Attack::new("d2_vsock", |_| outcome(socket(libc::AF_VSOCK, libc::SOCK_STREAM))),
    Attack::new("d2_alg", |_| outcome(socket(libc::AF_ALG, libc::SOCK_SEQPACKET))),
    Attack::new("d3_unix_path", |target| {
        outcome(
            socket(libc::AF_UNIX, libc::SOCK_STREAM).and_then(|fd| connect_unix(fd, target.path("socket").as_bytes())),
        )
    }),
    Attack::new("d3_unix_abstract", |_| {
        outcome(socket(libc::AF_UNIX, libc::SOCK_STREAM).and_then(|fd| connect_unix(fd, b"\0photondb-decoy")))
    }),
    Attack::new("d3_socket_pair", |_| {
        let mut pair = [0_i32; 2];
        attempt(libc::SYS_socketpair, &[libc::AF_UNIX as usize, 1, 0, pair.as_mut_ptr() as usize])
    }),
    Attack::new("d6_io_uring_socket", |_| {
        let parameters = [0_u64; 15];
        attempt(libc::SYS_io_uring_setup, &[4, parameters.as_ptr() as usize])
    }),
    Attack::new("d7_connect_control", |target| outcome(connect(CONTROL as usize, target))),
    Attack::new("d7_connect_passing", |target| outcome(connect(PASSING as usize, target))),
    Attack::new("d7_send_elsewhere", |target| {
        let address = inet(target.port);
        let to = [CONTROL as usize, c"x".as_ptr() as usize, 1, 0, address.as_ptr() as usize, address.len()];
        attempt(libc::SYS_sendto, &to)
    }),
    Attack::new("d7_shutdown", |_| attempt(libc::SYS_shutdown, &[CONTROL as usize, libc::SHUT_RD as usize])),
    Attack::new("d7_buffer_size", |_| {
        let size = 1_i32 << 30;
        let option = [CONTROL as usize, libc::SOL_SOCKET as usize, libc::SO_RCVBUF as usize];
        attempt(libc::SYS_setsockopt, &[&option[..], &[(&raw const size) as usize, 4]].concat())
    }),
    Attack::new("d7_peer_credentials", |_| {
        let (mut credentials, mut size) = ([0_u32; 3], 12_u32);
        let option = [CONTROL as usize, libc::SOL_SOCKET as usize, libc::SO_PEERCRED as usize];
        attempt(
            libc::SYS_getsockopt,
            &[&option[..], &[credentials.as_mut_ptr() as usize, (&raw mut size) as usize]].concat(),
        )
    }),
    Attack::new("d7_accept", |_| attempt(libc::SYS_accept4, &[CONTROL as usize, 0, 0, 0])),
    Attack::new("d7_peek", |_| {
        let mut byte = 0_u8;
        let flags = (libc::MSG_PEEK | libc::MSG_DONTWAIT) as usize;
        // It may look at what is its own.
        let _ = call(libc::SYS_recvfrom, &[CONTROL as usize, (&raw mut byte) as usize, 1, flags]);
        "peeked".into()
    }),
    Attack::new("d8_own_database", |target| outcome(tcp().and_then(|fd| connect(fd, target)))),
    Attack::new("d8_standard_library", |target| outcome(std::net::TcpStream::connect(("127.0.0.1", target.port)))),
];

fn socket(family: i32, kind: i32) -> std::io::Result<usize> {
    call(libc::SYS_socket, &[family as usize, kind as usize, 0])
}

fn tcp() -> std::io::Result<usize> {
    socket(libc::AF_INET, libc::SOCK_STREAM)
}

/// `struct sockaddr_in` of the loopback interface.
fn inet(port: u16) -> [u8; 16] {
    let [high, low] = port.to_be_bytes();
    [libc::AF_INET as u8, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn connect(fd: usize, target: &Target) -> std::io::Result<usize> {
    let address = inet(target.port);
    call(libc::SYS_connect, &[fd, address.as_ptr() as usize, address.len()])
}

fn bind(fd: usize) -> std::io::Result<usize> {
    let address = inet(0);
    call(libc::SYS_bind, &[fd, address.as_ptr() as usize, address.len()])
}

fn connect_unix(fd: usize, path: &[u8]) -> std::io::Result<usize> {
    let mut address = [0_u8; 110];
    address[0] = libc::AF_UNIX as u8;
    let length = path.len().min(107);
    address[2..2 + length].copy_from_slice(&path[..length]);
    call(libc::SYS_connect, &[fd, address.as_ptr() as usize, length + 2])
}
