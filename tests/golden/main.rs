//! Golden tests: documents in, resources out.
