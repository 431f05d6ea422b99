//! A Unix stream socket, blocking.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::pair::{Other, inherited, sockets};
use super::timing::Timing;
use super::{Arguments, sum};

pub fn ask(arguments: &Arguments) -> anyhow::Result<()> {
    let (mut ours, theirs) = sockets()?;
    let _other = Other::start(theirs.into())?;
    let payload = arguments.payload();
    let mut reply = vec![0; if arguments.sums() { 4 } else { payload.len() }];
    Timing::new(arguments).run(|| {
        ours.write_all(&payload)?;
        Ok(ours.read_exact(&mut reply)?)
    })
}

pub fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let mut stream = UnixStream::from(inherited()?);
    let mut request = arguments.payload();
    loop {
        match stream.read_exact(&mut request) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        match arguments.sums() {
            true => stream.write_all(&sum(&request).to_le_bytes())?,
            false => stream.write_all(&request)?,
        }
    }
}
