//! Data with many functions in it, no two alike, registered once for all workloads that want many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use tempfile::TempDir;

use super::drive::{self, Ask};
use super::stage::{Context, HELLO, guest, serve};
use crate::process::Server;

/// Uploaders at once.
const UPLOADERS: usize = 8;

/// Small modules, each with an answer of its own, and components that differ in a section that says
/// nothing.
pub(crate) struct Many {
    data: TempDir,
    pub(crate) modules: usize,
    pub(crate) components: usize,
    /// How long registering took: modules, components.
    pub(crate) took: [Duration; 2],
    /// Bytes on the disk: of nothing, of modules, of everything.
    pub(crate) disk: [u64; 3],
}

impl Many {
    pub(crate) fn register(context: &Context<'_>) -> Result<Self> {
        let (modules, components) = context.pick((8, 2), (150, 16), (1_000, 200));
        let data = TempDir::new()?;
        let server = serve(&context.arguments.server, data.path(), &[])?;
        let bytes = || disk(data.path());
        let mut disk = [bytes()?, 0, 0];
        let uploads: Vec<_> = (0..modules)
            .map(|at| upload(server.address, &module_name(at), module(at).as_bytes()))
            .collect();
        let began = Instant::now();
        context.runtime.block_on(drive::each(uploads, UPLOADERS, |_| ()))?;
        let mut took = [began.elapsed(), Duration::ZERO];
        disk[1] = bytes()?;
        let hello = guest(HELLO)?;
        let uploads: Vec<_> = (0..components)
            .map(|at| upload(server.address, &component_name(at), &marked(&hello, &at.to_string())))
            .collect();
        let began = Instant::now();
        context.runtime.block_on(drive::each(uploads, UPLOADERS, |_| ()))?;
        took[1] = began.elapsed();
        disk[2] = bytes()?;
        drop(server);
        Ok(Self { data, modules, components, took, disk })
    }

    /// A new server on this data, and how long it took until it listened.
    pub(crate) fn serve(&self, context: &Context<'_>) -> Result<(Server, Duration)> {
        let began = Instant::now();
        let server = serve(&context.arguments.server, self.data.path(), &[])?;
        Ok((server, began.elapsed()))
    }

    /// An invocation of each module, in random order.
    pub(crate) fn asks_modules(&self, address: SocketAddr) -> Vec<Ask> {
        let ask = |at| {
            Ask::invoke(address, &module_name(at), b"{}").wants(format!("\"{at:05}\"").as_bytes())
        };
        shuffled((0..self.modules).map(ask))
    }

    /// An invocation of each component, in random order.
    pub(crate) fn asks_components(&self, address: SocketAddr) -> Vec<Ask> {
        let ask = |at| Ask::invoke(address, &component_name(at), b"{}").wants(b"\"hello\"");
        shuffled((0..self.components).map(ask))
    }
}

fn shuffled(asks: impl Iterator<Item = Ask>) -> Vec<Ask> {
    let mut asks: Vec<_> = asks.collect();
    fastrand::shuffle(&mut asks);
    asks
}

fn module_name(at: usize) -> String {
    format!("module-{at:05}")
}

fn component_name(at: usize) -> String {
    format!("component-{at:05}")
}

/// A module that answers with its number.
fn module(at: usize) -> String {
    crate::CORE.replace("hello", &format!("{at:05}"))
}

/// The upload of a function that is not there yet.
pub(crate) fn upload(address: SocketAddr, name: &str, code: &[u8]) -> Ask {
    Ask::new(address, &format!("PUT /v1/functions/{name}"), code).answers_with(201)
}

/// The same code with a custom section at its end, which makes other bytes of it.
pub(crate) fn marked(code: &[u8], mark: &str) -> Vec<u8> {
    // Both lengths fit into one byte of LEB128.
    let name = b"mark";
    let mark = mark.as_bytes();
    let mark = mark.get(..mark.len().min(100)).unwrap_or_default();
    let lengths = [u8::try_from(1 + name.len() + mark.len()), u8::try_from(name.len())];
    let [section, name_length] = lengths.map(Result::unwrap_or_default);
    [code, &[0, section, name_length], name, mark].concat()
}

/// Bytes that a folder's files take, with what is in its folders.
pub(crate) fn disk(folder: &std::path::Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Files come and go in a folder for what is being written.
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { disk(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(bytes)
}
