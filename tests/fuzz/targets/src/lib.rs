//! What is fuzzed: functions that read bytes of strangers. Each takes any bytes, panics for none, and checks
//! what must hold of what it read. `cargo xtask fuzz` drives them with libFuzzer; the test below with the
//! seeds, with what was found, and with changes of both.

#![allow(clippy::disallowed_methods)] // tests read their seed

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use bytes::Bytes;
use futures_util::FutureExt;
use http::Response;
use wambda_api::gateway::{
    Origin, event_from_response, event_of_head, event_with_body, request_from_event,
    response_from_result, whole_response,
};
use wambda_control::Identity;
use wambda_egress::{
    Target,
    address::{self, Rules},
};
use wambda_model::RequestId;

/// What is fuzzed with any bytes.
pub type Run = fn(&[u8]);

/// The targets, by name.
pub const ALL: &[(&str, Run)] = &[
    ("zip", zip),
    ("layer", layer),
    ("detect", detect),
    ("gateway", gateway),
    ("names", names),
    ("queue_entry", queue_entry),
    ("guest_response", guest_response),
    ("egress_target", egress_target),
    ("wildcard", wildcard),
];

/// Uploads: zips, WAT, binaries. What comes out is bounded.
pub fn zip(data: &[u8]) {
    if let Ok(wasm) = wambda_runtime::upload::unpack(Bytes::copy_from_slice(data)) {
        assert!(wasm.len() <= wambda_model::limits::UPLOAD_BYTES_MAX);
    }
}

/// Layers: what passes the check can be unpacked, stays in its directory, and has no links and no more bytes than may be.
pub fn layer(data: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let look = |tree: &Path| {
        let (mut left, mut bytes) = (vec![tree.to_owned()], 0);
        while let Some(path) = left.pop() {
            let about = std::fs::symlink_metadata(&path).unwrap();
            assert!(!about.is_symlink(), "{path:?}");
            bytes += if about.is_file() { about.len() } else { 0 };
            if about.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        assert!(bytes <= wambda_model::limits::LAYERS_BYTES_MAX, "{bytes}");
    };
    let zip = Bytes::copy_from_slice(data);
    let passed = wambda_runtime::probe::layer(dir.path(), &zip, look);
    passed.unwrap_or_else(|why| panic!("it passes, and cannot be unpacked: {why}"));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "something stayed behind, or fell beside it"
    );
}

/// The detector of kinds, on whatever claims to be wasm.
pub fn detect(data: &[u8]) {
    let wasm = [&b"\0asm"[..], data].concat();
    for upload in [Bytes::from(wasm), Bytes::copy_from_slice(data)] {
        let _ = wambda_runtime::probe::is_function(upload);
    }
}

/// API Gateway's event shapes, both ways.
pub fn gateway(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(request) = request_from_event(&bytes, "f") {
        let _ = request.uri().path();
    }
    if let Ok(response) = response_from_result(&bytes) {
        assert!(response.status().as_u16() >= 100);
        let whole = whole_response(response, 1 << 20).now_or_never().expect("a body that is there");
        if let Ok(result) = whole.and_then(|response| event_from_response(response, 1 << 20)) {
            assert!(result.len() <= 1 << 20);
        }
    }
    if let Some((parts, body)) = request(data) {
        let origin = Origin {
            id: RequestId::from_u128(0),
            account: "000000000000",
            function: "f",
            signer: None,
            path: parts.uri.path(),
            source_ip: "192.0.2.1".to_owned(),
            unix_ms: 0,
        };
        let head = event_of_head(&parts, &origin);
        // Of what the escapes are too long for there is an event in base64, or none.
        let limit = (head.len() + 2 * body.len() + 100) as u64;
        let event = event_with_body(head, &body, limit).unwrap();
        assert!(event.len() as u64 <= limit);
        let shape: serde_json::Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(shape["requestContext"]["http"]["method"], parts.method.as_str());
        assert!(shape["rawPath"].is_string() && shape["headers"].is_object(), "{shape}");
    }
}

/// A request as it would be after its head was parsed: method and target, headers by the line, an empty line, the body.
fn request(data: &[u8]) -> Option<(http::request::Parts, Bytes)> {
    let end = data.windows(2).position(|two| two == b"\n\n")?;
    let (head, body) = data.split_at(end);
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.next()?;
    let at = line.iter().position(|byte| *byte == b' ')?;
    let (method, target) = line.split_at(at);
    let mut request = http::Request::builder().method(method).uri(target.get(1..)?);
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(at);
        request = request.header(name, value.get(1..)?);
    }
    let (parts, ()) = request.body(()).ok()?.into_parts();
    Some((parts, Bytes::copy_from_slice(body.get(2..)?)))
}

/// Names, qualifiers and ARNs: what is read is a name, and says the same when it is read again.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let identity = Identity { region: "us-east-1".into(), account: "000000000000".into() };
    let (name, beside) =
        text.split_once('\n').map_or((text, None), |(name, rest)| (name, Some(rest)));
    if let Ok(named) = wambda_api::name::read(&identity, name, beside) {
        let again = wambda_api::name::read(&identity, &named.qualified_arn(&identity), None);
        let again = again.unwrap_or_else(|_| panic!("{name:?} was read, its ARN is not"));
        assert_eq!(again.arn(&identity), named.arn(&identity));
        assert!(named.name.as_str().len() <= wambda_model::limits::NAME_LEN_MAX);
    }
    let _ = wambda_model::FunctionName::new(text);
    let _ = wambda_model::Digest::parse(text);
    let _ = wambda_api::name::check_qualifier(text);
}

/// Patterns of policies, a line before their text: no match costs more than it may, and a text fits
/// itself with any of its characters replaced by wildcards.
pub fn wildcard(data: &[u8]) {
    let Ok(both) = std::str::from_utf8(data) else { return };
    let (pattern, text) = both.split_once('\n').unwrap_or((both, both));
    if text.len() > wambda_policy::TEXT_BYTES_MAX {
        return;
    }
    let held = wambda_policy::wildcard::Text::new(text);
    let _ = held.fits(pattern);
    assert!(held.work() <= held.work_max(pattern.len()), "{} for {}", held.work(), pattern.len());
    let own: String = text
        .chars()
        .zip(data.iter().cycle())
        .map(|(own, choice)| match choice % 5 {
            0 => '*',
            1 => '?',
            _ => own,
        })
        .collect();
    assert!(held.fits(&own), "{own:?} does not fit {text:?}");
}

/// Records of queues, as a broken disk might give them back.
pub fn queue_entry(data: &[u8]) {
    let _ = wambda_store::queues::is_entry(data);
}

/// What guests answer with: the core lane's pointer and length, and heads of HTTP responses.
pub fn guest_response(data: &[u8]) {
    let Some((packed, rest)) = data.split_at_checked(8) else { return };
    let packed = u64::from_le_bytes(packed.try_into().unwrap_or_default());
    let (limit, memory) =
        rest.split_first().map_or((0, rest), |(limit, memory)| (u64::from(*limit), memory));
    if let Some(answer) = wambda_runtime::probe::core_answer(memory, packed, limit) {
        assert!(answer.len() as u64 <= limit);
    }
    let Some((status, lines)) = rest.split_at_checked(2) else { return };
    let status = u16::from_le_bytes(status.try_into().unwrap_or_default());
    let mut response = Response::builder().status(status);
    for line in lines.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        response =
            response.header(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    }
    let head = response.body(()).map(|response| response.into_parts().0);
    if let Ok(head) = head
        && let Some(tidied) = wambda_runtime::probe::tidy(&head)
    {
        assert!(!tidied.status.is_informational());
        assert!(tidied.headers.get_all("content-length").iter().count() <= 1);
        assert!(
            !tidied.headers.contains_key("transfer-encoding")
                && !tidied.headers.contains_key("connection")
        );
    }
}

/// The authority of outgoing requests: what was read reads the same again, no address is both an address and a name,
/// and what it leads to is judged. So are the bytes themselves, as an address: names lead to any.
pub fn egress_target(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<4>() {
        judge(SocketAddr::from((*bytes, 80)));
    }
    if let Some(bytes) = data.first_chunk::<16>() {
        judge(SocketAddr::from((*bytes, 443)));
    }
    let Ok(uri) = http::Uri::try_from(data) else { return };
    let Ok(target) = Target::read(&uri) else { return };
    let scheme = if target.tls { "https" } else { "http" };
    let again: http::Uri = format!("{scheme}://{}/", target.host_header())
        .parse()
        .unwrap_or_else(|e| panic!("{target:?}: {e}"));
    assert_eq!(Target::read(&again).as_ref().ok(), Some(&target));
    match target.address {
        Some(ip) => {
            assert_eq!(address::canonical(ip), ip);
            judge(SocketAddr::new(ip, target.port));
        }
        None => {
            assert!(target.host.parse::<std::net::IpAddr>().is_err() && !target.host.ends_with('.'))
        }
    }
}

/// The rules about an address, against what the standard library knows of it.
fn judge(at: SocketAddr) {
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
    let rules = Rules::new(Vec::new(), Vec::new(), elsewhere);
    let why = rules.forbidden(at);
    assert!(why.is_some() || !is_inner(at.ip()), "{at} may be dialled");
    assert!(Rules::new(Vec::new(), Vec::new(), at).forbidden(at).is_some(), "{at} is this server");
    // The same address in other words is judged the same, or is never dialled.
    if let IpAddr::V4(v4) = at.ip() {
        let judged = |v6: Ipv6Addr| rules.forbidden(SocketAddr::new(v6.into(), at.port()));
        assert_eq!(judged(v4.to_ipv6_mapped()), why, "{v4}");
        let (high, low) = ((v4.to_bits() >> 16) as u16, v4.to_bits() as u16);
        for other in [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        ] {
            assert!(judged(other).is_some(), "{other}");
        }
    }
}

/// Whether an address is one of a machine, a network or many, rather than one host of the Internet.
fn is_inner(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_documentation()
                || a == 0
                || a >= 224
                || (a, b & 0xc0) == (100, 64)
                || (a, b & 0xfe) == (198, 18)
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.to_ipv4().is_some_and(|v4| is_inner(v4.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds of a target, and what was found with them.
    fn inputs(target: &str) -> Vec<Vec<u8>> {
        let dir =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("seeds").join(target);
        let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut inputs: Vec<Vec<u8>> =
            files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        inputs.push(Vec::new());
        inputs
    }

    /// Changes a few bytes, or cuts, or joins two.
    fn change(random: &mut fastrand::Rng, from: &[Vec<u8>]) -> Vec<u8> {
        let mut input = random.choice(from).cloned().unwrap_or_default();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(0..=input.len());
            match random.u8(0..5) {
                0 => input.truncate(at),
                1 => input.insert(at, random.u8(..)),
                2 => {
                    let other = random.choice(from).cloned().unwrap_or_default();
                    input.splice(at..at, other.into_iter().take(64));
                }
                3 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
                _ if at < input.len() => input[at] = random.u8(..),
                _ => {}
            }
        }
        input
    }

    #[test]
    fn what_strangers_send_panics_nobody() {
        let seed = std::env::var("WAMBDA_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("WAMBDA_FUZZ_SEED={seed}");
        for (name, target) in ALL {
            let mut random = fastrand::Rng::with_seed(seed);
            let inputs = inputs(name);
            inputs.iter().for_each(|input| target(input));
            for _ in 0..3_000 {
                let input = change(&mut random, &inputs);
                if std::panic::catch_unwind(|| target(&input)).is_err() {
                    panic!(
                        "{name} with WAMBDA_FUZZ_SEED={seed}: {:?}",
                        String::from_utf8_lossy(&input)
                    );
                }
            }
        }
    }
}
