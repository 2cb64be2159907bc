//! GR: the rules below xDS, of HTTP/2 and gRPC.
//!
//! | module | subject |
//! |---|---|
//! | `raw` | a client connection that shows frames, flags and trailers |
//! | `connections` | connections, streams and their ends |
//! | `sizes` | large responses, many streams, slow readers |
//! | `services` | methods and status codes |
//! | `malformed` | invalid input |
//! | `hostile`, `frames` | attacks below gRPC, with frames written by hand |

pub(crate) mod connections;
pub(crate) mod frames;
pub(crate) mod hostile;
pub(crate) mod malformed;
pub(crate) mod raw;
pub(crate) mod services;
pub(crate) mod sizes;

/// Held by the rules that fill the machine, so that they do so one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
