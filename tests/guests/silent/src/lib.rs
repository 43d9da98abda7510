//! An HTTP function that throws away its way to answer, and goes on.

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Function;

wasip2::http::proxy::export!(Function);

impl Guest for Function {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        drop(out);
        subscribe_duration(50_000_000).block();
    }
}
