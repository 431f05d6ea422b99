//! Frames: token (8 bytes), length of the body (4 bytes), body; integers are little-endian.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The first length of a body that is refused.
pub const BODY_LIMIT: usize = 128 << 20;
/// How long a client may pause within a body.
const PAUSE: Duration = Duration::from_secs(30);

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which of the connection's queries the frame is about.
    pub token: u64,
    /// The length of the body.
    pub length: usize,
}

/// Reads a frame's beginning; `None` when the client closed the connection between two frames.
///
/// # Errors
/// When the connection breaks.
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Header>> {
    let mut bytes = [0; 12];
    let mut filled = 0;
    while filled < bytes.len() {
        match stream.read(&mut bytes[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    let [t0, t1, t2, t3, t4, t5, t6, t7, l0, l1, l2, l3] = bytes;
    let token = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    Ok(Some(Header { token, length }))
}

/// Reads a body of `length` bytes. Memory is taken as bytes arrive, not as they are announced.
///
/// # Errors
/// When the connection breaks, or the client stops sending.
pub async fn read_body(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(length.min(64 << 10));
    let mut stream = stream.take(length as u64);
    while body.len() < length {
        let read = tokio::time::timeout(PAUSE, stream.read_buf(&mut body)).await;
        if read.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client stopped within a query"))?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(body)
}

/// Writes a frame.
///
/// # Errors
/// When the connection breaks.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), token: u64, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::Error::other("a response has to stay below 4 GiB"))?;
    let mut header = [0; 12];
    header[..8].copy_from_slice(&token.to_le_bytes());
    header[8..].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&header).await?;
    stream.write_all(body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, b"[2]").await.unwrap();
        let mut reader = &bytes[..];
        let header = read_header(&mut reader).await.unwrap().unwrap();
        assert_eq!(header, Header { token: 7, length: 3 });
        assert_eq!(read_body(&mut reader, header.length).await.unwrap(), b"[2]");
        assert_eq!(read_header(&mut reader).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error() {
        assert!(read_header(&mut &[1, 2, 3][..]).await.is_err());
        assert!(read_body(&mut &[1, 2, 3][..], 4).await.is_err());
    }
}
