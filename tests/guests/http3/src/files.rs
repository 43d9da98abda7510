//! Abuse of the files of a layer, which are at `/opt`, by WASI 0.3.

use std::mem::forget;

use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

async fn open(opt: &Descriptor, path: &str) -> Result<Descriptor, ErrorCode> {
    let (follow, plain) = (PathFlags::empty(), OpenFlags::empty());
    opt.open_at(follow, path.to_owned(), plain, DescriptorFlags::READ).await
}

/// Does `order` so many times; how often it went well.
pub async fn act(order: &str, count: usize) -> usize {
    let Some((opt, _)) = get_directories().into_iter().next() else { return usize::MAX };
    let mut good = 0;
    for _ in 0..count {
        let went_well = match order {
            "open" => open(&opt, "small").await.map(forget).is_ok(),
            "list" => {
                let (mut names, end) = opt.read_directory();
                let (_, read) = names.read(Vec::with_capacity(1)).await;
                forget((names, end));
                read.len() == 1
            }
            "stream" => {
                let Ok(file) = open(&opt, "big").await else { break };
                let (mut bytes, end) = file.read_via_stream(0);
                let (_, read) = bytes.read(Vec::with_capacity(1)).await;
                forget((file, bytes, end));
                read.len() == 1
            }
            "read" => {
                let Ok(file) = open(&opt, "big").await else { break };
                let (mut bytes, _) = file.read_via_stream(0);
                let (_, read) = bytes.read(Vec::with_capacity(16 << 20)).await;
                !read.is_empty()
            }
            _ => {
                open(&opt, "../etc/passwd").await.is_ok() || open(&opt, "/etc/passwd").await.is_ok()
            }
        };
        if !went_well {
            break;
        }
        good += 1;
    }
    good
}
