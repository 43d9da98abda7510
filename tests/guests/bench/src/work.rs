//! Work that a guest and a native program do alike, from JSON to JSON: both compile this file.

use std::hint::black_box;
use std::io::Cursor;
use std::mem::MaybeUninit;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::imageops::FilterType;
use image::{ImageFormat, ImageReader};
use serde_json::{Value, json};

/// Bytes of a page of the machine: one written byte in each makes all of them resident.
const PAGE_BYTES: usize = 4_096;

/// Does what the event says under `do`; without that the event is the answer.
pub(crate) fn answer(event: Value) -> Result<Value, String> {
    let number = |name: &str| event.get(name).and_then(Value::as_u64).unwrap_or_default();
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    match event.get("do").and_then(Value::as_str) {
        Some("sha256") => {
            let digest = sha256(text("data").as_bytes());
            Ok(json!(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
        }
        Some("fib") => Ok(json!(fib(number("n")))),
        Some("thumbnail") => thumbnail(text("image"), number("width")),
        Some("touch") => Ok(json!(touch(number("mib")))),
        Some(other) => Err(format!("no work {other:?}")),
        None => Ok(event),
    }
}

/// The naive recursion: calls and additions.
#[inline(never)]
fn fib(n: u64) -> u64 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

/// Takes so many MiB, writes into each page, and returns how many pages that were.
fn touch(mib: u64) -> u64 {
    let bytes = usize::try_from(mib).unwrap_or_default() << 20;
    let mut memory: Vec<u8> = Vec::with_capacity(bytes);
    let mut pages = 0;
    for page in memory.spare_capacity_mut().chunks_exact_mut(PAGE_BYTES) {
        if let Some(first) = page.first_mut() {
            *first = MaybeUninit::new(1);
        }
        pages += 1;
    }
    black_box(&mut memory);
    pages
}

/// A picture in base64, shrunk to a JPEG in base64.
fn thumbnail(picture: &str, width: u64) -> Result<Value, String> {
    let width = u32::try_from(width).map_err(|error| error.to_string())?;
    let bytes = BASE64.decode(picture).map_err(|error| error.to_string())?;
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let picture = reader.map_err(|error| error.to_string())?.decode();
    let picture = picture.map_err(|error| error.to_string())?;
    let small = picture.resize(width, width, FilterType::Lanczos3).into_rgb8();
    let mut jpeg = Cursor::new(Vec::new());
    small.write_to(&mut jpeg, ImageFormat::Jpeg).map_err(|error| error.to_string())?;
    let image = BASE64.encode(jpeg.into_inner());
    Ok(json!({"width": small.width(), "height": small.height(), "image": image}))
}

const ROUND: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// SHA-256 (FIPS 180-4) without the instructions that a CPU may have for it, and a guest has not.
fn sha256(data: &[u8]) -> [u8; 32] {
    let mut state = [
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
        0x5be0cd19,
    ];
    let mut blocks = data.chunks_exact(64);
    blocks.by_ref().for_each(|block| mix(&mut state, block));
    let mut tail = blocks.remainder().to_vec();
    tail.push(0x80);
    while tail.len() % 64 != 56 {
        tail.push(0);
    }
    tail.extend((data.len() as u64 * 8).to_be_bytes());
    tail.chunks_exact(64).for_each(|block| mix(&mut state, block));
    let mut digest = [0; 32];
    for (to, word) in digest.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn mix(state: &mut [u32; 8], block: &[u8]) {
    let mut words = [0u32; 64];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for at in 16..64 {
        let word = |back: usize| words.get(at - back).copied().unwrap_or_default();
        let (early, late) = (word(15), word(2));
        let early = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
        let late = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
        let next = word(16).wrapping_add(early).wrapping_add(word(7)).wrapping_add(late);
        if let Some(word) = words.get_mut(at) {
            *word = next;
        }
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (round, word) in ROUND.into_iter().zip(words) {
        let high = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let first = h.wrapping_add(high).wrapping_add((e & f) ^ (!e & g));
        let first = first.wrapping_add(round).wrapping_add(word);
        let low = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let second = low.wrapping_add((a & b) ^ (a & c) ^ (b & c));
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    for (word, more) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(more);
    }
}
