//! The bytes of a resource: mostly one piece, of a large one many.
//!
//! A RouteConfiguration of a hundred thousand routes is tens of megabytes, of which a change alters a few hundred bytes. It
//! is kept in pieces that versions of it share: a change makes one piece anew and the list of pieces, and nothing copies the
//! rest, not even on the way to the wire. Equal when the bytes are, however they are cut. Pure.

use bytes::Bytes;
use std::sync::Arc;

/// An encoded message. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Body(Pieces);

#[derive(Debug, Clone)]
enum Pieces {
    One(Bytes),
    Many { pieces: Arc<[Bytes]>, len: usize },
}

impl Body {
    /// Pieces, one after the other.
    #[must_use]
    pub fn of_pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: Arc<[Bytes]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        match &*pieces {
            [] => Self::from(Bytes::new()),
            [one] => Self::from(one.clone()),
            many => Self(Pieces::Many { len: many.iter().map(Bytes::len).sum(), pieces }),
        }
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Pieces::One(bytes) => bytes.len(),
            Pieces::Many { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        match &self.0 {
            Pieces::One(bytes) => std::slice::from_ref(bytes),
            Pieces::Many { pieces, .. } => pieces,
        }
    }

    /// All in one piece; copies where there are many.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Pieces::One(bytes) => bytes.clone(),
            Pieces::Many { pieces, .. } => pieces.concat().into(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Pieces::One(bytes.into()))
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |body: &Self| body.pieces().iter().flatten().copied().collect::<Vec<u8>>();
        self.len() == other.len() && bytes(self) == bytes(other)
    }
}

impl Eq for Body {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_is_cut_it_is_the_same() {
        let cut = Body::of_pieces([&b"ab"[..], b"", b"c"].map(Bytes::from));
        assert_eq!((cut.pieces().len(), cut.len(), &*cut.to_bytes()), (2, 3, &b"abc"[..]));
        assert_eq!(cut, Body::from("abc"));
        assert_ne!(cut, Body::from("abd"));
        assert!(Body::of_pieces([]).is_empty());
    }
}
