//! Every limit of the platform, with its name and unit.
//!
//! A limit that a function or the operator can set has a `_DEFAULT`, `_MIN` and `_MAX`; the others
//! are fixed. Sources: AWS Lambda quotas where Lambda has the limit, otherwise the measurements
//! noted beside it.

use std::time::Duration;

/// One mebibyte; Lambda's "MB".
pub const MIB: u64 = 1 << 20;

// ---- names and requests -----------------------------------------------------------------------

/// Length of a function name (Lambda: 64).
pub const NAME_LEN_MAX: usize = 64;
/// Length of a qualifier (Lambda: 128).
pub const QUALIFIER_LEN_MAX: usize = 128;
/// Bytes of an uploaded module, component or zip, and of what a zip inflates to.
pub const UPLOAD_BYTES_MAX: usize = 64 << 20;
/// Bytes of WAT text, which takes many times its size to parse.
pub const WAT_BYTES_MAX: usize = 1 << 20;
/// Entries of an uploaded zip.
pub const ZIP_ENTRIES_MAX: usize = 1_000;
/// Inflated bytes per deflated byte of an uploaded zip.
pub const ZIP_RATIO_MAX: u64 = 100;
/// Bytes of all environment keys and values (Lambda: 4 KB).
pub const ENV_BYTES_MAX: usize = 4096;
/// Bytes of the base64 client context (Lambda: 3583).
pub const CLIENT_CONTEXT_BYTES_MAX: usize = 3583;
/// Header lines of one request.
pub const HEADERS_MAX: usize = 100;
/// Bytes of one request's head.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Time for a request head to arrive, and longest silence within a request body.
pub const CLIENT_PATIENCE_DEFAULT: Duration = Duration::from_secs(20);
/// A peer that takes nothing of a response is waited for this many times as long.
pub const READER_PATIENCE_FACTOR: u32 = 3;
/// Bytes that such a peer has to take in that time.
pub const READER_BYTES_MIN: u64 = 256 << 10;
/// Bytes a second that a request body must come at, once it has had the client's patience.
pub const BODY_PACE_MIN: u64 = 128 << 10;
/// Bytes of request bodies that may be in memory before their requests have ended, together.
pub const BODY_MEMORY_BYTES_DEFAULT: u64 = 512 * MIB;
/// Least of them: any one body has room in three quarters of it.
pub const BODY_MEMORY_BYTES_MIN: u64 = 128 * MIB;
/// Bytes of responses that wait to be written, together.
pub const RESPONSE_MEMORY_BYTES_DEFAULT: u64 = 512 * MIB;
/// Least of them: any one response has room in three quarters of it.
pub const RESPONSE_MEMORY_BYTES_MIN: u64 = 128 * MIB;
/// Of the memory budget, the parts that bodies of requests, responses and logs have by default, when that is less.
pub const BODY_MEMORY_PART: u64 = 4;
/// See [`BODY_MEMORY_PART`].
pub const RESPONSE_MEMORY_PART: u64 = 4;
/// See [`BODY_MEMORY_PART`].
pub const LOG_MEMORY_PART: u64 = 8;
/// Least memory for logs by default.
pub const LOG_MEMORY_BYTES_MIN: u64 = 16 * MIB;
/// A smaller response is counted only while its reader makes it wait.
pub const RESPONSE_COUNTED_BYTES_MIN: usize = 64 << 10;
/// What a connection with a reader that makes it wait counts for, beside a large response: buffers, and what was
/// taken of a stream.
pub const RESPONSE_STALLED_BYTES: usize = 256 << 10;
/// Room for a response below which no function is begun: its result may have that much.
pub const RESPONSE_ROOM_MIN: u64 = PAYLOAD_BYTES_MAX;
/// Longest wait for room for a response. The slowest readers are cut off meanwhile.
pub const RESPONSE_ROOM_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of responses that may wait for room; beyond that they are dropped at once.
pub const RESPONSE_WAITING_BYTES_MAX: u64 = 32 * MIB;
/// A reader that made its response wait for less is not cut off for the sake of others.
pub const READER_GRACE: Duration = Duration::from_secs(1);
/// Bytes of a response that the kernel takes beyond what its client has room for (tcp(7), `TCP_NOTSENT_LOWAT`).
pub const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// Longest wait for room for more of a body.
pub const BODY_ROOM_PATIENCE: Duration = Duration::from_secs(10);
/// Open connections.
pub const CONNECTIONS_DEFAULT: usize = 8_192;
/// Most open connections.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Connections beyond those, for questions of whoever looks after the server.
pub const CONNECTIONS_RESERVED: usize = 64;
/// Of them, those from one address.
pub const CONNECTIONS_RESERVED_EACH: usize = 8;
/// Longest patience with them.
pub const CONNECTIONS_RESERVED_PATIENCE: Duration = Duration::from_secs(2);
/// Functions of one page of a list.
pub const PAGE_DEFAULT: usize = 50;
/// Largest page of a list.
pub const PAGE_MAX: usize = 1_000;

// ---- per function -----------------------------------------------------------------------------

/// Memory of one instance: linear memories and tables together.
pub const MEMORY_BYTES_DEFAULT: u64 = 128 * MIB;
/// One wasm page.
pub const MEMORY_BYTES_MIN: u64 = 64 << 10;
/// Lambda's largest.
pub const MEMORY_BYTES_MAX: u64 = 10_240 * MIB;
/// Wall-clock time of one invocation, instantiation included.
pub const TIMEOUT_MS_DEFAULT: u64 = 3_000;
/// Shortest timeout.
pub const TIMEOUT_MS_MIN: u64 = 1;
/// Longest timeout (Lambda: 15 minutes); also bounds CPU time.
pub const TIMEOUT_MS_MAX: u64 = 900_000;
/// Payload of one invocation, each way (Lambda: 6 MB).
pub const PAYLOAD_BYTES_DEFAULT: u64 = 6 * MIB;
/// Smallest payload limit.
pub const PAYLOAD_BYTES_MIN: u64 = 1;
/// Largest payload limit of a buffered invocation.
pub const PAYLOAD_BYTES_MAX: u64 = 6 * MIB;
/// What Lambda allows a response beyond [`PAYLOAD_BYTES_MAX`] (recorded from AWS, 2025-11).
pub const RESPONSE_BYTES_EXTRA: u64 = 100;
/// Bytes of a function's error that are kept: type, message and stack together. Escaping makes at
/// most six times as much, and a response stream escapes that once more.
pub const ERROR_BYTES_MAX: usize = 32 << 10;
/// Of them, those of its type.
pub const ERROR_TYPE_BYTES_MAX: usize = 1 << 10;
/// Bytes of the message of a refusal: it may repeat what was sent.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Log output of one invocation.
pub const LOG_BYTES_DEFAULT: u64 = 256 << 10;
/// Largest log output of one invocation.
pub const LOG_BYTES_MAX: u64 = 6 * MIB;
/// Concurrent instances of all functions together (Lambda: 1,000).
pub const CONCURRENCY_DEFAULT: u32 = 1_000;
/// Most concurrent instances of one function, and of all of them.
pub const CONCURRENCY_MAX: u32 = 4_000;
/// Concurrency that reservations leave to the other functions (Lambda: 100); with a small account,
/// a tenth of its.
pub const UNRESERVED_MIN: u32 = 100;
/// Invocations waiting for an instance.
pub const QUEUE_COUNT_DEFAULT: u32 = 1_000;
/// Most invocations waiting for an instance.
pub const QUEUE_COUNT_MAX: u32 = 100_000;
/// Payload bytes waiting for an instance.
pub const QUEUE_BYTES_MAX: u64 = 64 * MIB;
/// Longest wait for an instance.
pub const QUEUE_AGE_MAX: Duration = Duration::from_secs(10);

// ---- asynchronous invocations -----------------------------------------------------------------

/// Bytes of an asynchronous event (Lambda: 1 MB).
pub const EVENT_BYTES_MAX: u64 = MIB;
/// Attempts after the first one (Lambda: 2).
pub const EVENT_RETRIES_DEFAULT: u32 = 2;
/// Most attempts after the first one (Lambda: 2).
pub const EVENT_RETRIES_MAX: u32 = 2;
/// Seconds after which an event is given up (Lambda: 6 hours).
pub const EVENT_AGE_DEFAULT_S: u64 = 21_600;
/// Shortest such time.
pub const EVENT_AGE_MIN_S: u64 = 60;
/// Longest such time.
pub const EVENT_AGE_MAX_S: u64 = 21_600;
/// Events that wait for one function.
pub const EVENTS_MAX: u64 = 2_000_000;
/// Bytes of the events that wait for one function.
pub const EVENTS_BYTES_MAX: u64 = 4 << 30;
/// Bytes of all queues together, dead letters included, beyond which no event is taken.
pub const EVENT_STORAGE_BYTES_DEFAULT: u64 = 64 << 30;
/// Letters of a dead-letter queue, or messages of a user's queue.
pub const LETTERS_MAX: u64 = 1_000_000;
/// Their bytes.
pub const LETTERS_BYTES_MAX: u64 = 1 << 30;
/// How long they are kept (SQS: 14 days at most).
pub const LETTER_AGE: Duration = Duration::from_secs(14 * 86_400);
/// Length of an idempotency key.
pub const IDEMPOTENCY_KEY_MAX: usize = 256;
/// How long an idempotency key is remembered (SQS: 5 minutes).
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(300);
/// Bytes of a result that is kept with an outcome.
pub const RESULT_KEPT_BYTES_MAX: usize = 256 << 10;
/// Characters of an attempt's error, type and message each, that are kept.
pub const ERROR_CHARS_MAX: usize = 1_024;
/// Bytes of one lease.
pub const LEASE_BYTES_MAX: u64 = 4 * MIB;
/// Bytes of all leased events together.
pub const LEASED_BYTES_MAX: u64 = 128 * MIB;
/// Attempts that are kept in detail.
pub const ATTEMPTS_KEPT: usize = 20;
/// Outcomes that are kept.
pub const OUTCOMES_MAX: u64 = 1_000_000;
/// Their bytes.
pub const OUTCOMES_BYTES_MAX: u64 = 1 << 30;
/// Times that an event may lose its worker: a server that was killed, mostly.
pub const LOST_MAX: u32 = 5;
/// Messages of one redrive.
pub const REDRIVE_MAX: usize = 100_000;

// ---- what stands around a function ------------------------------------------------------------

/// Aliases of one function.
pub const ALIASES_MAX: usize = 500;
/// Published versions of one function that are kept at once.
pub const VERSIONS_MAX: usize = 1_000;
/// Tags of one function (Lambda: 50).
pub const TAGS_MAX: usize = 50;
/// Bytes of a function's policy (Lambda: 20 KB).
pub const POLICY_BYTES_MAX: usize = 20_480;
/// Bytes of an IAM policy or trust policy (IAM: 6,144 and 2,048 to 8,192, white space not counted).
pub const IAM_POLICY_BYTES_MAX: usize = 10_240;
/// Bytes of an action that a policy is asked about.
pub const POLICY_ACTION_BYTES_MAX: usize = wambda_policy::ACTION_BYTES_MAX;
/// Bytes of a resource that a policy is asked about, and of each fact that its conditions are (ARNs
/// of AWS: 2,048).
pub const POLICY_TEXT_BYTES_MAX: usize = wambda_policy::TEXT_BYTES_MAX;
/// Statements of one policy.
pub const POLICY_STATEMENTS_MAX: usize = wambda_policy::STATEMENTS_MAX;
/// Bytes of log messages times words of the pattern that one request filters them with; the next
/// page goes on from there.
pub const FILTER_WORK_MAX: usize = 8 << 20;
/// Longest that a response which goes on for long is sent without asking again whether its caller
/// may still have it.
pub const STREAM_RECHECK: Duration = Duration::from_secs(2);
/// Names of hosts that an operator can allow.
pub const ALLOWED_HOSTS_MAX: usize = 64;
/// Bytes of uploads, of what they are unpacked and compiled to, and of layers (Lambda: 75 GB, lately 300).
pub const CODE_STORAGE_BYTES_DEFAULT: u64 = 75 << 30;
/// Layers of one function (Lambda: 5).
pub const LAYERS_MAX: usize = 5;
/// Inflated bytes of a function's layers together (Lambda: 250 MB with the code).
pub const LAYERS_BYTES_MAX: u64 = 262_144_000;
/// Bytes of the largest file that a core module may have in its layers.
pub const PREVIEW_1_FILE_BYTES_MAX: u64 = 8 << 20;
/// Files of one layer.
pub const LAYER_FILES_MAX: usize = 10_000;
/// Longest an upload is waited for, before its function is said to be pending.
pub const PENDING_PATIENCE: Duration = Duration::from_secs(5);
/// Invocations in a row of one function by way of another one (Lambda: 16).
pub const RECURSION_MAX: u32 = 16;
/// Samples that a rollback rule looks at, for each version.
pub const ROLLBACK_SAMPLES_MAX: usize = 10_000;
/// Shortest window of a rollback rule.
pub const ROLLBACK_WINDOW_MS_MIN: u64 = 1_000;
/// Longest window of a rollback rule.
pub const ROLLBACK_WINDOW_MS_MAX: u64 = 3_600_000;
/// Minutes of measurements that are kept of a function: three hours.
pub const SERIES_MINUTES_MAX: usize = 180;
/// Users, and roles, and policies.
pub const IDENTITIES_MAX: usize = 5_000;
/// Access keys of one user (IAM: 2).
pub const ACCESS_KEYS_MAX: usize = 2;
/// Policies attached to one user or role, and written into it, each (IAM: 10 attached).
pub const POLICIES_MAX: usize = 20;

// ---- instances --------------------------------------------------------------------------------

/// Memory of an instance that is called on the threads that answer; with more of it, or when it may have more and nothing
/// is known of it, it is called on the long-run threads. Filling this much takes a fifth of a second.
pub const INLINE_MEMORY_BYTES_MAX: u64 = 128 * MIB;

/// Longest that a call waits for instances that are on their way, when it finds no memory or no slot for its own: some are
/// being given back, or made ahead of time.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);

/// Invocations after which a warm instance is replaced.
pub const INSTANCE_USES_MAX: u32 = 1_000_000;
/// Age at which a warm instance is replaced.
pub const INSTANCE_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Instances alive at once, idle ones included.
pub const SLOTS_DEFAULT: u32 = 4_096;
/// Fewest that a server works with.
pub const SLOTS_MIN: u32 = 8;
/// Most that the address space of a process has room for, 4 GiB and its guard each.
pub const SLOTS_MAX: u32 = 30_000;
/// Core instances of one store.
pub const STORE_INSTANCES_MAX: usize = 64;
/// Linear memories of one store.
pub const STORE_MEMORIES_MAX: usize = 8;
/// Tables of one store.
pub const STORE_TABLES_MAX: usize = 32;
/// Bytes one table element counts for.
pub const TABLE_ELEMENT_BYTES: u64 = 8;
/// Bytes one host call may copy out of a guest: both payloads' worth.
pub const HOSTCALL_BYTES_MAX: usize = 12 << 20;
/// Component handles of one instance.
pub const HANDLES_MAX: usize = 4_096;
/// Host resources (streams, pollables, fields) of one instance.
pub const RESOURCES_MAX: usize = 1_024;
/// The same of a core module: two for each timer that it polls, of some hundred bytes each.
pub const PREVIEW_1_RESOURCES_MAX: usize = 32_768;
/// The same of one that has layers: a stream of a file may hold 64 KiB that were read ahead.
pub const RESOURCES_WITH_FILES_MAX: usize = 192;
/// Directories that an instance may be listing at once, and what their listings may take together: the host makes each
/// whole. One is always allowed.
pub const LISTINGS_MAX: u32 = 64;
/// See [`LISTINGS_MAX`].
pub const LISTINGS_BYTES_MAX: u64 = 3 << 20;
/// Bytes of one `get-random-bytes`.
pub const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// Bytes of the header fields a guest may build.
pub const FIELDS_BYTES_MAX: usize = 32 << 10;
/// Bytes of one chunk of a guest's outgoing body.
pub const BODY_CHUNK_BYTES_MAX: usize = 64 << 10;
/// Bytes of a streamed HTTP response (Lambda: 200 MB).
pub const STREAM_BYTES_MAX: u64 = 200 * MIB;
/// Bytes of one log line; longer ones are split.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// Log lines kept for one function.
pub const LOG_RING_LINES: usize = 4_096;
/// Log bytes kept for one function.
pub const LOG_RING_BYTES: usize = 1 << 20;
/// Log bytes kept for all functions together; those that have logged have equal parts of it.
pub const LOG_MEMORY_BYTES_DEFAULT: u64 = 256 * MIB;
/// Tail of the log that `X-Amz-Log-Result` carries.
pub const LOG_TAIL_BYTES: usize = 4_096;
/// Stack of one guest.
pub const WASM_STACK_BYTES: usize = 512 << 10;
/// Stack of the fiber a guest runs on; the rest is for host functions.
pub const FIBER_STACK_BYTES: usize = 2 << 20;
/// Period of the pre-emption tick.
pub const EPOCH_TICK: Duration = Duration::from_millis(2);

// ---- outgoing requests ------------------------------------------------------------------------

/// Outgoing connections of one invocation at once.
pub const EGRESS_INSTANCE_CONNECTIONS_MAX: usize = 16;
/// Outgoing connections of one function at once.
pub const EGRESS_FUNCTION_CONNECTIONS_MAX: usize = 256;
/// Outgoing connections of all functions at once.
pub const EGRESS_CONNECTIONS_MAX: usize = 1_024;
/// Bytes of bodies that one invocation may send, and that it may receive.
pub const EGRESS_BYTES_MAX: u64 = 64 * MIB;
/// Bytes of the head of a response.
pub const EGRESS_HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest time for a name, a connection, a response's head, and between two parts of a body.
pub const EGRESS_PATIENCE_DEFAULT: Duration = Duration::from_secs(10);
/// The same, of calls to the platform itself, but for what the server itself waits: as long as a function may take.
pub const INSIDE_PATIENCE: Duration = Duration::from_millis(TIMEOUT_MS_MAX);
/// The access key that stands for its execution role in a function's environment. It is good for nothing anywhere else.
pub const INSIDE_ACCESS_KEY: &str = "ASIAEXECUTIONROLE000";
/// Bytes that are on their way, each way, between a function and the platform that it calls.
pub const INSIDE_BUFFER_BYTES: usize = 64 << 10;

// ---- compilation ------------------------------------------------------------------------------

/// CPU seconds of one compilation (Python components take 15–25, Ruby up to 64).
pub const COMPILE_CPU_SECONDS: u64 = 120;
/// CPU seconds for unpacking an upload and saying what it is.
pub const INSPECT_CPU_SECONDS: u64 = 20;
/// Largest core module that is looked at in the server; anything else is looked at in a child process.
pub const INSPECT_IN_PLACE_BYTES_MAX: usize = 64 << 10;
/// Uploads that are known not to compile, and as many that are known not to be one.
pub const FAILURES_MAX: u64 = 1_000;
/// How long that is remembered.
pub const FAILURES_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Wall-clock time of one compilation, or inspection.
pub const COMPILE_WALL_DEFAULT: Duration = Duration::from_secs(300);
/// Address space of the compiling child.
pub const COMPILE_ADDRESS_BYTES: u64 = 3 << 30;
/// Compilations waiting for the compiler; beyond them, up to as many again, one of each who has none there.
pub const COMPILE_QUEUE_MAX: usize = 32;
/// Their bytes, as long as there is more than one.
pub const COMPILE_QUEUE_BYTES_MAX: u64 = 256 * MIB;
/// Of them, those of one uploader.
pub const COMPILE_QUEUE_EACH_BYTES_MAX: u64 = 128 * MIB;
/// Bytes of wasm, unpacked from zips or written as text, that may be in memory while their uploads are published.
pub const UNPACKED_BYTES_MAX: u64 = 112 * MIB;
/// Longest wait for the compiler.
pub const COMPILE_QUEUE_AGE_MAX: Duration = Duration::from_secs(7_200);
/// Of them, those of one uploader.
pub const COMPILE_QUEUE_EACH_MAX: usize = 16;
/// Functions of one module.
pub const MODULE_FUNCTIONS_MAX: u32 = 200_000;
/// Bytes of one function body.
pub const FUNCTION_BODY_BYTES_MAX: usize = 1 << 20;
/// Locals of a function times its loop nesting (100 loops over 1,000 locals cost 59 CPU-seconds).
pub const LOCALS_TIMES_LOOPS_MAX: u64 = 20_000;
/// Locals of a function times its `if`s.
pub const LOCALS_TIMES_IFS_MAX: u64 = 10_000_000;

// ---- process ----------------------------------------------------------------------------------

/// Functions with a metrics label of their own; the rest share `_other`.
pub const METRIC_FUNCTIONS_MAX: usize = 2_000;
/// After which a poll of a guest that has not come back is told of. Filling the largest memory takes half of it.
pub const STUCK_AFTER_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest such time.
pub const STUCK_AFTER_MIN: Duration = Duration::from_millis(10);
/// Time between the end of readiness and the cancellation of what still runs.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(30);
/// Bytes of strangers over which a thread that answers works in one go: escaping as many takes a
/// third of a millisecond. What is larger goes to the work threads.
pub const INLINE_WORK_BYTES_MAX: usize = 64 << 10;
/// A larger body is read into values alone: they take as much memory again.
pub const READ_BESIDE_BYTES_MAX: usize = 1 << 20;
/// Pieces of such work of one subscriber at once on the work threads; the next ones wait.
pub const WORK_EACH_MAX: usize = 2;
/// CPU time of one piece of the server's own work on a thread that answers, beyond which it is told
/// of: twice what is promised, because it is measured by the kernel's ticks. Code that is not
/// optimized takes several times as long.
pub const POLL_CPU_MAX: Duration =
    Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 10 });
/// Threads for what blocks: disks, checks of large uploads. What waits for one is bounded by who asked for it: a
/// connection waits for one at a time, and a guest's files are few.
pub const BLOCKING_THREADS_MAX: usize = 64;
/// A function has at most so many of so many parts of the memory budget, and of the instance slots.
pub const SHARE_PARTS: (u64, u64) = (3, 4);
/// Fewest bytes of a free slot that stay in memory.
pub const SLOT_RESIDENT_BYTES_MIN: u64 = 64 << 10;
/// Most bytes of a free slot that stay in memory.
pub const SLOT_RESIDENT_BYTES_MAX: u64 = 4 * MIB;
/// Slots of the engine for WASI 0.3.
pub const CONCURRENT_SLOTS_MAX: u32 = 512;
/// Layers that are unpacked at a time.
pub const LAYERS_UNPACKING_MAX: usize = 4;
/// Longest wait for that.
pub const LAYERS_UNPACKING_PATIENCE: Duration = Duration::from_secs(10);
/// Length of a file's path within a layer.
pub const LAYER_PATH_BYTES_MAX: usize = 1_024;
/// Its parts.
pub const LAYER_PATH_DEPTH_MAX: usize = 32;
/// Length of each of them: what Linux's file systems take.
pub const LAYER_NAME_BYTES_MAX: usize = 255;
/// Bytes that one write of a guest to its output may carry.
pub const LOG_WRITE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a body that nobody reads which are taken off the wire all the same.
pub const DISCARD_BYTES_MAX: u64 = 64 * MIB;
/// How long that is done.
pub const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);
/// Addresses of a host that are tried.
pub const EGRESS_ADDRESSES_MAX: usize = 8;
/// How long each.
pub const EGRESS_ADDRESS_PATIENCE: Duration = Duration::from_secs(3);
/// Days that what the server took for unused is kept in the trash.
pub const TRASH_DAYS: i32 = 7;
/// Time between a start and the look for what nothing refers to.
pub const SWEEP_DELAY: Duration = Duration::from_secs(60);
/// Time between two such looks.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of a store's file up to which every page is verified at the start.
pub const VERIFY_BYTES_MAX: u64 = 256 * MIB;
