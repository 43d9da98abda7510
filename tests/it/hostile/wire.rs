//! What a response looks like on the wire, read without a library: whether a client can take it for whole.

/// A response over HTTP/1.1 until its connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Not one byte.
    Nothing,
    /// A head that promises more than came: no client takes it for whole.
    Cut,
    /// All that its head promises, and no more.
    Whole,
    /// The server's own words for a function that failed.
    Failed,
    /// None of these: no client can read it.
    Broken,
}

impl Wire {
    pub(super) fn of(said: &str) -> Self {
        let Some((head, body)) = said.split_once("\r\n\r\n") else {
            return if said.is_empty() { Self::Nothing } else { Self::Broken };
        };
        let head = head.to_ascii_lowercase();
        let promised = |name: &str| {
            let mut values = head.lines().filter_map(|line| line.strip_prefix(name));
            (values.next().map(str::trim), values.next())
        };
        let whole = match (promised("content-length:"), promised("transfer-encoding:")) {
            ((Some(length), None), (None, None)) => length.parse().ok().map(|length: usize| {
                if body.len() > length { Self::Broken } else { Self::whole(body.len() == length) }
            }),
            ((None, None), (Some("chunked"), None)) => Self::chunked(body),
            _ => None,
        };
        match whole.unwrap_or(Self::Broken) {
            Self::Whole if head.starts_with("http/1.1 5") => Self::Failed,
            Self::Whole | Self::Cut if !head.starts_with("http/1.1 200") => Self::Broken,
            whole => whole,
        }
    }

    fn whole(is_whole: bool) -> Self {
        if is_whole { Self::Whole } else { Self::Cut }
    }

    /// None when these are no chunks.
    fn chunked(mut rest: &str) -> Option<Self> {
        loop {
            let Some((size, after)) = rest.split_once("\r\n") else {
                return Some(Self::Cut);
            };
            let size = usize::from_str_radix(size, 16).ok()?;
            if size == 0 {
                return (after == "\r\n").then_some(Self::Whole);
            }
            let Some(after) = after.get(size..) else { return Some(Self::Cut) };
            match after.strip_prefix("\r\n") {
                Some(after) => rest = after,
                None => return "\r\n".starts_with(after).then_some(Self::Cut),
            }
        }
    }
}

/// Who judges responses knows them apart.
#[test]
fn responses_are_told_apart() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    for (said, wanted) in [
        (String::new(), Wire::Nothing),
        ("HTTP/1.1 200 OK\r\n".to_owned(), Wire::Broken),
        (format!("{two}ab"), Wire::Whole),
        (format!("{two}a"), Wire::Cut),
        (format!("{two}abc"), Wire::Broken),
        (format!("{chunked}2\r\nab\r\n0\r\n\r\n"), Wire::Whole),
        (format!("{chunked}2\r\nab\r\n"), Wire::Cut),
        (format!("{chunked}2\r\na"), Wire::Cut),
        (format!("{chunked}2\r\nab\r\n0\r\n\r\nHTTP/1.1 200 OK"), Wire::Broken),
        (format!("{chunked}2\r\nabc\r\n"), Wire::Broken),
        (two.replace("\r\n\r\n", "\r\ncontent-length: 3\r\n\r\nab"), Wire::Broken),
        (format!("{two}ab").replace("200 OK", "502 Bad Gateway"), Wire::Failed),
    ] {
        assert_eq!(Wire::of(&said), wanted, "{said:?}");
    }
}
