//! The least that an event function can do, for measuring what is around it.

use serde::de::IgnoredAny;
use wambda::{Context, Error};

#[wambda::handler]
fn handle(_event: IgnoredAny, _context: Context) -> Result<&'static str, Error> {
    Ok("hello")
}
