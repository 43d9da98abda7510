//! Brokers to compare with: Redis Streams and NATS JetStream, both told to sync every write, driven by
//! the few lines of their protocols that it takes.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Server;
use crate::queue::event;

enum Protocol {
    Redis,
    Nats,
}

/// A broker that runs.
pub(crate) struct Peer {
    name: &'static str,
    protocol: Protocol,
    server: Server,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Redis (or Valkey), with an append-only file that is synced at every write.
pub(crate) fn redis(program: &Path, data: &Path) -> Result<Peer> {
    std::fs::create_dir_all(data)?;
    let (port, dir) = (free_port()?.to_string(), data.to_string_lossy().into_owned());
    let arguments = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--dir",
        &dir,
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
        "--daemonize",
        "no",
        "--logfile",
        "/dev/null",
    ];
    let address: SocketAddr = format!("127.0.0.1:{port}").parse()?;
    let server = Server::quiet(program, &arguments, address)?;
    Ok(Peer { name: "redis streams", protocol: Protocol::Redis, server })
}

/// NATS with JetStream, synced at every write.
pub(crate) fn nats(program: &Path, data: &Path) -> Result<Peer> {
    std::fs::create_dir_all(data)?;
    let port = free_port()?;
    let config = data.join("nats.conf");
    let store = data.display();
    std::fs::write(
        &config,
        format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{store}\", sync_interval: always }}\n"
        ),
    )?;
    let config = config.to_string_lossy().into_owned();
    let address: SocketAddr = format!("127.0.0.1:{port}").parse()?;
    let server = Server::quiet(program, &["-c", &config, "-l", "/dev/null"], address)?;
    let made = std::net::TcpStream::connect(address)?;
    make_stream(made)?;
    Ok(Peer { name: "nats jetstream", protocol: Protocol::Nats, server })
}

/// A work queue for `jobs`.
fn make_stream(mut stream: std::net::TcpStream) -> Result<()> {
    use std::io::{Read, Write};
    let config = concat!(
        r#"{"name":"JOBS","subjects":["jobs"],"retention":"workqueue","storage":"file","#,
        r#""discard":"new","max_msgs":-1,"max_bytes":-1,"max_age":0,"num_replicas":1}"#
    );
    let length = config.len();
    let ask = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB _IN 1\r\nPUB $JS.API.STREAM.CREATE.JOBS _IN {length}\r\n{config}\r\n"
    );
    stream.write_all(ask.as_bytes())?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut seen, mut buffer) = (Vec::new(), [0; 4_096]);
    while !String::from_utf8_lossy(&seen).contains("stream_create_response") {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "nats closed the connection");
        seen.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    ensure!(
        !String::from_utf8_lossy(&seen).contains("\"error\""),
        "{}",
        String::from_utf8_lossy(&seen)
    );
    Ok(())
}

impl Peer {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Sends events over so many connections, each waiting for its acknowledgement.
    pub(crate) async fn send(
        &self,
        clients: usize,
        time: Duration,
    ) -> Result<(usize, Duration, Vec<u32>)> {
        let (address, body) = (self.server.address, event());
        let (began, end) = (Instant::now(), Instant::now() + time);
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let (hello, request) = self.wire(client, &body);
                tokio::spawn(connection(address, hello, request, end))
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await??);
        }
        let took = began.elapsed();
        latencies.sort_unstable();
        Ok((latencies.len(), took, latencies))
    }

    /// What opens a connection, and one event; an acknowledgement ends a line.
    fn wire(&self, client: usize, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let length = body.len();
        match self.protocol {
            Protocol::Redis => {
                let head = format!(
                    "*5\r\n$4\r\nXADD\r\n$4\r\njobs\r\n$1\r\n*\r\n$1\r\nb\r\n${length}\r\n"
                );
                (Vec::new(), [head.as_bytes(), body, b"\r\n"].concat())
            }
            Protocol::Nats => {
                let hello =
                    format!("CONNECT {{\"verbose\":false}}\r\nSUB _IN{client} 1\r\nPING\r\n");
                let head = format!("PUB jobs _IN{client} {length}\r\n");
                (hello.into_bytes(), [head.as_bytes(), body, b"\r\n"].concat())
            }
        }
    }
}

/// One client: an event, its acknowledgement, the next.
async fn connection(
    address: SocketAddr,
    hello: Vec<u8>,
    request: Vec<u8>,
    end: Instant,
) -> Result<Vec<u32>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 8_192];
    if !hello.is_empty() {
        stream.write_all(&hello).await?;
        let mut seen = Vec::new();
        while !seen.windows(6).any(|window| window == b"PONG\r\n") {
            let read = stream.read(&mut buffer).await?;
            ensure!(read > 0, "the broker closed the connection");
            seen.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
    }
    // Redis answers `$LEN\r\nID\r\n`; NATS sends `MSG … LEN\r\n{json}\r\n`: two lines each.
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let sent = Instant::now();
        stream.write_all(&request).await?;
        let mut lines = 0;
        while lines < 2 {
            let read = stream.read(&mut buffer).await?;
            ensure!(read > 0, "the broker closed the connection");
            let got = buffer.get(..read).context("too much")?;
            ensure!(!got.starts_with(b"-"), "{}", String::from_utf8_lossy(got));
            lines += got.windows(2).filter(|window| *window == b"\r\n").count();
        }
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}
