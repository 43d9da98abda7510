//! The smallest event function: JSON in, JSON out.

use serde::{Deserialize, Serialize};
use wambda::{Context, Error};

#[derive(Deserialize)]
struct Greet {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    message: String,
    request_id: String,
}

#[wambda::handler]
fn handle(event: Greet, ctx: Context) -> Result<Greeting, Error> {
    if event.name.is_empty() {
        return Err(Error::new("EmptyName", "whom shall I greet?"));
    }
    println!("greeting {}", event.name);
    Ok(Greeting { message: format!("Hello, {}!", event.name), request_id: ctx.request_id })
}
