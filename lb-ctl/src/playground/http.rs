//! As much of HTTP/1.1 (RFC 9112) as the echo server and its client speak: a head with a few headers that matter, and a
//! body of known length.

use std::io::{self, BufRead, Read};

/// The longest head that is read.
const HEAD_LIMIT: u64 = 8192;

/// Start line and headers of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// `GET / HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(super) start: String,
    /// Length of the body that follows.
    pub(super) content_length: u64,
    /// `Connection: close` was said.
    pub(super) close: bool,
}

impl Head {
    /// Reads a head; `None` when the connection ends before its first byte.
    pub(super) fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut limited = stream.take(HEAD_LIMIT);
        let mut head = Head::default();
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        line.trim_end().clone_into(&mut head.start);
        loop {
            line.clear();
            if limited.read_line(&mut line)? == 0 {
                let problem = "the head is longer than 8 KiB, or the connection ended inside it";
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return if line.trim_end().is_empty() {
                    Ok(Some(head))
                } else {
                    Err(io::Error::new(io::ErrorKind::InvalidData, "a header without a colon"))
                };
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.parse();
                head.content_length =
                    length.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a bad Content-Length"))?;
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            }
        }
    }
}

/// Hands a body of `length` bytes to `take`, piece by piece.
pub(super) fn read_body(stream: &mut impl BufRead, length: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut left = length;
    let mut body = stream.take(length);
    while left > 0 {
        let piece = body.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let used = piece.len();
        take(piece);
        body.consume(used);
        left -= used as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Head, read_body};

    #[test]
    fn heads_and_bodies_follow_each_other() {
        let mut stream: &[u8] = b"POST /sink HTTP/1.1\r\ncontent-LENGTH: 3\r\nHost: x:80\r\n\r\nabcGET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let head = Head::read(&mut stream).unwrap().unwrap();
        assert_eq!((head.start.as_str(), head.content_length, head.close), ("POST /sink HTTP/1.1", 3, false));
        let mut body = Vec::new();
        read_body(&mut stream, 3, |piece| body.extend_from_slice(piece)).unwrap();
        assert_eq!(body, b"abc");
        let head = Head::read(&mut stream).unwrap().unwrap();
        assert_eq!((head.start.as_str(), head.content_length, head.close), ("GET / HTTP/1.1", 0, true));
        assert_eq!(Head::read(&mut stream).unwrap(), None);
    }

    #[test]
    fn endless_and_broken_heads_are_refused() {
        let endless = vec![b'a'; 100_000];
        assert!(Head::read(&mut endless.as_slice()).is_err());
        assert!(Head::read(&mut "GET / HTTP/1.1\r\nno colon\r\n\r\n".as_bytes()).is_err());
        assert!(Head::read(&mut "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".as_bytes()).is_err());
        assert!(read_body(&mut "ab".as_bytes(), 3, |_| {}).is_err());
    }
}
