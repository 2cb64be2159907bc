//! Stage 7, one session per stream.
