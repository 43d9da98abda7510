//! A client that reads responses as RFC 9112 (6.3) says, byte by byte, and forgives nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use wambda_tests::Server;

/// Longest wait for the next bytes: all scripts end before.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a response ended.
#[derive(Debug)]
pub(super) enum End {
    /// As its head says.
    Whole { status: u16, body: Vec<u8>, closes: bool },
    /// The connection was closed before it.
    Nothing,
    /// The connection was closed within it.
    Cut,
}

/// A connection, and what was read of it ahead.
pub(super) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    open: bool,
}

impl Connection {
    pub(super) fn new(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, read: Vec::new(), open: true }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        // The server may have closed already, which the next read tells.
        let _ = self.stream.write_all(bytes);
    }

    /// Whether nothing more comes, and the connection has ended.
    pub(super) fn is_closed(&mut self) -> bool {
        while self.more() {}
        self.read.is_empty()
    }

    /// Reads on; false at the end.
    fn more(&mut self) -> bool {
        let mut part = [0; 16 << 10];
        let read = match self.stream.read(&mut part) {
            _ if !self.open => 0,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("nothing comes any more: {error}, behind {:?}", self.shown()),
        };
        self.open = read > 0;
        self.read.extend_from_slice(&part[..read]);
        self.open
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.read[..self.read.len().min(300)]).into_owned()
    }

    /// So many bytes, or none when the connection ends before.
    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if !self.more() {
                self.read.clear();
                return None;
            }
        }
        Some(self.read.drain(..count).collect())
    }

    /// Up to and without these bytes.
    fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|window| window == mark) {
                let taken = self.read.drain(..at + mark.len()).take(at).collect();
                return Some(taken);
            }
            if !self.more() {
                self.read.clear();
                return None;
            }
        }
    }

    /// The response to a request of this method.
    pub(super) fn response(&mut self, method: &str) -> End {
        if self.read.is_empty() && !self.more() {
            return End::Nothing;
        }
        let Some(head) = self.until(b"\r\n\r\n") else { return End::Cut };
        let head = String::from_utf8(head).expect("a head in ASCII").to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no head of a response: {head:?}"));
        let field = |name: &str| -> Vec<String> {
            let values = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            values.map(|value| value.trim().to_owned()).collect()
        };
        let (lengths, codings) = (field("content-length"), field("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "a head with two framings: {head:?}");
        assert!(!(100..200).contains(&status), "an informational response: {head:?}");
        assert!(field("trailer").is_empty() && field("upgrade").is_empty(), "{head:?}");
        let closes = field("connection").iter().any(|value| value == "close");
        if status == 204 {
            assert!(lengths.is_empty() && codings.is_empty(), "RFC 9110, 8.6: {head:?}");
        }
        let body = if method == "HEAD" || matches!(status, 204 | 304) {
            Some(Vec::new())
        } else if let [length] = lengths.as_slice() {
            assert!(length.bytes().all(|b| b.is_ascii_digit()), "{head:?}");
            self.take(length.parse().unwrap())
        } else if let [coding] = codings.as_slice() {
            assert_eq!(coding, "chunked");
            self.chunks()
        } else {
            panic!("a response that only the connection's end ends: {head:?}");
        };
        body.map_or(End::Cut, |body| End::Whole { status, body, closes })
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = String::from_utf8(self.until(b"\r\n")?).unwrap();
            let count = usize::from_str_radix(&size, 16);
            let count = count.unwrap_or_else(|_| panic!("no size of a chunk: {size:?}"));
            let chunk = self.take(count)?;
            assert_eq!(self.take(2)?, b"\r\n", "a chunk has another length, or there are trailers");
            if count == 0 {
                return Some(body);
            }
            body.extend(chunk);
        }
    }
}
