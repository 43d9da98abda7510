//! Core modules: bytes in linear memory, no component layer.

use std::cell::RefCell;

/// The bit of the length that marks a result as an error's message.
const ERROR: u64 = 1 << 31;

thread_local! {
    /// The event being handed over, and then the last result: one of each at a time.
    static EVENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static RESULT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Makes room for an event of `length` bytes. Returns where the host writes it.
#[must_use]
pub fn alloc(length: usize) -> *mut u8 {
    EVENT.with_borrow_mut(|event| {
        event.clear();
        event.resize(length, 0);
        event.as_mut_ptr()
    })
}

/// The event that the host wrote.
#[must_use]
pub fn take() -> Vec<u8> {
    EVENT.take()
}

/// Keeps a result where the host can read it. Returns its place, packed.
#[must_use]
pub fn finish(result: Result<Vec<u8>, String>) -> u64 {
    let (bytes, mark) = match result {
        Ok(bytes) => (bytes, 0),
        Err(message) => (message.into_bytes(), ERROR),
    };
    let packed = (bytes.as_ptr() as u64) << 32 | (bytes.len() as u64 & (ERROR - 1)) | mark;
    RESULT.set(bytes);
    packed
}

/// Makes a function of bytes the handler of a core module.
///
/// ```ignore
/// wambda::core_handler!(|event: Vec<u8>| -> Result<Vec<u8>, String> { Ok(event) });
/// ```
///
/// Build it as a `cdylib` for `wasm32-wasip1`.
#[macro_export]
macro_rules! core_handler {
    ($handler:expr) => {
        #[unsafe(no_mangle)]
        extern "C" fn wambda_alloc(length: usize) -> *mut u8 {
            $crate::__private::alloc(length)
        }

        #[unsafe(no_mangle)]
        extern "C" fn wambda_handle(_at: *mut u8, _length: usize) -> u64 {
            $crate::__private::finish(($handler)($crate::__private::take()))
        }
    };
}
