//! The world outside of a server, on loopback: a name server and web servers that count who comes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The addresses of a name, one list an answer; the last list is given again and again.
type Answers = HashMap<String, Vec<Vec<Ipv4Addr>>>;

/// A name server that knows A records only.
pub struct Dns {
    pub address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
}

impl Dns {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, answers) = (socket.local_addr().unwrap(), Arc::<Mutex<Answers>>::default());
        let known = Arc::clone(&answers);
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                let answer = reply(&query[..length], &mut known.lock().unwrap());
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { address, answers }
    }

    /// From now on, the name has these addresses: one list an answer.
    pub fn tell(&self, name: &str, answers: &[&[&str]]) {
        let parse = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        self.answers.lock().unwrap().insert(name.to_owned(), answers.iter().map(parse).collect());
    }
}

/// An answer (RFC 1035, 4): the question again, and A records with a time to live of 0.
fn reply(query: &[u8], known: &mut Answers) -> Vec<u8> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while let Some(&length) = query.get(at).filter(|length| **length > 0) {
        let label = &query[at + 1..at + 1 + usize::from(length)];
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + usize::from(length);
    }
    let question_end = at + 5;
    let is_a = query[at + 1..at + 3] == [0, 1];
    let found = known.get_mut(&labels.join("."));
    let exists = found.is_some();
    let addresses = match found {
        Some(lists) if is_a && lists.len() > 1 => lists.remove(0),
        Some(lists) if is_a => lists[0].clone(),
        _ => Vec::new(),
    };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, if exists { 0x80 } else { 0x83 }, 0, 1]);
    answer.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(&query[12..question_end]);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// A web server on an address of its own.
pub struct Web {
    pub address: SocketAddr,
    visits: Arc<AtomicUsize>,
}

impl Web {
    /// `serve` gets each connection, with the path that was asked for.
    pub fn start(ip: &str, serve: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(&TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap(), serve)
    }

    pub fn on(
        listener: &TcpListener,
        serve: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let (listener, visits) = (listener.try_clone().unwrap(), Arc::<AtomicUsize>::default());
        let (address, count) = (listener.local_addr().unwrap(), Arc::clone(&visits));
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
                    let Some(path) = head(&mut stream) else { return };
                    serve(&path, &mut stream);
                });
            }
        });
        Self { address, visits }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that came.
    pub fn visits(&self) -> usize {
        self.visits.load(SeqCst)
    }
}

/// Reads the head of a request; its path.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            return Some(first.split(' ').nth(1)?.to_owned());
        }
    }
}

/// Answers with a text.
pub fn say(stream: &mut (impl Read + Write), text: &str) {
    let length = text.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
}
