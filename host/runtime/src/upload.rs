//! Unpacks an upload: a wasm binary, WAT text, or a zip with exactly one of them.
//!
//! Nothing is ever extracted to disk, and nothing is inflated beyond its limit.

use std::io::{Cursor, Read};

use bytes::Bytes;
use wambda_model::BuildError;
use wambda_model::limits::{UPLOAD_BYTES_MAX, WAT_BYTES_MAX, ZIP_ENTRIES_MAX, ZIP_RATIO_MAX};

fn invalid(message: impl Into<String>) -> BuildError {
    BuildError::Invalid(message.into())
}

/// The wasm binary inside an upload.
///
/// # Errors
/// [`BuildError::Invalid`] that says what was found, and [`BuildError::TooLarge`].
pub fn unpack(upload: Bytes) -> Result<Bytes, BuildError> {
    if upload.is_empty() {
        return Err(invalid(
            "the upload is empty: send a wasm module, a component, WAT text or a zip",
        ));
    }
    check_size(upload.len() as u64)?;
    if upload.starts_with(b"PK\x03\x04") || upload.starts_with(b"PK\x05\x06") {
        return unpack(unzip(&upload)?).map_err(|error| match error {
            BuildError::Invalid(why) => invalid(format!("in the zip: {why}")),
            other => other,
        });
    }
    if upload.starts_with(b"\0asm") {
        return Ok(upload);
    }
    if wasmtime::Engine::detect_precompiled(&upload).is_some() {
        return Err(invalid("precompiled code is refused: upload the wasm it was made from"));
    }
    if upload.starts_with(b"\x7fELF") {
        return Err(invalid(
            "this is a native ELF program: build for wasm32-wasip1 or wasm32-wasip2",
        ));
    }
    if looks_like_wat(&upload) {
        if upload.len() > WAT_BYTES_MAX {
            let size = upload.len();
            return Err(BuildError::TooLarge(format!(
                "WAT text must be at most {WAT_BYTES_MAX} bytes, got {size}: upload the binary"
            )));
        }
        let wat = wat::parse_bytes(&upload);
        return wat
            .map(|wasm| Bytes::from(wasm.into_owned()))
            .map_err(|e| invalid(format!("WAT: {e}")));
    }
    let head = upload.get(..upload.len().min(8)).unwrap_or_default();
    Err(invalid(format!(
        "this is no wasm: it starts with {} (\"\\0asm\", WAT text or a zip was expected)",
        head.escape_ascii()
    )))
}

/// Whether so many bytes may be uploaded.
pub(crate) fn check_size(bytes: u64) -> Result<(), BuildError> {
    if bytes > UPLOAD_BYTES_MAX as u64 {
        return Err(BuildError::TooLarge(format!(
            "an upload must be at most {UPLOAD_BYTES_MAX} bytes, got at least {bytes}"
        )));
    }
    Ok(())
}

/// Whether the first thing after blanks and line comments is an opening parenthesis.
fn looks_like_wat(upload: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(upload) else {
        return false;
    };
    let mut rest = text.trim_start();
    while let Some(comment) = rest.strip_prefix(";;") {
        rest = comment.split_once('\n').map_or("", |(_, after)| after.trim_start());
    }
    rest.starts_with('(')
}

/// The one entry of a zip that is a function: `bootstrap`, or the only `.wasm` or `.wat`.
fn unzip(upload: &[u8]) -> Result<Bytes, BuildError> {
    let bad = |e: zip::result::ZipError| invalid(format!("the zip is damaged: {e}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(upload)).map_err(bad)?;
    if archive.len() > ZIP_ENTRIES_MAX {
        let found = archive.len();
        return Err(invalid(format!("a zip may have {ZIP_ENTRIES_MAX} entries, got {found}")));
    }
    if directory_entries(upload).is_some_and(|listed| listed != archive.len()) {
        return Err(invalid("the zip has two entries of one name"));
    }
    let mut found: Vec<(usize, String)> = Vec::new();
    for at in 0..archive.len() {
        let entry = archive.by_index_raw(at).map_err(bad)?;
        let name = entry.name().map_err(bad)?.into_owned();
        if entry.encrypted() {
            return Err(invalid(format!("zip entry {name:?} is encrypted")));
        }
        if entry.is_symlink() || entry.enclosed_name().is_none() || name.starts_with('/') {
            return Err(invalid(format!("zip entry {name:?} is a link or leaves the archive")));
        }
        let file = name.rsplit('/').next().unwrap_or_default();
        if file == "bootstrap" || file.ends_with(".wasm") || file.ends_with(".wat") {
            found.push((at, name));
        }
    }
    if let Some(bootstrap) = found.iter().find(|(_, name)| name == "bootstrap") {
        found = vec![bootstrap.clone()];
    }
    let [(at, name)] = found.as_slice() else {
        let names: Vec<_> = found.iter().map(|(_, name)| name.as_str()).collect();
        return Err(invalid(format!(
            "a zip must have one `bootstrap` or one .wasm file, got {}: {}",
            names.len(),
            names.join(", ")
        )));
    };
    inflate(archive.by_index(*at).map_err(bad)?, name)
}

fn inflate<R: Read>(entry: zip::read::ZipFile<'_, R>, name: &str) -> Result<Bytes, BuildError> {
    let packed = entry.compressed_size().max(1);
    let most = (UPLOAD_BYTES_MAX as u64).min(packed.saturating_mul(ZIP_RATIO_MAX).max(64 << 10));
    let mut out = Vec::new();
    let read = entry.take(most + 1).read_to_end(&mut out);
    read.map_err(|e| invalid(format!("zip entry {name:?} is damaged: {e}")))?;
    check_size(out.len() as u64)?;
    if out.len() as u64 > most {
        return Err(invalid(format!(
            "zip entry {name:?} inflates more than {ZIP_RATIO_MAX} times ({packed} bytes packed)"
        )));
    }
    if out.starts_with(b"PK") {
        return Err(invalid(format!("zip entry {name:?} is a zip itself")));
    }
    Ok(out.into())
}

/// Entries that the end-of-central-directory record announces (APPNOTE.TXT 4.3.16); none when it
/// cannot say (zip64).
pub(crate) fn directory_entries(upload: &[u8]) -> Option<usize> {
    let at = upload.windows(4).rposition(|w| w == b"PK\x05\x06")?;
    let field = upload.get(at + 10..at + 12)?;
    let listed = u16::from_le_bytes([*field.first()?, *field.last()?]);
    (listed != u16::MAX).then_some(usize::from(listed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    fn zip_of(entries: &[(&str, &[u8])]) -> Bytes {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner().into()
    }

    fn refused(upload: impl Into<Bytes>) -> String {
        unpack(upload.into()).unwrap_err().to_string()
    }

    #[test]
    fn takes_wasm_wat_and_zips_of_them() {
        assert_eq!(unpack(EMPTY.into()).unwrap(), EMPTY);
        assert_eq!(unpack("  ;; hi\n(module)".into()).unwrap(), EMPTY);
        assert_eq!(unpack(zip_of(&[("a/f.wasm", EMPTY), ("README", b"x")])).unwrap(), EMPTY);
        assert_eq!(unpack(zip_of(&[("bootstrap", EMPTY), ("x.wasm", b"?")])).unwrap(), EMPTY);
        assert_eq!(unpack(zip_of(&[("f.wat", b"(module)")])).unwrap(), EMPTY);
    }

    #[test]
    fn says_what_is_wrong_with_the_rest() {
        assert!(refused("").contains("empty"));
        assert!(refused("hello world").contains("hello wo"));
        assert!(refused("(module").contains("WAT"));
        assert!(refused(&b"\x7fELF\x02\x01\x01"[..]).contains("ELF"));
        assert!(refused(zip_of(&[("README", b"x")])).contains("got 0"));
        assert!(
            refused(zip_of(&[("a.wasm", EMPTY), ("b.wasm", EMPTY)])).contains("a.wasm, b.wasm")
        );
        assert!(refused(zip_of(&[("../a.wasm", EMPTY)])).contains("leaves"));
        assert!(refused(zip_of(&[("a.wasm", &vec![0; 40 << 20])])).contains("100 times"));
        assert!(
            refused(zip_of(&[("a.wasm", &zip_of(&[("b.wasm", EMPTY)]))])).contains("zip itself")
        );
        assert!(refused(zip_of(&[("a.wasm", EMPTY)]).slice(..40)).contains("damaged"));
        assert!(refused(vec![0; UPLOAD_BYTES_MAX + 1]).contains("67108865"));
    }
}
