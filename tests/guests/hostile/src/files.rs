//! Abuse of the files of a layer, which are at `/opt`.

use std::hint::black_box;

use serde_json::{Value, json};
use wasip2::cli::stdout;
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
};

const ALL: u64 = u64::MAX;

/// Does `act` on a file of some megabytes, `n` times or with `n` bytes.
pub fn act(act: &str, n: u64) -> Value {
    let Some((opt, _)) = preopens::get_directories().into_iter().next() else {
        return json!("no directory");
    };
    let open = |path: &str| {
        opt.open_at(PathFlags::empty(), path, OpenFlags::empty(), DescriptorFlags::READ)
    };
    let big = open("big").expect("the file");
    match act {
        "read" => json!(big.read(n, 0).expect("bytes").0.len()),
        "read-beyond" => json!([big.read(ALL, ALL).is_ok(), big.read(ALL, 1 << 40).is_ok()]),
        "read-often" => json!((0..n).map(|_| big.read(ALL, 0).expect("bytes").0.len()).max()),
        "list" => json!(keep(n, || opt.read_directory())),
        "list-whole" => {
            let names = opt.read_directory().expect("names");
            json!(std::iter::from_fn(|| names.read_directory_entry().ok().flatten()).count())
        }
        "list-forever" => loop {
            let _ = black_box(opt.read_directory());
        },
        "open" => json!(keep(n, || open("small"))),
        "open-forever" => loop {
            let _ = black_box(open("small"));
        },
        "streams" => json!(keep(n, || {
            let stream = big.read_via_stream(0)?;
            let _ = stream.blocking_read(1);
            Ok(stream)
        })),
        "stream-read" => {
            let stream = big.read_via_stream(0).expect("a stream");
            json!(stream.blocking_read(n).expect("bytes").len())
        }
        "stream-skip" => {
            let stream = big.read_via_stream(0).expect("a stream");
            json!(stream.blocking_skip(ALL).is_ok())
        }
        "stream-splice" => {
            let stream = big.read_via_stream(0).expect("a stream");
            json!(stdout::get_stdout().blocking_splice(&stream, ALL).is_ok())
        }
        "stat-forever" => loop {
            let _ = black_box((big.stat(), big.metadata_hash()));
        },
        "change" => json!(changes(&opt, &big)),
        _ => json!("no such order"),
    }
}

/// How many of `n` there may be, all kept.
fn keep<T>(n: u64, mut make: impl FnMut() -> Result<T, ErrorCode>) -> usize {
    let kept: Vec<_> = (0..n).map_while(|_| make().ok()).collect();
    let count = kept.len();
    std::mem::forget(kept);
    count
}

/// What changed something, or led out of the directory.
fn changes(opt: &Descriptor, big: &Descriptor) -> Vec<&'static str> {
    let follow = PathFlags::SYMLINK_FOLLOW;
    let open = |path: &str, how, flags| opt.open_at(follow, path, how, flags).is_ok();
    let (read, write) = (DescriptorFlags::READ, DescriptorFlags::WRITE);
    let plain = OpenFlags::empty();
    let again =
        opt.open_at(follow, ".", OpenFlags::DIRECTORY, read | DescriptorFlags::MUTATE_DIRECTORY);
    let out =
        ["/etc/passwd", "../etc/passwd", "../../../../etc/passwd", "./../x", "..", "/", "", "x\0"];
    [
        ("out", out.iter().any(|path| open(path, plain, read))),
        ("create", open("new", OpenFlags::CREATE, write)),
        ("exclusive", open("new", OpenFlags::CREATE | OpenFlags::EXCLUSIVE, read)),
        ("truncate", open("small", OpenFlags::TRUNCATE, write)),
        ("open to write", open("small", plain, write)),
        ("directory by another way", again.is_ok_and(|opt| opt.create_directory_at("new").is_ok())),
        ("write", big.write(b"x", 0).is_ok()),
        ("write by a stream", big.write_via_stream(0).is_ok()),
        ("append", big.append_via_stream().is_ok()),
        ("size", big.set_size(1 << 40).is_ok()),
        ("times", big.set_times(NewTimestamp::Now, NewTimestamp::Now).is_ok()),
        ("times at", opt.set_times_at(follow, "big", NewTimestamp::Now, NewTimestamp::Now).is_ok()),
        ("directory", opt.create_directory_at("new").is_ok()),
        ("link", opt.link_at(follow, "big", opt, "new").is_ok()),
        ("symlink", opt.symlink_at("/etc/passwd", "new").is_ok()),
        ("rename", opt.rename_at("big", opt, "new").is_ok()),
        ("unlink", opt.unlink_file_at("small").is_ok()),
        ("remove", opt.remove_directory_at(".").is_ok()),
    ]
    .into_iter()
    .filter_map(|(what, happened)| happened.then_some(what))
    .collect()
}
