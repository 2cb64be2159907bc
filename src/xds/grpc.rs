//! The sizes of gRPC: of its framing, of requests to this port, and of responses to gRPC libraries.

/// Compression flag and length before each message.
pub(in crate::xds) const HEADER: usize = 5;
/// The largest xDS request, in bytes: a hundred thousand names take 10 MB.
pub(in crate::xds) const REQUEST_MAX: usize = 64 * 1024 * 1024;
/// The largest load report, in bytes: fifty thousand clusters of a few localities.
pub(in crate::xds) const LOAD_REPORT_MAX: usize = 16 * 1024 * 1024;
/// The largest request to another small service, in bytes: a hundred matchers with room for their texts.
pub(in crate::xds) const SERVICE_REQUEST_MAX: usize = 64 * 1024;

/// The largest message that a gRPC library accepts, unless told otherwise, in bytes (docs/xds-rules.md GR-03).
pub(in crate::xds) const LIBRARY_MAX: usize = 4 * 1024 * 1024;
/// Responses to a gRPC library that are larger than this, in bytes, are logged.
pub(in crate::xds) const LIBRARY_LARGE: usize = 3_000_000;
/// The size of a response to a gRPC library, in bytes, where the response may be split: below [`LIBRARY_LARGE`].
pub(in crate::xds) const LIBRARY_PART: usize = 2_900_000;
/// The size at which a message of client status is sent, in bytes: half of [`LIBRARY_MAX`].
pub(in crate::xds) const STATUS_PART: usize = 2 * 1024 * 1024;
/// The largest answer of `FetchClientStatus`, in bytes.
pub(in crate::xds) const STATUS_MAX: usize = 32 * 1024 * 1024;
