//! What the generated tables are made of: services, operations, shapes and their constraints.
//! Source: the format of botocore's `service-2.json`, which follows the Smithy AST.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A service as its clients see it.
#[derive(Debug)]
pub struct Service {
    /// The name in metrics.
    pub name: &'static str,
    /// How requests and responses are written.
    pub protocol: Protocol,
    /// Prefix of `X-Amz-Target`, for the JSON protocols.
    pub target: &'static str,
    /// XML namespace, for the query protocol.
    pub namespace: &'static str,
    /// API version.
    pub version: &'static str,
    /// Operations, sorted by name.
    pub operations: &'static [Operation],
    /// Shapes, which name each other by position.
    pub shapes: &'static [Shape],
    /// Codes and statuses of errors.
    pub errors: &'static [(&'static str, u16)],
}

/// How requests and responses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// JSON bodies, and members in paths, queries and headers.
    RestJson,
    /// JSON bodies, the operation in `X-Amz-Target`.
    Json,
    /// Forms in, XML out.
    Query,
    /// Smithy RPC v2: CBOR bodies, the operation in the path.
    Cbor,
}

/// An operation.
#[derive(Debug)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// HTTP method.
    pub method: &'static str,
    /// Path with `{Member}` labels, and a query for two operations.
    pub uri: &'static str,
    /// Status of a good answer.
    pub status: u16,
    /// Position of the request's shape; none when the operation is not answered, or takes nothing.
    pub input: Option<usize>,
    /// Position of the response's shape.
    pub output: Option<usize>,
    /// Name of the element around a result, for the query protocol.
    pub wrapper: &'static str,
    /// Position among the operations that are answered; none for the others.
    pub op: Option<usize>,
}

/// Where a member is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// In the path.
    Uri,
    /// In the query string.
    Query,
    /// In a header.
    Header,
    /// The status itself.
    Status,
    /// In the body.
    Body,
}

/// A member of a structure.
#[derive(Debug)]
pub struct Member {
    /// Its name in the model and in our types.
    pub name: &'static str,
    /// Position of its shape.
    pub shape: usize,
    /// Where it is.
    pub location: Location,
    /// Its name on the wire.
    pub wire: &'static str,
    /// Whether it must be there.
    pub required: bool,
}

/// What a shape is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Named members.
    Structure,
    /// Elements of one shape.
    List,
    /// Text to one shape.
    Map,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Double,
    /// True or false.
    Boolean,
    /// A point in time: seconds since the Unix epoch here.
    Timestamp,
    /// Bytes: base64 in JSON.
    Blob,
}

/// A shape and its constraints.
#[derive(Debug)]
pub struct Shape {
    /// Its name in the model.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Members of a structure.
    pub members: &'static [Member],
    /// The member that is the whole body.
    pub payload: &'static str,
    /// Shape of a list's elements or a map's values.
    pub element: usize,
    /// Shape of a map's keys.
    pub key: usize,
    /// Least length or value.
    pub min: i64,
    /// Largest length or value.
    pub max: i64,
    /// What text must match, in full; empty for anything.
    pub pattern: &'static str,
    /// What text must be; empty for anything.
    pub one_of: &'static [&'static str],
    /// How a timestamp is written; empty for the protocol's own way.
    pub format: &'static str,
}

/// A shape without anything, for the tables to start from.
pub const NONE: Shape = Shape {
    name: "",
    kind: Kind::String,
    members: &[],
    payload: "",
    element: 0,
    key: 0,
    min: i64::MIN,
    max: i64::MAX,
    pattern: "",
    one_of: &[],
    format: "",
};

impl Service {
    /// The operation of that name.
    #[must_use]
    pub fn operation(&self, name: &str) -> Option<&'static Operation> {
        let at = self.operations.binary_search_by_key(&name, |operation| operation.name).ok()?;
        self.operations.get(at)
    }

    /// The shape at a position of the tables.
    #[must_use]
    pub fn shape(&self, at: usize) -> &'static Shape {
        self.shapes.get(at).unwrap_or(&NONE)
    }

    /// The status that a code comes with.
    #[must_use]
    pub fn status_of(&self, code: &str) -> u16 {
        self.errors.iter().find(|(known, _)| *known == code).map_or(400, |(_, status)| *status)
    }
}

/// Bytes; base64 in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(text).map_err(de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}
