//! Nonces: the stream of a response, and its number on that stream.

use std::fmt;

/// A response's nonce. Shape on the wire: the stream's salt in 8 hex digits, `-`, the number; for example `00c0ffee-3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce {
    salt: u32,
    sequence: u64,
}

impl Nonce {
    /// The nonce of a response on the stream with this salt.
    #[must_use]
    pub fn new(salt: u32, sequence: u64) -> Self {
        Self { salt, sequence }
    }

    /// The number of the response, if the text is a nonce of the stream with this salt.
    #[must_use]
    pub fn sequence_of(text: &str, salt: u32) -> Option<u64> {
        let (prefix, sequence) = text.split_once('-')?;
        // Only the exact text that was sent: `+1` and upper-case digits are other texts with an equal number.
        let hex = prefix.len() == 8 && prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let digits = sequence.bytes().all(|byte| byte.is_ascii_digit());
        if hex && digits && u32::from_str_radix(prefix, 16) == Ok(salt) {
            sequence.parse().ok()
        } else {
            None
        }
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}-{}", self.salt, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_valid_on_its_own_stream_only() {
        let text = Nonce::new(0xc0_ffee, 17).to_string();
        assert_eq!(text, "00c0ffee-17");
        assert_eq!(Nonce::sequence_of(&text, 0xc0_ffee), Some(17));
        assert_eq!(Nonce::sequence_of(&text, 0xc0_ffed), None);
        for other in [
            "",
            "17",
            "-17",
            "00c0ffee",
            "00c0ffee-",
            "c0ffee-17",
            "00c0ffee-+1",
            "00c0ffee-x",
            "+0c0ffee-1",
            "00C0FFEE-17",
        ] {
            assert_eq!(Nonce::sequence_of(other, 0xc0_ffee), None, "{other}");
        }
    }
}
