//! Characters of URIs (RFC 3986).

/// Whether the escaped byte and the raw byte mean the same (RFC 3986, 2.3).
pub(super) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
