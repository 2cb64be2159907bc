//! The bytes of a resource: one piece, or many pieces for a large one.
//!
//! A RouteConfiguration of a hundred thousand routes has tens of megabytes, of which a change alters a few hundred
//! bytes. Its versions share runs of pieces. A change makes one new piece, the list of its run and the list of runs;
//! nothing copies the rest, not even on the way to the wire. Two bodies are equal if their bytes are, whatever the
//! pieces are.

use bytes::Bytes;
use std::sync::Arc;

/// An encoded message. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Body(Pieces);

#[derive(Debug, Clone)]
enum Pieces {
    One(Bytes),
    Many { runs: Arc<[Run]>, len: usize },
}

/// Pieces that versions share together. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl FromIterator<Bytes> for Run {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let pieces: Arc<[Bytes]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self {
            len: pieces.iter().map(Bytes::len).sum(),
            pieces,
        }
    }
}

impl Body {
    /// Pieces, one after the other.
    #[must_use]
    pub fn of_pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let run: Run = pieces.into_iter().collect();
        match &*run.pieces {
            [] => Self::from(Bytes::new()),
            [one] => Self::from(one.clone()),
            _ => Self::of_runs([run]),
        }
    }

    /// Runs of pieces, one after the other.
    #[must_use]
    pub fn of_runs(runs: impl IntoIterator<Item = Run>) -> Self {
        let runs: Arc<[Run]> = runs.into_iter().collect();
        Self(Pieces::Many {
            len: runs.iter().map(|run| run.len).sum(),
            runs,
        })
    }

    /// The number of bytes.
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
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        let (one, runs) = match &self.0 {
            Pieces::One(bytes) => (Some(bytes), &[][..]),
            Pieces::Many { runs, .. } => (None, &**runs),
        };
        one.into_iter().chain(runs.iter().flat_map(|run| run.pieces.iter()))
    }

    /// All bytes in one piece; copied if there are several pieces.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Pieces::One(bytes) => bytes.clone(),
            Pieces::Many { len, .. } => {
                let mut bytes = Vec::with_capacity(*len);
                self.pieces().for_each(|piece| bytes.extend_from_slice(piece));
                bytes.into()
            }
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
        self.len() == other.len() && self.to_bytes() == other.to_bytes()
    }
}

impl Eq for Body {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_is_cut_it_is_the_same() {
        let run = |pieces: &[&'static str]| pieces.iter().map(|piece| Bytes::from(*piece)).collect::<Run>();
        let cut = Body::of_runs([run(&["ab", "", "c"]), run(&[]), run(&["d"])]);
        assert_eq!(
            (cut.pieces().count(), cut.len(), &*cut.to_bytes()),
            (3, 4, &b"abcd"[..])
        );
        assert_eq!(cut, Body::from("abcd"));
        assert_ne!(cut, Body::from("abce"));
        assert_eq!(Body::of_pieces([Bytes::from("a")]).pieces().count(), 1);
        assert!(Body::of_pieces([]).is_empty());
    }
}
